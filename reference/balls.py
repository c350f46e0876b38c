"""Ball arithmetic on whole arrays, in float64 or long doubles: values, or what rounding to a format may make of them.

A ball is a midpoint and a radius. The radius of `Balls` bounds the error of the arithmetic itself. That of `Widened`
balls is the reach: how far the value may move if each step is rounded to a narrower format. Programs run on either
as they do on flint's balls, since all have the same methods. A program with a function that these balls lack is
refused when it is compiled, and only flint can evaluate it.

Widened balls do not track the arithmetic's own errors. For the formats that float64 serves, a step is widened by at
least 2^-22 of its value, and float64 is off by at most 2^-48 of it. Both errors are propagated by the same factors, so
that float64's own stay below the part `own` of the reach. Long doubles serve float64, whose steps are widened by at
least 2^-51, and are off by at most 2^-61.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, TypeVar

import numpy as np
from flint import arb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from reference.format import Floats

    Operand: TypeAlias = "Balls | arb | int"

    Radius: TypeAlias = "Floats | None"
    """Radii of an array, not negative; None stands for exactly 0, and costs nothing."""

STEP_ERROR = 2.0**-52
"""The relative error granted to + - * / and sqrt: twice the unit roundoff that bounds a correctly rounded one."""

FUNCTION_ERROR = 2.0**-48
"""The relative error granted to a function of numpy or math: 16 ulp, where they promise 4.

That is an assumption about the machine, which the suite's own tests hold against flint there.
"""

SLACK = 2.0**-36
"""The share of a radius that its own rounding may have lost.

Radii are sums and products of positive numbers, so that nothing cancels: 2^-36 is 2^16 roundings of 2^-52 each.
"""

OWN_SHARE = 2.0**-21
"""The part of a reach that float64's own errors stay below.

They are 2^-26 of it where each step loses 2^-48 and is widened by 2^-22; the other five bits are a margin.
"""

NIL = 2.0**-1000
"""A magnitude that counts as 0 in float64: it is far below every value of a narrower format."""

LAST_NORMAL_ERFC = 26.0
"""An argument up to which erfc is a normal float64; its values turn subnormal between 26.5 and 26.6."""

LEAST = 2.0**-1070
"""More than an operation may lose to underflow: sixteen times the smallest subnormal."""

SomeBalls = TypeVar("SomeBalls", bound="Balls")

erf, erfc = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)

HAS_LONG = bool(np.longdouble(1) + np.longdouble(2) ** -63 != 1 and np.longdouble(2) ** -16440 > 0)
"""Whether numpy's long double has at least x87's 64 bits of significand and 15 of exponent: not under valgrind."""


class Runs(Protocol):
    """What can be run on balls, as a compiled `Program` can."""

    @property
    def at(self) -> Callable[[Iterable[Sequence[Any]]], tuple[list[Any], ...]]:
        """The function that evaluates it at each row of arguments, and returns a column of each result."""


class MixedError(Exception):
    """A comparison holds for some elements of an array and not for others, so that a program cannot branch on it."""

    def __init__(self, holds: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Take the mask of the elements for which it holds."""
        super().__init__("a comparison holds for some rows only")
        self.holds = holds


def evaluated(program: Runs, columns: Sequence[SomeBalls]) -> list[SomeBalls]:
    """Evaluate a program on an array of balls for each argument, which broadcast; return an array of each result.

    Where a comparison holds at some of the points only, those and the others are evaluated apart.
    """
    kind, shapes = type(columns[0]), {column.mid.shape for column in columns}
    shape = np.broadcast_shapes(*shapes) if len(shapes) > 1 else columns[0].mid.shape
    try:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return [kind.of(result).repeated(shape) for (result,) in program.at([columns])]
    except MixedError as mixed:
        holds = np.broadcast_to(mixed.holds, shape).ravel()
    flat = [column.repeated(shape).reshaped((-1,)) for column in columns]
    parts = [np.flatnonzero(holds), np.flatnonzero(~holds)]
    # in each part this comparison has one outcome; a part in which a later one is mixed is split again
    split = (tuple(column.picked(part) for column in flat) for part in parts)
    halves = [evaluated(program, part) for part in split]
    order = np.argsort(np.concatenate(parts))  # the inverse of the permutation that the parts are
    return [kind.joined(pair).picked(order).reshaped(shape) for pair in zip(*halves, strict=True)]


