"""Where a function has no derivative, torch documents what its gradient is.

Each kink and edge of each op and each infinite input is judged by the clause that decides.
"""

import numpy as np

from reference.case import Case
from reference.tree import single


def test_gradient_follows_the_documented_rule(op, kinks, form, assay) -> None:
    """The gradient at the kink, edge or infinite input, for a cotangent of either sign, is what the clause says."""
    primals = tuple(np.repeat(np.array(column, dtype=np.float64), 2) for column in zip(*kinks, strict=True))
    assay.assert_agrees(Case(single(op), form, primals, np.resize([2.0, -0.75], 2 * len(kinks))))
