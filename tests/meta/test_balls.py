"""The filter in float64: its functions enclose their values, and it passes nothing that flint would not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flint import arb, ctx

import reference.evaluation
import reference.oracle
from reference.balls import NIL, Balls, LongBalls, LongWidened, MixedError, Widened, evaluated
from reference.case import Case
from reference.catalogue import OPS
from reference.compiler import ROUNDINGS, choose, compiled
from reference.format import FORMATS
from reference.functions import nearest_integer
from reference.op import x
from reference.oracle import (
    FEWEST_POINTS,
    ROUGH,
    _from_long,
    allowed,
    answer_cache,
    certified,
    filtered,
    in_arrays,
    is_for_arrays,
)
from reference.tree import single
from strategies.points import everything, hard
from tests.meta.ball_kinds import NEEDS_LONG, functions_of, kinds_of
from tests.subject.mode import MODES
from tests.verdict.comparison import MARGIN, UnsupportedError, judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

FUNCTIONS = (
    *("sqrt", "rsqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "floor", "sgn"),
)
VALUES = np.concatenate(
    [
        everything(FORMATS["float16"], OPS["sin"].interval("x")),
        everything(FORMATS["bfloat16"], OPS["sin"].interval("x"))[::7],
    ]
)
"""Every value of float16, and every seventh of bfloat16."""

ELEMENTWISE = [name for name, op in OPS.items() if op.elementwise]
UNFILTERED = (
    "digamma",
    "erfcx",
    "erfinv",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "lgamma",
    "log_ndtr",
    "logit_clamped",
    "mvlgamma",
    "ndtri",
    "tetragamma",
    "trigamma",
)
"""The ops with functions that numpy lacks."""

MOSTLY_0 = ("maximum", "minimum", "fmax", "fmin", "clamp_min", "clamp_max", "fmod", "logit_clamped")
"""Ops of which a derivative is 0 at nearly every point, which flint is left to find."""

UNFILTERED_LONG = (*UNFILTERED, "gelu", "erf", "erfc", "ndtr")

NARROW = ("float16", "bfloat16", "float32")

KINDS = Balls, Widened, LongBalls, LongWidened


def exact(values: ArrayLike, kind: type[Balls] = Balls) -> Balls:
    """Return balls of radius 0."""
    values = np.asarray(values, dtype=kind.kind)
    return kind(values, np.zeros_like(values))


def enclosures(mids: Any, radii: Any) -> list[arb]:
    """Return balls as flint has them, of long doubles too, whose exponents are beyond those of float64."""
    exponents = np.frexp(np.maximum(np.abs(mids), radii))[1]
    scaled, spread = np.ldexp(mids, -exponents), np.ldexp(radii * (1 + 2.0**-40), -exponents)
    high = scaled.astype(np.float64)
    columns = (high, (scaled - high).astype(np.float64), spread.astype(np.float64), exponents)
    rows = zip(*(each.ravel().tolist() for each in columns), strict=True)
    return [(arb(a) + arb(b) + arb(0, r)) * arb(2) ** e for a, b, r, e in rows]


def radius(balls: Balls) -> np.ndarray:
    """Return the radius of balls; the reach of rounding has its own errors added, as a part of a rounding."""
    found = np.zeros(()) if balls.rad is None else balls.rad
    if isinstance(balls, Widened):
        form = FORMATS["float64" if isinstance(balls, LongWidened) else "float32"]
        reach = balls.rounded(ROUNDINGS * form.unit, 0.0).rad
        assert reach is not None
        found = found + balls.own * reach
    return np.broadcast_to(found, balls.mid.shape)


def encloses(balls: Balls, truths: list[arb]) -> bool:
    """Say whether each ball that is finite contains the truth."""
    rad = radius(balls)
    said = (np.isfinite(balls.mid) & np.isfinite(rad)).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        ours = enclosures(balls.mid.ravel()[said], rad.ravel()[said])  # a radius that is no float64 is infinite
    return all(ball.overlaps(truths[place]) for ball, place in zip(ours, np.flatnonzero(said).tolist(), strict=True))


@pytest.mark.parametrize(("name", "kind"), functions_of(FUNCTIONS, Balls, LongBalls))
def test_function_encloses(name: str, kind: type[Balls]) -> None:
    """At exact points a function encloses flint's value: numpy is as accurate as balls take it to be."""
    ctx.prec = 120
    with np.errstate(all="ignore"):
        balls = getattr(exact(VALUES, kind), name)()
    said = np.isfinite(balls.mid) & np.isfinite(radius(balls))
    assert said.mean() > 0.25
    assert encloses(balls.picked(np.flatnonzero(said)), [getattr(arb(v), name)() for v in VALUES[said].tolist()])


