"""Which entries of an array are wrong, in words: the simplest description that is exactly true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reference.format import Floats, Integers
    from reference.graph import Shape

    Mask = np.ndarray[Shape, np.dtype[np.bool_]]

LONGEST_STEP = 64
"""The longest step that a set of rows or columns is compared with: kernels have blocks and warps up to about that."""

BLOCKS = (64, 32, 16, 8, 4)
"""The sizes of blocks that a set of rows or columns is compared with, the largest first, since it says most."""

MOST_LISTED = 6
"""Rows or columns that are listed one by one. The number is arbitrary."""

FEWEST = 3
"""Entries of which a threshold is said: of fewer there is one by accident. The number is arbitrary."""


def described(wrong: Mask, inputs: Mapping[str, Floats]) -> str:
    """Describe the entries that are wrong, of which there is one at least; nothing where they have no simple pattern.

    `inputs` has tensors by name; those in the shape of the array, or that broadcast to it, may tell the wrong entries
    from the right ones: by zeros, by ties, by their sign or by a threshold.
    """
    if wrong.all():
        return "all of them"
    # The order is that of how much a description says: a cause in the values, a range, a shape, and then a list.
    exact = _by_values(wrong, inputs)
    if exact:
        return exact
    box = [np.unique(indices) for indices in np.nonzero(wrong)]
    is_box = wrong[np.ix_(*box)].all()  # whether all that have a wrong entry in each axis are wrong
    said = " of ".join(reversed([*_restricted(box, wrong.shape)]))
    if is_box and wrong.ndim and _is_plain(box):
        return said
    for words in (_by_diagonal(wrong), _by_size(wrong, inputs)):
        if words:
            return words
    if is_box:
        return said
    # an axis of which most places have a wrong entry says nothing
    few = [at if 2 * len(at) <= length else np.arange(length) for at, length in zip(box, wrong.shape, strict=True)]
    said, count = " of ".join(reversed([*_restricted(few, wrong.shape)])), int(np.prod([len(at) for at in few]))
    return f"{int(wrong.sum()):,} of the {count:,} in {said}" if said else ""


def labelled(wrong: Mask, contexts: Mapping[str, Any]) -> str:
    """Say which label the wrong rows have, and no other; nothing where none tells them.

    `contexts` has arrays by name, of which those of integers or truths with an element for each row count.
    """
    for name, labels in contexts.items():
        rows = wrong.reshape(*labels.shape, -1) if _is_labelling(labels, wrong.shape) else None
        if rows is None or not (rows.all(-1) == rows.any(-1)).all():
            continue
        for label in np.unique(labels[rows.any(-1)]):
            if np.array_equal(labels == label, rows.any(-1)):
                return f"those where {name} is {label}"
    return ""


def _is_labelling(values: Any, shape: Shape) -> bool:
    """Say whether values are labels, one for each row of an array or each of its first axes."""
    is_array = isinstance(values, np.ndarray) and values.dtype.kind in "iub" and values.ndim > 0
    return is_array and values.shape == shape[: values.ndim]


def _is_plain(box: list[Integers]) -> bool:
    """Say whether each axis of a box is a range: a list of numbers would say less than a cause that is looked for."""
    return all(at[-1] - at[0] + 1 == len(at) for at in box)


def _restricted(box: list[Integers], shape: Shape) -> Iterator[str]:
    """Describe a box by each axis that it does not have the whole of."""
    names = ["axis " + str(axis) for axis in range(len(shape))]
    # the last two axes are rows and columns, and the one axis of a vector has elements
    names[-2:] = ["row", "column"][-len(shape) :] if len(shape) > 1 else ["element"]
    for at, length, name in zip(box, shape, names, strict=True):
        if len(at) < length:
            yield chosen(at, length, name)


def chosen(at: Integers, length: int, name: str) -> str:
    """Describe some of the numbers below a length, which are sorted: one at least, and not all.

    `name` is what they number: row, column, element, or an axis with its number.
    """
    first, last, count = int(at[0]), int(at[-1]), len(at)
    many = f"{name}s" if not name.startswith("axis") else f"places along {name}"
    one = name if not name.startswith("axis") else f"place along {name}"
    if count == 1:
        place = "the last of " + f"{length:,}" if last == length - 1 else f"of {length:,}"
        return f"{one} {first}, {place}"
    if last - first + 1 == count:
        if last == length - 1:
            return f"{many} {first} on, the last {count:,}"
        return f"the first {count:,} {many}" if first == 0 else f"{many} {first} to {last}"
    if count == length - 1:
        (missing,) = np.setdiff1d(np.arange(length), at)
        return f"all {many} but {missing}"
    for step in range(2, LONGEST_STEP + 1):
        if count > 2 and np.array_equal(at, np.arange(first, length, step)) and first < step:
            return f"every {_ordinal(step)} {one} from {first} on"
    for size in BLOCKS:
        blocks = np.unique(at // size)
        every = np.concatenate([_block(b, size, length) for b in blocks])
        if count > size and np.array_equal(at, every):
            return f"blocks {_listed(blocks)} of {size} {many}"
    return f"{many} {_listed(at)}"


def _block(number: int, size: int, length: int) -> Integers:
    return np.arange(number * size, min((number + 1) * size, length))


def _listed(numbers: Integers) -> str:
    shown = ", ".join(map(str, numbers[:MOST_LISTED].tolist()))
    return shown if len(numbers) <= MOST_LISTED else f"{shown}, ... ({len(numbers):,} of them)"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _by_diagonal(wrong: Mask) -> str | None:
    """Describe the entries by the diagonal of the last two axes; None where it does not tell them."""
    if wrong.ndim < 2 or min(wrong.shape[-2:]) < 2:
        return None
    row, column = np.indices(wrong.shape[-2:])
    places = {
        "on the diagonal": row == column,
        "off the diagonal": row != column,
        "above the diagonal": row < column,
        "below the diagonal": row > column,
        "on or above the diagonal": row <= column,
        "on or below the diagonal": row >= column,
    }
    return next((f"those {said}" for said, mask in places.items() if (wrong == mask).all()), None)


def _by_values(wrong: Mask, inputs: Mapping[str, Floats]) -> str | None:
    """Describe the entries by zeros and ties of the inputs; None where these do not tell them."""
    fitting = _all_fitted(inputs, wrong.shape)
    tests: dict[str, Any] = {}
    for name, values in fitting.items():
        tests |= {f"{name} is 0": values == 0, f"{name} is not 0": values != 0}
        # `>` has each pair once, in the order of the alphabet
        tests |= {f"{name} equals {other}": values == fitting[other] for other in fitting if other > name}
        if values.shape[-1] > 1:
            tests[f"{name} has its row's largest value more than once"] = _is_tied(values)
    return next((f"those where {said}" for said, mask in tests.items() if np.array_equal(mask, wrong)), None)


def _by_size(wrong: Mask, inputs: Mapping[str, Floats]) -> str | None:
    """Describe the entries by the sign or the magnitude of an input; None where these do not tell them."""
    for name, values in _all_fitted(inputs, wrong.shape).items():
        for sign, mask in (("<", values < 0), (">", values > 0)):
            if np.array_equal(mask, wrong):
                return f"those where {name} {sign} 0"
        if said := _beyond(name, values, wrong):
            return said
    return None


def _all_fitted(inputs: Mapping[str, Floats], shape: Shape) -> dict[str, Floats]:
    """Return the inputs that broadcast to a shape, in that shape, by name."""
    return {name: values for name, given in inputs.items() if (values := _fitted(given, shape)) is not None}


def _fitted(values: Floats, shape: Shape) -> Floats | None:
    """Return values in a shape that they broadcast to; None where they do not."""
    try:
        return np.broadcast_to(values, shape) if values.ndim else None
    except ValueError:
        return None


def _is_tied(values: Floats) -> Mask:
    """Say which elements are the largest of their row where more than one is."""
    largest = values == values.max(-1, keepdims=True)
    tied: Mask = largest & (largest.sum(-1, keepdims=True) > 1)
    return tied


def _beyond(name: str, values: Floats, wrong: Mask) -> str | None:
    """Say from which magnitude on, or up to which, entries are wrong, where one threshold parts them."""
    if min(int(wrong.sum()), int((~wrong).sum())) < FEWEST:
        return None
    sizes = np.abs(values)
    if sizes[wrong].min() > sizes[~wrong].max():
        return f"those where |{name}| is {sizes[wrong].min():.6g} or more (right up to {sizes[~wrong].max():.6g})"
    if sizes[wrong].max() < sizes[~wrong].min():
        return f"those where |{name}| is {sizes[wrong].max():.6g} or less (right from {sizes[~wrong].min():.6g} on)"
    return None
