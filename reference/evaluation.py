"""A graph evaluated: in balls on whole arrays, or in flint's at any precision; the value, or what rounding makes of it.

Both arithmetics walk the steps in the same way. A sum of n terms rounds n - 1 times, in any order, and its error is at
most n - 1 times u times the sum of the terms' magnitudes, to first order. Where the bits of the terms are drawn at
random, rounding errors are as good as independent, and Higham and Mary's probabilistic bound (SIAM J. Sci. Comput.
41(5), 2019) has 8 sqrt(n) in place of n - 1, which fails with a probability below 1e-13 for a sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from flint import arb, arb_mat

from reference.balls import HAS_LONG, Balls, LongBalls, LongWidened, Widened, evaluated, or_nil
from reference.compiler import ROUNDINGS, UnsupportedExpressionError, compiled
from reference.convention import (
    EXACT_SLOPES,
    conventional,
    critical,
    critical_expressions,
    critical_program,
    marked,
    slopes_at,
)
from reference.graph import (
    Constant,
    Contract,
    Detached,
    Gather,
    Input,
    Map,
    Scatter,
    Select,
    Shift,
    Step,
    Through,
    ordered,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sympy import Expr, Symbol

    from reference.compiler import Program
    from reference.format import Floats, Format
    from reference.graph import Labels, Shape
    from reference.op import Array, Op

    Mask = np.ndarray[Shape, np.dtype[np.bool_]]

LAMBDA = 8
"""The lambda of Higham and Mary's bound, which fails with a probability of 2 exp(-lambda^2 / 2) at most: 3e-14."""

PAIRWISE = 32
"""More additions than a term takes part in, less log2 n, where numpy adds n numbers up in pairs.

It halves down to blocks of at most 128, which it adds up in eight partial sums of at most 16 terms each.
"""


@dataclass(frozen=True)
class Rounding:
    """What is rounded, and to which format: it is not rounded where that is None."""

    steps: Format | None = None
    """The format of every step."""

    operands: Format | None = None
    """The format that the operands of a product of matrices are rounded to, once more."""

    saved: Format | None = None
    """The format that what the forward pass saves for the backward is rounded to, once more."""

    results: Format | None = None
    """The format that results are rounded to, once more."""

    independent: bool = False
    """Whether the bits of what is summed are drawn at random, so that rounding errors are as good as independent."""

    def roundings(self, count: int) -> float:
        """Return the error of a sum of `count` terms, in unit roundoffs times the sum of their magnitudes."""
        if count < 2:
            return 0.0
        return min(count - 1.0, LAMBDA * math.sqrt(count)) if self.independent else count - 1.0


NO_ROUNDING = Rounding()


class Arithmetic(Protocol):
    """What values of steps are, and how one is made of others."""

    def of(self, values: Floats) -> Any:
        """Return exact numbers as a value."""

    def step(self, step: Step, sources: Sequence[Any]) -> Any:
        """Evaluate a step at the values of its sources."""

    def saved(self, value: Any) -> Any:
        """Round what the forward pass saves for the backward, if that is rounded."""

    def result(self, value: Any) -> Any:
        """Round a result, if that is rounded."""


def evaluate(
    roots: Sequence[Step], given: Mapping[str, Floats], arithmetic: Arithmetic, forward: Sequence[Step] = ()
) -> list[Any]:
    """Return the values of some steps; `given` has those of the inputs, by name.

    `forward` are the outputs of the function that was differentiated: what other steps take from theirs is saved for
    the backward pass.
    """
    values: dict[Step, Any] = {}
    for step, is_saved, done in _plan(tuple(roots), tuple(forward)):
        if isinstance(step, Input):
            values[step] = arithmetic.of(given[step.name])
        elif isinstance(step, Constant):
            values[step] = arithmetic.of(step.values)
        else:
            values[step] = arithmetic.step(step, [values[source] for source in step.sources])
        if is_saved:
            values[step] = arithmetic.saved(values[step])
        for source in done:  # arrays are large, and a graph has many
            del values[source]
    return [arithmetic.result(values[root]) for root in roots]


