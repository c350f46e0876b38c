"""The accuracy gate: ``python -m tests.runs.gate RECORDS.jsonl BASELINE.tsv``.

Compares each row of a committed atlas, an op in a format on a device, with what a run found. The exit status is 1
where any row is worse.

A miss is a gradient that was judged and is wrong: inaccurate, lost, of another convention or malformed, the least grave
first. It is on file where a known deviation covers it. An error is a test that broke, or that did not end since torch
hung or crashed: it is graver than any miss and never on file. Where there is an error, and where torch says that it has
no kernel, nothing was judged.

What is worse:

- A row *fails*: it has a miss or an error that is not on file, and that is graver than what the baseline excuses. The
  baseline excuses a miss that it has too, and what is less grave; but not where that miss was on file for the same
  torch, since it is not on file now. Known deviations are of one version of torch, so what was on file for another is
  excused. An agreement excuses nothing, and nor does a row where nothing was judged or a row that is not there. So an
  error fails whatever was there before.
- A row is *unsupported* that was not.
- A row is *less accurate*: before and now it agrees, or before and now it has a miss, and its worst error is more than
  `growth` times what it was. Errors are compared between the same kernels only: other instructions round otherwise.
- A row is *less sharp*: before and now a promise was kept of what the op computes in, and now it is a looser one.
- A row of the baseline is *gone*.

What is better: a row agrees that did not. It is *mended*, or *supported* where it was unsupported.

What is nobody's business: all else. So it is with what is the same, with an error that is smaller, with a miss that is
on file where there was none, and with one that is no graver than the miss that is excused.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from reference.case import PROMISES
from tests.runs import atlas, outcome
from tests.runs.outcome import Change, Outcome
from tests.verdict import record
from tests.verdict.comparison import UNSUPPORTED, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Mapping

Row = dict[str, str]
Key = tuple[str, str, str]

AGREES, *MISSES = VERDICTS

GROWTH = 1.01
"""How much larger a worst error is before it counts.

The points are the same each time, so that nothing is left to chance.
"""


class NothingComparedError(ValueError):
    """A run left no record; the message says where."""


def read(text: str) -> dict[Key, Row]:
    """Read an atlas: its rows by op, format and device."""
    return {(row["op"], row["dtype"], row["device"]): row for row in csv.DictReader(io.StringIO(text), delimiter="\t")}


def changes(baseline: Mapping[Key, Row], found: Mapping[Key, Row], growth: float = GROWTH) -> list[Change]:
    """Return what differs, the gravest first; a worst error counts where it is more than `growth` times what it was."""
    differing = [
        change for key, before in baseline.items() if (change := _compared(key, before, found.get(key), growth))
    ]
    fresh = [
        Change("fails", key, "not in the baseline", row["verdict"], row["at"])
        for key, row in found.items()
        if key not in baseline and _failure(row)
    ]
    order = ("fails", "gone", "unsupported", "less accurate", "less sharp", "mended", "supported")
    return sorted([*differing, *fresh], key=lambda change: (order.index(change.kind), change.key))


def _compared(key: Key, before: Row, after: Row | None, growth: float) -> Change | None:
    """Return the gravest change of a row, by the rules above in their order; None where none applies."""
    if after is None:
        return Change("gone", key, before["verdict"], "no such row")
    was, now = before["verdict"], after["verdict"]
    if _failure(after) > _excused(before, after):
        return Change("fails", key, was, now, after["at"])
    if now == UNSUPPORTED:
        return None if was == now else Change("unsupported", key, was, now)
    if now == AGREES != was:
        return Change("supported" if was == UNSUPPORTED else "mended", key, was, now)
    alike = before["kernels"] == after["kernels"] and (was in MISSES) == (now in MISSES)
    if alike and _ulps(after) > growth * _ulps(before):
        return Change("less accurate", key, f"{_ulps(before):g} ulp", f"{_ulps(after):g} ulp", after["at"])
    if before["inside"] and after["inside"] and PROMISES.index(after["inside"]) > PROMISES.index(before["inside"]):
        return Change("less sharp", key, before["inside"], after["inside"], after["at"])
    return None


def _failure(row: Row) -> int:
    """Return how grave a failure is that is not on file, and 0 where there is none."""
    return atlas.failure(row["verdict"], on_file=row["known"] == "yes")


def _excused(before: Row, after: Row) -> int:
    """Return the gravest failure that a row of the baseline excuses, and 0 where it excuses none."""
    if before["verdict"] not in MISSES:
        return 0
    return atlas.failure(before["verdict"], on_file=before["known"] == "yes" and before["torch"] == after["torch"])


def _ulps(row: Row) -> float:
    """Return the worst error in ulps; the atlas leaves it out where what came was not finite."""
    return float(row["worst_ulp"] or "inf")


def main() -> None:
    """Compare, say what differs, and exit with 1 where anything is worse."""
    parser = argparse.ArgumentParser(description="Compare what a run found with a baseline.")
    parser.add_argument("records", type=Path, help="the file that pytest --records wrote")
    parser.add_argument("baseline", type=Path, help="the atlas to compare with")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="leave out the rows that were not asked; else they are gone, as after a run that was cut off",
    )
    add_options(parser)
    options = parser.parse_args()
    with record.usage_errors(parser, NothingComparedError):
        baseline = read(options.baseline.read_text())
        sys.exit(closes(options.records, baseline, options, partial=options.partial))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a gate of accuracy."""
    parser.add_argument(
        "--growth",
        type=float,
        default=GROWTH,
        metavar="F",
        help=f"how many times as large a worst error may be ({GROWTH})",
    )
    outcome.add_options(parser)


def closes(records: Path, baseline: Mapping[Key, Row], options: argparse.Namespace, *, partial: bool) -> bool:
    """Compare records with a baseline, write what the options ask for, and say whether anything is worse.

    Raises OSError where a file cannot be read or written, and NothingComparedError where there are no records.
    """
    found = read(atlas.written(record.read(records)))
    if not found:
        message = f"{records}: has no record, so that nothing is compared; accepted: what `pytest --records` wrote"
        raise NothingComparedError(message)
    due = {key: row for key, row in baseline.items() if not partial or key in found}
    result = Outcome("accuracy", ("op", "dtype", "device"), list(found), changes(due, found, options.growth))
    result.write(options)
    if options.update:
        both = {**baseline, **found}.values()
        options.baseline.write_text(atlas.table(itemgetter(*atlas.COLUMNS)(row) for row in both))
    return bool(result.worse) and not options.update


if __name__ == "__main__":
    main()
