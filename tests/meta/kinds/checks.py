"""What the profile `quick` asks of a kernel, by the check that asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference.convention import ruled_points
from reference.format import FORMATS
from strategies import fixed_cases, manners
from strategies.cases import real_cases
from tests.meta.kinds.table import KINDS, planted
from tests.subject.mode import MODES
from tests.test_conventions import at_points, at_stated
from tests.verdict.comparison import judged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.case import Case
    from reference.format import Format
    from reference.op import Op
    from tests.verdict.comparison import Miss


def checks(op: Op, form: Format) -> dict[str, Sequence[Case]]:
    """Return what is asked of an op in the mode `backward`, by what is varied, in the order in which it is asked."""
    real, kinks = real_cases(op, form), ruled_points(op)
    small = [case for case in fixed_cases(op, form) if case not in real]
    # A tensor op has one small case, then those with ties and zeros, and one for each further shape.
    ties = [] if op.elementwise else small[1 : len(small) - len(op.cores) + 1]
    return {
        "hard points" if op.elementwise else "small shapes": [case for case in small if case not in ties],
        "ties and zeros": ties,
        "kinks and edges": [at_points(op, kinks, form)] if kinks else [],
        "stated points": [case for point in op.points for case in at_stated(op, point, form)],
        **manners(op, form),
        "sizes of use": real,
    }


def misses(case: Case, mode: str) -> list[Miss]:
    """Return what is wrong with a case in a mode."""
    asked = MODES[mode]
    return judged(asked.asks(case), asked, "cpu").misses


def seen_by(kind: str, name: str, *, faulty: bool = True, dtype: str = "") -> Iterator[str]:
    """Yield the checks that reject a kernel in the mode of its kind, and in a format: by default that of its kind."""
    each, op = KINDS[kind], planted(kind, name, faulty=faulty)
    form = FORMATS[dtype or each.dtype]
    asked = checks(op, form)
    if each.mode != "backward":  # a mode that compiles is asked of the fixed points alone
        asked = {each.mode: fixed_cases(op, form, whole=True)}
    for check, cases in asked.items():
        if any(misses(case, each.mode) for case in cases):
            yield check