@lru_cache(maxsize=256)
def _plan(roots: tuple[Step, ...], forward: tuple[Step, ...]) -> list[tuple[Step, bool, list[Step]]]:
    """Return the steps in order: each, whether it is saved for a backward step, and the sources not needed after it."""
    order, first = ordered(roots), set(ordered(forward))
    handed_on = {source for step in order if step not in first for source in step.sources}
    saved = {source for source in handed_on & first if source.sources}  # inputs are as exact as they were given
    last = {source: step for step in order for source in step.sources}

    def done(step: Step) -> list[Step]:
        return [source for source in dict.fromkeys(step.sources) if last[source] is step and source not in roots]

    return [(step, step in saved, done(step)) for step in order]


@lru_cache(maxsize=4096)
def _program(
    expression: Expr, variables: tuple[Symbol, ...], form: Format | None, arrays: type[Balls] | None = None
) -> Program:
    """Return the program of a map: graphs are made anew for each shape, and their expressions recur."""
    return compiled([expression], variables, form, arrays)


@dataclass(frozen=True)
class Arrays:
    """The arithmetic of balls on whole arrays: values, or the reach of rounding around them if steps are rounded.

    Balls are of float64, or of long doubles where `long` is set. A step raises UnsupportedExpressionError where they
    lack its function, or where it is a sum too long for their own errors to be small beside those of the format.
    """

    rounding: Rounding = NO_ROUNDING
    long: bool = False
    ruled: dict[Step, Mask] = field(default_factory=dict, compare=False)
    """Where a rule gave the value of a step, by the step: the rule for kinks and edges, or that for ties."""

    def __post_init__(self) -> None:
        """Refuse long doubles where they are no wider than float64."""
        if self.long and not HAS_LONG:
            message = "long doubles have no more bits than float64 on this machine"
            raise UnsupportedExpressionError(message)

    @property
    def kind(self) -> type[Balls]:
        """The kind of balls that values are."""
        if self.long:
            return LongBalls if self.rounding.steps is None else LongWidened
        return Balls if self.rounding.steps is None else Widened

    def of(self, values: Floats) -> Balls:
        """Return exact numbers as balls."""
        return self.kind(values.astype(self.kind.kind, copy=False))

    def saved(self, value: Balls) -> Balls:
        """Round what the forward pass saves for the backward, if that is rounded."""
        return self._rounded(value, self.rounding.saved)

    def result(self, value: Balls) -> Balls:
        """Round a result, if that is rounded."""
        return self._rounded(value, self.rounding.results)

    def _rounded(self, value: Balls, form: Format | None) -> Balls:
        """Round to nearest once more: what nothing has rounded yet may be of the format, and stays as it is then."""
        if form is None or not isinstance(value, Widened):
            return value
        stays = form.has(value.mid) & (or_nil(value.rad) == 0)
        wide = value.rounded(form.unit, form.smallest_subnormal / 2)
        return type(value)(wide.mid, np.where(stays, 0.0, or_nil(wide.rad)))

    def step(self, step: Step, sources: Sequence[Balls]) -> Balls:
        """Evaluate a step at the values of its sources."""
        match step:
            case Map():
                return self._map(step, sources)
            case Contract():
                return self._contract(step, sources)
            case Gather():
                return sources[0].moved(lambda part: moved(part, step))
            case Scatter():
                return self._scatter(step, sources[0])
            case Select():
                value, tied = _selected(step, sources[0])
                self._note(step, tied)
                return value
            case Shift():
                # any float near the largest will do, and one that is exact keeps radii small
                return self.of(sources[0].mid.max(step.axis, keepdims=True))
            case Through() | Detached():
                return sources[0]
        raise NotImplementedError(type(step).__name__)

    def _map(self, step: Map, sources: Sequence[Balls]) -> Balls:
        form = None if step.exact else self.rounding.steps
        # what rounds nothing is plain code, which widened balls run as they are: they are balls too
        kind = self.kind if form is not None or self.rounding.steps is None else Balls
        program = _program(step.expression, step.variables, form, kind)  # type: ignore[arg-type]  # a class has a hash
        if not sources:
            return self.kind.of(*program())
        (value,) = evaluated(program, sources)
        if form is not None:
            # of a product a kernel may multiply by the seed last, and what had underflowed is then that much larger
            for seed in step.seeds:
                assert isinstance(value, Widened)
                value = value.amplified(sources[step.variables.index(seed)], form.smallest_subnormal)
        if step.ruled is not None and critical_expressions(step.ruled.op):
            value = self._by_rule(value, step, sources)
        return value

    def _note(self, step: Step, decided: Mask) -> None:
        """Note where a rule gave the value of a step."""
        if decided.any():
            self.ruled[step] = decided

    def _by_rule(self, value: Balls, step: Map, sources: Sequence[Balls]) -> Balls:
        """Put in what torch's rule gives where an op certainly is at a kink or an edge.

        That is certain only of inputs that are exact: x - y, for one, where x and y are equal. Where an op may be at a
        kink, and where the rule gives an infinite derivative, nothing is said, so that flint is asked.
        """
        assert step.ruled is not None
        op, shape = step.ruled.op, value.mid.shape
        inputs = [Balls(source.mid, source.rad).repeated(shape) for source in sources[: len(op.inputs)]]
        apart = np.ones(shape, dtype=bool)  # where no expression may vanish
        for each in evaluated(critical_program(op), inputs):
            apart &= np.abs(each.mid) > (0 if each.rad is None else each.rad)
        if apart.all():
            return value
        mid = np.array(np.where(apart, value.mid, np.nan))
        rad = np.zeros(shape) if value.rad is None else np.array(np.broadcast_to(value.rad, shape))
        sure = np.array(~apart)
        for each in inputs:
            sure &= np.isfinite(each.mid) & (True if each.rad is None else each.rad == 0)
        if sure.any():
            points = np.stack([each.mid[sure] for each in inputs], -1)
            slopes, errors = _slopes(op, points.astype(np.float64), step.ruled.number)
            seed = sources[len(op.inputs)].repeated(shape).moved(lambda part: part[sure])
            mid[sure], rad[sure] = self._times(slopes, errors, seed)
            sure[sure] = np.isfinite(slopes)  # of an infinite slope the midpoint is NaN
            self._note(step, sure)
        return type(value)(mid, rad)

    def _times(self, slopes: Floats, errors: Floats, seed: Balls) -> tuple[Floats, Floats]:
        """Multiply slopes, known to within `errors`, with cotangents or tangents; return midpoints and radii.

        A product with -1, 0 or 1 does not underflow.
        """
        form, kind, reach = self.rounding.steps, self.kind, np.zeros(()) if seed.rad is None else seed.rad
        share, least = (kind.error, kind.least) if form is None else (ROUNDINGS * form.unit, form.smallest_subnormal)
        with np.errstate(invalid="ignore", over="ignore"):
            mid = slopes * seed.mid
            spread = np.abs(slopes) * reach + errors * (seed.size + reach)
            return mid, spread * (1 + share) + np.abs(mid) * share + np.where(np.isin(slopes, EXACT_SLOPES), 0.0, least)

    def _contract(self, step: Contract, sources: Sequence[Balls]) -> Balls:
        """Sum products, and bound the errors of these sums: the arithmetic's own, or those of the format."""
        if step.is_product_of_matrices and self.rounding.operands:
            sources = [self._rounded(source, self.rounding.operands) for source in sources]
        mid = contraction(step, [source.mid for source in sources])
        spread = _spread(step, sources)
        count, form = step.count, self.rounding.steps
        if count < 2 and len(sources) == 1:
            return self.kind(mid, spread)  # nothing is added or multiplied
        magnitude = contraction(step, [source.size for source in sources])
        # else numpy may add up one after the other: float64 along an outer axis, and products in matmul
        is_pairwise = self.long and len(sources) == 1
        longest = min(count, PAIRWISE + math.log2(count)) if is_pairwise else count
        own = (longest + len(sources)) * self.kind.error / 2  # `error` is two unit roundoffs
        if form is None:
            wide = magnitude * own + count * self.kind.least
            return self.kind(mid, wide if spread is None else wide + spread)
        products = ROUNDINGS if len(sources) > 1 else 0
        share = form.unit * (self.rounding.roundings(count) + products)
        if own > share * self.kind.own:  # then radii, which leave these errors out, would not cover them
            message = f"a sum of {count} terms: its rounding errors are too large beside those of {form.name}"
            raise UnsupportedExpressionError(message)
        # each of the terms rounds where it is a product, and each partial sum
        wide = magnitude * share
        if spread is not None:
            wide += spread * (1 + share)
        if products:
            wide += count * form.smallest_subnormal
        found = self.kind(mid, wide)
        assert isinstance(found, Widened)
        return found if count < 2 else found.rounded(ROUNDINGS * form.unit, 0.0)

    def _scatter(self, step: Scatter, source: Balls) -> Balls:
        """Add elements up, and bound the errors of sums of several."""
        table = step.table.ravel()
        counts = np.bincount(table[table >= 0], minlength=step.size).reshape(step.shape)

        def added(part: Floats) -> Floats:
            return scatter_sums(part, step)

        whole = source.moved(added)
        if counts.size == 0 or counts.max() < 2:
            return whole
        magnitude = added(source.size)
        spread = np.zeros(step.shape) if whole.rad is None else whole.rad
        form = self.rounding.steps
        if form is None:
            return self.kind(whole.mid, magnitude * counts * (self.kind.error / 2) + spread)
        several = counts > 1  # one element alone is moved, which rounds nothing
        roundings = np.array([self.rounding.roundings(count) for count in range(int(counts.max()) + 1)])[counts]
        wide = spread + (magnitude + spread) * roundings * form.unit
        return self.kind(whole.mid, wide + np.where(several, ROUNDINGS * form.unit * whole.size, 0.0))


