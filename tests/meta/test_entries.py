"""Entries, domains and formats refuse what contradicts itself; every entry is reached."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from flint import arb, ctx
from sympy import Abs, Expr, Function, Or, Piecewise, Rational

from reference.case import Case
from reference.catalogue import FAMILIES, OPS, by_name
from reference.compiler import Program, UnsupportedExpressionError, compiled
from reference.convention import NEARBY, clause, infinite_points, rule, ruled_points, smooth_branch
from reference.domain import REAL, Interval
from reference.elements import derivative, elements, values
from reference.format import FORMATS
from reference.functions import Floor, Sign
from reference.op import InvalidOpError, Op, x, y
from reference.oracle import answer, certified
from reference.tree import single
from strategies import fixed_cases
from tests.subject.binding import located, tensor, written
from tests.subject.mode import MODES
from tests.verdict.comparison import judged
from tests.verdict.snippet import LAYOUT_CODE


def is_flat(op: Op) -> bool:
    """Say whether an op is constant between its jumps."""
    return op.elementwise and not any(g[()] for g in elements(op, ((),) * len(op.inputs)).gradients)


FLAT = set(filter(is_flat, OPS.values()))
"""The ops whose derivative is 0."""

SOUND = {"name": "own", "torch": "torch.sin", "formula": sympy.sin(x)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "Own"}, "name='Own'"),
        ({"torch": "sin"}, "a dotted path"),
        ({"formula": 3}, "a sympy expression"),
        ({"formula": sympy.sin(y)}, "the symbols x; x and y"),
        ({"formula": sympy.Integer(3)}, "the symbols x; x and y"),
        ({"formula": 0.1 * x}, "Rational"),
        ({"kinks": (y,)}, "kinks="),
        ({"saved": lambda _, output: output}, "a mapping"),
        ({"shapes": (((3,),),)}, "shapes="),
        ({"domain": {"y": REAL}}, "domain="),
        ({"domain": {"x": (0, 1)}}, "domain="),
        ({"formula": lambda x: x - np.mean(x)}, "axes="),
        ({"formula": lambda x: x, "axes": "n,n"}, "axes="),
        ({"formula": lambda x: x, "axes": "N"}, "axes="),
        ({"formula": lambda x: x, "axes": "nq"}, "sizes="),
        ({"axes": "n"}, "shapes="),
        ({"formula": lambda x, y: x + y, "shapes": (((3,),),)}, "shapes="),
        ({"formula": lambda x: x, "axes": "n", "kinks": (x,)}, "kinks="),
    ],
    ids=map(str, range(18)),
)
def test_invalid_entries_are_refused(change: dict[str, Any], said: str) -> None:
    """An entry that contradicts itself is refused, by field, with what is accepted."""
    assert Op(**SOUND).elementwise
    with pytest.raises(InvalidOpError, match="accepted: ") as refused:
        Op(**(SOUND | change))
    assert said in str(refused.value)


def test_names_are_unique() -> None:
    """Two entries of one name are refused."""
    op = Op(**SOUND)
    with pytest.raises(InvalidOpError, match="twice"):
        by_name((op, op))


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_entry_is_reached(op: Op) -> None:
    """Every entry leads to a callable, and its derivative is certified at a point of its domain."""
    assert callable(located(op.torch)[1])
    tree = single(op, None if op.elementwise else op.cores[0])
    batch = (4,) if op.elementwise else ()
    primals = tuple(_inside(op, leaf.name, (*batch, *leaf.shape), n) for n, leaf in enumerate(tree.leaves))
    cotangent = np.arange(1.0, np.prod((*batch, *tree.root.shape), dtype=int) + 1).reshape((*batch, *tree.root.shape))
    found, _ = certified(Case(tree, FORMATS["float64"], primals, cotangent))
    assert all(ball.is_finite() for truth in found for ball in truth.flat)
    assert op in FLAT or any(not ball.contains(0) for truth in found for ball in truth.flat)


def _inside(op: Op, name: str, shape: tuple[int, ...], number: int) -> np.ndarray:
    """Return distinct values inside the domain of an input, which differ from those of other inputs."""
    interval = op.interval(name)
    lower, upper = float(max(interval.lower, -2)), float(min(interval.upper, max(interval.lower, -2) + 4))
    count = int(np.prod(shape, dtype=int))
    return (lower + (upper - lower) * (np.arange(count) + 1.3 - number / 8) / (count + 0.7)).reshape(shape)


def joints(op: Op) -> set[tuple[Fraction, ...]]:
    """Return the points of x where a formula changes branch, or the argument of an absolute value is 0; y is 2."""
    assert isinstance(op.formula, Expr)
    between = {part.args[0] for part in op.formula.atoms(Abs)} | {
        rel.lhs - rel.rhs for rel in op.formula.atoms(sympy.core.relational.Relational)
    }
    roots = [root for e in between for root in sympy.solve(e.subs(y, 2), x) if root.is_Rational]
    return {(Fraction(int(root.p), int(root.q)), Fraction(2))[: len(op.inputs)] for root in roots}


def turns(op: Op, point: tuple[Fraction, ...]) -> bool:
    """Say whether a formula is continuous at a point along x, and its slope is not."""
    exact = {s: Rational(c.numerator, c.denominator) for s, c in zip((x, y), point, strict=False)}
    step = sympy.Symbol("step", positive=True)
    values, slopes = set(), set()
    for side in (-1, 1):
        near = smooth_branch(op.formula, exact | {x: exact[x] + side * NEARBY})
        along = exact | {x: exact[x] + side * step}
        values.add(sympy.limit(near.subs(along), step, 0))
        slopes.add(sympy.limit(near.diff(x).subs(along), step, 0))
    return len(values) == 1 and len(slopes) == 2


@pytest.mark.parametrize(
    "op",
    [
        op
        for op in OPS.values()
        if isinstance(op.formula, Expr)
        and len(op.inputs) < 3
        and op.formula.has(Abs, Piecewise)
        and not op.formula.has(Sign, Floor)
    ],
    ids=lambda op: op.name,
)
def test_no_kink_is_forgotten(op: Op) -> None:
    """Where a formula is continuous and its slope is not, its entry says that there is a kink.

    Steps are left to the entries: sympy has no limits of them.
    """

    def is_inside(point: tuple[Fraction, ...]) -> bool:
        return all(op.interval(name).encloses(float(c), float(c)) for name, c in zip(op.inputs, point, strict=True))

    assert {point for point in joints(op) if is_inside(point) and turns(op, point)} <= set(ruled_points(op))


def test_forgotten_kinks_are_found() -> None:
    """An entry of relu without its kink is found out."""
    careless = Op(name="careless", torch="torch.relu", formula=Piecewise((x, x > 0), (0, True)))
    assert joints(careless) == {(Fraction(0),)}
    assert turns(careless, (Fraction(0),))
    assert not ruled_points(careless)


WITHOUT_LIMITS = {
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atanh",
    "frac",
    "erfinv",
    "ndtri",
    "logit",
    "logit_clamped",
    "fmod",
    "remainder",
    "rmod",
    "binary_cross_entropy",
}
"""The ops that oscillate towards infinity, or whose domain ends before it."""


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.elementwise], ids=lambda op: op.name)
def test_gradients_approach_their_limits_at_infinity(op: Op) -> None:
    """On the way to an infinite input flint's enclosure of the gradient comes near the limit.

    It is asked far out, or as far as it has an enclosure.
    """
    ctx.prec = 300
    found = infinite_points(op)
    assert bool(found) is (op.name not in WITHOUT_LIMITS)
    for place in found:
        assert any(_is_near(op, place, distance) for distance in (8, 30, 100))


@cache
def gradients(op: Op) -> Program:
    """Compile the gradient of an elementwise op, of its inputs and a cotangent."""
    local = elements(op, ((),) * len(op.inputs))
    return compiled([g[()] for g in local.gradients], [a[()] for a in (*local.inputs, local.cotangents)])


def _is_near(op: Op, place: tuple[Fraction | float, ...], distance: int) -> bool:
    far = [arb(2) ** distance * int(math.copysign(1, c)) if isinstance(c, float) else arb(2) for c in place]
    return all(
        _approaches(ball, limit) for ball, limit in zip(gradients(op)(*far, arb(1)), rule(op, place), strict=True)
    )


def _approaches(ball: arb, limit: sympy.Expr) -> bool:
    if limit.is_infinite:
        return bool(ball * int(sympy.sign(limit)) > 3)
    return bool(abs(ball - arb(str(sympy.N(limit, 60)))) < 2.0**-6)


@pytest.mark.parametrize(
    ("op", "point", "said"),
    [
        ("exp", (math.inf,), "continuity"),
        ("relu", (0,), "convex"),
        ("hardtanh", (1,), "concave"),
        ("sqrt", (0,), "continuity"),
        ("sinc", (0,), "differentiable"),
        ("maximum", (2, 2), "convex"),
        ("minimum", (2, 2), "concave"),
    ],
)
def test_clauses_decide(op: str, point: tuple[float, ...], said: str) -> None:
    """Each clause of torch's rule decides somewhere."""
    assert said in clause(OPS[op], tuple(c if isinstance(c, float) else Fraction(c) for c in point))


