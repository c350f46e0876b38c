"""What wrong entries of a gradient are instead: a factor, another entry, or what is due where something is forgotten.

Each diagnosis is a test on every wrong entry: it is said only where all of them are within rounding of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from reference.oracle import Found, answer
from tests.subject import binding
from tests.verdict.comparison import is_within, isolated, overflows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.case import Case
    from reference.format import Floats
    from reference.graph import Shape
    from tests.subject.mode import Mode

    Mask = np.ndarray[Shape, np.dtype[np.bool_]]

SECONDS = 2.0
"""How long is spent on what a gradient would be if something were forgotten, and on smaller cases. It is arbitrary."""

SIMPLE = 1000
"""The largest denominator of a factor that is said; the number is arbitrary."""

OBVIOUS = tuple(Fraction(n, d) for n, d in ((-1, 1), (2, 1), (1, 2), (-2, 1), (-1, 2)))
"""Factors that are said of a single entry; any other would be a coincidence."""

BLOCKS = (8, 16, 32, 64, 128)
"""Sizes of the blocks past the last whole one of which a kernel may leave out what remains."""

MOST_CUTS = 32
"""Places along an axis at which a sum is tried to begin or end: at multiples of a power of two."""

MOST_POINTS = 4096
"""Points of an elementwise case up to which all gradients are looked at again."""


@dataclass(frozen=True)
class Seen:
    """One gradient of a case as it came, beside what is due."""

    name: str
    """That of the input which the derivative is by."""

    got: Floats
    found: Found
    wrong: Mask
    """Which entries rounding does not explain."""

    @property
    def due(self) -> Floats:
        """The truth, rounded to float64."""
        return self.found.centre


def seen(case: Case, mode: Mode, device: str) -> list[Seen]:
    """Ask torch again for the gradients of a case, and find all that is wrong in each.

    There are none where torch does not answer with a tensor of the shape that is due, or at too many points.
    """
    if case.is_pointwise and case.point_count > MOST_POINTS:
        return []
    gradients = mode.gradients(case, device)
    found = answer(case)
    if any(g is None or tuple(g.shape) != f.centre.shape for g, f in zip(gradients, found, strict=True)):
        return []
    read = [binding.on_host(gradient) for gradient in gradients if gradient is not None]
    return [
        Seen(case.tree.leaves[number].name, got, each, _wrong(case, number, got, each))
        for number, got, each in zip(case.asked, read, found, strict=True)
    ]


def _wrong(case: Case, number: int, got: Floats, found: Found) -> Mask:
    """Say which entries are wrong: not one of which nothing says what is due, nor one that is moot."""
    wrong = np.array(~is_within(found, got, case.form) & ~np.isnan(found.centre))
    if case.is_pointwise:
        for index in map(tuple, np.argwhere(wrong & ~found.by_convention).tolist()):
            wrong[index] = not overflows(isolated(case, number, index))
    return wrong


def diagnosed(one: Seen, every: Sequence[Seen], case: Case) -> str | None:
    """Say what the wrong entries of a gradient are instead; None where no diagnosis explains all of them.

    `every` has all the gradients of the case, since an entry may be that of another input.
    """
    got, due = one.got[one.wrong], one.due[one.wrong]
    if not got.size or not np.isfinite(due).all():
        return None
    for name, is_value in (("0", got == 0), ("NaN", np.isnan(got)), ("infinite", np.isinf(got))):
        if is_value.all():
            return f"each is {name}"
    if not np.isfinite(got).all():
        return None
    # an entry may be off by what rounding makes of the truth, and by the rounding of what it is instead
    reach = (one.found.radius + np.abs(one.found.offset))[one.wrong] + case.form.ulp(due)
    said = _factor(got, due, reach) or _elsewhere(one, every, case)
    return said or next((f"each is what is due if {words}" for words in _forgotten(one, every, case)), None)


def _factor(got: Floats, due: Floats, reach: Floats) -> str | None:
    """Say by which factor all entries are off, where one is within rounding of every entry's."""
    if (due == 0).any() or not np.isfinite(reach).all():
        return None
    # Each entry allows an interval of factors; the sort puts its ends in order where `due` is negative.
    ends = np.sort(np.stack([(got - reach) / due, (got + reach) / due]), axis=0)
    lower, upper = float(ends[0].max()), float(ends[1].min())
    if lower > upper:
        return None
    factor = simplest(lower, upper)
    if factor.denominator > SIMPLE or (len(got) == 1 and factor not in OBVIOUS):
        return None
    if factor == -1:
        return "each has the other sign"
    return f"each is {factor if factor.numerator == 1 else f'{float(factor):.6g}'} times what is due"


def simplest(lower: float, upper: float) -> Fraction:
    """Return the fraction of the least denominator between two numbers."""
    if lower <= 0 <= upper:
        return Fraction(0)
    if upper < 0:
        return -simplest(-upper, -lower)
    return _between(Fraction(lower), Fraction(upper))


def _between(low: Fraction, high: Fraction) -> Fraction:
    """Return the simplest fraction between two positive ones, by their continued fractions.

    Where both have the same whole part, and the lower one is not whole, the rest is the reciprocal of the simplest
    fraction between the reciprocals of their rests: this is the walk down the Stern-Brocot tree.
    """
    whole = low.numerator // low.denominator
    if low == whole:
        return Fraction(whole)
    return Fraction(whole + 1) if whole + 1 <= high else whole + 1 / _between(1 / (high - whole), 1 / (low - whole))


