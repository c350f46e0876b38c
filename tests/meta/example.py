"""What tests of the scripts share: a record of a sound test, and the run of a module as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.verdict.record import Record

ROOT = Path(__file__).parents[2]

AGREES = Record(
    op="sin",
    mode="backward",
    order=1,
    device="cpu",
    dtype="float32",
    compared=3,
    size=3,
    inside="format",
    worst_ulp=1.0,
    worst_share=0.1,
    verdict="agrees",
    at={"x": "0x1.0p+0"},
    got=None,
    expected=None,
    known=None,
    torch="2.13.0",
    seed=7,
)
"""A record of a test that found nothing; tests replace in it what they are about."""


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a module of this checkout as a command, with its output as text."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
