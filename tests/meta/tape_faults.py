"""Faults of the tape, planted from outside torch.

Each patches what users call, and names a test of `tests/test_tape.py` that it must break. ``python -m
tests.meta.tape_faults`` prints with which program the model of `tests/tape` notices each.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from rich.console import Console
from rich.progress import track
from rich.syntax import Syntax
from rich.table import Table
from torch.utils.hooks import RemovableHandle

from tests.tape.machine import Machine
from tests.tape.runner import DivergenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Tensor = torch.Tensor
FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {}
"""How each fault is planted, and the name of the test that must notice it, by the name of the fault."""


def ignored(*_: Any, **__: Any) -> None:
    """Do nothing."""


def breaks(test: str) -> Callable[[Callable[[pytest.MonkeyPatch], None]], Callable[[pytest.MonkeyPatch], None]]:
    """Return a decorator that enters a fault, with the name of the test that must notice it."""

    def entered(plant: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
        FAULTS[plant.__name__] = (plant, test)
        return plant

    return entered


def leaves_of(roots: list[Tensor]) -> list[Tensor]:
    """Return the leaves that the graph of some roots accumulates into."""
    seen: set[Any] = set()
    found, todo = [], [root.grad_fn for root in roots]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # as the nodes that accumulate into a leaf have
            found.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found


def around_backward(
    patch: pytest.MonkeyPatch,
    before: Callable[[list[Tensor]], None] = lambda _: None,
    after: Callable[[list[Tensor]], None] = lambda _: None,
) -> None:
    """Patch backward: call `before` with the roots, and afterwards `after` with the leaves that they reach."""
    backward = torch.autograd.backward

    def faulty(tensors: Any, *args: Any, **kwargs: Any) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        before(roots)
        leaves = leaves_of(roots)  # before the graph is freed
        backward(tensors, *args, **kwargs)
        after(leaves)

    patch.setattr(torch.autograd, "backward", faulty)


def with_arguments(patch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]) -> None:
    """Patch backward so that its keyword arguments are changed first."""
    backward: Callable[..., None] = Tensor.backward

    def faulty(self: Tensor, gradient: Tensor | None = None, **kwargs: Any) -> None:
        change(kwargs)
        backward(self, gradient, **kwargs)

    patch.setattr(Tensor, "backward", faulty)


def reading_grad(patch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Patch `.grad` so that what is read is changed; what is stored is not."""
    stored = inspect.getattr_static(Tensor, "grad")

    def read(self: Tensor) -> Tensor | None:
        found = stored.__get__(self)
        return None if found is None else change(found)

    patch.setattr(Tensor, "grad", property(read, stored.__set__, stored.__delete__), raising=False)


@breaks("test_gradients_accumulate")
def overwrites(patch: pytest.MonkeyPatch) -> None:
    """Overwrite `.grad` where it should be added to."""

    def clear(roots: list[Tensor]) -> None:
        for leaf in leaves_of(roots):
            leaf.grad = None

    around_backward(patch, before=clear)


@breaks("test_zero_grad_of_an_optimizer")
def optimizer_does_not_zero(patch: pytest.MonkeyPatch) -> None:
    """Ignore `Optimizer.zero_grad`."""
    patch.setattr(torch.optim.Optimizer, "zero_grad", ignored)


@breaks("test_zero_grad_of_an_optimizer")
def optimizer_zeros_for_none(patch: pytest.MonkeyPatch) -> None:
    """Leave zeros where None is documented."""
    zero_grad = torch.optim.Optimizer.zero_grad
    patch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, **_: zero_grad(self, set_to_none=False))


@breaks("test_zero_grad_of_a_module")
def module_does_not_zero(patch: pytest.MonkeyPatch) -> None:
    """Ignore `Module.zero_grad`."""
    patch.setattr(torch.nn.Module, "zero_grad", ignored)


@breaks("test_zero_clears")
def zero_leaves_it_stale(patch: pytest.MonkeyPatch) -> None:
    """Leave the gradient that `zero_()` should clear."""
    patch.setattr(Tensor, "zero_", lambda self: self)


@breaks("test_detach_stops_the_gradient")
def detach_leaks(patch: pytest.MonkeyPatch) -> None:
    """Let the gradient through `detach()`."""
    patch.setattr(Tensor, "detach", lambda self: self.view_as(self))


@breaks("test_detach_stops_the_gradient")
def detach_copies(patch: pytest.MonkeyPatch) -> None:
    """Copy where storage should be shared."""
    detach = Tensor.detach
    patch.setattr(Tensor, "detach", lambda self: detach(self).clone())


@breaks("test_clone_passes_the_gradient")
def clone_stops(patch: pytest.MonkeyPatch) -> None:
    """Stop the gradient at `clone()`."""
    clone = Tensor.clone
    patch.setattr(Tensor, "clone", lambda self: clone(self.detach()))


