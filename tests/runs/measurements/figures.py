"""Takes figures out of what commands print and write.

Each function named `of_` something takes the text of one kind of command, and returns rows of named figures; each
named `printed_` something returns such a function. For a text of another kind that raises UnreadableError, or another
ValueError, or a LookupError.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from junitparser import JUnitXml

from reference.catalogue import OPS
from tests.runs.speed import table as speed
from tests.verdict.comparison import UNSUPPORTED, VERDICTS
from tests.verdict.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Cell = int | float | str
"""One figure: a count, a measure, or words."""

Rows = dict[str, dict[str, Cell]]
"""What was measured, by what is measured of it."""

WHOLE = "all"
"""The name of a row about all that was asked."""

WORKS = ("tanh", "pow", "pow(x, -2)", "prod", "neuron", "perceptron", "attention block")
"""Backwards that have a row of their own."""


class UnreadableError(ValueError):
    """What was given has no figures of that kind; the message says what does."""


def tables(text: str) -> list[Rows]:
    """Return each table of a text, by the first cell of a row and the head of a column.

    A table is one that rich printed, with lines of a box or two blanks or more between its columns, or one of Markdown.
    A head that is there twice gets the head of the column before it in front.
    """
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        cells = _cells(line)
        if not any(char.isalnum() for char in line):  # a rule, or an empty line
            continue
        # a line of text, or one with other columns, ends a table
        if len(cells) < 2 or (found[-1] and len(cells) != len(found[-1][0])):
            found.append([])
        if len(cells) >= 2:
            found[-1].append(cells)
    return [_rows(_heads(head), body) for head, *body in filter(None, found) if body]


def _cells(line: str) -> list[str]:
    """Return the cells of a line of a table."""
    if line.strip().startswith(("┃", "│", "|")):
        return [cell.strip() for cell in re.split("[┃│|]", line.strip()[1:-1])]
    return re.split(r" {2,}", line.strip())


def _heads(cells: list[str]) -> list[str]:
    """Return the heads of columns, made different from each other."""
    return [f"{cells[i - 1]}, {cell}" if cells.count(cell) > 1 else cell for i, cell in enumerate(cells)]


def _rows(heads: list[str], body: list[list[str]]) -> Rows:
    """Return rows by their first cells, and in each the others by the heads of their columns."""
    return {row[0]: dict(zip(heads[1:], map(_number, row[1:]), strict=True)) for row in body}


def _number(cell: str) -> Cell:
    """Return a count as a number, and anything else as it is."""
    plain = cell.replace(",", "")
    return int(plain) if plain.isdigit() else cell


def printed_table(number: int = 0) -> Callable[[str], Rows]:
    """Return the function that takes a table out of what a command prints: the first is number 0."""

    def taken(text: str) -> Rows:
        found = tables(text)
        if len(found) <= number:
            message = f"has {len(found)} tables; accepted: what prints {number + 1} or more"
            raise UnreadableError(message)
        return found[number]

    return taken


def printed_counts(pattern: str) -> Callable[[str], Rows]:
    """Return the function that takes the named groups of a pattern out of the last place that matches it."""

    def taken(text: str) -> Rows:
        found = list(re.finditer(pattern, text))
        if not found:
            message = f"has no line like {pattern}"
            raise UnreadableError(message)
        return {WHOLE: {name.replace("_", " "): _number(value) for name, value in found[-1].groupdict().items()}}

    return taken


def of_sensitivity(text: str) -> Rows:
    """Return the smallest bias that is noticed, by format and by how much of a gradient is wrong."""
    # the progress bar above the table has none of these lines
    lines = [_cells(line) for line in text.splitlines() if "│" in line or "┃" in line]
    head, *body = [cells for cells in lines if len(cells) > 2]
    return {f"{dtype}, {wrong}": dict(zip(head[2:], rest, strict=True)) for dtype, wrong, *rest in body}


def of_tape_faults(text: str) -> Rows:
    """Return how many faults of the tape the model notices, and how long the programs are that show them."""
    # a program takes several lines of the table, of which the first alone has the name of its fault and its steps
    rows = [_cells(line) for line in text.splitlines() if line.lstrip().startswith("│")]
    steps = [int(cells[1]) for cells in rows if len(cells) > 2 and cells[1].isdigit()]
    planted = sum(bool(cells[0]) and len(cells) > 2 for cells in rows)
    if not planted:
        message = "has no table of faults; accepted: what `python -m tests.meta.tape_faults` prints"
        raise UnreadableError(message)
    return {
        "faults": {"planted": planted, "noticed": len(steps)},
        "steps of a program": {"median": f"{median(steps):g}", "longest": max(steps)},
    }


def of_records(text: str) -> Rows:
    """Return what a run asked and found, in each format on each device."""
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in map(Record.parsed, filter(None, text.splitlines())):
        rows[f"{record.dtype}, {record.device}"].append(record)
        rows[WHOLE].append(record)
    if not rows:
        message = "has no record; accepted: what `pytest --records` wrote"
        raise UnreadableError(message)
    rows[WHOLE] = rows.pop(WHOLE)  # to the end
    return {name: _counted(records) for name, records in rows.items()}


def _counted(records: Sequence[Record]) -> dict[str, Cell]:
    """Count the records of a format on a device."""
    return {
        "tests": len(records),
        "entries compared": sum(each.compared for each in records),
        "agree": sum(each.verdict == VERDICTS[0] for each in records),
        "known": sum(each.known is not None for each in records),
        "unsupported": sum(each.verdict == UNSUPPORTED for each in records),
        "new": sum(each.known is None and each.verdict not in {VERDICTS[0], UNSUPPORTED} for each in records),
    }


def of_atlas(text: str) -> Rows:
    """Return how much an atlas judges, of elementwise ops and of others."""
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    parts = {
        "elementwise ops": [row for row in rows if OPS[row["op"]].elementwise],
        "tensor ops": [row for row in rows if not OPS[row["op"]].elementwise],
        WHOLE: rows,
    }
    return {name: _judged(some) for name, some in parts.items()}


def _judged(rows: Sequence[dict[str, str]]) -> dict[str, Cell]:
    """Count rows of an atlas."""
    return {
        "rows": len(rows),
        "inputs judged": sum(int(row["inputs"]) for row in rows),
        "agree": sum(row["verdict"] == VERDICTS[0] for row in rows),
    }


def of_gate(text: str) -> Rows:
    """Return how many rows a gate compared, and each that is worse, of its JUnit XML."""
    # a test case of JUnit is a row
    cases = [case for suite in JUnitXml.fromstring(text.encode()) for case in suite]
    worse: Rows = {case.name: {"": str(case.result[0].message)} for case in cases if case.result}
    return {WHOLE: {"": f"{len(cases)} rows, of which {len(worse)} are worse"}, **worse}


def of_backwards(text: str) -> Rows:
    """Return how many times its analytic floor a backward takes, and how time grows, of what pytest-benchmark wrote."""
    found = speed.parsed(text)
    plain = [f for f in found if f.kind == "backward" and not f.grows and f.times_floor is not None]
    middle = _short(median(f.times_floor or 0 for f in plain))
    rows: Rows = {f"the median of {len(plain)} backwards": {"times its floor": middle}}
    rows |= {
        f"the backward of {f.work}{', alone' * (f.size == 1)}": {"times its floor": _short(f.times_floor or 0)}
        for f in plain
        if f.work in WORKS
    }
    grown: Rows = {
        f"{growth.of}, {growth.kind}": {f"grows with {growth.variable} to the power": _short(growth.exponent)}
        for growth in speed.growths(found)
        if growth.variable == "depth"
    }
    rows |= grown
    for f in found:
        if f.by_hand:
            rows["the benchmark's own overhead"] = {"beside a loop by hand": f"{f.seconds / f.by_hand - 1:+.1%}"}
    return rows


def of_oracle(text: str) -> Rows:
    """Return how fast the oracle is, beside gradcheck and torch, of what pytest-benchmark wrote."""
    rows: Rows = {}
    for f in speed.parsed(text):
        ratios = {"times as fast as gradcheck": f.times_gradcheck, "times torch's time": f.times_torch}
        told = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        if told:
            rows[_told(f.name)] = {"entries a second": f.entries_per_second or 0, **told}
    return rows


def _told(test: str) -> str:
    """Name what a test of the oracle's speed is of."""
    kind, _, of = test.removeprefix("test_").partition("[")
    return f"{kind.removesuffix('_outpaces_gradcheck').replace('_', ' ')}: {of.removesuffix(']')}".removesuffix(": ")


