"""A run of as many ops as are to come: ``python -m tests.meta.multiplied RECORDS.jsonl PAGE.html [--ops 450]``.

It writes the report on records whose ops are there several times over, under other names.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from reference.catalogue import OPS as CATALOGUE
from tests.runs.report.content import gathered
from tests.runs.report.page import written
from tests.verdict import record

if TYPE_CHECKING:
    from tests.runs.report.content import Content

OPS = 450


def multiplied(content: Content, ops: int = OPS) -> Content:
    """Return what was gathered with so many ops: those that are there, then the tensor ops again as ``sum_2``, ...

    An op under another name keeps its records, findings, formulas and picture, and is in no catalogue, as own ops are.
    Those of tensor ops are the larger, and most of what is to come.
    """
    there = list(dict.fromkeys(r.op for r in content.records))
    names = {name: [name] for name in there}
    tensor = [name for name in there if name in CATALOGUE and not CATALOGUE[name].elementwise]
    for number, name in zip(range(ops - len(there)), cycle(tensor or there), strict=False):
        names[name].append(f"{name}_{number // len(tensor or there) + 2}")
    return replace(
        content,
        records=[replace(r, op=name) for r in content.records for name in names[r.op]],
        findings=[replace(f, op=name) for f in content.findings for name in names[f.op]],
        formulas={name: formulas for op, formulas in content.formulas.items() for name in names[op]},
        pictures={name: picture for op, picture in content.pictures.items() for name in names[op]},
    )


def main() -> None:
    """Write the page, and say how large it is and how long it took."""
    parser = argparse.ArgumentParser(description="Write the report on a run as if it had more ops.")
    parser.add_argument("records", type=Path, help="the file that pytest --records wrote")
    parser.add_argument("page", type=Path, help="the page to write")
    parser.add_argument("--ops", type=int, default=OPS, help="how many ops there shall be (%(default)s)")
    options = parser.parse_args()
    start = perf_counter()
    content = gathered(record.read(options.records))
    there = perf_counter()
    text = written(multiplied(content, options.ops))
    options.page.write_text(text, encoding="utf-8")
    sys.stdout.write(
        f"{options.ops} ops, {len(text.encode()) / 1e6:.1f} MB: gathered in {there - start:.0f} s, "
        f"written in {perf_counter() - there:.1f} s\n"
    )


if __name__ == "__main__":
    main()
