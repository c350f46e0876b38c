"""Functions that sympy lacks, with their derivatives, and their enclosures in flint's balls."""

from __future__ import annotations

from functools import cache

import sympy
from flint import arb, fmpz_poly
from sympy import Expr, Function, pi, sqrt
from sympy.core.function import ArgumentIndexError


class Flat(Function):
    """A function of one argument that is constant between its jumps: the derivative is 0 wherever it has one."""

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:
        """Return plus or minus infinity there."""
        return argument if argument.is_infinite else None

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return 0, the derivative by the one argument."""
        return sympy.Integer(argindex - 1)


class Floor(Flat):
    """The largest integer that is no greater, with the derivative that it has between the integers."""


class Nearest(Flat):
    """The nearest integer, ties to even, with the derivative that it has between the ties."""


class Sign(Flat):
    """-1, 0 or 1, with the derivative that it has off 0 (sympy's own has an impulse there)."""

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:
        """Return the sign of a rational number, or of infinity."""
        return sympy.sign(argument) if argument.is_Rational or argument.is_infinite else None


class ScaledBesselI(Function):
    """exp(-|x|) I_n(x), a function of n and x: the modified Bessel function of integer order, without its growth."""

    def fdiff(self, argindex: int = 2) -> Expr:
        """Return the derivative by x. Raises ArgumentIndexError for the one by n."""
        if argindex != 2:
            raise ArgumentIndexError(self, argindex)
        n, x = self.args
        # I_n' = (I_(n-1) + I_(n+1)) / 2 (DLMF 10.29.1), I_(-1) being I_1, and the slope of exp(-|x|)
        return (ScaledBesselI(abs(n - 1), x) + ScaledBesselI(n + 1, x)) / 2 - Sign(x) * self

    @classmethod
    def eval(cls, n: Expr, x: Expr) -> Expr | None:
        """Return the limit at plus or minus infinity."""
        del n
        return sympy.S.Zero if x.is_infinite else None


class ScaledErfc(Function):
    """exp(x^2) erfc(x), of which the one factor overflows and the other underflows."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return 2 x erfcx(x) - 2/sqrt(pi)."""
        (x,) = self.args
        return argindex * (2 * x * self - 2 / sqrt(pi))  # `argindex` is 1

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:
        """Return the limit at plus or minus infinity."""
        return {sympy.oo: sympy.S.Zero, -sympy.oo: sympy.oo}.get(argument)


def tractable(expression: Expr) -> Expr:
    """Write an expression in functions whose limits at infinity sympy knows."""
    return expression.replace(ScaledErfc, lambda x: sympy.exp(x**2) * sympy.erfc(x)).replace(
        sympy.tanh, lambda x: 1 - 2 / (sympy.exp(2 * x) + 1)
    )


def nearest_integer(ball: arb) -> arb:
    """Return the nearest integer of an exact ball, ties to even; of another, a ball that holds it."""
    below = (ball + arb(0.5)).floor()  # a tie has come up, which is wrong where that is odd
    tie = below - ball == arb(0.5)
    return below - 1 if tie and (below / 2).floor() * 2 != below else below


def poly_gamma(order: int, ball: arb) -> arb:
    """Return the derivative of an order of digamma.

    Right of 0 it is a multiple of Hurwitz's zeta function (DLMF 25.11.12), and left of 0 the derivative of an order of
    the reflection formula, psi(1 - x) - psi(x) = pi cot(pi x) (DLMF 5.5.4).
    """
    if order == 0:
        return ball.digamma()
    if ball > 0:
        magnitude = int(sympy.factorial(order)) * arb(order + 1).zeta(ball)
        return magnitude if order % 2 else -magnitude
    mirrored, cotangent = poly_gamma(order, 1 - ball), ball.cot_pi()
    slope = sum((int(c) * cotangent**power for power, c in enumerate(_slope_of_cotangent(order))), arb(0))
    return (-1) ** order * mirrored - arb.pi() ** (order + 1) * slope


@cache
def _slope_of_cotangent(order: int) -> fmpz_poly:
    """Return the derivative of that order of the cotangent, as a polynomial in the cotangent."""
    slope = fmpz_poly([0, 1])
    # the derivative of c = cot is -1 - c^2, and the chain rule does the rest
    for _ in range(order):
        slope = fmpz_poly([-1, 0, -1]) * slope.derivative()
    return slope


def scaled_bessel_i(order: arb, ball: arb) -> arb:
    """Return exp(-|x|) I_n(x); I_n is even or odd as n is."""
    if ball >= 0:
        return ball.bessel_i(order, scaled=True)
    if ball < 0:
        mirrored = (-ball).bessel_i(order, scaled=True)
        return mirrored if (order / 2).is_integer() else -mirrored
    # the ball has 0 inside, and the factors are moderate unless it is wide
    return ball.bessel_i(order) * (-abs(ball)).exp()


def scaled_erfc(ball: arb) -> arb:
    """Return exp(x^2) erfc(x): for x above 1 by Tricomi's function, U(1/2, 1/2, x^2)/sqrt(pi) (DLMF 7.11.5)."""
    if not ball > 1:  # where the factors are moderate, or both large
        return (ball * ball).exp() * ball.erfc()
    half = arb(0.5)
    return (ball * ball).hypgeom_u(half, half) / arb.pi().sqrt()
