"""The binary floating-point formats that gradients are judged in."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from flint import arb, ctx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Format:
    """An IEEE 754 style binary format.

    Every value of every format here is exactly a float64, which is how values of a
    format travel through this project.
    """

    name: str
    """The name of torch's dtype, without the module."""

    precision: int
    """Bits in the significand, the implicit one included."""

    emax: int
    """Exponent of the largest binade: values there lie in [2**emax, 2**(emax + 1))."""

    @property
    def unit(self) -> float:
        """The unit roundoff u: half the gap between 1 and the next value."""
        return 2.0**-self.precision

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal binade."""
        return 1 - self.emax

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return float((Fraction(2) - Fraction(2) ** (1 - self.precision)) * Fraction(2) ** self.emax)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive normal value."""
        return 2.0**self.emin

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive value."""
        return 2.0 ** (self.emin - self.precision + 1)

    def ulp(self, values: Floats) -> Floats:
        """Return the spacing of the format at each value (that of the subnormals near 0)."""
        magnitude = np.minimum(np.abs(values), self.largest)
        exponent = np.frexp(np.where(magnitude > 0, magnitude, self.smallest_normal))[1] - 1
        spacing = np.ldexp(1.0, np.maximum(exponent, self.emin) - self.precision + 1)
        return np.asarray(spacing, dtype=np.float64)

    def _encode(self, values: Floats) -> Integers:
        with np.errstate(over="ignore"):
            match self.name:
                case "float16":
                    return values.astype(np.float16).view(np.int16).astype(np.int64)
                case "bfloat16":
                    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
                    return bits >> 16
                case "float32":
                    return values.astype(np.float32).view(np.int32).astype(np.int64)
                case _:
                    return values.astype(np.float64).view(np.int64)

    def ordinals(self, values: Floats) -> Integers:
        """Return the numbers of values of the format in order: 0 for zero, 1 for the smallest positive.

        Both zeros are number 0. Values outside the format are truncated to it.
        """
        values = np.asarray(values, dtype=np.float64)
        magnitude = self._encode(np.abs(values))
        return np.where(values < 0, -magnitude, magnitude)

    def values(self, ordinals: Integers) -> Floats:
        """Return the values with these numbers, the inverse of `ordinals`."""
        ordinals = np.asarray(ordinals, dtype=np.int64)
        bits = np.abs(ordinals)
        match self.name:
            case "float16":
                magnitude = bits.astype(np.int16).view(np.float16).astype(np.float64)
            case "bfloat16":
                magnitude = (bits << 16).astype(np.int32).view(np.float32).astype(np.float64)
            case "float32":
                magnitude = bits.astype(np.int32).view(np.float32).astype(np.float64)
            case _:
                magnitude = bits.view(np.float64)
        return np.where(ordinals < 0, -magnitude, magnitude)

    @property
    def bits(self) -> int:
        """The bits of a value: significand without its implicit bit, exponent and sign."""
        return self.precision + self.emax.bit_length() + 1

    @property
    def last_ordinal(self) -> int:
        """The number of the largest finite value."""
        return int(self.ordinals(np.array([self.largest]))[0])

    def round(self, value: Fraction) -> float:
        """Round an exact number to nearest, ties to even, overflowing to infinity."""
        if value == 0:
            return 0.0
        magnitude = abs(value)
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        if Fraction(2) ** exponent > magnitude:
            exponent -= 1
        quantum = Fraction(2) ** (max(exponent, self.emin) - self.precision + 1)
        rounded = round(magnitude / quantum) * quantum
        if rounded > Fraction(self.largest):
            return float("inf") if value > 0 else float("-inf")
        return float(rounded) if value > 0 else -float(rounded)

    def round_enclosure(self, ball: arb) -> float | None:
        """Round the number inside a ball, or None while the ball does not decide it."""
        if not ball.is_finite():
            return None
        if abs(ball) * 4 < self.smallest_subnormal:
            return 0.0  # exp(-1e30) has no fraction that fits in memory
        if abs(ball) > arb(2) ** (self.emax + 2):
            return float("inf") if ball > 0 else float("-inf")
        low, high = (self.round(fraction(end)) for end in (ball.lower(), ball.upper()))
        return low if low == high else None


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Have flint work with so many bits inside."""
    before, ctx.prec = ctx.prec, bits
    try:
        yield
    finally:
        ctx.prec = before


def fraction(exact: arb) -> Fraction:
    """Return the midpoint of a finite ball as an exact fraction."""
    mantissa, exponent = exact.mid().man_exp()
    return Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


FORMATS = {
    form.name: form
    for form in (
        Format("float16", precision=11, emax=15),
        Format("bfloat16", precision=8, emax=127),
        Format("float32", precision=24, emax=127),
        Format("float64", precision=53, emax=1023),
    )
}
"""The formats by torch's name of the dtype, narrowest first."""