@breaks("test_grad_mode_off")
def no_grad_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Track inside `no_grad`."""
    patch.setattr(torch.no_grad, "__enter__", lambda self: setattr(self, "prev", torch.is_grad_enabled()))


@breaks("test_grad_mode_off")
def no_grad_sticks_after_an_error(patch: pytest.MonkeyPatch) -> None:
    """Leave grad mode off where an exception leaves `no_grad`."""
    leave = torch.no_grad.__exit__
    patch.setattr(
        torch.no_grad, "__exit__", lambda self, kind, *rest: leave(self, kind, *rest) if kind is None else None
    )


@breaks("test_grad_modes_nest")
def enable_grad_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Do not track inside `enable_grad`."""
    patch.setattr(torch.enable_grad, "__enter__", lambda self: setattr(self, "prev", torch.is_grad_enabled()))


@breaks("test_non_leaf_grad_is_not_kept")
def non_leaf_keeps_grad(patch: pytest.MonkeyPatch) -> None:
    """Keep `.grad` of results of multiplication and powers."""
    for name in ("__pow__", "__mul__"):
        operate = getattr(Tensor, name)

        def faulty(self: Tensor, other: Any, operate: Callable[..., Tensor] = operate) -> Tensor:
            result = operate(self, other)
            if result.requires_grad:
                result.retain_grad()
            return result

        patch.setattr(Tensor, name, faulty)


@breaks("test_retain_grad_keeps_it")
def retain_grad_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Ignore `retain_grad()`."""
    patch.setattr(Tensor, "retain_grad", ignored)


@breaks("test_saved_tensor_must_not_change")
def version_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Change a saved tensor in place unnoticed."""
    add = Tensor.add_

    def faulty(self: Tensor, other: float) -> Tensor:
        add(self.data, other)
        return self

    patch.setattr(Tensor, "add_", faulty)


@breaks("test_leaf_is_not_changed_in_place")
def leaf_changes_in_place(patch: pytest.MonkeyPatch) -> None:
    """Let a leaf that requires grad be changed in place."""

    def faulty(self: Tensor, other: float) -> Tensor:
        with torch.no_grad():
            self.copy_(self * other)
        return self

    patch.setattr(Tensor, "mul_", faulty)


@breaks("test_view_reaches_its_base")
def view_loses_the_gradient(patch: pytest.MonkeyPatch) -> None:
    """Lose the gradient of a view."""
    getitem = Tensor.__getitem__
    patch.setattr(
        Tensor, "__getitem__", lambda self, index: getitem(self.detach(), index).requires_grad_(self.requires_grad)
    )


@breaks("test_fan_out_sums")
def fan_out_counts_once(patch: pytest.MonkeyPatch) -> None:
    """Count a tensor that is both factors of a product as one of them alone."""
    multiply = Tensor.__mul__
    patch.setattr(Tensor, "__mul__", lambda self, other: multiply(self, self.detach() if other is self else other))


