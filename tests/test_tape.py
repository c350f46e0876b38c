"""The tape's rules, as torch documents them: which tensors are leaves, what `.grad` holds, and when it is cleared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


@pytest.fixture
def leaf(device: str) -> torch.Tensor:
    """Return a leaf that requires grad, at 3."""
    return torch.tensor([3.0], device=device, requires_grad=True)


def grad_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the `.grad` of a tensor, which must have one."""
    gradient = tensor.grad
    assert gradient is not None
    return gradient


def test_made_by_the_user_is_a_leaf(leaf: torch.Tensor) -> None:
    """A tensor made by the user is a leaf; the result of an op on one that requires grad is not, and has a grad_fn."""
    assert leaf.is_leaf
    assert leaf.grad_fn is None
    result = leaf * 2
    assert not result.is_leaf
    assert result.grad_fn is not None


def test_without_requires_grad_is_a_leaf(device: str) -> None:
    """A tensor that does not require grad is a leaf by convention, even when an op made it."""
    made = torch.ones(1, device=device) * 2
    assert made.is_leaf
    assert made.grad_fn is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool], ids=str)
def test_only_floats_require_grad(device: str, dtype: torch.dtype) -> None:
    """Only floating-point and complex tensors can require grad."""
    with pytest.raises(RuntimeError, match="floating point"):
        torch.ones(1, dtype=dtype, device=device).requires_grad_()


def test_leaf_holds_grad(leaf: torch.Tensor) -> None:
    """After backward a leaf that requires grad holds a `.grad` of its own shape, dtype and device: 2x = 6."""
    (leaf**2).backward()
    assert grad_of(leaf).tolist() == [6]
    assert (grad_of(leaf).shape, grad_of(leaf).dtype, grad_of(leaf).device) == (leaf.shape, leaf.dtype, leaf.device)


def test_leaves_do_not_share_their_grad(device: str) -> None:
    """Two leaves with equal gradients have each a `.grad` of their own."""
    one, other = (torch.ones(2, device=device, requires_grad=True) for _ in range(2))
    (one + other).sum().backward()
    grad_of(one).zero_()
    assert grad_of(other).tolist() == [1, 1]


def test_non_leaf_grad_is_not_kept(leaf: torch.Tensor) -> None:
    """`.grad` of a non-leaf is None, and reading it warns."""
    square = leaf**2
    square.backward()
    with pytest.warns(UserWarning, match="not a leaf"):
        assert square.grad is None


def test_retain_grad_keeps_it(leaf: torch.Tensor) -> None:
    """`retain_grad()` makes a non-leaf keep its `.grad`: d(3 s)/ds = 3."""
    square = leaf**2
    square.retain_grad()
    (square * 3).backward()
    assert grad_of(square).tolist() == [3]
    assert grad_of(leaf).tolist() == [18]


def test_uninvolved_leaves_have_no_grad(leaf: torch.Tensor, device: str) -> None:
    """Leaves that do not require grad, and those the root does not depend on, keep `.grad` None."""
    frozen = torch.ones(1, device=device)
    unused = torch.ones(1, device=device, requires_grad=True)
    (leaf * frozen).backward()
    assert frozen.grad is None
    assert unused.grad is None


def test_gradients_accumulate(leaf: torch.Tensor) -> None:
    """A second backward adds to `.grad`."""
    (leaf**2).backward()
    (leaf**2).backward()
    assert grad_of(leaf).tolist() == [12]


def test_grad_leaves_grad_alone(leaf: torch.Tensor) -> None:
    """`torch.autograd.grad` returns the gradient and does not touch `.grad`."""
    (gradient,) = torch.autograd.grad(leaf**2, leaf)
    assert gradient.tolist() == [6]
    assert leaf.grad is None


def test_zero_clears(leaf: torch.Tensor) -> None:
    """`grad.zero_()` leaves zeros, and the next backward gives the bare derivative again."""
    (leaf**2).backward()
    grad_of(leaf).zero_()
    assert grad_of(leaf).tolist() == [0]
    (leaf**2).backward()
    assert grad_of(leaf).tolist() == [6]


@pytest.mark.parametrize("set_to_none", [True, False], ids=["to_none", "to_zero"])
def test_zero_grad_of_an_optimizer(leaf: torch.Tensor, *, set_to_none: bool) -> None:
    """`zero_grad()` of an optimizer sets `.grad` to None, or to zeros with `set_to_none=False`."""
    optimizer = torch.optim.SGD([leaf], lr=1.0)
    (leaf**2).backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    assert leaf.grad is None if set_to_none else grad_of(leaf).tolist() == [0]
    (leaf**2).backward()
    assert grad_of(leaf).tolist() == [6]


