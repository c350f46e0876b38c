"""The rules of the tape notice each planted fault."""

from __future__ import annotations

import inspect
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests import test_tape
from tests.meta.tape_faults import FAULTS, noticed

if TYPE_CHECKING:
    from collections.abc import Iterator


def calls(name: str) -> Iterator[dict[str, Any]]:
    """Return the arguments of each test that a rule has on the CPU."""
    rule = getattr(test_tape, name)
    tables = []
    for mark in getattr(rule, "pytestmark", []):
        names, rows = mark.args
        tables.append([{names: row} if isinstance(names, str) else dict(zip(names, row, strict=True)) for row in rows])
    for rows in itertools.product(*tables):
        fixtures = {"device": "cpu", "leaf": torch.tensor([3.0], requires_grad=True)}
        yield {name: value for name, value in fixtures.items() if name in inspect.signature(rule).parameters} | {
            k: v for row in rows for k, v in row.items()
        }


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


@pytest.mark.parametrize("fault", FAULTS)
def test_model_notices_the_fault(fault: str) -> None:
    """A history diverges from the model with the fault."""
    assert noticed(fault, shrink=False)


def holds(name: str, arguments: dict[str, Any]) -> bool:
    """Say whether a rule passes."""
    try:
        getattr(test_tape, name)(**arguments)
    except (AssertionError, AttributeError, RuntimeError, pytest.fail.Exception):  # `.grad` that is None has no values
        return False
    return True