def test_there_are_enough_entries() -> None:
    """The catalogue has sixty ops and more, and no family is empty."""
    assert len(OPS) >= 60
    assert all(FAMILIES.values())


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0.5, 1), (0, sympy.I)], ids=str)
def test_invalid_intervals_are_refused(ends: tuple[float | Expr, float | Expr]) -> None:
    """An interval is not empty, and its ends are exact and real."""
    with pytest.raises(ValueError, match=r"interval is empty|exact real number"):
        Interval(*ends)


def test_intervals_read_as_mathematics() -> None:
    """An interval is written with brackets, and knows what it encloses."""
    assert str(Interval(0, 1, closed_below=True)) == "[0, 1)"
    assert str(Interval(0, 1, closed_above=True)) == "(0, 1]"
    assert Interval(0, 1).encloses(0.25, 0.75)
    assert not Interval(0, 1).encloses(0.25, 1.75)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (Fraction(0), 0.0),
        (Fraction(1), 1.0),
        (1 + Fraction(1, 2**11), 1.0),
        (1 + Fraction(3, 2**11), 1 + 2**-9),
        (Fraction(65519), 65504.0),
        (Fraction(65520), np.inf),
        (Fraction(-70000), -np.inf),
        (Fraction(1, 2**25), 0.0),
        (Fraction(3, 2**25), 2**-23),
        (-Fraction(1, 3), -0.333251953125),
    ],
    ids=str,
)
def test_rounding_is_correct(value: Fraction, rounded: float) -> None:
    """float16 rounds to nearest, ties to even, with subnormals and infinities, as numpy does."""
    form = FORMATS["float16"]
    assert form.round(value) == rounded
    with np.errstate(over="ignore"):
        assert form.round(value) == float(np.float16(float(value)))


