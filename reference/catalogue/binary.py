"""Elementwise functions of two or three variables."""

from sympy import Abs, Piecewise, Rational, atan2, exp, log, sqrt

from reference.domain import NON_NEGATIVE, NON_ZERO, POSITIVE, Interval
from reference.functions import Floor, Sign
from reference.op import OUTPUT, Op, Stated, Variant, x, y, z

ARITHMETIC = (
    Op(name="add", torch="torch.add", formula=x + y, aliases=("torch.Tensor.__radd__",), variants={"scaled": Variant(x + 3 * y, alpha=3, changed={"aliases": ()})}),
    Op(name="sub", torch="torch.sub", formula=x - y, aliases=("torch.subtract",)),
    Op(name="mul", torch="torch.mul", formula=x * y, aliases=("torch.multiply", "torch.Tensor.__rmul__")),
    Op(name="rsub", torch="torch.rsub", formula=y - x, aliases=("torch.Tensor.__rsub__",)),
    Op(
        name="div", torch="torch.div", formula=x / y, domain={"y": NON_ZERO}, aliases=("torch.divide", "torch.true_divide"),
        variants={"floor": Variant(Floor(x / y), rounding_mode="floor", changed={"composes": False, "aliases": ()})},
    ),
    Op(name="rdiv", torch="torch.Tensor.__rdiv__", formula=y / x, domain={"x": NON_ZERO}),
    Op(name="ldexp", torch="torch.ldexp", formula=x * 2**y),
    Op(name="addcdiv", torch="torch.addcdiv", formula=x + y / (2 * z), kwargs={"value": 0.5}, domain={"z": NON_ZERO}),
    Op(name="lerp", torch="torch.lerp", formula=x + z * (y - x)),
    Op(name="addcmul", torch="torch.addcmul", formula=x + y * z / 2, kwargs={"value": 0.5}),
)

TRANSCENDENTAL = (
    Op(
        name="pow", torch="torch.pow", formula=x**y, domain={"x": POSITIVE}, saves=x ** (y - 1), saved={x**y: x * OUTPUT},
        variants={
            "minus_two": Variant(x**-2, exponent=-2, changed={"domain": {"x": NON_ZERO}, "saves": None, "saved": None}),
            "three_halves": Variant(x ** Rational(3, 2), exponent=1.5, changed={"domain": {"x": NON_NEGATIVE}, "saves": None, "saved": None}),
        },
    ),
    Op(name="rpow", torch="torch.Tensor.__rpow__", formula=y**x, domain={"y": POSITIVE}, saves=y ** (x - 1), saved={y**x: y * OUTPUT}),
    Op(name="atan2", torch="torch.atan2", aliases=("torch.arctan2",), formula=atan2(x, y), domain={"y": POSITIVE}),
    Op(name="hypot", torch="torch.hypot", formula=sqrt(x**2 + y**2), domain={"y": POSITIVE}, points=(Stated({"x": 0, "y": 0}, due={"x": 0, "y": 0}),)),  # the sub-gradient of least norm
    Op(name="xlogy", torch="torch.xlogy", aliases=("torch.special.xlogy",), formula=x * log(y), domain={"y": POSITIVE}),
    Op(name="xlog1py", torch="torch.special.xlog1py", formula=x * log(1 + y), domain={"y": Interval(-1)}),
    Op(name="logaddexp2", torch="torch.logaddexp2", formula=log(2**x + 2**y) / log(2), saves=x - y, saved={x: OUTPUT, y: 0}),
    Op(name="logaddexp", torch="torch.logaddexp", formula=log(exp(x) + exp(y)), saves=x - y, saved={x: OUTPUT, y: 0}),
)

ORDER = (
    # torch pushes tangents as s + mask * (t - s), which loses a t that is small beside s
    Op(name="maximum", torch="torch.maximum", aliases=("torch.max",), formula=Piecewise((x, x > y), (y, True)), kinks=(x - y,), composes_forwards=False),
    Op(name="minimum", torch="torch.minimum", aliases=("torch.min",), formula=Piecewise((x, x < y), (y, True)), kinks=(x - y,), composes_forwards=False),
    Op(name="fmax", torch="torch.fmax", formula=Piecewise((x, x > y), (y, True)), kinks=(x - y,), composes_forwards=False),
    Op(name="fmin", torch="torch.fmin", formula=Piecewise((x, x < y), (y, True)), kinks=(x - y,), composes_forwards=False),
    Op(name="clamp_min", torch="torch.clamp_min", formula=Piecewise((x, x > y), (y, True)), kinks=(x - y,)),
    Op(name="clamp_max", torch="torch.clamp_max", formula=Piecewise((x, x < y), (y, True)), kinks=(x - y,)),
    Op(name="copysign", torch="torch.copysign", formula=Abs(x) * Sign(y), kinks=(x,), domain={"y": NON_ZERO}, composes=False),
    Op(name="fmod", torch="torch.fmod", formula=x - y * Sign(x / y) * Floor(Abs(x / y)), domain={"y": NON_ZERO}, composes=False),
    Op(name="remainder", torch="torch.remainder", formula=x - y * Floor(x / y), domain={"y": NON_ZERO}, composes=False),
    Op(name="rmod", torch="torch.Tensor.__rmod__", formula=y - x * Floor(y / x), domain={"x": NON_ZERO}, composes=False),
)

OPS = (*ARITHMETIC, *TRANSCENDENTAL, *ORDER)
