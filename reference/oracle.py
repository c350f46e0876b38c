"""How a case becomes an answer: its certified derivative, and how far rounding may move that.

1. The word and the shapes of the case make a graph (`reference.derivative`).
2. The graph is evaluated on whole arrays, in float64 for narrower formats and in long doubles for float64 itself. They
   carry the value and the reach of rounding, of which their own errors are a small part (`reference.balls`). Where both
   are finite, they decide. The points of one elementwise op are drawn to be hard: there arrays decide only in float32
   and float64, and only where the reach is small too. In float64 such an answer is rough, and flint has the last word
   on a gradient that it does not allow.
3. What arrays do not decide is evaluated by flint, with the precision doubled until the enclosure is tight; otherwise
   UncertifiedError is raised, never a pass. At kinks and edges torch's rule gives the derivative
   (`reference.convention`).
4. The answer is arrays of floats: the truth as the sum of two, and the centre and radius of the allowance.
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
from reference.balls import Balls, LongWidened, Widened, or_nil
from reference.compiler import ROUNDINGS, UnsupportedExpressionError
from reference.evaluation import NO_ROUNDING, Arrays, Exact, Rounding, evaluate, flagged, objects
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
"""Bits that a certified value must have beyond its format's, so that its error is about 2^-12 of an ulp. Arbitrary."""

MOST_BITS = 16384
"""The precision at which certification gives up: arbitrary, and ample. sin of float64's largest value needs 1,200."""

FILTERED_BITS = 24
"""The precision of the widest format that float64 certifies values for."""

FEWEST_POINTS = 1000
"""Points of one elementwise op from which the filter in float64 saves time; fewer go to flint."""

CONDITION = 16
"""Bits by which the reach must be smaller than the value for arrays to decide a hard point.

Terms of second order in the reach, which flint encloses more tightly, do not matter then. The error of the value, the
part 2^-21 of the reach in float64, is 2^-37 of it: in float32 that is as tight as certified.
"""

ROUGH = 2.0**-3
"""The error, in half ulps, that a rough value of a hard point in float64 may have: flint is asked where it matters."""

CONSTANT_BITS = 96
"""Bits to which constants are enclosed before arrays take them: more than long doubles hold."""

MOST_KEPT = 2**24
"""Floats that the cached answers have together, at most: 128 MiB. Every mode of a test asks for the same answers."""

UNCERTIFIED = f"no enclosure within {MOST_BITS} bits is tight enough for {{}}"


class UncertifiedError(ArithmeticError):
    """No enclosure was tight enough to judge by: an error of the oracle, never a pass."""


@dataclass(frozen=True)
class Found:
    """The derivative by one input, and its allowance: arrays of one shape, that of the derivative."""

    centre: Floats
    """The truth, rounded to float64; plus or minus infinity where the derivative is."""

    rest: Floats
    """The truth less `centre`: together they have up to 106 bits of it."""

    offset: Floats
    """The centre of the allowance less the truth."""

    radius: Floats
    """The radius of the allowance and of the truth's enclosure; infinite where rounding may make anything of it."""

    by_convention: Mask
    """Where torch's rule for non-differentiable points gave the truth."""

    @property
    def parts(self) -> tuple[np.ndarray[Any, Any], ...]:
        """The arrays, in the order of the fields."""
        return (self.centre, self.rest, self.offset, self.radius, self.by_convention)


EMPTY = Found(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))

Answer = tuple[Found, ...]
"""What is found for each input that a case asks for."""


def rounding(form: Format, promise: str, *, independent: bool = False) -> Rounding:
    """Return what is rounded to which format by an op that keeps a promise, one of `reference.case.PROMISES`."""
    if promise == "format":
        return Rounding(form, independent=independent)
    rounded = {"wide": (None, None), "operands": (form, None), "saved": (form, form)}  # operands, and what is saved
    return Rounding(FORMATS["float32"], *rounded[promise], form, independent)


