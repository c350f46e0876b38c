"""Functions that reduce a dimension, or accumulate along it."""

from typing import Any

import numpy as np
from sympy import Rational

from reference.domain import POSITIVE
from reference.op import Op, Stated, Variant
from reference.trace import shift

LAST = {"dim": -1, "keepdim": True}


def total(x: Any) -> Any:
    """Return the sum over the last dimension, which is kept."""
    return np.sum(x, axis=-1, keepdims=True)


def average(x: Any) -> Any:
    """Return the mean over the last dimension, which is kept."""
    return np.mean(x, axis=-1, keepdims=True)


def log_of_sum_of_exp(x: Any) -> Any:
    """Return the logarithm of the sum of exponentials over the last dimension, which is kept."""
    largest = shift(x)
    return np.log(total(np.exp(x - largest))) + largest


OPS = (
    Op(name="sum", torch="torch.sum", inside="wide", formula=total, kwargs=LAST, axes="n"),
    Op(name="mean", torch="torch.mean", inside="wide", formula=average, kwargs=LAST, axes="n"),
    Op(name="prod", torch="torch.prod", formula=lambda x: np.prod(x, axis=-1, keepdims=True), kwargs=LAST, axes="n", sizes={"n": 8}, shapes=(((3,),), ((5,),))),
    Op(
        name="var", torch="torch.var", kwargs=LAST, axes="n", shortest=2, variants={"biased": Variant(changed={"shortest": 1}, correction=0)},
        formula=lambda x, *, correction=1: total((x - average(x)) ** 2) * Rational(1, x.shape[-1] - correction),
    ),
    # at 0 it is convex, and the rule says 0, the sub-gradient of least norm; of the formula's steps it would make inf times 0
    Op(
        name="norm", torch="torch.linalg.vector_norm", formula=lambda x: np.sqrt(total(x**2)), kwargs=LAST, axes="n", domain={"x": POSITIVE},
        points=(Stated({"x": (0, 0, 0)}, due={"x": (0, 0, 0)}),),
    ),
    Op(name="logsumexp", torch="torch.logsumexp", formula=log_of_sum_of_exp, kwargs=LAST, axes="n", saved=lambda x, output: x - output),
    Op(name="cumsum", torch="torch.cumsum", inside="wide", formula=lambda x: np.cumsum(x, axis=-1), kwargs={"dim": -1}, axes="n", sizes={"n": 257}),
    # a tree may bring forth ties, where this has a kink
    Op(name="amax", torch="torch.amax", inside="wide", formula=lambda x: np.max(x, axis=-1, keepdims=True), kwargs=LAST, axes="n", composes=False),
)
