"""Histories of tensors, ops, hooks, backwards and zeroings: torch does what the model of its documentation predicts."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.tape.machine import Machine


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_torch_follows_the_model() -> None:
    """Every history ends with torch in the state that is predicted, step by step."""
    run_state_machine_as_test(Machine, settings=settings.get_profile("histories"))
