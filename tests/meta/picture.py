"""The README's picture, a failure in colour: ``python -m tests.meta.picture docs/failure.svg``."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.meta.kernels import entry
from tests.meta.test_explanation import first
from tests.subject.mode import MODES
from tests.verdict.explanation import explained

WIDTH = 112
"""Columns of the terminal that is drawn."""

STYLES = {
    r"is (lost|inaccurate|malformed):": "bold red",
    r"got \S+?(?=,)": "red",
    r"should be \S+": "green",
    r"\[\w+, \w+, \w+\]": "cyan",
    r"columns .*": "yellow",
    r"\w+ is right": "green",
}
"""The style of what matches each pattern in a failure."""

# As rich has it, without the fonts that it would fetch.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def drawn() -> str:
    """Return the picture, in SVG, of what is said of a norm whose backward leaves out the last columns."""
    said = explained(first(entry("tail", faulty=True)), MODES["backward"], "cpu").partition("\nTo see it")[0]
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    text = Text(said.rstrip())
    for pattern, style in STYLES.items():
        text.highlight_regex(pattern, style)
    console.print(text)
    return console.export_svg(title="pytest", theme=MONOKAI, code_format=FORMAT, unique_id="failure")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="Draw a failure in colour.")
    parser.add_argument("path", type=Path, help="the SVG to write")
    parser.parse_args().path.write_text(drawn(), encoding="utf-8")


if __name__ == "__main__":
    main()
