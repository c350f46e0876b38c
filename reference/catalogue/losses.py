"""Losses, by element and reduced to their sum or mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sympy import Abs, Piecewise, Rational, exp, log

from reference.catalogue.normalisers import log_softmax
from reference.domain import POSITIVE, Interval
from reference.graph import Shape
from reference.op import Op, Variant, x, y

EACH = {"reduction": "none"}
UNIT = Interval(0, 1)


def classes(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Draw the number of a class for each row of the first input."""
    return random.integers(0, shapes[0][-1], shapes[0][:-1])


def cross_entropy(x: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Return minus the log-softmax at the class of each row, or the mean or sum of that over the rows."""
    return reduced(-log_softmax(x)[np.arange(len(target)), target], reduction)


def reduced(losses: Any, reduction: str) -> Any:
    """Reduce losses as the argument `reduction` of torch's losses says: by "none", "mean" or "sum"."""
    return losses if reduction == "none" else np.mean(losses) if reduction == "mean" else np.sum(losses)


OPS = (
    Op(name="mse_loss", torch="torch.nn.functional.mse_loss", formula=lambda x, target, *, reduction="mean": reduced((x - target) ** 2, reduction), axes="n,n", batched=0, variants={"sum": Variant(reduction="sum")}),
    Op(
        name="l1_loss", torch="torch.nn.functional.l1_loss", kwargs=EACH, broadcasts=False, formula=Abs(x - y), kinks=(x - y,),
        variants={
            "mean": Variant(lambda x, target: np.mean(np.abs(x - target)), reduction="mean", changed={"axes": "n,n", "batched": 0, "kinks": ()}),
        },
    ),
    Op(
        name="huber_loss", torch="torch.nn.functional.huber_loss", kwargs=EACH, broadcasts=False,
        formula=Piecewise(((x - y) ** 2 / 2, Abs(x - y) <= 1), (Abs(x - y) - Rational(1, 2), True)),
    ),
    Op(
        name="smooth_l1_loss", torch="torch.nn.functional.smooth_l1_loss", kwargs=EACH | {"beta": 0.5}, broadcasts=False,
        formula=Piecewise(((x - y) ** 2, Abs(x - y) < Rational(1, 2)), (Abs(x - y) - Rational(1, 4), True)),
    ),
    Op(
        name="binary_cross_entropy", torch="torch.nn.functional.binary_cross_entropy", kwargs=EACH, broadcasts=False,
        formula=-(y * log(x) + (1 - y) * log(1 - x)), domain={"x": UNIT, "y": UNIT},
    ),
    Op(
        name="bce_with_logits", torch="torch.nn.functional.binary_cross_entropy_with_logits", kwargs=EACH, broadcasts=False,
        formula=(1 - y) * x + log(1 + exp(-x)),
    ),
    Op(
        name="kl_div", torch="torch.nn.functional.kl_div", kwargs=EACH, broadcasts=False, formula=y * (log(y) - x),
        domain={"y": POSITIVE},
    ),
    Op(
        name="cross_entropy", torch="torch.nn.functional.cross_entropy", contexts={"target": classes}, formula=cross_entropy,
        axes="mn", sizes={"m": 2, "n": 32000}, batched=0, saves=log_softmax, saved=lambda _, saved: saved,
        variants={"sum": Variant(reduction="sum"), "each": Variant(reduction="none")},
    ),
)
