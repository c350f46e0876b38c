"""Special functions of one variable."""

from sympy import digamma, erf, erfc, erfinv, exp, log, loggamma, polygamma

from reference.domain import POSITIVE, Interval
from reference.op import OUTPUT, Op, x

OPS = (
    Op(name="erf", torch="torch.erf", formula=erf(x)),
    Op(name="erfc", torch="torch.erfc", formula=erfc(x)),
    Op(name="erfinv", torch="torch.erfinv", formula=erfinv(x), domain={"x": Interval(-1, 1)}),
    Op(name="lgamma", torch="torch.lgamma", formula=loggamma(x), domain={"x": POSITIVE}),
    # torch.digamma is 58,000 u off next to its root at 1.4616, polygamma(1) 6 u: float32 values, which the allowance of a tree does not foresee.
    Op(name="digamma", torch="torch.digamma", formula=digamma(x), domain={"x": POSITIVE}, composes=False),
    Op(name="trigamma", torch="torch.special.polygamma", formula=polygamma(1, x), leading=(1,), domain={"x": POSITIVE}, composes=False),
    Op(name="sigmoid", torch="torch.sigmoid", formula=1 / (1 + exp(-x)), saved={x: log(OUTPUT / (1 - OUTPUT))}),
    Op(name="logit", torch="torch.logit", formula=log(x / (1 - x)), domain={"x": Interval(0, 1)}),
    Op(name="entr", torch="torch.special.entr", formula=-x * log(x), domain={"x": POSITIVE}),
)
