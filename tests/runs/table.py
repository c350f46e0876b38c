"""The verdict table of a run."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from reference.case import NARROW, PROMISES
from reference.catalogue import OPS
from reference.format import FORMATS
from tests.subject.mode import MODES, as_it_is
from tests.verdict.choice import TREE
from tests.verdict.comparison import BROKEN, UNSUPPORTED, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.verdict.record import Record

WIDTH = 120
"""Columns of a table that is not printed to a terminal."""

GRAVITY = (UNSUPPORTED, *VERDICTS, *BROKEN)
"""Verdicts, the least grave first: where torch says that it has no kernel, nothing was judged."""

COUNTED = (*VERDICTS, *BROKEN, UNSUPPORTED)
"""Verdicts in the order of the table's columns."""

ENDED = BROKEN[:-1]
"""Verdicts that have a column only where they are found: there are none but in isolated runs."""

NONE = "none"
"""Written where not even the loosest promise is kept."""

LONGEST_ROW = 4000
"""Columns of a table in Markdown, of which no row may be broken into lines."""


def markdown(table: Table) -> str:
    """Write a table that has the box of Markdown."""
    file = io.StringIO()
    Console(file=file, width=LONGEST_ROW).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().strip().splitlines())


def rendered(records: Sequence[Record], *, color: bool) -> str:
    """Return the tables as text: verdicts for each format and device, promises kept, then each op that deviates."""
    console = Console(file=io.StringIO(), force_terminal=color, width=None if color else WIDTH)
    console.print(_by_format(records))
    if promises := kept(records):
        console.print(_by_promise(promises))
    deviating = [r for r in records if r.verdict not in {VERDICTS[0], UNSUPPORTED}]
    if deviating:
        console.print(_by_op(deviating))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _by_format(records: Iterable[Record]) -> Table:
    rows: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        rows[record.dtype, record.device].append(record)
    counted = [v for v in COUNTED if v not in ENDED or any(v == r.verdict for some in rows.values() for r in some)]
    table = Table(
        box=box.SIMPLE,
        collapse_padding=True,
        caption="known: deviations of this torch that are on file; unsupported: torch says that it has no kernel",
        caption_justify="left",
    )
    table.add_column("dtype")
    table.add_column("device")
    for name in ("tests", "entries", counted[0], "known", *counted[1:]):
        table.add_column(name, justify="right")
    for (dtype, device), some in rows.items():
        fresh = [r.verdict for r in some if r.known is None]
        known = sum(r.known is not None for r in some)
        counts = [str(fresh.count(verdict)) for verdict in counted]
        table.add_row(
            dtype, device, str(len(some)), f"{sum(r.compared for r in some):,}", counts[0], str(known), *counts[1:]
        )
    return table


def kept(records: Iterable[Record]) -> dict[tuple[str, str, str], str]:
    """Return the sharpest promise that each tensor op keeps in a 16-bit format on a device, in plain reverse mode.

    In other modes every step may be rounded, whatever the entry declares.
    """
    found: dict[tuple[str, str, str], str] = {}
    gravity = (*PROMISES, NONE)
    for record in records:
        mode = MODES[record.mode]
        is_plain = mode.word == "r" and mode.puts is as_it_is
        if is_plain and _is_promised(record) and record.verdict not in {UNSUPPORTED, *BROKEN}:
            key = record.op, record.dtype, record.device
            found[key] = max(found.get(key, PROMISES[0]), record.inside or NONE, key=gravity.index)
    return found


def _is_promised(record: Record) -> bool:
    """Say whether a record is of a tensor op, or of an op that is not in the catalogue, in a 16-bit format."""
    op = OPS.get(record.op)
    return FORMATS[record.dtype].bits <= NARROW and record.op != TREE and (op is None or not op.elementwise)


def beside_declared(op: str, promise: str) -> str:
    """Write what an op keeps, with what its entry declares in brackets where that is another promise."""
    declared = OPS[op].inside if op in OPS else promise
    return promise if promise == declared else f"{promise} ({declared})"


def _by_promise(promises: Mapping[tuple[str, str, str], str]) -> Table:
    rows: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (op, dtype, device), promise in promises.items():
        declared = beside_declared(op, promise).removeprefix(promise)
        rows[dtype, device, promise].append(op + declared)
    table = Table(
        box=box.SIMPLE,
        caption="computes in: the sharpest promise that an op's gradients kept; what its entry declares, where that is "
        "another, is in brackets",
        caption_justify="left",
    )
    table.add_column("dtype")
    table.add_column("device")
    table.add_column("computes in", no_wrap=True)
    table.add_column("tensor ops")
    order = [*FORMATS, *PROMISES, NONE]
    for (dtype, device, promise), ops in sorted(rows.items(), key=lambda row: (*map(order.index, row[0][::2]), row)):
        table.add_row(dtype, device, promise, ", ".join(ops))
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
