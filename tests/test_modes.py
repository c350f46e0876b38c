"""Every way to ask torch for a derivative gives the same one: at hard points of each op, the same for all of them, and of drawn trees."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import fixed_cases, tree_cases


@pytest.mark.any_order
@pytest.mark.fixed
def test_mode_gives_the_derivative(op, form, mode, assay) -> None:
    """What a mode gives could have come from correctly rounded steps, or is a known deviation."""
    for case in fixed_cases(op, form, mode.order):
        assay.assert_agrees(case)


@pytest.mark.any_order
@pytest.mark.fixed
@settings.get_profile("fewer_trees")
@given(data=st.data())
def test_mode_gives_the_derivative_of_a_tree(pool, form, mode, assay, data) -> None:
    """So it is for a composition of sound ops, whether its gradient comes from the root or from the leaves."""
    assay.assert_agrees(data.draw(tree_cases(form, assay.sound(pool), order=mode.order)))
