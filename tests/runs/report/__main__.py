"""Write the page of a run: ``python -m tests.runs.report RECORDS.jsonl REPORT.html [--bench BENCH.json]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from tests.runs.report.page import page
from tests.runs.speed import table
from tests.subject.device import parsed_with_plugins
from tests.verdict import record


def main() -> None:
    """Write the page, of a run that was interrupted too: from the records that there are."""
    parser = argparse.ArgumentParser(description="Write a page about a run.")
    parser.add_argument("records", type=Path, help="the file that pytest --records wrote")
    parser.add_argument("report", type=Path, help="the page to write")
    parser.add_argument(
        "--bench", type=Path, metavar="FILE", help="what pytest --benchmark-json wrote; left out where it is not there"
    )
    options = parsed_with_plugins(parser)
    with Console(stderr=True).status("reading records") as status, record.usage_errors(parser):
        figures = table.read(options.bench) if options.bench and options.bench.exists() else []
        options.report.write_text(page(record.read(options.records), figures, status.update), encoding="utf-8")


if __name__ == "__main__":
    main()
