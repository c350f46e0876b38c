"""What runs found, side by side: ``python -m tests.runs.summary RECORDS.jsonl [MORE.jsonl ...]``.

How much was asked in each mode, on each device; what torch cannot be asked, in its own words; what tensor ops compute
in; and where devices differ, each judged against the truth, so that one sees which is wrong. With ``--all``, every row
of what deviates, the gravest first.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from reference.format import FORMATS
from tests.runs import gravest
from tests.runs.table import DEVIATING, GRAVITY, NEW, by_promise, counted, kept, printed, tabled
from tests.verdict import record
from tests.verdict.comparison import UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from tests.verdict.record import Record

MOST_OPS = 6
"""Ops that are named beside what torch says of them."""

NOTABLE = 1.0
"""Ulps by which the worst errors of two devices differ before a row is shown. The number is arbitrary."""


def modes(records: Sequence[Record]) -> Iterator[RenderableType]:
    """Count the ops asked in each mode and format, on each device: yields a title and tables."""
    rows: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for r in records:
        rows[r.device, r.mode, r.order].append(r)
    columns: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for (device, mode, order), some in rows.items():
        label = f"{device} {mode}"
        columns["", "order"][label] = order
        for form in FORMATS:
            columns["ops in", form][label] = len({r.op for r in some if r.dtype == form and r.verdict != UNSUPPORTED})
        columns["entries", "compared"][label] = sum(r.compared for r in some)
        columns["", "known"][label] = sum(r.known is not None for r in some)
        columns["", NEW][label] = sum(r.known is None and r.verdict in DEVIATING for r in some)
        columns["", UNSUPPORTED][label] = sum(r.verdict == UNSUPPORTED for r in some)
    yield "Ops asked in each mode and format"
    yield from counted(columns)


def refusals(records: Sequence[Record]) -> Table | None:
    """Count what torch cannot be asked, in its own words; None where it could be asked everything."""
    said: dict[str, list[Record]] = defaultdict(list)
    for r in records:
        if r.verdict == UNSUPPORTED:
            said[r.got or ""].append(r)
    table = tabled("torch says", "tests", "of", title="Unsupported")
    for words, some in sorted(said.items(), key=lambda pair: -len(pair[1])):
        ops = sorted({r.op for r in some})
        table.add_row(
            words,
            str(len(some)),
            ", ".join(ops[:MOST_OPS]) + (f" and {len(ops) - MOST_OPS} more" if len(ops) > MOST_OPS else ""),
        )
    return table if said else None


def differences(records: Sequence[Record]) -> Table | None:
    """Show each op and format in which devices differ, with the verdict and the worst error on each.

    Returns None where there is one device, which differs from none.
    """
    devices = list(dict.fromkeys(r.device for r in records))
    if len(devices) < 2:
        return None
    table = tabled("op", "dtype", *devices, title="Where devices differ: verdict, and worst error in ulp")
    rows: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for r in records:
        here = rows[r.op, r.dtype]
        here[r.device] = max(here.get(r.device, r), r, key=_gravity)
    for (op, form), found in sorted(rows.items()):
        # what was not asked on every device says nothing of a difference
        if len(found) == len(devices) and _differ(list(found.values())):
            table.add_row(op, form, *(_cell(found[device]) for device in devices))
    return table


def _gravity(r: Record) -> tuple[int, float]:
    """Return what sorts the records of an op on a device, the gravest last: by verdict, and then by error."""
    return GRAVITY.index(r.verdict), _worst(r)


def _worst(r: Record) -> float:
    return float("inf") if r.worst_ulp is None else r.worst_ulp


def _differ(found: Sequence[Record]) -> bool:
    """Say whether the verdicts of devices differ, or their worst errors do notably."""
    ulps = [_worst(r) for r in found]
    # where all errors are infinite their difference is NaN, which is no larger
    return len({r.verdict for r in found}) > 1 or max(ulps) - min(ulps) > NOTABLE


def _cell(r: Record) -> str:
    ulp = "" if r.worst_ulp is None else f" {r.worst_ulp:.3g}"
    return f"{r.verdict}{'' if r.known is None else ' (known)'}{ulp}"


def tables(records: Sequence[Record], *, whole: bool = False) -> Iterator[RenderableType]:
    """Yield the tables that have a row, with titles; if `whole`, also one with every row of what deviates."""
    yield from modes(records)
    promises = kept(records)
    for table in (refusals(records), by_promise(promises) if promises else None, differences(records)):
        if table is not None:
            yield from ("", table)
    if whole and (groups := gravest.deviating(records)):
        yield from ("", "What deviates, the gravest first, new before known", gravest.table(groups))


def main() -> None:
    """Print the tables of one or more files of records."""
    parser = argparse.ArgumentParser(
        description="Say what was asked, what torch cannot be asked, what ops compute in, and where devices differ."
    )
    parser.add_argument("records", type=Path, nargs="+", help="files that pytest --records wrote")
    parser.add_argument("--all", action="store_true", help="show every row of what deviates, the gravest first")
    options = parser.parse_args()
    with record.usage_errors(parser):
        records = [r for path in options.records for r in record.read(path)]
    terminal = Console()  # which knows of NO_COLOR, FORCE_COLOR and terminals without colours
    color = terminal.is_terminal and terminal.color_system is not None and not terminal.no_color
    sys.stdout.write(printed(tables(records, whole=options.all), color=color, encoding=sys.stdout.encoding))


if __name__ == "__main__":
    main()