def of_wall(text: str) -> Rows:
    """Return how many wrong gradients the oracle accepts, and how many sound ones it rejects, of the wall's page."""
    scores = [table for table in tables(text) if any("wrong accepted" in row for row in table.values())]
    dtypes = re.findall(r"^In (\w+):", text, re.MULTILINE)  # a line of the page above each table of scores
    found: Rows = {}
    for dtype, table in zip(dtypes, scores, strict=False):
        for row in table.values():
            if str(row["project"]).startswith("gradassay"):
                found[f"{dtype}, {row['project']}"] = {name: row[name] for name in ("wrong accepted", "sound rejected")}
    return found


def of_imports(text: str) -> Rows:
    """Return how long imports take in seconds, of what ``python -X importtime`` prints: of all, and of some in it."""
    # A line has the microseconds of a module itself, those with all that it imports, and its name.
    lines = re.findall(r"^import time: +(\d+) \| +(\d+) \| +(\S+)$", text, re.MULTILINE)
    totals = {name: int(total) for _, total, name in lines if name in {"torch", "sympy", "hypothesis", "pytest"}}
    if lines:
        totals[WHOLE] = sum(int(own) for own, _, _ in lines)
    return {name: {"seconds": _short(total / 1e6)} for name, total in totals.items()}


def _short(number: float) -> float:
    """Return a number rounded to three significant digits."""
    return float(f"{number:.3g}")