class AnswerCache:
    """A cache of the latest answers by their cases, bounded by the number of their floats."""

    def __init__(self) -> None:
        """Start with none."""
        self.clear()

    def clear(self) -> None:
        """Forget all answers."""
        self._answers: OrderedDict[Case, Answer] = OrderedDict()
        self._floats = 0

    def get(self, case: Case) -> Answer:
        """Return the answer to a case: the one that is cached, or a new one, which is cached from now on."""
        found = self._answers.get(case)
        if found is None:
            found = self._answers[case] = _answered(case)
            self._floats += _size(found)
        self._answers.move_to_end(case)
        # the oldest go first; the one that was just asked for stays, however large
        while self._floats > MOST_KEPT and len(self._answers) > 1:
            self._floats -= _size(self._answers.popitem(last=False)[1])
        return found


def _size(found: Answer) -> int:
    """Return about how many floats an answer takes: four arrays, and the objects, which count for a hundred."""
    return 100 + 4 * sum(each.centre.size for each in found)


answer_cache = AnswerCache()


def answer(case: Case) -> Answer:
    """Return the certified derivative of a case by each input that it asks for, with its allowance.

    A derivative has the shape of the input where a cotangent was pulled back, else that of the output; a whole Jacobian
    has an axis for its unit cotangents or tangents besides. Raises UncertifiedError where no enclosure is tight enough.
    """
    return answer_cache.get(case)


def _answered(case: Case) -> Answer:
    """Answer a case: by its pieces, whose answers are stacked as the case asks for them."""
    if case.stated:
        return tuple(_stated(case))
    parts = list(pieces(case))
    if len(parts) == 1 and parts[0] is case:
        return _evaluated(case)
    answers = [_evaluated(part) for part in parts]
    if case.units and case.word in {"f", "ff"}:
        # each unit tangent gives a column of the Jacobian; those of one input lie side by side
        ends = np.cumsum([0, *(prod(shape) for shape in case.asked_shapes)]).tolist()
        return tuple(
            _shaped(_stacked(answers[start:end], number, -1), (case.cotangent.size, *shape))
            for number, (shape, start, end) in enumerate(zip(case.asked_shapes, ends, ends[1:], strict=False))
        )
    # each unit cotangent gives a row; without units there is an answer for each point of the batch
    lead = (len(parts),) if case.units else ()
    return tuple(
        _shaped(_stacked(answers, number, 0), (*lead, *shape)) for number, shape in enumerate(case.asked_shapes)
    )


def _stated(case: Case) -> Iterator[Found]:
    """Yield the gradients that an entry states, allowed the roundings of one step; the others are derived."""
    silent = replace(case, stated=())
    is_whole = not any(np.isnan(due).any() for due in case.stated)
    others: Sequence[Found | None] = [None] * len(case.stated)
    if not is_whole:
        others = by_flint(silent) if is_rough(silent) else answer(silent)
    for due, other in zip(case.stated, others, strict=True):
        zeros = np.zeros(due.shape)
        radius = np.where(due == 0, 0, ROUNDINGS * case.form.unit * np.abs(due) + case.form.smallest_subnormal)
        found = Found(due, zeros, zeros, radius, np.ones(due.shape, dtype=bool))
        if other is None:
            yield found
        else:
            is_stated = ~np.isnan(due)
            yield Found(*(np.where(is_stated, a, b) for a, b in zip(found.parts, other.parts, strict=True)))


def _shaped(found: Found, shape: Shape) -> Found:
    """Give all arrays a shape."""
    return Found(*(part.reshape(shape) for part in found.parts))


def _stacked(answers: Sequence[Answer], number: int, axis: int) -> Found:
    """Stack what several answers have for the input of a number."""
    if not answers:
        return EMPTY
    columns = zip(*(each[number].parts for each in answers), strict=True)
    return Found(*(np.stack(parts, axis) for parts in columns))


def pieces(case: Case) -> Iterator[Case]:
    """Yield the cases that a case is made of: one for each unit cotangent or tangent, or for each point of the batch.

    A case that asks for neither, and a pointwise one, which is answered as it is, are their own only pieces.
    """
    if case.units and not case.is_pointwise:
        yield from _unit_cases(case)
    elif case.each and not case.is_pointwise:
        whole = replace(case, each=False, promise=case.inside)
        yield from (whole.at(index) for index in np.ndindex(case.batch))
    else:
        yield case


