"""Every op of the catalogue, in every format and mode, on every device found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.catalogue import OPS
from reference.format import FORMATS
from strategies import op_cases
from tests.subject import deviation, device
from tests.subject.comparison import judge
from tests.subject.mode import MODES


def explained(miss) -> str:
    """Write a miss so that a reader can check it."""
    at = ", ".join(f"{name}={value.hex()}" for name, value in miss.point.items())
    return (
        f"{miss.verdict}: d {miss.case.tree}/d{miss.wrt} at {at} [{miss.case.form.name}]\n"
        f"got {miss.got}, should be {miss.expected} (certified to {miss.truth})\n"
        f"off by {miss.ulp:.3g} ulp, {miss.share:.3g} of the allowance"
    )


@pytest.mark.filterwarnings("ignore:var.*degrees of freedom:UserWarning")
@pytest.mark.parametrize("where", device.available())
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
@settings(max_examples=4)
@given(data=st.data())
def test_gradient_is_within_the_allowance(op, mode, form, where, data) -> None:
    """The gradient of an op could have come from correctly rounded steps, or is a known deviation."""
    case = data.draw(op_cases(op, form))
    judgement = judge(case, mode.gradients(case, where), where)
    assert judgement.compared + judgement.undecided + judgement.overflowed == case.entries
    misses = deviation.unexplained(judgement.misses, op.name)
    assert not misses, explained(misses[0])