@pytest.mark.parametrize(("name", "kind"), functions_of(FUNCTIONS, *KINDS))
def test_function_spreads(name: str, kind: type[Balls]) -> None:
    """The result of balls contains the function at both ends and between, for balls and for reaches of rounding."""
    ctx.prec = 120
    mid, rad = (
        column.ravel() for column in np.meshgrid([-3.5, -0.75, 0, 0.25, 0.5, 1.0, 2.5, 40.0], [1e-9, 0.01, 0.3, 2.0])
    )
    with np.errstate(all="ignore"):
        balls = getattr(kind(mid.astype(kind.kind), rad), name)()
    for part in (-1, -0.5, 0, 0.5, 1):
        truths = [getattr(arb(m) + part * arb(r), name)() for m, r in zip(mid.tolist(), rad.tolist(), strict=True)]
        defined = [i for i, truth in enumerate(truths) if truth.is_finite()]
        assert len(defined) > 6
        assert encloses(balls.picked(np.array(defined)), [truths[i] for i in defined])


def inside(mids: np.ndarray, parts: np.ndarray, rads: np.ndarray) -> list[arb]:
    """Return a number in each ball, at a part of its radius from the middle."""
    balls = zip(mids.tolist(), parts.tolist(), rads.tolist(), strict=True)
    return [arb(mid) + arb(part) * arb(rad) for mid, part, rad in balls]


@pytest.mark.parametrize("kind", kinds_of(*KINDS))
@pytest.mark.parametrize(
    "operate",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: abs(a) ** b,
        lambda a, b: -a + abs(b),
        lambda a, _: 3 - a,
        lambda a, _: arb(2) / a,
        lambda a, _, wide=0.25: arb(2, wide) ** a,
        lambda a, _, wide=0.5: a * arb(1, wide),
    ],
    ids=["add", "sub", "mul", "div", "pow", "neg", "rsub", "rdiv", "rpow", "constant"],
)
def test_operator_spreads(operate: Callable[..., Any], kind: type[Balls]) -> None:
    """The result of balls contains that of any numbers in them, for balls and for reaches of rounding."""
    ctx.prec = 120
    # The default of `wide` is for balls; a constant of that radius would leave a reach with nothing to say.
    is_widened = issubclass(kind, Widened)
    narrow = (2.0 ** (-60 if kind is LongWidened else -30),) if is_widened and operate.__defaults__ is not None else ()
    rng = np.random.default_rng(0)
    mids, rads = rng.normal(scale=3, size=(2, 500)), np.exp2(rng.uniform(-30, 2, size=(2, 500)))
    with np.errstate(all="ignore"):
        balls = operate(*(kind(m.astype(kind.kind), r) for m, r in zip(mids, rads, strict=True)), *narrow)
    assert np.isfinite(radius(balls)).mean() > 0.3
    for parts in rng.uniform(-1, 1, size=(20, 2, 500)):
        left, right = map(inside, mids, parts, rads)
        truths = [operate(a, b, *narrow) for a, b in zip(left, right, strict=True)]
        assert encloses(balls, [truth.mid() for truth in truths])


def test_comparisons_are_certain_or_mixed() -> None:
    """A comparison of arrays holds everywhere, nowhere, or is refused, saying where it holds."""
    balls = Balls(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.5, 0.5]))
    assert balls > arb(0.25)
    assert balls >= arb(0.25)
    assert balls < 4
    assert balls <= 4
    points = Balls(np.array([1.0, 2.0, 3.0]))
    assert points >= 1
    assert points <= 3
    comparisons: list[Callable[[], bool]] = [
        lambda: points > 1,
        lambda: points < 3,
        lambda: balls >= arb(0.5),
        lambda: balls <= arb(3.5),
    ]
    for is_certain in comparisons:
        with pytest.raises(MixedError):
            is_certain()
    assert not balls > arb(4)
    with pytest.raises(MixedError) as mixed:
        _ = balls > arb(1.75)
    assert mixed.value.holds.tolist() == [False, False, True]
    with pytest.raises(TypeError):
        _ = balls == balls  # noqa: PLR0124 - what is tested
    with pytest.raises(TypeError):
        nearest_integer(balls)  # type: ignore[arg-type]  # as above


def test_branches_are_evaluated_apart() -> None:
    """A program with branches gives each point that of its own, in the order of the points."""
    (relu,) = evaluated(compiled([OPS["relu"].formula], [x]), [Balls(np.array([-2.0, 3.0, -1.0, 5.0]))])
    assert relu.mid.tolist() == [0, 3, 0, 5]


def test_union_encloses_both() -> None:
    """Where no branch is certain, the union of those that may hold is taken."""
    branches: list[Callable[[], Any]] = [lambda: exact([1.0, 2.0]), lambda: exact([3.0, -1.0])]
    either: Any = choose([None, True], branches)  # written for flint's balls, and run on these
    assert encloses(either, [arb(1), arb(2)])
    assert encloses(either, [arb(3), arb(-1)])


@NEEDS_LONG
def test_reach_that_float64_loses_is_known() -> None:
    """At a divisor of 1e-154 its square has a reach near float64's smallest value, a large part of what comes out."""
    case = Case(single(OPS["div"]), FORMATS["float64"], (np.ones(2), np.array([1e-154, 1.5])), np.ones(2))
    found = in_arrays(case)
    assert found is not None
    for (balls, _), allowance in zip(found, allowed(case), strict=True):
        assert balls.rad is not None
        radii = np.array([float(ball.rad().upper()) for ball in allowance])
        assert balls.rad.astype(np.float64).tolist() == pytest.approx(radii.tolist(), rel=2.0**-10)


