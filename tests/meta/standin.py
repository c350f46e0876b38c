"""A stand-in for torch that is right: its gradients are the truth, correctly rounded, so that every failure is ours.

It is a pytest plugin: ``python -m pytest -p tests.meta.standin tests --deviations /dev/null``.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from reference.oracle import answer
from tests.subject import binding
from tests.subject.mode import MODES

if TYPE_CHECKING:
    import torch

    from reference.case import Case
    from reference.format import Format


def rounded(case: Case, device: str) -> list[torch.Tensor | None]:
    """Return the gradients of a case, correctly rounded to its format."""
    nearest = np.vectorize(partial(_value, case.form), otypes=[float])
    return [binding.tensor(nearest(found.centre, found.rest), case.form, device) for found in answer(case)]


def _value(form: Format, centre: float, rest: float) -> float:
    if not np.isfinite(centre):
        return float(centre)
    # As fractions, since the sum of both in float64 would be rounded before it is rounded to the format.
    return form.round(Fraction(float(centre)) + Fraction(float(rest)))


for name, mode in tuple(MODES.items()):
    MODES[name] = replace(mode, gradients=rounded)
