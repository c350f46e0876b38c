"""A kernel that crashes or hangs costs its own test, and what it was asked is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.meta.test_contract import ROOT, run
from tests.verdict import isolation, record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.verdict.record import Record

KERNELS = '''
import ctypes
import os
import time

import numpy as np
import torch

from reference.op import Op


def kernel(ends):
    """A sound sin whose backward ends its process for inputs of three dimensions."""

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, cotangent):
            (x,) = ctx.saved_tensors
            if x.ndim == 3:
                ends()
            return cotangent * x.cos()

    return Kernel.apply


segfaults = kernel(lambda: ctypes.string_at(0))
aborts = kernel(os.abort)
leaves = kernel(lambda: os._exit(3))
hangs = kernel(lambda: time.sleep(600))
locks = kernel(lambda: ctypes.PyDLL(None).sleep(600))
answers = kernel(lambda: None)
NAMES = ("segfaults", "aborts", "leaves", "hangs", "locks", "answers")
OPS = tuple(Op(name=name, torch=f"{__name__}.{name}", formula=lambda x: np.sin(x)) for name in NAMES)
'''

ENDS = {
    "segfaults": ("crashed", "Fatal Python error: Segmentation fault"),
    "aborts": ("crashed", "Fatal Python error: Aborted"),
    "leaves": ("crashed", isolation.SILENT),
    "hangs": ("hung", "Timeout (0:00:02)!"),
    "locks": ("hung", "Timeout (0:00:02)!"),  # Python's lock, so that no thread of Python could end it
}
"""The verdict of each kernel, and how its process ended."""

SCREEN = 40
"""Lines of a failure that explains itself."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], list[Record]]:
    """Run the kernels, with one that is sound, isolated."""
    folder = tmp_path_factory.mktemp("isolated")
    catalogue, records = folder / "ending.py", folder / "records.jsonl"
    catalogue.write_text(KERNELS)
    names = ",".join((*ENDS, "answers"))
    chosen = ("--op", names, "--mode", "backward", "--dtype", "float32", "--catalogue", str(catalogue))
    done = run(*chosen, "--isolate", "--patience", "2", "--records", str(records))
    return done, record.read(records)


@pytest.mark.parametrize("name", ENDS)
def test_only_the_test_that_ends_its_process_fails(
    ended: tuple[subprocess.CompletedProcess[str], list[Record]], name: str
) -> None:
    """Its record has the verdict and what was asked; the other tests of the kernel are done, and agree."""
    done, records = ended
    assert done.returncode == 1
    own = [each for each in records if each.op == name]
    (broken,) = (each for each in own if each.verdict != "agrees")
    assert (broken.verdict, broken.got) == ENDS[name]
    assert (broken.mode, broken.dtype, broken.device, broken.seed) == ("backward", "float32", "cpu", 0)
    assert broken.size == len(broken.at) == 6, "it is the first case of three dimensions"
    assert broken.compared == 12, "what was judged before counts"
    assert broken.worst_ulp is None
    assert broken.known is None
    assert len(own) == sum(each.op == "answers" for each in records) > 1, "no record is lost"


def test_failure_says_what_was_asked_and_where_it_ended(
    ended: tuple[subprocess.CompletedProcess[str], list[Record]],
) -> None:
    """A failure is a screen: what was asked, how it ended and in which line of the kernel, and plain torch."""
    done, _ = ended
    failures = re.split(r"\n_+ test_\S+ _+\n", done.stdout.partition("= verdicts =")[0])[1:]
    assert len(failures) == len(ENDS)
    for name, (verdict, said) in ENDS.items():
        (text,) = (each for each in failures if f"d {name}(x)/dx" in each)
        assert f"[float32, backward, cpu] {verdict}" in text
        assert said in text
        assert f"output = ending.{name}(x)" in text
        assert 'ending.py", line ' in text or name == "leaves"
        assert len(text.splitlines()) < SCREEN


def isolated(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test file of a user's own with the suite's options."""
    path = folder / "test_mine.py"
    path.write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", str(path), *options]
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "COVERAGE_"))}
    return subprocess.run(command, cwd=ROOT, env=outer, capture_output=True, text=True, check=False, timeout=120)


def test_own_tests_are_isolated_too(tmp_path: Path) -> None:
    """A crash inside `assert_gradient`, or outside of it, costs that test of a user's own file."""
    text = KERNELS.partition("NAMES")[0] + (
        "from tests.verdict.assertion import assert_gradient\n\n"
        "def test_crash():\n    assert_gradient(segfaults, np.sin, torch.ones(2, 2, 2))\n\n"
        "def test_other():\n    os.abort()\n\n"
        "def test_sound():\n    assert_gradient(segfaults, np.sin, torch.ones(2, 2))\n"
    )
    done = isolated(tmp_path, text, "--isolate")
    assert done.returncode == 1, done.stdout
    assert "2 failed, 1 passed" in done.stdout
    assert "crashed; it is what was asked last" in done.stdout
    assert "test_mine.py::test_other crashed, before torch was asked" in done.stdout


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        (("--patience", "3"), "--isolate --patience S"),
        (("--isolate", "--patience", "0"), "a number of seconds above 0"),
        (("--isolate", "--patience", "soon"), "a number of seconds above 0"),
        (("--isolate", "-p", "no:xdist"), "where it is installed and active"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: tuple[str, ...], accepted: str) -> None:
    """Bad input is a usage error, which says what is accepted."""
    done = run(*options)
    assert done.returncode == 4
    assert accepted in done.stderr
