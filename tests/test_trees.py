"""Drawn trees: sharing, broadcasting, sums and means."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.format import FORMATS
from strategies import tree_cases
from tests.subject import deviation, device
from tests.subject.comparison import judge
from tests.subject.mode import MODES
from tests.test_ops import explained


@pytest.mark.parametrize("where", device.available())
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@settings(max_examples=30)
@given(data=st.data())
def test_gradient_of_tree_is_within_the_allowance(mode, form, where, data) -> None:
    """The gradient of a composition of sound ops could have come from correctly rounded steps."""
    deviant = frozenset(d.op for d in deviation.known() if d.dtype == form.name)
    case = data.draw(tree_cases(form, without=deviant))
    judgement = judge(case, mode.gradients(case, where), where)
    assert judgement.compared + judgement.undecided + judgement.overflowed == case.entries
    assert not judgement.misses, explained(judgement.misses[0])
