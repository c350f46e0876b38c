"""From a case with a miss to the smallest that still shows it, so that a failure can be printed and pasted."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from tests.verdict.comparison import PERIOD, REPEATS, Miss, UnsupportedError, judged
from tests.verdict.diagnosis import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.case import Case
    from reference.format import Floats
    from tests.subject.mode import Mode


SIMPLE_BITS = 3
"""Significant bits of values that are tried in the place of others: such values are short in decimals."""


def reproducing(miss: Miss, mode: Mode, device: str) -> Miss:
    """Return a miss of the same kind in the smallest case that still shows one, or the miss itself.

    What is tried is the point alone, the point repeated, the first rows, and simpler values, for as long as there is
    time; what is left is the whole case.
    """
    until = monotonic() + SECONDS
    for case in _smaller(miss):
        if monotonic() > until:
            break
        try:
            misses = judged(case, mode, device).misses
        except UnsupportedError:
            continue
        for other in misses:
            if (other.verdict, other.wrt, _told(other)) == (miss.verdict, miss.wrt, _told(miss)):
                return other
    return miss


def _told(miss: Miss) -> str | None:
    """Return the name of the tensor that was overwritten; None where none was."""
    return None if miss.overwritten is None else miss.overwritten.name


def _smaller(miss: Miss) -> Iterator[Case]:
    """Yield cases that are shorter to print, the shortest first."""
    case, whole = miss.case, miss.whole
    found = [replace(case, layouts=())] if case.batch == () or case.layouts else []
    if case.is_pointwise and case.batch == ():
        found.append(case.repeated(REPEATS))
    # one row; two, so that rows can be mistaken for each other; and 16, which is arbitrary
    found += [rows for count in (1, 2, 16) if (rows := _rows(whole, count)) is not None]
    for each in (*found, whole):
        if each.is_pointwise and each.point_count == 1:
            yield each  # with the values of the miss, which are as short as any
        elif each.along is None and each.tree.is_single:
            yield _periodic(each, SIMPLE_BITS)
            yield _periodic(each, each.form.precision)
        if not (each.is_pointwise and each.point_count == 1) and each is not whole:
            yield each


def _rows(case: Case, count: int) -> Case | None:
    """Return the first rows of a case whose batch has one dimension; None where it has no more rows than these."""
    if len(case.batch) != 1 or case.batch[0] <= count or any(b not in {(), case.batch} for b in case.batches):
        return None
    primals = tuple(p[:count] if batch else p for p, batch in zip(case.primals, case.batches, strict=True))
    cotangent = case.cotangent[:count] if case.root == "cotangent" else case.cotangent
    # strides in numbers are those of the whole, and do not fit fewer rows
    named = all(isinstance(layout, str) for layout in case.layouts)
    return replace(case, primals=primals, cotangent=cotangent, layouts=case.layouts if named else ())


def _periodic(case: Case, bits: int) -> Case:
    """Fill each tensor with its first few values, rounded to so many bits, which a snippet then writes once.

    A cotangent that is mostly 0 stays as it is: it probes a place, which repeated values would hide.
    """

    def repeated(values: Floats) -> Floats:
        mantissa, exponent = np.frexp(np.resize(values.ravel()[:PERIOD], values.shape))
        rounded: Floats = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
        return rounded

    is_probe = np.count_nonzero(case.cotangent) * 2 < case.cotangent.size
    cotangent = case.cotangent if is_probe or case.root != "cotangent" else repeated(case.cotangent)
    return replace(case, primals=tuple(map(repeated, case.primals)), cotangent=cotangent, independent=False)
