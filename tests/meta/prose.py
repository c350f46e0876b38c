"""How long the sentences of the pages are, and the lines of the code: ``python -m tests.meta.prose [CHECKOUT ...]``.

Of other checkouts that are named, the README and the code stand beside this one's.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
ROOMS = ("reference", "strategies", "tests")
FEWEST_WORDS = 3
"""The fewest words of a sentence: fewer are a label."""


def pages() -> list[Path]:
    """Return the pages that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page in Markdown, without code, tables and headings."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    prose = re.sub(r"^(    |\||#|<!--|!\[).*$", "", prose, flags=re.MULTILINE)
    prose = re.sub(r"^\s*[-*] ", "\n\n", prose, flags=re.MULTILINE)
    # A link keeps its text; code of any length is one word, with a capital since it may start a sentence.
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`", lambda found: "]" if found[0].startswith("]") else "Code", prose)
    for paragraph in re.split(r"\n\s*\n", prose):
        for sentence in re.split(r"(?<=[.:?!])[\"*)]*\s+(?=[A-Z\"*`(\d])", " ".join(paragraph.split())):
            if len(sentence.split()) >= FEWEST_WORDS:
                yield sentence


def code(root: Path) -> list[Path]:
    """Return the modules of a checkout; of this one, those of its rooms."""
    return sorted(
        path for each in (map(root.joinpath, ROOMS) if root == ROOT else [root]) for path in each.rglob("*.py")
    )


def comments(text: str) -> int:
    """Count the lines of a module with a comment."""
    return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))


def summarised(numbers: Sequence[int]) -> tuple[str, str, str]:
    """Return the median, the 95th percentile and the largest of some numbers, as text."""
    return f"{np.median(numbers):.0f}", f"{np.percentile(numbers, 95):.0f}", f"{max(numbers)}"


def of_code(root: Path) -> tuple[list[int], str]:
    """Return the columns of each line of a checkout's modules that is not blank, and its comments in 100 lines."""
    texts = [path.read_text(encoding="utf-8") for path in code(root)]
    lines = [len(line) for text in texts for line in text.splitlines() if line.strip()]
    return lines, f"{100 * sum(map(comments, texts)) / len(lines):.1f}"


def table() -> Table:
    """Return the table of sentence lengths by page, and of the lines and comments of the code."""
    found = Table("what", "count", "median", "95 %", "longest")
    for page in pages():
        lengths = [len(sentence.split()) for sentence in sentences(page.read_text(encoding="utf-8"))]
        if lengths:
            found.add_row(f"{page.relative_to(ROOT)}: words of a sentence", f"{len(lengths)}", *summarised(lengths))
    lines, commented = of_code(ROOT)
    found.add_row("code: columns of a line", f"{len(lines):,}", *summarised(lines))
    found.add_row("code: comments in 100 lines", commented)
    return found


def beside(roots: Iterable[Path]) -> Table:
    """Return the figures of the README and of the code of several checkouts; a spread is the median and 95 %."""
    found = Table("checkout", "README's words", "of a sentence", "lines", "columns of a line", "comments in 100 lines")
    for root in roots:
        (readme,) = root.glob("README.*")
        lengths = [len(sentence.split()) for sentence in sentences(readme.read_text(encoding="utf-8"))]
        lines, commented = of_code(root)
        middles = (" / ".join(summarised(numbers)[:2]) for numbers in (lengths, lines))
        name = f"{'gradassay' if root == ROOT else root.name} {at(root)}"
        found.add_row(name, f"{sum(lengths):,}", next(middles), f"{len(lines):,}", next(middles), commented)
    return found


def at(root: Path) -> str:
    """Return the commit of a checkout."""
    command = ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.meta.prose", description="Say how long sentences and lines of code are."
    )
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT", help="other projects, to stand beside")
    others = [path.resolve() for path in parser.parse_args().checkouts]
    console = Console(file=sys.stdout, width=120)
    console.print(table())
    if others:
        console.print(beside([ROOT, *others]))


if __name__ == "__main__":
    main()
