"""A subject that is right: it answers with the correctly rounded truth, so that every failure is ours.

A pytest plugin: ``python -m pytest -p tests.meta.standin tests --deviations /dev/null``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reference.oracle import answer
from tests.subject import binding
from tests.subject.mode import MODES

if TYPE_CHECKING:
    import torch
    from flint import arb

    from reference.case import Case
    from reference.format import Format


def rounded(case: Case, device: str) -> list[torch.Tensor | None]:
    """Return the gradients of a case, correctly rounded to its format."""
    return [
        binding.tensor(
            np.array([_value(ball, case.form) for ball in truth.flat]).reshape(truth.shape), case.form, device
        )
        for truth in answer(case).truth
    ]


def _value(ball: arb, form: Format) -> float:
    if not ball.is_finite():
        return float(ball)
    nearest = form.round_enclosure(ball)
    return float(ball) if nearest is None else nearest


for name, mode in tuple(MODES.items()):
    MODES[name] = replace(mode, gradients=rounded)
