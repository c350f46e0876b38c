"""What is granted to numpy's functions, of float64 and of long doubles, is more than they take on this machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flint import arb

from reference.balls import Balls, LongBalls, erf
from reference.format import precision
from tests.meta.ball_kinds import functions_of, kinds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Values = np.ndarray[Any, np.dtype[np.floating[Any]]]

BITS = 160
"""The precision of the truth; that of an argument of a sine is added where it is huge."""

EXPONENTS = np.arange(-1074, 1024)

KINDS = Balls, LongBalls


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


def points(kind: type[Balls]) -> Values:
    """Return some 24,000 points; of long doubles with more bits, and exponents beyond those of float64 among them."""
    rng = np.random.default_rng(0)
    whole = np.concatenate([every_binade(rng), trouble(), rng.uniform(-40, 40, 2000), rng.uniform(-1.5, 1.5, 2000)])
    if kind is Balls:
        return whole
    wide = whole.astype(kind.kind) * (1 + rng.uniform(-1, 1, whole.size).astype(kind.kind) * 2.0**-54)
    return np.concatenate([wide[::2], np.ldexp(wide[1::2], rng.integers(-15_000, 15_000, wide[1::2].size))])


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., arb]]] = {
    "exp": (np.exp, arb.exp),
    "expm1": (np.expm1, arb.expm1),
    "log": (np.log, arb.log),
    "log1p": (np.log1p, arb.log1p),
    "sqrt": (np.sqrt, arb.sqrt),
    "sin": (np.sin, arb.sin),
    "cos": (np.cos, arb.cos),
    "sinh": (np.sinh, arb.sinh),
    "cosh": (np.cosh, arb.cosh),
    "tanh": (np.tanh, arb.tanh),
    "asin": (np.arcsin, arb.asin),
    "acos": (np.arccos, arb.acos),
    "atan": (np.arctan, arb.atan),
    "asinh": (np.arcsinh, arb.asinh),
    "acosh": (np.arccosh, arb.acosh),
    "atanh": (np.arctanh, arb.atanh),
    "erf": (lambda values: np.asarray(erf(values), dtype=np.float64), arb.erf),
    "power": (np.power, arb.__pow__),
}
"""Numpy's function, and flint's."""


def granted_to(name: str, kind: type[Balls]) -> float:
    """Return the relative error that balls grant to a function."""
    return kind.error if name == "sqrt" else kind.function_error


def ulp_of(kind: type[Balls]) -> float:
    """Return the unit that errors are told in: twice the roundoff, relative."""
    return float(np.finfo(kind.kind).eps)


def arguments(name: str, kind: type[Balls]) -> list[Values]:
    """Return the arguments at which a function is tried."""
    whole = points(kind)
    if name == "power":
        rng = np.random.default_rng(1)
        return [np.abs(whole), rng.choice([1.0, -1.0], whole.size) * 2.0 ** rng.uniform(-12, 8, whole.size)]
    if name in {"log", "sqrt"}:
        whole = np.abs(whole)
    if name in {"asin", "acos", "atanh"}:
        whole = np.ldexp(whole, -np.maximum(np.frexp(whole)[1], 0))  # below 1
    if name == "acosh":
        whole = 1 + np.abs(whole)
    if kind is LongBalls and name in {"sin", "cos"}:
        whole = whole[np.abs(whole) < np.longdouble(2) ** 1030]  # flint would need 16,000 bits
    return [whole]


def exactly(values: Values) -> list[arb]:
    """Return numbers as flint has them, of any exponent; the precision of the context is to hold them."""
    scaled, exponents = np.frexp(values)
    high = scaled.astype(np.float64)
    columns = (high, (scaled - high).astype(np.float64), exponents)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [(arb(a) + arb(b)) * arb(2) ** e for a, b, e in rows]


def excess(
    values: Values, columns: Sequence[Values], exact: Callable[..., arb], granted: float, kind: type[Balls]
) -> tuple[float, int, int]:
    """Return the largest error in ulps, at how many points there was one, and how many exceed what is granted.

    Where numpy says infinity or NaN, balls say nothing. What is lost to underflow is granted besides.
    """
    worst, count, exceeding = 0.0, 0, 0
    finite = np.isfinite(values)
    with precision(BITS):
        found, *given = (exactly(column[finite]) for column in (values, *columns))
        (least,) = exactly(np.array([kind.least]))
    for value, *point in zip(found, *given, strict=True):
        with precision(BITS + 1100 if abs(point[0]) > 2.0**50 else BITS):
            truth = exact(*point)
            if not truth.is_finite():
                continue
            away = abs(value - truth) - least
            count += 1
            if away > 0:
                exceeding += not away <= abs(truth) * granted
                worst = max(worst, float((away / abs(truth)).mid()) / ulp_of(kind))
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


@pytest.mark.parametrize(("name", "kind"), functions_of(FUNCTIONS, *KINDS))
def test_function_is_within_what_is_granted(
    name: str, kind: type[Balls], record_property: Callable[[str, object], None]
) -> None:
    """At points of every binade and near trouble, numpy is as near to the truth as balls take it to be."""
    function, exact = FUNCTIONS[name]
    granted, columns = granted_to(name, kind), arguments(name, kind)
    found = ways(function, columns)
    first = found["contiguous"]
    worst, count, exceeding = excess(first, columns, exact, granted, kind)
    for values in list(found.values())[1:]:
        apart = (values != first) & ~(np.isnan(values) & np.isnan(first))
        other, _, more = excess(values[apart], [column[apart] for column in columns], exact, granted, kind)
        worst, exceeding = max(worst, other), exceeding + more
    record_property("worst", worst)
    print(f"{name}: at most {worst:.2f} ulp off at {count} points; granted: {granted / ulp_of(kind):g}")  # noqa: T201 - shown by -s
    assert count > 10_000
    assert not exceeding, (
        f"{name}: {exceeding} of {count} points, at most {worst:.2f} ulp off; granted: {granted / ulp_of(kind):g}"
    )


@pytest.mark.parametrize(("name", "kind"), functions_of(["exp", "sin", "power", "sqrt"], *KINDS))
def test_excess_notices_what_is_not_granted(name: str, kind: type[Balls]) -> None:
    """A function that is off by twice what is granted exceeds it at nearly every point."""
    function, exact = FUNCTIONS[name]
    granted, columns = granted_to(name, kind), [column[::40] for column in arguments(name, kind)]
    with np.errstate(all="ignore"):
        worse = np.asarray(function(*columns)) * (kind.kind(1) + 2 * granted)
    worst, count, exceeding = excess(worse, columns, exact, granted, kind)
    assert exceeding > count / 4
    assert worst > granted / ulp_of(kind)


@pytest.mark.parametrize("kind", kinds_of(*KINDS))
def test_steps_are_rounded_once(kind: type[Balls]) -> None:
    """Sums, products and quotients are the nearest values, and more than that is granted."""
    rng = np.random.default_rng(2)
    drawn = [rng.standard_normal((2, 2000)).astype(kind.kind) for _ in range(2)]
    one, other = ((a + b * 2.0**-53) * 2.0 ** rng.integers(-300, 300, 2000) for a, b in drawn)
    for function, exact in (
        (np.add, arb.__add__),
        (np.subtract, arb.__sub__),
        (np.multiply, arb.__mul__),
        (np.divide, arb.__truediv__),
    ):
        worst, count, exceeding = excess(function(one, other), [one, other], exact, kind.error, kind)
        assert count == one.size
        assert not exceeding
        assert worst <= 0.5
