"""The gradient that torch documents at points where a function is not differentiable.

torch's notes on autograd ("Gradients for non-differentiable functions") give the rule: the derivative where there is
one; where the function is locally convex, its sub-gradient of minimum norm; where it is locally concave, its
super-gradient of minimum norm; else by continuity, which may be infinite. Entries say *where* a function is not
differentiable; the value is derived here, from sympy's limits of the derivative on either side. At an infinite input
the function and its gradient are their limits; where either has none, as the sine has none, nothing is promised.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache
from itertools import chain
from math import copysign, inf
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from flint import arb
from sympy import Abs, Expr, Piecewise, Rational, Symbol, sign

from reference.compiler import ROUNDINGS, compiled
from reference.format import EXACT_BITS, fraction, precision
from reference.functions import Flat, ScaledBesselI, tractable
from reference.scalars import turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.compiler import Program
    from reference.format import Format
    from reference.op import Op

DISTANCE = Symbol("distance", real=True)
"""How far from a critical point a derivative is taken, along a direction, before that goes to 0."""

EXACT_SLOPES = (-1, 0, 1)
"""Slopes with which a product is exact, so that it neither rounds nor underflows."""

NEARBY = Rational(1, 2**1200)
"""The distance from a point at which the branch of a formula is looked up.

It is nearer than the next value of any format, the smallest of which is 2^-1074.
"""

CLAUSES = (
    "differentiable, the derivative",
    "locally convex, the sub-gradient of least norm",
    "locally concave, the super-gradient of least norm",
    "defined, by continuity",
)
"""The clauses of torch's rule, in the order in which they apply."""

Vector = tuple[Expr, ...]
"""Exact components, one for each input of an op."""

Point = tuple[Fraction | float, ...]
"""Exact coordinates, one for each input of an op; a coordinate that is a float is plus or minus infinity."""


def critical_expressions(op: Op, order: int = 1) -> tuple[Expr, ...]:
    """Return expressions of which one vanishes wherever an elementwise op may lack a derivative of an order.

    They are those of its kinks and of the edges of its domain; from the second order on, those of its seams too.
    """
    edges = [s - e for s, n in zip(op.symbols, op.inputs, strict=True) for e in op.interval(n).edges]
    return (*op.kinks, *edges, *(seams(op) if order > 1 else ()))


def seams(op: Op) -> tuple[Expr, ...]:
    """Return expressions that vanish where pieces of an elementwise formula meet, smoothly or not."""
    assert isinstance(op.formula, Expr)
    return turns(op.formula)


def critical(op: Op, rows: Sequence[Sequence[arb]], order: int = 1) -> list[bool]:
    """Say of each exact point whether it is critical: a kink or an edge of an op, or at an infinite input.

    There the rule decides what the first derivative is. It says nothing of higher ones, for which the seams of the
    formula are critical too. Rows have a ball for each input; what follows those is ignored.
    """
    if not op.elementwise:
        return [False] * len(rows)
    points = [row[: len(op.inputs)] for row in rows]
    infinite = [False] * len(rows)
    if not all(map(arb.is_finite, chain.from_iterable(points))):
        infinite = [not all(map(arb.is_finite, point)) for point in points]
    if not critical_expressions(op, order):
        return infinite
    if len(op.inputs) == 1 and order == 1:
        # of one input they are a few floats, and looking those up is much cheaper than evaluating in balls
        ruled = _kinks_and_edges(op)
        return [is_infinite or float(row[0]) in ruled for row, is_infinite in zip(rows, infinite, strict=True)]
    program = critical_program(op, order)
    with precision(EXACT_BITS):
        values = zip(*program.at(points), strict=True)
    return [is_infinite or any(map(arb.is_zero, balls)) for balls, is_infinite in zip(values, infinite, strict=True)]


def ruled_points(op: Op) -> list[Point]:
    """Return finite points at which the rule is needed.

    They are all the kinks and edges of an op of one input that are floats. Of several inputs they are one point on
    each kink, at which all inputs but the first are 2.
    """
    if not op.elementwise:
        return []
    if len(op.inputs) == 1:
        return _accepted(op, [(Fraction(value),) for value in sorted(_kinks_and_edges(op))])
    first, *others = op.symbols
    # 2 is arbitrary, and a value of every format
    roots = (root for kink in op.kinks for root in sympy.solve(kink.subs(dict.fromkeys(others, 2)), first))
    found = [(Fraction(root.p, root.q), *[Fraction(2)] * len(others)) for root in roots if root.is_Rational]
    return _accepted(op, found)


