"""Every op of the catalogue, in every format and mode, on every device found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import op_cases


@pytest.mark.any_order
@pytest.mark.filterwarnings("ignore:var.*degrees of freedom:UserWarning")
@given(data=st.data())
def test_gradient_is_within_the_allowance(op, form, mode, assay, data) -> None:
    """The gradient of an op could have come from correctly rounded steps, or is a known deviation."""
    assay.assert_agrees(data.draw(op_cases(op, form, order=mode.order)))
