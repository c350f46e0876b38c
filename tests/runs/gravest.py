"""What deviates in a run: the gravest rows of it, or all."""

from __future__ import annotations

import math
from collections import defaultdict
from shlex import quote
from textwrap import shorten
from typing import TYPE_CHECKING

from rich.table import Table

from reference.format import FORMATS
from tests.runs.table import ALARM, DEVIATING, GAP, short, tabled, width
from tests.verdict.comparison import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from tests.verdict.record import Record

WIDE = 110
"""Columns from which on what deviates is shown in a table, whose rows seldom fit in fewer; below it is in lines."""

MOST_ROWS = 10
"""Rows of what deviates that a run shows: a screen with what is around them."""

MOST_INPUTS = 3
"""Inputs that a row has the values of. The number is arbitrary."""

MOST_SAID = 30
"""Characters of what torch said in the place of a number. The number is arbitrary."""

FEWEST_DIGITS = 6
"""Digits that numbers have at least."""

MOST_DIGITS = 17
"""Digits that tell any two numbers of float64 apart."""

FEW_ULPS = 16
"""Ulps up to which an error is small, whatever its share of the allowance: four bits, an arbitrary number."""


def deviating(records: Iterable[Record]) -> list[list[Record]]:
    """Return the records that deviate in groups, which are of one op, format, device and verdict, and new or known.

    New groups come before known ones, and the gravest first, in each group too.
    """
    groups: dict[tuple[str, str, str, str, bool], list[Record]] = defaultdict(list)
    for r in records:
        if r.verdict in DEVIATING:
            groups[r.op, r.dtype, r.device, r.verdict, r.known is not None].append(r)
    return sorted((sorted(some, key=gravity) for some in groups.values()), key=lambda some: gravity(some[0]))


def gravity(record: Record) -> tuple[bool, int, float, str, str]:
    """Return what sorts records that deviate, the gravest first.

    New ones come before known ones, then it is by what torch gave, and then by the share of the allowance.
    """
    share = math.inf if record.worst_share is None else record.worst_share
    return record.known is not None, _severity(record), -share, record.op, record.dtype


def _severity(record: Record) -> int:
    """Return a number for what torch gave, 0 the gravest.

    The order is: 0 a test that broke; 1 a wrong number in the ordinary range; 2 NaN or an infinity for a finite truth;
    3 zero for a normal truth; 4 what is malformed, which is seldom silent; 5 a few ulp; 6 what is by convention.
    """
    if record.verdict in BROKEN:
        return 0
    if record.verdict in {"malformed", "convention"}:
        return 4 if record.verdict == "malformed" else 6
    form, got, due = FORMATS[record.dtype], float.fromhex(record.got or "nan"), float.fromhex(record.expected or "nan")
    if math.isfinite(due) and not math.isfinite(got):
        return 2
    if abs(got) < form.smallest_normal <= abs(due):
        return 3
    # 0 is ordinary; subnormals and infinities are not
    is_ordinary = all(not number or form.smallest_normal <= abs(number) <= form.largest for number in (got, due))
    is_far = record.worst_ulp is None or record.worst_ulp > FEW_ULPS
    return 1 if is_ordinary and is_far else 5


def digest(records: Iterable[Record], path: str | None) -> Iterator[RenderableType]:
    """Yield a table of the gravest rows of a run, and lines that say how many there are and how to see all.

    `path` is the file of the records, where they are written to one. Nothing is yielded where nothing deviates.
    """
    groups = deviating(records)
    if not groups:
        return
    yield table(groups[:MOST_ROWS])
    fresh = sum(some[0].known is None for some in groups)
    counts = f"{fresh} new and {len(groups) - fresh} known"
    if len(groups) <= MOST_ROWS:
        yield f"rows that deviate: {counts}"
        return
    yield f"the {MOST_ROWS} gravest of {len(groups):,} rows that deviate, {counts}; all of them:"
    yield f"  python -m {__package__}.summary {quote(path or 'FILE.jsonl')} --all"
    if path is None:
        yield "of a run with --records FILE.jsonl"


def table(groups: Sequence[Sequence[Record]]) -> Table:
    """Return a row for the gravest record of each group: in a table where there is room for one, else in lines."""
    return _in_rows(groups) if width() >= WIDE else _in_lines(groups)


def _in_rows(groups: Sequence[Sequence[Record]]) -> Table:
    """Return a table with a column for each thing that is said."""
    table = tabled("", "op", "dtype", "device", "verdict", "tests", "times allowance", "at", "got", "should be")
    table.columns[5].justify = table.columns[6].justify = "right"
    for some in groups:
        r = some[0]  # the gravest
        row = (_state(r), r.op, r.dtype, r.device, r.verdict, str(len(some)), _share(r), _at(r), *_apart(r))
        table.add_row(*row, style=ALARM if r.known is None else "")
    return table


def _in_lines(groups: Sequence[Sequence[Record]]) -> Table:
    """Return two lines for each group, which a narrow terminal may break: a table of many columns would not fit."""
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for some in groups:
        r = some[0]
        share = f", {_share(r)} times the allowance" if _share(r) else ""
        got, due = _apart(r)
        said = ", ".join(filter(None, [f"got {got}" if got else "", f"should be {due}" if due else ""]))
        where = ": ".join(filter(None, [f"at {_at(r)}" if r.at else "", said]))
        head = f"{r.op} in {r.dtype} on {r.device}: {r.verdict}{share} ({len(some)} test{'s' * (len(some) > 1)})"
        table.add_row(_state(r), f"{head}\n{where}", style=ALARM if r.known is None else "")
    return table


def _state(record: Record) -> str:
    return "NEW" if record.known is None else "known"


def _at(record: Record) -> str:
    """Write the first inputs of a record."""
    few = ", ".join(f"{name}={short(value)}" for name, value in list(record.at.items())[:MOST_INPUTS])
    return few + ", ..." * (len(record.at) > MOST_INPUTS)


def _apart(record: Record) -> tuple[str, str]:
    """Return what came and what is due: numbers with as many digits as tell them apart, and words shortened."""
    try:
        got, due = float.fromhex(record.got or ""), float.fromhex(record.expected or "")
    except ValueError:
        words = (shorten(short(text), MOST_SAID, placeholder=" ...") for text in (record.got, record.expected))
        return next(words), next(words)
    # `MOST_DIGITS` always do, unless the two are the same number
    digits = next((n for n in range(FEWEST_DIGITS, MOST_DIGITS) if f"{got:.{n}g}" != f"{due:.{n}g}"), MOST_DIGITS)
    return f"{got:.{digits}g}", f"{due:.{digits}g}"


def _share(record: Record) -> str:
    return "" if record.worst_share is None else f"{record.worst_share:.3g}"
