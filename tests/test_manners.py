"""A gradient is the same in whatever manner it is asked for.

Kernels mistake the rank of a batch, the strides of an input or of the cotangent, which inputs require grad, and which
outputs have a cotangent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from strategies import manner_cases

if TYPE_CHECKING:
    from reference.format import Format
    from reference.op import Op
    from tests.verdict.assay import Assay


@pytest.mark.fixed
@pytest.mark.plainly
def test_gradient_is_within_the_allowance_in_any_manner(op: Op, form: Format, assay: Assay) -> None:
    """The gradient could have come from correctly rounded steps in any rank, layout, and set of inputs and outputs."""
    for case in manner_cases(op, form):
        assay.assert_agrees(case)
