"""How a case becomes an answer: the certified derivative, and how far rounding may take one from it.

1. The case's word and shapes make a graph (`reference.derivative`).
2. It is evaluated on whole arrays, in float64 for narrower formats and in long doubles for float64 itself. They carry
   the value and the reach of rounding, of which their own errors are a small part (`reference.balls`). Where both are
   finite, this decides; at the points of one elementwise op, which are hard, only where the reach is small too, in
   float32 and float64. In float64 that answer is rough: flint has the last word on what it does not allow.
3. What arrays do not decide is evaluated by flint, with the precision doubled until the enclosure is tight; otherwise
   UncertifiedError is raised, never a pass. At kinks and edges torch's rule says what the derivative is
   (`reference.convention`).
4. The answer is arrays of floats: the truth as two of them, and the centre and radius of the allowance.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from flint import arb

from reference import derivative
from reference.balls import HAS_LONG, Balls, LongWidened, Widened, or_nil
from reference.compiler import STEPS, UnsupportedExpressionError
from reference.evaluation import EXACT, Arrays, Exact, Rounding, evaluate, flagged, objects
from reference.format import FORMATS, precision
from reference.graph import ordered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reference.case import Case
    from reference.format import Floats, Format
    from reference.graph import Shape, Step
    from reference.op import Array, Op

    Mask = np.ndarray[Shape, np.dtype[np.bool_]]

GUARD_BITS = 12
"""Bits that a certified value must have beyond its format's."""

MOST_BITS = 16384
"""The precision at which certification gives up; sin at float64's largest value needs 1,200."""

FILTERED_BITS = 24
"""The precision of the widest format that float64 certifies values for."""

FEWEST = 1000
"""Points of one elementwise op from which float64 is worth its cost; fewer go to flint."""

CONDITION = 16
"""Bits by which a reach is smaller than a value of a hard op that arrays decide: it is no wider than flint's then.

In float32 the error of the value is as small then as that of a certified one.
"""

ROUGH = 2.0**-3
"""Half ulps that the value of a hard op in float64 may be off by at first; where that matters, flint is asked."""

CONSTANTS = 96
"""Bits of constants in arrays: more than long doubles hold."""

MOST_KEPT = 2**24
"""Floats of answers that are kept for the next one who asks the same: in every mode the same is asked."""

UNCERTIFIED = f"no enclosure within {MOST_BITS} bits is tight enough for {{}}"


class UncertifiedError(ArithmeticError):
    """No enclosure was tight enough: an error of the oracle, never a pass."""


@dataclass(frozen=True)
class Found:
    """What one derivative is, and may be."""

    centre: Floats
    """The truth, rounded to float64; plus or minus infinity at an edge."""

    rest: Floats
    """The truth less that."""

    offset: Floats
    """The centre of the allowance less the truth."""

    radius: Floats
    """That of the allowance, and the little of the truth; infinite where rounding may make anything of it."""

    by_convention: Mask
    """Where the truth is what the rule for non-differentiable points gives."""

    @property
    def parts(self) -> tuple[np.ndarray[Any, Any], ...]:
        """The arrays, in order."""
        return (self.centre, self.rest, self.offset, self.radius, self.by_convention)


EMPTY = Found(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))

Answer = tuple[Found, ...]
"""What is found for each input of a case."""


def rounding(form: Format, promise: str, *, independent: bool = False) -> Rounding:
    """Return what is rounded to which format, where a promise is kept."""
    if promise == "format":
        return Rounding(form, independent=independent)
    rounded = {"wide": (None, None), "operands": (form, None), "saved": (form, form)}
    return Rounding(FORMATS["float32"], *rounded[promise], form, independent)


class Kept:
    """The latest answers, as many as a number of floats allows."""

    def __init__(self) -> None:
        """Start with none."""
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._answers: OrderedDict[Case, Answer] = OrderedDict()
        self._floats = 0

    def get(self, case: Case) -> Answer:
        """Return the answer to a case, which is kept for the next one who asks the same."""
        found = self._answers.get(case)
        if found is None:
            found = self._answers[case] = _answered(case)
            self._floats += _size(found)
        self._answers.move_to_end(case)
        while self._floats > MOST_KEPT and len(self._answers) > 1:
            self._floats -= _size(self._answers.popitem(last=False)[1])
        return found


