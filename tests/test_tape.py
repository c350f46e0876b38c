"""The tape's rules, as torch documents them: which tensors are leaves, what `.grad` holds, and when it is cleared."""

import pytest
import torch


@pytest.fixture
def leaf(device: str) -> torch.Tensor:
    """Return a leaf that requires grad, at 3."""
    return torch.tensor([3.0], device=device, requires_grad=True)


def test_made_by_the_user_is_a_leaf(leaf) -> None:
    """A tensor made by the user is a leaf; the result of an op on one that requires grad is not, and has a grad_fn."""
    assert leaf.is_leaf
    assert leaf.grad_fn is None
    result = leaf * 2
    assert not result.is_leaf
    assert result.grad_fn is not None


def test_without_requires_grad_is_a_leaf(device) -> None:
    """A tensor that does not require grad is a leaf by convention, even when an op made it."""
    made = torch.ones(1, device=device) * 2
    assert made.is_leaf
    assert made.grad_fn is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool], ids=str)
def test_only_floats_require_grad(device, dtype) -> None:
    """Only floating-point and complex tensors can require grad."""
    with pytest.raises(RuntimeError, match="floating point"):
        torch.ones(1, dtype=dtype, device=device).requires_grad_()


def test_leaf_holds_grad(leaf) -> None:
    """After backward a leaf that requires grad holds a `.grad` of its own shape, dtype and device: 2x = 6."""
    (leaf**2).backward()
    assert leaf.grad.tolist() == [6]
    assert (leaf.grad.shape, leaf.grad.dtype, leaf.grad.device) == (leaf.shape, leaf.dtype, leaf.device)


def test_non_leaf_grad_is_not_kept(leaf) -> None:
    """`.grad` of a non-leaf is None, and reading it warns."""
    square = leaf**2
    square.backward()
    with pytest.warns(UserWarning, match="not a leaf"):
        assert square.grad is None


def test_retain_grad_keeps_it(leaf) -> None:
    """`retain_grad()` makes a non-leaf keep its `.grad`: d(3 s)/ds = 3."""
    square = leaf**2
    square.retain_grad()
    (square * 3).backward()
    assert square.grad.tolist() == [3]
    assert leaf.grad.tolist() == [18]


def test_uninvolved_leaves_have_no_grad(leaf, device) -> None:
    """Leaves that do not require grad, and those the root does not depend on, keep `.grad` None."""
    frozen = torch.ones(1, device=device)
    unused = torch.ones(1, device=device, requires_grad=True)
    (leaf * frozen).backward()
    assert frozen.grad is None
    assert unused.grad is None


def test_gradients_accumulate(leaf) -> None:
    """A second backward adds to `.grad`."""
    (leaf**2).backward()
    (leaf**2).backward()
    assert leaf.grad.tolist() == [12]


def test_grad_leaves_grad_alone(leaf) -> None:
    """`torch.autograd.grad` returns the gradient and does not touch `.grad`."""
    (gradient,) = torch.autograd.grad(leaf**2, leaf)
    assert gradient.tolist() == [6]
    assert leaf.grad is None


def test_zero_clears(leaf) -> None:
    """`grad.zero_()` leaves zeros, and the next backward gives the bare derivative again."""
    (leaf**2).backward()
    leaf.grad.zero_()
    assert leaf.grad.tolist() == [0]
    (leaf**2).backward()
    assert leaf.grad.tolist() == [6]


@pytest.mark.parametrize("set_to_none", [True, False], ids=["to_none", "to_zero"])
def test_zero_grad_of_an_optimizer(leaf, set_to_none) -> None:
    """`zero_grad()` of an optimizer sets `.grad` to None, or to zeros with `set_to_none=False`."""
    optimizer = torch.optim.SGD([leaf], lr=1.0)
    (leaf**2).backward()
    optimizer.zero_grad(set_to_none=set_to_none)
    assert leaf.grad is None if set_to_none else leaf.grad.tolist() == [0]
    (leaf**2).backward()
    assert leaf.grad.tolist() == [6]


def test_non_scalar_root_needs_a_cotangent(device) -> None:
    """`backward()` of more than one element raises without a gradient of its shape."""
    values = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="scalar outputs"):
        (values**2).backward()
    (values**2).backward(torch.tensor([1.0, 10.0], device=device))
    assert values.grad.tolist() == [2, 40]


def test_detach_stops_the_gradient(leaf) -> None:
    """`detach()` gives a leaf that shares the storage, and through which no gradient flows: d(c x)/dx = c = 3."""
    detached = leaf.detach()
    assert detached.is_leaf
    assert not detached.requires_grad
    assert detached.data_ptr() == leaf.data_ptr()
    (leaf * detached).backward()
    assert leaf.grad.tolist() == [3]
