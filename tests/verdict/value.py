"""The value of a function, as torch computes it: judged where gradients depend on it.

An op in a tree that is given a wrong value is asked for its gradient at another point. And where the value of an op is
not that of its formula, the formula may be that of another function.
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
"""Elements of inputs and outputs up to which a failure says if the value is wrong, too. The number is arbitrary."""


@cache
def is_within_a_step(case: Case, device: str) -> bool:
    """Say whether every value that torch computes is near enough to the truth for an op above it in a tree.

    That is within the rounding that the allowance of a tree has for the value, and an ulp.
    """
    try:
        got, centre, radius = _values(case, device)
    except RuntimeError:
        return False  # torch has no kernel for it
    return bool((np.abs(got - centre) <= radius + case.form.ulp(centre)).all())


def wrong_value(case: Case, device: str) -> tuple[str, str] | None:
    """Return the first value of an op that rounding does not explain, and what the formula gives, as hex floats.

    Returns None where there is no such value, of a tree of several ops, and of many elements, which would take long.
    """
    elements = sum(primal.size for primal in case.primals) + value_of(case).output.size
    if elements > MOST_ELEMENTS or not case.tree.is_single:
        return None
    got, centre, radius = _values(case, device)
    with np.errstate(invalid="ignore"):
        is_right = np.abs(got - centre) <= radius + case.form.ulp(centre)
    # what overflows, or has no bound, is as little judged as its gradient is
    is_moot = ~np.isfinite(centre) | ~np.isfinite(radius) | (np.abs(centre) + radius >= case.form.largest)
    wrong = np.flatnonzero(~is_right & ~is_moot)
    return (float(got[wrong[0]]).hex(), case.form.round(Fraction(centre[wrong[0]])).hex()) if wrong.size else None


def _values(case: Case, device: str) -> tuple[Floats, Floats, Floats]:
    """Return what torch computes, the middle of what rounding makes of the truth, and how far from it that may be.

    Each is a vector of the outputs' elements. Raises RuntimeError where torch has no kernel.
    """
    primals = [binding.tensor(primal, case.form, device) for primal in case.primals]
    with asking(case, None, device):
        got = binding.on_host(binding.function(case.tree, case.seed)(*primals)).ravel()
    allowed = value_allowance(case).ravel().tolist()
    return got, np.array([float(ball.mid()) for ball in allowed]), np.array([float(ball.rad()) for ball in allowed])