def _size(found: Answer) -> int:
    return 100 + 4 * sum(each.centre.size for each in found)


kept = Kept()


def answer(case: Case) -> Answer:
    """Return the certified derivative of a case, by each input that is asked for, and what rounding may make of it.

    Raises UncertifiedError where no enclosure is tight enough.
    """
    return kept.get(case)


def _answered(case: Case) -> Answer:
    if case.stated:
        return tuple(_stated(case))
    parts = list(pieces(case))
    if len(parts) == 1 and parts[0] is case:
        return _evaluated(case)
    answers = [_evaluated(part) for part in parts]
    if case.units and case.word in {"f", "ff"}:
        ends = np.cumsum([0, *(prod(shape) for shape in case.asked_shapes)]).tolist()
        return tuple(
            _shaped(_stacked([each[place] for each in answers[start:end]], -1), (case.cotangent.size, *shape))
            for place, (shape, start, end) in enumerate(zip(case.asked_shapes, ends, ends[1:], strict=False))
        )
    lead = (len(parts),) if case.units else ()
    return tuple(
        _shaped(_stacked([each[place] for each in answers], 0) if parts else EMPTY, (*lead, *shape))
        for place, shape in enumerate(case.asked_shapes)
    )


def _stated(case: Case) -> Iterator[Found]:
    """Yield what an entry says to be due at a point, rounded by the steps of one product; the rest by the formula."""
    silent = replace(case, stated=())
    is_whole = not any(np.isnan(due).any() for due in case.stated)
    others = [None] * len(case.stated) if is_whole else answer(silent)
    for due, other in zip(case.stated, others, strict=True):
        zeros = np.zeros(due.shape)
        radius = np.where(due == 0, 0, STEPS * case.form.unit * np.abs(due) + case.form.smallest_subnormal)
        found = Found(due, zeros, zeros, radius, np.ones(due.shape, dtype=bool))
        if other is None:
            yield found
        else:
            mine = ~np.isnan(due)
            yield Found(*(np.where(mine, a, b) for a, b in zip(found.parts, other.parts, strict=True)))


def _shaped(found: Found, shape: Shape) -> Found:
    return Found(*(part.reshape(shape) for part in found.parts))


def _stacked(found: Sequence[Found], axis: int) -> Found:
    return Found(*(np.stack(parts, axis) for parts in zip(*(each.parts for each in found), strict=True)))


def pieces(case: Case) -> Iterator[Case]:
    """Yield the cases that a case is made of.

    There is one for each unit cotangent or tangent, or for each point of the batch.
    """
    if case.units and not case.is_pointwise:
        yield from _unit_cases(case)
    elif case.each and not case.is_pointwise:
        whole = replace(case, each=False, promise=case.inside)
        yield from (whole.at(index) for index in np.ndindex(case.batch))
    else:
        yield case


def _unit_cases(case: Case) -> Iterator[Case]:
    one = replace(case, units=False, promise=case.inside)
    if case.word in {"f", "ff"}:
        for number in case.asked:
            for place in range(case.primals[number].size):
                yield replace(one, only_tangent=(number, place))
        return
    for place in range(case.cotangent.size):
        unit = np.zeros(case.cotangent.size)
        unit[place] = 1
        yield replace(one, cotangent=unit.reshape(case.cotangent.shape))


def _evaluated(case: Case) -> Answer:
    if is_for_arrays(case) and (rough := in_arrays(case)) is not None:
        if is_rough(case):
            found, undecided = _from_long(case, rough)
        else:
            found = tuple(_from_balls(*each) for each in rough)
            undecided = [~_is_decided(balls, is_hard=is_hard(case)) for balls, _ in rough]
        if is_hard(case):
            undecided += [~np.isfinite(primal) for primal in case.primals]  # torch's rule decides there
        return sharpened(case, found, undecided)
    return by_flint(case)


