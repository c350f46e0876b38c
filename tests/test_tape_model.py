"""Histories of tensors, ops, hooks, backwards and zeroings: torch does what the model of its documentation predicts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.tape.machine import Machine


def test_torch_follows_the_model(device: str) -> None:
    """After every step of a drawn history torch is in the state that the model predicts."""
    try:
        torch.ones(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError) as refusal:
        pytest.skip(f"the model is exact in float64, which {device} does not have: {refusal}")

    class OnDevice(Machine):  # Hypothesis makes machines without arguments
        pass

    OnDevice.device = device
    run_state_machine_as_test(OnDevice, settings=settings.get_profile("histories"))
