"""Every op of the catalogue, in every format and mode, on every device found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import op_cases

if TYPE_CHECKING:
    from reference.format import Format
    from reference.op import Op
    from tests.subject.mode import Mode
    from tests.verdict.assay import Assay


@pytest.mark.any_order
# torch warns of the variance of too few elements
@pytest.mark.filterwarnings("ignore:var.*degrees of freedom:UserWarning")
@given(data=st.data())
def test_gradient_is_within_the_allowance(op: Op, form: Format, mode: Mode, assay: Assay, data: st.DataObject) -> None:
    """The gradient of an op could have come from correctly rounded steps, or is a known deviation."""
    assay.assert_agrees(data.draw(op_cases(op, form, order=mode.order)))
