"""Where a function is defined: real intervals with exact ends, and the poles inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import sympy

if TYPE_CHECKING:
    from reference.format import Floats


@dataclass(frozen=True)
class Interval:
    """A real interval with exact ends, less some poles; an infinite end is open whatever is said of it."""

    lower: sympy.Expr = sympy.S.NegativeInfinity
    upper: sympy.Expr = sympy.S.Infinity
    closed_below: bool = False
    closed_above: bool = False
    without: tuple[sympy.Rational, ...] = ()
    """Points inside at which the function is not defined: poles."""

    poles_of_gamma: bool = False
    """Whether 0 and the negative integers are poles too."""

    def __post_init__(self) -> None:
        """Make numbers of sympy of the ends. Raises ValueError for an empty interval and for inexact ends."""
        for name in ("lower", "upper"):
            end = sympy.sympify(getattr(self, name), strict=True)
            if end.has(sympy.Float) or not end.is_extended_real:
                message = f"{name}={end}; accepted: an exact real number, Rational(1, 2) and not 0.5"
                raise ValueError(message)
            object.__setattr__(self, name, end)  # frozen for all others
        if not self.lower < self.upper:
            message = f"lower={self.lower}, upper={self.upper}: the interval is empty"
            raise ValueError(message)

    def __str__(self) -> str:
        """Write the interval in the notation of mathematics, "[0, oo)" for one."""
        left = "[" if self.closed_below else "("
        right = "]" if self.closed_above else ")"
        missing = [*map(str, self.without), *["0, -1, -2, ..."] * self.poles_of_gamma]
        poles = f" without {', '.join(missing)}" if missing else ""
        return f"{left}{self.lower}, {self.upper}{right}{poles}"

    @property
    def edges(self) -> tuple[sympy.Expr, ...]:
        """The ends that belong to the interval: the function is defined there."""
        below = (self.lower,) if self.closed_below else ()
        above = (self.upper,) if self.closed_above else ()
        return below + above

    @property
    def infinite_ends(self) -> tuple[sympy.Expr, ...]:
        """The ends at infinity, without one that poles accumulate at."""
        below = (self.lower,) if self.lower.is_infinite and not self.poles_of_gamma else ()
        return below + ((self.upper,) if self.upper.is_infinite else ())

    def encloses(self, lower: float, upper: float) -> bool:
        """Say whether [lower, upper] lies strictly inside, and has no pole."""
        below, above = self._floats
        # the lowest pole of gamma from `lower` on settles it: where that is past `upper`, the others are too
        poles = (*self.without, *[math.ceil(min(lower, 0))] * self.poles_of_gamma) if below < lower else ()
        return below < lower and upper < above and not any(lower <= pole <= upper for pole in poles)

    def clipped(self, most: float) -> tuple[float, float]:
        """Return the ends, as floats, of the part that lies within `most` of 0."""
        lower, upper = self._floats
        return max(lower, -most), min(upper, most)

    def is_pole(self, values: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Say of each value whether it is a pole of the function."""
        poles = np.isin(values, [float(pole) for pole in self.without])
        return poles | (values <= 0) & (values == np.floor(values)) if self.poles_of_gamma else poles

    @cached_property
    def _floats(self) -> tuple[float, float]:
        return float(self.lower), float(self.upper)


REAL = Interval()
GAMMA_POLES = Interval(poles_of_gamma=True)
NON_ZERO = Interval(without=(sympy.S.Zero,))
POSITIVE = Interval(sympy.S.Zero)
NON_NEGATIVE = Interval(sympy.S.Zero, closed_below=True)
