"""Show wrong and sound gradients at real sizes to every rule: ``python -m tests.wall docs/wall.md``.

The rules are those by which projects accept a kernel's gradient; the oracle is asked on the same inputs. The exit
status is 1 where the oracle accepts a fault that has no reason on file, or rejects a sound kernel.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.progress import track

from tests.subject.device import probe
from tests.wall.judging import results
from tests.wall.page import WIDTH, details, page, summary, surprises
from tests.wall.plants import DTYPES, WORKLOADS


def main() -> None:
    """Print the tables, and write the page where a file is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.wall", description="Say who accepts which wrong gradient.")
    parser.add_argument("result", type=Path, nargs="?", help="the file to write in Markdown")
    parser.add_argument("--device", default="cpu", help="whose gradients of torch the rules compare with (cpu)")
    arguments = parser.parse_args()
    if (refusal := probe(arguments.device)) is not None:
        parser.error(f"--device={arguments.device}: {refusal}; accepted: a device that torch differentiates on")
    torch.set_num_threads(1)  # how torch splits its sums depends on their number, and the page must not
    todo = [(workload, dtype) for dtype in DTYPES for workload in WORKLOADS]
    progress = track(todo, "Planting", console=Console(stderr=True), disable=not sys.stderr.isatty())
    found = [results(workload, dtype, arguments.device) for workload, dtype in progress]
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for dtype in DTYPES:
        console.print(dtype, details(found, dtype, box.SIMPLE), summary(found, dtype, box.SIMPLE))
    if arguments.result is not None:
        arguments.result.write_text(page(found), encoding="utf-8")
    sys.exit("\n".join(surprises(found)) or None)


if __name__ == "__main__":
    main()
