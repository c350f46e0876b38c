"""Networks of torch's own layers, each with the same function step by step, for its floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy
import torch

from reference.catalogue import OPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runs.speed.floor import Steps, Value

WIDTH, HEADS = 64, 4
"""Features, and heads of attention."""

HIDDEN = 4 * WIDTH
"""Features of the hidden layer."""

LENGTH = 16
"""Members of a sequence."""


@dataclass(frozen=True)
class Network:
    """A network of torch's layers, and the same function in steps."""

    layers: Callable[[], torch.nn.Module]
    """Returns the network."""

    steps: Callable[..., Value]
    """Runs the same function step by step, given the steps, the input, and the parameters in torch's order."""


def _rows(steps: Steps, x: Value) -> Value:
    return steps.arranged(x, lambda t: t.view(-1, WIDTH), lambda t: t.view(-1, LENGTH, WIDTH))


def _sequences(steps: Steps, x: Value) -> Value:
    return steps.arranged(x, lambda t: t.view(-1, LENGTH, WIDTH), lambda t: t.view(-1, WIDTH))


def _linear(steps: Steps, x: Value, weight: Value, bias: Value) -> Value:
    return steps.op(OPS["add"], steps.product(x, weight), bias)


def _normalised(steps: Steps, x: Value, weight: Value, bias: Value) -> Value:
    total, centred, squares, scale, w, b = sympy.symbols("total centred squares scale w b", real=True)
    mean = steps.formula(total / WIDTH, total=steps.total(x))
    middle = steps.op(OPS["sub"], x, mean)
    squared = steps.total(steps.op(OPS["square"], middle))
    inverse = steps.formula(1 / sympy.sqrt(squares / WIDTH + sympy.Float(1e-5)), squares=squared)
    return steps.formula(centred * scale * w + b, centred=middle, scale=inverse, w=weight, b=bias)


def _perceptron(steps: Steps, x: Value, *parameters: Value) -> Value:
    hidden = steps.op(OPS["gelu"], _linear(steps, _rows(steps, x), *parameters[:2]))
    return _sequences(steps, _linear(steps, hidden, *parameters[2:]))


def _attended(steps: Steps, x: Value, mixing: tuple[Value, Value], closing: tuple[Value, Value]) -> Value:
    """Attend to the other members of a sequence, with several heads; x has a row for each member of each sequence."""
    score = sympy.Symbol("score", real=True)
    sequences = x.tensor.shape[0] // LENGTH
    apart = (sequences, LENGTH, 3, HEADS, WIDTH // HEADS)
    mixed = steps.arranged(
        _linear(steps, x, *mixing),
        lambda t: t.view(apart).permute(2, 0, 3, 1, 4),
        lambda t: t.permute(1, 3, 0, 2, 4).reshape(-1, 3 * WIDTH),
    )
    query, key, value = steps.split(mixed)
    weights = steps.op(
        OPS["exp"], steps.formula(score / sympy.sqrt(sympy.Integer(WIDTH // HEADS)), score=steps.product(query, key))
    )
    shares = steps.op(OPS["div"], weights, steps.total(weights))
    across = steps.arranged(value, lambda t: t.mT, lambda t: t.mT)
    heads = steps.product(shares, across)
    together = steps.arranged(
        heads,
        lambda t: t.transpose(1, 2).reshape(-1, WIDTH),
        lambda t: t.view(sequences, LENGTH, HEADS, -1).transpose(1, 2),
    )
    return _linear(steps, together, *closing)


def _attention(steps: Steps, x: Value, *parameters: Value) -> Value:
    rows = _rows(steps, x)
    mixing, closing, first, second, before, after = zip(parameters[::2], parameters[1::2], strict=True)
    attended = _normalised(steps, steps.op(OPS["add"], rows, _attended(steps, rows, mixing, closing)), *before)
    fed = _linear(steps, steps.op(OPS["relu"], _linear(steps, attended, *first)), *second)
    return _sequences(steps, _normalised(steps, steps.op(OPS["add"], attended, fed), *after))


NETWORKS = {
    "MLP": Network(
        lambda: torch.nn.Sequential(torch.nn.Linear(WIDTH, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, WIDTH)),
        _perceptron,
    ),
    "attention block": Network(
        lambda: torch.nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True), _attention
    ),
}
"""A perceptron with one hidden layer, and an encoder's block, on sequences."""
