"""How often the gate of speed cries wolf, and what it misses.

``python -m tests.runs.speed.noise time|instructions TIMES [--plant SHARE]`` compares this build of torch with itself
again and again, one side slowed down where that is asked for.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations, product
from time import perf_counter
from typing import TYPE_CHECKING

from tests.runs.speed import gate, instructions, interleaved
from tests.runs.speed.work import counted, gated
from tests.runs.speed.worker import Side

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.runs.outcome import Change

    Round = tuple[str, Sequence[Change]]


def of_time(times: int, before: Side, after: Side) -> Iterator[Round]:
    """Compare times so many times, as the gate does; yield what each comparison says, and its changes."""
    for number in range(times):
        start = perf_counter()
        ratios = interleaved.compared(before, after, list(gated()))
        again = sum(ratio.is_confirmed for ratio in ratios.values())
        yield (
            f"comparison {number + 1}: {perf_counter() - start:.0f} s, {again} of {len(ratios)} works measured again",
            gate.of_times(ratios),
        )


def of_instructions(times: int, before: Side, after: Side) -> Iterator[Round]:
    """Count so many times, two counts at a time, and compare each count with each other.

    Where a slowdown is planted, each count without it is compared with each with it.
    """
    counts: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for number in range(0, times, 2):
        start = perf_counter()
        for side, count in instructions.counts(
            {"before": before, "after": after}, list(counted()), lambda _: None
        ).items():
            counts[side].append(count)
        sys.stdout.write(f"counts {number + 1} and {number + 2}: {perf_counter() - start:.0f} s\n")
        sys.stdout.flush()
    pairs = (
        product(counts["before"], counts["after"])
        if after.plant
        else combinations(counts["before"] + counts["after"], 2)
    )
    for a, b in pairs:
        ratios = [b[work] / a[work] for work in a]
        yield f"pair: from {min(ratios) - 1:+.2%} to {max(ratios) - 1:+.2%}", gate.of_counts(a, b)


def main() -> None:
    """Compare, say what each comparison finds, and sum it up."""
    parser = argparse.ArgumentParser(description="Compare this build of torch with itself, as the gate of speed does.")
    parser.add_argument("measure", choices=gate.MEASURES)
    parser.add_argument(
        "times",
        type=int,
        metavar="TIMES",
        help="how many comparisons, or how many counts, each of which is compared with each",
    )
    parser.add_argument(
        "--plant", type=float, default=0.0, metavar="SHARE", help="slow every backward of one side down by that share"
    )
    options = parser.parse_args()
    before, after = Side(sys.executable), Side(sys.executable, plant=options.plant)
    rounds, works = (of_time, gated()) if options.measure == "time" else (of_instructions, counted())
    comparisons, closed, changed = 0, 0, 0
    for said, changes in rounds(options.times, before, after):
        worse = sum(change.is_worse for change in changes)
        comparisons, closed, changed = comparisons + 1, closed + (worse > 0), changed + worse
        sys.stdout.write(f"{said}{''.join(f'; {change.kind} {change.key[0]} {change.note}' for change in changes)}\n")
        sys.stdout.flush()
    sys.stdout.write(
        f"{closed} of {comparisons} comparisons closed the gate; "
        f"{changed} of {comparisons * len(works)} works were worse\n"
    )


if __name__ == "__main__":
    main()
