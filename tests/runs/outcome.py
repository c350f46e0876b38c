"""What a gate found: changes, as a table for people, in Markdown, and in JUnit XML."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from junitparser import Failure, JUnitXml, TestCase, TestSuite
from rich import box
from rich.console import Console
from rich.table import Table

from tests.runs.table import WIDTH

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

PASSES = frozenset({"mended", "supported", "faster", "fewer instructions"})
"""The kinds of change that no one has to attend to."""

IN_MESSAGE = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
IN_PROPERTY = IN_MESSAGE | str.maketrans({":": "%3A", ",": "%2C"})
"""How GitHub Actions wants what would end a part of an annotation."""


@dataclass(frozen=True)
class Change:
    """One row that is not what it was."""

    kind: str
    """Such as ``fails``, ``less accurate``, ``slower`` or ``gone``; or one of PASSES."""

    key: tuple[str, ...]
    """What names the row."""

    before: str
    after: str
    note: str = ""

    @property
    def is_worse(self) -> bool:
        """Whether the gate closes for it."""
        return self.kind not in PASSES

    def __str__(self) -> str:
        """Say what it was and what it is."""
        return f"{self.kind}: {self.before}, now {self.after} {self.note}".rstrip()


@dataclass(frozen=True)
class Outcome:
    """What a gate compared, and what of it differs, the gravest first."""

    gate: str
    """What is guarded, such as ``accuracy``."""

    columns: tuple[str, ...]
    """What the parts of a key are."""

    rows: Sequence[tuple[str, ...]]
    """The key of each row that was compared."""

    changes: Sequence[Change]
    note_column: str = "at"

    @property
    def worse(self) -> int:
        """The number of rows for which the gate closes."""
        return sum(change.is_worse for change in self.changes)

    def text(self, *, markdown: bool = False) -> str:
        """Write the changes as a table: for people, or in Markdown."""
        table = Table(
            "", *self.columns, "before", "now", self.note_column, box=box.MARKDOWN if markdown else box.SIMPLE
        )
        for change in self.changes:
            table.add_row(change.kind, *change.key, change.before, change.after, change.note)
        console = Console(file=io.StringIO(), width=10_000 if markdown else WIDTH)
        better = len(self.changes) - self.worse
        console.print(
            f"{'#' * 2 * markdown} The gate of {self.gate} is {'closed' if self.worse else 'open'}: "
            f"of {len(self.rows):,} rows {self.worse} are worse and {better} better".strip()
        )
        if self.changes:
            console.print(table)
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"

    def junit(self) -> str:
        """Write a test case for each row, failed where it is worse."""
        suite = TestSuite(f"gradassay {self.gate}")
        worse = {change.key: change for change in self.changes if change.is_worse}
        for key in dict.fromkeys((*self.rows, *worse)):
            case = TestCase("-".join(key), classname="gate")
            if key in worse:
                case.result = [Failure(str(worse[key]))]
            suite.add_testcase(case)
        document = JUnitXml()
        document.add_testsuite(suite)
        written: str = document.tostring().decode()
        return written

    def annotations(self, file: Path) -> str:
        """Write a line for each row that is worse, which GitHub Actions shows at a file."""
        place = str(file).translate(IN_PROPERTY)
        worse = [f"{'-'.join(change.key)} {change}" for change in self.changes if change.is_worse]
        return "".join(f"::error file={place},title=gate of {self.gate}::{s.translate(IN_MESSAGE)}\n" for s in worse)

    def write(self, options: argparse.Namespace) -> None:
        """Print the table, and write what the options ask for."""
        sys.stdout.write(self.text())
        if options.annotate:
            sys.stdout.write(self.annotations(options.annotate))
        if options.junit:
            options.junit.parent.mkdir(parents=True, exist_ok=True)
            options.junit.write_text(self.junit())
        if options.markdown:
            with options.markdown.open("a") as file:
                file.write(self.text(markdown=True))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every gate has."""
    parser.add_argument("--update", action="store_true", help="write what was found into the baseline, and pass")
    parser.add_argument(
        "--annotate", type=Path, metavar="FILE", help="print what is worse as annotations of a file in GitHub Actions"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the outcome as JUnit XML")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="append the outcome in Markdown, as $GITHUB_STEP_SUMMARY wants it"
    )
