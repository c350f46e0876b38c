"""Functions that set the scale of a vector."""

from sympy import Rational

from reference.catalogue.reductions import (
    ROW,
    average,
    exponential,
    log_of_sum_of_exp,
    root,
    squared_deviation,
    total,
)
from reference.op import Array, Op

EPSILON = Rational(1, 100000)


def log_softmax(x: Array) -> Array:
    """Logarithm of softmax over the last dimension."""
    return x - log_of_sum_of_exp(x)


def standardised(x: Array) -> Array:
    """Deviations over their root mean square, as layer_norm documents it."""
    variance = squared_deviation(x) * Rational(1, x.shape[-1])
    return (x - average(x)) / root(variance + EPSILON)


OPS = (
    Op(
        name="softmax", torch="torch.softmax", kwargs={"dim": -1}, shapes=ROW,
        formula=lambda x: exponential(x) / total(exponential(x)),
    ),
    Op(
        name="log_softmax", torch="torch.log_softmax", kwargs={"dim": -1}, shapes=ROW,
        formula=log_softmax, saved=lambda _, output: output,
    ),
    Op(
        name="layer_norm", torch="torch.nn.functional.layer_norm", kwargs={"normalized_shape": (3,)},
        keywords=("input", "weight", "bias"), shapes=(((3,), (3,), (3,)),),
        formula=lambda x, weight, bias: standardised(x) * weight + bias,
    ),
    Op(
        name="rms_norm", torch="torch.nn.functional.rms_norm", shapes=(((3,), (3,)),),
        kwargs={"normalized_shape": (3,), "eps": 1e-5}, keywords=("input", "weight"),
        formula=lambda x, weight: x / root(average(x**2) + EPSILON) * weight,
    ),
)