def many(name: str, dtype: str) -> Case:
    """Return an op at more than a thousand hard points, for which there is a filter."""
    op, form = OPS[name], FORMATS[dtype]
    sides = [hard(form, op.interval(i), op, {1: 1500, 2: 40, 3: 12}[len(op.inputs)]) for i in op.inputs]
    columns = tuple(column.ravel() for column in np.meshgrid(*sides, indexing="ij"))
    return Case(single(op), form, columns, np.ones_like(columns[0]))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_filter_has_the_truth_and_the_allowance(name: str, dtype: str) -> None:
    """Where the filter is finite, its truth encloses flint's, and its allowance is hardly wider.

    Whatever it passes lies in flint's allowance too.
    """
    case = many(name, dtype)
    rough = filtered(case)
    if rough is None:
        assert name in UNFILTERED
        return
    trusted = np.all([np.isfinite(balls.mid) for balls in rough], axis=0)
    assert trusted.any()
    case = case.only(trusted)
    for found, truth, allowance in zip(rough, certified(case)[0], allowed(case), strict=True):
        balls = found.repeated(trusted.shape).picked(np.flatnonzero(trusted))
        reach = np.zeros(balls.mid.shape) if balls.rad is None else balls.rad
        assert encloses(Balls(balls.mid, reach * balls.own), truth.tolist())
        centres, radii = np.array([(float(ball.mid()), float(ball.rad().upper())) for ball in allowance]).T
        slack = 2.0**-40 * np.abs(centres) + NIL
        assert (reach <= 1.5 * radii + slack).all()
        assert (np.abs(balls.mid - centres) + MARGIN * reach <= radii + slack).all()


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_filter_judges_as_flint_does(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the filter and without it, torch's gradients get the same verdicts, and the worst error is the same."""
    case = many(name, dtype)
    found = []
    for fewest in (FEWEST_POINTS, case.point_count + 1):
        monkeypatch.setattr(reference.oracle, "FEWEST_POINTS", fewest)
        try:
            found.append(judged(case, MODES["backward"], "cpu"))
        except UnsupportedError as refusal:
            pytest.skip(str(refusal))
    first, second = found
    assert [(miss.verdict, miss.point) for miss in first.misses] == [
        (miss.verdict, miss.point) for miss in second.misses
    ]
    assert (first.compared, first.undecided, first.overflowed) == (second.compared, second.undecided, second.overflowed)
    assert first.worst_ulp == pytest.approx(second.worst_ulp, abs=2**-11)
    assert first.worst_share == pytest.approx(second.worst_share, rel=0.1)


@NEEDS_LONG
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_rough_answer_is_near_and_allows_no_more(name: str) -> None:
    """Where long doubles decide of a hard op, they are off by no more than they may, and allow no more than flint."""
    case = many(name, "float64")
    rough = in_arrays(case) if is_for_arrays(case) else None
    if rough is None:
        assert name in UNFILTERED_LONG or not is_for_arrays(case)
        return
    answers, undecided = _from_long(case, rough)
    decided = ~np.any(undecided, axis=0)
    assert decided.mean() > 0.2 or name in MOSTLY_0
    case = case.only(decided)
    ctx.prec = 200
    for found, truth, allowance in zip(answers, certified(case)[0], allowed(case), strict=True):
        centre, rest, radius = (part[decided] for part in (found.centre, found.rest, found.radius))
        off = ROUGH * case.form.unit * np.abs(centre) + case.form.smallest_subnormal  # below which there is no rest
        ours = [arb(c) + arb(r) + arb(0, o) for c, r, o in zip(*(p.tolist() for p in (centre, rest, off)), strict=True)]
        assert all(ball.overlaps(exact) for ball, exact in zip(ours, truth.tolist(), strict=True))
        centres, radii = np.reshape([(float(ball.mid()), float(ball.rad().upper())) for ball in allowance], (-1, 2)).T
        assert (radius <= 1.5 * radii + 2.0**-40 * np.abs(centres)).all()


@NEEDS_LONG
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_rough_answer_is_judged_as_flints(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With long doubles and without them, torch's gradients in float64 get the same verdicts, and the same worst."""
    case = many(name, "float64")
    first = judged(case, MODES["backward"], "cpu")
    answer_cache.clear()
    monkeypatch.setattr(reference.evaluation, "HAS_LONG", False)
    second = judged(case, MODES["backward"], "cpu")
    answer_cache.clear()
    assert [(m.verdict, m.point, m.truth) for m in first.misses] == [
        (m.verdict, m.point, m.truth) for m in second.misses
    ]
    assert (first.compared, first.undecided, first.overflowed) == (second.compared, second.undecided, second.overflowed)
    assert first.worst_ulp == pytest.approx(second.worst_ulp, rel=2.0**-40)
    assert 0.9 * second.worst_share <= first.worst_share <= 2.1 * second.worst_share  # flint grants 0 twice the least
