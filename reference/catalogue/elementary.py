"""Elementary functions of one variable."""

from sympy import (
    Abs,
    Rational,
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atanh,
    cos,
    cosh,
    exp,
    log,
    pi,
    sin,
    sinh,
    sqrt,
    tan,
    tanh,
)  # fmt: skip

from reference.domain import NON_NEGATIVE, POSITIVE, Interval
from reference.op import OUTPUT, Op, x

ARITHMETIC = (
    Op(name="square", torch="torch.square", formula=x**2),
    Op(name="cube", torch="torch.pow", formula=x**3, kwargs={"exponent": 3}),
    Op(name="neg", torch="torch.neg", formula=-x),
    Op(name="abs", torch="torch.abs", formula=Abs(x), kinks=(x,)),
    Op(name="reciprocal", torch="torch.reciprocal", formula=1 / x, domain={"x": POSITIVE}, saved={x: 1 / OUTPUT}),
    Op(name="sqrt", torch="torch.sqrt", formula=sqrt(x), domain={"x": NON_NEGATIVE}, saved={x: OUTPUT**2}),
    Op(name="rsqrt", torch="torch.rsqrt", formula=1 / sqrt(x), domain={"x": POSITIVE}, saved={x: OUTPUT**-2}),
)

EXPONENTIALS = (
    Op(name="exp", torch="torch.exp", formula=exp(x), saved={x: log(OUTPUT)}),
    Op(name="exp2", torch="torch.exp2", formula=2**x, saved={x: log(OUTPUT) / log(2)}),
    Op(name="expm1", torch="torch.expm1", formula=exp(x) - 1, saved={x: log(1 + OUTPUT)}),
    Op(name="log", torch="torch.log", formula=log(x), domain={"x": POSITIVE}),
    Op(name="log2", torch="torch.log2", formula=log(x) / log(2), domain={"x": POSITIVE}),
    Op(name="log10", torch="torch.log10", formula=log(x) / log(10), domain={"x": POSITIVE}),
    Op(name="log1p", torch="torch.log1p", formula=log(1 + x), domain={"x": Interval(-1)}),
)

CIRCULAR = (
    Op(name="sin", torch="torch.sin", formula=sin(x)),
    Op(name="cos", torch="torch.cos", formula=cos(x)),
    Op(name="tan", torch="torch.tan", formula=tan(x), saved={x: atan(OUTPUT)}),
    Op(name="asin", torch="torch.asin", formula=asin(x), domain={"x": Interval(-1, 1)}),
    Op(name="acos", torch="torch.acos", formula=acos(x), domain={"x": Interval(-1, 1)}),
    Op(name="atan", torch="torch.atan", formula=atan(x)),
    Op(name="deg2rad", torch="torch.deg2rad", formula=x * pi * Rational(1, 180)),
)

HYPERBOLIC = (
    Op(name="sinh", torch="torch.sinh", formula=sinh(x)),
    Op(name="cosh", torch="torch.cosh", formula=cosh(x)),
    Op(name="tanh", torch="torch.tanh", formula=tanh(x), saved={x: atanh(OUTPUT)}),
    # torch: "the derivative for 'inplace version of asinh' is not implemented", and of acosh and atanh
    Op(name="asinh", torch="torch.asinh", formula=asinh(x), in_place=False),
    Op(name="acosh", torch="torch.acosh", formula=acosh(x), domain={"x": Interval(1)}, in_place=False),
    Op(name="atanh", torch="torch.atanh", formula=atanh(x), domain={"x": Interval(-1, 1)}, in_place=False),
)

OPS = (*ARITHMETIC, *EXPONENTIALS, *CIRCULAR, *HYPERBOLIC)
