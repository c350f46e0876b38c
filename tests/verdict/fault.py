"""What tells one fault of an op from another: the gradient, and what all of its wrong entries have in common.

One fault shows in many cases, and few of them show the whole of it. So two failures are taken for one fault, unless
what is known of the one contradicts what is known of the other.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tests.verdict.comparison import MOST_MISSES
from tests.verdict.diagnosis import simplest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.case import Case
    from reference.graph import Shape
    from tests.verdict.comparison import Miss

FEWEST = 3
"""Misses that tell a factor or a place: of fewer there is one by accident. The number is arbitrary."""

SIMPLE = 16
"""The largest denominator of a factor that is no accident; the number is arbitrary."""


class Fault(NamedTuple):
    """What is known of the wrong entries of one gradient; as JSON it is a list."""

    wrt: str
    """The input that the gradient is by; empty where the fault is no input's."""

    kind: str
    """`values`; `convention`, where only those are wrong at which a rule says what is due; or what is malformed."""

    order: int = 1
    """How often the function was differentiated."""

    factor: str = ""
    """What all of them are, as a multiple of what is due: 0, or where the whole gradient is wrong a simple number."""

    places: str = ""
    """At which ends of which axes all of them are; nothing where that does not tell them."""

    whole: bool = False
    """Whether all entries of the gradient are wrong."""

    def is_of(self, other: Fault) -> bool:
        """Say whether this may be of the same fault as another, which was found before."""
        if self.order > 1 and other.order == 1:
            return True  # a wrong gradient has wrong derivatives
        if self.wrt != other.wrt:
            return False
        if self.kind != other.kind:
            # where a whole gradient is wrong, it is wrong at its kinks too
            return self.kind == "convention" and other.kind == "values" and other.whole
        known = ((self.factor, other.factor), (self.places, other.places))
        return all(mine == theirs for mine, theirs in known if mine and theirs)


def faults(misses: Sequence[Miss]) -> list[Fault]:
    """Return what is known of the faults that the misses of one case show: one fault for each gradient.

    Misses of drawn trees are all taken for one: each tree has ops and inputs of its own, so that nothing compares.
    """
    if not misses[0].case.tree.is_single:
        return [Fault("", "values")]
    by_input = groupby(sorted(misses, key=attrgetter("wrt")), key=attrgetter("wrt"))
    return [_fault(name, list(alike)) for name, alike in by_input]


def _fault(wrt: str, alike: Sequence[Miss]) -> Fault:
    miss, order = alike[0], alike[0].case.order
    if miss.overwritten is not None:
        return Fault("", f"{miss.overwritten.name} overwritten", order)
    if miss.verdict == "malformed":  # the name of an exception, or what does not fit, without the details of the case
        return Fault(wrt, f"malformed, {miss.got.partition(':')[0].partition('=')[0]}", order)
    case = miss.whole
    (shape,) = {p.shape for leaf, p in zip(case.tree.leaves, case.primals, strict=True) if leaf.name == wrt}
    whole = len(alike) >= min(prod(shape), MOST_MISSES)  # of more no case lists
    kind = "convention" if all(each.verdict == "convention" for each in alike) else "values"
    places = ", ".join(_places([each.index for each in alike], case, shape))
    factor = _factor(alike)
    # Entries that are wrong by one factor while others are right tell more by their places, but for those that are 0.
    return Fault(wrt, kind, order, factor if whole or factor == "0" else "", places, whole)


def _factor(alike: Sequence[Miss]) -> str:
    """Write what all entries are as a multiple of what is due, where one simple number is that within rounding."""
    values = [(float.fromhex(each.got), float.fromhex(each.expected), each.share) for each in alike]
    if len(values) < FEWEST or not all(np.isfinite(value).all() and value[1] for value in values):
        return ""
    got, due, share = map(np.array, zip(*values, strict=True))
    reach = np.abs(got - due) / share  # the share of a miss is its error as a part of that
    ends = np.sort(np.stack([(got - reach) / due, (got + reach) / due]), axis=0)
    lower, upper = float(ends[0].max()), float(ends[1].min())
    found = simplest(lower, upper) if lower <= upper else Fraction(1, SIMPLE + 1)
    return str(found) if found.denominator <= SIMPLE else ""


def _places(indices: Sequence[Shape], case: Case, shape: Shape) -> Iterator[str]:
    """Say at which end of which axes of a gradient the wrong entries are, where they are all the entries of a box.

    Axes are counted from the last, so that a batch before them changes no word. It is not said of the points of an
    elementwise op, which are in no order, nor of few entries, of which it would be an accident.
    """
    if len(indices) < FEWEST or len(indices[0]) != len(shape) or case.is_pointwise:
        return
    box = [np.unique(at) for at in zip(*indices, strict=True)]
    if prod(map(len, box)) != len(set(indices)):
        return
    for axis, (at, length) in enumerate(zip(box, shape, strict=True)):
        if len(at) < length and at[-1] - at[0] + 1 == len(at):
            end = "first" if at[0] == 0 else "last" if at[-1] == length - 1 else "middle"
            yield f"{end} along axis {axis - len(shape)}"
