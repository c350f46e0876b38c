"""The state machine: each rule is what a program may do to tensors, and says what torch documents of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.tape.model import Tape, TapeError, Tensor, Version
from tests.tape.runner import LARGEST, MOST_TENSORS, Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.tape.model import Values

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (2,))
"""Shapes that all broadcast to each other."""

NUMBERS = st.sampled_from((1.0, 2.0, 3.0, -1.0, -2.0, 0.0))
NTH = st.integers(0, MOST_TENSORS - 1)
"""Which of the tensors that there are, counted from the newest: it shrinks to what was made last."""

# Two that do not commute, so that their order shows.
HOOKS = {"g * 2": lambda g: g * 2, "g + 1": lambda g: g + 1}
GRAD_MODES = ("no_grad()", "enable_grad()", "set_grad_enabled(False)", "set_grad_enabled(True)")
BINARY = {"add": "+", "sub": "-", "mul": "*"}


class Machine(Runner):
    """Draws histories of tensors, ops, hooks, backwards and zeroings; a rule does nothing where no tensor suits it."""

    # tensors

    @initialize(number=NUMBERS)
    def start(self, number: float) -> None:
        """Two leaves that require grad, one a parameter, so that no history is empty.

        They are of one shape, so that their gradients may be equal.
        """
        self.make((2,), number, requires_grad=True)
        self.parameter(number=3.0, requires_grad=True)

    @rule(shape=st.sampled_from(SHAPES), number=NUMBERS, requires_grad=st.booleans())
    def made(self, shape: tuple[int, ...], number: float, requires_grad: bool) -> None:
        """A tensor that the user makes is a leaf, whatever the grad mode."""
        self.make(shape, number, requires_grad=requires_grad)

    def make(self, shape: tuple[int, ...], number: float, *, requires_grad: bool) -> None:
        """Make a tensor of equal numbers."""
        data = np.full(shape, number)
        self.keep(
            Tensor(data, Version(), requires_grad=requires_grad),
            f"torch.tensor({data.tolist()}, {self.like}, requires_grad={requires_grad})",
        )

    @rule(number=NUMBERS, requires_grad=st.booleans())
    def parameter(self, number: float, requires_grad: bool) -> None:
        """A parameter is a leaf that requires grad unless it is told not to, whatever the grad mode."""
        tensor = Tensor(np.full((2,), number), Version(), requires_grad=requires_grad, is_parameter=True)
        frozen = "" if requires_grad else ", requires_grad=False"
        self.keep(tensor, f"torch.nn.Parameter(torch.tensor({[number] * 2}, {self.like}){frozen})")

    @rule(number=st.integers(0, 9), dtype=st.sampled_from(["int64", "bool"]))
    def whole_numbers_cannot_require_grad(self, number: int, dtype: str) -> None:
        """A tensor of integers or truths cannot require grad."""
        self.refused(f"torch.tensor({number}, dtype=torch.{dtype}, requires_grad=True)")

    @rule(op=st.sampled_from(sorted(BINARY)), first=NTH, second=NTH)
    def apply_to_two(self, op: str, first: int, second: int) -> None:
        """An op on two tensors, of shapes that broadcast."""
        if (a := self.pick(first)) and (b := self.pick(second)):
            self.keep(self.tape.apply(op, a[1], b[1]), f"{a[0]} {BINARY[op]} {b[0]}")

    @rule(op=st.sampled_from(sorted(BINARY)), first=NTH)
    def apply_to_itself(self, op: str, first: int) -> None:
        """An op on a tensor and itself: it is used twice, and both gradients come to it."""
        if a := self.pick(first):
            self.keep(self.tape.apply(op, a[1], a[1]), f"{a[0]} {BINARY[op]} {a[0]}")

    @rule(op=st.sampled_from(sorted(BINARY)), first=NTH, number=NUMBERS)
    def apply_to_a_number(self, op: str, first: int, number: float) -> None:
        """An op on a tensor and a number."""
        if a := self.pick(first):
            self.keep(self.tape.apply(op, a[1], number), f"{a[0]} {BINARY[op]} {number}")

    @rule(op=st.sampled_from(["neg", "square"]), first=NTH)
    def apply_to_one(self, op: str, first: int) -> None:
        """An op on one tensor."""
        if a := self.pick(first):
            self.keep(self.tape.apply(op, a[1]), f"-{a[0]}" if op == "neg" else f"{a[0]} ** 2")

    @rule(first=NTH)
    def sum(self, first: int) -> None:
        """The sum of all elements."""
        if a := self.pick(first):
            self.keep(self.tape.sum(a[1]), f"{a[0]}.sum()")

    @rule(first=NTH)
    def clone(self, first: int) -> None:
        """A copy through which the gradient passes."""
        if a := self.pick(first):
            self.keep(self.tape.clone(a[1]), f"{a[0]}.clone()")

    @rule(first=NTH)
    def detach(self, first: int) -> None:
        """A leaf that shares the values, and through which no gradient passes."""
        if a := self.pick(first, lambda t: t.base is None):
            self.keep(self.tape.detach(a[1]), f"{a[0]}.detach()")

    @rule(first=NTH)
    def detach_in_place(self, first: int) -> None:
        """`detach_()` makes a leaf of a tensor that is no view and that no backward needs.

        The tensor no longer requires grad.
        """
        if a := self.pick(first, lambda t: not (t.views or t.version.is_saved or _is_watched(t) or t.was_frozen)):
            if a[1].base is not None and a[1].function is not None:
                self.refused(f"{a[0]}.detach_()")
            elif a[1].base is None:
                self.run(f"{a[0]}.detach_()")
                a[1].was_frozen |= a[1].is_leaf and a[1].requires_grad
                a[1].function, a[1].requires_grad = None, False

    @rule(first=NTH, start=st.integers(0, 1))
    def view(self, first: int, start: int) -> None:
        """A view of one element of two: through it the gradient reaches its base."""
        if self.tape.enabled and (a := self.pick(first, lambda t: t.data.shape == (2,) and t.base is None)):
            self.keep(self.tape.view(a[1], slice(start, start + 1)), f"{a[0]}[{start}:{start + 1}]")

    @rule(op=st.sampled_from(["add", "mul"]), first=NTH, second=NTH)
    def apply_in_place(self, op: str, first: int, second: int) -> None:
        """An op in place, on a view too: part of the function; on a leaf that requires grad it raises."""
        a = self.pick(first, _can_change)
        if a and (b := self.pick(second, partial(_can_enter, a[1]))):
            result = a[1].data * b[1].data if op == "mul" else a[1].data + b[1].data
            if np.abs(result).max() <= LARGEST:
                self.both(f"{a[0]}.{op}_({b[0]})", lambda: self.tape.apply_in_place(op, a[1], b[1]))

    @rule(first=NTH)
    def change_in_place(self, first: int) -> None:
        """Adding a number in place: what was saved of the tensor for backward is no longer what it was."""
        if (a := self.pick(first, _can_change)) and np.abs(a[1].data).max() < LARGEST:
            self.both(f"{a[0]}.add_(1)", lambda: self.tape.apply_in_place("add", a[1], 1.0))

    @rule(first=NTH, requires_grad=st.booleans())
    def freeze(self, first: int, requires_grad: bool) -> None:
        """`requires_grad_` freezes and unfreezes a leaf; a non-leaf cannot be frozen."""
        if a := self.pick(first, lambda t: t.base is None and not t.views and t.seen is None):
            if not a[1].is_leaf and not requires_grad:
                self.refused(f"{a[0]}.requires_grad_(False)")
                return
            self.run(f"{a[0]}.requires_grad_({requires_grad})")
            a[1].require_grad(requires_grad=requires_grad)

    @rule(first=NTH)
    def retain_grad(self, first: int) -> None:
        """`retain_grad()` makes a non-leaf keep its gradient.

        It changes nothing for a leaf, and raises where no grad is required.
        """
        if a := self.pick(first, lambda t: t.base is None and not t.views):
            if not a[1].requires_grad:
                self.refused(f"{a[0]}.retain_grad()")
                return
            self.run(f"{a[0]}.retain_grad()")
            if a[1].function is not None and not a[1].retains_grad:
                a[1].retains_grad = True
                a[1].function.retains.append(a[1])

    # hooks

    @rule(first=NTH, codes=st.lists(st.sampled_from(sorted(HOOKS)), min_size=1, max_size=2))
    def hook(self, first: int, codes: list[str]) -> None:
        """A hook replaces the gradient: hooks run in order, before it is kept or passed on.

        Without grad there is nothing to hook.
        """
        if a := self.pick(first, lambda t: t.base is None and not t.views):
            for code in codes:
                line = f"hooks[{a[0]!r}] = {a[0]}.register_hook(lambda g: {code})"
                if a[1].requires_grad:
                    self.run(line)
                    (a[1].function.hooks if a[1].function else a[1].hooks).append(HOOKS[code])
                else:
                    self.refused(line)

    @rule(first=NTH)
    def remove_hook(self, first: int) -> None:
        """A hook that was removed does not run."""
        a = self.pick(first, lambda t: bool(t.function.hooks if t.function else t.hooks))
        if a and a[0] in self.real["hooks"]:
            self.run(f"hooks.pop({a[0]!r}).remove()")
            (a[1].function.hooks if a[1].function else a[1].hooks).pop()

    @rule(first=NTH)
    def watch(self, first: int) -> None:
        """A post-accumulate hook of a leaf sees `.grad` after it was added to.

        A non-leaf, or a leaf without grad, can have none.
        """
        if a := self.pick(first, lambda t: t.seen is None):
            line = f"{a[0]}.register_post_accumulate_grad_hook(lambda t: seen[{a[0]!r}].append(t.grad.tolist()))"
            if a[1].requires_grad and a[1].is_leaf:
                self.run(f"seen[{a[0]!r}] = []")
                self.run(line)
                a[1].seen = []
            else:
                self.refused(line)

    # backward

    @rule(first=NTH, given=st.booleans(), retain=st.booleans())
    def backward(self, first: int, given: bool, retain: bool) -> None:
        """Gradients accumulate into leaves; the graph is freed unless it is retained, and cannot be used again."""
        if a := self.pick(first):
            self._backward(*a, given=given, retain=retain)

    @rule(first=NTH)
    def backward_twice(self, first: int) -> None:
        """A graph that was retained can be used again, and its gradients are added again."""
        if (a := self.pick(first, lambda t: t.requires_grad)) and not self._backward(*a, given=True, retain=True):
            self._backward(*a, given=True, retain=False)

    @rule(first=NTH)
    def backward_of_the_sum(self, first: int) -> None:
        """The sum of a tensor and its backward at once, which is how losses are used."""
        if a := self.pick(first, lambda t: t.requires_grad):
            root = self.tape.sum(a[1])
            if root.requires_grad:
                self._guarded(f"{a[0]}.sum().backward()", lambda: self.tape.backward(root))

    @rule(first=NTH, second=NTH)
    def backward_of_two(self, first: int, second: int) -> None:
        """Backward of several roots gives the sum of their backwards."""
        a, b = self.pick(first, lambda t: t.requires_grad), self.pick(second, lambda t: t.requires_grad)
        if a and b and self.tape.enabled:
            root = self.tape.apply("add", self.tape.sum(a[1]), self.tape.sum(b[1]))
            self._guarded(f"torch.autograd.backward([{a[0]}.sum(), {b[0]}.sum()])", lambda: self.tape.backward(root))

    @rule(first=NTH, second=NTH, retain=st.booleans())
    def backward_into(self, first: int, second: int, retain: bool) -> None:
        """`inputs=` touches the `.grad` of those tensors only."""
        a, b = self.pick(first), self.pick(second, lambda t: t.requires_grad and t.is_leaf)
        if a and b:
            self._backward(*a, given=True, retain=retain, inputs=[b])

    def _backward(
        self, name: str, root: Tensor, *, given: bool, retain: bool, inputs: Sequence[tuple[str, Tensor]] = ()
    ) -> bool:
        said = [f"retain_graph={retain}"] + [f"inputs=[{', '.join(n for n, _ in inputs)}]"] * bool(inputs)
        cotangent = np.full(root.data.shape, 2.0) if given else None
        code = [f"torch.full({root.data.shape}, 2.0, {self.like})"] * given
        targets = [t for _, t in inputs] if inputs else None
        return self._guarded(
            f"{name}.backward({', '.join(code + said)})",
            lambda: self.tape.backward(root, cotangent, targets, retain=retain),
        )

    def _guarded(self, line: str, predicted: Callable[[], object]) -> bool:
        """Run a backward, and return whether it raised, as predicted.

        Torch does not say how far a backward came that raises. So it retains the graph, of which it could have freed a
        part, and afterwards every `.grad` is None and every hook has seen nothing.
        """
        raised = self.both(line, predicted, instead=_retaining(line))
        if raised:
            self.run("for each in seen.values(): each.clear()")
            for name, tensor in self.known.items():
                self.run(f"{name}.grad = None")
                tensor.grad, tensor.seen = None, None if tensor.seen is None else []
        return raised

    @rule(first=NTH, second=NTH, unused=st.sampled_from(["", ", allow_unused=True", ", materialize_grads=True"]))
    def grad(self, first: int, second: int, unused: str) -> None:
        """`autograd.grad` returns the gradient and touches no `.grad`.

        The gradient of an unused input is None, zeros, or raises.
        """
        a = self.pick(first, lambda t: t.requires_grad)
        b = self.pick(second, lambda t: t.requires_grad and t.base is None)
        # Whether `autograd.grad` fills a `.grad` that is retained on its way is not documented.
        if not a or not b or any(t.retains_grad for t in self.known.values()):
            return
        found: list[Values | None] = []

        def predicted() -> None:
            cotangent = np.ones(a[1].data.shape)
            arrived = self.tape.gradients(a[1], cotangent, [b[1]], retain=True).get(id(b[1].target))
            if arrived is None and not unused:
                raise TapeError
            found.append(np.zeros(b[1].data.shape) if arrived is None and "materialize" in unused else arrived)

        ones = f"torch.ones({a[1].data.shape}, {self.like})"
        line = f"(g,) = torch.autograd.grad({a[0]}, {b[0]}, {ones}, retain_graph=True{unused})"
        if not self.both(line, predicted):
            self.same("g", self.real["g"], found[0])

    @rule(first=NTH, second=NTH, third=NTH, accumulates=st.booleans())
    def second_order(self, first: int, second: int, third: int, accumulates: bool) -> None:
        """With `create_graph=True` a gradient can be differentiated again, one that went to `.grad` too."""
        a = self.pick(first, lambda t: t.requires_grad)
        if not a or not self.tape.enabled:
            return
        # The square has a second derivative, whatever the history is.
        root = self.tape.sum(self.tape.apply("square", a[1]))
        line = f"({a[0]} ** 2).sum()"
        b = self.pick(second, lambda t: t.requires_grad and t.is_leaf and not t.hooks and self.tape.reaches(root, t))
        c = self.pick(third, lambda t: t.requires_grad and t.is_leaf and not t.hooks)
        if not b or not c:
            return
        due = Tape.second(root, b[1], c[1])
        if due is None:
            return

        if accumulates:
            self.run(f"{b[0]}.grad = None")
            b[1].grad = None
            if self._guarded(
                f"{line}.backward(create_graph=True, inputs=[{b[0]}])",
                lambda: self.tape.backward(root, None, [b[1]], retain=True),
            ):
                return
            self.run(f"g, {b[0]}.grad = {b[0]}.grad, None")
            b[1].grad = None
        elif self.both(
            f"(g,) = torch.autograd.grad({line}, {b[0]}, create_graph=True)",
            lambda: self.tape.gradients(root, None, [b[1]], retain=True),
        ):
            return
        # With the second leaf added, whose gradient is 1: alone, g need not depend on it, which is an error.
        self.run(f"(h,) = torch.autograd.grad(g.sum() + {c[0]}.sum(), {c[0]}, retain_graph=True)")
        self.same("h", self.real["h"], due + 1)

    # .grad

    @rule(first=NTH, line=st.sampled_from(["{}.grad.zero_()", "{}.grad = None", "{}.grad.add_(1)"]))
    def change_grad(self, first: int, line: str) -> None:
        """`grad.zero_()` leaves zeros, `grad = None` none; what happens to one `.grad` happens to no other."""
        if a := self.pick(first, lambda t: t.grad is not None):
            self.run(line.format(a[0]))
            shape = a[1].data.shape
            a[1].grad = None if "None" in line else np.zeros(shape) if "zero" in line else np.asarray(a[1].grad) + 1

    @rule(first=NTH)
    def assign(self, first: int) -> None:
        """`.grad` may be assigned."""
        if a := self.pick(first, lambda t: t.is_leaf):
            self.run(f"{a[0]}.grad = torch.ones({a[1].data.shape}, {self.like})")
            a[1].grad = np.ones(a[1].data.shape)

    @rule(
        first=NTH,
        wrong=st.sampled_from(["(3,), dtype=torch.float64", "{}, dtype=torch.float32", "{}, dtype=torch.int64"]),
    )
    def assign_what_does_not_fit(self, first: int, wrong: str) -> None:
        """`.grad` must have the shape and the dtype of its tensor."""
        if a := self.pick(first, lambda t: t.is_leaf):
            device = f", device={self.device!r}" * (self.device != "cpu")
            self.refused(f"{a[0]}.grad = torch.ones({wrong.format(a[1].data.shape)}{device})")

    @rule(first=NTH, to_none=st.booleans())
    def zero_grad(self, first: int, to_none: bool) -> None:
        """`zero_grad()` of an optimizer sets None, or zeros where there is a gradient."""
        if a := self.pick(first, lambda t: t.is_leaf and t.requires_grad):
            self.run(f"torch.optim.SGD([{a[0]}], lr=1.0).zero_grad({'' if to_none else 'set_to_none=False'})")
            a[1].zero_grad(to_none=to_none)

    @rule(first=NTH)
    def step(self, first: int) -> None:
        """A step of an optimizer changes a leaf in place, out of sight of the graph but not of the version."""
        if a := self.pick(
            first,
            lambda t: t.is_leaf and t.requires_grad and t.grad is not None and np.abs(t.data - t.grad).max() <= LARGEST,
        ):
            self.run(f"torch.optim.SGD([{a[0]}], lr=1.0).step()")
            a[1].data[...] -= np.asarray(a[1].grad)
            a[1].version.count += 1

    # modules

    @rule(first=NTH, to_none=st.booleans())
    def module_zero_grad(self, first: int, to_none: bool) -> None:
        """`zero_grad()` of a module does what that of an optimizer does, for all its parameters."""
        if a := self.pick(first, lambda t: t.is_parameter and t.is_leaf):
            self.run(f"torch.nn.ParameterList([{a[0]}]).zero_grad({'' if to_none else 'set_to_none=False'})")
            a[1].zero_grad(to_none=to_none)

    @rule(first=NTH, requires_grad=st.booleans())
    def freeze_module(self, first: int, requires_grad: bool) -> None:
        """`requires_grad_` of a module freezes and unfreezes its parameters."""
        if a := self.pick(first, lambda t: t.is_parameter and t.is_leaf and not t.views and t.seen is None):
            self.run(f"torch.nn.ParameterList([{a[0]}]).requires_grad_({requires_grad})")
            a[1].require_grad(requires_grad=requires_grad)

    # grad mode

    @rule(modes=st.lists(st.sampled_from(GRAD_MODES), min_size=1, max_size=2))
    def enter(self, modes: list[str]) -> None:
        """Grad modes nest."""
        for mode in modes[
            : 4 - len(self.tape.modes)
        ]:  # never more than three, one inside the other: an arbitrary bound
            self.run(f"modes.append(torch.{mode}); modes[-1].__enter__()")
            self.tape.modes.append(mode in {"enable_grad()", "set_grad_enabled(True)"})

    @precondition(lambda self: len(self.tape.modes) > 1)
    @rule()
    def leave(self) -> None:
        """Leaving a grad mode restores what was before it."""
        self.run("modes.pop().__exit__(None, None, None)")
        self.tape.modes.pop()

    @rule(mode=st.sampled_from(GRAD_MODES))
    def fail_inside(self, mode: str) -> None:
        """An error inside a grad mode leaves it too."""
        self.run(f"try:\n    with torch.{mode}: raise ValueError\nexcept ValueError: pass")


def _retaining(backward: str) -> str:
    """Return a line that calls backward, changed so that the graph is retained."""
    if "retain_graph" in backward:
        return backward.replace("retain_graph=False", "retain_graph=True")
    return f"{backward[:-1]}{'' if backward.endswith('()') else ', '}retain_graph=True)"


def _can_enter(tensor: Tensor, other: Tensor) -> bool:
    """Say whether a tensor may be the other operand of a change in place.

    It must not share the storage that is changed, and must broadcast to the shape of the first.
    """
    return other.version is not tensor.version and other.data.shape in {(), tensor.data.shape}


def _can_change(tensor: Tensor) -> bool:
    """Say whether a tensor may be changed in place here.

    What becomes of hooks, or of a leaf that was unfrozen once, is not documented.
    """
    whole = tensor.base or tensor
    return not any(t.was_frozen or _is_watched(t) for t in (whole, tensor, *whole.views))


def _is_watched(tensor: Tensor) -> bool:
    """Say whether a hook is called with the gradient of a tensor, or a non-leaf retains it."""
    return bool(
        tensor.retains_grad
        or tensor.hooks
        or tensor.seen is not None
        or (tensor.function and (tensor.function.hooks or tensor.function.retains))
    )
