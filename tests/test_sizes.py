"""Gradients are right at inputs of any size.

Kernels mistake the last block of an axis, and the rows that a grid does not reach. Every op is asked at some lengths of
each axis (`tests/test_manners.py`); one of a user's own at more of them, as far as there is time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from strategies import sized_cases

if TYPE_CHECKING:
    from reference.format import Format
    from reference.op import Op
    from tests.verdict.assay import Assay


@pytest.mark.own
@pytest.mark.plainly
def test_gradient_is_within_the_allowance_at_any_size(op: Op, form: Format, budget: float, assay: Assay) -> None:
    """The gradient could have come from correctly rounded steps at sizes around blocks, the smallest first."""
    assay.assert_agrees_within(budget, sized_cases(op, form))
