"""Where a function has no derivative, torch documents what its gradient is.

Each kink and edge of each op, and each infinite input, is judged by the clause of that documentation which decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.case import Case
from reference.tree import single

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.convention import Point
    from reference.format import Format
    from reference.op import Op, Stated
    from tests.verdict.assay import Assay


COTANGENTS = (2.0, -0.75)
"""Of either sign, since the rule is about the function, whatever multiplies it. The sizes are arbitrary."""


def test_gradient_follows_the_documented_rule(op: Op, kinks: Sequence[Point], form: Format, assay: Assay) -> None:
    """The gradient at the kink, edge or infinite input, for a cotangent of either sign, is what the clause says."""
    assay.assert_agrees(at_points(op, kinks, form))


@pytest.mark.stated
def test_gradient_is_what_the_entry_states(op: Op, stated: Stated, form: Format, assay: Assay) -> None:
    """The gradient at a point that the entry lists is what it states, or what its formula has, for either sign."""
    for case in at_stated(op, stated, form):
        assay.assert_agrees(case)


def at_stated(op: Op, point: Stated, form: Format) -> Iterator[Case]:
    """Yield an op at a point of its entry, with a cotangent of either sign."""
    primals = tuple(point.inputs[name] for name in op.inputs)
    tree = single(op, None if op.elementwise else tuple(primal.shape for primal in primals))
    shape = np.broadcast_shapes(*(primal.shape for primal in primals)) if op.elementwise else tree.root.shape
    for scale in COTANGENTS:
        yield Case(tree, form, primals, np.full(shape, scale), stated=point.of(op, scale))


def at_points(op: Op, points: Sequence[Point], form: Format) -> Case:
    """Return an op at points, each with a cotangent of either sign."""
    primals = tuple(np.repeat(np.array(column, dtype=np.float64), 2) for column in zip(*points, strict=True))
    return Case(single(op), form, primals, np.resize(COTANGENTS, 2 * len(points)))
