"""Functions that sympy lacks, with the derivatives that define them."""

from __future__ import annotations

from functools import cache

import sympy
from flint import arb, fmpz_poly
from sympy import Expr, Function, pi, sqrt
from sympy.core.function import ArgumentIndexError


class Flat(Function):
    """A function of one argument that is constant between jumps, and infinite at infinity."""

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:
        """Return infinity at infinity."""
        return argument if argument.is_infinite else None

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return 0."""
        return sympy.Integer(argindex - 1)


class Step(Flat):
    """The largest integer below: floor, with the derivative that it has between the integers."""


class Nearest(Flat):
    """The nearest integer, ties to even, with the derivative that it has between the ties."""


class Sign(Flat):
    """-1, 0 or 1, with the derivative that it has off 0 (sympy's own has an impulse there)."""

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:
        """Return the sign of a rational number, or of infinity."""
        return sympy.sign(argument) if argument.is_Rational or argument.is_infinite else None


class ScaledBesselI(Function):
    """exp(-|x|) I_n(x), the modified Bessel function of integer order without its growth: of n and x."""

    def fdiff(self, argindex: int = 2) -> Expr:
        """Return the derivative by x."""
        if argindex != 2:
            raise ArgumentIndexError(self, argindex)
        n, x = self.args
        return (ScaledBesselI(abs(n - 1), x) + ScaledBesselI(n + 1, x)) / 2 - Sign(x) * self

    @classmethod
    def eval(cls, n: Expr, x: Expr) -> Expr | None:
        """Return the limit at plus or minus infinity."""
        del n
        return sympy.S.Zero if x.is_infinite else None


class ScaledErfc(Function):
    """exp(x^2) erfc(x), which does not underflow as its factors do."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return 2 x erfcx(x) - 2/sqrt(pi)."""
        (x,) = self.args
        return argindex * (2 * x * self - 2 / sqrt(pi))

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:
        """Return the limit at plus or minus infinity."""
        return {sympy.oo: sympy.S.Zero, -sympy.oo: sympy.oo}.get(argument)


def tractable(expression: Expr) -> Expr:
    """Write an expression in functions of which sympy knows the limits."""
    return expression.replace(ScaledErfc, lambda x: sympy.exp(x**2) * sympy.erfc(x)).replace(
        sympy.tanh, lambda x: 1 - 2 / (sympy.exp(2 * x) + 1)
    )


def nearest(ball: arb) -> arb:
    """Return the nearest integer, ties to even."""
    below = (ball + arb(0.5)).floor()
    tie = below - ball == arb(0.5)
    return below - 1 if tie and (below / 2).floor() * 2 != below else below


def poly_gamma(order: int, ball: arb) -> arb:
    """Return the derivative of that order of digamma.

    It is Hurwitz's zeta function, left of 0 by the reflection formula.
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
    return ball.bessel_i(order) * (-abs(ball)).exp()


def scaled_erfc(ball: arb) -> arb:
    """Return exp(x^2) erfc(x): for positive x by Tricomi's function, U(1/2, 1/2, x^2)/sqrt(pi)."""
    if not ball > 1:
        return (ball * ball).exp() * ball.erfc()
    half = arb(0.5)
    return (ball * ball).hypgeom_u(half, half) / arb.pi().sqrt()