def _unit_cases(case: Case) -> Iterator[Case]:
    """Yield a case for each unit tangent of the inputs that are asked for, or for each unit cotangent."""
    one = replace(case, units=False, promise=case.inside)
    if case.word in {"f", "ff"}:
        for number in case.asked:
            for element in range(case.primals[number].size):
                yield replace(one, only_tangent=(number, element))
        return
    for element in range(case.cotangent.size):
        unit = np.zeros(case.cotangent.size)
        unit[element] = 1
        yield replace(one, cotangent=unit.reshape(case.cotangent.shape))


def _evaluated(case: Case) -> Answer:
    """Answer a case that is one piece: by arrays if they may decide, and by flint where they do not."""
    if is_for_arrays(case) and (rough := in_arrays(case)) is not None:
        if is_rough(case):
            found, undecided = _from_long(case, rough)
        else:
            found = tuple(_from_balls(*each) for each in rough)
            undecided = [~_is_decided(balls, is_hard=is_hard(case)) for balls, _ in rough]
        if is_hard(case):
            # there torch's rule decides, which flint asks
            undecided += [~np.isfinite(primal) for primal in case.primals]
        return sharpened(case, found, undecided)
    return by_flint(case)


def _replaced(found: Answer, better: Answer, doubtful: Mask) -> Answer:
    """Put better answers in the place of the doubtful points of a pointwise case."""
    for rough, good in zip(found, better, strict=True):
        for part, mended in zip(rough.parts, good.parts, strict=True):
            part.ravel()[doubtful] = mended  # a view: parts are contiguous
    return found


def sharpened(case: Case, found: Answer, doubtful: Sequence[Mask]) -> Answer:
    """Have flint answer a case anew where its answer is doubtful: `doubtful` has masks over the points.

    A case that is not pointwise is answered as a whole by flint, if any of it is doubtful.
    """
    if not any(mask.any() for mask in doubtful):
        return found
    if not case.is_pointwise:
        return by_flint(case)
    pending = np.any([mask.ravel() for mask in doubtful], axis=0)
    return _replaced(found, by_flint(case.only(pending)), pending)


def in_arrays(case: Case, *, widened: bool = True) -> tuple[tuple[Balls, Mask], ...] | None:
    """Evaluate a case in balls on whole arrays, widened by rounding or not, and say where a rule gave the value.

    Of hard points at which the rule for kinks and edges decides nothing is said: the midpoint is NaN. Returns None
    where numpy lacks a function, or long doubles are no wider than float64.
    """
    asked = derivative.of_case(case, saved=True)  # of the same value as the textbook's, and rounded as torch rounds
    ruled: dict[Step, Mask] = {}
    rounded = rounding(case.form, case.inside, independent=case.independent) if widened else NO_ROUNDING
    try:
        arithmetic = Arrays(rounded, _is_beyond_float64(case), ruled)
        with precision(CONSTANT_BITS), np.errstate(all="ignore"):
            found = evaluate(asked.results, derivative.given(case), arithmetic, [asked.function.output])
    except UnsupportedExpressionError:
        return None
    flags = flagged(asked.results, ruled) if ruled else [np.zeros(step.shape, dtype=bool) for step in asked.results]
    whole = [balls.repeated(step.shape) for balls, step in zip(found, asked.results, strict=True)]
    if ruled and is_hard(case):
        whole = [type(b)(np.where(flag, np.nan, b.mid), b.rad) for b, flag in zip(whole, flags, strict=True)]
    return tuple(zip(whole, flags, strict=True))


def _is_decided(balls: Balls, *, is_hard: bool) -> Mask:
    """Say where arrays decide: where value and reach are finite, and the reach of a hard point is small beside it."""
    largest = np.finfo(np.float64).max
    most = balls.size * 2.0**-CONDITION if is_hard else largest
    decided: Mask = (balls.size <= largest) & (True if balls.rad is None else balls.rad <= most)
    return decided


def _from_balls(balls: Balls, by_convention: Mask) -> Found:
    """Answer by widened balls: the midpoint is the truth, whose error is the part `own` of the reach."""
    outer = balls.outer()
    radius = np.zeros(balls.mid.shape) if outer is None else np.broadcast_to(outer * (1 + balls.own), balls.mid.shape)
    return _found(balls.mid, radius, by_convention)


