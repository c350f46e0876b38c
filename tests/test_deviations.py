"""Each known deviation still shows: one that does not must go."""

import numpy as np

from reference.case import Case
from reference.format import FORMATS
from reference.tree import single
from tests.subject.comparison import REPEATS, judged
from tests.subject.mode import MODES


def test_pinned_input_shows_it(deviation, catalogue) -> None:
    """At its pinned input the deviation has its verdict, and its region covers it."""
    op = catalogue[deviation.op]
    primals = tuple(np.array(deviation.pinned[name]) for name in op.inputs)
    case = Case(single(op), FORMATS[deviation.dtype], primals, np.array(deviation.cotangent)).repeated(REPEATS)
    for mode in deviation.modes:
        misses = judged(case, MODES[mode], deviation.device).misses
        assert any(deviation.covers(miss) for miss in misses), (
            f"{deviation.op} at {dict(deviation.pinned)} no longer shows {deviation.verdicts}: delete the entry"
        )
