"""The page of the kinds: what the fault is, the kernels that have it, and the check that rejects each first.

``python -m tests.meta.kinds.page docs/kinds.md`` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich import box
from rich.table import Table

from tests.meta.kinds.checks import seen_by
from tests.meta.kinds.table import KINDS
from tests.runs.table import markdown

INTRODUCTION = """# Kinds of faults, and the checks that see them

Each kind of fault is one that people reported of a kernel. It is planted in kernels of several ops, each from an entry
of a few fields, beside a sound twin that passes. A kernel is asked what the profile `quick` asks, in this order: hard
points or small shapes, ties and zeros, kinks and edges, stated points, ranks, rows, columns, lengths, magnitudes,
infinities, turns of the formula, layouts of inputs and of the cotangent, sets of inputs, outputs alone, and sizes of
use. The last column has the first of these that rejects it; compiled modes are asked of the fixed points alone.

`python -m tests.meta.kinds.page docs/kinds.md` makes this page again, and `tests/meta/test_kinds.py` holds it to that.
"""


def page() -> str:
    """Return the page, in Markdown."""
    table = Table("kind", "fault", "kernel", "seen by", box=box.MARKDOWN)
    for kind, each in KINDS.items():
        asked = "" if each.dtype == "float32" else f", in {each.dtype}"
        told = [(kind, each.fault), *[("", "")] * (len(each.kernels) - 1)]  # further kernels do not say it again
        for said, name in zip(told, each.kernels, strict=True):
            table.add_row(*said, name, f"{next(seen_by(kind, name), 'nothing')}{asked}")
    return f"{INTRODUCTION}\n{markdown(table)}\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
