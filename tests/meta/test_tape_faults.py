"""The rules of the tape notice each planted fault."""

from __future__ import annotations

import inspect
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests import test_tape
from tests.meta.tape_faults import FAULTS
from tests.tape.machine import DivergenceError, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator

BEYOND = {
    "module_does_not_zero": "the machine has no modules",
    "create_graph_is_ignored": "the machine differentiates once",
    "post_accumulate_hook_runs_before": "the machine has hooks of tensors only",
}
"""Faults that the model cannot see, and why."""

HISTORIES = settings(
    max_examples=1000, stateful_step_count=30, phases=[Phase.generate], derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def calls(name: str) -> Iterator[dict[str, Any]]:
    """Return the arguments of each test that a rule has on the CPU."""
    rule = getattr(test_tape, name)
    tables = []
    for mark in getattr(rule, "pytestmark", []):
        names, rows = mark.args
        tables.append([{names: row} if isinstance(names, str) else dict(zip(names, row, strict=True)) for row in rows])
    for rows in itertools.product(*tables):
        fixtures = {"device": "cpu", "leaf": torch.tensor([3.0], requires_grad=True)}
        yield {name: value for name, value in fixtures.items() if name in inspect.signature(rule).parameters} | {k: v for row in rows for k, v in row.items()}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_rule_notices_the_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule fails with the fault, and holds without it."""
    plant, rule = FAULTS[fault]
    with monkeypatch.context() as patch:
        plant(patch)
        noticed = [not holds(rule, arguments) for arguments in calls(rule)]
        torch.set_grad_enabled(True)
    assert any(noticed)
    assert all(holds(rule, arguments) for arguments in calls(rule))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in BEYOND])
def test_model_notices_the_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history diverges from the model with the fault."""
    with monkeypatch.context() as patch:
        FAULTS[fault][0](patch)
        with pytest.raises(DivergenceError):
            run_state_machine_as_test(Machine, settings=HISTORIES)
        torch.set_grad_enabled(True)


def holds(name: str, arguments: dict[str, Any]) -> bool:
    """Say whether a rule passes."""
    try:
        getattr(test_tape, name)(**arguments)
    except (AssertionError, AttributeError, RuntimeError, pytest.fail.Exception):  # `.grad` that is None has no values
        return False
    return True