def _found(mid: Floats, radius: Floats, by_convention: Mask) -> Found:
    """Return what is found, of a midpoint that may have more bits than float64."""
    with np.errstate(all="ignore"):
        centre = mid.astype(np.float64)
        rest = np.zeros(mid.shape) if mid.dtype == centre.dtype else (mid - centre).astype(np.float64)
        found = Found(centre, rest, np.zeros(mid.shape), radius.astype(np.float64), by_convention)
    return Found(*map(np.array, found.parts))  # copies, which are mended in place; of a scalar too, an array


def _from_long(case: Case, rough: Sequence[tuple[Balls, Mask]]) -> tuple[Answer, list[Mask]]:
    """Answer a case of hard points in float64 by long doubles, and say where they do not decide.

    The truth has balls of its own here. The allowance is smaller than flint's by all that the two may be off by, so
    that what it allows flint allows too.
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
    """Answer a case by flint alone: the truth at a precision that certifies it, and the allowance around it."""
    truths, flags = certified(case)
    return tuple(_reached(*each) for each in zip(truths, allowed(case), flags, strict=True))


def is_hard(case: Case) -> bool:
    """Say whether the points are hard: those of one elementwise op, which are drawn where gradients go wrong."""
    return case.tree.is_single and case.tree.root.op.elementwise and case.promise is None


def is_for_arrays(case: Case) -> bool:
    """Say whether arrays are asked first: always, but not for hard points in 16-bit formats, nor in a sine of a sum.

    There terms of second order in the reach count, which flint encloses more tightly.
    """
    return not is_hard(case) or (case.form.precision >= FILTERED_BITS and not _turns(case.tree.root.op))


def is_rough(case: Case) -> bool:
    """Say whether an answer is rough: that of hard points in float64, whose truth may be off by ROUGH half ulps."""
    is_whole = not case.stated and (case.is_pointwise or not (case.units or case.each))
    return is_whole and is_hard(case) and _is_beyond_float64(case) and is_for_arrays(case)


def doubt(case: Case) -> float:
    """Return the part of its allowance that an answer's truth may be off by, where arrays decided; 0 else.

    For a rough answer it is 0, since its allowance is smaller by that error already.
    """
    if not is_for_arrays(case) or is_rough(case):
        return 0.0
    return LongWidened.own if _is_beyond_float64(case) else Widened.own


def _is_beyond_float64(case: Case) -> bool:
    """Say whether float64 has too few bits to certify values of the format of a case: arrays take long doubles then."""
    return case.form.precision > FILTERED_BITS


@cache
def _turns(op: Op) -> bool:
    """Say whether an op has a sine or cosine of an expression: near an extreme it moves to one side alone."""
    return any(not each.args[0].is_Symbol for each in sympy.S(op.formula).atoms(sympy.sin, sympy.cos))


def _split(truth: Array) -> tuple[Floats, Floats]:
    """Return the floats nearest to the midpoints of balls, and what is left of these."""
    balls = truth.ravel().tolist()
    centre = np.fromiter(map(float, balls), np.float64, len(balls))
    with precision(160):
        rest = np.fromiter(map(float, map(arb.__sub__, balls, centre.tolist())), np.float64, len(balls))
    if not np.isfinite(centre).all():
        rest[~np.isfinite(centre)] = 0  # infinity less infinity is NaN
    return centre.reshape(truth.shape), rest.reshape(truth.shape)


def certified(case: Case, bits: int = 0) -> tuple[list[Array], list[Mask]]:
    """Return the certified derivative by each input, in flint's balls, and where torch's rule gave it.

    `bits` is the precision to begin with, by default enough where nothing cancels. Raises UncertifiedError.
    """
    asked = derivative.of_case(case, saved=False)
    given, form = derivative.given(case), case.form
    if not case.is_pointwise:
        return certified_steps(asked.results, given, form, bits)
    bits = bits or form.precision + 2 * GUARD_BITS
    values, flags = _enclosed_by_flint(asked.results, given, form, bits)
    pending = np.zeros(case.point_count, dtype=bool)
    for value, flag in zip(values, flags, strict=True):
        sure = (is_sure or is_certified(ball, form) for ball, is_sure in zip(value.flat, flag.flat, strict=True))
        if not _are_certified(value, flag, form):
            pending |= ~np.fromiter(sure, dtype=bool, count=value.size)
    if pending.any():
        if bits >= MOST_BITS:
            raise UncertifiedError(UNCERTIFIED.format(form.name))
        # of a pointwise case only the points that are not certified yet are asked at a higher precision
        for value, better in zip(values, certified(case.only(pending), 2 * bits)[0], strict=True):
            value.ravel()[pending] = better
    return values, flags


def certified_steps(
    roots: Sequence[Step], given: Mapping[str, Any], form: Format, bits: int = 0
) -> tuple[list[Array], list[Mask]]:
    """Evaluate steps by flint, from `bits` of precision on, doubled until each entry is certified.

    Also says where torch's rule gave a value. Raises UncertifiedError.
    """
    bits = bits or form.precision + 2 * GUARD_BITS
    while bits <= MOST_BITS:
        values, flags = _enclosed_by_flint(roots, given, form, bits)
        if all(_are_certified(value, flag, form) for value, flag in zip(values, flags, strict=True)):
            return values, flags
        bits *= 2
    raise UncertifiedError(UNCERTIFIED.format(form.name))


def has_limits(case: Case) -> bool:
    """Say whether the derivative of a case at infinite inputs is finite in balls: it is a limit there.

    Steps that have no limit are NaN in balls, and all others are continuous.
    """
    asked = derivative.of_case(case, saved=False)
    values, _ = _enclosed_by_flint(asked.results, derivative.given(case), case.form, 2 * case.form.precision)
    return all(ball.is_finite() for value in values for ball in value.ravel().tolist())


def _enclosed_by_flint(
    roots: Sequence[Step], given: Mapping[str, Any], form: Format, bits: int
) -> tuple[list[Array], list[Mask]]:
    """Evaluate steps by flint at a precision, and say where a rule gave the value."""
    arithmetic = Exact(form=form)
    with precision(bits):
        values = evaluate(roots, given, arithmetic)
    if arithmetic.ruled:
        return values, flagged(roots, arithmetic.ruled)
    return values, [np.zeros(step.shape, dtype=bool) for step in roots]


def _are_certified(value: Array, flags: Mask, form: Format) -> bool:
    """Say whether each ball is certified, or a rule gave it: first by what settles most arrays, then ball by ball."""
    balls = value.ravel().tolist()
    accuracies = list(map(arb.rel_accuracy_bits, balls))
    if not balls or (
        min(accuracies) >= form.precision + GUARD_BITS
        and (max(accuracies) < MOST_BITS or all(map(arb.is_finite, balls)))  # what is exact may be infinite
    ):
        return True
    return all(flag or is_certified(ball, form) for ball, flag in zip(balls, flags.ravel().tolist(), strict=True))


def is_certified(ball: arb, form: Format) -> bool:
    """Say whether a ball is tight enough to judge a value of the format by, relative to it or to the least subnormal.

    A NaN ball and a very wide one contain everything, so that this must come before any `contains`.
    """
    if not ball.is_finite():
        return False
    if ball.rel_accuracy_bits() >= form.precision + GUARD_BITS:
        return True
    return bool(ball.rad() * 2**GUARD_BITS <= form.smallest_subnormal)


def allowed(case: Case) -> list[Array]:
    """Return what rounding may make of the derivative by each input, in flint's balls."""
    asked = derivative.of_case(case, saved=True)
    arithmetic = Exact(rounding(case.form, case.inside, independent=case.independent), case.form)
    with precision(64):  # little beside the widening, even of float64
        return evaluate(asked.results, derivative.given(case), arithmetic, [asked.function.output])


