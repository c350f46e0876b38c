"""Each known deviation still shows: one that does not must go."""

import numpy as np
import pytest

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.tree import single
from tests.subject import deviation
from tests.subject.comparison import judge
from tests.subject.mode import MODES

LENGTH = 64
"""Pinned inputs are repeated: some deviations are the vectorised loop's alone."""


@pytest.mark.parametrize("known", deviation.known(), ids=lambda d: f"{d.op}-{d.dtype}-{'-'.join(d.verdicts)}")
def test_pinned_input_shows_it(known: deviation.Deviation) -> None:
    """At its pinned input the deviation has its verdict, and its region covers it."""
    tree = single(OPS[known.op])
    primals = tuple(np.full(LENGTH, known.pinned[name]) for name in OPS[known.op].inputs)
    case = Case(tree, FORMATS[known.dtype], primals, np.full(LENGTH, known.cotangent))
    misses = judge(case, MODES["backward"].gradients(case, "cpu"), "cpu").misses
    assert misses
    assert any(known.covers(miss, known.op) for miss in misses)
