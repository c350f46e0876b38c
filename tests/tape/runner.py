"""Runs each step of a history as a line of plain torch, and compares torch with the model after it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.tape.model import Tape, TapeError, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.tape.model import Values

MOST_TENSORS, LARGEST = 12, 100.0
"""How many tensors a history may have, and how large their values may be, so that all gradients are exact integers.

Both bounds are arbitrary; gradients are sums and products of a few such values, far below 2^53.
"""

PROPERTIES: dict[str, tuple[Callable[[torch.Tensor], object], Callable[[Tensor], object]]] = {
    "is_leaf": (lambda real: real.is_leaf, lambda tensor: tensor.is_leaf),
    "requires_grad": (lambda real: real.requires_grad, lambda tensor: tensor.requires_grad),
    "grad_fn is None": (lambda real: real.grad_fn is None, lambda tensor: tensor.function is None),
    "retains_grad": (lambda real: real.retains_grad, lambda tensor: tensor.retains_grad),
    "_version": (lambda real: real._version, lambda tensor: tensor.version.count),  # noqa: SLF001 - torch documents this counter
}
"""What must be as predicted of every tensor after every step: how torch says it, and how the model does."""


class DivergenceError(AssertionError):
    """Torch does not do what the model predicts; the message is a program that shows it."""


class Runner(RuleBasedStateMachine):
    """Torch beside the model: how a line is run, and what is compared after each step. The rules are `Machine`'s."""

    device: ClassVar[str] = "cpu"

    def __init__(self) -> None:
        """Start without tensors."""
        super().__init__()
        self.tape = Tape()
        self.known: dict[str, Tensor] = {}
        self.lines: list[str] = []
        self.real: dict[str, Any] = {}
        self.run("import torch")
        self.run("modes, hooks, seen = [], {}, {}")

    @property
    def like(self) -> str:
        """The dtype and the device of every tensor, as arguments."""
        return "dtype=torch.float64" + f", device={self.device!r}" * (self.device != "cpu")

    def execute(self, line: str) -> None:
        """Run a line of the program that a failure prints, in a namespace of its own."""
        with warnings.catch_warnings():
            # Of `.grad` of a non-leaf, and of cycles: a rule of tests/test_tape.py holds the first.
            warnings.simplefilter("ignore")
            exec(line, self.real)  # noqa: S102 - the text that a failure prints is what runs

    def run(self, line: str) -> None:
        """Run a line that must not raise."""
        self.lines.append(line)
        try:
            self.execute(line)
        except Exception as error:  # noqa: BLE001 - whatever torch raises
            self.diverge(f"expected: nothing is raised; got {type(error).__name__}: {error}")

    def refused(self, line: str) -> None:
        """Run a line that must raise RuntimeError."""
        self.lines.append(f"{line}  # must raise RuntimeError")
        try:
            self.execute(line)
        except RuntimeError:
            self.lines[-1] = f"try: {line}\nexcept RuntimeError: pass"
            return
        self.diverge("expected: RuntimeError; nothing was raised")

    def both(self, line: str, predicted: Callable[[], object], instead: str | None = None) -> bool:
        """Run a line, and return whether it raised, which it must do if and only if the prediction raises TapeError.

        A line that raises is run as `instead`, where that is given.
        """
        try:
            predicted()
        except TapeError:
            self.refused(instead or line)
            return True
        self.run(line)
        return False

    def diverge(self, why: str) -> None:
        """Fail with the program so far."""
        raise DivergenceError("\n".join(["", *self.lines, f"# {why}"]))

    def pick(self, number: int, allowed: Callable[[Tensor], bool] = lambda _: True) -> tuple[str, Tensor] | None:
        """Return an allowed tensor and its name, counted from the newest, round and round; None where there is none."""
        found = [(name, tensor) for name, tensor in reversed(self.known.items()) if allowed(tensor)]
        return found[number % len(found)] if found else None

    def keep(self, tensor: Tensor, code: str) -> None:
        """Give a result the name of a new variable, unless it is too large or there are too many."""
        if np.abs(tensor.data).max() > LARGEST or len(self.known) >= MOST_TENSORS:
            if tensor.base is not None:  # torch never made this view, so no change in place reaches it
                tensor.base.views.remove(tensor)
            return
        name = f"t{len(self.known)}"
        self.known[name] = tensor
        self.run(f"{name} = {code}")

    @invariant()
    def grad_mode(self) -> None:
        """Whether grad is enabled is as predicted."""
        if torch.is_grad_enabled() != self.tape.enabled:
            self.diverge(f"expected: torch.is_grad_enabled() is {self.tape.enabled}")

    @invariant()
    def properties(self) -> None:
        """Every property of every tensor is as predicted."""
        for name, tensor in self.known.items():
            real = self.real[name]
            for what, (got, due) in PROPERTIES.items():
                if got(real) != due(tensor):
                    self.diverge(f"expected: {name}.{what} is {due(tensor)}; got {got(real)}")

    @invariant()
    def values(self) -> None:
        """Every tensor has the values, shape, dtype and device that are predicted."""
        for name, tensor in self.known.items():
            self.same(name, self.real[name].detach(), tensor.data)

    @invariant()
    def grads(self) -> None:
        """Every `.grad` is as predicted: None, or of that value, shape, dtype and device."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, tensor in self.known.items():
                self.same(f"{name}.grad", self.real[name].grad, tensor.grad)

    @invariant()
    def sights(self) -> None:
        """Every hook that runs after accumulation saw the gradients that are predicted."""
        for name, tensor in self.known.items():
            if tensor.seen is not None:
                got, due = self.real["seen"][name], [values.tolist() for values in tensor.seen]
                if got != due:
                    self.diverge(f"expected: seen[{name!r}] is {due}; got {got}")

    def same(self, name: str, got: torch.Tensor | None, due: Values | None) -> None:
        """Compare a tensor, or None, with its prediction: shape, dtype, device, and every value exactly."""
        if got is None or due is None:
            if got is not None or due is not None:
                self.diverge(f"expected: {name} is {None if due is None else due.tolist()}; got {got}")
            return
        # The type of the device alone: a device that is named without a number has one in the result.
        kind = (due.shape, torch.float64, torch.device(self.device).type)
        if (tuple(got.shape), got.dtype, got.device.type) != kind or not np.array_equal(got.tolist(), due):
            self.diverge(f"expected: {name} is {due.tolist()} in float64 on {self.device}; got {got}")

    def teardown(self) -> None:
        """Leave all grad modes that the history entered."""
        torch.set_grad_enabled(True)
        self.tape.modes[1:] = []

    @classmethod
    def listed(cls) -> Iterator[tuple[str, str, str]]:
        """Yield each transition and each invariant: which of both it is, its name, and what it says."""
        for marker, kind in (
            ("hypothesis_stateful_rule", "transition"),
            ("hypothesis_stateful_invariant", "invariant"),
        ):
            for name in dir(cls):
                method = getattr(cls, name)
                if hasattr(method, marker) and name != "properties":  # whose parts are listed below
                    yield kind, name, method.__doc__.splitlines()[0]
        for name in PROPERTIES:
            yield "invariant", name, f"`{name}` of every tensor is as predicted."
