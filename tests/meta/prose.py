"""How long the sentences of the pages are, and the lines of the code: ``python -m tests.meta.prose``."""

from __future__ import annotations

import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
ROOMS = ("reference", "strategies", "tests")
FEWEST_WORDS = 3
"""Words of a sentence: fewer are a label."""


def pages() -> list[Path]:
    """Return the pages that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page in Markdown, without code, tables and headings."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    prose = re.sub(r"^(    |\||#|<!--|!\[).*$", "", prose, flags=re.MULTILINE)
    prose = re.sub(r"^\s*[-*] ", "\n\n", prose, flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)|`[^`]*`", lambda found: "]" if found[0].startswith("]") else "Code", prose)
    for paragraph in re.split(r"\n\s*\n", prose):
        for sentence in re.split(r"(?<=[.:?!])[\"*)]*\s+(?=[A-Z\"*`(\d])", " ".join(paragraph.split())):
            if len(sentence.split()) >= FEWEST_WORDS:
                yield sentence


def code() -> list[Path]:
    """Return the modules."""
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def comments(text: str) -> int:
    """Count the lines of a module with a comment."""
    return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline))


def spread(numbers: Sequence[int]) -> tuple[str, str, str]:
    """Return the median, the 95th percentile and the largest."""
    return f"{np.median(numbers):.0f}", f"{np.percentile(numbers, 95):.0f}", f"{max(numbers)}"


def table() -> Table:
    """Return the figures."""
    found = Table("what", "count", "median", "95 %", "longest")
    for page in pages():
        lengths = [len(sentence.split()) for sentence in sentences(page.read_text(encoding="utf-8"))]
        if lengths:
            found.add_row(f"{page.relative_to(ROOT)}: words of a sentence", f"{len(lengths)}", *spread(lengths))
    texts = [path.read_text(encoding="utf-8") for path in code()]
    lines = [len(line) for text in texts for line in text.splitlines() if line.strip()]
    found.add_row("code: columns of a line", f"{len(lines):,}", *spread(lines))
    found.add_row("code: comments in 100 lines", f"{100 * sum(map(comments, texts)) / len(lines):.1f}")
    return found


if __name__ == "__main__":
    Console(file=sys.stdout, width=120).print(table())