def _accepted(op: Op, points: Sequence[Point]) -> list[Point]:
    """Return the points that meet the condition of the entry, and at which its function has a value."""
    return [point for point in points if op.holds([np.float64(c) for c in point]).all() and has_value(op, point)]


@lru_cache(maxsize=4096)
def has_value(op: Op, point: Point) -> bool:
    """Say whether an elementwise op has a finite value at a finite critical point, or limits on its sides.

    Of where a function is undefined the rule says nothing: of log(abs(x)) at 0, say. At an infinite point it may be
    infinite.
    """
    exact = _exact(point)
    value = sympy.sympify(op.formula, strict=True).subs(dict(zip(op.symbols, exact, strict=True)), simultaneous=True)
    if value.is_finite or any(c.is_infinite for c in exact):
        return True
    normal = _across(op, exact)
    sides = (_near(op, exact, tuple(side * n for n in normal)) for side in (-1, 1))
    return all(_approach(smooth, line).is_finite for smooth, line in filter(None, sides))


@cache
def infinite_points(op: Op) -> list[Point]:
    """Return points with one infinite input, the others 2, at which the function and its gradient have limits."""
    if not op.elementwise:
        return []
    finite: Point = (Fraction(2),) * len(op.inputs)
    points: list[Point] = []
    for number, name in enumerate(op.inputs):
        ends = map(float, op.interval(name).infinite_ends)
        points += [(*finite[:number], end, *finite[number + 1 :]) for end in ends]
    points = _accepted(op, points)
    return [point for point in points if _is_inside(op, _exact(point)) and _at_infinity(op, _exact(point)) is not None]


@cache
def _kinks_and_edges(op: Op) -> frozenset[float]:
    """Return the kinks and edges of an op of one input that are floats."""
    roots = {root for e in critical_expressions(op) for root in sympy.solve(e, op.symbols[0])}
    return frozenset(float(root) for root in roots if root.is_Rational and Rational(float(root)) == root)


@cache
def marked(op: Op) -> frozenset[float]:
    """Return every float, infinities among them, at which the rule decides for an op of one input."""
    return _kinks_and_edges(op) | {inf, -inf}


@cache
def critical_program(op: Op, order: int = 1) -> Program:
    """Compile the expressions that vanish at critical points: a function of a ball for each input."""
    return compiled(critical_expressions(op, order), op.symbols)


def conventional(op: Op, arguments: Sequence[arb], form: Format) -> tuple[tuple[arb, ...], tuple[arb, ...]]:
    """Return the gradient by the rule at a critical point, times the cotangent, and its allowance.

    `arguments` are exact: the inputs of the op, and the cotangent after them. Both results have a ball for each input;
    the allowance is for the steps of the one product, slope times cotangent.
    """
    point = tuple(fraction(ball) if ball.is_finite() else float(ball) for ball in arguments[:-1])
    with precision(128):  # twice float64's precision, and more: the slope times the cotangent is certified
        cotangent = arguments[-1]
        widening, least = arb(1, ROUNDINGS * form.unit), arb(0, form.smallest_subnormal)
        slopes = _enclosed(op, _standing_for(op, arguments[:-1], point))
        truth = tuple(_times(component, cotangent) for component in slopes)
        wide = (
            ball * widening + (0 if slope in EXACT_SLOPES else least) if ball.is_finite() else ball
            for ball, slope in zip(truth, slopes, strict=True)
        )
        return truth, tuple(wide)


def slopes_at(op: Op, rows: Sequence[Sequence[float]]) -> list[tuple[arb, ...] | None]:
    """Return the gradient by the rule at each of some exact finite points; None where it is not critical.

    A gradient has a ball for each input, of a relative error near 2^-128.
    """
    balls = [list(map(arb, row)) for row in rows]
    with precision(128):
        return [
            _enclosed(op, _standing_for(op, row, tuple(map(Fraction, floats)))) if is_critical else None
            for row, floats, is_critical in zip(balls, rows, critical(op, balls), strict=True)
        ]