def test_non_scalar_root_needs_a_cotangent(device: str) -> None:
    """`backward()` of more than one element raises without a gradient of its shape."""
    values = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="scalar outputs"):
        (values**2).backward()
    (values**2).backward(torch.tensor([1.0, 10.0], device=device))
    assert grad_of(values).tolist() == [2, 40]


def test_detach_stops_the_gradient(leaf: torch.Tensor) -> None:
    """`detach()` gives a leaf that shares the storage, and through which no gradient flows: d(c x)/dx = c = 3."""
    detached = leaf.detach()
    assert detached.is_leaf
    assert not detached.requires_grad
    assert detached.data_ptr() == leaf.data_ptr()
    (leaf * detached).backward()
    assert grad_of(leaf).tolist() == [3]


def test_assigned_grad_must_fit(leaf: torch.Tensor, device: str) -> None:
    """`.grad` may be set to a tensor of the leaf's own shape, dtype and device, and to no other."""
    leaf.grad = torch.tensor([5.0], device=device)
    assert grad_of(leaf).tolist() == [5]
    (leaf**2).backward()
    assert grad_of(leaf).tolist() == [11]
    for other in (
        torch.ones(2, device=device),
        torch.ones(1, dtype=torch.float16, device=device),
        torch.ones(1, device="meta"),
    ):
        with pytest.raises(RuntimeError, match="assign"):
            leaf.grad = other
    with pytest.raises(TypeError):
        leaf.grad = 1.0  # type: ignore[assignment]  # that is what must be refused
    assert grad_of(leaf).tolist() == [11]


def test_inputs_names_who_accumulates(leaf: torch.Tensor, device: str) -> None:
    """`backward(inputs=...)` touches the `.grad` of those tensors only, non-leaves among them."""
    other = torch.tensor([2.0], device=device, requires_grad=True)
    square = leaf**2
    (square * other).backward(inputs=[other, square])
    assert grad_of(other).tolist() == [9]
    assert grad_of(square).tolist() == [2]
    assert leaf.grad is None


@pytest.mark.parametrize("set_to_none", [True, False], ids=["to_none", "to_zero"])
def test_zero_grad_of_a_module(device: str, *, set_to_none: bool) -> None:
    """`zero_grad()` of a module does to its parameters what an optimizer's does."""
    module = torch.nn.Linear(2, 1, device=device)
    module(torch.tensor([[1.0, 10.0]], device=device)).sum().backward()
    assert grad_of(module.weight).tolist() == [[1, 10]]
    module.zero_grad(set_to_none=set_to_none)
    grads = [parameter.grad for parameter in module.parameters()]
    assert all(grad is None if set_to_none else grad is not None and not grad.any() for grad in grads)
    module(torch.tensor([[1.0, 10.0]], device=device)).sum().backward()
    assert grad_of(module.weight).tolist() == [[1, 10]]


def test_root_must_require_grad(device: str) -> None:
    """`backward()` of a tensor that does not require grad raises."""
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.ones(1, device=device).backward()


def test_cotangent_has_the_shape_of_the_root(device: str) -> None:
    """`backward()` with a gradient of another shape than the root's raises."""
    values = torch.ones(2, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="shape"):
        (values**2).backward(torch.ones(3, device=device))
    assert values.grad is None


def test_freed_graph_raises(leaf: torch.Tensor) -> None:
    """A second backward through the same graph raises, since the first freed it."""
    square = leaf**2
    square.backward()
    with pytest.raises(RuntimeError, match="second time"):
        square.backward()
    assert grad_of(leaf).tolist() == [6]


def test_retained_graph_adds_again(leaf: torch.Tensor) -> None:
    """With `retain_graph=True` a second backward adds the same again: 2 * 6."""
    square = leaf**2
    square.backward(retain_graph=True)
    square.backward()
    assert grad_of(leaf).tolist() == [12]


def test_create_graph_differentiates_twice(leaf: torch.Tensor) -> None:
    """`create_graph=True` makes the gradient differentiable: x³ has 3x² = 27, and 6x = 18.

    Without it, the gradient does not require grad.
    """
    (first,) = torch.autograd.grad(leaf**3, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first, leaf)
    assert (first.tolist(), second.tolist()) == ([27], [18])
    (plain,) = torch.autograd.grad(leaf**3, leaf)
    assert not plain.requires_grad


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)],
    ids=["no_grad", "inference_mode", "set_grad_enabled"],
)
def test_grad_mode_off(leaf: torch.Tensor, mode: Callable[[], AbstractContextManager[None]]) -> None:
    """With grad mode off results do not require grad; leaving the block, by an error too, restores it."""
    with mode():
        assert not torch.is_grad_enabled()
        assert not (leaf * 2).requires_grad
    assert (leaf * 2).requires_grad
    with pytest.raises(KeyError), mode():
        raise KeyError
    assert torch.is_grad_enabled()


