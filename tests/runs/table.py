"""What a run counts: verdicts, and promises kept."""

from __future__ import annotations

import io
import re
import shutil
from collections import Counter, defaultdict
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
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from tests.verdict.record import Record

WIDTH = 120
"""Columns of a table that is not printed to a terminal."""

GAP = 2
"""Blanks between two columns of a table."""

HEIGHT = 100
"""Lines of a terminal that rich is told: nothing printed here depends on it."""

ALARM = "bold red"
"""The style of what is new, which also says so in a word: readable on light terminals and on dark ones."""

GRAVITY = (UNSUPPORTED, *VERDICTS, *BROKEN)
"""All that a record may say, the least grave first: where torch says that it has no kernel, nothing was judged."""

DEVIATING = (*VERDICTS[1:], *BROKEN)
"""What a record says of what is wrong, the least grave first."""

NEW = "new"
"""The row that counts what deviates and is not on file."""

NONE = "none"
"""Written where not even the loosest promise is kept."""

LONGEST_ROW = 4000
"""Columns of a table in Markdown, of which no row may be broken into lines: more than any row needs."""


def markdown(table: Table) -> str:
    """Write a table that has the box of Markdown."""
    file = io.StringIO()
    Console(file=file, width=LONGEST_ROW).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().strip().splitlines())


def width() -> int:
    """Return the columns that there are to print in: those of the terminal, `WIDTH` where there is none."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def printed(parts: Iterable[RenderableType], *, color: bool, encoding: str | None) -> str:
    """Return tables and lines as text, as wide as the terminal.

    With `color` it has escape sequences. `encoding` is that of the file it is meant for, UTF-8 where that is None:
    characters that this lacks are escaped, and the lines of tables become ASCII.
    """
    # rich asks the file for its encoding, and draws its lines by that
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding or "utf-8", errors="backslashreplace", newline="")
    console = Console(
        file=file,
        width=width(),
        height=HEIGHT,
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=False,  # the caller has looked at NO_COLOR, which rich would look at again
        markup=False,  # brackets in what torch says are brackets
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part)
    file.seek(0)
    # rich fills each line with blanks, which would be selected and compared with the text
    return re.sub(" +$", "", file.read(), flags=re.MULTILINE)


def counts(records: Sequence[Record]) -> Iterator[RenderableType]:
    """Count what a run found: verdicts, and the promises that tensor ops keep, with the ops that keep less.

    Yields tables, and lines of text below each.
    """
    yield from _verdicts(records)
    if promises := kept(records):
        yield ""
        yield from counted(_promises_by_format(promises))
        yield "computes in: the sharpest promise that all gradients of a tensor op kept, in plain reverse mode"
        yield from _looser(promises)


def _verdicts(records: Iterable[Record]) -> Iterator[RenderableType]:
    """Count, for each format on each device, tests, entries and verdicts."""
    columns: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        columns[record.dtype, record.device].append(record)
    found = {verdict for some in columns.values() for verdict in map(_fresh, some)}
    yield from counted({key: _counts(columns[key], found) for key in _ordered(columns)})
    yield "known: deviations of this torch that are on file; unsupported: torch says that it has no kernel"


def _ordered(columns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Put formats on devices in order: by device, and the narrowest format first."""
    order = list(FORMATS)
    return sorted(columns, key=lambda column: (column[1], order.index(column[0])))


def _fresh(record: Record) -> str | None:
    """Return the verdict of a record; None where a known deviation explains it."""
    return record.verdict if record.known is None else None


def _counts(records: Sequence[Record], found: Collection[str | None]) -> dict[str, int]:
    """Count the records of one column: what is new all together, and by each verdict that any column has."""
    fresh = Counter(map(_fresh, records))
    return {
        "tests": len(records),
        "entries": sum(r.compared for r in records),
        VERDICTS[0]: fresh[VERDICTS[0]],
        "known": fresh[None],
        NEW: sum(fresh[verdict] for verdict in DEVIATING),
        **{f"  {verdict}": fresh[verdict] for verdict in DEVIATING if verdict in found},
        UNSUPPORTED: fresh[UNSUPPORTED],
    }


