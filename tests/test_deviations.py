"""Each known deviation still shows at its pinned input: the entry of one that does not must go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.runs.findings import asked, pinned_miss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reference.op import Op
    from tests.subject.mode import Mode
    from tests.verdict.deviation import Deviation


def test_pinned_input_shows_it(deviation: Deviation, showing: list[Mode], catalogue: Mapping[str, Op]) -> None:
    """At its pinned input torch has a miss that the deviation covers, in each mode that asks with its cotangent."""
    op = catalogue[deviation.op]
    # Some modes put a cotangent of their own in the place of the entry's: a Jacobian has ones. What needs another
    # cotangent, such as an overflow, need not show there.
    for mode in showing:
        if not op.elementwise or all(
            (case.cotangent == deviation.cotangent).all() for case in asked(deviation, op, mode)
        ):
            assert pinned_miss(deviation, op, mode) is not None, (
                f"{op.name} at {dict(deviation.pinned)} no longer shows {deviation.verdicts} in {mode.name}: "
                "delete the entry"
            )
