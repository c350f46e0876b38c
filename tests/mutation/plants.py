"""Ways for the backward of a tensor op to be wrong, whatever the op: each changes torch's own gradients of a case.

A gradient is linear in its cotangent, so most mutants are torch's own backward of another case: one whose inputs lack
the last element of an axis, or have it twice, one whose cotangent is transposed, or ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reference.case import NARROW
from reference.format import FORMATS
from reference.trace import TraceError
from reference.tree import single
from tests.subject.mode import MODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.case import Case
    from reference.format import Floats, Integers
    from reference.graph import Shape
    from reference.op import Op

Gradients = list[torch.Tensor]

Change = Callable[["Case", Gradients], "Gradients | None"]
"""The gradients of a case as a mutant has them, given torch's own, which it may change; None if it cannot."""

ROWS = "rows"
"""The name of the batch axis, which comes in front of the axes that the entry names."""

VECTOR = 8
"""Elements of a vector register, which are eight in float32 with AVX2: what comes after whole ones is the tail."""

TERMS = 64
"""The most partial sums that a sum in the format is made of; on a longer axis neighbours share one.

The number is arbitrary: each partial sum costs a backward, and 64 of them lose enough bits to be noticed.
"""

ROUNDED = 2.0**-40
"""Gradients in float64 that differ by more than this part of their largest entry differ in more than rounding."""

POWERS = {"float64": (8, 12, 16), "float32": (8, 12, 16), "bfloat16": (4, 6, 7)}
"""The k of factors 1 + 2^-k, from a bias that any gradient shows to one near what rounding explains."""

DROPPED, DOUBLED = "last term dropped", "last term counted twice"
TAIL = f"zero in the tail of a block of {VECTOR}"
ACCUMULATED = "accumulated in the format"
AXIS, SWAPPED, ONES = "wrong axis reduced", "gradients of two inputs swapped", "cotangent ignored"


@dataclass(frozen=True)
class Plant:
    """A mutant of one op."""

    kind: str
    where: str
    """The axis or the input that it strikes."""

    change: Change


def plants(op: Op, dtype: str) -> Iterator[Plant]:
    """Yield the mutants of an op in a dtype; some may turn out to change nothing."""
    # An input without a batch is shared by all rows, so that its gradient is a sum over them, of which one can be lost.
    is_shared = any(number >= op.batched for number in op.differentiable)
    axes = [*op.letters, *([ROWS] if op.rows and is_shared else [])]
    for kind, chosen in ((DROPPED, without_last), (DOUBLED, with_last_twice)):
        yield from (Plant(kind, axis, partial(along, axis, chosen)) for axis in axes)
    inputs = [(place, op.inputs[number]) for place, number in enumerate(op.differentiable)]
    yield from (Plant(TAIL, name, partial(tail, place)) for place, name in inputs)
    if FORMATS[dtype].bits <= NARROW:
        yield Plant(ACCUMULATED, "columns of the cotangent", partial(accumulated, -1))
        yield Plant(ACCUMULATED, "rows of the cotangent", partial(accumulated, -2))
    yield from (Plant(f"times 1 + 2^-{k}", "", partial(scaled, 1 + 2.0**-k)) for k in POWERS[dtype])
    yield from (Plant(AXIS, name, partial(wrong_axis, place)) for place, name in inputs)
    for (first, one), (second, other) in combinations(inputs, 2):
        yield Plant(SWAPPED, f"{one}, {other}", partial(swapped, first, second))
    yield Plant(ONES, "", ones)


def sound(case: Case) -> Gradients:
    """Return torch's own gradients."""
    return [gradient for gradient in MODES["backward"].gradients(case, "cpu") if gradient is not None]


def without_last(length: int) -> Integers:
    """Return the indices of an axis without the last."""
    return np.arange(length - 1)


def with_last_twice(length: int) -> Integers:
    """Return the indices of an axis, with the last twice."""
    return np.append(np.arange(length), length - 1)


def along(axis: str, chosen: Callable[[int], Integers], case: Case, gradients: Gradients) -> Gradients | None:
    """Put in the gradients of the case that has other indices along an axis, as far as their shapes overlap.

    It is None where there is no such case.
    """
    other = at_places(case, axis, chosen)
    if other is None:
        return None
    for right, wrong in zip(gradients, sound(other), strict=True):
        # Along the axis itself one is longer; an element that only one of them has keeps torch's own gradient.
        common = tuple(slice(min(lengths)) for lengths in zip(right.shape, wrong.shape, strict=True))
        right[common] = wrong[common]
    return gradients