def test_undecided_rounding_is_none() -> None:
    """A ball across the middle between two values rounds to neither, and one that is not finite to none."""
    form = FORMATS["float16"]
    assert form.round_enclosure(arb(1 + 2**-11, 2**-20)) is None
    assert form.round_enclosure(arb.nan()) is None
    assert form.round_enclosure(arb(1, 2**-20)) == 1


def test_extreme_values_round_at_once() -> None:
    """exp(1e30) and exp(-1e30) round to infinity and 0, though their fractions would fill no memory."""
    form = FORMATS["float64"]
    assert form.round_enclosure(arb(1e30).exp()) == np.inf
    assert form.round_enclosure(-(arb(1e30).exp())) == -np.inf
    assert form.round_enclosure(arb(-1e30).exp()) == 0


def test_order_of_a_derivative_is_positive() -> None:
    """The third derivative of x^3 is 6; there is no derivative of order 0."""
    assert derivative(x**3, x, 3) == 6
    with pytest.raises(ValueError, match="order=0"):
        derivative(x, x, 0)


@pytest.mark.parametrize(
    "expression",
    [
        Function("f")(x),
        sympy.polygamma(x, x),
        Piecewise((x, Function("p")(x) > 0), (0, True)),
        Piecewise((x, sympy.Eq(x, 1)), (0, True)),
    ],
    ids=["function", "order", "condition", "relation"],
)
def test_unknown_functions_are_refused(expression: Expr) -> None:
    """What the evaluator does not know is refused by name."""
    with pytest.raises(UnsupportedExpressionError):
        compiled([expression], [x])


def test_undecided_branches_are_united() -> None:
    """Where a ball does not decide a condition, both branches count; where none holds, the value is NaN."""
    (either,) = compiled([Piecewise((x + 5, x > 0), (x - 5, True))], [x])(arb(0, 1))
    assert either.contains(5)
    assert either.contains(-5)
    (none,) = compiled([Piecewise((x, x > 0))], [x])(arb(-1))
    assert none.is_nan()
    (outside,) = compiled([Piecewise((1, Or(x < -1, x > 1)), (0, True))], [x])(arb(3))
    assert outside == 1


