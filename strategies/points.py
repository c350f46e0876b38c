"""Points: arrays of values of a format, inside a domain, biased to where gradients go wrong.

One draw of bytes makes a whole array, four bytes a value: Hypothesis spends one choice on it, and
shrinks the bytes towards 0, which is the simplest value.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import sympy
from hypothesis import strategies as st

from reference.convention import critical_expressions
from reference.domain import REAL

if TYPE_CHECKING:
    from reference.domain import Interval
    from reference.format import Floats, Format, Integers
    from reference.op import Op, Shape

SIMPLE = (1.0, 2.0, 0.5, 3.0, 4.0, 0.25, -1.0, -2.0, -0.5, -3.0, 1.5, -1.5, 10.0, -10.0, 0.1, 0.0)
"""Values that a reader can check by hand, simplest first; those of the domain are drawn."""

NEIGHBOURS = 8
"""How many values either side of a critical one belong to its neighbourhood."""


class EmptyDomainError(ValueError):
    """No value of the format lies in the domain."""


def bounds(form: Format, interval: Interval) -> tuple[int, int]:
    """Return the numbers of the first and last value of a format inside an interval."""
    last = form.last_ordinal
    lower, upper = -last, last
    if interval.lower.is_finite:
        lower = _boundary(form, interval.lower, inside=interval.closed_below, side=1)
    if interval.upper.is_finite:
        upper = _boundary(form, interval.upper, inside=interval.closed_above, side=-1)
    if lower > upper:
        message = f"interval={interval}: no value of {form.name} lies inside"
        raise EmptyDomainError(message)
    return max(lower, -last), min(upper, last)


def _boundary(form: Format, end: sympy.Expr, *, inside: bool, side: int) -> int:
    near = int(form.ordinals(np.array([float(end)]))[0])
    around = range(near - side, near + 3 * side, side)
    numbers = (sympy.Rational(value) for value in form.values(np.array(around)).tolist())
    return next(
        ordinal
        for ordinal, number in zip(around, numbers, strict=True)
        if (number - end) * side > 0 or (inside and number == end)
    )


@cache
def places(op: Op | None, form: Format, interval: Interval) -> Integers:
    """Return the numbers of the values where gradients go wrong.

    These are the kinks and edges of the op, zero, the ends of the subnormals and of the range, and
    the points where exp, the square or a saturating output leaves the format.
    """
    found = [0.0, form.smallest_subnormal, form.smallest_normal, form.largest, 1.0, form.unit]
    digits = form.precision * np.log(2)
    found += [np.log(form.largest), -np.log(form.smallest_subnormal), digits, digits / 2]
    found += [np.sqrt(form.largest), np.sqrt(form.smallest_subnormal), np.sqrt(digits)]
    found += (
        [2.0**n for n in range(-8, 9)]
        + [float(pole) for pole in interval.without]
        + [3.0, 10.0] * interval.poles_of_gamma
    )
    signed = [sign * place for place in found for sign in (1, -1)]
    if op is not None and len(op.inputs) == 1:
        signed += [float(r) for e in critical_expressions(op) for r in sympy.solve(e, op.symbols[0])]
    return np.unique(
        form.ordinals(np.array(signed + [float(e) for e in (interval.lower, interval.upper) if e.is_finite]))
    )


@cache
def critical(op: Op | None, form: Format, interval: Interval) -> Integers:
    """Return the numbers of the values of the interval at and near such places."""
    lower, upper = bounds(form, interval)
    near = np.unique(places(op, form, interval)[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1))
    return near[(near >= lower) & (near <= upper)]


def decode(words: Integers, form: Format, interval: Interval, op: Op | None = None) -> Floats:
    """Turn words of 32 bits into values of the format inside the interval; 0 is the simplest.

    A quarter of the words each stand for simple values, critical ones, any value of the format
    with equal chance (so every binade alike), and any value within the binades around 1.
    """
    lower, upper = bounds(form, interval)
    simple = form.ordinals(np.array(SIMPLE))
    simple = simple[(simple >= lower) & (simple <= upper)]
    if not simple.size:
        simple = np.array([(lower + upper) // 2])
    special = critical(op, form, interval)
    kind, rest = words >> 30, words & 0x3FFFFFFF
    near = _around_one(form, lower, upper)
    around = np.where(rest & 1, _spread(rest >> 1, *near[0]), _spread(rest >> 1, *near[-1]))
    chosen = [simple[rest % simple.size], special[rest % special.size], _spread(rest, lower, upper), around]
    numbers = np.choose(kind, chosen)
    values = np.where((numbers == 0) & (rest % 2 == 1), -0.0, form.values(numbers))
    return np.where(interval.is_pole(values), form.values(special[-1 - rest % (special.size // 2)]), values)


def _around_one(form: Format, lower: int, upper: int) -> list[tuple[int, int]]:
    """Return the numbers of the values between 2**-10 and 2**5 of either sign that lie in a range, or the range."""
    first, last = (int(n) for n in form.ordinals(np.array([2.0**-10, 2.0**5])))
    both = ((first, last), (-last, -first))
    return [(max(low, lower), min(high, upper)) for low, high in both if low <= upper and high >= lower] or [
        (lower, upper)
    ]


def _spread(rest: Integers, lower: int, upper: int) -> Integers:
    """Map numbers below 2**30 to [lower, upper], scrambled so that low bits vary too."""
    span = upper - lower + 1
    scrambled = (rest.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(1)
    return np.asarray(lower + (scrambled % np.uint64(span)).astype(np.int64), dtype=np.int64)


def everything(form: Format, interval: Interval) -> Floats:
    """Return every value of the format in the interval, in order."""
    lower, upper = bounds(form, interval)
    return _without_poles(np.arange(lower, upper + 1), form, interval)


def hard(form: Format, interval: Interval, op: Op | None = None, count: int = 300) -> Floats:
    """Return that many values of the interval, the same each time.

    They are critical places, their neighbours, and some of every binade. Half of them are of the first two kinds where
    there are so many: every place if it fits, or 0. An interval with fewer values gives all of them.
    """
    lower, upper = bounds(form, interval)
    centres = np.intersect1d(places(op, form, interval), special := critical(op, form, interval))
    if 2 * centres.size > count:
        centres = centres[centres == 0]
    chosen = np.union1d(centres, _evenly(np.setdiff1d(special, centres), count // 2 - centres.size))
    steps = min(count - 1, upper - lower)
    spread = np.array([lower + (upper - lower) * i // steps for i in range(steps + 1)], dtype=np.int64)
    return _without_poles(
        np.union1d(chosen, _evenly(np.setdiff1d(spread, chosen), count - chosen.size)), form, interval
    )


def _evenly(numbers: Integers, count: int) -> Integers:
    """Take so many of some numbers, or all of them if they are fewer."""
    return numbers[np.unique(np.linspace(0, numbers.size - 1, min(count, numbers.size)).round().astype(np.int64))]


def stratified(form: Format, interval: Interval, op: Op | None = None, count: int = 100_000) -> Floats:
    """Return at least that many values of the interval, the same each time.

    Each binade has as many, and all critical ones are among them. Neighbours in the array are neighbours in value.
    """
    lower, upper = bounds(form, interval)
    width = max((upper - lower) // count, 1)
    starts = np.arange(lower, upper + 1, width, dtype=np.int64)
    jitter = np.random.default_rng(0).integers(0, width, starts.size)
    return _without_poles(np.union1d(np.minimum(starts + jitter, upper), critical(op, form, interval)), form, interval)


def _without_poles(numbers: Integers, form: Format, interval: Interval) -> Floats:
    """Return the values with these numbers, without the poles of the interval, and with 0 of either sign."""
    values = form.values(np.unique(numbers))
    values = values[~interval.is_pole(values)]
    zero = int(np.searchsorted(values, 0))
    return np.insert(values, zero, -0.0) if zero < values.size and values[zero] == 0 else values


@st.composite
def points(draw: st.DrawFn, form: Format, shape: Shape, interval: Interval = REAL, op: Op | None = None) -> Floats:
    """Arrays of a shape of values of a format inside an interval, for an op if one is given.

    Shrinks towards 1 everywhere, or the simplest value that the interval has. Raises
    EmptyDomainError where the interval has no value.
    """
    count = int(np.prod(shape, dtype=np.int64))
    words = np.frombuffer(draw(st.binary(min_size=4 * count, max_size=4 * count)), dtype=">u4")
    return decode(words.astype(np.int64), form, interval, op).reshape(shape)


@st.composite
def moderate(draw: st.DrawFn, form: Format, shape: Shape, lower: float, upper: float) -> Floats:
    """Arrays of values of a format, evenly spread over [lower, upper] and distinct in each row.

    Shrinks towards the lower end.
    """
    count = int(np.prod(shape, dtype=np.int64))
    words = np.frombuffer(draw(st.binary(min_size=2 * count, max_size=2 * count)), dtype=">u2").astype(np.int64)
    last = shape[-1] if shape else 1
    slot = np.arange(count) % max(last, 1)
    share = (((words * 0x9E37) & 0xFFFF) / 0x10000 * 0.75 + slot) / max(last, 1)
    return form.values(form.ordinals(lower + share * (upper - lower))).reshape(shape)
