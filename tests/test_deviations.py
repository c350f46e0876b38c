"""Each known deviation still shows: one that does not must go."""

from tests.subject.findings import shown
from tests.subject.mode import MODES


def test_pinned_input_shows_it(deviation, catalogue) -> None:
    """At its pinned input the deviation has its verdict, and its region covers it."""
    for mode in deviation.modes:
        miss = shown(deviation, catalogue[deviation.op], MODES[mode])
        assert miss is not None, f"{deviation.op} at {dict(deviation.pinned)} no longer shows {deviation.verdicts}: delete the entry"