def _reached(truth: Array, wide: Array, flags: Mask) -> Found:
    """Return what is found, of the certified truth and of what rounding may make of it."""
    centre, rest = _split(truth)
    offset, radius = np.zeros(truth.size), np.zeros(truth.size)
    with precision(160):  # centre and rest have 106 bits, and what is left is small beside them
        for number, (true, ball) in enumerate(zip(truth.ravel().tolist(), wide.ravel().tolist(), strict=True)):
            if true.is_finite():
                radius[number] = math.inf  # rounding may make anything of it, unless its ball is finite
                if ball.is_finite():
                    away = ball - true  # its radius is the sum of both
                    offset[number], radius[number] = float(away), float(away.rad().upper())
    return Found(centre, rest, offset.reshape(truth.shape), radius.reshape(truth.shape), flags)


def value(case: Case) -> Array:
    """Return the certified value of the function of a case, before the sum or mean at its root.

    Raises UncertifiedError.
    """
    ((found,), _) = certified_steps([derivative.value_of(case).output], derivative.given(case), case.form)
    return found


def value_allowance(case: Case) -> Array:
    """Return what rounding makes of the value of the function of a case."""
    with precision(64):
        (found,) = evaluate([derivative.value_of(case).output], derivative.given(case), Exact(Rounding(case.form)))
    return found


