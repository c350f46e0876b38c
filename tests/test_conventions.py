"""Where a function has no derivative, torch documents what its gradient is.

Each kink and edge of each op and each infinite input is judged by the clause that decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reference.case import Case
from reference.tree import single

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.convention import Point
    from reference.format import Format
    from reference.op import Op
    from tests.verdict.assay import Assay


def test_gradient_follows_the_documented_rule(op: Op, kinks: Sequence[Point], form: Format, assay: Assay) -> None:
    """The gradient at the kink, edge or infinite input, for a cotangent of either sign, is what the clause says."""
    assay.assert_agrees(at_points(op, kinks, form))


def at_points(op: Op, points: Sequence[Point], form: Format) -> Case:
    """Return an op at points, each with a cotangent of either sign."""
    primals = tuple(np.repeat(np.array(column, dtype=np.float64), 2) for column in zip(*points, strict=True))
    return Case(single(op), form, primals, np.resize([2.0, -0.75], 2 * len(points)))
