"""Where a formula has a value: elsewhere it has no derivative that a gradient could be compared with."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import reduce
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from flint import arb

from reference.compiler import UnsupportedExpressionError
from reference.convention import critical, has_value
from reference.derivative import given, of_case, value_of
from reference.evaluation import Arrays, Exact, evaluate
from reference.format import EXACT_BITS, precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.case import Case
    from reference.graph import Shape, Step

    Mask = np.ndarray[Shape, np.dtype[np.bool_]]

MOST_EXACT_ELEMENTS = 2**12
"""The elements of all inputs up to which flint is asked too; of more, float64 has the last word.

The bound is arbitrary; flint takes long for many.
"""


def is_defined(case: Case) -> Mask:
    """Say of each point of the batch whether the formula has a finite value there, or a rule says what is due.

    The logarithm of a negative number has no value, nor has 1/0 or the inverse of a singular matrix; a value that is
    too large for float64 is one. Rules say what is due at infinite inputs, and at the kinks of an elementwise op at
    which it has a value; elsewhere an elementwise op has to have a finite gradient too, as a square root has not at 0.
    """
    if case.tree.is_single and case.tree.root.op.elementwise and not case.is_pointwise:
        case = replace(case, primals=tuple(np.broadcast_to(p, case.batch).copy() for p in case.primals), layouts=())
    found = _in_float64(case)  # which is fast, and settles nearly all
    if found.all():
        return found
    if case.is_pointwise:
        rest = case.only(~found.ravel())
        # a long vector repeats few points, and exact arithmetic is slow
        rows = np.stack(rest.primals, axis=-1)
        _, firsts, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        few = rest.only(firsts)
        found[~found] = (_exactly(few) | _is_ruled(few))[which.ravel()]
    # of a tensor op the whole is asked again, since its points may share inputs
    elif sum(primal.size for primal in case.primals) <= MOST_EXACT_ELEMENTS:
        found = _exactly(case)
    return found | _has_infinite(case)


def _is_ruled(case: Case) -> Mask:
    """Say of each point of an elementwise op whether it has a value where the rule for kinks says what is due."""
    op, rows = case.tree.root.op, list(zip(*(primal.tolist() for primal in case.primals), strict=True))
    balls = [list(map(arb, row)) for row in rows]
    ruled = [
        is_critical and np.isfinite(row).all() and has_value(op, tuple(map(Fraction, row)))
        for row, is_critical in zip(rows, critical(op, balls), strict=True)
    ]
    return np.array(ruled, dtype=bool)


def _asked(case: Case) -> list[Step]:
    """Return the steps that have to be finite: the value, and the gradient of an elementwise op."""
    asked = of_case(replace(case, word="r", along=None), saved=False)
    return [value_of(case).output, *(asked.results if case.is_pointwise else ())]


def _in_float64(case: Case) -> Mask:
    """Say of which points float64 finds all finite; of none where it lacks a function."""
    try:
        with np.errstate(all="ignore"):
            found = evaluate(_asked(case), given(case), Arrays())
    except UnsupportedExpressionError:
        return np.zeros(case.batch, dtype=bool)
    return _of_points(case, [np.isfinite(each.mid) for each in found])


def _exactly(case: Case) -> Mask:
    """Say of which points flint encloses all in finite balls."""
    with precision(EXACT_BITS):
        found = evaluate(_asked(case), given(case), Exact())
    return _of_points(case, [np.vectorize(arb.is_finite, otypes=[bool])(each) for each in found])


def _of_points(case: Case, finite: Sequence[Mask]) -> Mask:
    """Say of each point of the batch whether all elements of `_asked` that belong to it are finite."""
    whole = np.ones(case.batch, dtype=bool)
    for step, each in zip(_asked(case), finite, strict=True):
        size = prod(step.shape[len(case.batch) :])  # steps have the batch in front, or broadcast to it
        whole &= np.broadcast_to(each, step.shape).reshape(*case.batch, size).all(-1)
    return whole


def _has_infinite(case: Case) -> Mask:
    """Say at which points an input is infinite: there the value is a limit, and the gradient torch's rule."""
    rows = (
        np.isinf(primal).reshape(*batch, prod(primal.shape[len(batch) :])).any(-1)
        for primal, batch in zip(case.primals, case.batches, strict=True)
    )
    return np.broadcast_to(reduce(np.logical_or, rows), case.batch)