def test_grad_modes_nest(leaf: torch.Tensor) -> None:
    """`enable_grad` inside `no_grad` tracks again, and each block restores what was before it."""
    with torch.no_grad():
        with torch.enable_grad():
            tracked = leaf * 2
        untracked = leaf * 2
    assert tracked.requires_grad
    assert not untracked.requires_grad


def test_factories_make_leaves_in_no_grad(device: str) -> None:
    """A factory asked for `requires_grad=True` makes a leaf that does, inside `no_grad` too."""
    with torch.no_grad():
        made = torch.ones(1, device=device, requires_grad=True)
    assert made.requires_grad
    assert made.is_leaf


def test_inference_tensor_is_not_saved(leaf: torch.Tensor, device: str) -> None:
    """A tensor made in inference mode cannot be saved for backward."""
    with torch.inference_mode():
        made = torch.ones(1, device=device)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        _ = leaf * made


def test_clone_passes_the_gradient(leaf: torch.Tensor) -> None:
    """`clone()` copies the values, and the gradient passes through: d(x + clone x)/dx = 2."""
    copy = leaf.clone()
    assert copy.data_ptr() != leaf.data_ptr()
    (leaf + copy).backward()
    assert grad_of(leaf).tolist() == [2]


def test_frozen_leaf_gets_nothing(leaf: torch.Tensor) -> None:
    """`requires_grad_(False)` freezes a leaf, and on a non-leaf raises."""
    with pytest.raises(RuntimeError, match="leaf"):
        (leaf * 2).requires_grad_(requires_grad=False)  # type: ignore[call-arg]  # the stub has another name
    leaf.requires_grad_(requires_grad=False)  # type: ignore[call-arg]  # as above
    assert not (leaf * 2).requires_grad


def test_leaf_is_not_changed_in_place(leaf: torch.Tensor) -> None:
    """An in-place step on a leaf that requires grad raises, outside of `no_grad`."""
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        leaf.mul_(2)
    with torch.no_grad():
        leaf.mul_(2)
    assert leaf.tolist() == [6]


def test_saved_tensor_must_not_change(leaf: torch.Tensor) -> None:
    """An in-place step on a tensor that was saved for backward makes backward raise."""
    middle = leaf * 2
    square = middle**2
    middle.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()
    assert leaf.grad is None


def test_in_place_is_differentiated(leaf: torch.Tensor) -> None:
    """An in-place step on a tensor that nothing has saved is part of the function: ((2x)²)' = 8x = 24."""
    (leaf * 2).pow_(2).backward()
    assert grad_of(leaf).tolist() == [24]


def test_in_place_through_a_view(device: str) -> None:
    """A step on a view changes its base, and what it is differentiated as: y = [x0², x1] has [2 x0, 1]."""
    values = torch.tensor([3.0, 5.0], device=device, requires_grad=True)
    base = values.clone()
    base[:1].pow_(2)
    assert base.tolist() == [9, 5]
    base.sum().backward()
    assert grad_of(values).tolist() == [6, 1]


def test_view_reaches_its_base(device: str) -> None:
    """A gradient through a view reaches the elements of the base that it shows; the others get 0."""
    values = torch.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
    (values[1:] ** 2).sum().backward()
    assert grad_of(values).tolist() == [0, 4, 6]


def test_view_made_in_no_grad_is_not_changed_with_grad(leaf: torch.Tensor) -> None:
    """A view that was made in `no_grad` cannot be changed in place with grad mode on."""
    middle = leaf * 2
    with torch.no_grad():
        view = middle[:]
    with pytest.raises(RuntimeError, match="no_grad"):
        view.mul_(leaf)


@pytest.mark.parametrize(
    ("function", "derivative"),
    [
        (lambda x: x + x, 2),
        (lambda x: x * x, 6),
        (lambda x: (x * 2) * (x + 1), 14),
        (lambda x: x * x.exp() * (-x).exp(), 1),
    ],
    ids=["x + x", "x * x", "diamond", "x exp(x) exp(-x)"],
)
def test_fan_out_sums(leaf: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor], derivative: int) -> None:
    """A tensor that is used more than once gets the sum over its uses."""
    function(leaf).backward()
    assert grad_of(leaf).tolist() == pytest.approx([derivative])