def at_places(case: Case, axis: str, chosen: Callable[[int], Integers]) -> Case | None:
    """Return the case whose inputs, contexts and cotangent are taken at other indices along an axis.

    It is None where the axis has fewer than two elements, and where the op does not take such inputs.
    """
    op, primals, lengths = case.tree.root.op, [], set()
    for number, (letters, primal) in enumerate(zip(op.axes.split(","), case.primals, strict=True)):
        batch = primal.ndim - len(letters)
        names = [*[ROWS] * (batch if number < op.batched else 0), *letters]
        for place in (place for place, name in enumerate(names) if name == axis):
            lengths.add(primal.shape[place])
            primal = primal.take(chosen(primal.shape[place]), axis=place)  # noqa: PLW2901 - one axis after the other
        primals.append(primal)
    if len(lengths) != 1 or lengths <= {0, 1}:
        return None
    (length,) = lengths
    # A context that is drawn anew for the new shapes only says what shape it must have: its values are not these.
    known = op.context([array.shape for array in case.primals], case.seed)
    due = op.context([array.shape for array in primals], case.seed)
    taken = {name: _taken(array, due[name].shape, chosen) for name, array in known.items()}
    if axis == op.letters[-1]:  # classes, which targets and indices number
        taken = {name: _below(array, len(chosen(length))) for name, array in taken.items()}
    same = replace(op, contexts={name: _constant(array) for name, array in taken.items()})
    shapes = tuple(p.shape[p.ndim - len(leaf.shape) :] for p, leaf in zip(primals, case.tree.leaves, strict=True))
    tree = single(same, shapes)
    batches = [p.shape[: p.ndim - len(shape)] for p, shape in zip(primals, shapes, strict=True)]
    try:
        shape = (*np.broadcast_shapes(*batches), *tree.root.shape)
    except TraceError:
        return None
    cotangent = _taken(case.cotangent, shape, chosen)
    return replace(case, tree=tree, primals=tuple(primals), cotangent=cotangent) if cotangent.shape == shape else None


def _constant(values: Any) -> Callable[..., Any]:
    return lambda *_: values


def _taken(values: Any, shape: Shape, chosen: Callable[[int], Integers]) -> Any:
    """Take other indices along each axis that is to have another length."""
    for place, (have, want) in enumerate(zip(values.shape, shape, strict=True)):
        values = values if have == want else values.take(chosen(have), axis=place)
    return values


def _below(values: Any, length: int) -> Any:
    """Replace numbers beyond an axis by its last; floats and truths are no numbers of elements."""
    return np.minimum(values, length - 1) if values.dtype.kind == "i" else values


def tail(place: int, _: Case, gradients: Gradients) -> Gradients:
    """Leave zeros after the whole vectors of the last axis of one gradient; the tail is never empty."""
    length = gradients[place].shape[-1]
    gradients[place][..., (length - 1) // VECTOR * VECTOR :] = 0
    return gradients


def accumulated(axis: int, case: Case, _: Gradients) -> Gradients | None:
    """Add up the gradients of slices of the cotangent along an axis: each and every sum is rounded to the format.

    It is None where the cotangent has no such axis, or but one slice.
    """
    if case.cotangent.ndim < -axis or case.cotangent.shape[axis] < 2:
        return None
    length = case.cotangent.shape[axis]
    sums: Gradients = []
    for places in np.array_split(np.arange(length), min(length, TERMS)):
        part = np.zeros(case.cotangent.shape)
        np.moveaxis(part, axis, 0)[places] = np.moveaxis(case.cotangent, axis, 0)[places]
        terms = sound(replace(case, cotangent=part))
        sums = [total + term for total, term in zip(sums, terms, strict=True)] if sums else terms
    return sums


def scaled(factor: float, _: Case, gradients: Gradients) -> Gradients:
    """Multiply every gradient in float64, and round."""
    return [(gradient.double() * factor).to(gradient.dtype) for gradient in gradients]


def wrong_axis(place: int, case: Case, gradients: Gradients) -> Gradients | None:
    """Take the gradient by one input with the cotangent transposed, or else that gradient transposed.

    Whichever is taken must be square, so that the shape of the result is right; it is None where neither is.
    """
    if _is_square(case.cotangent):
        transposed = replace(case, cotangent=case.cotangent.swapaxes(-1, -2).copy())
        gradients[place] = sound(transposed)[place]
    elif _is_square(gradients[place]):
        gradients[place] = gradients[place].transpose(-1, -2).contiguous()
    else:
        return None
    return gradients


def _is_square(values: Floats | torch.Tensor) -> bool:
    return values.ndim > 1 and values.shape[-1] == values.shape[-2]


def swapped(first: int, second: int, _: Case, gradients: Gradients) -> Gradients | None:
    """Exchange the gradients of two inputs; it is None where their shapes differ."""
    if gradients[first].shape != gradients[second].shape:
        return None
    gradients[first], gradients[second] = gradients[second], gradients[first]
    return gradients


def ones(case: Case, _: Gradients) -> Gradients:
    """Differentiate as though the cotangent were ones."""
    return sound(replace(case, cotangent=np.ones_like(case.cotangent)))


def is_struck(plant: Plant, case: Case, gradients: Gradients, mutated: Gradients) -> bool:
    """Say whether a mutant changes a finite gradient by more than the order in which torch adds up.

    Such a mutant changes the gradient in float64 as well, unless it is one of the rounding itself.
    """
    if not any(bool((a.isfinite() & (a != b)).any()) for a, b in zip(gradients, mutated, strict=True)):
        return False
    if plant.kind == ACCUMULATED:
        return True
    exact = replace(case, form=FORMATS["float64"])
    right = sound(exact)
    wrong = plant.change(exact, [gradient.clone() for gradient in right]) or right
    return any(bool(((a - b).abs() > ROUNDED * a.abs().max()).any()) for a, b in zip(right, wrong, strict=True))
