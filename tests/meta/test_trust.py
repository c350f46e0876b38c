"""What is granted to numpy's functions in float64 is more than they take on this machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flint import arb

from reference.balls import FUNCTION, LEAST, STEP, erf
from reference.format import precision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Values = np.ndarray[Any, np.dtype[np.float64]]

BITS = 160
"""The precision of the truth; that of an argument of a sine is added where it is huge."""

EXPONENTS = np.arange(-1074, 1024)

ULP = 2.0**-52
"""The unit of errors here, relative: twice the unit roundoff of float64."""


def every_binade(rng: np.random.Generator, each: int = 8) -> Values:
    """Draw values of every binade of float64, of both signs, its first and last value among them."""
    significands = np.concatenate(
        [np.full((2, EXPONENTS.size), [[1.0], [2 - 2.0**-52]]), rng.uniform(1, 2, (each - 2, EXPONENTS.size))]
    )
    with np.errstate(under="ignore"):
        values = np.ldexp(significands, EXPONENTS).ravel()
    return values * rng.choice([-1.0, 1.0], values.size)


def trouble() -> Values:
    """Return values near which functions are hard: multiples of pi/2, halves of steps, ends of branches and formats."""
    turns = np.concatenate([np.arange(-64.0, 65), 2.0 ** np.arange(7, 60), 3 * 2.0 ** np.arange(5, 900, 25)]) * (
        math.pi / 2
    )
    halves = (np.arange(-400, 401) + 0.5) * math.log(2) / 8
    ends = np.array(
        [709.782712893384, -745.1332191019411, -708.3964185322641, 710.4758600739439, 1.0, 0.5, 0.75, 22.0, 6.0, 27.0]
    )
    fixed = np.concatenate([turns, halves, ends, -ends, 1 + np.arange(-64, 65) * 2.0**-52, np.arange(-512, 513) / 64.0])
    return np.concatenate([fixed, np.nextafter(fixed, np.inf), np.nextafter(fixed, -np.inf)])


def points() -> Values:
    """Return some 24,000 arguments: of every binade, near trouble, and in the ranges of use."""
    rng = np.random.default_rng(0)
    return np.concatenate([every_binade(rng), trouble(), rng.uniform(-40, 40, 2000), rng.uniform(-1.5, 1.5, 2000)])


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., arb], float]] = {
    "exp": (np.exp, arb.exp, FUNCTION),
    "expm1": (np.expm1, arb.expm1, FUNCTION),
    "log": (np.log, arb.log, FUNCTION),
    "log1p": (np.log1p, arb.log1p, FUNCTION),
    "sqrt": (np.sqrt, arb.sqrt, STEP),
    "sin": (np.sin, arb.sin, FUNCTION),
    "cos": (np.cos, arb.cos, FUNCTION),
    "sinh": (np.sinh, arb.sinh, FUNCTION),
    "cosh": (np.cosh, arb.cosh, FUNCTION),
    "tanh": (np.tanh, arb.tanh, FUNCTION),
    "erf": (lambda values: np.asarray(erf(values), dtype=np.float64), arb.erf, FUNCTION),
    "power": (np.power, arb.__pow__, FUNCTION),
}
"""Numpy's function, flint's, and the relative error that balls grant the first."""


def arguments(name: str) -> list[Values]:
    """Return the arguments at which a function is tried."""
    whole = points()
    if name == "power":
        rng = np.random.default_rng(1)
        return [np.abs(whole), rng.choice([1.0, -1.0], whole.size) * 2.0 ** rng.uniform(-12, 8, whole.size)]
    if name in {"log", "sqrt"}:
        whole = np.abs(whole)
    return [whole]


def excess(
    values: Values, columns: Sequence[Values], exact: Callable[..., arb], granted: float
) -> tuple[float, int, int]:
    """Return the largest error in ulps, at how many points there was one, and how many exceed what is granted.

    Where numpy says infinity or NaN, balls say nothing. What is lost to underflow is granted besides.
    """
    worst, count, exceeding = 0.0, 0, 0
    least = arb(LEAST)
    for value, *point in zip(values.tolist(), *(column.tolist() for column in columns), strict=True):
        if not math.isfinite(value):
            continue
        with precision(BITS + 1100 if abs(point[0]) > 2.0**50 else BITS):
            truth = exact(*map(arb, point))
            if not truth.is_finite():
                continue
            away = abs(arb(value) - truth) - least
            count += 1
            if away > 0:
                exceeding += not away <= abs(truth) * granted
                worst = max(worst, float((away / abs(truth)).mid()) / ULP)
    return worst, count, exceeding


def ways(function: Callable[..., Any], columns: Sequence[Values]) -> dict[str, Values]:
    """Compute a function in the ways in which numpy has different kernels: of arrays that lie apart, and backwards."""
    apart = [np.repeat(column, 3)[::3] for column in columns]
    with np.errstate(all="ignore"):
        return {
            "contiguous": np.asarray(function(*columns)),
            "strided": np.asarray(function(*apart)),
            "reversed": np.asarray(function(*(column[::-1] for column in columns)))[::-1],
        }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_within_what_is_granted(name: str, record_property: Callable[[str, object], None]) -> None:
    """At points of every binade and near trouble, numpy is as near to the truth as balls take it to be."""
    function, exact, granted = FUNCTIONS[name]
    columns = arguments(name)
    found = ways(function, columns)
    first = found["contiguous"]
    worst, count, exceeding = excess(first, columns, exact, granted)
    for values in list(found.values())[1:]:
        apart = (values != first) & ~(np.isnan(values) & np.isnan(first))
        other, _, more = excess(values[apart], [column[apart] for column in columns], exact, granted)
        worst, exceeding = max(worst, other), exceeding + more
    record_property("worst", worst)
    print(f"{name}: at most {worst:.2f} ulp off at {count} points; granted: {granted / ULP:g}")  # noqa: T201 - shown by -s
    assert count > 10_000
    assert not exceeding, (
        f"{name}: {exceeding} of {count} points, at most {worst:.2f} ulp off; granted: {granted / ULP:g}"
    )


@pytest.mark.parametrize("name", ["exp", "sin", "power", "sqrt"])
def test_excess_notices_what_is_not_granted(name: str) -> None:
    """A function that is off by twice what is granted exceeds it at nearly every point."""
    function, exact, granted = FUNCTIONS[name]
    columns = [column[::40] for column in arguments(name)]
    with np.errstate(all="ignore"):
        worse = np.asarray(function(*columns)) * (1 + 2 * granted)
    worst, count, exceeding = excess(worse, columns, exact, granted)
    assert exceeding > count / 4
    assert worst > granted / ULP


def test_steps_are_rounded_once() -> None:
    """Sums, products and quotients of float64 are the nearest values, and more than that is granted."""
    rng = np.random.default_rng(2)
    one, other = (rng.standard_normal(2000) * 2.0 ** rng.integers(-300, 300, 2000) for _ in range(2))
    for function, exact in (
        (np.add, arb.__add__),
        (np.subtract, arb.__sub__),
        (np.multiply, arb.__mul__),
        (np.divide, arb.__truediv__),
    ):
        worst, count, exceeding = excess(function(one, other), [one, other], exact, STEP)
        assert count == one.size
        assert not exceeding
        assert worst <= 0.5