def _replaced(found: Answer, better: Answer, places: Mask) -> Answer:
    """Put better answers in the place of some points of a pointwise case."""
    for rough, good in zip(found, better, strict=True):
        for part, mended in zip(rough.parts, good.parts, strict=True):
            part.ravel()[places] = mended
    return found


def sharpened(case: Case, found: Answer, doubtful: Sequence[Mask]) -> Answer:
    """Have flint answer a case anew where its answer, which is rough, does not do: there is a mask for each input."""
    if not any(mask.any() for mask in doubtful):
        return found
    if not case.is_pointwise:
        return by_flint(case)
    places = np.any([mask.ravel() for mask in doubtful], axis=0)
    return _replaced(found, by_flint(case.only(places)), places)


def in_arrays(case: Case, *, widened: bool = True) -> tuple[tuple[Balls, Mask], ...] | None:
    """Evaluate a case in balls on whole arrays, widened by rounding or not, and say where a rule gave the value.

    Of hard points nothing is said where the rule for kinks and edges decides. Returns None where numpy lacks a
    function, or floats wide enough.
    """
    is_long = case.form.precision > FILTERED_BITS
    if is_long and not HAS_LONG:
        return None
    asked = derivative.of_case(case, saved=True)
    ruled: dict[Step, Mask] = {}
    rounded = rounding(case.form, case.inside, independent=case.independent) if widened else EXACT
    arithmetic = Arrays(rounded, is_long, ruled)
    try:
        with precision(CONSTANTS), np.errstate(all="ignore"):
            found = evaluate(asked.results, derivative.given(case), arithmetic, [asked.function.output])
    except UnsupportedExpressionError:
        return None
    flags = flagged(asked.results, ruled) if ruled else [np.zeros(step.shape, dtype=bool) for step in asked.results]
    whole = [balls.repeated(step.shape) for balls, step in zip(found, asked.results, strict=True)]
    if ruled and is_hard(case):
        whole = [type(b)(np.where(flag, np.nan, b.mid), b.rad) for b, flag in zip(whole, flags, strict=True)]
    return tuple(zip(whole, flags, strict=True))


def _is_decided(balls: Balls, *, is_hard: bool) -> Mask:
    """Say where float64 knows the value, and what rounding may make of it: float64's own errors are a part of that.

    Of a hard op they must be as small beside the value as what certifies one.
    """
    largest = np.finfo(np.float64).max
    most = balls.size * 2.0**-CONDITION if is_hard else largest
    decided: Mask = (balls.size <= largest) & (True if balls.rad is None else balls.rad <= most)
    return decided


def _from_balls(balls: Balls, by_convention: Mask) -> Found:
    outer = balls.outer()
    radius = np.zeros(balls.mid.shape) if outer is None else np.broadcast_to(outer * (1 + balls.own), balls.mid.shape)
    return _found(balls.mid, radius, by_convention)


def _found(mid: Floats, radius: Floats, by_convention: Mask) -> Found:
    """Put an answer together, of a midpoint that may have more bits than float64."""
    with np.errstate(all="ignore"):
        centre = mid.astype(np.float64)
        rest = np.zeros(mid.shape) if mid.dtype == centre.dtype else (mid - centre).astype(np.float64)
        found = Found(centre, rest, np.zeros(mid.shape), radius.astype(np.float64), by_convention)
    return Found(*map(np.array, found.parts))  # of a single point too, for which numpy has scalars: parts are replaced