def filtered(case: Case) -> tuple[Balls, ...] | None:
    """Return the allowance of one op at many points, by float64 alone: what lies well within needs no certificate.

    The midpoint is NaN where float64 is not certain enough, and where the rule for kinks and edges may decide. Returns
    None where there are few points, or where the case is none that float64 can filter.
    """
    if (
        case.stated
        or not (case.is_pointwise and case.tree.is_single)
        or case.point_count < FEWEST_POINTS
        or _is_beyond_float64(case)
    ):
        return None
    found = in_arrays(case)
    if found is None:
        return None
    form, trusted = case.form, np.ones(case.batch, dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        for balls, _ in found:
            reach = np.zeros(balls.mid.shape) if balls.rad is None else balls.rad
            # a reach of a quarter of the value, or of some subnormals: beyond, its second order matters; arbitrary
            trusted &= np.isfinite(balls.mid) & (reach * 4 <= balls.size + 32 * form.smallest_subnormal)
    return tuple(type(balls)(np.where(trusted & ~ruled, balls.mid, np.nan), balls.rad) for balls, ruled in found)


def has_overflow(case: Case, *, results: bool) -> bool:
    """Say whether a value on the way to the derivative of a case overflows: its format cannot hold it.

    These values are the function itself, derivatives of lower order, and every step between. With `results`, the
    derivative counts too: with cotangents of 1 it is the local derivative, which a kernel may compute first.
    """
    asked = derivative.of_case(case, saved=False)
    # the gradient counts for every word, though a pushforward of a pushforward does without it
    lower = derivative.of_case(replace(case, word="r"), saved=False).results if case.order > 1 else ()
    rounded = {asked.function.output, *asked.before, *lower}
    last = set(asked.results) - rounded
    steps = [step for step in ordered([*rounded, *last]) if results or step not in last]
    inside = rounding(case.form, case.inside).steps or case.form  # what steps in between are held in
    values = None if case.is_pointwise else _rough_sizes(case, steps)
    if values is None:
        values = [_sizes(array) for array in _evaluated_steps(case, steps)]
    largest = [float(np.fmax.reduce(sizes, axis=None, initial=0.0)) for sizes in values]  # the largest that is known
    rounded |= last  # results are held in the format of the case, whatever the op computes in
    return any(
        size > (case.form if step in rounded else inside).largest for step, size in zip(steps, largest, strict=True)
    )


def _rough_sizes(case: Case, steps: Sequence[Step]) -> list[Floats] | None:
    """Return the magnitudes of steps by arrays; None where numpy lacks a function that they need."""
    try:
        with np.errstate(all="ignore"):
            arithmetic = Arrays(long=_is_beyond_float64(case))
            return [balls.size for balls in evaluate(steps, derivative.given(case), arithmetic)]
    except UnsupportedExpressionError:
        return None


def _evaluated_steps(case: Case, steps: Sequence[Step]) -> list[Array]:
    """Evaluate steps by flint; with more bits where a ball stays vague, as the exponential of a large argument does."""
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
    """Say whether the derivative by the input of a number may be 0 where each input is off by a share of itself."""
    asked = derivative.of_case(case, saved=False)
    nearby = arb(1, share)
    values: dict[str, Any] = dict(derivative.given(case))
    with precision(4 * case.form.precision):  # ample: the shares are as wide as an ulp
        for name, primal in ((f"x{i}", p) for i, p in enumerate(case.primals)):
            values[name] = objects([arb(v) * nearby for v in primal.ravel().tolist()], primal.shape)
        (found,) = evaluate([asked.results[case.asked.index(number)]], values, Exact())
    return any(ball.contains(0) for ball in found.ravel().tolist())