def _spread(step: Contract, sources: Sequence[Balls]) -> Floats | None:
    """Return what the radii of the sources become in a sum of products; None for 0.

    As of a single product, it is the sum of |a| t + (|b| + t) s for factors a ± s and b ± t.
    """
    radii = [None if s.rad is None else np.broadcast_to(s.rad, s.mid.shape) for s in sources]
    if len(sources) == 1:
        return None if radii[0] is None else contraction(step, [radii[0]])
    ours, theirs = radii
    first = None if theirs is None else contraction(step, [sources[0].size, theirs])
    if ours is None:
        return first
    second = contraction(step, [ours, sources[1].size if theirs is None else sources[1].size + theirs])
    return second if first is None else first + second


def _slopes(op: Op, points: Floats, number: int) -> tuple[Floats, Floats]:
    """Return the slope by one input that the rule gives at each of some exact points, and the errors of these floats.

    `points` has a row for each point. The slope is NaN where the rule gives none, or an infinite one.
    """
    rows, which = np.unique(points, axis=0, return_inverse=True)  # ties are often all at 0
    found = [None if each is None else each[number] for each in slopes_at(op, rows.tolist())]
    balls = [Balls.of(arb.nan() if slope is None or not slope.is_finite() else slope) for slope in found]
    mids = np.array([float(ball.mid) for ball in balls])
    errors = np.array([0.0 if ball.rad is None else float(ball.rad) for ball in balls])
    return mids[which.ravel()], errors[which.ravel()]


