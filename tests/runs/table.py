"""The verdict table of a run."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from tests.verdict.comparison import UNSUPPORTED, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.verdict.record import Record

WIDTH = 120
"""Columns of a table that is not printed to a terminal."""

GRAVITY = (UNSUPPORTED, *VERDICTS, "error")
"""Verdicts, the least grave first: where torch says that it has no kernel, nothing was judged."""

COUNTED = (*VERDICTS, "error", UNSUPPORTED)
"""Verdicts in the order of the table's columns."""


def rendered(records: Sequence[Record], *, color: bool) -> str:
    """Return the tables as text: verdicts for each format and device, then each op that deviates."""
    console = Console(file=io.StringIO(), force_terminal=color, width=None if color else WIDTH)
    console.print(_by_format(records))
    deviating = [r for r in records if r.verdict not in {VERDICTS[0], UNSUPPORTED}]
    if deviating:
        console.print(_by_op(deviating))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _by_format(records: Iterable[Record]) -> Table:
    rows: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        rows[record.dtype, record.device].append(record)
    table = Table(
        box=box.SIMPLE,
        caption="known: deviations of this torch that are on file; unsupported: torch says that it has no kernel",
        caption_justify="left",
    )
    table.add_column("dtype")
    table.add_column("device")
    for name in ("tests", "entries", COUNTED[0], "known", *COUNTED[1:]):
        table.add_column(name, justify="right")
    for (dtype, device), some in rows.items():
        fresh = [r.verdict for r in some if r.known is None]
        known = sum(r.known is not None for r in some)
        counts = [str(fresh.count(verdict)) for verdict in COUNTED]
        table.add_row(
            dtype, device, str(len(some)), f"{sum(r.compared for r in some):,}", counts[0], str(known), *counts[1:]
        )
    return table


def _by_op(records: Iterable[Record]) -> Table:
    rows: dict[tuple[str, str, str, bool], list[Record]] = defaultdict(list)
    for record in records:
        rows[record.op, record.dtype, record.verdict, record.known is not None].append(record)
    table = Table(box=box.SIMPLE)
    for name in ("op", "dtype", "verdict", "at", "got", "should be", ""):
        table.add_column(name, overflow="fold")
    for (op, dtype, verdict, known), some in sorted(rows.items()):
        worst = max(some, key=lambda r: float("inf") if r.worst_ulp is None else r.worst_ulp)
        at = ", ".join(f"{name}={short(value)}" for name, value in list(worst.at.items())[:3])
        table.add_row(op, dtype, verdict, at, short(worst.got), short(worst.expected), "known" if known else "NEW")
    return table


def short(number: str | None) -> str:
    """Write a hex float in decimal, for reading; anything else as it stands."""
    try:
        return f"{float.fromhex(number or ''):.6g}"
    except ValueError:
        return number or ""