@breaks("test_hooks_run_in_order_and_replace")
def hooks_run_in_reverse(patch: pytest.MonkeyPatch) -> None:
    """Run the hooks of a tensor last first."""
    register: Callable[..., RemovableHandle] = Tensor.register_hook
    hooks: dict[int, list[Callable[[Tensor], Tensor | None]]] = {}

    def run(some: Iterable[Callable[[Tensor], Tensor | None]], gradient: Tensor) -> Tensor:
        for hook in some:
            replaced = hook(gradient)
            gradient = gradient if replaced is None else replaced
        return gradient

    def faulty(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        mine = hooks.setdefault(id(self), [])
        mine.append(hook)
        if len(mine) == 1:  # one hook of torch's runs all of them
            register(self, lambda gradient: run(reversed(mine), gradient))
        handle = RemovableHandle(OrderedDict())
        handle.remove = lambda: mine.remove(hook)  # type: ignore[method-assign]  # this handle has a list to remove from
        return handle

    patch.setattr(Tensor, "register_hook", faulty)


@breaks("test_removed_hook_does_not_run")
def removed_hook_runs(patch: pytest.MonkeyPatch) -> None:
    """Run a hook that was removed."""
    patch.setattr(RemovableHandle, "remove", ignored)


@breaks("test_hooks_run_in_order_and_replace")
def hook_does_not_replace(patch: pytest.MonkeyPatch) -> None:
    """Ignore the gradient that a hook returns."""
    register: Callable[..., RemovableHandle] = Tensor.register_hook

    def faulty(self: Tensor, hook: Callable[[Tensor], object]) -> RemovableHandle:
        def called(gradient: Tensor) -> None:
            hook(gradient)

        return register(self, called)

    patch.setattr(Tensor, "register_hook", faulty)


@breaks("test_freed_graph_raises")
def freed_graph_is_reused(patch: pytest.MonkeyPatch) -> None:
    """Never free a graph."""
    with_arguments(patch, lambda kwargs: kwargs.update(retain_graph=True))


@breaks("test_retained_graph_adds_again")
def retain_graph_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Free a graph that should be retained."""
    with_arguments(patch, lambda kwargs: kwargs.pop("retain_graph", None))


@breaks("test_inputs_names_who_accumulates")
def inputs_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """Accumulate into every leaf, whatever `inputs` says."""
    with_arguments(patch, lambda kwargs: kwargs.pop("inputs", None))


@breaks("test_create_graph_differentiates_twice")
def create_graph_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Return a gradient that cannot be differentiated."""
    grad = torch.autograd.grad
    patch.setattr(
        torch.autograd,
        "grad",
        lambda *args, **kwargs: tuple(g if g is None else g.detach() for g in grad(*args, **kwargs)),
    )


@breaks("test_grad_leaves_grad_alone")
def grad_accumulates(patch: pytest.MonkeyPatch) -> None:
    """Let `torch.autograd.grad` write to `.grad` as well."""
    grad = torch.autograd.grad

    def faulty(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor | None, ...]:
        found = grad(outputs, inputs, *args, **kwargs)
        for tensor, gradient in zip([inputs] if isinstance(inputs, Tensor) else inputs, found, strict=True):
            if tensor.is_leaf and gradient is not None:
                tensor.grad = gradient.detach().clone()
        return found

    patch.setattr(torch.autograd, "grad", faulty)


@breaks("test_unused_input")
def unused_is_not_materialised(patch: pytest.MonkeyPatch) -> None:
    """Return None where zeros were asked for."""
    grad = torch.autograd.grad
    patch.setattr(
        torch.autograd,
        "grad",
        lambda *args, materialize_grads=False, **kwargs: grad(
            *args, **kwargs | ({"allow_unused": True} if materialize_grads else {})
        ),
    )


@breaks("test_leaf_holds_grad")
def grad_has_another_dtype(patch: pytest.MonkeyPatch) -> None:
    """Give the gradient in float16."""
    reading_grad(patch, lambda gradient: gradient.half())


@breaks("test_leaf_holds_grad")
def grad_has_another_shape(patch: pytest.MonkeyPatch) -> None:
    """Give the gradient a dimension too many."""
    reading_grad(patch, lambda gradient: gradient[None])


@breaks("test_leaves_do_not_share_their_grad")
def grads_are_aliased(patch: pytest.MonkeyPatch) -> None:
    """Let all leaves of a shape share one `.grad` where their gradients are equal."""

    def share(leaves: list[Tensor]) -> None:
        for leaf in leaves[1:]:
            if leaf.grad is not None and leaves[0].grad is not None and torch.equal(leaf.grad, leaves[0].grad):
                leaf.grad = leaves[0].grad

    around_backward(patch, after=share)


@breaks("test_frozen_leaf_gets_nothing")
def freezing_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Keep a leaf tracked that was frozen."""
    require = Tensor.requires_grad_
    patch.setattr(
        Tensor, "requires_grad_", lambda self, requires_grad=True: require(self, requires_grad or self.is_leaf)
    )


@breaks("test_several_roots_sum")
def only_one_root(patch: pytest.MonkeyPatch) -> None:
    """Differentiate the first of several roots."""
    backward = torch.autograd.backward
    patch.setattr(
        torch.autograd,
        "backward",
        lambda tensors, *args, **kwargs: backward(
            tensors[0] if isinstance(tensors, list) else tensors, *args, **kwargs
        ),
    )


@breaks("test_post_accumulate_hook_sees_the_sum")
def post_accumulate_hook_runs_before(patch: pytest.MonkeyPatch) -> None:
    """Run the hook before the gradient is added."""
    patch.setattr(
        Tensor,
        "register_post_accumulate_grad_hook",
        lambda self, hook: self.register_hook(lambda _: hook(self) if self.grad is not None else None),
    )


def noticed(fault: str, *, shrink: bool) -> str | None:
    """Return a program with which the model notices a fault, or None; the shortest there is, if it is to shrink."""
    chosen = settings(
        max_examples=3000,
        stateful_step_count=12,
        phases=[Phase.generate, Phase.shrink][: 1 + shrink],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[fault][0](patch)
        try:
            run_state_machine_as_test(Machine, settings=chosen)
        except DivergenceError as divergence:
            return str(divergence)
        finally:
            torch.set_grad_enabled(True)
    return None


def main() -> None:
    """Print the shortest program that shows each fault, with its number of steps, and the median of these."""
    table, steps = Table("fault", "steps", "program", show_lines=True), []
    for fault in track(FAULTS, "planting", console=Console(stderr=True)):
        program = noticed(fault, shrink=True)
        if program is not None:
            # Without the two lines that every program starts with; the last is a comment, which is no step.
            lines = program.strip().splitlines()[2:]
            steps.append(len(lines) - 1)
            table.add_row(
                fault, str(steps[-1]), Syntax("\n".join(lines), "python", background_color="default", word_wrap=True)
            )
        else:
            table.add_row(fault, "survives", "")
    Console().print(table)
    Console().print(f"{len(steps)} of {len(FAULTS)} faults noticed, the median in {median(steps):g} steps")


if __name__ == "__main__":
    main()