def _standing_for(op: Op, arguments: Sequence[arb], point: Point) -> Point:
    """Return the first point met on the same sides of all kinks, if the gradient depends on no more than the sides.

    It saves sympy's limits at further points: an array of ties may have thousands.
    """
    if len(point) == 1 or any(isinstance(c, float) for c in point) or not _is_of_planes(op):
        return point
    with precision(EXACT_BITS):
        sides = tuple((ball > 0) - (ball < 0) for ball in critical_program(op)(*arguments))
    return _first_met(op).setdefault(sides, point)


@cache
def _first_met(op: Op) -> dict[tuple[int, ...], Point]:
    """Return the points of an op that stand for others, by the sides of its kinks; `_standing_for` adds them."""
    del op  # which is the key of the cache
    return {}


@cache
def _is_of_planes(op: Op) -> bool:
    """Say whether a formula is piecewise affine with its pieces meeting at kinks: the sides settle its gradient."""
    formula, kinks = sympy.sympify(op.formula, strict=True), critical_expressions(op)
    planes = [e for e, _ in formula.args] if isinstance(formula, Piecewise) else list(formula.args)
    return (
        isinstance(formula, Piecewise | Abs)
        and set(seams(op)) <= set(op.kinks) == set(kinks)
        and all(e.diff(v).is_number for e in (*planes, *kinks) for v in op.symbols)
    )


def _times(component: arb, cotangent: arb) -> arb:
    """Multiply a component of a gradient with a cotangent; one that is infinite has the sign of the product."""
    if component.is_finite():
        return component * cotangent
    return component if cotangent > 0 else -component if cotangent < 0 else arb.nan()


@lru_cache(maxsize=4096)
def _enclosed(op: Op, point: Point) -> tuple[arb, ...]:
    """Return the gradient by the rule in balls."""
    with precision(128):
        return tuple(_ball(component) for component in rule(op, point))


def _ball(number: Expr) -> arb:
    """Enclose an exact number, or return an infinity."""
    if number is sympy.oo:
        return arb.pos_inf()
    if number is -sympy.oo:
        return arb.neg_inf()
    return compiled([number], [])()[0]


@lru_cache(maxsize=4096)
def rule(op: Op, point: Point) -> Vector:
    """Return the gradient that the rule gives at a critical point, as exact numbers.

    An infinite component is by continuity. Where the domain ends there is one side, whose limit is the gradient.
    """
    below, above = _sides(op, _exact(point))
    if below is None or above is None:
        inside = below or above
        assert inside is not None
        return inside
    if below == above or any(c.is_infinite for c in (*below, *above)):
        return below  # both sides are alike, or the gradient is infinite and no clause of finite norms applies
    return _shortest(below, above)


@lru_cache(maxsize=4096)
def _sides(op: Op, point: Vector) -> tuple[Vector | None, Vector | None]:
    """Return the limits of the gradient on either side of a critical point; None for a side outside the domain."""
    if any(c.is_infinite for c in point):
        return _at_infinity(op, point), None
    normal = _across(op, point)
    return _limit(op, point, tuple(-n for n in normal)), _limit(op, point, normal)


def clause(op: Op, point: Point) -> str:
    """Return which clause of torch's rule decides at a critical point: one of CLAUSES."""
    exact = _exact(point)
    if any(c.is_infinite for c in exact):
        return CLAUSES[3]
    below, above = _sides(op, exact)
    if below is None or above is None or any(c.is_infinite for c in (*below, *above)):
        return CLAUSES[3]
    if below == above:
        return CLAUSES[0]
    # the slope across the kink rises where the function is convex, and falls where it is concave
    rising = sum((a - b) * n for b, a, n in zip(below, above, _across(op, exact), strict=True))
    return CLAUSES[1] if rising > 0 else CLAUSES[2]


def _exact(point: Point) -> Vector:
    """Return a point in sympy's numbers."""
    return tuple(
        Rational(c.numerator, c.denominator) if isinstance(c, Fraction) else sympy.S.Infinity * int(copysign(1, c))
        for c in point
    )


