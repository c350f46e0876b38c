"""Ball arithmetic on whole arrays, in float64 or long doubles: values, or what rounding to a format may make of them.

A ball is a midpoint and a radius. The radius of `Balls` is how far off the arithmetic may be. That of `Widened` balls
is the reach: how far off the value may be if each step had been rounded to a narrower format. Programs run on either
as they do on flint's balls, since all have the same methods. A function that a program needs and these lack is refused
when the program is compiled, and only flint can evaluate it.

Widened balls do not add the arithmetic's own errors up. A step is widened by 2^-22 of its value at least for the
formats that float64 is used for, and float64 is off by 2^-48 at most, so that its errors, which grow as the reach does,
stay below the part `own` of it. Long doubles are used for float64, whose steps are widened by 2^-51 at least, and are
off by 2^-61 at most.
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
    """None is exactly 0, and costs nothing."""

STEP = 2.0**-52
"""The relative error of + - * / and sqrt, twice over."""

FUNCTION = 2.0**-48
"""The relative error that is granted to a function of numpy or math: 16 ulp, where they promise 4."""

SLACK = 2.0**-36
"""What radii may have lost to their own rounding, as a share: they are sums and products of positive numbers."""

OWN = 2.0**-21
"""The part of a reach that float64's own errors stay below."""

NIL = 2.0**-1000
"""What float64 does not tell from 0: far below any value of a narrower format."""

TAIL = 26.0
"""Up to which what the error function lacks to 1 is a normal float64."""

LEAST = 2.0**-1070
"""What an operation may lose to underflow, and more."""

SomeBalls = TypeVar("SomeBalls", bound="Balls")

erf, erfc = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)

HAS_LONG = bool(np.longdouble(1) + np.longdouble(2) ** -63 != 1 and np.longdouble(2) ** -16440 > 0)
"""Whether numpy's long double has 64 bits and 15 of exponent, as x87 has, or more; under valgrind it has not."""


class Runs(Protocol):
    """A compiled function of balls."""

    @property
    def at(self) -> Callable[[Iterable[Sequence[Any]]], tuple[list[Any], ...]]:
        """Evaluate it at each row of arguments."""


