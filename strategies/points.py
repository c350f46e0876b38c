"""Points: arrays of values of a format, inside a domain, biased to where gradients go wrong.

One draw of bytes makes a whole array, of four bytes a value: Hypothesis spends one choice on it, and shrinks the bytes
towards 0, which stands for the simplest value. Values are handled by their ordinals, as `Format.ordinals` numbers them:
neighbours differ by 1, and an interval of values is one of integers.
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
    from reference.graph import Shape
    from reference.op import Op

SIMPLE = (1.0, 2.0, 0.5, 3.0, 4.0, 0.25, -1.0, -2.0, -0.5, -3.0, 1.5, -1.5, 10.0, -10.0, 0.1, 0.0)
"""Values that a reader can check by hand, the simplest first; those in the domain are drawn."""

NEIGHBOURS = 8
"""How many values on either side of a special one belong to its neighbourhood. Arbitrary."""

STRATA = 100_000
"""The least number of values that stand for an interval of which not all are asked. Arbitrary."""


class EmptyDomainError(ValueError):
    """No value of the format lies in the domain."""


def bounds(form: Format, interval: Interval) -> tuple[int, int]:
    """Return the ordinals of the first and the last finite value of a format inside an interval.

    Raises EmptyDomainError where there is none.
    """
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
    """Return the ordinal of the value nearest to an end of an interval that lies in it.

    `inside` says whether the end itself does, and `side` is 1 for the lower end and -1 for the upper one. The float of
    the end may have been rounded to either side, so that its neighbours are compared exactly.
    """
    near = int(form.ordinals(np.array([float(end)]))[0])
    around = range(near - side, near + 3 * side, side)
    numbers = (sympy.Rational(value) for value in form.values(np.array(around)).tolist())
    return next(
        ordinal
        for ordinal, number in zip(around, numbers, strict=True)
        if (number - end) * side > 0 or (inside and number == end)
    )


@cache
def special_ordinals(op: Op | None, form: Format, interval: Interval) -> Integers:
    """Return the ordinals of values at which gradients go wrong.

    They are the kinks and edges of the op, zero, the ends of the subnormals and of the range, and arguments at which
    exp, a square or a saturating output leaves the format.
    """
    found = [0.0, form.smallest_subnormal, form.smallest_normal, form.largest, 1.0, form.unit]
    digits = form.precision * np.log(2)  # exp(-digits) is u, so that 1 + exp(-x) is 1 from there on
    found += [np.log(form.largest), -np.log(form.smallest_subnormal), digits, digits / 2]
    found += [np.sqrt(form.largest), np.sqrt(form.smallest_subnormal), np.sqrt(digits)]
    found += (
        [2.0**n for n in range(-8, 9)]
        + [float(pole) for pole in interval.without]
        + [3.0, 10.0] * interval.poles_of_gamma
    )
    signed = [sign * value for value in found for sign in (1, -1)]
    if op is not None and len(op.inputs) == 1:
        signed += [float(r) for e in critical_expressions(op) for r in sympy.solve(e, op.symbols[0])]
    return np.unique(
        form.ordinals(np.array(signed + [float(e) for e in (interval.lower, interval.upper) if e.is_finite]))
    )


@cache
def nearby_ordinals(op: Op | None, form: Format, interval: Interval) -> Integers:
    """Return the ordinals of the special values of an interval and of their neighbours."""
    lower, upper = bounds(form, interval)
    near = np.unique(special_ordinals(op, form, interval)[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1))
    return near[(near >= lower) & (near <= upper)]


def decode(words: Integers, form: Format, interval: Interval, op: Op | None = None) -> Floats:
    """Turn words of 32 bits into values of a format inside an interval; 0 stands for the simplest.

    A quarter of the words each stand for simple values, for special ones and their neighbours, for all values of the
    format with equal chance, so that every binade has as many, and for values in the binades around 1.
    """
    lower, upper = bounds(form, interval)
    simple = form.ordinals(np.array(SIMPLE))
    simple = simple[(simple >= lower) & (simple <= upper)]
    if not simple.size:
        simple = np.array([(lower + upper) // 2])  # the domain has none of them
    special = nearby_ordinals(op, form, interval)
    kind, rest = words >> 30, words & 0x3FFFFFFF  # the upper two bits choose the quarter
    near = _around_one(form, lower, upper)
    around = np.where(rest & 1, _scrambled(rest >> 1, *near[0]), _scrambled(rest >> 1, *near[-1]))
    chosen = [simple[rest % simple.size], special[rest % special.size], _scrambled(rest, lower, upper), around]
    numbers = np.choose(kind, chosen)
    values = np.where((numbers == 0) & (rest % 2 == 1), -0.0, form.values(numbers))  # both zeros have the ordinal 0
    return np.where(interval.is_pole(values), form.values(special[-1 - rest % (special.size // 2)]), values)


def _around_one(form: Format, lower: int, upper: int) -> list[tuple[int, int]]:
    """Return the ranges of ordinals of values from 2^-10 to 2^5, of either sign, within a range; or else that range."""
    first, last = (int(n) for n in form.ordinals(np.array([2.0**-10, 2.0**5])))
    both = ((first, last), (-last, -first))
    return [(max(low, lower), min(high, upper)) for low, high in both if low <= upper and high >= lower] or [
        (lower, upper)
    ]


def _scrambled(rest: Integers, lower: int, upper: int) -> Integers:
    """Map numbers below 2^30 to [lower, upper], which may be a wider range: each bit of the result depends on them."""
    span = upper - lower + 1
    # Fibonacci hashing: the constant is 2^64 over the golden ratio
    scrambled = (rest.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(1)
    return np.asarray(lower + (scrambled % np.uint64(span)).astype(np.int64), dtype=np.int64)


def everything(form: Format, interval: Interval) -> Floats:
    """Return every value of a format in an interval, in order."""
    lower, upper = bounds(form, interval)
    return _without_poles(np.arange(lower, upper + 1), form, interval)


def hard(form: Format, interval: Interval, op: Op | None = None, count: int = 300) -> Floats:
    """Return `count` hard values of an interval, the same each time.

    They are special values, neighbours of these, and some of every binade. Half of them are of the first two kinds
    where there are so many: all special values if they fit, else 0 alone. An interval with fewer values than `count`
    gives all that it has.
    """
    lower, upper = bounds(form, interval)
    centres = np.intersect1d(special_ordinals(op, form, interval), special := nearby_ordinals(op, form, interval))
    if 2 * centres.size > count:
        centres = centres[centres == 0]
    chosen = np.union1d(centres, _evenly(np.setdiff1d(special, centres), count // 2 - centres.size))
    steps = min(count - 1, upper - lower)
    spread = np.array([lower + (upper - lower) * i // steps for i in range(steps + 1)], dtype=np.int64)
    return _without_poles(
        np.union1d(chosen, _evenly(np.setdiff1d(spread, chosen), count - chosen.size)), form, interval
    )


def _evenly(numbers: Integers, count: int) -> Integers:
    """Return `count` of some numbers, evenly spaced among them, or all if they are fewer."""
    return numbers[np.unique(np.linspace(0, numbers.size - 1, min(count, numbers.size)).round().astype(np.int64))]


def stratified(form: Format, interval: Interval, op: Op | None = None) -> Floats:
    """Return at least STRATA values of an interval, in order and the same each time; all if it has fewer.

    Each binade has as many, and all special values and their neighbours are among them.
    """
    lower, upper = bounds(form, interval)
    width = max((upper - lower) // STRATA, 1)
    starts = np.arange(lower, upper + 1, width, dtype=np.int64)
    jitter = np.random.default_rng(0).integers(0, width, starts.size)
    return _without_poles(
        np.union1d(np.minimum(starts + jitter, upper), nearby_ordinals(op, form, interval)), form, interval
    )


def _without_poles(numbers: Integers, form: Format, interval: Interval) -> Floats:
    """Return the values with these ordinals in order, without the poles of the interval, and with both zeros."""
    values = form.values(np.unique(numbers))
    values = values[~interval.is_pole(values)]
    zero = int(np.searchsorted(values, 0))
    return np.insert(values, zero, -0.0) if zero < values.size and values[zero] == 0 else values


@st.composite
def points(draw: st.DrawFn, form: Format, shape: Shape, interval: Interval = REAL, op: Op | None = None) -> Floats:
    """Arrays of values of a format inside an interval; those near kinks and edges of an op, if one is given.

    Shrinks towards 1 everywhere, or the simplest value that the interval has. Raises EmptyDomainError where the
    interval has no value.
    """
    count = int(np.prod(shape, dtype=np.int64))
    words = np.frombuffer(draw(st.binary(min_size=4 * count, max_size=4 * count)), dtype=">u4")
    return decode(words.astype(np.int64), form, interval, op).reshape(shape)


@st.composite
def moderate(draw: st.DrawFn, form: Format, shape: Shape, lower: float, upper: float) -> Floats:
    """Arrays of values of a format, spread evenly over [lower, upper] and distinct in each row.

    Each element of a row has a slot of its own, of which it takes the lower three quarters, so that rounding leaves
    elements distinct unless rows are long. Shrinks towards the lower ends of the slots.
    """
    count = int(np.prod(shape, dtype=np.int64))
    words = np.frombuffer(draw(st.binary(min_size=2 * count, max_size=2 * count)), dtype=">u2").astype(np.int64)
    last = shape[-1] if shape else 1
    slot = np.arange(count) % max(last, 1)
    share = (((words * 0x9E37) & 0xFFFF) / 0x10000 * 0.75 + slot) / max(last, 1)
    return form.values(form.ordinals(lower + share * (upper - lower))).reshape(shape)
