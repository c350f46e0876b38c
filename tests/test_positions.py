"""The gradient at an element is the same wherever in a tensor the element lies.

It may lie in a kernel's vectorised loop, in the tail of that, in a strided loop, or in another thread's part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.case import Case
from reference.tree import single
from strategies import admissible
from strategies.points import hard
from tests.verdict.comparison import PERIOD

if TYPE_CHECKING:
    from reference.format import Format
    from reference.op import Op
    from tests.verdict.assay import Assay


@pytest.mark.kernels
def test_gradient_is_within_the_allowance_at_any_position(
    op: Op, form: Format, sizes: tuple[int, ...], assay: Assay
) -> None:
    """Hard points have gradients that correctly rounded steps could give, in vectors of any size and either layout."""
    for size in sizes:
        for layout in ("contiguous", "strided"):
            assay.assert_agrees(repeated(op, form, size, layout))


def repeated(op: Op, form: Format, size: int, layout: str) -> Case:
    """Return a case of a vector of so many elements, in which a few hard points repeat.

    The values of each input are shuffled by themselves, so that those of an op of two inputs meet in many pairs.
    """
    rng = np.random.default_rng(0)
    primals = tuple(
        np.resize(rng.permutation(np.resize(hard(form, op.interval(name), op, PERIOD - 1), PERIOD)), size)
        for name in op.inputs
    )
    return admissible(Case(single(op), form, primals, np.ones(size), layouts=(layout,) * len(primals)))
