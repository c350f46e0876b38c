"""Functions that normalise a vector."""

from typing import Any

import numpy as np
from sympy import Rational

from reference.catalogue.reductions import average, log_of_sum_of_exp, total
from reference.graph import Shape
from reference.op import Op
from reference.trace import shift

EPSILON = Rational(1, 100000)


def row(*shapes: Shape) -> Shape:
    """Return the dimensions that are normalised together: the last of the first input."""
    return shapes[0][-1:]


def softmax(x: Any) -> Any:
    """Return exponentials over their sum, along the last dimension."""
    exponential = np.exp(x - shift(x))
    return exponential / total(exponential)


def log_softmax(x: Any) -> Any:
    """Return the logarithm of softmax along the last dimension."""
    return x - log_of_sum_of_exp(x)


def standardised(x: Any) -> Any:
    """Return deviations from the mean over their root mean square, as torch documents layer_norm."""
    deviation = x - average(x)
    return deviation / np.sqrt(average(deviation**2) + EPSILON)


OPS = (
    Op(name="softmax", torch="torch.softmax", inside="saved", kwargs={"dim": -1}, axes="n", formula=softmax),
    Op(name="log_softmax", torch="torch.log_softmax", inside="saved", kwargs={"dim": -1}, axes="n", formula=log_softmax, saved=lambda _, output: output),
    Op(
        name="layer_norm", torch="torch.nn.functional.layer_norm", kwargs={"normalized_shape": row}, axes="n,n,n",
        formula=lambda x, *, weight, bias: standardised(x) * weight + bias,
    ),
    Op(
        name="rms_norm", torch="torch.nn.functional.rms_norm", inside="wide", kwargs={"normalized_shape": row, "eps": 1e-5}, axes="n,n",
        formula=lambda x, *, weight: x / np.sqrt(average(x**2) + EPSILON) * weight,
    ),
)