def _from_long(case: Case, rough: Sequence[tuple[Balls, Mask]]) -> tuple[Answer, list[Mask]]:
    """Answer for a hard op in float64 by long doubles, and say where they do not decide.

    The truth has a ball of its own here. The allowance is less than flint's by what both may be off.
    """
    truths = in_arrays(case, widened=False)
    assert truths is not None
    answers, undecided = [], []
    for (wide, flags), (true, _) in zip(rough, truths, strict=True):
        reach, off = (np.broadcast_to(or_nil(b.outer()), b.mid.shape) for b in (wide, true))
        with np.errstate(all="ignore"):
            least = np.where(reach == off, 0.0, reach * (1 - wide.own) - off)  # nothing rounds: both are 0
            decided = _is_decided(wide, is_hard=True) & (off <= ROUGH * case.form.unit * true.size) & (least >= 0)
        answers.append(_found(true.mid, least, flags))
        undecided.append(~(decided & np.isfinite(answers[-1].centre)))
    return tuple(answers), undecided


def by_flint(case: Case) -> Answer:
    """Evaluate a case by flint alone: the truth at the precision that certifies it, and what rounding makes of it."""
    truths, flags = certified(case)
    return tuple(_reached(*each) for each in zip(truths, allowed(case), flags, strict=True))


def is_hard(case: Case) -> bool:
    """Say whether the points are hard: those of one elementwise op."""
    return case.tree.is_single and case.tree.root.op.elementwise and case.promise is None


def is_for_arrays(case: Case) -> bool:
    """Say whether arrays are asked first: always, but for 16-bit formats where points are hard.

    In those the second order of a reach counts, which flint encloses more tightly; so it does of a sine of a sum.
    """
    return not is_hard(case) or (case.form.precision >= FILTERED_BITS and not _turns(case.tree.root.op))


def is_rough(case: Case) -> bool:
    """Say whether an answer's truth may be off by so much that it matters to a figure: that of hard ops in float64."""
    is_whole = case.is_pointwise or not (case.units or case.each)
    return is_whole and is_hard(case) and case.form.precision > FILTERED_BITS and is_for_arrays(case)


def doubt(case: Case) -> float:
    """Return the part of an allowance that an answer's truth may be off by, where flint was not asked."""
    if not is_for_arrays(case) or is_rough(case):
        return 0.0
    return LongWidened.own if case.form.precision > FILTERED_BITS else Widened.own


@cache
def _turns(op: Op) -> bool:
    """Say whether an op has a sine of what it computes: it is near 1 on one side only, which a reach does not say."""
    return any(not each.args[0].is_Symbol for each in sympy.S(op.formula).atoms(sympy.sin, sympy.cos))


def _split(truth: Array) -> tuple[Floats, Floats]:
    """Return the floats next to balls, and the rest."""
    balls = truth.ravel().tolist()
    centre = np.fromiter(map(float, balls), np.float64, len(balls))
    with precision(160):
        rest = np.fromiter(map(float, map(arb.__sub__, balls, centre.tolist())), np.float64, len(balls))
    if not np.isfinite(centre).all():
        rest[~np.isfinite(centre)] = 0
    return centre.reshape(truth.shape), rest.reshape(truth.shape)


def certified(case: Case, bits: int = 0) -> tuple[list[Array], list[Mask]]:
    """Return the certified derivative, by each input, and where the rule for kinks and edges gave it.

    Raises UncertifiedError.
    """
    asked = derivative.of_case(case, saved=False)
    given, form = derivative.given(case), case.form
    if not case.is_pointwise:
        return certified_steps(asked.results, given, form, bits)
    bits = bits or form.precision + 2 * GUARD_BITS
    values, flags = _enclosed(asked.results, given, form, bits)
    pending = np.zeros(case.points, dtype=bool)
    for value, flag in zip(values, flags, strict=True):
        sure = (is_sure or is_certified(ball, form) for ball, is_sure in zip(value.flat, flag.flat, strict=True))
        if not _are_certified(value, flag, form):
            pending |= ~np.fromiter(sure, dtype=bool, count=value.size)
    if pending.any():
        if bits >= MOST_BITS:
            raise UncertifiedError(UNCERTIFIED.format(form.name))
        for value, better in zip(values, certified(case.only(pending), 2 * bits)[0], strict=True):
            value.ravel()[pending] = better
    return values, flags


