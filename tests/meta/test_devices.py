"""A device that torch knows is assayed without an entry; faults of its kernels are caught, and nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sympy import Expr

from reference.catalogue import OPS
from tests.meta import pyrite
from tests.meta.device_faults import COMPARED, FAULTS, LIES
from tests.verdict import record

ROOT = Path(__file__).parents[2]
FLAT = {
    name
    for name, op in OPS.items()
    if isinstance(op.formula, Expr) and not any(map(op.formula.diff, op.formula.free_symbols))
}
"""Ops whose derivative is 0."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Return what a process finds in which the device is registered."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.meta.device_faults"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("fault", [fault.name for fault in FAULTS])
def test_fault_of_a_kernel_is_caught(fault: str, found: dict[str, Any]) -> None:
    """A broken kernel shows in the derivatives that use it, in its format only.

    The device is silent before and after.
    """
    assert found[fault] == {"before": False, "caught": True, "elsewhere": False, "after": False}


def test_one_ulp_is_measured(found: dict[str, Any]) -> None:
    """Rounding explains a kernel that is off by one ulp, and the worst error that is recorded grows by about that."""
    sound, off = found["one_ulp"]
    assert 0.5 < off - sound <= 1


@pytest.mark.parametrize("lie", LIES)
def test_lying_device_fails(lie: str, found: dict[str, Any]) -> None:
    """A device that answers with zeros, its first input or on the host fails every op that has another derivative."""
    assert set(found[lie]) <= (FLAT if lie == "zeros" else set())


@pytest.mark.parametrize("mode", COMPARED)
def test_sound_device_is_silent(mode: str, found: dict[str, Any]) -> None:
    """In every op, what is wrong on the device is wrong with torch on the CPU, whose kernels it has."""
    assert found[mode] == []


def run(tmp_path: Path, **environment: str) -> tuple[int, list[record.Record]]:
    """Assay the device as a user would."""
    path = tmp_path / "records.jsonl"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.meta.pyrite",
        "-p",
        "no:cacheprovider",
        "tests",
        "--device",
        pyrite.NAME,
        "--op",
        "sin",
        "--hypothesis-seed=0",
        "--dtype",
        "float32",
        "--mode",
        "backward,forward",
        "--profile",
        "quick",
        "-q",
        "--records",
        str(path),
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    return done.returncode, record.read(path)


def test_a_device_needs_no_entry(tmp_path: Path) -> None:
    """A device that registers itself is assayed under its name; broken, it fails."""
    status, found = run(tmp_path)
    assert status == 0
    assert {r.device for r in found} == {pyrite.NAME}
    assert {r.verdict for r in found} == {"agrees"}
    assert run(tmp_path, PYRITE_BROKEN="aten::cos")[0] == 1
