"""The machine: draws histories, runs each step as a line of plain torch, and compares torch with the model after it."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.tape.model import Tape, TapeError, Tensor, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.tape.model import Values

MOST_TENSORS, LARGEST = 12, 100.0
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (2,))
NUMBERS = st.sampled_from((1.0, 2.0, 3.0, -1.0, -2.0, 0.0))
HOOKS = {"g * 2": lambda g: g * 2, "g + 1": lambda g: g + 1}
BINARY = {"add": "+", "sub": "-", "mul": "*"}


class DivergenceError(AssertionError):
    """Torch does not do what the model predicts; the message is a program that shows it."""


class Machine(RuleBasedStateMachine):
    """Torch beside the model. A rule with `pick` takes one of the tensors there are, counted from the newest."""

    def __init__(self) -> None:
        """Start without tensors."""
        super().__init__()
        self.tape = Tape()
        self.known: dict[str, Tensor] = {}
        self.lines = ["import torch", "modes, hooks = [], {}"]
        self.real: dict[str, Any] = {}
        exec("import torch\nmodes, hooks = [], {}", self.real)  # noqa: S102 - the program that a failure prints

    # how steps run

    def run(self, line: str) -> None:
        """Run a line that must not raise."""
        self.lines.append(line)
        try:
            exec(line, self.real)  # noqa: S102
        except Exception as error:  # noqa: BLE001 - whatever torch raises
            self.diverge(f"expected: nothing is raised; got {type(error).__name__}: {error}")

    def refused(self, line: str) -> None:
        """Run a line that must raise RuntimeError."""
        self.lines.append(f"{line}  # must raise RuntimeError")
        try:
            exec(line, self.real)  # noqa: S102
        except RuntimeError:
            self.lines[-1] = f"try: {line}\nexcept RuntimeError: pass"
            return
        self.diverge("expected: RuntimeError; nothing was raised")

    def diverge(self, why: str) -> None:
        """Fail with the program so far."""
        raise DivergenceError("\n".join(["", *self.lines, f"# {why}"]))

    def both(self, line: str, predicted: Callable[[], object]) -> bool:
        """Run a line that raises if the model says so; return whether it did."""
        try:
            predicted()
        except TapeError:
            self.refused(line)
            return True
        self.run(line)
        return False

    def pick(self, number: int, allowed: Callable[[Tensor], bool] = lambda _: True) -> tuple[str, Tensor] | None:
        """Return the name of a tensor, and the tensor; None where none is allowed."""
        found = [(name, tensor) for name, tensor in reversed(self.known.items()) if allowed(tensor)]
        return found[number % len(found)] if found else None

    def keep(self, tensor: Tensor, code: str) -> None:
        """Keep a result under a new name, unless its values grow too large to stay exact."""
        if np.abs(tensor.data).max() > LARGEST or len(self.known) >= MOST_TENSORS:
            if tensor.base is not None:
                tensor.base.views.remove(tensor)
            return
        name = f"t{len(self.known)}"
        self.known[name] = tensor
        self.run(f"{name} = {code}")

    # tensors

    @initialize(number=NUMBERS)
    def start(self, number: float) -> None:
        """Two leaves that require grad, so that no history is empty."""
        self.make((2,), number, requires_grad=True)
        self.make((), 3.0, requires_grad=True)

    @rule(shape=st.sampled_from(SHAPES), number=NUMBERS, requires_grad=st.booleans())
    def made(self, shape: tuple[int, ...], number: float, requires_grad: bool) -> None:  # noqa: FBT001
        """A tensor that the user makes is a leaf, whatever the grad mode."""
        self.make(shape, number, requires_grad=requires_grad)

    def make(self, shape: tuple[int, ...], number: float, *, requires_grad: bool) -> None:
        """Make a tensor of equal numbers."""
        data = np.full(shape, number)
        self.keep(Tensor(data, Version(), requires_grad=requires_grad), f"torch.tensor({data.tolist()}, dtype=torch.float64, requires_grad={requires_grad})")

    @rule(number=st.integers(0, 11), dtype=st.sampled_from(["int64", "bool"]))
    def whole_numbers_cannot_require_grad(self, number: int, dtype: str) -> None:
        """A tensor of integers or truths cannot require grad."""
        self.refused(f"torch.tensor({number}, dtype=torch.{dtype}, requires_grad=True)")

    @rule(op=st.sampled_from(sorted(BINARY)), first=st.integers(0, 11), second=st.integers(0, 11))
    def apply_to_two(self, op: str, first: int, second: int) -> None:
        """An op on two tensors, which may be one and the same, or of shapes that broadcast."""
        if (a := self.pick(first)) and (b := self.pick(second)):
            self.keep(self.tape.apply(op, a[1], b[1]), f"{a[0]} {BINARY[op]} {b[0]}")

    @rule(op=st.sampled_from(sorted(BINARY)), first=st.integers(0, 11), number=NUMBERS)
    def apply_to_a_number(self, op: str, first: int, number: float) -> None:
        """An op on a tensor and a number."""
        if a := self.pick(first):
            self.keep(self.tape.apply(op, a[1], number), f"{a[0]} {BINARY[op]} {number}")

    @rule(op=st.sampled_from(["neg", "square"]), first=st.integers(0, 11))
    def apply_to_one(self, op: str, first: int) -> None:
        """An op on one tensor."""
        if a := self.pick(first):
            self.keep(self.tape.apply(op, a[1]), f"-{a[0]}" if op == "neg" else f"{a[0]} ** 2")

    @rule(first=st.integers(0, 11))
    def sum(self, first: int) -> None:
        """The sum of all elements."""
        if a := self.pick(first):
            self.keep(self.tape.sum(a[1]), f"{a[0]}.sum()")

    @rule(first=st.integers(0, 11))
    def clone(self, first: int) -> None:
        """A copy through which the gradient passes."""
        if a := self.pick(first):
            self.keep(self.tape.clone(a[1]), f"{a[0]}.clone()")

    @rule(first=st.integers(0, 11))
    def detach(self, first: int) -> None:
        """A leaf that shares the values, and through which no gradient passes."""
        if a := self.pick(first, lambda t: t.base is None):
            self.keep(self.tape.detach(a[1]), f"{a[0]}.detach()")

    @rule(first=st.integers(0, 11), start=st.integers(0, 1))
    def view(self, first: int, start: int) -> None:
        """A view of one element of two: through it the gradient reaches its base."""
        if self.tape.enabled and (a := self.pick(first, lambda t: t.data.shape == (2,) and t.base is None)):
            self.keep(self.tape.view(a[1], slice(start, start + 1)), f"{a[0]}[{start}:{start + 1}]")

    @rule(op=st.sampled_from(["add", "mul"]), first=st.integers(0, 11), second=st.integers(0, 11))
    def apply_in_place(self, op: str, first: int, second: int) -> None:
        """An op in place, on a view too: part of the function; on a leaf that requires grad it raises."""
        a = self.pick(first, _can_change)
        if a and (b := self.pick(second, partial(_can_enter, a[1]))):
            result = a[1].data * b[1].data if op == "mul" else a[1].data + b[1].data
            if np.abs(result).max() <= LARGEST:
                self.both(f"{a[0]}.{op}_({b[0]})", lambda: self.tape.apply_in_place(op, a[1], b[1]))

    @rule(first=st.integers(0, 11))
    def change_in_place(self, first: int) -> None:
        """Adding a number in place: what was saved of the tensor for backward is no longer what it was."""
        if (a := self.pick(first, _can_change)) and np.abs(a[1].data).max() < LARGEST:
            self.both(f"{a[0]}.add_(1)", lambda: self.tape.apply_in_place("add", a[1], 1.0))

    @rule(first=st.integers(0, 11), requires_grad=st.booleans())
    def freeze(self, first: int, requires_grad: bool) -> None:  # noqa: FBT001
        """`requires_grad_` freezes and unfreezes a leaf; a non-leaf cannot be frozen."""
        if a := self.pick(first, lambda t: t.base is None and not t.views):
            if not a[1].is_leaf and not requires_grad:
                self.refused(f"{a[0]}.requires_grad_(False)")
                return
            self.run(f"{a[0]}.requires_grad_({requires_grad})")
            a[1].was_frozen |= a[1].requires_grad and not requires_grad
            a[1].requires_grad = requires_grad

    @rule(first=st.integers(0, 11))
    def retain_grad(self, first: int) -> None:
        """`retain_grad()` makes a non-leaf keep its gradient; it changes nothing for a leaf, and raises where no grad is required."""
        if a := self.pick(first, lambda t: t.base is None and not t.views):
            if not a[1].requires_grad:
                self.refused(f"{a[0]}.retain_grad()")
                return
            self.run(f"{a[0]}.retain_grad()")
            if a[1].function is not None and not a[1].retains_grad:
                a[1].retains_grad = True
                a[1].function.retains.append(a[1])

    # hooks

    @rule(first=st.integers(0, 11), code=st.sampled_from(sorted(HOOKS)))
    def hook(self, first: int, code: str) -> None:
        """A hook replaces the gradient: hooks run in order, before it is kept or passed on; without grad there is nothing to hook."""
        if a := self.pick(first, lambda t: t.base is None and not t.views):
            line = f"hooks[{a[0]!r}] = {a[0]}.register_hook(lambda g: {code})"
            if not a[1].requires_grad:
                self.refused(line)
                return
            self.run(line)
            (a[1].function.hooks if a[1].function else a[1].hooks).append(HOOKS[code])

    @rule(first=st.integers(0, 11))
    def remove_hook(self, first: int) -> None:
        """A hook that was removed does not run."""
        a = self.pick(first, lambda t: bool(t.function.hooks if t.function else t.hooks))
        if a and a[0] in self.real["hooks"]:
            self.run(f"hooks.pop({a[0]!r}).remove()")
            (a[1].function.hooks if a[1].function else a[1].hooks).pop()

    # backward

    @rule(first=st.integers(0, 11), given=st.booleans(), retain=st.booleans())
    def backward(self, first: int, given: bool, retain: bool) -> None:  # noqa: FBT001
        """Gradients accumulate into leaves; the graph is freed unless it is retained, and cannot be used again."""
        if a := self.pick(first):
            self._backward(*a, given=given, retain=retain)

    @rule(first=st.integers(0, 11))
    def backward_of_the_sum(self, first: int) -> None:
        """The sum of a tensor and its backward at once, which is how losses are used."""
        if a := self.pick(first, lambda t: t.requires_grad):
            root = self.tape.sum(a[1])
            if root.requires_grad:
                self._guarded(f"{a[0]}.sum().backward()", lambda: self.tape.backward(root))

    @rule(first=st.integers(0, 11), second=st.integers(0, 11))
    def backward_of_two(self, first: int, second: int) -> None:
        """Backward of several roots gives the sum of their backwards."""
        a, b = self.pick(first, lambda t: t.requires_grad), self.pick(second, lambda t: t.requires_grad)
        if a and b and self.tape.enabled:
            root = self.tape.apply("add", self.tape.sum(a[1]), self.tape.sum(b[1]))
            self._guarded(f"torch.autograd.backward([{a[0]}.sum(), {b[0]}.sum()])", lambda: self.tape.backward(root))

    @rule(first=st.integers(0, 11), second=st.integers(0, 11), retain=st.booleans())
    def backward_into(self, first: int, second: int, retain: bool) -> None:  # noqa: FBT001
        """`inputs=` touches the `.grad` of those tensors only."""
        a, b = self.pick(first), self.pick(second, lambda t: t.requires_grad and t.is_leaf)
        if a and b:
            self._backward(*a, given=True, retain=retain, inputs=[b])

    def _backward(self, name: str, root: Tensor, *, given: bool, retain: bool, inputs: Sequence[tuple[str, Tensor]] = ()) -> None:
        said = [f"retain_graph={retain}"] + [f"inputs=[{', '.join(n for n, _ in inputs)}]"] * bool(inputs)
        cotangent = np.full(root.data.shape, 2.0) if given else None
        code = [f"torch.full({root.data.shape}, 2.0, dtype=torch.float64)"] * given
        targets = [t for _, t in inputs] if inputs else None
        self._guarded(f"{name}.backward({', '.join(code + said)})", lambda: self.tape.backward(root, cotangent, targets, retain=retain))

    def _guarded(self, line: str, predicted: Callable[[], object]) -> None:
        """Run a backward; one that raises may have come to some leaves, so that no `.grad` is predicted after it."""
        if self.both(line, predicted):
            for name, tensor in self.known.items():
                self.run(f"{name}.grad = None")
                tensor.grad = None

    @rule(first=st.integers(0, 11), second=st.integers(0, 11), unused=st.sampled_from(["", ", allow_unused=True", ", materialize_grads=True"]))
    def grad(self, first: int, second: int, unused: str) -> None:
        """`autograd.grad` returns the gradient and touches no `.grad`; of an unused input it is None, zeros, or raises."""
        a, b = self.pick(first, lambda t: t.requires_grad), self.pick(second, lambda t: t.requires_grad and t.base is None)
        if not a or not b or any(t.retains_grad for t in self.known.values()):
            return
        found: list[Values | None] = []

        def predicted() -> None:
            cotangent = np.ones(a[1].data.shape)
            arrived = self.tape.gradients(a[1], cotangent, [b[1]], retain=True).get(id(b[1].target))
            if arrived is None and not unused:
                raise TapeError
            found.append(np.zeros(b[1].data.shape) if arrived is None and "materialize" in unused else arrived)

        line = f"(g,) = torch.autograd.grad({a[0]}, {b[0]}, torch.ones({a[1].data.shape}, dtype=torch.float64), retain_graph=True{unused})"
        if not self.both(line, predicted):
            self.same("g", self.real["g"], found[0])

    # .grad

    @rule(first=st.integers(0, 11), line=st.sampled_from(["{}.grad.zero_()", "{}.grad = None"]))
    def clear(self, first: int, line: str) -> None:
        """`grad.zero_()` leaves zeros, `grad = None` none."""
        if a := self.pick(first, lambda t: t.grad is not None):
            self.run(line.format(a[0]))
            a[1].grad = np.zeros(a[1].data.shape) if "zero" in line else None

    @rule(first=st.integers(0, 11), fits=st.booleans())
    def assign(self, first: int, fits: bool) -> None:  # noqa: FBT001
        """`.grad` may be assigned only what has the shape of the tensor."""
        if a := self.pick(first, lambda t: t.is_leaf):
            shape = a[1].data.shape if fits else (3,)
            line = f"{a[0]}.grad = torch.ones({shape}, dtype=torch.float64)"
            if fits:
                self.run(line)
                a[1].grad = np.ones(shape)
            else:
                self.refused(line)

    @rule(first=st.integers(0, 11), to_none=st.booleans())
    def zero_grad(self, first: int, to_none: bool) -> None:  # noqa: FBT001
        """`zero_grad()` of an optimizer sets None, or zeros where there is a gradient."""
        if a := self.pick(first, lambda t: t.is_leaf and t.requires_grad):
            self.run(f"torch.optim.SGD([{a[0]}], lr=1.0).zero_grad({'' if to_none else 'set_to_none=False'})")
            a[1].grad = None if to_none or a[1].grad is None else np.zeros(a[1].data.shape)

    @rule(first=st.integers(0, 11))
    def step(self, first: int) -> None:
        """A step of an optimizer changes a leaf in place, out of sight of the graph but not of the version."""
        if a := self.pick(first, lambda t: t.is_leaf and t.requires_grad and t.grad is not None and np.abs(t.data - t.grad).max() <= LARGEST):
            self.run(f"torch.optim.SGD([{a[0]}], lr=1.0).step()")
            a[1].data[...] -= np.asarray(a[1].grad)
            a[1].version.count += 1

    # grad mode

    @rule(mode=st.sampled_from(["no_grad", "enable_grad"]))
    def enter(self, mode: str) -> None:
        """Grad modes nest."""
        if len(self.tape.modes) < 4:
            self.run(f"modes.append(torch.{mode}()); modes[-1].__enter__()")
            self.tape.modes.append(mode == "enable_grad")

    @precondition(lambda self: len(self.tape.modes) > 1)
    @rule(error=st.booleans())
    def leave(self, error: bool) -> None:  # noqa: FBT001
        """Leaving a grad mode, by an error too, restores what was before it."""
        self.run(f"modes.pop().__exit__({'ValueError, ValueError(), None' if error else 'None, None, None'})")
        self.tape.modes.pop()

    # what holds after each step

    @invariant()
    def agrees(self) -> None:
        """Grad mode and every property of every tensor are as predicted."""
        if torch.is_grad_enabled() != self.tape.enabled:
            self.diverge(f"expected: torch.is_grad_enabled() is {self.tape.enabled}")
        for name, tensor in self.known.items():
            real = self.real[name]
            for what, got, due in (
                ("is_leaf", real.is_leaf, tensor.is_leaf),
                ("requires_grad", real.requires_grad, tensor.requires_grad),
                ("grad_fn is None", real.grad_fn is None, tensor.function is None),
                ("retains_grad", real.retains_grad, tensor.retains_grad),
                ("_version", real._version, tensor.version.count),  # noqa: SLF001 - the counter that torch documents for it
                ("dtype", real.dtype, torch.float64),
            ):
                if got != due:
                    self.diverge(f"expected: {name}.{what} is {due}; got {got}")
            self.same(name, real.detach(), tensor.data)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # reading it of a non-leaf warns, which a rule of tests/test_tape.py holds
                self.same(f"{name}.grad", real.grad, tensor.grad)

    def same(self, name: str, got: torch.Tensor | None, due: Values | None) -> None:
        """Compare a tensor with its prediction."""
        if got is None or due is None:
            if got is not None or due is not None:
                self.diverge(f"expected: {name} is {None if due is None else due.tolist()}; got {got}")
        elif tuple(got.shape) != due.shape or got.dtype != torch.float64 or not np.allclose(got.tolist(), due, rtol=2**-40, atol=0):
            self.diverge(f"expected: {name} is {due.tolist()} in float64; got {got}")

    def teardown(self) -> None:
        """Leave all grad modes, whatever they did."""
        torch.set_grad_enabled(True)
        self.tape.modes[1:] = []


def _can_enter(tensor: Tensor, other: Tensor) -> bool:
    """Say whether a tensor may be the other operand of a change in place: of other values, and a shape that does not broadcast it."""
    return other.version is not tensor.version and other.data.shape in {(), tensor.data.shape}


def _can_change(tensor: Tensor) -> bool:
    """Say whether a tensor may be changed in place here: what becomes of hooks, or of a leaf that was unfrozen once, is not documented."""
    whole = tensor.base or tensor
    return not any(t.was_frozen or t.retains_grad or t.hooks or (t.function and (t.function.hooks or t.function.retains)) for t in (whole, tensor, *whole.views))