def certified_steps(
    roots: Sequence[Step], given: Mapping[str, Any], form: Format, bits: int = 0
) -> tuple[list[Array], list[Mask]]:
    """Evaluate steps by flint, with so many bits or as many as certify each entry; raises UncertifiedError."""
    bits = bits or form.precision + 2 * GUARD_BITS
    while bits <= MOST_BITS:
        values, flags = _enclosed(roots, given, form, bits)
        if all(_are_certified(value, flag, form) for value, flag in zip(values, flags, strict=True)):
            return values, flags
        bits *= 2
    raise UncertifiedError(UNCERTIFIED.format(form.name))


def has_limits(case: Case) -> bool:
    """Say whether the derivative is finite at infinite inputs: each step is continuous there, so that it is a limit."""
    asked = derivative.of_case(case, saved=False)
    values, _ = _enclosed(asked.results, derivative.given(case), case.form, 2 * case.form.precision)
    return all(ball.is_finite() for value in values for ball in value.ravel().tolist())


def _enclosed(
    roots: Sequence[Step], given: Mapping[str, Any], form: Format, bits: int
) -> tuple[list[Array], list[Mask]]:
    """Evaluate steps by flint with so many bits; say too where the rule for kinks and edges gave a value."""
    arithmetic = Exact(form=form)
    with precision(bits):
        values = evaluate(roots, given, arithmetic)
    if arithmetic.ruled:
        return values, flagged(roots, arithmetic.ruled)
    return values, [np.zeros(step.shape, dtype=bool) for step in roots]


def _are_certified(value: Array, flags: Mask, form: Format) -> bool:
    balls = value.ravel().tolist()
    accuracies = list(map(arb.rel_accuracy_bits, balls))
    if not balls or (
        min(accuracies) >= form.precision + GUARD_BITS
        and (max(accuracies) < MOST_BITS or all(map(arb.is_finite, balls)))  # what is exact may be infinite
    ):
        return True
    return all(flag or is_certified(ball, form) for ball, flag in zip(balls, flags.ravel().tolist(), strict=True))


def is_certified(ball: arb, form: Format) -> bool:
    """Say whether a ball is tight enough to judge a value of the format by.

    A NaN ball and a very wide one contain everything, so this comes before any `contains`.
    """
    if not ball.is_finite():
        return False
    if ball.rel_accuracy_bits() >= form.precision + GUARD_BITS:
        return True
    return bool(ball.rad() * 2**GUARD_BITS <= form.smallest_subnormal)


def allowed(case: Case) -> list[Array]:
    """Return what rounding may make of the derivative, by each input: flint's balls."""
    asked = derivative.of_case(case, saved=True)
    arithmetic = Exact(rounding(case.form, case.inside, independent=case.independent), case.form)
    with precision(64):
        return evaluate(asked.results, derivative.given(case), arithmetic, [asked.function.output])


def _reached(truth: Array, wide: Array, flags: Mask) -> Found:
    centre, rest = _split(truth)
    offset, radius = np.zeros(truth.size), np.zeros(truth.size)
    with precision(160):
        for number, (true, ball) in enumerate(zip(truth.ravel().tolist(), wide.ravel().tolist(), strict=True)):
            if true.is_finite():
                radius[number] = math.inf
                if ball.is_finite():
                    away = ball - true  # its radius is the sum of both
                    offset[number], radius[number] = float(away), float(away.rad().upper())
    return Found(centre, rest, offset.reshape(truth.shape), radius.reshape(truth.shape), flags)


def value(case: Case) -> Array:
    """Return the certified value of the function of a case, before the sum or mean at its root."""
    ((found,), _) = certified_steps([derivative.value_of(case).output], derivative.given(case), case.form)
    return found


def value_allowance(case: Case) -> Array:
    """Return what rounding makes of the value of the function of a case."""
    with precision(64):
        (found,) = evaluate([derivative.value_of(case).output], derivative.given(case), Exact(Rounding(case.form)))
    return found