def test_rationals_are_exact() -> None:
    """One third is enclosed at every precision, as a factor and as an exponent."""
    ctx.prec = 200
    third, root = compiled([x * Rational(1, 3), x ** Rational(1, 3)], [x])(arb(1, 0))
    assert third.rel_accuracy_bits() > 190
    assert (third * 3).contains(1)
    assert root.contains(1)


def test_slopes_may_be_infinite_downwards() -> None:
    """By continuity the derivative of -sqrt is minus infinity at 0, and that of a cusp one of the two."""
    down = Op(
        name="down", torch="torch.sqrt", formula=-sympy.sqrt(x), domain={"x": Interval(0, sympy.oo, closed_below=True)}
    )
    assert rule(down, (Fraction(0),)) == (-sympy.oo,)
    case = Case(single(down), FORMATS["float32"], (np.array(0.0),), np.array(1.0))
    assert answer(case)[0].centre[()] == -np.inf
    smooth = Op(name="smooth", torch="torch.abs", formula=x * Abs(x), kinks=(x,))
    assert rule(smooth, (Fraction(0),)) == (0,)


def test_arrays_of_expressions_keep_their_shape() -> None:
    """Arrays of expressions come out in the shape of the result, one expression as an array without dimensions."""
    assert values(OPS["add"], [np.array([x, y]), np.array(x)]).tolist() == [2 * x, x + y]
    assert values(OPS["exp"], [np.array(x)]).shape == ()
    assert values(OPS["sum"], [np.array([[x, y], [x, x]])]).tolist() == [[x + y], [2 * x]]


def test_calls_are_written_as_they_are_made() -> None:
    """The call in a snippet has the arguments that an entry says."""
    assert written(OPS["cross_entropy"], ["x"], [(2, 3)], 0).startswith("torch.nn.functional.cross_entropy(x, ")
    assert written(OPS["cat"], ["x", "y"], [(2,), (3,)], 0).startswith("torch.cat((x, y), dim=-1)")
    assert written(OPS["trigamma"], ["x"], [()], 0) == "torch.special.polygamma(1, x)"
    assert "normalized_shape=(3,)" in written(OPS["layer_norm"], ["x", "w", "b"], [(2, 3), (3,), (3,)], 0)


def test_snippets_lay_tensors_out_alike() -> None:
    """The layouts that a snippet writes have the strides and the offset of those that were assayed."""
    values = np.ones((2, 3, 4, 5))
    lines = ["import torch", "dense = torch.ones((2, 3, 4, 5))"]
    lines += [f"t = {written}\nprint(t.stride(), t.storage_offset())" for written in LAYOUT_CODE.values()]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines).replace("{0}", "dense")], capture_output=True, text=True, check=True
    )
    laid = [tensor(values, FORMATS["float32"], "cpu", layout) for layout in LAYOUT_CODE]
    assert done.stdout.splitlines() == [f"{t.stride()} {t.storage_offset()}" for t in laid]


def test_what_is_taken_by_keyword_only_is_passed_so() -> None:
    """A callable that takes nothing by position is called by keyword, in the snippet too."""

    def times(*, left: Any, right: Any) -> Any:
        return left * right

    op = Op(name="times", torch=times, formula=lambda *, left, right: left * right, axes="n,n", batched=2)
    (case, *_) = fixed_cases(op, FORMATS["float32"])
    judgement = judged(case, MODES["backward"], "cpu")
    assert judgement.compared
    assert not judgement.misses
    assert written(op, ["t0", "t1"], [(2,), (2,)], 0).endswith("(left=t0, right=t1)")


def test_formula_of_single_elements_is_evaluated_by_flint() -> None:
    """What has no dimension is an array in balls too, where a whole is summed or one element is taken."""
    formula = lambda x: np.stack([x[0] * x[1], x[1] * np.sum(x)])  # noqa: E731 - it is the formula of an entry
    op = Op(
        name="pair",
        torch=lambda x: torch.stack([x[0] * x[1], x[1] * x.sum()]),
        formula=formula,
        shapes=(((2,),),),
        batched=0,
    )
    (case, *_) = fixed_cases(op, FORMATS["float64"])
    judgement = judged(case, MODES["backward"], "cpu")
    assert judgement.compared
    assert not judgement.misses