def plus(one: Radius, other: Radius) -> Radius:
    """Add radii."""
    return other if one is None else one if other is None else one + other


def or_nil(radius: Radius) -> Floats:
    """Return a radius as an array."""
    return np.zeros(()) if radius is None else radius


def times(magnitude: Floats, radius: Radius) -> Radius:
    """Multiply a radius."""
    return None if radius is None else magnitude * radius


@dataclass(eq=False)
class Balls:
    """An array of intervals, each a midpoint and a radius of the same or a broadcasting shape.

    An interval whose midpoint or radius is infinite or NaN says nothing of its value. Methods divide by 0 and overflow
    on the way to such a one, so that callers run them under ``np.errstate``.
    """

    mid: Floats
    rad: Radius = None
    _size: Floats | None = field(default=None, repr=False)

    most_turned: ClassVar[float] = 1.5
    """The radius of an argument, in radians, from which on nothing is said of its sine and cosine."""

    kind: ClassVar[type[np.floating[Any]]] = np.float64
    """The type of midpoints."""

    error: ClassVar[float] = STEP_ERROR
    """The relative error granted to + - * / and sqrt, as STEP_ERROR is for float64."""

    function_error: ClassVar[float] = FUNCTION_ERROR
    """The relative error granted to a function of numpy or math, as FUNCTION_ERROR is for float64."""

    least: ClassVar[Any] = LEAST
    """More than an operation may lose to underflow."""

    vanishing: ClassVar[float] = -745.0
    """An argument below which the exponential is less than `least`."""

    own: ClassVar[float] = OWN_SHARE
    """The part of a reach that the arithmetic's own errors stay below."""

    lacks: ClassVar[frozenset[str]] = frozenset()
    """The functions that balls of this kind lack, by their names in sympy."""

    @classmethod
    def _made(cls, mid: Floats, spread: Radius, error: float | None = None, *, underflows: bool = True) -> Self:
        """Make the result of a step: its radius is what the operands' radii become, and the step's own error.

        Sums do not underflow: one that is subnormal is exact.
        """
        result = cls(mid)
        # relative to the value as computed: that it is not the true one is within the factor of two in `error`
        own = result.size * (cls.error if error is None else error)
        if underflows:
            own += cls.least
        result.rad = own if spread is None else own + spread
        return result

    @classmethod
    def of(cls, value: Operand) -> Self:
        """Convert a constant of flint's or Python's; balls of this kind are returned as they are."""
        if isinstance(value, cls):
            return value
        assert not isinstance(value, Balls)
        ball = arb(value)
        high = float(ball.mid())
        rest = ball.mid() - high
        more = float(rest) if rest.is_finite() else 0.0
        mid = cls.kind(high) + cls.kind(more)  # long doubles keep the rest; in float64 this is `high` again
        away = ball.rad() + abs(rest - float(mid - cls.kind(high)) if rest.is_finite() else rest)
        return cls(np.array(mid), None if away == 0 else np.array(float(away.upper()) * (1 + STEP_ERROR)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put columns one after the other."""
        mids = [part.mid for part in parts]
        if all(part.rad is None for part in parts):
            return cls(np.concatenate(mids))
        radii = [np.broadcast_to(or_nil(part.rad), part.mid.shape) for part in parts]
        return cls(np.concatenate(mids), np.concatenate(radii))

    @property
    def size(self) -> Floats:
        """The magnitude of the midpoint, which is kept in a field: `cached_property` costs more than computing it."""
        if self._size is None:
            self._size = np.abs(self.mid)
        return self._size

    @property
    def above(self) -> Floats:
        """The magnitude of the midpoint where it is above 1, else 0."""
        return (self.size > 1) * self.size

    def moved(self, move: Callable[[Floats], Floats]) -> Self:
        """Move the elements of midpoints and radii alike."""
        rad = None if self.rad is None else move(np.broadcast_to(self.rad, self.mid.shape))
        return type(self)(move(self.mid), rad)

    def repeated(self, shape: tuple[int, ...]) -> Self:
        """Repeat the elements as numpy does."""
        return self if self.mid.shape == shape else self.moved(lambda part: np.broadcast_to(part, shape))

    def reshaped(self, shape: tuple[int, ...]) -> Self:
        """Give the elements another shape."""
        return self if self.mid.shape == shape else self.moved(lambda part: part.reshape(shape))

    def picked(self, numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Self:
        """Take the elements of a column that have these numbers."""
        return self.moved(lambda part: part[numbers])

    def outer(self) -> Radius:
        """Return an upper bound of the radius, which itself was rounded."""
        return None if self.rad is None else self.rad * (1 + SLACK)

    def low(self) -> Floats:
        """Return a lower bound of the magnitude."""
        radius = self.outer()
        # rounded down, as `high` is rounded up
        return self.size if radius is None else np.maximum((self.size - radius) * (1 - STEP_ERROR), 0)

    def high(self) -> Floats:
        """Return an upper bound of the magnitude."""
        radius = self.outer()
        return self.size if radius is None else (self.size + radius) * (1 + STEP_ERROR)

    def __add__(self, other: Operand) -> Self:
        """Add: no sum underflows, and one that is 0 is exact."""
        other = self.of(other)
        return self._made(self.mid + other.mid, plus(self.rad, other.rad), underflows=False)

    def __sub__(self, other: Operand) -> Self:
        """Subtract."""
        other = self.of(other)
        return self._made(self.mid - other.mid, plus(self.rad, other.rad), underflows=False)

    def __mul__(self, other: Operand) -> Self:
        """Multiply."""
        other = self.of(other)
        mid = self.mid * other.mid
        if other.rad is None:
            return self._made(mid, times(other.size, self.rad))
        # (a + s)(b + t) - a b = a t + (b + t) s
        return self._made(mid, plus(times(self.size, other.rad), times(other.size + other.rad, self.rad)))

    def __truediv__(self, other: Operand) -> Self:
        """Divide."""
        other = self.of(other)
        mid = self.mid / other.mid
        # with q = a / b: (a + s) / (b + t) - q = (s - q t) / (b + t)
        numerator = plus(self.rad, times(np.abs(mid), other.rad))
        if numerator is not None:
            numerator = numerator * (1 / other.low())  # infinite where the divisor may be 0
        return self._made(mid, numerator)

    def __pow__(self, other: Operand) -> Self:
        """Raise a positive ball to a power."""
        other = self.of(other)
        mid = np.power(self.mid, other.mid)
        of_log = self._of_log()
        # a^b is exp(b log a): the exponent moves by b d + (|log a| + d) t, where log a moves by d and b by t
        relative = plus(times(other.size, of_log), times(np.abs(np.log(self.mid)) + or_nil(of_log), other.rad))
        # exp is convex, so that it moves furthest upwards
        wide = 0.0 if relative is None else mid * np.expm1(relative * (1 + FUNCTION_ERROR))
        return self._made(mid, np.where((self.mid > 0) & (self.low() > 0), wide, np.inf), self.function_error)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Operand) -> Self:
        """Subtract from a constant."""
        return self.of(other) - self

    def __rtruediv__(self, other: Operand) -> Self:
        """Divide a constant."""
        return self.of(other) / self

    def __rpow__(self, other: Operand) -> Self:
        """Raise a constant to a power."""
        return self.of(other) ** self

    def __neg__(self) -> Self:
        """Negate."""
        return type(self)(-self.mid, self.rad)

    def __abs__(self) -> Self:
        """Return the magnitude."""
        return type(self)(self.size, self.rad)

    def _compared(
        self,
        other: Operand,
        compare: Callable[[Floats, Floats], np.ndarray[tuple[int], np.dtype[np.bool_]]],
        side: int,
    ) -> bool:
        """Compare the near ends of both, so that it holds for certain: `side` is 1 if ours is to be the greater.

        Raises MixedError where it holds for some elements only.
        """
        other = self.of(other)
        holds = compare(self.mid - side * or_nil(self.outer()), other.mid + side * or_nil(other.outer()))
        if holds.any() and not holds.all():
            raise MixedError(holds)
        return bool(holds.all())

    def __gt__(self, other: Operand) -> bool:
        """Say whether it is certainly greater."""
        return self._compared(other, np.greater, 1)

    def __ge__(self, other: Operand) -> bool:
        """Say whether it is certainly no less."""
        return self._compared(other, np.greater_equal, 1)

    def __lt__(self, other: Operand) -> bool:
        """Say whether it is certainly less."""
        return self._compared(other, np.less, -1)

    def __le__(self, other: Operand) -> bool:
        """Say whether it is certainly no greater."""
        return self._compared(other, np.less_equal, -1)

    def __eq__(self, other: object) -> bool:
        """Refuse: equality of flint's balls, that both are exact and equal, is not what an array could mean by it."""
        raise TypeError

    __hash__ = None  # type: ignore[assignment]  # what defines no equality has no hash, as Python itself has it

    def union(self, other: Operand) -> Self:
        """Enclose both."""
        other = self.of(other)
        low = np.minimum(self.mid - or_nil(self.outer()), other.mid - or_nil(other.outer()))
        high = np.maximum(self.mid + or_nil(self.outer()), other.mid + or_nil(other.outer()))
        return self._made((low + high) / 2, (high - low) / 2)

    def _function(self, function: Callable[[Floats], Floats], slope: Callable[[], Floats]) -> Self:
        """Apply a function whose derivative on the ball is at most the slope in magnitude: the mean value theorem.

        The slope is NaN, and the radius infinite, where the ball leaves the domain.
        """
        mid = np.asarray(function(self.mid), dtype=self.kind)
        if self.rad is None:
            return self._made(mid, None, self.function_error)
        wide = np.where(self.rad == 0, 0, self.rad * slope() * (1 + FUNCTION_ERROR))  # 0 of an infinite slope too
        return self._made(mid, np.where(np.isnan(wide), np.inf, wide), self.function_error)

    def sqrt(self) -> Self:
        """Return the square root."""
        root = np.sqrt(self.mid)
        # the secant to the lower end of the ball is the steepest: it is finite where that end is 0
        return self._function(np.sqrt, lambda: 1 / (root + np.sqrt(self.mid - or_nil(self.outer()))))

    def rsqrt(self) -> Self:
        """Return the reciprocal of the square root."""
        return 1 / self.sqrt()

    def exp(self) -> Self:
        """Return the exponential: it is convex, so that it moves furthest upwards, by expm1 of the radius."""
        mid = np.exp(self.mid)
        if self.rad is None:
            return self._made(mid, None, self.function_error)
        wide = np.expm1(self.rad) * (1 + FUNCTION_ERROR) * mid
        if (mid == 0).any():
            # of a wide ball the upper end may be large though the midpoint underflows, and 0 times infinity is NaN
            wide = np.where((mid > 0) | (self.mid + self.rad < self.vanishing), wide, np.inf)
        return self._made(mid, wide, self.function_error)

    def _of_log(self) -> Radius:
        """Return how far the logarithm may be from that of the midpoint: furthest downwards, since it is concave."""
        if self.rad is None:
            return None
        return np.where(self.mid > self.rad, -np.log1p(-self.rad / self.mid) * (1 + FUNCTION_ERROR), np.inf)

    def log(self) -> Self:
        """Return the natural logarithm."""
        return self._made(np.log(self.mid), self._of_log(), self.function_error)

    def _turned(self, value: Floats, other: Floats) -> Self:
        """Return a sine or cosine, `other` being the cosine or sine of the same midpoint.

        For an angle t no greater than the radius, sin(x + t) - sin x = sin x (cos t - 1) + cos x sin t, in which
        1 - cos t is at most t^2 / 2 and sin t at most t.
        """
        if self.rad is None:
            return self._made(value, None, self.function_error)
        wide = np.abs(value) * self.rad**2 / 2 + np.abs(other) * self.rad
        return self._made(value, np.where(self.rad < self.most_turned, wide, np.inf), self.function_error)

    def sin(self) -> Self:
        """Return the sine."""
        return self._turned(np.sin(self.mid), np.cos(self.mid))

    def cos(self) -> Self:
        """Return the cosine."""
        return self._turned(np.cos(self.mid), np.sin(self.mid))

    def tan(self) -> Self:
        """Return the tangent."""
        return self.sin() / self.cos()

    def sinh(self) -> Self:
        """Return the hyperbolic sine."""
        # of this slope and those below the steepest is at the end with the greatest magnitude, or with the least
        return self._function(np.sinh, lambda: np.cosh(self.high()))

    def cosh(self) -> Self:
        """Return the hyperbolic cosine."""
        return self._function(np.cosh, lambda: np.sinh(self.high()))

    def tanh(self) -> Self:
        """Return the hyperbolic tangent."""
        return self._function(np.tanh, lambda: 1 / np.cosh(self.low()) ** 2)

    def asin(self) -> Self:
        """Return the arc sine."""
        return self._function(np.arcsin, self._slope_of_arc)

    def acos(self) -> Self:
        """Return the arc cosine."""
        return self._function(np.arccos, self._slope_of_arc)

    def _slope_of_arc(self) -> Floats:
        """Return the steepest slope of the arc sine on each ball; NaN where that leaves [-1, 1]."""
        high = self.high()
        return 1 / np.sqrt((1 - high) * (1 + high))

    def atan(self) -> Self:
        """Return the arc tangent."""
        return self._function(np.arctan, lambda: 1 / (1 + self.low() ** 2))

    def asinh(self) -> Self:
        """Return the inverse of the hyperbolic sine."""
        return self._function(np.arcsinh, lambda: 1 / np.sqrt(1 + self.low() ** 2))

    def acosh(self) -> Self:
        """Return the inverse of the hyperbolic cosine."""
        return self._function(np.arccosh, lambda: 1 / np.sqrt((self.low() - 1) * (self.low() + 1)))

    def atanh(self) -> Self:
        """Return the inverse of the hyperbolic tangent."""
        return self._function(np.arctanh, lambda: self._slope_of_arc() ** 2)

    def _slope_of_erf(self) -> Floats:
        """Return the steepest slope of the error function on each ball."""
        return 2 / math.sqrt(math.pi) * np.exp(-(self.low() ** 2))

    def erf(self) -> Self:
        """Return the error function."""
        return self._function(erf, self._slope_of_erf)

    def erfc(self) -> Self:
        """Return the complement of the error function to 1.

        Of a wide ball that reaches where it underflows nothing is said, since there its slope underflows too.
        """
        return self._function(
            erfc, lambda: np.where(self.mid + or_nil(self.rad) < LAST_NORMAL_ERFC, self._slope_of_erf(), np.inf)
        )

    def floor(self) -> Self:
        """Return the largest integer that is no greater."""
        outer = or_nil(self.outer())
        low, high = np.floor(self.mid - outer), np.floor(self.mid + outer)  # a step lies between where they differ
        return type(self)(low, np.where(low == high, 0, np.inf))

    def sgn(self) -> Self:
        """Return the sign."""
        # certain off 0, and at a 0 that is exact
        return type(self)(np.sign(self.mid), np.where((self.low() > 0) | (self.high() == 0), 0, np.inf))

    @classmethod
    def total(cls, terms: Sequence[Self], *_: float) -> Self:
        """Add balls up. What it takes besides them is for widened balls, and does not matter here."""
        return reduce(operator.add, terms)


class Widened(Balls):
    """Balls whose radius is the reach: how far rounding of earlier steps to a format may have moved the value.

    A step itself is rounded by `rounded`, which compiled code calls where the step of a kernel rounds.
    """

    most_turned = 2.0**-4  # further on the sine bends, and its reach is not symmetric about the midpoint

    @classmethod
    def _made(cls, mid: Floats, spread: Radius, error: float | None = None, *, underflows: bool = True) -> Self:
        """Make the result of a step: its reach is what the operands' reaches become."""
        del error, underflows  # the arithmetic's own errors are the part `own` of the reach
        return cls(mid, spread)

    @classmethod
    def of(cls, value: Operand) -> Self:
        """Convert a constant, whose error counts as the arithmetic's own where it is no larger than that of a step."""
        if isinstance(value, cls):
            return value
        found = super().of(value)
        is_own = found.rad is not None and not bool((found.rad > cls.error * found.size).any())
        return cls(found.mid) if is_own else found

    def rounded(self, share: float, least: float) -> Self:
        """Widen the reach for one step that rounds: by a share of the value, and by `least` for its underflow.

        The value may be anywhere in the ball when it is rounded, so that the share is of the reach too.
        """
        wide = self.size * share
        if least:
            wide += least
        if self.rad is not None:
            wide += self.rad * (1 + share)
        return type(self)(self.mid, wide, self.size)

    def amplified(self, seeds: Balls, least: float) -> Self:
        """Widen the reach for a product in which a factor above 1 met last what had underflowed before.

        `seeds` are those factors, and `least` what was lost: sources are multiplied in any order.
        """
        return type(self)(self.mid, plus(seeds.above * least, self.rad))

    def union(self, other: Operand) -> Self:
        """Say nothing: a reach is around one value, and which of two branches gives that is not known."""
        return type(self)(np.full(np.broadcast_shapes(self.mid.shape, self.of(other).mid.shape), np.nan))

    @classmethod
    def total(cls, terms: Sequence[Self], *widening: float) -> Self:
        """Add balls up, in any order of summation.

        `widening` is the share of the sum that its last step may be off by, and the roundings of partial sums: their
        number times the unit roundoff, to be multiplied by the sum of all magnitudes.
        """
        share, roundings = widening
        result = reduce(operator.add, terms)
        # each partial sum, wherever the terms lie in their balls, is no larger than this
        magnitude = reduce(np.add, (term.size + or_nil(term.rad) for term in terms))
        return cls(result.mid, plus(result.rounded(share, 0.0).rad, magnitude * roundings))


class _Long:
    """The constants of x87's long doubles: a significand of 64 bits, and an exponent of 15."""

    kind = np.longdouble
    error = 2.0**-63
    function_error = 2.0**-61  # 4 ulp, where one or two are measured
    least = np.longdouble(2) ** -16300  # a normal number: x87 takes a hundred times as long to add a subnormal one
    vanishing = -11_400.0
    own = 2.0**-7  # 2^-61 of a step beside 2^-51 are 2^-10 of the reach; the other three bits are a margin
    lacks = frozenset({"erf", "erfc"})  # numpy lacks them, and those of the module math are float64's


class LongBalls(_Long, Balls):
    """Balls in long doubles, which are to float64 what float64 is to narrower formats."""


class LongWidened(_Long, Widened):
    """Widened balls in long doubles, for the roundings of float64."""
