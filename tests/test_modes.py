"""Every way to ask torch for a derivative gives the same one: at hard points of each op, the same for all of them."""

import pytest

from strategies import fixed_cases


@pytest.mark.fixed
def test_mode_gives_the_derivative(op, form, assay) -> None:
    """What a mode gives could have come from correctly rounded steps, or is a known deviation."""
    for case in fixed_cases(op, form):
        assay.assert_agrees(case)
