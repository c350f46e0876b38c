"""What the installed torch gets wrong: ``python -m tests.runs.findings [OP ...]``.

Each finding comes with plain torch that shows it.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser
from typing import TYPE_CHECKING

from reference.case import Case, repeated_order
from reference.catalogue import OPS
from tests.subject.device import passing, probed
from tests.subject.mode import MODES
from tests.verdict import deviation
from tests.verdict.comparison import REPEATS, judged
from tests.verdict.explanation import explained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.op import Op
    from tests.subject.mode import Mode
    from tests.verdict.comparison import Miss
    from tests.verdict.deviation import Deviation


def asked(known: Deviation, op: Op, mode: Mode) -> list[Case]:
    """Return what a mode is asked at the pinned input: for a second derivative, of the gradient by each input."""
    case = deviation.pinned(known, op)
    if op.elementwise:  # repeated, so that vectors of kernels are full: what is left over has other instructions
        case = case.repeated(REPEATS)
    return [mode.asks(each) for each in (repeated_order(case, mode.word) if mode.order > 1 else [case])]


def pinned_miss(known: Deviation, op: Op, mode: Mode) -> Miss | None:
    """Return the first miss at the pinned input that a deviation covers, or None where torch no longer has it."""
    return next(
        (
            miss
            for case in asked(known, op, mode)
            for miss in judged(case, mode, known.device).misses
            if known.covers(miss)
        ),
        None,
    )


def right_bits(miss: Miss) -> int:
    """Return how many of the significand's bits are right, by which findings are ranked; 0 for what is not finite."""
    if not 0 < miss.ulp < math.inf:
        return 0
    return min(max(math.floor(miss.case.form.precision - 1 - math.log2(miss.ulp)), 0), miss.case.form.precision)


def page(found: Sequence[tuple[Deviation, Miss]]) -> Iterator[str]:
    """Write findings in Markdown, the worst first."""
    yield f"# {len(found)} wrong gradients of torch, the worst first\n"
    for known, miss in sorted(
        found, key=lambda pair: (right_bits(pair[1]) / pair[1].case.form.precision, str(pair[0]))
    ):
        yield f"## {known.op}, {known.dtype}: {right_bits(miss)} of {miss.case.form.precision} bits right\n"
        yield f"Where {known.region}: {known.reason}. {known.link[:1].upper()}{known.link[1:]}.\n"
        yield f"```\n{explained([miss], MODES[known.modes[0]], known.device)}\n```\n"


def main() -> None:
    """Print the findings on all ops, or on those named."""
    # A device such as cuda:1 shows what is on file of cuda.
    here = {name.split(":")[0] for name in passing(probed())}
    known = [d for d in deviation.read(deviation.FILE, OPS) if d.device in here]
    parser = ArgumentParser(description="Print what the installed torch gets wrong, in Markdown.")
    parser.add_argument(
        "ops",
        nargs="*",
        metavar="OP",
        choices=[*sorted({d.op for d in known}), []],  # argparse checks the empty list, which is the default, too
        help="only these; all that have any unless given",
    )
    named = parser.parse_args().ops
    found = [(d, pinned_miss(d, OPS[d.op], MODES[d.modes[0]])) for d in known if not named or d.op in named]
    for part in page([(d, miss) for d, miss in found if miss is not None]):
        sys.stdout.write(f"{part}\n")


if __name__ == "__main__":
    main()
