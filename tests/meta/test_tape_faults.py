"""The tests of the tape, and the model of it, notice each planted fault."""

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
    """Yield the arguments of each run of a test of the tape on the CPU, as pytest would parametrise it."""
    test = getattr(test_tape, name)
    tables = []
    for mark in getattr(test, "pytestmark", []):
        names, rows = mark.args
        tables.append([{names: row} if isinstance(names, str) else dict(zip(names, row, strict=True)) for row in rows])
    for rows in itertools.product(*tables):
        fixtures = {"device": "cpu", "leaf": torch.tensor([3.0], requires_grad=True)}
        taken = {name: fixtures[name] for name in fixtures.keys() & inspect.signature(test).parameters}
        yield dict(itertools.chain(taken.items(), *(row.items() for row in rows)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_tape_test_notices_the_fault(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test that is named fails with the fault, and passes without it."""
    plant, test = FAULTS[fault]
    with monkeypatch.context() as patch:
        plant(patch)
        failed = [not passes(test, arguments) for arguments in calls(test)]
        torch.set_grad_enabled(True)  # which a fault may leave off
    assert any(failed)
    assert all(passes(test, arguments) for arguments in calls(test))


@pytest.mark.parametrize("fault", FAULTS)
def test_model_notices_the_fault(fault: str) -> None:
    """A history diverges from the model with the fault."""
    assert noticed(fault, shrink=False)


def passes(name: str, arguments: dict[str, Any]) -> bool:
    """Say whether a test of the tape passes."""
    try:
        getattr(test_tape, name)(**arguments)
    except (AssertionError, AttributeError, RuntimeError, pytest.fail.Exception):  # `.grad` that is None has no values
        return False
    return True
