"""The teaching notebook's chains: the formula by hand, sympy's derivative, and torch's, side by side."""

import math

import pytest
import sympy
import torch

from reference.derivative import derivative
from reference.op import x


def slope(formula: sympy.Expr, at: float) -> float:
    """Return sympy's derivative of a formula in x at a point."""
    return float(derivative(formula, x).subs(x, at).evalf(30))


def test_square_at_three() -> None:
    """d(x^2)/dx = 2x, which is 6 at 3."""
    point = torch.tensor(3.0, requires_grad=True)
    (point**2).backward()
    assert derivative(x**2, x) == 2 * x
    assert point.grad.item() == slope(x**2, 3) == 6


def test_sine_of_square_at_four() -> None:
    """d sin(x^2)/dx = 2x cos(x^2), which is -7.6613 at 4."""
    point = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    torch.sin(point**2).backward()
    assert derivative(sympy.sin(x**2), x) == 2 * x * sympy.cos(x**2)
    assert f"{slope(sympy.sin(x**2), 4):.4f}" == f"{point.grad.item():.4f}" == "-7.6613"


def test_mean_of_squares() -> None:
    """d mean(x^2)/dx_i = 2 x_i / 3 for three values."""
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (values**2).mean().backward()
    assert [f"{g:.4f}" for g in values.grad.tolist()] == ["0.6667", "1.3333", "2.0000"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_neuron_chain(dtype: torch.dtype) -> None:
    """The chain dL/dp dp/dz dz/dw of a logistic neuron is what backward gives.

    The clamp's 1e-8 vanishes in float32 next to 1, so there it only guards the lower end.
    """
    inp, target = 6.7, 0.0
    weight, bias = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (1.0, 0.0))
    prediction = torch.sigmoid(weight * inp + bias).clamp(1e-8, 1 - 1e-8)
    loss = -(target * prediction.log() + (1 - target) * (1 - prediction).log())
    loss.backward()

    p = 1 / (1 + math.exp(-inp))
    loss_by_prediction = (p - target) / (p * (1 - p))
    prediction_by_score = p * (1 - p)
    by_hand = loss_by_prediction * prediction_by_score
    shown = [loss.item(), weight.grad.item(), bias.grad.item()]
    assert [f"{v:.4f}" for v in (by_hand * inp, by_hand)] == ["6.6918", "0.9988"]
    assert [f"{v:.4f}" for v in shown] == ["6.7012", "6.6918", "0.9988"]


def test_clamp_vanishes_in_float32() -> None:
    """1 - 1e-8 is 1 in float32: a saturated prediction has an infinite loss and a NaN gradient."""
    score = torch.tensor(40.0, requires_grad=True)
    prediction = torch.sigmoid(score).clamp(1e-8, 1 - 1e-8)
    loss = -(1 - prediction).log()
    loss.backward()
    assert prediction.item() == 1
    assert math.isinf(loss.item())
    assert not math.isfinite(score.grad.item())


def test_gradients_accumulate_until_zeroed() -> None:
    """A second backward adds; `zero_` clears; the next backward gives the bare derivative."""
    point = torch.tensor(3.0, requires_grad=True)
    (point**2).backward()
    (point**2).backward()
    assert point.grad.item() == 12
    point.grad.zero_()
    assert point.grad.item() == 0
    (point**2).backward()
    assert point.grad.item() == 6


def test_non_leaf_grad_is_not_kept() -> None:
    """`.grad` of a non-leaf is None, and reading it warns."""
    point = torch.tensor(3.0, requires_grad=True)
    square = point**2
    square.backward()
    assert not square.is_leaf
    with pytest.warns(UserWarning, match="not a leaf"):
        assert square.grad is None
