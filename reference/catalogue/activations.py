"""Activations of neural networks.

What torch documents as piecewise is piecewise here: softplus turns linear above its threshold.
"""

import numpy as np
from sympy import Abs, Piecewise, Rational, erf, exp, log, pi, sqrt, tanh

from reference.op import OUTPUT, Op, Variant, x

# torch documents selu with these constants
ALPHA = Rational("1.6732632423543772848170429916717")
SCALE = Rational("1.0507009873554804934193349852946")


def clipped(lower: int, upper: int) -> Piecewise:
    """Return x, kept between two bounds."""
    return Piecewise((lower, x < lower), (x, x <= upper), (upper, True))


RECTIFIERS = (
    Op(name="relu", torch="torch.relu", aliases=("torch.nn.functional.relu",), formula=Piecewise((x, x > 0), (0, True)), kinks=(x,)),
    Op(name="relu6", torch="torch.nn.functional.relu6", formula=clipped(0, 6), kinks=(x, x - 6)),
    Op(
        name="leaky_relu", torch="torch.nn.functional.leaky_relu", kinks=(x,),
        formula=Piecewise((x, x > 0), (x * Rational(1, 100), True)),
        variants={"steep": Variant(Piecewise((x, x > 0), (x / 2, True)), negative_slope=0.5)},
    ),
    Op(
        name="hardtanh", torch="torch.nn.functional.hardtanh", formula=clipped(-1, 1), kinks=(x + 1, x - 1),
        variants={"wide": Variant(clipped(-2, 3), min_val=-2, max_val=3, changed={"kinks": (x + 2, x - 3)})},
    ),
    Op(name="clamp", torch="torch.clamp", kwargs={"min": -1, "max": 1}, formula=clipped(-1, 1), kinks=(x + 1, x - 1)),
    Op(
        name="hardsigmoid", torch="torch.nn.functional.hardsigmoid", kinks=(x + 3, x - 3),
        formula=Piecewise((0, x <= -3), (x / 6 + Rational(1, 2), x < 3), (1, True)),
    ),
    Op(
        name="hardswish", torch="torch.nn.functional.hardswish", kinks=(x + 3, x - 3),
        formula=Piecewise((0, x <= -3), (x * (x + 3) / 6, x < 3), (x, True)),
    ),
    Op(
        name="softshrink", torch="torch.nn.functional.softshrink", kinks=(x - Rational(1, 2), x + Rational(1, 2)),
        formula=Piecewise((x - Rational(1, 2), x > Rational(1, 2)), (x + Rational(1, 2), x < -Rational(1, 2)), (0, True)),
    ),
    Op(
        name="hardshrink", torch="torch.nn.functional.hardshrink", kinks=(x - Rational(1, 2), x + Rational(1, 2)), composes=False,
        formula=Piecewise((x, x > Rational(1, 2)), (x, x < -Rational(1, 2)), (0, True)),
    ),
    Op(name="threshold", torch="torch.nn.functional.threshold", kwargs={"threshold": 1, "value": 2}, formula=Piecewise((x, x > 1), (2, True)), kinks=(x - 1,), composes=False),
    Op(
        name="rrelu", torch="torch.nn.functional.rrelu", kwargs={"training": False}, kinks=(x,),
        formula=Piecewise((x, x > 0), (x * Rational(11, 48), True)),
    ),
)

EXPONENTIAL = (
    Op(
        name="elu", torch="torch.nn.functional.elu", formula=Piecewise((x, x > 0), (exp(x) - 1, True)),
        variants={"double": Variant(Piecewise((x, x > 0), (2 * (exp(x) - 1), True)), alpha=2, changed={"kinks": (x,)})},
    ),
    Op(name="celu", torch="torch.nn.functional.celu", kwargs={"alpha": 2.0}, formula=Piecewise((x, x > 0), (2 * (exp(x / 2) - 1), True))),
    Op(name="selu", torch="torch.selu", aliases=("torch.nn.functional.selu",), formula=Piecewise((SCALE * x, x > 0), (SCALE * ALPHA * (exp(x) - 1), True)), kinks=(x,)),
    Op(
        name="softplus", torch="torch.nn.functional.softplus", formula=Piecewise((x, x > 20), (log(1 + exp(x)), True)),
        variants={"double": Variant(Piecewise((x, 2 * x > 20), (log(1 + exp(2 * x)) / 2, True)), beta=2)},
    ),
    Op(name="logsigmoid", torch="torch.nn.functional.logsigmoid", formula=-log(1 + exp(-x))),
    Op(
        name="silu", torch="torch.nn.functional.silu", formula=x / (1 + exp(-x)),
        saves=1 / (1 + exp(-x)), saved={exp(-x): 1 / OUTPUT - 1},
    ),
    Op(name="mish", torch="torch.nn.functional.mish", formula=x * (exp(2 * x) + 2 * exp(x)) / (exp(2 * x) + 2 * exp(x) + 2)),
    Op(
        name="gelu", torch="torch.nn.functional.gelu", formula=x * (1 + erf(x / sqrt(2))) / 2,
        variants={"tanh": Variant(x * (1 + tanh(sqrt(2 / pi) * (x + Rational(44715, 10**6) * x**3))) / 2, approximate="tanh")},
    ),
    Op(name="softsign", torch="torch.nn.functional.softsign", formula=x / (1 + Abs(x))),
    Op(name="tanhshrink", torch="torch.nn.functional.tanhshrink", formula=x - tanh(x)),
)



PARAMETRIC = (
    Op(
        name="prelu", torch="torch.nn.functional.prelu", inside="saved", formula=lambda x, weight: np.where(x > 0, x, x * weight), axes="n,k", sizes={"n": 4096, "k": 1},
        shapes=(((4,), (1,)),), composes=False,
    ),
)

OPS = (*RECTIFIERS, *EXPONENTIAL, *PARAMETRIC)