def _selected(step: Select, keys: Balls) -> tuple[Balls, Mask]:
    """Return weights as a `Select` has them, and where a tie has them; NaN where the order is uncertain."""
    chosen = np.sort(keys.mid, axis=step.axis).take([step.rank], axis=step.axis)
    at = keys.mid == chosen
    counts = at.sum(step.axis, keepdims=True)
    weights = at / counts.astype(keys.kind) if step.shares else at & (np.cumsum(at, step.axis) == 1)
    # no other ball may overlap the chosen one, and ties are known of exact values only
    gap = np.where(at, np.inf, np.abs(keys.mid - chosen)).min(step.axis, keepdims=True)
    outer = np.broadcast_to(0.0 if keys.rad is None else keys.rad, keys.mid.shape)
    widest = outer.max(step.axis, keepdims=True, initial=0.0)
    certain = (gap > 2 * widest) & ((counts == 1) | (widest == 0))
    inexact = step.shares and bool((np.log2(counts) % 1 != 0).any())  # a share of a power of two is exact
    off = weights * keys.error if inexact and not isinstance(keys, Widened) else None
    return type(keys)(np.where(certain, weights, np.nan).astype(keys.kind), off), at & certain & (counts > 1)


def moved(part: np.ndarray[Any, Any], step: Gather) -> np.ndarray[Any, Any]:
    """Move the elements of an array as a gather does."""
    match step.move:
        case ("reshape", shape):
            return part.reshape(shape)
        case ("transpose", axes):
            return part.transpose(axes)
        case ("broadcast", shape):
            return np.broadcast_to(part, shape)
    inside = step.table >= 0
    if inside.all():
        return part.ravel()[step.table.ravel()].reshape(step.shape)  # a table of no axes takes an element, no array
    found = np.full(step.shape, 0 if part.dtype != object else arb(0), dtype=part.dtype)
    found[inside] = part.ravel()[step.table[inside]]
    return found


