"""Elementwise functions of two or three variables."""

from sympy import Piecewise, atan2, exp, log, sqrt

from reference.domain import POSITIVE
from reference.op import OUTPUT, Op, x, y, z

ARITHMETIC = (
    Op(name="add", torch="torch.add", formula=x + y),
    Op(name="sub", torch="torch.sub", formula=x - y),
    Op(name="mul", torch="torch.mul", formula=x * y),
    Op(name="div", torch="torch.div", formula=x / y, domain={"y": POSITIVE}),
    Op(name="lerp", torch="torch.lerp", formula=x + z * (y - x)),
    Op(name="addcmul", torch="torch.addcmul", formula=x + y * z / 2, kwargs={"value": 0.5}),
)

TRANSCENDENTAL = (
    Op(name="pow", torch="torch.pow", formula=x**y, domain={"x": POSITIVE}, saves=x ** (y - 1), saved={x**y: x * OUTPUT}),
    Op(name="atan2", torch="torch.atan2", formula=atan2(x, y), domain={"y": POSITIVE}),
    Op(name="hypot", torch="torch.hypot", formula=sqrt(x**2 + y**2), domain={"y": POSITIVE}),
    Op(name="xlogy", torch="torch.xlogy", formula=x * log(y), domain={"y": POSITIVE}),
    Op(name="logaddexp", torch="torch.logaddexp", formula=log(exp(x) + exp(y)), saves=x - y, saved={x: OUTPUT, y: 0}),
)

ORDER = (
    Op(name="maximum", torch="torch.maximum", formula=Piecewise((x, x > y), (y, True)), kinks=(x - y,)),
    Op(name="minimum", torch="torch.minimum", formula=Piecewise((x, x < y), (y, True)), kinks=(x - y,)),
)

OPS = (*ARITHMETIC, *TRANSCENDENTAL, *ORDER)