def test_hooks_run_in_order_and_replace(leaf: torch.Tensor) -> None:
    """Hooks of a tensor run in the order in which they were registered.

    Each may replace the gradient: 2 (g + 1) = 14.
    """
    leaf.register_hook(lambda gradient: gradient + 1)
    leaf.register_hook(lambda gradient: gradient * 2)
    (leaf**2).backward()
    assert grad_of(leaf).tolist() == [14]


def test_removed_hook_does_not_run(leaf: torch.Tensor) -> None:
    """A hook that was removed does not run."""
    handle = leaf.register_hook(lambda gradient: gradient * 100)
    handle.remove()
    (leaf**2).backward()
    assert grad_of(leaf).tolist() == [6]


def test_post_accumulate_hook_sees_the_sum(leaf: torch.Tensor) -> None:
    """`register_post_accumulate_grad_hook` runs after `.grad` was added to."""
    seen = []
    leaf.register_post_accumulate_grad_hook(lambda tensor: seen.append(grad_of(tensor).tolist()))
    (leaf**2).backward()
    (leaf**2).backward()
    assert seen == [[6], [12]]


@pytest.mark.xfail(strict=True, reason="torch 2.13 runs the hook although nothing was accumulated, and `.grad` is None")
def test_post_accumulate_hook_of_a_frozen_leaf(leaf: torch.Tensor) -> None:
    """The hook runs after `.grad` was updated: not for a leaf that was frozen since, whose `.grad` is left alone."""
    seen = []
    leaf.register_post_accumulate_grad_hook(lambda tensor: seen.append(tensor.grad))
    square = leaf**2
    leaf.requires_grad = False
    square.backward()
    assert leaf.grad is None
    assert not seen


def test_unused_input(leaf: torch.Tensor, device: str) -> None:
    """`grad` of an input that was not used raises.

    It is None with `allow_unused=True`, and zeros with `materialize_grads=True`.
    """
    unused = torch.ones(2, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(leaf**2, [leaf, unused])
    assert torch.autograd.grad(leaf**2, [leaf, unused], allow_unused=True)[1] is None
    assert torch.autograd.grad(leaf**2, [leaf, unused], materialize_grads=True)[1].tolist() == [0, 0]


def test_several_roots_sum(leaf: torch.Tensor) -> None:
    """Backward of several roots gives the sum of their backwards: 2x + 3x² = 33."""
    torch.autograd.backward([leaf**2, leaf**3])
    assert grad_of(leaf).tolist() == [33]


def test_broadcast_is_summed(leaf: torch.Tensor, device: str) -> None:
    """The gradient of what was broadcast is summed to its own shape: x (1 + 2 + 4) has [7]."""
    (leaf * torch.tensor([[1.0], [2.0], [4.0]], device=device)).sum().backward()
    assert grad_of(leaf).tolist() == [7]


@pytest.mark.parametrize(
    "function",
    [torch.argmax, lambda x: x > 1, lambda x: x.to(torch.int64), torch.isfinite],
    ids=["argmax", "greater", "to int64", "isfinite"],
)
def test_integer_results_do_not_require_grad(
    leaf: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Results that are not differentiable, of integers and truths, do not require grad."""
    assert not function(leaf).requires_grad


def test_threads_have_their_own_graphs(device: str) -> None:
    """Backward in several threads on separate graphs gives each its own gradient; grad mode is the thread's own."""
    # grad mode is off in this thread: if the others had it off too, nothing would require grad there
    leaves = [torch.tensor([float(n)], device=device, requires_grad=True) for n in range(8)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda x: (x**2).backward(), leaves))
    assert [grad_of(x).item() for x in leaves] == [2.0 * n for n in range(8)]


def test_saved_tensors_pass_through_hooks(leaf: torch.Tensor) -> None:
    """Saved-tensor hooks pack what is saved and unpack it for backward; the gradient is that of what they give back."""
    packed = []

    def pack(tensor: torch.Tensor) -> list[float]:
        packed.append(tensor.tolist())
        return packed[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: torch.tensor(values, device=leaf.device)):
        square = leaf**2
    square.backward()
    assert packed == [[3]]
    assert grad_of(leaf).tolist() == [6]


def test_checkpoint_gives_the_same(leaf: torch.Tensor) -> None:
    """Checkpointing runs the forward again in place of saving it, and gives the same gradient."""
    calls = []

    def square(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return tensor**2

    checkpoint(square, leaf, use_reentrant=False).backward()
    assert len(calls) == 2
    assert grad_of(leaf).tolist() == [6]
