"""The accuracy gate: ``python -m tests.subject.gate RECORDS.jsonl BASELINE.tsv``.

Compares what a run found with a committed atlas: what fails that did not, what is less accurate, what
torch no longer can; and, since that needs no one's attention, only counts what is better. The exit status is 1
where anything is worse. Errors are compared between the same kernels only: other instructions round otherwise.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from junitparser import Failure, JUnitXml, TestCase, TestSuite
from rich import box
from rich.console import Console
from rich.table import Table

from tests.subject import atlas, record
from tests.subject.comparison import UNSUPPORTED
from tests.subject.table import GRAVITY, WIDTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Row = dict[str, str]
Key = tuple[str, str, str]

GROWTH = 1.01
"""How much larger a worst error is before it counts: the points are the same each time, so that nothing is left to chance."""


@dataclass(frozen=True)
class Change:
    """One row of the atlas that is not what it was."""

    kind: str
    """``fails``, ``less accurate``, ``unsupported`` or ``gone``; or ``mended``, which passes."""

    key: Key
    before: str
    after: str
    at: str = ""

    @property
    def is_worse(self) -> bool:
        """Whether the gate closes for it."""
        return self.kind != "mended"


def read(text: str) -> dict[Key, Row]:
    """Read an atlas by op, format and device."""
    return {(row["op"], row["dtype"], row["device"]): row for row in csv.DictReader(io.StringIO(text), delimiter="\t")}


def changes(baseline: Mapping[Key, Row], found: Mapping[Key, Row], growth: float = GROWTH) -> list[Change]:
    """Return what differs, the gravest first."""
    differing = [change for key, before in baseline.items() if (change := _compared(key, before, found.get(key), growth))]
    fresh = [Change("fails", key, "not in the baseline", row["verdict"], row["at"]) for key, row in found.items() if key not in baseline and _grave(row)]
    order = ("fails", "gone", "unsupported", "less accurate", "mended")
    return sorted([*differing, *fresh], key=lambda change: (order.index(change.kind), change.key))


def _compared(key: Key, before: Row, after: Row | None, growth: float) -> Change | None:
    if after is None:
        return Change("gone", key, before["verdict"], "no such row")
    if before["verdict"] != after["verdict"]:
        if after["verdict"] == UNSUPPORTED:
            return Change("unsupported", key, before["verdict"], after["verdict"])
        worse = before["verdict"] == UNSUPPORTED or GRAVITY.index(after["verdict"]) > GRAVITY.index(before["verdict"])
        return Change("fails" if worse and _grave(after) else "mended", key, before["verdict"], after["verdict"], after["at"])
    if before["kernels"] == after["kernels"] and _ulps(after) > growth * _ulps(before):
        return Change("less accurate", key, f"{before['worst_ulp']} ulp", f"{after['worst_ulp']} ulp", after["at"])
    return None


def _grave(row: Row) -> bool:
    return row["verdict"] not in {GRAVITY[0], UNSUPPORTED}


def _ulps(row: Row) -> float:
    return float(row["worst_ulp"] or 0)


def shown(found: Sequence[Change], compared: int, *, markdown: bool = False) -> str:
    """Write the changes as a table: for people, or in Markdown."""
    worse = sum(change.is_worse for change in found)
    table = Table("", "op", "dtype", "device", "before", "now", "at", box=box.MARKDOWN if markdown else box.SIMPLE)
    for change in found:
        table.add_row(change.kind, *change.key, change.before, change.after, change.at)
    console = Console(file=io.StringIO(), width=10_000 if markdown else WIDTH)
    console.print(f"{'#' * 2 * markdown} The gate of accuracy is {'closed' if worse else 'open'}: of {compared:,} rows {worse} are worse and {len(found) - worse} better".strip())
    if found:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def junit(found: Iterable[Change], rows: Iterable[Key]) -> str:
    """Write a test case for each row, failed where it is worse."""
    suite = TestSuite("gradassay accuracy")
    worse = {change.key: change for change in found if change.is_worse}
    for key in rows:
        case = TestCase("-".join(key), classname="gate")
        if key in worse:
            case.result = [Failure(f"{worse[key].kind}: {worse[key].before}, now {worse[key].after} at {worse[key].at}")]
        suite.add_testcase(case)
    document = JUnitXml()
    document.add_testsuite(suite)
    written: str = document.tostring().decode()
    return written


def main() -> None:
    """Compare, say what differs, and exit with 1 where anything is worse."""
    parser = argparse.ArgumentParser(description="Compare what a run found with a baseline.")
    parser.add_argument("records", type=Path, help="the file that pytest --records wrote")
    parser.add_argument("baseline", type=Path, help="the atlas to compare with")
    parser.add_argument("--update", action="store_true", help="write what was found into the baseline, rows that were not asked left as they are")
    parser.add_argument("--partial", action="store_true", help="leave out the rows of ops that were not asked; else they are gone, as after a run that was cut off")
    parser.add_argument("--growth", type=float, default=GROWTH, metavar="F", help=f"how many times as large a worst error may be ({GROWTH})")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the outcome as JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="append the outcome in Markdown, as $GITHUB_STEP_SUMMARY wants it")
    options = parser.parse_args()
    try:
        found, baseline = read(atlas.written(record.read(options.records))), read(options.baseline.read_text())
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    if not found:
        parser.error(f"{options.records}: has no record, so that nothing is compared; accepted: what `pytest --records` wrote")
    asked = {(op, device) for op, _, device in found}
    due = {key: row for key, row in baseline.items() if not options.partial or (key[0], key[2]) in asked}
    differing = changes(due, found, options.growth)
    sys.stdout.write(shown(differing, len(found)))
    if options.junit:
        options.junit.write_text(junit(differing, found))
    if options.markdown:
        with options.markdown.open("a") as file:
            file.write(shown(differing, len(found), markdown=True))
    if options.update:
        options.baseline.write_text(atlas.table(tuple(row[name] for name in atlas.COLUMNS) for row in (baseline | found).values()))
    sys.exit(any(change.is_worse for change in differing) and not options.update)


if __name__ == "__main__":
    main()
