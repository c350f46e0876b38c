"""Who accepts what: every rule, and the oracle, on the same inputs and cotangents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from reference.format import FORMATS
from reference.oracle import answer
from tests.subject import binding
from tests.subject.mode import MODES
from tests.verdict.comparison import is_within, judge_values
from tests.wall.plants import nearest, rounded
from tests.wall.rules import RULES, Compared, relative_rms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.case import Case
    from reference.format import Floats
    from tests.wall.plants import Place

OURS, LOOSER = "gradassay, wide", "gradassay, operands"
"""The columns of the oracle: with the promise of a kernel that rounds its results alone, and with a looser one."""

ITSELF = "torch itself"
"""The row of torch's own gradient in the same dtype."""

FAR = 5e-3
"""The part of its root mean square that a gradient is off by no longer for the rounding of its results."""

MOST_SHOWN = 16
"""Wrong entries of a gradient that are judged in full: the first of them."""


@dataclass(frozen=True)
class Outcome:
    """What is said of one kernel at one place in one format."""

    accepted: dict[str, tuple[bool, ...]]
    """By each rule: whether it accepts with the drawn cotangent, then with each probe."""

    def is_accepted(self, rule: str, *, with_probes: bool = True) -> bool:
        """Say whether a rule accepts all that it is shown: with the drawn cotangent alone, or with probes too."""
        said = self.accepted[rule]
        return all(said) if with_probes else said[0]


@dataclass(frozen=True)
class Results:
    """Outcomes of a place in a format, by the name of the kernel."""

    place: Place
    dtype: str
    faults: dict[str, Outcome]
    sound: dict[str, Outcome]
    others: dict[str, Outcome]
    """What is not known to be sound: kernels that round inside, and torch's own gradient in the same dtype."""

    is_reference_off: bool
    """Whether that is off by more than rounding its results makes it: it is accumulated in the dtype, say."""


def results(place: Place, dtype: str, device: str = "cpu", *, is_small: bool = False) -> Results:
    """Show everyone the kernels of a place in a format; torch's own gradients are those of the device."""
    found: dict[str, dict[str, list[dict[str, bool]]]] = {"faults": {}, "sound": {}, "others": {}}
    is_reference_off = False
    for case in place.cases(FORMATS[dtype], is_small=is_small):
        same, single, double = (
            by_torch(case, *each) for each in ((dtype, device), ("float32", device), ("float64", "cpu"))
        )
        is_reference_off |= any(relative_rms(*each) > FAR for each in zip(same, single, strict=True))
        others = place.others if dtype == "bfloat16" else {}
        kernels = {
            "faults": {name: rounded(kernel, case) for name, kernel in place.faults.items()},
            "sound": place.sound(case),
            "others": {**{name: rounded(kernel, case) for name, kernel in others.items()}, ITSELF: same},
        }
        for kind, named in kernels.items():
            for name, gradients in named.items():
                found[kind].setdefault(name, []).append(said(case, gradients, (same, single, double)))
    outcomes = {kind: {name: outcome(each) for name, each in named.items()} for kind, named in found.items()}
    return Results(place, dtype, **outcomes, is_reference_off=is_reference_off)


def outcome(each: Sequence[dict[str, bool]]) -> Outcome:
    """Put together what rules say of the cases of a place."""
    return Outcome({rule: tuple(one[rule] for one in each) for rule in each[0]})


def by_torch(case: Case, dtype: str, device: str) -> list[Floats]:
    """Return torch's own gradients of the same values in a dtype."""
    gradients = MODES["backward"].gradients(replace(case, form=FORMATS[dtype]), device)
    return [binding.read(gradient) for gradient in gradients if gradient is not None]


def said(case: Case, gradients: Sequence[Floats], references: Sequence[Sequence[Floats]]) -> dict[str, bool]:
    """Say of each rule whether it accepts the gradients: it rejects if it rejects one of them."""
    is_narrow, is_norm = case.form.name == "bfloat16", case.tree.root.op.name.endswith("_norm")
    asked = [
        Compared(got, same, single, double, is_narrow, is_norm)
        for got, same, single, double in zip(gradients, *references, strict=True)
    ]
    accepted = {rule.project: all(rule.accepts(each) for each in asked) for rule in RULES}
    looser = replace(case, promise="operands")
    return accepted | {OURS: is_agreed(case, gradients), LOOSER: is_agreed(looser, gradients)}


def is_agreed(case: Case, gradients: Sequence[Floats]) -> bool:
    """Say whether the suite's own judgement finds no miss.

    It looks into each miss, thousands of which would take minutes, so it is shown the first few wrong entries of each
    gradient, and the correctly rounded value in the place of the others.
    """
    shown = []
    for found, got in zip(answer(case), gradients, strict=True):
        wrong = np.flatnonzero(~is_within(found, got, case.form))[MOST_SHOWN:]
        few = got.copy()
        few.flat[wrong] = nearest(case.form, found.centre.ravel()[wrong])
        shown.append(few)
    return not judge_values(case, shown).misses
