"""The gate of one's own ops, in a job or before a commit: ``gradassay-gate CATALOGUE.py OPS [OPTIONS]``.

The ops get the whole battery, with the options of pytest that are given, and what was found is compared with a baseline
as `tests.runs.gate` does; what the run left out of the baseline is nobody's business. Without a baseline the known
deviations alone excuse a miss. The project's own settings of pytest are left aside.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.plugin import BATTERY
from tests.runs import gate
from tests.verdict import record


def main() -> None:
    """Run the battery and compare; exits with 1 where anything is worse, and with 2 or more for a usage error."""
    parser = argparse.ArgumentParser(
        prog="gradassay-gate",
        usage="%(prog)s CATALOGUE.py OPS [options below] [options of pytest, such as --profile quick]",
        description="Certify the gradients of your own ops, and fail where one is wrong, or less accurate than it was.",
        allow_abbrev=False,
    )
    parser.add_argument("catalogue", type=Path, help="your file with OPS = (Op(...), ...)")
    parser.add_argument("ops", help="names of ops in it, with commas")
    parser.add_argument("--baseline", type=Path, metavar="FILE.tsv", help="a table to compare with; --update writes it")
    gate.add_options(parser)
    options, further = parser.parse_known_args()
    if options.update and not options.baseline:
        parser.error("--update: accepted: together with --baseline FILE.tsv")
    if options.baseline and not (options.update or options.baseline.exists()):
        parser.error(f"{options.baseline}: No such file; accepted: a table that is there, or --update to write it")
    with record.usage_errors(parser, gate.NothingComparedError):
        there = options.baseline and (options.baseline.exists() or not options.update)
        baseline = gate.read(options.baseline.read_text()) if there else {}
        with tempfile.TemporaryDirectory() as folder:
            records = Path(folder) / "records.jsonl"
            status = assayed(options.catalogue, options.ops, records, further)
            if status > 1:  # what fails is judged below; a usage error is the caller's
                sys.exit(status)
            sys.exit(gate.closes(records, baseline, options, partial=True))


def assayed(catalogue: Path, ops: str, records: Path, further: list[str]) -> int:
    """Give ops the whole battery, with the same draws each time, and return pytest's exit status."""
    # Without the settings of the project around it: its options and plugins are not meant for the battery.
    command: list[str | Path] = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", BATTERY.parent]
    command += [BATTERY, "--ignore", BATTERY / "meta", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command += ["-p", "no:pytest_github_actions_annotate_failures"]  # the gate says which failures count
    command += ["--catalogue", catalogue, "--op", ops, "--records", records, *further]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    main()
