"""Drawn trees of ops: gradients of compositions, of what is shared and broadcast, and of sums and means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import reached_cases, tree_cases

if TYPE_CHECKING:
    from reference.format import Format
    from reference.op import Op
    from tests.subject.mode import Mode
    from tests.verdict.assay import Assay


@pytest.mark.any_order
@settings.get_profile("trees")
@given(data=st.data())
def test_gradient_of_tree_is_within_the_allowance(
    pool: tuple[Op, ...], form: Format, mode: Mode, assay: Assay, data: st.DataObject
) -> None:
    """The gradient of a composition of sound ops could have come from correctly rounded steps."""
    # a tree has only ops without faults of their own, so that what fails here is what torch makes of their composition
    assay.assert_agrees(data.draw(tree_cases(form, assay.sound(pool, reached_cases), order=mode.order)))
