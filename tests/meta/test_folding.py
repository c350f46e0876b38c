"""One fault is one failure that explains itself; every other test of the op says a line, and still fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.folding import pattern

ROOT = Path(__file__).parents[2]

CATALOGUE = """
from tests.meta.kernels import entry
OPS = (entry("rank", faulty=True), entry("scaled", faulty=False))
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_one_fault_is_one_failure(workers: int, tmp_path: Path) -> None:
    """The first test explains it, with workers too; the others are counted, fail and have their records."""
    (tmp_path / "own_ops.py").write_text(CATALOGUE)
    records = tmp_path / "records.jsonl"
    named = ["--catalogue", str(tmp_path / "own_ops.py"), "--op", "rank,scaled", "--mode", "backward,grad"]
    asked = [*named, "--profile", "quick", "--hypothesis-seed", "0", "--records", str(records), "-n", str(workers)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests", "--ignore=tests/meta", "-p", "no:cacheprovider", *asked],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    found = [json.loads(line) for line in records.read_text().splitlines()]
    missed = [record for record in found if record["verdict"] == "inaccurate"]
    assert {record["op"] for record in missed} == {"rank"}
    assert len(missed) > 5
    assert done.stdout.count("To see it in plain torch") == 1
    assert done.stdout.count("FAILED tests/") == len(missed)
    assert f"\nrank: {len(missed)} of " in done.stdout
    assert "\nscaled: " not in done.stdout
    assert "Traceback" not in done.stdout
    failures = done.stdout.partition("= FAILURES =")[2].partition("= what fails =")[0]
    assert len(failures.splitlines()) < 35


def outcome(*, failed: bool, **asked: str) -> tuple[dict[str, str], bool]:
    """Return what a test asked, in float32 by `backward` unless told otherwise, and whether it failed."""
    return {"dtype": "float32", "mode": "backward", "test": "test_ops.py", "device": "cpu"} | asked, failed


def test_pattern_names_what_fails_and_what_does_not() -> None:
    """What all tests share is not said; of many there is a count."""
    failing = [outcome(failed=True, dtype=dtype) for dtype in ("float16", "bfloat16")]
    assert pattern(failing) == "fail, in every format, mode and test"
    assert pattern([*failing, outcome(failed=False)]) == "fail: in float16 and bfloat16, not in float32"
    others = [outcome(failed=False, mode=f"m{number}") for number in range(9)]
    assert pattern([outcome(failed=True), *others]) == "fail: in backward, not in 9 modes"
    mixed = [outcome(failed=True, dtype="float16"), outcome(failed=False, dtype="float16"), outcome(failed=False)]
    assert pattern(mixed) == "fail: in float16, not in float32"
