"""Each known deviation still shows: one that does not must go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.runs.findings import asked, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reference.op import Op
    from tests.subject.mode import Mode
    from tests.verdict.deviation import Deviation


def test_pinned_input_shows_it(deviation: Deviation, showing: list[Mode], catalogue: Mapping[str, Op]) -> None:
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