def _elsewhere(one: Seen, every: Sequence[Seen], case: Case) -> str | None:
    """Say of which other entry, or of which other input, each wrong entry is the gradient."""
    for other in every:
        if other is not one and other.due.shape == one.due.shape and _explains(other.found, one, case):
            return f"each is what is due for {other.name}"
    for axis, length in enumerate(one.due.shape):
        name = (
            "column" if axis == one.due.ndim - 1 else "row" if axis == one.due.ndim - 2 else f"place along axis {axis}"
        )
        for shift in (1, -1):
            # of two places the one before is the one after
            if length > 2 and _explains(_rolled(one.found, shift, axis), one, case):
                return f"each is what is due one {name} {'before' if shift > 0 else 'after'}"
    return None


def _rolled(found: Found, shift: int, axis: int) -> Found:
    return Found(*(np.roll(part, shift, axis) for part in found.parts))


def _explains(other: Found, one: Seen, case: Case) -> bool:
    """Say whether all wrong entries are within rounding of other values, each of which can be told from what is due."""
    apart = np.abs(other.centre - one.due) > other.radius + np.abs(other.offset)
    return bool((is_within(other, one.got, case.form) & apart)[one.wrong].all())


def _forgotten(one: Seen, every: Sequence[Seen], case: Case) -> Iterator[str]:
    """Yield what explains all wrong entries, of what kernels forget or mistake, for as long as there is time."""
    until = monotonic() + SECONDS
    place = [each.name for each in every].index(one.name)
    for words, other in _mistaken(case):
        if monotonic() > until:
            return
        if _explains(answer(other)[place], one, case):
            yield words


def _mistaken(case: Case) -> Iterator[tuple[str, Case]]:
    """Yield what kernels forget or mistake, each with the case that is asked then."""
    if case.root != "cotangent" or case.units:
        return
    for number, (leaf, primal) in enumerate(zip(case.tree.leaves, case.primals, strict=True)):
        dense = _in_memory(primal, case, number)
        if dense is not None:
            primals = (*case.primals[:number], dense, *case.primals[number + 1 :])
            yield f"{leaf.name} is read in the order of memory, without its strides", replace(case, primals=primals)
    for words, cotangent in _cotangents(case):
        if not np.array_equal(cotangent, case.cotangent):
            yield words, replace(case, cotangent=cotangent)


def _in_memory(values: Floats, case: Case, number: int) -> Floats | None:
    """Return what a kernel reads that ignores strides; None where that is what it should read.

    It begins where the tensor begins, and reads one element after another; past the end of memory it starts over, since
    what a kernel would find there is not known.
    """
    if not binding.applies(case.layout(number), values):
        return None
    laid = binding.tensor(values, case.form, "cpu", case.layout(number))  # lies alike on any device
    memory = laid.as_strided((laid.untyped_storage().nbytes() // laid.element_size(),), (1,), 0)
    places = (np.arange(values.size) + int(laid.storage_offset())) % len(memory)
    read = binding.on_host(memory)[places].reshape(values.shape)
    return None if np.array_equal(read, values) else read


def _cotangents(case: Case) -> Iterator[tuple[str, Floats]]:
    """Yield what a cotangent is mistaken for, each with the cotangent that would be right for it."""
    given = case.cotangent
    dense = _in_memory(given, case, len(case.primals))
    if dense is not None:
        yield "the cotangent is read in the order of memory, without its strides", dense
    yield "the cotangent is 1 everywhere", np.ones_like(given)
    if given.size:
        yield "the cotangent is everywhere that of the first element", np.full_like(given, given.ravel()[0])
    if len(case.outputs) > 1:  # they lie one behind the other, so that places along an axis mean nothing
        ends = np.cumsum([0, *(prod(shape) for shape in case.outputs)]).tolist()
        for number, (start, end) in enumerate(pairwise(ends)):
            yield f"output {number} has no cotangent", _without(given, given.ndim - 1, slice(start, end))
        return
    yield from _shortened(given)
    yield from _cut(given)


def _shortened(given: Floats) -> Iterator[tuple[str, Floats]]:
    """Yield cotangents that are without what is at an end of an axis, or have that alone."""
    for axis, length in enumerate(given.shape):
        name = f"along axis {axis} of the output"
        if length > 1:
            first = _without(given, axis, slice(1, None))
            yield f"only the first {name} counts", first
            yield f"the first {name} counts {length} times, and no other does", first * length
            yield f"the last {name} is left out", _without(given, axis, slice(length - 1, None))
        for size in BLOCKS:
            # where one element is left over, it is the last one, which was said above
            if length % size > 1 and length > size:
                words = f"those past the last whole block of {size} {name} are left out"
                yield words, _without(given, axis, slice(length - length % size, None))


def _cut(given: Floats) -> Iterator[tuple[str, Floats]]:
    """Yield cotangents of what is before, or from, a multiple of a power of two along an axis."""
    for axis, length in enumerate(given.shape):
        size = max(BLOCKS[0], 1 << max(length // MOST_CUTS, 1).bit_length())  # so that there are `MOST_CUTS` at most
        for cut in range(size, length, size):
            for part, words in ((slice(cut), f"from {cut:,} on"), (slice(cut, None), f"before {cut:,}")):
                yield f"only those {words} count along axis {axis} of the output", _without(given, axis, part)


def _without(values: Floats, axis: int, part: slice) -> Floats:
    """Return values with zeros in a part of an axis."""
    found: Any = values.copy()
    found[(slice(None),) * axis + (part,)] = 0
    return found
