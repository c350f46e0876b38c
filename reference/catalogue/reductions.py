"""Functions that fold a dimension."""

import numpy as np
from sympy import Piecewise, Rational, exp, log, sqrt

from reference.domain import POSITIVE
from reference.op import Array, Op

ROW = (((3,),), ((5,),))
"""Shapes a reduction over the last dimension is tried at."""

LAST = {"dim": -1, "keepdim": True}


def total(x: Array) -> Array:
    """Sum over the last dimension, which is kept."""
    return np.sum(x, axis=-1, keepdims=True)


def average(x: Array) -> Array:
    """Mean over the last dimension, which is kept."""
    return total(x) * Rational(1, x.shape[-1])


def squared_deviation(x: Array) -> Array:
    """Sum of squared deviations from the mean over the last dimension."""
    return total((x - average(x)) ** 2)


def logarithm(x: Array) -> Array:
    """Logarithm of each element."""
    return np.vectorize(log, otypes=[object])(x)


def exponential(x: Array) -> Array:
    """Exponential of each element."""
    return np.vectorize(exp, otypes=[object])(x)


def root(x: Array) -> Array:
    """Square root of each element."""
    return np.vectorize(sqrt, otypes=[object])(x)


def log_of_sum_of_exp(x: Array) -> Array:
    """Logarithm of the sum of exponentials over the last dimension."""
    return logarithm(total(exponential(x)))


def largest(x: Array) -> Array:
    """Largest element of a vector; the elements are distinct."""
    *others, last = x
    result = last
    for element in reversed(others):
        result = Piecewise((element, element > result), (result, True))
    return np.array([result], dtype=object)


OPS = (
    Op(name="sum", torch="torch.sum", formula=total, kwargs=LAST, shapes=ROW),
    Op(name="mean", torch="torch.mean", formula=average, kwargs=LAST, shapes=ROW),
    Op(name="prod", torch="torch.prod", formula=lambda x: np.prod(x, axis=-1, keepdims=True), kwargs=LAST, shapes=ROW),
    Op(name="var", torch="torch.var", formula=lambda x: squared_deviation(x) * Rational(1, x.shape[-1] - 1), kwargs=LAST, shapes=ROW),
    Op(
        name="norm", torch="torch.linalg.vector_norm", formula=lambda x: root(total(x**2)),
        kwargs=LAST, shapes=ROW, domain={"x": POSITIVE},
    ),
    Op(
        name="logsumexp", torch="torch.logsumexp", formula=log_of_sum_of_exp, kwargs=LAST, shapes=ROW,
        saved=lambda x, output: x - output,
    ),
    Op(name="cumsum", torch="torch.cumsum", formula=lambda x: np.cumsum(x, axis=-1), kwargs={"dim": -1}, shapes=ROW),
    # a tree may bring forth ties, where this has a kink
    Op(name="amax", torch="torch.amax", formula=largest, kwargs=LAST, shapes=(((2,),),), composes=False),
)
