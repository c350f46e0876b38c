"""One fault is one failure that explains itself; every other test of the op says a line, and still fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from reference.format import FORMATS
from strategies import fixed_cases, manner_cases
from strategies.cases import manners
from tests.meta.kernels import entry, made
from tests.runs.folding import Outcomes, pattern
from tests.subject.mode import MODES
from tests.verdict.comparison import judged
from tests.verdict.explanation import DisagreementError

if TYPE_CHECKING:
    from reference.case import Case

ROOT = Path(__file__).parents[2]

CATALOGUE = """
from tests.meta.kernels import entry
OPS = (entry("rank", faulty=True), entry("scaled", faulty=False))
"""

Back = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def is_high(x: torch.Tensor) -> bool:
    """Say whether an input has more than two dimensions."""
    return x.ndim > 2


def is_long(x: torch.Tensor) -> bool:
    """Say whether an input has many rows."""
    return len(x) > 1000


def refusing(x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fail instead of differentiating."""
    message = f"no gradient of {x.ndim} dimensions"
    raise ValueError(message)


def tail(_: torch.Tensor, dx: torch.Tensor, dweight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Forget the last column."""
    return torch.cat([dx[..., :-1], torch.zeros_like(dx[..., -1:])], -1), dweight


def head(_: torch.Tensor, dx: torch.Tensor, dweight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Forget the first column."""
    return torch.cat([torch.zeros_like(dx[..., :1]), dx[..., 1:]], -1), dweight


PAIRS: dict[str, tuple[Back, Back]] = {
    "gradient": (lambda _, dx, dweight: (2 * dx, dweight), lambda _, dx, dweight: (dx, 2 * dweight)),
    "factor": (lambda _, dx, dweight: (2 * dx, dweight), lambda _, dx, dweight: (dx / 2, dweight)),
    "verdict": (refusing, lambda _, dx, dweight: (2 * dx, dweight)),
    "cause": (lambda _, dx, dweight: (dx * 0, dweight), lambda _, dx, dweight: (dx * 1.5, dweight)),
    "places": (tail, head),
}
"""Two faults of a product of rows and a weight: of what has many dimensions, and of what has many rows."""


def folded(*faulty: tuple[Callable[[torch.Tensor], bool], Back]) -> Outcomes:
    """Ask a product with some faults by rule, and return what is explained of it."""

    def back(saved: Any, cotangent: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = saved
        found = cotangent * weight, (cotangent * x).reshape(-1, x.shape[-1]).sum(0)
        for has, fault in faulty:
            found = fault(x, *found) if has(x) else found
        return found

    fields = {"formula": lambda x, weight: x * weight, "axes": "n,n", "orders": 1}
    by_rule = manners(made("product", (torch.mul, back, fields), faulty=False), FORMATS["float32"])
    return told(*by_rule["ranks"], *by_rule["rows"])


def told(*cases: Case) -> Outcomes:
    """Ask some cases, and return which of their failures explain themselves."""
    outcomes, mode = Outcomes(), MODES["backward"]
    for case in cases:
        misses = judged(case, mode, "cpu").misses
        shown = DisagreementError(misses, mode, "cpu").faults if misses else []
        if shown and outcomes.explaining(shown) is None:
            outcomes.explained.append((str(case), shown))
    return outcomes


@pytest.mark.parametrize("pair", PAIRS)
def test_two_faults_are_two_failures(pair: str) -> None:
    """A second fault is not hidden behind the first, of another gradient, factor, verdict, cause or place."""
    first, second = PAIRS[pair]
    assert [
        len(folded(*faulty).explained)
        for faulty in (
            [],
            [(is_high, first)],
            [(is_long, second)],
            [(is_high, first), (is_long, second)],
        )
    ] == [0, 1, 1, 2]


@pytest.mark.parametrize("name", ["distance", "margin", "rows", "rank", "tail", "scaled", "wave", "product", "between"])
def test_fault_of_many_cases_is_one_failure(name: str) -> None:
    """However many cases and formats show it: at ties, by rows, rank and strides, past a block, and at a border."""
    op = entry(name, faulty=True)
    forms = FORMATS["float32"], FORMATS["bfloat16"]
    assert (
        len(told(*(case for form in forms for case in (*fixed_cases(op, form), *manner_cases(op, form)))).explained)
        == 1
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_one_fault_is_one_failure(workers: int, tmp_path: Path) -> None:
    """The first test explains it, with workers too; the others are counted, fail and have their records."""
    (tmp_path / "own_ops.py").write_text(CATALOGUE)
    records = tmp_path / "records.jsonl"
    named = ["--catalogue", str(tmp_path / "own_ops.py"), "--op", "rank,scaled", "--mode", "backward,grad"]
    named += ["--dtype", "float32,float16,bfloat16"]  # it computes in float32, so that float64 is another fault
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
    assert len(missed) > 4
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
