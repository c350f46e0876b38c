"""The teaching notebook's chains: the formula by hand, sympy's derivative, and torch's, side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.case import Case
from reference.catalogue import OPS
from reference.elements import derivative
from reference.format import FORMATS
from reference.op import Op, x
from reference.tree import Apply, Leaf, Tree
from strategies.points import moderate
from tests.subject import binding

if TYPE_CHECKING:
    from reference.format import Format
    from tests.verdict.assay import Assay

WIDE = pytest.mark.parametrize("form", [FORMATS["float32"], FORMATS["float64"]], ids=["float32", "float64"])
"""The formats that carry the digits which the notebook prints; the tests with an assay ask all of them."""


def slope(formula: sympy.Expr, at: float) -> float:
    """Return sympy's derivative of a formula in x at a point."""
    return float(derivative(formula, x).subs(x, at).evalf(30))


def leaf(values: float | list[float], form: Format, device: str) -> torch.Tensor:
    """Return a leaf of a format on a device; skips where the device does not have the format."""
    try:
        return torch.tensor(values, dtype=binding.dtype(form), device=device, requires_grad=True)
    except (RuntimeError, TypeError) as refusal:
        pytest.skip(f"{device} has no {form.name}: {refusal}")


def grad_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the `.grad` of a tensor, which must have one."""
    gradient = tensor.grad
    assert gradient is not None
    return gradient


def test_square_at_three(form: Format, device: str) -> None:
    """d(x^2)/dx = 2x, which is 6 at 3, in every format."""
    point = leaf(3.0, form, device)
    (point**2).backward()
    assert derivative(x**2, x) == 2 * x
    assert grad_of(point).item() == slope(x**2, 3) == 6


@WIDE
def test_sine_of_square_at_four(form: Format, device: str) -> None:
    """d sin(x^2)/dx = 2x cos(x^2), which is -7.6613 at 4."""
    point = leaf(4.0, form, device)
    torch.sin(point**2).backward()
    assert derivative(sympy.sin(x**2), x) == 2 * x * sympy.cos(x**2)
    assert f"{slope(sympy.sin(x**2), 4):.4f}" == f"{grad_of(point).item():.4f}" == "-7.6613"


@WIDE
def test_mean_of_squares(form: Format, device: str) -> None:
    """d mean(x^2)/dx_i = 2 x_i / 3 for three values."""
    values = leaf([1.0, 2.0, 3.0], form, device)
    (values**2).mean().backward()
    assert [f"{g:.4f}" for g in grad_of(values).cpu().tolist()] == ["0.6667", "1.3333", "2.0000"]


def squared(*, sine: bool) -> Tree:
    """Return x^2, or sin(x^2), as a tree of ops."""
    variable = Leaf("x")
    root = Apply(OPS["square"], (variable,))
    return Tree(Apply(OPS["sin"], (root,)) if sine else root, (variable,))


CHAINS = {
    "square": (squared(sine=False), [3.0], "cotangent"),
    "sine_of_square": (squared(sine=True), [4.0], "cotangent"),
    "mean_of_squares": (squared(sine=False), [1.0, 2.0, 3.0], "mean"),
}
"""The chains above, where they are asked for, and how."""


@pytest.mark.parametrize("name", CHAINS)
def test_chain_in_every_format(name: str, form: Format, assay: Assay) -> None:
    """The gradients of the same chains are what rounding allows, in every format and on every device."""
    tree, point, root = CHAINS[name]
    assay.assert_agrees(Case(tree, form, (np.array(point),), np.ones(len(point)), root))


# A neuron reads x, is to answer y, and has a weight and a bias.
#
#     score       z = w x + b
#     prediction  p = 1 / (1 + exp(-z))
#     loss        L = -(y log p + (1 - y) log(1 - p))

W, X, B, Y, Z, P = sympy.symbols("w x b y z p", real=True)
SCORE = W * X + B
PREDICTION = 1 / (1 + sympy.exp(-Z))
LOSS = -(Y * sympy.log(P) + (1 - Y) * sympy.log(1 - P))
POINT = {X: 6.7, Y: 0, W: 1, B: 0}
FACTORS = {
    "dL/dp": "813.4",
    "dp/dz": "0.001228",
    "dz/dw": "6.700",
    "dz/db": "1.000",
    "dL/dw": "6.692",
    "dL/db": "0.9988",
}
"""The derivatives at that point, by the names of the chain rule, to four digits."""


def neuron(form: Format, device: str) -> dict[str, torch.Tensor]:
    """Run the neuron at the point, and backward; what comes back has every step, by name."""
    weight, bias = (leaf(float(POINT[s]), form, device) for s in (W, B))
    score = weight * POINT[X] + bias
    prediction = torch.sigmoid(score)
    guarded = prediction.clamp(1e-8, 1 - 1e-8)
    loss = -(POINT[Y] * guarded.log() + (1 - POINT[Y]) * (1 - guarded).log())
    for step in (score, prediction):
        step.retain_grad()
    loss.backward()
    return {"w": weight, "b": bias, "z": score, "p": prediction, "L": loss}


def digits(value: sympy.Expr | float) -> str:
    """Write a number to four significant digits."""
    return f"{float(value):#.4g}"


def test_neuron_factors_by_sympy() -> None:
    """The chain rule: dL/dw = dL/dp dp/dz dz/dw, and dL/db = dL/dp dp/dz dz/db."""
    assert sympy.simplify(LOSS.diff(P) - (P - Y) / (P * (1 - P))) == 0
    assert sympy.simplify(PREDICTION.diff(Z) - PREDICTION * (1 - PREDICTION)) == 0
    steps = {
        "dL/dp": LOSS.diff(P).subs(P, PREDICTION).subs(Z, SCORE),
        "dp/dz": PREDICTION.diff(Z).subs(Z, SCORE),
        "dz/dw": SCORE.diff(W),
        "dz/db": SCORE.diff(B),
    }
    steps["dL/dw"] = steps["dL/dp"] * steps["dp/dz"] * steps["dz/dw"]
    steps["dL/db"] = steps["dL/dp"] * steps["dp/dz"] * steps["dz/db"]
    assert {name: digits(step.subs(POINT).evalf(30)) for name, step in steps.items()} == FACTORS


def test_chain_is_the_whole_derivative() -> None:
    """The product of the factors is sympy's derivative of the whole loss: (p - y) x, and p - y."""
    whole = LOSS.subs(P, PREDICTION).subs(Z, SCORE)
    prediction = PREDICTION.subs(Z, SCORE)
    assert sympy.simplify(whole.diff(W) - (prediction - Y) * X) == 0
    assert sympy.simplify(whole.diff(B) - (prediction - Y)) == 0


