"""The atlas: how accurate each op's gradient is in each format, in a file that diffs well."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

import torch

from reference.case import NARROW, PROMISES
from reference.format import FORMATS
from tests.runs.table import GRAVITY, short
from tests.verdict import record
from tests.verdict.comparison import BROKEN, UNSUPPORTED, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.verdict.record import Record

MOST_INPUTS = 8
"""Inputs that a row has the values of."""

COLUMNS = (
    "op",
    "dtype",
    "device",
    "torch",
    "kernels",
    "inputs",
    "verdict",
    "known",
    "inside",
    "worst_ulp",
    "worst_share",
    "at",
    "got",
    "should_be",
)


def _disagrees(verdict: str) -> bool:
    """Say whether a verdict is that of a miss, or of a test that broke or did not end."""
    return verdict not in {VERDICTS[0], UNSUPPORTED}


def failure(verdict: str, *, on_file: bool) -> int:
    """Return how grave a failure is that no known deviation excuses, and 0 where there is none.

    A test that broke, or did not end, is never on file, whatever it had found before.
    """
    fresh = verdict in BROKEN or (_disagrees(verdict) and not on_file)
    return GRAVITY.index(verdict) if fresh else 0


def rows(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """Return a row of `COLUMNS` for each op, format, device and torch: what was judged, and the worst of it."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for each in records:
        groups.setdefault((each.op, each.dtype, each.device, each.torch.split("+")[0]), []).append(each)
    return [(*key, _kernels(key[2]), *_worst(some)) for key, some in groups.items()]


def _kernels(device: str) -> str:
    """Name the set of instructions whose kernels torch runs on this CPU, since those of others round otherwise."""
    return torch.backends.cpu.get_cpu_capability() if device == "cpu" else ""


def _worst(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the columns from `inputs` on, of the record that agrees least.

    A new miss comes before a known one, that before any agreement, and that before what torch cannot be asked. Of new
    misses the gravest comes first, and then the most ulps.
    """
    worst = max(
        records,
        key=lambda r: (
            _failure(r),
            _disagrees(r.verdict),
            r.verdict != UNSUPPORTED,
            math.inf if r.worst_ulp is None else r.worst_ulp,
        ),
    )
    inputs = str(sum(r.compared for r in records))
    if worst.verdict == UNSUPPORTED:
        return (inputs, worst.verdict, *[""] * 7)  # nothing was judged, so that the other columns have nothing to say
    known = ("no" if _failure(worst) else "yes") if _disagrees(worst.verdict) else ""
    numbers = tuple("" if n is None else f"{n:.3g}" for n in (worst.worst_ulp, worst.worst_share))
    at = ", ".join(f"{name}={value}" for name, value in islice(worst.at.items(), MOST_INPUTS))
    at += ", ..." * (len(worst.at) > MOST_INPUTS)
    return (inputs, worst.verdict, known, _inside(records), *numbers, at, short(worst.got), short(worst.expected))


def _inside(records: Sequence[Record]) -> str:
    """Return the sharpest promise that all records kept; empty in wider formats, where all promises are one."""
    judged = [r for r in records if r.verdict != UNSUPPORTED]
    if FORMATS[records[0].dtype].bits > NARROW or any(r.inside is None for r in judged):
        return ""
    return max((r.inside or "" for r in judged), key=PROMISES.index)  # they stand from the sharpest to the loosest


def _failure(each: Record) -> int:
    return failure(each.verdict, on_file=each.known is not None)


def written(records: Iterable[Record]) -> str:
    """Write the atlas of a run, as `table` does."""
    return table(rows(records))


def table(cells: Iterable[tuple[str, ...]]) -> str:
    """Write rows in the order of op, format and device under a head, with tabs between columns."""
    order = list(FORMATS)
    ranked = sorted(cells, key=lambda row: (row[0], order.index(row[1]), row[2]))
    return "".join("\t".join(row) + "\n" for row in (COLUMNS, *ranked))


if __name__ == "__main__":
    record.convert("Write the atlas of a run.", "the table to write, with tabs between columns", written)
