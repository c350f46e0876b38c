"""Elementary functions of one variable."""

from sympy import (
    Abs,
    Piecewise,
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
)

from reference.domain import NON_NEGATIVE, NON_ZERO, POSITIVE, Interval
from reference.functions import Floor, Nearest, Sign
from reference.op import OUTPUT, Op, Variant, x

ALGEBRAIC = (
    Op(name="square", torch="torch.square", formula=x**2),
    Op(name="cube", torch="torch.pow", formula=x**3, kwargs={"exponent": 3}),
    Op(name="positive", torch="torch.positive", formula=x, aliases=("torch.real", "torch.conj_physical", "torch.conj", "torch.nan_to_num")),
    Op(name="neg", torch="torch.neg", formula=-x, aliases=("torch.negative",)),
    Op(name="abs", torch="torch.abs", formula=Abs(x), kinks=(x,), aliases=("torch.absolute",)),
    Op(name="reciprocal", torch="torch.reciprocal", formula=1 / x, domain={"x": NON_ZERO}, saved={x: 1 / OUTPUT}),
    Op(name="sqrt", torch="torch.sqrt", formula=sqrt(x), domain={"x": NON_NEGATIVE}, saved={x: OUTPUT**2}),
    Op(name="rsqrt", torch="torch.rsqrt", formula=1 / sqrt(x), domain={"x": POSITIVE}, saved={x: OUTPUT**-2}),
)

EXPONENTIALS = (
    Op(name="exp", torch="torch.exp", formula=exp(x), saved={x: log(OUTPUT)}),
    Op(name="exp2", torch="torch.exp2", aliases=("torch.special.exp2",), formula=2**x, saved={x: log(OUTPUT) / log(2)}),
    Op(name="expm1", torch="torch.expm1", aliases=("torch.special.expm1",), formula=exp(x) - 1, saved={x: log(1 + OUTPUT)}),
    Op(name="log", torch="torch.log", formula=log(x), domain={"x": POSITIVE}),
    Op(name="log2", torch="torch.log2", formula=log(x) / log(2), domain={"x": POSITIVE}),
    Op(name="log10", torch="torch.log10", formula=log(x) / log(10), domain={"x": POSITIVE}),
    Op(name="log1p", torch="torch.log1p", aliases=("torch.special.log1p",), formula=log(1 + x), domain={"x": Interval(-1)}),
)

CIRCULAR = (
    Op(name="sin", torch="torch.sin", formula=sin(x)),
    Op(name="cos", torch="torch.cos", formula=cos(x)),
    Op(name="tan", torch="torch.tan", formula=tan(x), saved={x: atan(OUTPUT)}),
    Op(name="asin", torch="torch.asin", aliases=("torch.arcsin",), formula=asin(x), domain={"x": Interval(-1, 1)}),
    Op(name="acos", torch="torch.acos", aliases=("torch.arccos",), formula=acos(x), domain={"x": Interval(-1, 1)}),
    Op(name="atan", torch="torch.atan", aliases=("torch.arctan",), formula=atan(x)),
    Op(name="sinc", torch="torch.sinc", formula=sin(pi * x) / (pi * x), kinks=(x,), aliases=("torch.special.sinc",)),
    Op(name="deg2rad", torch="torch.deg2rad", formula=x * pi * Rational(1, 180)),
    Op(name="rad2deg", torch="torch.rad2deg", formula=x * 180 / pi),
)

HYPERBOLIC = (
    Op(name="sinh", torch="torch.sinh", formula=sinh(x)),
    Op(name="cosh", torch="torch.cosh", formula=cosh(x)),
    Op(name="tanh", torch="torch.tanh", formula=tanh(x), saved={x: atanh(OUTPUT)}),
    # torch: "the derivative for 'inplace version of asinh' is not implemented", and of acosh and atanh
    Op(name="asinh", torch="torch.asinh", aliases=("torch.arcsinh",), formula=asinh(x), in_place=False),
    Op(name="acosh", torch="torch.acosh", aliases=("torch.arccosh",), formula=acosh(x), domain={"x": Interval(1)}, in_place=False),
    Op(name="atanh", torch="torch.atanh", aliases=("torch.arctanh",), formula=atanh(x), domain={"x": Interval(-1, 1)}, in_place=False),
)

PIECEWISE_CONSTANT = (
    Op(name="floor", torch="torch.floor", formula=Floor(x), composes=False),
    Op(name="ceil", torch="torch.ceil", formula=-Floor(-x), composes=False),
    Op(name="trunc", torch="torch.trunc", formula=Sign(x) * Floor(Abs(x)), aliases=("torch.fix",), composes=False),
    Op(
        name="round", torch="torch.round", formula=Nearest(x), aliases=("torch.special.round",), composes=False,
        variants={"to_thousandths": Variant(Nearest(1000 * x) / 1000, decimals=3, changed={"aliases": ()})},
    ),
    Op(name="frac", torch="torch.frac", formula=x - Sign(x) * Floor(Abs(x)), composes=False),
    Op(name="sign", torch="torch.sign", formula=Sign(x), aliases=("torch.sgn",), composes=False),
    Op(name="angle", torch="torch.angle", formula=Piecewise((pi, x < 0), (0, True)), composes=False),
)

OPS = (*ALGEBRAIC, *EXPONENTIALS, *CIRCULAR, *HYPERBOLIC, *PIECEWISE_CONSTANT)
