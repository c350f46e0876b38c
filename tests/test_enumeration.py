"""Every finite value of the 16-bit formats, on each op of one argument (profile exhaustive)."""

import numpy as np
import pytest

from reference.case import Case
from reference.tree import single
from strategies.points import bounds

pytestmark = pytest.mark.enumerated


def test_gradient_at_every_value(op, form, assay) -> None:
    """The gradient could have come from correctly rounded steps at every value of the domain."""
    first, last = bounds(form, op.interval("x"))
    values = form.values(np.arange(first, last + 1))
    assay.assert_agrees(Case(single(op), form, (values,), np.ones_like(values)))
