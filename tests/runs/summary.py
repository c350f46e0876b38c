"""What runs found, side by side: ``python -m tests.runs.summary RECORDS.jsonl [MORE.jsonl ...]``.

How much was asked in each mode, on each device; what torch cannot be asked, in its own words; and
where devices differ, each judged against the truth, so that one sees which is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from reference.format import FORMATS
from tests.runs.table import GRAVITY, WIDTH
from tests.verdict import record
from tests.verdict.comparison import UNSUPPORTED, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.verdict.record import Record

MOST_OPS = 6
"""Ops that are named beside what torch says of them."""

NOTABLE = 1.0
"""Ulps by which the worst errors of two devices differ before a row is shown."""


def modes(records: Sequence[Record]) -> Table:
    """Count the ops asked in each mode and format, on each device."""
    table = Table(
        "device", "mode", "order", title="Ops asked in each mode and format", box=box.SIMPLE, title_justify="left"
    )
    for name in (*FORMATS, "entries compared", "known", "new", UNSUPPORTED):
        table.add_column(name, justify="right")
    rows: dict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for r in records:
        rows[r.device, r.mode, r.order].append(r)
    for (device, mode, order), some in rows.items():
        fresh = [r for r in some if r.known is None and r.verdict not in {VERDICTS[0], UNSUPPORTED}]
        ops = [len({r.op for r in some if r.dtype == form and r.verdict != UNSUPPORTED}) for form in FORMATS]
        counts = sum(r.known is not None for r in some), len(fresh), sum(r.verdict == UNSUPPORTED for r in some)
        table.add_row(device, mode, str(order), *map(str, ops), f"{sum(r.compared for r in some):,}", *map(str, counts))
    return table


def refusals(records: Sequence[Record]) -> Table | None:
    """Count what torch cannot be asked, in its words; None where it could be asked everything."""
    said: dict[str, list[Record]] = defaultdict(list)
    for r in records:
        if r.verdict == UNSUPPORTED:
            said[r.got or ""].append(r)
    table = Table("torch says", "tests", "of", title="Unsupported", box=box.SIMPLE, title_justify="left")
    for words, some in sorted(said.items(), key=lambda pair: -len(pair[1])):
        ops = sorted({r.op for r in some})
        table.add_row(
            words,
            str(len(some)),
            ", ".join(ops[:MOST_OPS]) + (f" and {len(ops) - MOST_OPS} more" if len(ops) > MOST_OPS else ""),
        )
    return table if said else None


def differences(records: Sequence[Record]) -> Table | None:
    """Show each op and format in which devices differ; None with one device.

    Each device has its verdict and its worst error.
    """
    devices = list(dict.fromkeys(r.device for r in records))
    if len(devices) < 2:
        return None
    table = Table(
        "op",
        "dtype",
        *devices,
        title="Where devices differ: verdict, and worst error in ulp",
        box=box.SIMPLE,
        title_justify="left",
    )
    rows: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for r in records:
        here = rows[r.op, r.dtype]
        here[r.device] = max(here.get(r.device, r), r, key=_gravity)
    for (op, form), found in sorted(rows.items()):
        if len(found) == len(devices) and _differ(list(found.values())):
            table.add_row(op, form, *(_cell(found[device]) for device in devices))
    return table


def _gravity(r: Record) -> tuple[int, float]:
    return GRAVITY.index(r.verdict), _worst(r)


def _worst(r: Record) -> float:
    return float("inf") if r.worst_ulp is None else r.worst_ulp


def _differ(found: Sequence[Record]) -> bool:
    ulps = [_worst(r) for r in found]
    return len({r.verdict for r in found}) > 1 or max(ulps) - min(ulps) > NOTABLE


def _cell(r: Record) -> str:
    ulp = "" if r.worst_ulp is None else f" {r.worst_ulp:.3g}"
    return f"{r.verdict}{'' if r.known is None else ' (known)'}{ulp}"


def tables(records: Sequence[Record]) -> Iterator[Table]:
    """Return the tables that there is something to say in."""
    yield from (table for table in (modes(records), refusals(records), differences(records)) if table is not None)


def main() -> None:
    """Print the tables of one or more files of records."""
    parser = argparse.ArgumentParser(
        description="Say what was asked, what torch cannot be asked, and where devices differ."
    )
    parser.add_argument("records", type=Path, nargs="+", help="files that pytest --records wrote")
    try:
        records = [r for path in parser.parse_args().records for r in record.read(path)]
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for table in tables(records):
        console.print(table)


if __name__ == "__main__":
    main()
