"""Special functions of one variable."""

from sympy import Piecewise, Rational, besseli, digamma, erf, erfc, erfinv, exp, log, loggamma, pi, polygamma, sqrt

from reference.domain import GAMMA_POLES, POSITIVE, Interval
from reference.functions import ScaledBesselI, ScaledErfc
from reference.op import OUTPUT, Op, Variant, x

ERROR = (
    Op(name="erf", torch="torch.erf", formula=erf(x), aliases=("torch.special.erf",)),
    Op(name="erfc", torch="torch.erfc", formula=erfc(x), aliases=("torch.special.erfc",)),
    Op(name="erfcx", torch="torch.special.erfcx", formula=ScaledErfc(x)),
    Op(name="erfinv", torch="torch.erfinv", formula=erfinv(x), domain={"x": Interval(-1, 1)}, aliases=("torch.special.erfinv",)),
    Op(name="ndtr", torch="torch.special.ndtr", formula=erfc(-x / sqrt(2)) / 2),
    Op(name="log_ndtr", torch="torch.special.log_ndtr", formula=log(ScaledErfc(-x / sqrt(2)) / 2) - x**2 / 2),
    Op(name="ndtri", torch="torch.special.ndtri", formula=sqrt(2) * erfinv(2 * x - 1), domain={"x": Interval(0, 1)}),
)

GAMMA_NEARBY = Interval(-1000, poles_of_gamma=True)
"""torch.polygamma(2, x) takes as many steps as -x: at -1e15 it does not come back."""

GAMMA = (
    Op(name="lgamma", torch="torch.lgamma", formula=loggamma(x), domain={"x": GAMMA_POLES}, aliases=("torch.special.gammaln",)),
    # torch.digamma is 58,000 u off next to its root at 1.4616, polygamma(1) 6 u: float32 values, which the allowance of a tree does not foresee.
    Op(name="digamma", torch="torch.digamma", formula=digamma(x), domain={"x": GAMMA_POLES}, second_domain={"x": GAMMA_NEARBY}, composes=False, aliases=("torch.special.digamma", "torch.special.psi")),
    Op(name="trigamma", torch="torch.special.polygamma", aliases=("torch.polygamma",), formula=polygamma(1, x), leading=(1,), domain={"x": GAMMA_NEARBY}, composes=False),
    Op(name="tetragamma", torch="torch.special.polygamma", formula=polygamma(2, x), leading=(2,), domain={"x": GAMMA_NEARBY}, composes=False),
    Op(
        name="mvlgamma", torch="torch.mvlgamma", kwargs={"p": 3}, domain={"x": Interval(1)}, composes=False,
        formula=loggamma(x) + loggamma(x - Rational(1, 2)) + loggamma(x - 1) + log(pi) * Rational(3, 2), aliases=("torch.special.multigammaln",),
    ),
)

BESSEL = (
    Op(name="i0", torch="torch.i0", formula=besseli(0, x), aliases=("torch.special.i0",)),
    Op(name="i0e", torch="torch.special.i0e", formula=ScaledBesselI(0, x)),
    Op(name="i1", torch="torch.special.i1", formula=besseli(1, x)),
    Op(name="i1e", torch="torch.special.i1e", formula=ScaledBesselI(1, x)),
)

LOGISTIC = (
    Op(name="sigmoid", torch="torch.sigmoid", formula=1 / (1 + exp(-x)), saved={x: log(OUTPUT / (1 - OUTPUT))}, aliases=("torch.special.expit",)),
    Op(
        name="logit", torch="torch.logit", formula=log(x / (1 - x)), domain={"x": Interval(0, 1)}, aliases=("torch.special.logit",),
        variants={
            "clamped": Variant(
                Piecewise((-log(3), x < Rational(1, 4)), (log(x / (1 - x)), x <= Rational(3, 4)), (log(3), True)), eps=0.25,
                changed={"kinks": (x - Rational(1, 4), x - Rational(3, 4)), "aliases": ()},
            ),
        },
    ),
    Op(name="entr", torch="torch.special.entr", formula=-x * log(x), domain={"x": POSITIVE}),
)

OPS = (*ERROR, *GAMMA, *BESSEL, *LOGISTIC)
