"""The page of a run: ``python -m tests.subject.report RECORDS.jsonl REPORT.html``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from reference.format import FORMATS
from tests.subject import record
from tests.subject.comparison import UNSUPPORTED, VERDICTS
from tests.subject.table import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.subject.record import Record

TEMPLATE = "report.html.jinja"
MOST_INPUTS = 4
"""Inputs of a point that are shown; the rest is in the record."""


def page(records: Sequence[Record]) -> str:
    """Write records as one HTML page that needs nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": short, "point": _point, "folded": _folded}
    columns = sorted({(r.dtype, r.mode, r.device) for r in records}, key=lambda column: (list(FORMATS).index(column[0]), column))
    table = {(r.op, r.dtype, r.mode, r.device): r for r in sorted(records, key=lambda r: (r.verdict != VERDICTS[0], r.known is None))}
    ops = list(dict.fromkeys(r.op for r in records))
    missed = [r for r in records if r.verdict not in {VERDICTS[0], UNSUPPORTED}]
    return environment.get_template(TEMPLATE).render(
        torch=", ".join(sorted({r.torch for r in records})) or "not run",
        seed=", ".join(sorted({str(r.seed) for r in records})),
        tests=len(records),
        compared=sum(r.compared for r in records),
        fresh=[r for r in missed if r.known is None],
        known=[r for r in missed if r.known is not None],
        columns=columns,
        rows=[(op, [table.get((op, *column)) for column in columns]) for op in ops],
    )


def _folded(records: Sequence[Record]) -> list[tuple[Record, list[str]]]:
    """Put records that differ only in the mode on one row: the first of them, and the modes."""
    rows: dict[tuple[str | None, ...], list[Record]] = {}
    for r in records:
        rows.setdefault((r.op, r.dtype, r.device, r.verdict, r.known or r.got), []).append(r)
    return [(same[0], [r.mode for r in same]) for same in rows.values()]


def _point(at: dict[str, str]) -> str:
    shown = [f"{name} = {short(value)}" for name, value in list(at.items())[:MOST_INPUTS]]
    return ", ".join(shown) + (", ..." if len(at) > MOST_INPUTS else "")


if __name__ == "__main__":
    record.convert("Write a page about a run.", "the page to write", page)
