"""The forward of an op, judged so far as drawn trees depend on it.

An op that is given a wrong value has another gradient.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from reference.oracle import value_allowance
from tests.subject import binding
from tests.verdict.isolation import asking

if TYPE_CHECKING:
    from reference.case import Case


@cache
def is_within_a_step(case: Case, device: str) -> bool:
    """Say whether every value that torch computes is near enough to the truth.

    That is within the rounding that the allowance of a tree has for it, and an ulp.
    """
    primals = [binding.tensor(primal, case.form, device) for primal in case.primals]
    try:
        with asking(case, None, device):
            got = binding.read(binding.function(case.tree, case.seed)(*primals))
    except RuntimeError:
        return False  # no kernel
    allowed = value_allowance(case).ravel().tolist()
    centre = np.array([float(ball.mid()) for ball in allowed])
    radius = np.array([float(ball.rad()) for ball in allowed])
    return bool((np.abs(got.ravel() - centre) <= radius + case.form.ulp(centre)).all())
