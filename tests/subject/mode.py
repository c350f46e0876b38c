"""Modes: the ways to ask torch for a derivative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.case import Case

Gradients = list[torch.Tensor | None]


@dataclass(frozen=True)
class Mode:
    """One way to ask torch for the derivative of a case."""

    name: str
    order: int
    """How often the function is differentiated."""

    gradients: Callable[[Case, str], Gradients]
    """Differentiate a case on a device; the second argument names the device."""

    snippet: str
    """The same in plain torch, for people to paste: prints the gradient by the input ``{wrt}``."""


def _root(case: Case, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what is differentiated, and its cotangent; a scalar needs none."""
    output = binding.function(case.tree)(*inputs)
    if case.root != "cotangent":
        return getattr(output, case.root)(), None
    return output, binding.tensor(case.cotangent, case.form, str(inputs[0].device))


def backward(case: Case, device: str) -> Gradients:
    """Run ``output.backward(cotangent)`` and read ``.grad``."""
    inputs = binding.leaves(case, device)
    output, cotangent = _root(case, inputs)
    output.backward(cotangent)
    return [leaf.grad for leaf in inputs]


def autograd_grad(case: Case, device: str) -> Gradients:
    """Run ``torch.autograd.grad``."""
    inputs = binding.leaves(case, device)
    output, cotangent = _root(case, inputs)
    return list(torch.autograd.grad(output, inputs, cotangent, allow_unused=True))


MODES = {
    mode.name: mode
    for mode in (
        Mode("backward", 1, backward, "output.backward(cotangent)\nprint([float(g).hex() for g in {wrt}.grad.flatten()])"),
        Mode("grad", 1, autograd_grad, "(gradient,) = torch.autograd.grad(output, [{wrt}], cotangent)\nprint([float(g).hex() for g in gradient.flatten()])"),
    )
}
"""The modes by name; ``grad`` is `torch.autograd.grad`."""