class MixedError(Exception):
    """A comparison holds for some rows only."""

    def __init__(self, holds: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Say for which."""
        super().__init__("a comparison holds for some rows only")
        self.holds = holds


def evaluated(program: Runs, columns: Sequence[SomeBalls]) -> list[SomeBalls]:
    """Evaluate a program on a column of each argument; a column of each result.

    Where a comparison holds at some of the points, those and the others are evaluated apart.
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
    halves = [evaluated(program, [column.picked(part) for column in flat]) for part in parts]
    order = np.argsort(np.concatenate(parts))
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
    """An array of intervals, each a midpoint and a radius; one of infinity or NaN says nothing."""

    mid: Floats
    rad: Radius = None
    _size: Floats | None = field(default=None, repr=False)

    most_turned: ClassVar[float] = 1.5
    """The radius of an argument up to which a sine is followed."""

    kind: ClassVar[type[np.floating[Any]]] = np.float64
    """What midpoints are made of."""

    error: ClassVar[float] = STEP
    """The relative error of + - * / and sqrt, twice over."""

    function_error: ClassVar[float] = FUNCTION
    """The relative error that is granted to a function of numpy or math."""

    least: ClassVar[Any] = LEAST
    """What an operation may lose to underflow, and more."""

    vanishing: ClassVar[float] = -745.0
    """Below its exponential there is only 0."""

    own: ClassVar[float] = OWN
    """The part of a reach that the arithmetic's own errors stay below."""

    lacks: ClassVar[frozenset[str]] = frozenset()
    """Functions that there are in float64 alone."""

    @classmethod
    def _made(cls, mid: Floats, spread: Radius, error: float | None = None, *, underflows: bool = True) -> Self:
        """Make the result of a step, of what becomes of the radii of its operands and of the step's own error."""
        result = cls(mid)
        own = result.size * (cls.error if error is None else error)
        if underflows:
            own += cls.least
        result.rad = own if spread is None else own + spread
        return result

    @classmethod
    def of(cls, value: Operand) -> Self:
        """Convert a constant."""
        if isinstance(value, cls):
            return value
        assert not isinstance(value, Balls)
        ball = arb(value)
        high = float(ball.mid())
        rest = ball.mid() - high
        more = float(rest) if rest.is_finite() else 0.0
        mid = cls.kind(high) + cls.kind(more)  # float64 has no bits for it
        away = ball.rad() + abs(rest - float(mid - cls.kind(high)) if rest.is_finite() else rest)
        return cls(np.array(mid), None if away == 0 else np.array(float(away.upper()) * (1 + STEP)))

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
        """The magnitude of the midpoint, which is kept: a cached property takes longer than it does."""
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

    def picked(self, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Self:
        """Take some elements of a column."""
        return self.moved(lambda part: part[places])

    def outer(self) -> Radius:
        """Return the radius, and a little more for the rounding of radii themselves."""
        return None if self.rad is None else self.rad * (1 + SLACK)

    def low(self) -> Floats:
        """Return a lower bound of the magnitude."""
        radius = self.outer()
        return self.size if radius is None else np.maximum((self.size - radius) * (1 - STEP), 0)

    def high(self) -> Floats:
        """Return an upper bound of the magnitude."""
        radius = self.outer()
        return self.size if radius is None else (self.size + radius) * (1 + STEP)

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
        return self._made(mid, plus(times(self.size, other.rad), times(other.size + other.rad, self.rad)))

    def __truediv__(self, other: Operand) -> Self:
        """Divide."""
        other = self.of(other)
        mid = self.mid / other.mid
        numerator = plus(self.rad, times(np.abs(mid), other.rad))
        if numerator is not None:
            numerator = numerator * (1 / other.low())  # where it may be 0, nothing is said
        return self._made(mid, numerator)

    def __pow__(self, other: Operand) -> Self:
        """Raise a positive ball to a power."""
        other = self.of(other)
        mid = np.power(self.mid, other.mid)
        of_log = self._of_log()
        relative = plus(times(other.size, of_log), times(np.abs(np.log(self.mid)) + or_nil(of_log), other.rad))
        wide = 0.0 if relative is None else mid * np.expm1(relative * (1 + FUNCTION))
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
        """Refuse: no program for flint's balls means the same by it."""
        raise TypeError

    __hash__ = None  # type: ignore[assignment]  # what defines no equality has no hash, as Python itself has it

    def union(self, other: Operand) -> Self:
        """Enclose both."""
        other = self.of(other)
        low = np.minimum(self.mid - or_nil(self.outer()), other.mid - or_nil(other.outer()))
        high = np.maximum(self.mid + or_nil(self.outer()), other.mid + or_nil(other.outer()))
        return self._made((low + high) / 2, (high - low) / 2)

    def _function(self, function: Callable[[Floats], Floats], slope: Callable[[], Floats]) -> Self:
        """Apply a function whose derivative is nowhere steeper than the slope; where that is NaN, say nothing."""
        mid = np.asarray(function(self.mid), dtype=self.kind)
        if self.rad is None:
            return self._made(mid, None, self.function_error)
        wide = np.where(self.rad == 0, 0, self.rad * slope() * (1 + FUNCTION))
        return self._made(mid, np.where(np.isnan(wide), np.inf, wide), self.function_error)

    def sqrt(self) -> Self:
        """Return the square root."""
        root = np.sqrt(self.mid)
        return self._function(np.sqrt, lambda: 1 / (root + np.sqrt(self.mid - or_nil(self.outer()))))

    def rsqrt(self) -> Self:
        """Return the reciprocal of the square root."""
        return 1 / self.sqrt()

    def exp(self) -> Self:
        """Return the exponential.

        A midpoint that underflows says nothing of a wide ball, whose far end may be large.
        """
        mid = np.exp(self.mid)
        if self.rad is None:
            return self._made(mid, None, self.function_error)
        wide = np.expm1(self.rad) * (1 + FUNCTION) * mid
        if (mid == 0).any():
            wide = np.where((mid > 0) | (self.mid + self.rad < self.vanishing), wide, np.inf)
        return self._made(mid, wide, self.function_error)

    def _of_log(self) -> Radius:
        """Return how far the logarithm may be from that of the midpoint."""
        if self.rad is None:
            return None
        return np.where(self.mid > self.rad, -np.log1p(-self.rad / self.mid) * (1 + FUNCTION), np.inf)

    def log(self) -> Self:
        """Return the natural logarithm."""
        return self._made(np.log(self.mid), self._of_log(), self.function_error)

    def _turned(self, value: Floats, other: Floats) -> Self:
        """Spread a sine or cosine by the radius: |value| (1 - cos t) + |other| |sin t| for t no greater."""
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
        return 2 / math.sqrt(math.pi) * np.exp(-(self.low() ** 2))

    def erf(self) -> Self:
        """Return the error function."""
        return self._function(erf, self._slope_of_erf)

    def erfc(self) -> Self:
        """Return what the error function lacks to 1; near its underflow nothing is said of a wide ball."""
        return self._function(erfc, lambda: np.where(self.mid + or_nil(self.rad) < TAIL, self._slope_of_erf(), np.inf))

    def floor(self) -> Self:
        """Return the largest integer that is no greater."""
        outer = or_nil(self.outer())
        low, high = np.floor(self.mid - outer), np.floor(self.mid + outer)
        return type(self)(low, np.where(low == high, 0, np.inf))

    def sgn(self) -> Self:
        """Return the sign."""
        return type(self)(np.sign(self.mid), np.where((self.low() > 0) | (self.high() == 0), 0, np.inf))

    @classmethod
    def total(cls, terms: Sequence[Self], *_: float) -> Self:
        """Add balls up."""
        return reduce(operator.add, terms)


class Widened(Balls):
    """Balls whose radius is the reach of rounding to a format, at each step that says so."""

    most_turned = 2.0**-4  # of a wider one the sine has no symmetric reach

    @classmethod
    def _made(cls, mid: Floats, spread: Radius, error: float | None = None, *, underflows: bool = True) -> Self:
        """Make the result of a step, of what becomes of the reaches of its operands."""
        del error, underflows  # they are a part of the reach
        return cls(mid, spread)

    @classmethod
    def of(cls, value: Operand) -> Self:
        """Convert a constant; what its midpoint is off by is a part of the reach that the step has which rounds it."""
        if isinstance(value, cls):
            return value
        found = super().of(value)
        inexact = found.rad is not None and not bool((found.rad > cls.error * found.size).any())
        return cls(found.mid) if inexact else found

    def rounded(self, share: float, least: float) -> Self:
        """Widen the reach for one rounding: by a share of the value, and by what is lost where it underflows."""
        wide = self.size * share
        if least:
            wide += least
        if self.rad is not None:
            wide += self.rad * (1 + share)
        return type(self)(self.mid, wide, self.size)

    def amplified(self, seeds: Balls, least: float) -> Self:
        """Widen the reach for what underflowed before a factor above 1 met it."""
        return type(self)(self.mid, plus(seeds.above * least, self.rad))

    def union(self, other: Operand) -> Self:
        """Say nothing: of which branch the value is one does not know, and a reach is around the value."""
        return type(self)(np.full(np.broadcast_shapes(self.mid.shape, self.of(other).mid.shape), np.nan))

    @classmethod
    def total(cls, terms: Sequence[Self], *widening: float) -> Self:
        """Add balls up in any order.

        The reach grows by a share of the sum, and by the roundings times all magnitudes.
        """
        share, roundings = widening
        result = reduce(operator.add, terms)
        magnitude = reduce(np.add, (term.size + or_nil(term.rad) for term in terms))
        return cls(result.mid, plus(result.rounded(share, 0.0).rad, magnitude * roundings))


class _Long:
    """What long doubles have in the place of float64's: 11 bits more, of a value and of an exponent's range."""

    kind = np.longdouble
    error = 2.0**-63
    function_error = 2.0**-61  # 4 ulp, where one or two are measured
    least = np.longdouble(2) ** -16300  # a normal number: x87 takes a hundred times as long to add a subnormal one
    vanishing = -11_400.0
    own = 2.0**-7
    lacks = frozenset({"erf", "erfc"})  # which are math's


class LongBalls(_Long, Balls):
    """Balls in long doubles, which are to float64 what float64 is to narrower formats."""


class LongWidened(_Long, Widened):
    """Widened balls in long doubles.

    A step is widened by 2^-51 of its value at least, and long doubles are off by 2^-61 at most.
    """
