"""Every mode writes the torch that it runs, and a new one is a single entry."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from reference.case import Case, repeated_order
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.oracle import by_flint
from reference.tree import single
from strategies import empty_cases, fixed_cases
from tests.subject import binding
from tests.subject.mode import MODES
from tests.verdict.comparison import UnsupportedError, judged
from tests.verdict.snippet import snippet

if TYPE_CHECKING:
    from tests.subject.first_order import Gradients
    from tests.subject.mode import Mode

ROOT = Path(__file__).parents[2]
FLOAT32 = FORMATS["float32"]
QUICK = {name: mode for name, mode in MODES.items() if name != "inductor"}
"""All modes but `inductor`, which takes seconds for each case, and is asked by the same code as `aot_eager`."""

PAIR = (np.array([2.0, 3.0]), np.array([5.0, 7.0]))
CASES = {
    "pointwise": Case(single(OPS["mul"]), FLOAT32, PAIR, np.array([1.0, -2.0])),
    "broadcast": Case(single(OPS["mul"]), FLOAT32, (np.array(2.0), PAIR[1]), np.array([1.0, -2.0])),
    "mean": Case(single(OPS["mul"]), FLOAT32, PAIR, np.ones(2), root="mean"),
    "kinks": Case(single(OPS["maximum"]), FLOAT32, PAIR, np.array([1.0, -2.0])),
    "softmax": fixed_cases(OPS["softmax"], FLOAT32)[0],
    "matmul": fixed_cases(OPS["matmul"], FLOAT32)[0],
    "linear": fixed_cases(OPS["linear"], FLOAT32)[0],
}
EMPTY = {name: empty_cases(OPS[name], FLOAT32)[0] for name in ("mul", "linear", "softmax", "flip")}
"""Without a point: of linear, the gradients by the weights are sums of nothing, and not empty."""


ASKED = [
    pytest.param(case, mode, id=f"{name}-{mode.name}")
    for name, case in CASES.items()
    for mode in QUICK.values()
    if mode.name != "compiled_hessian" or case.tree.root.op.name != "mul"
]
"""The cases in each mode; that torch's compiler breaks in the Hessian of a product is a test of its own."""

EAGER = [mode for mode in QUICK.values() if not mode.eager]
ASKED_EMPTY = [
    pytest.param(case, mode, id=f"empty {name}-{mode.name}") for name, case in EMPTY.items() for mode in EAGER
]


@pytest.mark.parametrize(("case", "mode"), [*ASKED, *ASKED_EMPTY])
def test_snippet_prints_what_the_mode_gives(case: Case, mode: Mode, capsys: pytest.CaptureFixture[str]) -> None:
    """Pasted, the snippet prints the gradient by each input.

    Forward-mode prints the columns of the Jacobian one by one.
    """
    asked = mode.asks(case if mode.order == 1 else list(repeated_order(case, mode.word))[-1])
    for number, (leaf, gradient) in enumerate(zip(asked.tree.leaves, mode.gradients(asked, "cpu"), strict=True)):
        assert gradient is not None
        exec(snippet(asked, leaf.name, mode, "cpu"), {})  # noqa: S102 - that the text runs is what is tested, and a process for each would take minutes
        lines = map(ast.literal_eval, capsys.readouterr().out.splitlines())
        printed = np.array([list(map(float.fromhex, line)) for line in lines])
        found = binding.on_host(gradient)
        due = found.reshape(1, -1) if len(printed) == 1 else found.reshape(len(found), -1).T
        assert printed.tolist() == due.tolist(), number


@pytest.mark.parametrize(("case", "mode"), ASKED)
def test_mode_agrees(case: Case, mode: Mode) -> None:
    """Where rows are summed or a scalar is asked for, and where there is a Jacobian, each mode gives the derivative."""
    for asked in [case] if mode.order == 1 else repeated_order(case, mode.word):
        judgement = judged(mode.asks(asked), mode, "cpu")
        assert judgement.compared
        assert not judgement.misses


def test_compiler_that_breaks_leaves_nothing_behind() -> None:
    """Where the compiler fails on a transform that is unsupported, and the next mode is asked as if it had not been."""
    (asked, *_) = repeated_order(CASES["pointwise"], "fr")
    broken, sound = MODES["compiled_hessian"], MODES["fff"]
    with pytest.raises(UnsupportedError, match="fake tensor"):
        judged(broken.asks(asked), broken, "cpu")
    assert torch.is_grad_enabled()
    judgement = judged(sound.asks(asked), sound, "cpu")
    assert judgement.compared
    assert not judgement.misses


@pytest.mark.parametrize(("case", "mode"), ASKED_EMPTY)
def test_derivative_of_an_empty_batch_has_its_shape(case: Case, mode: Mode) -> None:
    """Each mode gives what there is of an empty batch, an empty Jacobian too; with a row too many it is malformed."""

    def longer(case: Case, device: str) -> Gradients:
        return [None if g is None else g.new_zeros((len(g) + 1, *g.shape[1:])) for g in mode.gradients(case, device)]

    for asked in [case] if mode.order == 1 else repeated_order(case, mode.word):
        assert not judged(mode.asks(asked), mode, "cpu").misses
        wrong = judged(mode.asks(asked), replace(mode, gradients=longer), "cpu")
        assert {miss.verdict for miss in wrong.misses} == {"malformed"}


def test_sums_over_an_empty_batch_are_zero() -> None:
    """By flint too, the weights' gradients are sums of nothing; an op without a batch has no such case."""
    for dtype in FORMATS:
        by_x, *by_weights = by_flint(empty_cases(OPS["linear"], FORMATS[dtype])[0])
        assert by_x.centre.size == 0
        for found in by_weights:
            assert found.centre.size
            assert not found.centre.any()
            assert (found.radius <= FORMATS[dtype].smallest_subnormal).all()
    assert empty_cases(OPS["dot"], FLOAT32) == ()


PLUGIN = """
from dataclasses import replace
from tests.subject.mode import MODES
sound = MODES["backward"]
gradients = lambda case, device: [g * {factor} for g in sound.gradients(case, device)]
MODES["added"] = replace(sound, name="added", gradients=gradients)
"""


@pytest.mark.parametrize(("factor", "status"), [(1, 0), (2, 1)])
def test_a_mode_is_one_entry(factor: int, status: int, tmp_path: Path) -> None:
    """A mode that is entered in the table is assayed at drawn and at fixed points, and fails if it is wrong."""
    (tmp_path / "added.py").write_text(PLUGIN.format(factor=factor))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "added",
        "-p",
        "no:cacheprovider",
        "tests",
        "--op",
        "sin",
        "--mode",
        "added",
        "--dtype",
        "float32",
        "--profile",
        "quick",
        "-q",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    for name in ("test_gradient_is_within_the_allowance", "test_mode_gives_the_derivative"):
        assert (
            status == 0
            or f"FAILED tests/{'test_ops' if 'gradient' in name else 'test_modes'}.py::{name}[sin-added-float32-cpu]"
            in done.stdout
        )
