"""Each known deviation still shows: one that does not must go."""

from tests.runs.findings import asked, shown


def test_pinned_input_shows_it(deviation, showing, catalogue) -> None:
    """At its pinned input the deviation has its verdict, and its region covers it.

    So it is in each mode that can be asked with its cotangent.
    """
    op = catalogue[deviation.op]
    for mode in showing:
        if not op.elementwise or all(
            (case.cotangent == deviation.cotangent).all() for case in asked(deviation, op, mode)
        ):
            assert shown(deviation, op, mode) is not None, (
                f"{op.name} at {dict(deviation.pinned)} no longer shows {deviation.verdicts} in {mode.name}: "
                "delete the entry"
            )
