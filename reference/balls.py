"""Ball arithmetic in float64 on whole arrays: values, or what rounding to a format may make of them.

A ball is a midpoint and a radius. The radius of `Balls` is how far off float64 may be. That of `Widened` balls is the
reach: how far off the value may be if each step had been rounded to a narrower format. Programs run on either as they
do on flint's balls, since all have the same methods. What a program needs and these lack is an AttributeError or a
TypeError, and means that only flint can evaluate it.

Widened balls do not add float64's own errors up: a step is widened by 2^-22 of its value at least for the formats that
float64 is used for, and float64 is off by 2^-48 at most, so that its errors, which grow as the reach does, stay below
the part OWN of it.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import cached_property, reduce
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

VANISHING = -745.0
"""Below its exponential float64 has only 0."""

TAIL = 26.0
"""Up to which what the error function lacks to 1 is a normal float64."""

LEAST = 2.0**-1070
"""What an operation may lose to underflow, and more."""

SomeBalls = TypeVar("SomeBalls", bound="Balls")

erf, erfc = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)


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


def times(magnitude: Floats, radius: Radius) -> Radius:
    """Multiply a radius."""
    return None if radius is None else magnitude * radius


@dataclass(eq=False)
class Balls:
    """An array of intervals, each a midpoint and a radius; one of infinity or NaN says nothing."""

    mid: Floats
    rad: Radius = None

    most_turned: ClassVar[float] = 1.5
    """The radius of an argument up to which a sine is followed."""

    @classmethod
    def _made(cls, mid: Floats, spread: Radius, error: float = STEP, least: float = LEAST) -> Self:
        """Make the result of a step, of what becomes of the radii of its operands and of float64's own error."""
        result = cls(mid)
        own = result.size * error
        if least:
            own += least
        result.rad = own if spread is None else own + spread
        return result

    @classmethod
    def of(cls, value: Operand) -> Self:
        """Convert a constant."""
        if isinstance(value, cls):
            return value
        assert not isinstance(value, Balls)
        ball = arb(value)
        mid = float(ball.mid())
        away = ball.rad() + abs(ball.mid() - mid)
        return cls(np.array(mid), None if away == 0 else np.array(float(away.upper()) * (1 + STEP)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put columns one after the other."""
        mids = [part.mid for part in parts]
        if all(part.rad is None for part in parts):
            return cls(np.concatenate(mids))
        radii = [np.broadcast_to(_or_nil(part.rad), part.mid.shape) for part in parts]
        return cls(np.concatenate(mids), np.concatenate(radii))

    @cached_property
    def size(self) -> Floats:
        """The magnitude of the midpoint."""
        return np.abs(self.mid)

    @cached_property
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
        return self._made(self.mid + other.mid, plus(self.rad, other.rad), least=0.0)

    def __sub__(self, other: Operand) -> Self:
        """Subtract."""
        other = self.of(other)
        return self._made(self.mid - other.mid, plus(self.rad, other.rad), least=0.0)

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
        relative = plus(times(other.size, of_log), times(np.abs(np.log(self.mid)) + _or_nil(of_log), other.rad))
        wide = 0.0 if relative is None else mid * np.expm1(relative * (1 + FUNCTION))
        return self._made(mid, np.where((self.mid > 0) & (self.low() > 0), wide, np.inf), FUNCTION)

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
        holds = compare(self.mid - side * _or_nil(self.outer()), other.mid + side * _or_nil(other.outer()))
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
        low = np.minimum(self.mid - _or_nil(self.outer()), other.mid - _or_nil(other.outer()))
        high = np.maximum(self.mid + _or_nil(self.outer()), other.mid + _or_nil(other.outer()))
        return self._made((low + high) / 2, (high - low) / 2)

    def _function(self, function: Callable[[Floats], Floats], slope: Callable[[], Floats]) -> Self:
        """Apply a function whose derivative is nowhere steeper than the slope; where that is NaN, say nothing."""
        mid = np.asarray(function(self.mid), dtype=np.float64)
        if self.rad is None:
            return self._made(mid, None, FUNCTION)
        wide = np.where(self.rad == 0, 0, self.rad * slope() * (1 + FUNCTION))
        return self._made(mid, np.where(np.isnan(wide), np.inf, wide), FUNCTION)

    def sqrt(self) -> Self:
        """Return the square root."""
        root = np.sqrt(self.mid)
        return self._function(np.sqrt, lambda: 1 / (root + np.sqrt(self.mid - _or_nil(self.outer()))))

    def rsqrt(self) -> Self:
        """Return the reciprocal of the square root."""
        return 1 / self.sqrt()

    def exp(self) -> Self:
        """Return the exponential.

        A midpoint that underflows says nothing of a wide ball, whose far end may be large.
        """
        mid = np.exp(self.mid)
        if self.rad is None:
            return self._made(mid, None, FUNCTION)
        wide = np.expm1(self.rad) * (1 + FUNCTION) * mid
        if (mid == 0).any():
            wide = np.where((mid > 0) | (self.mid + self.rad < VANISHING), wide, np.inf)
        return self._made(mid, wide, FUNCTION)

    def _of_log(self) -> Radius:
        """Return how far the logarithm may be from that of the midpoint."""
        if self.rad is None:
            return None
        return np.where(self.mid > self.rad, -np.log1p(-self.rad / self.mid) * (1 + FUNCTION), np.inf)

    def log(self) -> Self:
        """Return the natural logarithm."""
        return self._made(np.log(self.mid), self._of_log(), FUNCTION)

    def _turned(self, value: Floats, other: Floats) -> Self:
        """Spread a sine or cosine by the radius: |value| (1 - cos t) + |other| |sin t| for t no greater."""
        if self.rad is None:
            return self._made(value, None, FUNCTION)
        wide = np.abs(value) * self.rad**2 / 2 + np.abs(other) * self.rad
        return self._made(value, np.where(self.rad < self.most_turned, wide, np.inf), FUNCTION)

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
        return self._function(erfc, lambda: np.where(self.mid + _or_nil(self.rad) < TAIL, self._slope_of_erf(), np.inf))

    def floor(self) -> Self:
        """Return the largest integer that is no greater."""
        outer = _or_nil(self.outer())
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
    def _made(cls, mid: Floats, spread: Radius, error: float = STEP, least: float = LEAST) -> Self:
        """Make the result of a step, of what becomes of the reaches of its operands."""
        del error, least  # they are a part of the reach
        return cls(mid, spread)

    @classmethod
    def of(cls, value: Operand) -> Self:
        """Convert a constant; what float64 is off by is a part of the reach that the step has which rounds it."""
        if isinstance(value, cls):
            return value
        found = super().of(value)
        inexact = found.rad is not None and not bool((found.rad > STEP * found.size).any())
        return cls(found.mid) if inexact else found

    def rounded(self, share: float, least: float) -> Self:
        """Widen the reach for one rounding: by a share of the value, and by what is lost where it underflows."""
        wide = self.size * share
        if least:
            wide += least
        if self.rad is not None:
            wide += self.rad * (1 + share)
        result = type(self)(self.mid, wide)
        result.__dict__["size"] = self.size
        return result

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
        magnitude = reduce(np.add, (term.size + _or_nil(term.rad) for term in terms))
        return cls(result.mid, plus(result.rounded(share, 0.0).rad, magnitude * roundings))


def _or_nil(radius: Radius) -> Floats:
    return np.zeros(()) if radius is None else radius