def counted(columns: Mapping[tuple[str, str], Mapping[str, int]]) -> Iterator[Table]:
    """Yield tables of counts, each with as many columns beside each other as there is room for.

    `columns` has the two words above a column, and its counts by the labels of their rows, which are those of all.
    """
    labels = list(next(iter(columns.values())))
    tables: list[list[list[str]]] = []
    room = 0
    for words, found in columns.items():
        cells = [f"{count:,}" for count in found.values()]
        widest = GAP + max(map(len, (*words, *cells)))
        if widest > room:  # the first column always is
            tables.append([])
            room = width() - max(map(len, labels))
        tables[-1].append(["\n".join(words), *cells])
        room -= widest
    for some in tables:
        heads, *rows = zip(*some, strict=True)
        table = tabled("", *heads)
        for column in table.columns[1:]:
            column.justify = "right"
        for label, row in zip(labels, rows, strict=True):
            # the verdicts of what is new are indented below it
            is_alarm = label.strip() in {NEW, *DEVIATING} and set(row) != {"0"}
            table.add_row(label, *row, style=ALARM if is_alarm else "")
        yield table


def tabled(*names: str, title: str | None = None) -> Table:
    """Return a table with columns of these names and no rows yet, of which no cell will be cut off."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, GAP - 1, 0, 0),
        pad_edge=False,
    )
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def kept(records: Iterable[Record]) -> dict[tuple[str, str, str], str]:
    """Return the sharpest promise that each tensor op keeps in a 16-bit format on a device, in plain reverse mode.

    In other modes every step may be rounded, whatever the entry declares. The keys are op, format and device.
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


def _promises_by_format(promises: Mapping[tuple[str, str, str], str]) -> dict[tuple[str, str], dict[str, int]]:
    """Count the tensor ops that keep each promise, in each format on each device."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (_, dtype, device), promise in promises.items():
        counts[dtype, device][promise] += 1
    kept_somewhere = set(promises.values())
    labels = {f"computes in {promise}": promise for promise in (*PROMISES, NONE) if promise in kept_somewhere}

    def column(key: tuple[str, str]) -> dict[str, int]:
        return {label: counts[key][promise] for label, promise in labels.items()}

    return {key: column(key) for key in _ordered(counts)}


def _looser(promises: Mapping[tuple[str, str, str], str]) -> Iterator[str]:
    """Name the ops that keep less than their entries declare."""
    order = (*PROMISES, NONE)
    for (op, dtype, device), promise in sorted(promises.items()):
        declared = OPS[op].inside if op in OPS else PROMISES[-1]  # records have no entries of a user's own
        if order.index(promise) > order.index(declared):
            yield f"looser than declared: {op} in {dtype} on {device} computes in {promise}, not {declared}"


def by_promise(promises: Mapping[tuple[str, str, str], str]) -> Table:
    """Name the tensor ops that keep each promise."""
    rows: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (op, dtype, device), promise in promises.items():
        declared = beside_declared(op, promise).removeprefix(promise)
        rows[dtype, device, promise].append(op + declared)
    title = "What tensor ops compute in: the sharpest promise kept, and in brackets the declared one that differs"
    table = tabled("dtype", "device", "computes in", "tensor ops", title=title)
    order = [*FORMATS, *PROMISES, NONE]
    # by format and promise, the parts 0 and 2 of a key, and then by device
    for (dtype, device, promise), ops in sorted(rows.items(), key=lambda row: (*map(order.index, row[0][::2]), row)):
        table.add_row(dtype, device, promise, ", ".join(ops))
    return table


def short(number: str | None) -> str:
    """Write a hex float in decimal, for reading; anything else as it stands."""
    try:
        return f"{float.fromhex(number or ''):.6g}"
    except ValueError:
        return number or ""
