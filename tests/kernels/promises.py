"""How much of the allowance the kernels in Triton take in float16 by each promise, as they are and changed.

``python -m tests.kernels.promises FOLDER`` writes changed modules into the folder, and prints the table.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reference.case import PROMISES
from reference.format import FORMATS
from strategies import fixed_cases
from tests.kernels.faults import Fault
from tests.kernels.fused import OPS
from tests.subject.mode import MODES
from tests.verdict.comparison import judged

if TYPE_CHECKING:
    from reference.op import Op

CHANGES: dict[str, tuple[str, Fault | None]] = {
    "attention": ("triton_attention", None),
    "attention, its output kept in float16": (
        "triton_attention",
        Fault(
            "attention", "seen, output, normaliser)\n        ctx", "seen, output.to(q.dtype), normaliser)\n        ctx"
        ),
    ),
    "attention for tensor cores": ("triton_attention_operands", None),
    "attention for tensor cores, in the forward too": (
        "triton_attention_operands",
        Fault("attention", "_dot(weights, v, q_ptr, ROUNDS=False)", "_dot(weights, v, q_ptr, ROUNDS=ROUNDS)"),
    ),
    "loss": ("triton_linear_cross_entropy", None),
    "loss, its gradients kept in float16": (
        "triton_linear_cross_entropy",
        Fault(
            "loss", "save_for_backward(by_x, by_weight)", "save_for_backward(by_x.to(x.dtype), by_weight.to(x.dtype))"
        ),
    ),
}
"""Each row of the table by its name: the entry of a kernel, and what is changed in it."""


def changed(name: str, folder: Path) -> Op:
    """Return the entry of a kernel of the table, its module written into a folder that Python imports from."""
    entry, change = CHANGES[name]
    (op,) = (op for op in OPS if op.name == entry)
    number = list(CHANGES).index(name)  # a name of its own for each changed module: Python keeps what it imported
    return op if change is None else change.planted(replace(op, name=f"{entry}_{number}"), folder)


def shares(op: Op) -> dict[str, float]:
    """Return the largest share of the allowance that a gradient takes by each promise, at small and at real sizes."""
    mode, worst = MODES["backward"], dict.fromkeys(PROMISES, 0.0)
    for case in fixed_cases(op, FORMATS["float16"]):
        gradients = mode.gradients(case, "cpu")
        # The kernel runs once for all promises: the interpreter is slow.
        given = replace(mode, gradients=lambda *_, gradients=gradients: gradients)
        for promise in PROMISES:
            found = judged(replace(case, promise=promise), given, "cpu").worst_share
            worst[promise] = max(worst[promise], found)
    return worst


def row(name: str, folder: Path) -> str:
    """Write the row of a kernel in Markdown."""
    return f"| {name} | {' | '.join(f'{share:.2g}' for share in shares(changed(name, folder)).values())} |"


def main(folder: str) -> None:
    """Print the table."""
    sys.path.insert(0, folder)
    for name in CHANGES:
        print(row(name, Path(folder)), flush=True)  # noqa: T201 - what the command is for


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where changed modules are written")
    main(**vars(parser.parse_args()))
