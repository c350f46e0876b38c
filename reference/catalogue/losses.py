"""Losses."""

import numpy as np
from sympy import Abs, Piecewise, Rational, exp, log

from reference.catalogue.normalisers import log_softmax
from reference.domain import POSITIVE, Interval
from reference.op import Array, Op, x, y

EACH = {"reduction": "none"}
UNIT = Interval(0, 1)
TARGETS = (2, 0)
"""The classes of the two rows that cross_entropy is tried at."""


def mean_squared_error(x: Array, target: Array) -> Array:
    """Mean over all elements of the squared difference."""
    return np.sum((x - target) ** 2) * Rational(1, x.size)


def cross_entropy(x: Array) -> Array:
    """Mean over the rows of minus the log-softmax at the row's class."""
    scores = log_softmax(x)
    return -sum(scores[i, t] for i, t in enumerate(TARGETS)) * Rational(1, len(TARGETS))


OPS = (
    Op(name="mse_loss", torch="torch.nn.functional.mse_loss", formula=mean_squared_error, shapes=(((3,), (3,)), ((2, 2), (2, 2))), batched=0),
    Op(name="l1_loss", torch="torch.nn.functional.l1_loss", kwargs=EACH, broadcasts=False, formula=Abs(x - y), kinks=(x - y,)),
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
        name="cross_entropy", torch="torch.nn.functional.cross_entropy", constants={"target": TARGETS},
        formula=cross_entropy, shapes=(((2, 3),),), batched=0,
        saves=log_softmax, saved=lambda _, saved: saved,
    ),
)
