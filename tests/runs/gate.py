"""The accuracy gate: ``python -m tests.runs.gate RECORDS.jsonl BASELINE.tsv``.

Compares what a run found with a committed atlas and with the known deviations: what fails that did not, and is not on
file; what is less accurate; what torch no longer can; and what is better, which needs no one's attention. The exit
status is 1 where anything is worse. Errors are compared between the same kernels only: other instructions round
otherwise.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.runs import atlas, outcome
from tests.runs.outcome import Change, Outcome
from tests.runs.table import GRAVITY
from tests.verdict import record
from tests.verdict.comparison import UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Mapping

Row = dict[str, str]
Key = tuple[str, str, str]

GROWTH = 1.01
"""How much larger a worst error is before it counts.

The points are the same each time, so that nothing is left to chance.
"""


def read(text: str) -> dict[Key, Row]:
    """Read an atlas by op, format and device."""
    return {(row["op"], row["dtype"], row["device"]): row for row in csv.DictReader(io.StringIO(text), delimiter="\t")}


def changes(baseline: Mapping[Key, Row], found: Mapping[Key, Row], growth: float = GROWTH) -> list[Change]:
    """Return what differs, the gravest first."""
    differing = [
        change for key, before in baseline.items() if (change := _compared(key, before, found.get(key), growth))
    ]
    fresh = [
        Change("fails", key, "not in the baseline", row["verdict"], row["at"])
        for key, row in found.items()
        if key not in baseline and _is_new(row)
    ]
    order = ("fails", "gone", "unsupported", "less accurate", "mended")
    return sorted([*differing, *fresh], key=lambda change: (order.index(change.kind), change.key))


def _compared(key: Key, before: Row, after: Row | None, growth: float) -> Change | None:
    if after is None:
        return Change("gone", key, before["verdict"], "no such row")
    if before["verdict"] != after["verdict"] and after["verdict"] == UNSUPPORTED:
        return Change("unsupported", key, before["verdict"], after["verdict"])
    on_file = _is_new(before) or before["torch"] != after["torch"]  # deviations are of one version
    if _is_new(after) and not (on_file and _gravity(before) >= _gravity(after)):
        return Change("fails", key, before["verdict"], after["verdict"], after["at"])
    if before["verdict"] != after["verdict"]:
        return None if after["known"] else Change("mended", key, before["verdict"], after["verdict"])
    if before["kernels"] == after["kernels"] and _ulps(after) > growth * _ulps(before):
        return Change("less accurate", key, f"{before['worst_ulp']} ulp", f"{after['worst_ulp']} ulp", after["at"])
    return None


def _is_new(row: Row) -> bool:
    """Say whether a row fails, and no known deviation says so."""
    return row["known"] == "no"


def _gravity(row: Row) -> int:
    return GRAVITY.index(row["verdict"])


def _ulps(row: Row) -> float:
    return float(row["worst_ulp"] or 0)


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
    parser.add_argument(
        "--growth",
        type=float,
        default=GROWTH,
        metavar="F",
        help=f"how many times as large a worst error may be ({GROWTH})",
    )
    outcome.add_options(parser)
    options = parser.parse_args()
    try:
        found, baseline = read(atlas.written(record.read(options.records))), read(options.baseline.read_text())
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    if not found:
        parser.error(
            f"{options.records}: has no record, so that nothing is compared; accepted: what `pytest --records` wrote"
        )
    due = {key: row for key, row in baseline.items() if not options.partial or key in found}
    result = Outcome("accuracy", ("op", "dtype", "device"), list(found), changes(due, found, options.growth))
    sys.stdout.write(result.shown())
    result.write(options.junit, options.markdown)
    if options.update:
        options.baseline.write_text(
            atlas.table(tuple(row[name] for name in atlas.COLUMNS) for row in (baseline | found).values())
        )
    sys.exit(bool(result.worse) and not options.update)


if __name__ == "__main__":
    main()
