"""The figures on file, and the page that is made of them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from tests.runs.measurements.measurement import MEASUREMENTS
from tests.runs.table import markdown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.runs.measurements.figures import Cell, Rows
    from tests.runs.measurements.measurement import Measurement

ROOT = Path(__file__).parents[3]
FILE = ROOT / "docs/measurements.json"

HEAD = """\
# Measurements

Every figure that a page gives, with the command that measures it. In the environment of the tests,

    python -m tests.runs.measurements NAME ...
    python -m tests.runs.measurements --page docs/measurements.md

takes those that are named, or with `--all` each that this commit does not have yet, and writes this page. Figures are
kept in `docs/measurements.json`, with the commit that they were taken at and the machine. `--from FILE` takes them out
of what a command has printed or written already. Times are those of one machine; ratios and counts compare.
"""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The figures of one measurement, and where they were taken."""

    commit: str
    """The first seven digits of its hash."""

    date: str
    """The day, as in 2026-01-31."""

    torch: str
    """The version, without what names the build."""

    cpu: str
    """The model of the processor, and how many cores of it there were."""

    seconds: float | None
    """How long the command took; None where its output was taken from a file."""

    processor_seconds: float | None
    """How long processors worked on it, all of them together; None as above."""

    figures: Rows


def read(path: Path = FILE) -> dict[str, Taken]:
    """Read the figures on file, by measurement; raises OSError."""
    return {name: Taken(**fields) for name, fields in json.loads(path.read_text(encoding="utf-8")).items()}


def written(taken: Mapping[str, Taken]) -> str:
    """Write figures as they are on file: sorted by measurement, in the order of the table in each."""
    # sorted, so that two measurements that are taken beside each other change different lines
    entries = {name: asdict(taken[name]) for name in sorted(taken)}
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def page(taken: Mapping[str, Taken]) -> str:
    """Write the page, in Markdown."""
    return HEAD + "".join(_parts(taken))


def _parts(taken: Mapping[str, Taken]) -> Iterator[str]:
    """Yield the parts of the page: a heading before each family, and what there is of each measurement."""
    family = None
    for name, measurement in MEASUREMENTS.items():
        if measurement.family != family:
            family = measurement.family
            yield f"\n## {family.capitalize()}\n"
        yield f"\n{section(measurement, taken.get(name))}"


def section(measurement: Measurement, taken: Taken | None) -> str:
    """Write what the page has of one measurement."""
    head = (
        f"### {measurement.name.replace('-', ' ').capitalize()}\n\n{measurement.says}\n\n    {measurement.command}\n\n"
    )
    if taken is None:
        return f"{head}Not taken yet.\n"
    took = "" if taken.seconds is None else f", in {taken.seconds:,.0f} s"
    worked = "" if taken.processor_seconds is None else f" ({taken.processor_seconds:,.0f} s of processor time)"
    where = f"Taken on {taken.date} at commit {taken.commit}, with torch {taken.torch}, on {taken.cpu}{took}{worked}."
    return f"{head}{_table(taken.figures)}\n\n{where}\n"


def _table(figures: Rows) -> str:
    """Write figures with a column for each name that any row has, in the order in which the names first come."""
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    table = Table("", *columns, box=box.MARKDOWN)
    for name, row in figures.items():
        # what Markdown would set in italics; `Text` keeps rich from reading brackets as its markup
        escaped = re.sub(r"([*_])", r"\\\1", name)
        table.add_row(*map(Text, (escaped, *(_spelt(row.get(column, "")) for column in columns))))
    return markdown(table)


def _spelt(cell: Cell) -> str:
    """Write a figure, a number with commas between thousands."""
    return cell if isinstance(cell, str) else f"{cell:,}"