def scatter_sums(part: Floats, step: Scatter) -> Floats:
    """Add the elements of an array up as a scatter does."""
    table = step.table.ravel()
    sent = table >= 0
    sums = np.zeros(step.size, part.dtype)
    np.add.at(sums, table[sent], part.ravel()[sent])  # one after the other: an index may occur again
    return sums.reshape(step.shape)


def arranged(
    step: Contract, arrays: Sequence[np.ndarray[Any, Any]]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], tuple[str, str, str]]:
    """Arrange two arrays as stacks of matrices, whose products are the contraction.

    Their shapes are stack × rows × inner and stack × inner × columns. The letters of the axes that make up stack, rows
    and columns are returned as well.
    """
    (ours, theirs), kept = step.labels, step.kept
    # axes that one array alone has, and the result has not, are summed before the product
    left, right = _presummed(ours, theirs, kept, arrays[0]), _presummed(theirs, ours, kept, arrays[1])
    ours, theirs = _letters_of(ours, theirs + kept), _letters_of(theirs, ours + kept)
    stack = _letters_of(_letters_of(kept, ours), theirs)
    inner = "".join(c for c in ours if c in theirs and c not in kept)
    rows = "".join(c for c in kept if c in ours and c not in stack)
    columns = "".join(c for c in kept if c in theirs and c not in stack)
    extents = step.extents

    def length(letters: str) -> int:
        return math.prod(extents[c] for c in letters)

    first = left.transpose([ours.index(c) for c in stack + rows + inner]).reshape(
        length(stack), length(rows), length(inner)
    )
    second = right.transpose([theirs.index(c) for c in stack + inner + columns]).reshape(
        length(stack), length(inner), length(columns)
    )
    return first, second, (stack, rows, columns)


def _letters_of(labels: Labels, others: Labels) -> Labels:
    """Return the letters that are among others too, in their order."""
    return "".join(c for c in labels if c in others)


