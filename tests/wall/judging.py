"""Which rules, and which promises of the oracle, accept which kernels, on the same inputs and cotangents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reference.format import FORMATS
from tests.subject import binding
from tests.subject.mode import MODES
from tests.verdict.comparison import is_agreed
from tests.wall.plants import rounded
from tests.wall.rules import RULES, Compared, relative_rms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reference.case import Case
    from reference.format import Floats
    from tests.wall.plants import Workload

OURS, LOOSER = "gradassay, wide", "gradassay, operands"
"""The columns of the oracle: with the promise of a kernel that rounds its results alone, and with a looser one."""

ITSELF = "torch itself"
"""The row of torch's own gradient in the same dtype."""

FAR = 5e-3
"""An error above this part of the root mean square is more than the rounding of a result explains.

Rounding to bfloat16 moves a value by 2^-9 of itself at most, which is 2e-3; the factor above that is arbitrary.
"""


@dataclass(frozen=True)
class Judgements:
    """What every rule says of one kernel of one workload in one format."""

    accepted: dict[str, tuple[bool, ...]]
    """By the name of the rule: whether it accepts with the drawn cotangent, then with each probe."""

    def is_accepted(self, rule: str, *, with_probes: bool = True) -> bool:
        """Say whether a rule accepts the kernel with the drawn cotangent, and with every probe too by default."""
        said = self.accepted[rule]
        return all(said) if with_probes else said[0]


@dataclass(frozen=True)
class Results:
    """What is said of the kernels of a workload in a format, by their names."""

    workload: Workload
    dtype: str
    faults: dict[str, Judgements]
    sound: dict[str, Judgements]
    others: dict[str, Judgements]
    """What is not known to be sound: kernels that round inside, and torch's own gradient in the same dtype."""

    is_reference_off: bool
    """Whether torch's own gradient is off by more than the rounding of results, as if accumulated in bfloat16."""


def results(workload: Workload, dtype: str, device: str = "cpu", *, is_small: bool = False) -> Results:
    """Show every rule the kernels of a workload in a format.

    What the rules compare with are torch's own gradients on the device, but for float64, which a device may lack.
    """
    found: dict[str, dict[str, list[dict[str, bool]]]] = {"faults": {}, "sound": {}, "others": {}}
    is_reference_off = False
    for case in workload.cases(FORMATS[dtype], is_small=is_small):
        same, single = by_torch(case, dtype, device), by_torch(case, "float32", device)
        double = by_torch(case, "float64", "cpu")
        is_reference_off |= any(relative_rms(*each) > FAR for each in zip(same, single, strict=True))
        rounding = workload.others if dtype == "bfloat16" else {}
        kernels = {
            "faults": {name: rounded(kernel, case) for name, kernel in workload.faults.items()},
            "sound": workload.sound(case),
            "others": {**{name: rounded(kernel, case) for name, kernel in rounding.items()}, ITSELF: same},
        }
        for kind, named in kernels.items():
            for name, gradients in named.items():
                found[kind].setdefault(name, []).append(said(case, gradients, (same, single, double)))
    faults, sound, others = map(by_kernel, (found["faults"], found["sound"], found["others"]))
    return Results(workload, dtype, faults, sound, others, is_reference_off)


def by_kernel(found: Mapping[str, Sequence[dict[str, bool]]]) -> dict[str, Judgements]:
    """Turn what rules say of each kernel, case by case, into its judgements."""
    judgements = {}
    for name, cases in found.items():
        rules, accepted = cases[0], zip(*(case.values() for case in cases), strict=True)
        judgements[name] = Judgements(dict(zip(rules, accepted, strict=True)))
    return judgements


def by_torch(case: Case, dtype: str, device: str) -> list[Floats]:
    """Return torch's own gradients of the same values in a dtype."""
    gradients = MODES["backward"].gradients(replace(case, form=FORMATS[dtype]), device)
    return [binding.on_host(gradient) for gradient in gradients if gradient is not None]


def said(case: Case, gradients: Sequence[Floats], references: Sequence[Sequence[Floats]]) -> dict[str, bool]:
    """Say of each rule whether it accepts every gradient of a case.

    The references are torch's own gradients in the dtype of the case, in float32 and in float64.
    """
    is_narrow, is_norm = case.form.name == "bfloat16", case.tree.root.op.name.endswith("_norm")
    asked = [
        Compared(got, same, single, double, is_narrow, is_norm)
        for got, same, single, double in zip(gradients, *references, strict=True)
    ]
    accepted = {rule.project: all(map(rule.accepts, asked)) for rule in RULES}
    looser = replace(case, promise="operands")
    return accepted | {OURS: is_agreed(case, gradients), LOOSER: is_agreed(looser, gradients)}
