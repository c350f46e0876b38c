"""What tensor ops compute in where the format is 16 bits: ``python -m tests.runs.promises docs/promises.md``.

`reference.case.PROMISES` has the promises that an op may make of that. The table has the sharpest one that the
installed torch keeps in reverse mode: at small shapes, at some lengths of the longest axis, and in real use.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from reference.case import PROMISES
from reference.catalogue import OPS
from reference.format import FORMATS
from strategies.cases import fixed_cases, long_case, real_cases
from tests.runs.table import NONE, markdown
from tests.subject.mode import MODES
from tests.verdict.comparison import UnsupportedError, judged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reference.case import Case
    from reference.format import Format
    from reference.op import Op

LENGTHS = (8, 65, 257, 1025)
"""Lengths of the longest axis, between the small shapes and real use."""

DTYPES = ("float16", "bfloat16")

UNASKED = ""
"""Written where nothing was asked."""


def sharpest(cases: Iterable[Case]) -> str:
    """Return the sharpest promise that torch keeps at all cases; NONE for none, UNASKED without a case."""
    held, asked = list(PROMISES), False
    for case in cases:
        try:
            judgement = judged(replace(MODES["backward"].asks(case), promise=PROMISES[-1]), MODES["backward"], "cpu")
        except UnsupportedError:
            continue
        asked = True
        held = [promise for promise in held if promise in judgement.held]
    return (held[0] if held else NONE) if asked else UNASKED


def row(op: Op, form: Format) -> list[str]:
    """Return the cells of an op: what it declares, and keeps at small shapes, at each length and in real use."""
    lengths = [[long_case(op, form, length)] if op.axes and not op.shapes else [] for length in LENGTHS]
    asked = [fixed_cases(op, form, whole=True), *lengths, real_cases(op, form)]
    return [op.name, form.name, op.inside, *map(sharpest, asked)]


def written(ops: Sequence[Op]) -> str:
    """Write the page in Markdown, with a row for each op and format."""
    table = Table("op", "dtype", "declared", "small", *map(str, LENGTHS), "in real use", box=box.MARKDOWN)
    rows = [(op, FORMATS[name]) for op in ops for name in DTYPES]
    for op, form in track(rows, "Judging", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        table.add_row(*row(op, form))
    return f"{HEAD.format(torch=torch.__version__.split('+')[0])}{markdown(table)}\n"


HEAD = """\
# What torch {torch} computes in, where the format is 16 bits

Of each tensor op, in reverse mode on the CPU: what its entry declares, and the sharpest promise that was kept at small
shapes, with a longest axis of so many elements, and in real use (4,096 columns, or what the entry says). *wide*: every
step in float32, and each result rounded once. *operands*: so, but what enters a product of matrices is rounded first.
*saved*: so, but what the forward pass keeps for the backward is rounded too. *format*: every step is rounded. A
gradient in *format* may be off by more than its own size after some hundred terms of a sum.

`python -m tests.runs.promises docs/promises.md` makes this table.

"""


def main() -> None:
    """Write the page to a file, or print it."""
    parser = argparse.ArgumentParser(description="Say which promises tensor ops keep of what they compute in.")
    parser.add_argument(
        "result", type=Path, nargs="?", help="the file to write in Markdown; printed unless it is given"
    )
    result = parser.parse_args().result
    text = written([op for op in OPS.values() if not op.elementwise])
    if result is None:
        sys.stdout.write(text)
    else:
        result.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