def _presummed(labels: Labels, other: Labels, kept: Labels, part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Sum an array over the axes that neither the other array nor the result has."""
    axes = tuple(i for i, c in enumerate(labels) if c not in other and c not in kept)
    return np.asarray(part.sum(axis=axes), dtype=part.dtype) if axes else part


def restored(step: Contract, product: np.ndarray[Any, Any], names: tuple[str, str, str]) -> np.ndarray[Any, Any]:
    """Give a stack of products the axes of the contraction, in its order."""
    letters = "".join(names)
    whole = product.reshape([step.extents[c] for c in letters])
    return whole.transpose([letters.index(c) for c in step.kept])


def contraction(step: Contract, parts: Sequence[Floats]) -> Floats:
    """Return the sums of products over named axes that a contraction is, in floats."""
    if len(parts) == 1:
        (labels,) = step.labels
        axes = tuple(i for i, c in enumerate(labels) if c not in step.kept)
        left = [c for c in labels if c in step.kept]
        rest = [i for i in range(len(labels)) if i not in axes]
        shape, length = parts[0].shape, math.prod(parts[0].shape[i] for i in axes)
        if parts[0].dtype == np.longdouble:  # numpy adds up in pairs where the terms of a sum lie side by side
            rows = parts[0].transpose([*rest, *axes]).reshape([*(shape[i] for i in rest), length])
            sums = np.ascontiguousarray(rows).sum(axis=-1)
        else:
            sums = np.asarray(parts[0].sum(axis=axes))
        return sums.transpose([left.index(c) for c in step.kept])
    first, second, names = arranged(step, parts)
    if first.shape[1] == second.shape[2] == 1:  # a dot product for each element of the stack
        return restored(step, (first[:, 0, :] * second[:, :, 0]).sum(-1), names)
    return restored(step, np.matmul(first, second), names)


@dataclass
class Exact:
    """The arithmetic of flint's balls, in arrays of objects, at flint's working precision.

    They enclose the values, or what rounding may make of them if something is rounded.
    """

    rounding: Rounding = NO_ROUNDING
    form: Format | None = None
    """The format in which torch's rule for kinks and edges is applied; None where it is not."""

    def __post_init__(self) -> None:
        """Start with no step at which a rule decided, be it the rule for kinks and edges or that for ties."""
        self.ruled: dict[Step, Mask] = {}
        self.has_infinite = False

    def of(self, values: Any) -> Array:
        """Return exact numbers as balls; balls are returned as they are."""
        if values.dtype == object:
            return values
        self.has_infinite |= not np.isfinite(values).all()
        if values.size and (values == values.flat[0]).all():
            # ones, mostly: balls never change, so that one will do
            return objects([arb(float(values.flat[0]))] * values.size, values.shape)
        return objects(list(map(arb, values.ravel().tolist())), values.shape)

    def _rounded(self, value: Array, form: Format | None) -> Array:
        """Round to nearest once more: what nothing has rounded yet may be of the format, and stays as it is then."""
        if form is None:
            return value
        wide, least = arb(1, form.unit), arb(0, form.smallest_subnormal / 2)
        stays = form.has(np.array(value, dtype=np.float64))
        return objects(
            [
                ball if is_of_format and ball.is_exact() else ball * wide + least
                for ball, is_of_format in zip(value.ravel().tolist(), stays.ravel().tolist(), strict=True)
            ],
            value.shape,
        )

    def saved(self, value: Array) -> Array:
        """Round what the forward pass saves for the backward, if that is rounded."""
        return self._rounded(value, self.rounding.saved)

    def result(self, value: Array) -> Array:
        """Round a result, if that is rounded."""
        return self._rounded(value, self.rounding.results)

    def step(self, step: Step, sources: Sequence[Array]) -> Array:
        """Evaluate a step at the values of its sources."""
        match step:
            case Map():
                return self._map(step, sources)
            case Contract():
                return self._contract(step, sources)
            case Gather():
                return moved(sources[0], step)
            case Scatter():
                return self._scatter(step, sources[0])
            case Select():
                value, tied = _selected_exactly(step, sources[0])
                if tied.any():
                    self.ruled[step] = tied
                return value
            case Shift():
                mids = np.array([float(ball.mid()) for ball in sources[0].ravel().tolist()]).reshape(sources[0].shape)
                return self.of(mids.max(step.axis, keepdims=True))
            case Through() | Detached():
                return sources[0]
        raise NotImplementedError(type(step).__name__)

    def _map(self, step: Map, sources: Sequence[Array]) -> Array:
        form = None if step.exact else self.rounding.steps
        program = _program(step.expression, step.variables, form)
        same = [s if s.shape == step.shape else np.broadcast_to(s, step.shape) for s in sources]
        columns = [source.ravel().tolist() for source in same]
        rows = list(zip(*columns, strict=True)) if columns else [()]
        (results,) = program.at(rows)
        if form is not None:
            # as `Widened.amplified` does: a kernel may multiply by the seed last
            least, one = arb(0, form.smallest_subnormal), arb(1)
            for column in (columns[step.variables.index(seed)] for seed in step.seeds):
                results = [
                    ball if abs(seed) <= one else ball + least * abs(seed)
                    for ball, seed in zip(results, column, strict=True)
                ]
        if step.ruled is not None and self.form is not None:
            self._rule(step, rows, results)
        return objects(results, step.shape)

    def _rule(self, step: Map, rows: Sequence[Sequence[arb]], results: list[arb]) -> None:
        """Put in what torch's rule gives for derivatives at kinks, edges and infinite inputs, where it decides."""
        assert step.ruled is not None
        assert self.form is not None
        count = len(step.ruled.op.inputs)
        # nearly always no row can be critical, which is seen without flint
        if not (self.has_infinite or critical_expressions(step.ruled.op)) or (
            count == 1 and marked(step.ruled.op).isdisjoint(float(row[0]) for row in rows)
        ):
            return
        known = [number for number, row in enumerate(rows) if _is_known(row[:count])]
        critical_ones = critical(step.ruled.op, [rows[number][:count] for number in known])
        decided = [number for number, is_critical in zip(known, critical_ones, strict=True) if is_critical]
        if decided:
            flags = np.zeros(len(rows), dtype=bool)
            flags[decided] = True
            for number in decided:
                truth, wide = conventional(step.ruled.op, rows[number][: count + 1], self.form)
                results[number] = (truth if self.rounding.steps is None else wide)[step.ruled.number]
            self.ruled[step] = flags.reshape(step.shape)

    def _contract(self, step: Contract, sources: Sequence[Array]) -> Array:
        form, count = self.rounding.steps, step.count
        if step.is_product_of_matrices and self.rounding.operands:
            sources = [self._rounded(source, self.rounding.operands) for source in sources]
        whole = _contracted(step, sources)
        if form is None or (count < 2 and len(sources) == 1):
            return whole
        sizes = _contracted(
            step, [objects([abs(ball) for ball in source.ravel().tolist()], source.shape) for source in sources]
        )
        products = ROUNDINGS if len(sources) > 1 else 0
        off = arb(0, form.unit * (self.rounding.roundings(count) + products))
        wide = arb(1, ROUNDINGS * form.unit) if count > 1 else arb(1)
        least = arb(0, count * form.smallest_subnormal) if products else arb(0)
        pairs = zip(whole.ravel().tolist(), sizes.ravel().tolist(), strict=True)
        return objects([value * wide + size * off + least for value, size in pairs], step.shape)

    def _scatter(self, step: Scatter, source: Array) -> Array:
        """Add elements up, and widen sums of several."""
        sums, form = [arb(0)] * step.size, self.rounding.steps
        sizes, counts = [arb(0)] * step.size, [0] * step.size
        for index, ball in zip(step.table.ravel().tolist(), source.ravel().tolist(), strict=True):
            if index >= 0:
                sums[index] += ball
                sizes[index] += abs(ball)
                counts[index] += 1
        if form is not None:
            wide = arb(1, ROUNDINGS * form.unit)
            sums = [
                value if count < 2 else value * wide + size * arb(0, form.unit * self.rounding.roundings(count))
                for value, size, count in zip(sums, sizes, counts, strict=True)
            ]
        return objects(sums, step.shape)


def _contracted(step: Contract, sources: Sequence[Array]) -> Array:
    """Return the sums of products over named axes that a contraction is, in flint's balls and its matrices."""
    if len(sources) == 1:
        (labels,) = step.labels
        rest = "".join(c for c in labels if c not in step.kept)
        count = math.prod(step.extents[c] for c in rest)
        table = sources[0].transpose([labels.index(c) for c in step.kept + rest]).reshape(step.size, count)
        return objects([sum(row, arb(0)) for row in table.tolist()], step.shape)
    first, second, names = arranged(step, sources)
    found = np.empty((first.shape[0], first.shape[1], second.shape[2]), dtype=object)
    for i, (left, right) in enumerate(zip(first, second, strict=True)):
        if left.shape[0] == right.shape[1] == 1:  # twice as fast as matrices of one row and one column
            found[i, 0, 0] = sum((a * b for a, b in zip(left[0].tolist(), right[:, 0].tolist(), strict=True)), arb(0))
        elif left.size and right.size:
            product = arb_mat(left.tolist()) * arb_mat(right.tolist())
            found[i].ravel()[:] = product.entries()
        else:
            found[i].fill(arb(0))
    return restored(step, found, names)


def _is_known(point: Sequence[arb]) -> bool:
    """Say whether a point is known exactly, and has at most one infinite coordinate, as the rule requires."""
    return all(map(arb.is_exact, point)) and sum(not ball.is_finite() for ball in point) < 2


def _selected_exactly(step: Select, keys: Array) -> tuple[Array, Mask]:
    """Return weights as a `Select` has them, and where a tie has them; NaN where the order is uncertain."""
    rows = np.moveaxis(keys, step.axis, -1)
    weights = np.empty(rows.shape, dtype=object)
    tied = np.zeros(rows.shape, dtype=bool)
    for place in np.ndindex(rows.shape[:-1]):
        row = rows[place].tolist()
        chosen = sorted(row, key=lambda ball: float(ball.mid()))[step.rank]
        at = [ball == chosen or ball is chosen for ball in row]
        below = sum(ball < chosen for ball in row)
        apart = all(is_at or not ball.overlaps(chosen) for ball, is_at in zip(row, at, strict=True))
        certain = apart and below <= step.rank % len(row) < below + sum(at)
        share = arb(1) / sum(at) if step.shares else arb(1)
        first = at.index(True)
        tied[place] = certain and sum(at) > 1 and np.array(at)
        weights[place] = [
            arb.nan() if not certain else share if is_at and (step.shares or i == first) else arb(0)
            for i, is_at in enumerate(at)
        ]
    return np.moveaxis(weights, -1, step.axis), np.moveaxis(tied, -1, step.axis)


def objects(balls: Sequence[arb], shape: Shape) -> Array:
    """Return balls as an array of a shape; `np.array` would look into each of them for a sequence."""
    return np.fromiter(balls, dtype=object, count=len(balls)).reshape(shape)


def flagged(roots: Sequence[Step], ruled: Mapping[Step, Mask]) -> list[Mask]:
    """Say to which entries of the roots a value contributed that a rule gave; `ruled` has these values, by step."""
    flags: dict[Step, Mask] = {}
    for step in ordered(roots):
        sources = [flags[source] for source in step.sources]
        match step:
            case Map():
                own = np.zeros(step.shape, dtype=bool) | ruled.get(step, np.zeros((), dtype=bool))
                for source in sources:
                    own = own | source
                flags[step] = own
            case Contract():
                if isinstance(step.sources[0], Select) and step.sources[0].sources[0] is step.sources[-1]:
                    # the weights meet the array that they were found in: this is its largest, and no derivative
                    sources = [np.zeros_like(sources[0]), sources[1]]
                counts = [source.astype(np.float64) for source in sources]
                ones = [np.ones_like(count) for count in counts]
                parts = [contraction(step, [*ones[:i], count, *ones[i + 1 :]]) for i, count in enumerate(counts)]
                flags[step] = np.any([part > 0 for part in parts], axis=0)
            case Gather():
                flags[step] = moved(sources[0].astype(np.float64), step) > 0
            case Scatter():
                flags[step] = scatter_sums(sources[0].astype(np.float64), step) > 0
            case Select():
                flags[step] = ruled.get(step, np.zeros(step.shape, dtype=bool))
            case _:
                flags[step] = (
                    np.zeros(step.shape, dtype=bool) if not sources or not isinstance(step, Through) else sources[0]
                )
    return [flags[root] for root in roots]