@cache
def _at_infinity(op: Op, point: Vector) -> Vector | None:
    """Return the limit of the gradient at an infinite input; None where it or that of the function does not exist."""
    # the branch that a formula takes beyond all of its bounds: 2^1200 is past every float
    far = tuple(c if c.is_finite else sympy.sign(c) / NEARBY for c in point)
    variables = op.symbols
    smooth = smooth_branch(op.formula, dict(zip(variables, far, strict=True)))
    # sympy has limits in one variable, and so one input may be infinite
    ((variable, end),) = ((v, c) for v, c in zip(variables, point, strict=True) if c.is_infinite)
    rest = {v: c for v, c in zip(variables, point, strict=True) if c.is_finite}
    limits = tuple(_limit_at(e.subs(rest), variable, end) for e in (smooth, *(smooth.diff(v) for v in variables)))
    return limits[1:] if all(limit.is_extended_real and not limit.has(sympy.AccumBounds) for limit in limits) else None


def _limit_at(expression: Expr, variable: Symbol, end: Expr) -> Expr:
    """Return the limit of an expression: what its parts reach if that settles it, else by sympy's algorithm."""
    reached = expression.subs(variable, end)
    if reached.is_extended_real and not reached.free_symbols:
        return reached
    expression = tractable(expression)
    return sympy.S.NaN if expression.has(Flat, ScaledBesselI) else sympy.limit(expression, variable, end)


def _across(op: Op, point: Vector) -> Vector:
    """Return the normal of the kink or edge that a critical point lies on: it leads from one side to the other."""
    at = dict(zip(op.symbols, point, strict=True))
    # where several vanish the first one, kinks before edges, is taken
    expression = next(e for e in critical_expressions(op) if e.subs(at, simultaneous=True) == 0)
    return tuple(expression.diff(s).subs(at) for s in op.symbols)


def _is_inside(op: Op, point: Vector) -> bool:
    """Say whether each coordinate lies in its interval, the ends included."""
    return all(
        op.interval(name).lower <= c <= op.interval(name).upper for name, c in zip(op.inputs, point, strict=True)
    )


def _limit(op: Op, point: Vector, direction: Vector) -> Vector | None:
    """Return the limit of the gradient along a direction; None where that leaves the domain."""
    near = _near(op, point, direction)
    return None if near is None else tuple(_approach(near[0].diff(v), near[1]) for v in op.symbols)


def _near(op: Op, point: Vector, direction: Vector) -> tuple[Expr, dict[Symbol, Expr]] | None:
    """Return the branch of a formula along a direction, and the line there; None where that leaves the domain."""
    nearby = tuple(p + NEARBY * d for p, d in zip(point, direction, strict=True))
    if not _is_inside(op, nearby):
        return None
    # the limit of a Piecewise is that of its piece on this side, which sympy finds
    smooth = smooth_branch(op.formula, dict(zip(op.symbols, nearby, strict=True)))
    return smooth, {v: p + DISTANCE * d for v, p, d in zip(op.symbols, point, direction, strict=True)}


def _approach(expression: Expr, line: dict[Symbol, Expr]) -> Expr:
    """Return the limit of an expression as DISTANCE along a line goes to 0."""
    along = expression.subs(line, simultaneous=True)
    return sympy.limit(along, DISTANCE, 0, "+") if along.has(DISTANCE) else along


def smooth_branch(formula: Any, at: dict[Symbol, Expr]) -> Expr:
    """Return the formula as it reads at a point off all seams, free of Piecewise, Abs and sign."""
    if not formula.args:
        return formula
    if isinstance(formula, Piecewise):
        chosen = next(e for e, c in formula.args if c.subs(at, simultaneous=True) == sympy.true)
        return smooth_branch(chosen, at)
    parts = [smooth_branch(part, at) for part in formula.args]
    if isinstance(formula, Abs | sign):
        positive = parts[0].subs(at, simultaneous=True) > 0
        turned = 1 if positive else -1
        return turned * parts[0] if isinstance(formula, Abs) else sympy.Integer(turned)
    return formula.func(*parts)


def _shortest(start: Vector, end: Vector) -> Vector:
    """Return the point of least norm on the segment between two gradients.

    The segment is the sub-differential where the function is convex across the kink and the
    super-differential where it is concave; in either case the rule takes its shortest vector.
    """
    step = tuple(b - a for a, b in zip(start, end, strict=True))
    squared = sum(s * s for s in step)
    # the foot of the perpendicular from 0 to the line through both, or the nearer end where that is outside
    share = -sum(a * s for a, s in zip(start, step, strict=True)) / squared
    share = sympy.Min(1, sympy.Max(0, share))
    return tuple(a + share * s for a, s in zip(start, step, strict=True))
