"""Ball arithmetic in float64 on whole arrays: a filter in front of flint for formats far narrower.

The term is computational geometry's: a filter decides the easy cases in floating point with its
own rounding accounted for, and leaves the rest to exact arithmetic. Programs run on `Balls` as
they do on flint's, since both have the same methods. What a program needs and this lacks is an
AttributeError or a TypeError, and means that there is no filter for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flint import arb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from reference.compiler import Program
    from reference.format import Floats

    Operand: TypeAlias = "Balls | arb | int"

STEP = 2.0**-52
"""The relative error of + - * / and sqrt, twice over."""

FUNCTION = 2.0**-48
"""The relative error that is granted to a function of numpy or math: 16 ulp, where they promise 4."""

LEAST = 2.0**-1070
"""What an operation may lose to underflow, and more."""

erf = np.frompyfunc(math.erf, 1, 1)


class MixedError(Exception):
    """A comparison holds for some rows only."""

    def __init__(self, holds: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Say for which."""
        super().__init__("a comparison holds for some rows only")
        self.holds = holds


def evaluated(program: Program, columns: Sequence[Floats]) -> list[Balls]:
    """Evaluate a program at exact points, given a column of each argument; a column of each result.

    Where a comparison holds at some of the points, those and the others are evaluated apart.
    """
    try:
        with np.errstate(all="ignore"):
            (results,) = program.at([[Balls(column, np.zeros_like(column)) for column in columns]])
            return [
                Balls(*(np.broadcast_to(part, columns[0].shape) for part in (ball.mid, ball.rad)))
                for ball in map(Balls.of, results)
            ]
    except MixedError as mixed:
        parts = [np.flatnonzero(mixed.holds), np.flatnonzero(~mixed.holds)]
    halves = [evaluated(program, [column[part] for column in columns]) for part in parts]
    order = np.argsort(np.concatenate(parts))
    return [
        Balls(*(np.concatenate(pair)[order] for pair in ((a.mid, b.mid), (a.rad, b.rad))))
        for a, b in zip(*halves, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Balls:
    """An array of intervals, each a midpoint and a radius; a radius of infinity or NaN says nothing."""

    mid: Floats
    rad: Floats

    @classmethod
    def _rounded(cls, mid: Floats, rad: Floats, error: float = STEP) -> Balls:
        return cls(mid, rad * (1 + FUNCTION) + np.abs(mid) * error + LEAST)

    @classmethod
    def of(cls, value: Operand) -> Balls:
        """Convert a constant."""
        if isinstance(value, Balls):
            return value
        ball = arb(value)
        mid = float(ball.mid())
        away = ball.rad() + abs(ball.mid() - mid)
        return cls(np.array(mid), np.array(float(away.upper()) * (1 + STEP)))

    @property
    def _low(self) -> Floats:
        """A lower bound of the magnitude."""
        return np.maximum((np.abs(self.mid) - self.rad) * (1 - STEP), 0)

    @property
    def _high(self) -> Floats:
        """An upper bound of the magnitude."""
        return (np.abs(self.mid) + self.rad) * (1 + STEP)

    def __add__(self, other: Operand) -> Balls:
        """Add."""
        other = Balls.of(other)
        return Balls._rounded(self.mid + other.mid, self.rad + other.rad)

    def __sub__(self, other: Operand) -> Balls:
        """Subtract."""
        return self + -Balls.of(other)

    def __mul__(self, other: Operand) -> Balls:
        """Multiply."""
        other = Balls.of(other)
        return Balls._rounded(
            self.mid * other.mid, np.abs(self.mid) * other.rad + np.abs(other.mid) * self.rad + self.rad * other.rad
        )

    def __truediv__(self, other: Operand) -> Balls:
        """Divide."""
        other = Balls.of(other)
        mid = self.mid / other.mid
        return Balls._rounded(mid, np.where(other._low > 0, (self.rad + np.abs(mid) * other.rad) / other._low, np.inf))

    def __pow__(self, other: Operand) -> Balls:
        """Raise a positive ball to a power."""
        other = Balls.of(other)
        mid = np.power(self.mid, other.mid)
        relative = np.abs(other.mid) * self._of_log() + other.rad * (np.abs(np.log(self.mid)) + self._of_log())
        return Balls._rounded(
            mid, np.where((self.mid > 0) & (self._low > 0), mid * np.expm1(relative * (1 + FUNCTION)), np.inf), FUNCTION
        )

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Operand) -> Balls:
        """Subtract from a constant."""
        return Balls.of(other) - self

    def __rtruediv__(self, other: Operand) -> Balls:
        """Divide a constant."""
        return Balls.of(other) / self

    def __rpow__(self, other: Operand) -> Balls:
        """Raise a constant to a power."""
        return Balls.of(other) ** self

    def __neg__(self) -> Balls:
        """Negate."""
        return Balls(-self.mid, self.rad)

    def __abs__(self) -> Balls:
        """Return the magnitude."""
        return Balls(np.abs(self.mid), self.rad)

    def _compared(
        self, other: Operand, compare: Callable[[Floats, Floats], np.ndarray[tuple[int], np.dtype[np.bool_]]], side: int
    ) -> bool:
        other = Balls.of(other)
        holds = compare(self.mid - side * self.rad, other.mid + side * other.rad)
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

    def union(self, other: Operand) -> Balls:
        """Enclose both."""
        other = Balls.of(other)
        low = np.minimum(self.mid - self.rad, other.mid - other.rad)
        high = np.maximum(self.mid + self.rad, other.mid + other.rad)
        return Balls._rounded((low + high) / 2, (high - low) / 2)

    def _function(self, function: Callable[[Floats], Floats], slope: Floats) -> Balls:
        """Apply a function whose derivative is nowhere steeper than the slope; where that is NaN, say nothing."""
        spread = np.where(self.rad == 0, 0, self.rad * slope * (1 + FUNCTION))
        return Balls._rounded(
            np.asarray(function(self.mid), dtype=np.float64), np.where(np.isnan(spread), np.inf, spread), FUNCTION
        )

    def sqrt(self) -> Balls:
        """Return the square root."""
        return self._function(np.sqrt, 1 / (np.sqrt(self.mid) + np.sqrt(self.mid - self.rad)))

    def rsqrt(self) -> Balls:
        """Return the reciprocal of the square root."""
        return 1 / self.sqrt()

    def exp(self) -> Balls:
        """Return the exponential."""
        mid = np.exp(self.mid)
        return Balls._rounded(mid, mid * np.expm1(self.rad) * (1 + FUNCTION), FUNCTION)

    def _of_log(self) -> Floats:
        """Return how far the logarithm may be from that of the midpoint."""
        return np.where(self.mid > self.rad, -np.log1p(-self.rad / self.mid) * (1 + FUNCTION), np.inf)

    def log(self) -> Balls:
        """Return the natural logarithm."""
        return Balls._rounded(np.log(self.mid), self._of_log(), FUNCTION)

    def _turned(self, value: Floats, other: Floats) -> Balls:
        """Spread a sine or cosine by the radius: value cos t + other sin t for t no greater."""
        half = np.sin(self.rad / 2) ** 2
        spread = np.abs(value) * half + np.abs(other) * self.rad
        return Balls._rounded(value * (1 - half), np.where(self.rad < 1.5, spread, 2), FUNCTION)

    def sin(self) -> Balls:
        """Return the sine."""
        return self._turned(np.sin(self.mid), np.cos(self.mid))

    def cos(self) -> Balls:
        """Return the cosine."""
        return self._turned(np.cos(self.mid), np.sin(self.mid))

    def tan(self) -> Balls:
        """Return the tangent."""
        return self.sin() / self.cos()

    def sinh(self) -> Balls:
        """Return the hyperbolic sine."""
        return self._function(np.sinh, np.cosh(self._high))

    def cosh(self) -> Balls:
        """Return the hyperbolic cosine."""
        return self._function(np.cosh, np.sinh(self._high))

    def tanh(self) -> Balls:
        """Return the hyperbolic tangent."""
        return self._function(np.tanh, 1 / np.cosh(self._low) ** 2)

    def erf(self) -> Balls:
        """Return the error function."""
        return self._function(erf, 2 / math.sqrt(math.pi) * np.exp(-(self._low**2)))

    def floor(self) -> Balls:
        """Return the largest integer that is no greater."""
        low, high = np.floor(self.mid - self.rad), np.floor(self.mid + self.rad)
        return Balls(low, np.where(low == high, 0, np.inf))

    def sgn(self) -> Balls:
        """Return the sign."""
        return Balls(np.sign(self.mid), np.where((self._low > 0) | (self._high == 0), 0, np.inf))