def filtered(case: Case) -> tuple[Balls, ...] | None:
    """Return what float64 can say of an op at many points; None where there are few, or where it is no filter.

    What it says of a point at which it is not certain enough, or where the rule for kinks and edges may decide, is NaN.
    """
    if (
        case.stated
        or not (case.is_pointwise and case.tree.is_single)
        or case.points < FEWEST
        or case.form.precision > FILTERED_BITS
    ):
        return None
    found = in_arrays(case)
    if found is None:
        return None
    form, trusted = case.form, np.ones(case.batch, dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        for balls, _ in found:
            reach = np.zeros(balls.mid.shape) if balls.rad is None else balls.rad
            trusted &= np.isfinite(balls.mid) & (reach * 4 <= balls.size + 32 * form.smallest_subnormal)
    return tuple(type(balls)(np.where(trusted & ~ruled, balls.mid, np.nan), balls.rad) for balls, ruled in found)


def overflows(case: Case, *, results: bool) -> bool:
    """Say whether a value on the way to a derivative is one that its format cannot hold.

    These are the function itself, derivatives of lower order, and every step between; the results too if they are
    asked for, as the local derivatives that cotangents of 1 give.
    """
    asked = derivative.of_case(case, saved=False)
    lower = derivative.of_case(replace(case, word="r"), saved=False).results if case.order > 1 else ()
    rounded = {asked.function.output, *asked.before, *lower}
    last = set(asked.results) - rounded
    steps = [step for step in ordered([*rounded, *last]) if results or step not in last]
    inside = rounding(case.form, case.inside).steps or case.form
    is_long = case.form.precision > FILTERED_BITS
    values = None if case.is_pointwise or (is_long and not HAS_LONG) else _rough_sizes(case, steps)
    if values is None:
        values = [_sizes(array) for array in _evaluated_steps(case, steps)]
    largest = [float(np.nanmax(sizes, initial=0.0)) for sizes in values]
    rounded |= last
    return any(
        size > (case.form if step in rounded else inside).largest for step, size in zip(steps, largest, strict=True)
    )


def _rough_sizes(case: Case, steps: Sequence[Step]) -> list[Floats] | None:
    """Return the magnitudes of steps by float64; None where numpy lacks a function that they need."""
    try:
        with np.errstate(all="ignore"):
            arithmetic = Arrays(long=case.form.precision > FILTERED_BITS)
            return [balls.size for balls in evaluate(steps, derivative.given(case), arithmetic)]
    except UnsupportedExpressionError:
        return None


def _evaluated_steps(case: Case, steps: Sequence[Step]) -> list[Array]:
    """Evaluate steps by flint, with more bits where that is needed to enclose a large argument's exponential."""
    for bits in (case.form.precision + 2 * GUARD_BITS, MOST_BITS // 4):
        with precision(bits):
            values = evaluate(steps, derivative.given(case), Exact(form=case.form))
        if not any(_is_vague(ball) for array in values for ball in array.ravel().tolist()):
            break
    return values


def _is_vague(ball: arb) -> bool:
    """Say whether a ball does not tell the magnitude of a number that may be large."""
    return not ball.is_finite() or (ball.rel_accuracy_bits() < 1 and abs(ball).upper() > 1)


def _sizes(array: Array) -> Floats:
    """Return magnitudes; what has no finite enclosure at any precision is taken for infinite."""
    return np.array([float(abs(ball).lower()) if ball.is_finite() else np.inf for ball in array.ravel().tolist()])


def may_be_zero(case: Case, number: int, share: float) -> bool:
    """Say whether the derivative by an input is 0 at some inputs whose values are off by a share of themselves."""
    asked = derivative.of_case(case, saved=False)
    nearby = arb(1, share)
    values: dict[str, Any] = dict(derivative.given(case))
    with precision(4 * case.form.precision):
        for name, primal in ((f"x{i}", p) for i, p in enumerate(case.primals)):
            values[name] = objects([arb(v) * nearby for v in primal.ravel().tolist()], primal.shape)
        (found,) = evaluate([asked.results[case.asked.index(number)]], values, Exact())
    return any(ball.contains(0) for ball in found.ravel().tolist())
