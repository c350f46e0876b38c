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
    Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Format:
    """An IEEE 754 style binary format.

    Every value of every format here is exactly a float64, which is how values of a
    format travel through this project.
    """

    name: str
    """The name of torch's dtype, without the module."""

    precision: int
    """Bits of the significand, the implicit one included."""

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
        """Return the unit in the last place at each value: the spacing of the format there, or of its subnormals."""
        magnitude = np.minimum(np.abs(values), self.largest)
        # frexp has mantissas from 1/2 to 1, and so exponents one above those of binades
        exponent = np.frexp(np.where(magnitude > 0, magnitude, self.smallest_normal))[1] - 1
        spacing = np.ldexp(1.0, np.maximum(exponent, self.emin) - self.precision + 1)
        return np.asarray(spacing, dtype=np.float64)

    def _encode(self, values: Floats) -> Integers:
        """Return the bit patterns of values that are not negative, as integers: they are in the order of the values."""
        with np.errstate(over="ignore"):
            match self.name:
                case "float16":
                    return values.astype(np.float16).view(np.int16).astype(np.int64)
                case "bfloat16":
                    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
                    return bits >> 16  # bfloat16 is the upper half of a float32
                case "float32":
                    return values.astype(np.float32).view(np.int32).astype(np.int64)
                case _:
                    return values.astype(np.float64).view(np.int64)

    def ordinals(self, values: Floats) -> Integers:
        """Return the numbers of values of the format in order: 0 for zero, 1 for the smallest positive.

        Both zeros are number 0. Values that are not of the format are rounded to nearest; to bfloat16 they are rounded
        to float32 first, and then towards zero.
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

    def has(self, values: Floats) -> Mask:
        """Say which numbers are values of the format: rounding leaves them as they are."""
        found: Mask = self.values(self.ordinals(values)) == values
        return found

    @property
    def bits(self) -> int:
        """The width of a value in bits: of the significand less its implicit bit, of the exponent and of the sign."""
        return self.precision + self.emax.bit_length() + 1

    @property
    def last_ordinal(self) -> int:
        """The number of the largest finite value."""
        return int(self.ordinals(np.array([self.largest]))[0])

    def round(self, value: Fraction) -> float:
        """Round an exact number to nearest, ties to even; it overflows to infinity, as IEEE 754 has it."""
        if value == 0:
            return 0.0
        magnitude = abs(value)
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        # the lengths give the exponent of the binade or the next one
        if Fraction(2) ** exponent > magnitude:
            exponent -= 1
        quantum = Fraction(2) ** (max(exponent, self.emin) - self.precision + 1)
        rounded = round(magnitude / quantum) * quantum  # Python rounds a fraction to even too
        if rounded > Fraction(self.largest):
            return float("inf") if value > 0 else float("-inf")
        return float(rounded) if value > 0 else -float(rounded)

    def round_enclosure(self, ball: arb) -> float | None:
        """Return the number inside a ball, rounded; None where the ball is too wide to decide that."""
        if not ball.is_finite():
            return None
        if abs(ball) * 4 < self.smallest_subnormal:
            return 0.0  # the fraction of a number like exp(-1e30) does not fit in memory
        if abs(ball) > arb(2) ** (self.emax + 2):
            return float("inf") if ball > 0 else float("-inf")
        # rounding is monotone: what both ends of the ball agree on holds inside
        low, high = (self.round(fraction(end)) for end in (ball.lower(), ball.upper()))
        return low if low == high else None


EXACT_BITS = 2200
"""Bits of precision at which flint adds a few values of any format exactly.

The bits of float64 lie between 2^-1074 and 2^1023, 2,098 in all; a hundred more are for carries and small factors.
"""


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Have flint work with so many bits inside the context, and as before after it."""
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
