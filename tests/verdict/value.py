"""The forward of an op, judged so far as drawn trees depend on it, and to tell what is behind a miss.

An op that is given a wrong value has another gradient.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from reference.derivative import value_of
from reference.oracle import value_allowance
from tests.subject import binding
from tests.verdict.isolation import asking

if TYPE_CHECKING:
    from reference.case import Case
    from reference.format import Floats

MOST_ELEMENTS = 4096
"""Elements of inputs and outputs up to which it is asked whether the value is wrong, too."""


@cache
def is_within_a_step(case: Case, device: str) -> bool:
    """Say whether every value that torch computes is near enough to the truth.

    That is within the rounding that the allowance of a tree has for it, and an ulp.
    """
    try:
        got, centre, radius = _values(case, device)
    except RuntimeError:
        return False  # no kernel
    return bool((np.abs(got - centre) <= radius + case.form.ulp(centre)).all())


def wrong_value(case: Case, device: str) -> tuple[str, str] | None:
    """Return a value that torch computes and rounding does not explain, and what the formula gives.

    It is None where there is none, and of a case of many elements, which would take long.
    """
    elements = sum(primal.size for primal in case.primals) + value_of(case).output.size
    if elements > MOST_ELEMENTS or not case.tree.is_single:
        return None
    got, centre, radius = _values(case, device)
    with np.errstate(invalid="ignore"):
        is_right = np.abs(got - centre) <= radius + case.form.ulp(centre)
    is_moot = ~np.isfinite(centre) | ~np.isfinite(radius) | (np.abs(centre) + radius >= case.form.largest)
    wrong = np.flatnonzero(~is_right & ~is_moot)
    return (float(got[wrong[0]]).hex(), case.form.round(Fraction(centre[wrong[0]])).hex()) if wrong.size else None


def _values(case: Case, device: str) -> tuple[Floats, Floats, Floats]:
    """Return what torch computes, the middle of what rounding makes of the truth, and how far from it that may be."""
    primals = [binding.tensor(primal, case.form, device) for primal in case.primals]
    with asking(case, None, device):
        got = binding.read(binding.function(case.tree, case.seed)(*primals)).ravel()
    allowed = value_allowance(case).ravel().tolist()
    return got, np.array([float(ball.mid()) for ball in allowed]), np.array([float(ball.rad()) for ball in allowed])