@WIDE
def test_neuron_factors_by_autograd(form: Format, device: str) -> None:
    """The gradient that torch keeps at each step is the product of the factors from the loss to there."""
    step = neuron(form, device)
    found = {
        "dL/dp": grad_of(step["p"]),
        "dp/dz": grad_of(step["z"]) / grad_of(step["p"]),
        "dz/dw": grad_of(step["w"]) / grad_of(step["z"]),
        "dz/db": grad_of(step["b"]) / grad_of(step["z"]),
        "dL/dw": grad_of(step["w"]),
        "dL/db": grad_of(step["b"]),
    }
    assert {name: digits(gradient.item()) for name, gradient in found.items()} == FACTORS


@WIDE
def test_neuron_loss(form: Format, device: str) -> None:
    """The loss is 6.7012, dL/dw 6.6918, dL/db 0.9988."""
    step = neuron(form, device)
    found = (step["L"].item(), grad_of(step["w"]).item(), grad_of(step["b"]).item())
    assert [f"{v:.4f}" for v in found] == ["6.7012", "6.6918", "0.9988"]


# The notebook clamps the prediction in the formula of the loss. No op of the catalogue has these bounds, hence an
# entry; numbers of a formula are exact, hence the Rational.
GUARD = Op(
    name="guard",
    torch="torch.clamp",
    kwargs={"min": 1e-8, "max": 1 - 1e-8},
    kinks=(x - sympy.Rational(1, 10**8), x - 1 + sympy.Rational(1, 10**8)),
    formula=sympy.Piecewise(
        (sympy.Rational(1, 10**8), x < sympy.Rational(1, 10**8)),
        (x, x <= 1 - sympy.Rational(1, 10**8)),
        (1 - sympy.Rational(1, 10**8), True),
    ),
)


def neuron_tree(*, fused: bool = False) -> Tree:
    """Return the neuron as a tree of ops: the same chain as above, or with the loss of the score in one op."""
    leaves = (weight, inp, bias, target) = tuple(Leaf(name) for name in "wxby")
    score = Apply(OPS["add"], (Apply(OPS["mul"], (weight, inp)), bias))
    if fused:
        return Tree(Apply(OPS["bce_with_logits"], (score, target)), leaves)
    guarded = Apply(GUARD, (Apply(OPS["sigmoid"], (score,)),))
    return Tree(Apply(OPS["binary_cross_entropy"], (guarded, target)), leaves)


def test_neuron_in_every_format(form: Format, assay: Assay) -> None:
    """At the notebook's point the gradients are what rounding allows, in every format, on every device.

    The loss is of the score: in 16 bits a prediction may round to 1, whose loss is infinite, so that the chain above
    has no bound there.
    """
    primals = tuple(form.values(form.ordinals(np.array([float(POINT[symbol])]))) for symbol in (W, X, B, Y))
    assay.assert_agrees(Case(neuron_tree(fused=True), form, primals, np.ones(1)))


@given(data=st.data())
def test_neuron_at_any_point(form: Format, assay: Assay, data: st.DataObject) -> None:
    """The gradients by w, x, b and y of any neuron that is not saturated are what rounding allows."""
    # of w, x, b and y: the score is 2.5 at most, whose sigmoid is far from 1
    ranges = [(-1.5, 1.5), (-1.5, 1.5), (-0.25, 0.25), (0.0625, 0.9375)]
    primals = tuple(data.draw(moderate(form, (64,), *extent)) for extent in ranges)
    assay.assert_agrees(Case(neuron_tree(), form, primals, form.values(form.ordinals(primals[1]))))


@pytest.mark.parametrize(
    ("form", "prediction", "loss", "gradient"),
    [(FORMATS["float64"], 1 - 1e-8, 18.4207, 0.0), (FORMATS["float32"], 1.0, math.inf, math.nan)],
    ids=["float64", "float32"],
)
def test_saturated_prediction(form: Format, device: str, prediction: float, loss: float, gradient: float) -> None:
    """In float64 the clamp bounds the loss and stops the gradient; in float32 it vanishes.

    1 - 1e-8 is 1 in float32, so a prediction that has rounded to 1 has the loss -log 0 = inf, and the
    gradient inf * 0 = NaN. A clamp at 1e-7 would have held.
    """
    score = leaf(40.0, form, device)
    guarded = torch.sigmoid(score).clamp(1e-8, 1 - 1e-8)
    found = -(1 - guarded).log()
    found.backward()
    assert guarded.item() == prediction
    assert found.item() == pytest.approx(loss, abs=5e-5)
    assert grad_of(score).item() == pytest.approx(gradient, nan_ok=True, abs=0)
