"""The one comparison: every gradient is judged here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flint import arb

from reference import oracle
from reference.balls import NIL
from reference.case import NARROW, PROMISES
from reference.compiler import ROUNDINGS
from reference.domain import REAL
from reference.format import fraction, precision
from reference.oracle import answer, filtered, may_be_zero
from tests.subject import binding, custody
from tests.verdict.isolation import asking, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.balls import Balls
    from reference.case import Case
    from reference.format import Floats, Format, Integers
    from reference.graph import Shape
    from reference.oracle import Found
    from tests.subject.custody import Overwritten
    from tests.subject.first_order import Gradients
    from tests.subject.mode import Mode

VERDICTS = ("agrees", "inaccurate", "lost", "convention", "malformed")
"""What a gradient may be found to be; of several misses the one that stands last here is told."""

BROKEN = ("hung", "crashed", "error")
"""What is recorded where a test did not end, or broke, the least grave first: it is never on file, as a miss may be."""

UNSUPPORTED = "unsupported"
"""What is recorded where torch says that it has no kernel: counted and shown, neither a pass nor a miss."""

NO_KERNEL = (
    "not implemented for",  # of a dtype
    "Could not run 'aten::",  # of a device
    "_backward is not implemented",  # of a second derivative
    "that does not support it",  # of forward-mode, of a backward
    "we do not yet support",  # of vmap
    "has not been implemented yet",  # of forward-mode
    "marked with @once_differentiable",  # of a second derivative, for a function of the user's own
    "must override the setup_context",  # of torch.func, for a function of the user's own
    "You must implement the jvp function",  # of forward-mode, likewise
    "does not have vmap support",  # likewise
    "vmap: inplace arithmetic",  # of vmap, for steps in place
    "No working C++ compiler found",  # of inductor
)
"""What torch says where it, or the function of a user's own, cannot be asked in a mode or a dtype."""

RAISED = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, Warning)
"""What torch, or a user's own function, raises in the place of a gradient, or warns of where that is an error."""

UNTRACED = ("INTERNAL ASSERT FAILED", "Please convert all Tensors to FakeTensors first")
"""What the compiler says of itself where it cannot trace a transform."""

MARGIN = 0.5
"""The part of the allowance within which float64 may settle that a gradient agrees.

What is further out is left to certified arithmetic. The number is arbitrary.
"""

MOST_MISSES = 10_000
"""Misses of one case that are listed. The number is arbitrary."""

MOST_JUDGED = 16
"""Wrong entries of a gradient that `is_agreed` has judged in full: the first of them. The number is arbitrary."""

REPEATS = 64
"""How often a point is repeated, where only torch's vectorised loop goes wrong at it.

A register of 512 bits holds 32 values of 16 bits, and torch's loops take two registers at a time.
"""

PERIOD = 13
"""Different values that come in turn in a long tensor.

A prime divides no width of a register and no length of a block, so that each value comes at every position of one.
"""

MOST_NAMED = 256
"""Elements of inputs that are named one by one."""

MOST_RECORDED = 8
"""Inputs of the worst error that a judgement keeps, and a record shows."""


class UnsupportedError(NotImplementedError):
    """Torch says that it has no kernel for the dtype on the device."""


class OracleError(AssertionError):
    """The oracle contradicts itself."""


@dataclass(frozen=True)
class Miss:
    """One entry of a gradient that is not what it should be."""

    verdict: str
    wrt: str
    """The input that the derivative is with respect to."""

    case: Case
    """The case, at the one point where that is possible."""

    whole: Case
    """The case that was asked: some misses need its size or its layout."""

    got: str
    """What torch returned: a hex float, or what is malformed about it."""

    truth: arb | None = None
    """The certified derivative; None where no number came that could be compared with one."""

    ulp: float = float("inf")
    """The distance from the truth, in ulps of the truth."""

    share: float = float("inf")
    """That distance as a part of the allowance."""

    index: Shape = ()
    """The entry, in the whole case."""

    overwritten: Overwritten | None = None
    """A tensor that torch was given, or gave, and that changed; the gradients are not judged then."""

    @property
    def point(self) -> dict[str, float]:
        """The inputs at which it happened: the elements of a small tensor are named x0, x1, ...

        Of large ones there is only the element at the place of the entry.
        """
        case = self.case
        if sum(primal.size for primal in case.primals) > MOST_NAMED:
            return {
                f"{leaf.name}[{','.join(map(str, self.index))}]": float(primal[self.index])
                for leaf, primal in zip(case.tree.leaves, self.whole.primals, strict=True)
                if leaf.name == self.wrt and _is_index(self.index, primal.shape)
            }
        named = {}
        for leaf, primal in zip(case.tree.leaves, case.primals, strict=True):
            if primal.size == 1:
                named[leaf.name] = float(primal.reshape(-1)[0])
            else:
                named |= {f"{leaf.name}{i}": float(v) for i, v in enumerate(primal.flat)}
        return named

    @property
    def expected(self) -> str:
        """The truth, correctly rounded to the format, as a hex float."""
        if self.overwritten is not None:
            return f"{self.overwritten.name} as it was"
        if self.truth is None:
            return "a gradient"
        if not self.truth.is_finite():
            return str(float(self.truth))
        rounded = self.case.form.round_enclosure(self.truth)
        return (self.case.form.round(fraction(self.truth)) if rounded is None else rounded).hex()


@dataclass
class Judgement:
    """What the comparison of one gradient with the truth found."""

    compared: int = 0
    """Entries that were judged."""

    undecided: int = 0
    """Entries whose allowance is unbounded: finite non-zero values there are not judged."""

    overflowed: int = 0
    """Entries left out since the function itself overflows the format there."""

    worst_ulp: float = 0.0
    worst_share: float = 0.0
    at: dict[str, str] = field(default_factory=dict)
    """Where the worst error in ulp occurred."""

    misses: list[Miss] = field(default_factory=list)
    held: tuple[str, ...] = PROMISES
    """The promises of which every gradient could have come, the sharpest first."""


def judged(case: Case, mode: Mode, device: str) -> Judgement:
    """Ask torch for a gradient and judge it; an exception of torch is a gradient that is not there.

    Raises UnsupportedError where torch says that it has no kernel.
    """
    gradients: Gradients = [None] * len(case.asked)
    instead = "None"
    with custody.watched() as given:
        try:
            with asking(case, mode, device):
                gradients = mode.gradients(case, device)
        except RAISED as error:
            # in a format that an entry does not take, anything that is raised says that torch does not take it either
            is_taken = all(node.op.takes(case.form) for node in case.tree.applications)
            said = refusal(error, device) if is_taken else _first_line(error) or type(error).__name__
            if said:
                raise UnsupportedError(said) from error
            instead = f"{type(error).__name__}: {_first_line(error)}"
    with waiting():  # a device may answer long after it was asked
        overwritten = given.overwritten()
    if overwritten is not None:
        wrt = case.tree.leaves[case.asked[0]].name
        miss = Miss("malformed", wrt, case, case, str(overwritten), overwritten=overwritten)
        return Judgement(compared=case.entries, misses=[miss], held=())
    return judge(case, gradients, device, instead)


def refusal(error: Exception, device: str) -> str | None:
    """Return what torch said, in a line, where an exception says that it cannot do this at all.

    It is None where the exception says something else.
    """
    no_code = f"KeyError: {torch.device(device).type!r}"  # of inductor, which knows few devices
    # by its name: to import the class would import the compiler into every run
    is_compilers = type(error).__module__ == "torch._dynamo.exc"
    untraced = is_compilers and (type(error).__name__ == "Unsupported" or any(w in str(error) for w in UNTRACED))
    known = any(said in str(error) for said in (*NO_KERNEL, no_code))
    return _first_line(error) if untraced or known else None


def _first_line(error: Exception) -> str:
    """Return the first line of what an exception says, with the next where it ends in a colon; nothing of nothing."""
    first, _, rest = str(error).partition("\n")
    return f"{first} {rest.splitlines()[0]}" if first.endswith(":") and rest else first


def judge(case: Case, gradients: Sequence[torch.Tensor | None], device: str, instead: str = "None") -> Judgement:
    """Compare gradients, one for each input that is asked for, with the certified truth.

    `instead` is what came where there is no gradient. Raises UncertifiedError where the truth cannot be enclosed.
    """
    # The shapes of a vector are known without an answer, which is then only found for points that differ, below.
    due = case.asked_shapes if case.is_pointwise else [found.centre.shape for found in answer(case)]
    malformed = [
        Miss("malformed", case.tree.leaves[number].name, case, case, fault or instead)
        for number, shape, gradient in zip(case.asked, due, gradients, strict=True)
        if (fault := _malformed(gradient, shape, case, device)) is not None
    ]
    if malformed:
        return Judgement(compared=case.entries, misses=malformed, held=())
    with waiting():
        got = [binding.on_host(gradient) for gradient in gradients if gradient is not None]
    return judge_values(case, got)


def _malformed(gradient: torch.Tensor | None, shape: Shape, case: Case, device: str) -> str | None:
    """Say what is wrong with a gradient before its values are read; None where nothing is."""
    if gradient is None:
        return ""  # it is malformed, and the caller knows what came instead
    want = (tuple(shape), binding.dtype(case.form), torch.device(device).type, torch.strided)
    have = (tuple(gradient.shape), gradient.dtype, gradient.device.type, gradient.layout)
    return None if have == want else f"shape, dtype, device, layout = {have} where {want} is due"


def judge_values(case: Case, gradients: Sequence[Floats]) -> Judgement:
    """Compare the values of gradients with the certified truth.

    Of many points, those with the same gradient are judged once, and those where float64 is enough
    to see that torch is right are left to it.
    """
    judgement = Judgement()
    whole = case
    if case.is_pointwise and case.point_count >= REPEATS:
        gradients = [gradient.ravel() for gradient in gradients]
        case, gradients = _picked(case, gradients, _distinct(case, gradients))
    every, all_gradients = case, gradients
    # Three arithmetics, each for what the one before left open: float64 balls, the oracle's own choice, and flint.
    rough = filtered(case)
    if rough is not None:
        case, gradients = _picked(case, gradients, ~_settled(case, rough, gradients, judgement))
    answers = answer(case)
    if oracle.is_rough(case):
        doubtful = [_doubtful(found, got, case.form) for found, got in zip(answers, gradients, strict=True)]
        answers = oracle.sharpened(case, answers, doubtful)
    judged_entries = [
        _judge_input(case, found, number, got, judgement)
        for number, found, got in zip(case.asked, answers, gradients, strict=True)
    ]
    # a miss may need its neighbours in the tensor as it was asked, and not as it was thinned out above
    judgement.misses = [replace(miss, whole=whole) for miss in judgement.misses]
    if case.form.bits <= NARROW:
        judgement.held = tuple(_held(every, all_gradients, case, judged_entries, judgement))
    return judgement


def _doubtful(found: Found, got: Floats, form: Format) -> np.ndarray[Shape, np.dtype[np.bool_]]:
    """Say of which entries a rough answer does not decide: those that it does not allow, and what may be the worst."""
    with np.errstate(invalid="ignore", over="ignore"):
        ulp = np.abs(_distances(got, found)) / form.ulp(found.centre)
    inside = is_within(found, got, form)
    worst = ulp[inside & np.isfinite(ulp) & np.isfinite(found.radius)].max(initial=0.0)
    # Not `ulp >= ...`: an error that is NaN is doubtful. A zero may be lost, which no allowance excuses.
    doubtful: np.ndarray[Shape, np.dtype[np.bool_]] = ~inside | (got == 0) | ~(ulp < worst - oracle.ROUGH)
    return doubtful


def _held(
    case: Case,
    gradients: Sequence[Floats],
    hard: Case,
    compared: Sequence[np.ndarray[Shape, Any]],
    judgement: Judgement,
) -> Iterator[str]:
    """Yield the promises that hold: where none of the gradients that were judged is further off than it allows.

    `hard` is the part of the case that float64 did not settle, and `compared` says which of its entries are not moot.
    """
    # What keeps the promise that is asked for keeps the looser ones, whose allowances contain its own.
    declared = PROMISES.index(case.inside)
    kept = () if judgement.misses else PROMISES[declared:]
    yield from kept
    for promise in sorted({*PROMISES} - {*kept, case.inside}, key=PROMISES.index):
        found = answer(replace(case, promise=promise))
        outside = [
            ~(is_within(each, got, case.form) | each.by_convention).ravel()
            for each, got in zip(found, gradients, strict=True)
        ]
        if hard is case:  # else the masks are of other points
            outside = [away & asked for away, asked in zip(outside, compared, strict=True)]
        if not any(away.any() for away in outside):
            yield promise


def _picked(case: Case, gradients: Sequence[Floats], keep: np.ndarray[Shape, Any]) -> tuple[Case, list[Floats]]:
    return case.only(keep), [gradient[keep] for gradient in gradients]


def _distinct(case: Case, gradients: Sequence[Floats]) -> Integers:
    """Return the numbers of points that differ from each other, in their bits or those of the gradients, in order."""
    # A row is compared as one string of bytes: so -0 differs from 0, and a NaN equals itself.
    direction = [] if case.direction is None else [case.direction]
    rows = np.stack([column.ravel() for column in (*case.primals, case.cotangent, *direction, *gradients)], axis=1)
    whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    return np.sort(np.unique(whole, return_index=True)[1])


def _settled(
    case: Case, rough: Sequence[Balls], gradients: Sequence[Floats], judgement: Judgement
) -> np.ndarray[Shape, np.dtype[np.bool_]]:
    """Say at which points float64 is enough to see that every gradient is well inside its allowance.

    The errors of those are noted in the judgement; the others are left to certified arithmetic.
    """
    form, settled, errors = case.form, np.ones(case.point_count, dtype=bool), []
    for got, balls in zip(gradients, rough, strict=True):
        reach = np.zeros(balls.mid.shape) if balls.rad is None else balls.rad
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(got - balls.mid)
            inside = distance <= MARGIN * reach
            ordinary = inside & (got != 0) & (np.abs(balls.mid) < form.largest)
            # a gradient of 0 is settled only where 0 is due, since elsewhere it may be lost, whatever the allowance
            settled = settled & (ordinary | (got == 0) & (np.abs(balls.mid) < NIL))
        errors.append((distance, form.ulp(np.nan_to_num(balls.mid)), reach))
    for number, (distance, ulp, radius) in zip(case.asked, errors, strict=True):
        judgement.compared += int(settled.sum())
        judgement.worst_share = max(
            judgement.worst_share,
            float((distance[settled] / np.maximum(radius[settled], NIL)).max(initial=0.0)),
        )
        _note_worst(case, number, case.batch, np.where(settled, distance / ulp, 0), judgement)
    return settled


def is_within(found: Found, got: Floats, form: Format) -> np.ndarray[Shape, np.dtype[np.bool_]]:
    """Say of each entry whether rounding explains it.

    An infinity is explained where the allowance reaches the format's largest number on that side, but not where the
    allowance is unbounded: such an entry is undecided. Where the truth is infinite, it is due exactly.
    """
    distance = _distances(got, found)
    unbounded = ~np.isfinite(found.radius) & np.isfinite(found.centre)
    with np.errstate(invalid="ignore", over="ignore"):
        inside = np.abs(distance - found.offset) <= found.radius
        reach = np.abs(found.centre) + found.radius + np.abs(found.offset)
        rounds_to_infinity = np.isinf(got) & (reach >= form.largest) & (got * (found.centre + found.offset) > 0)
        inside = np.where(np.isfinite(got), inside, rounds_to_infinity & ~unbounded)
        within: np.ndarray[Shape, np.dtype[np.bool_]] = np.where(np.isfinite(found.centre), inside, got == found.centre)
    return within


def is_agreed(case: Case, gradients: Sequence[Floats]) -> bool:
    """Say whether the gradients of a tensor op have no miss, as `judge_values` does, but soon where they have many.

    A miss is looked into at length, and thousands of them would take minutes. So only the first few wrong entries of
    each gradient are judged, and certified values stand in the place of the others.
    """
    judged_values, is_right = [], True
    for found, got in zip(answer(case), gradients, strict=True):
        inside = is_within(found, got, case.form)
        is_right &= bool(inside.all())
        is_first = np.cumsum(~inside).reshape(inside.shape) <= MOST_JUDGED
        judged_values.append(np.where(inside | is_first, got, found.centre))
    return is_right or not judge_values(case, judged_values).misses


def _judge_input(case: Case, found: Found, number: int, got: Floats, judgement: Judgement) -> np.ndarray[Shape, Any]:
    """Judge the gradient by one input, and note what is found; say which of its entries are not moot.

    Raises OracleError where the oracle's two answers, the truth and its allowance, contradict each other.
    """
    if bool((np.abs(found.offset) > found.radius).any()):
        message = f"the allowance of {case.tree} does not contain its certified derivative"
        raise OracleError(message)
    form, flat = case.form, got.ravel()
    centre, radius, offset = found.centre.ravel(), found.radius.ravel(), found.offset.ravel()
    distance, inside = _distances(got, found).ravel(), is_within(found, got, form).ravel()
    unbounded = (~np.isfinite(radius) & np.isfinite(centre)) | np.isnan(centre)  # no rule decides where it is NaN
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        ulp = np.abs(distance) / form.ulp(centre)
        share = np.where(distance == 0, 0.0, np.abs(distance) / (radius + np.abs(offset)))
    normal = (np.abs(centre) >= form.smallest_normal) & (np.abs(centre) <= form.largest)
    vanished = normal & ((flat == 0) | ~np.isfinite(flat))
    by_convention = found.by_convention.ravel()
    # Of one elementwise op what vanished is lost, whatever the allowance. Terms of a sum over a broadcast axis, and
    # those of a composition, may cancel to 0.
    always_lost = case.tree.is_single and case.tree.root.op.elementwise and case.batches[number] == case.batch
    suspect = ~inside | (vanished & always_lost)
    undecided = unbounded & ~(vanished & always_lost)
    overflowed = np.zeros_like(undecided)
    points: dict[Shape, Case] = {}  # one case for all the entries of a row, which share what is remembered of it
    for place in np.flatnonzero(suspect & ~undecided):
        if len(judgement.misses) >= MOST_MISSES:
            break  # enough to say what is wrong
        index = tuple(int(i) for i in np.unravel_index(int(place), got.shape))
        off = float(radius[place]) * oracle.doubt(case)
        truth = _ball(float(centre[place]), float(found.rest.ravel()[place]), off)
        row = index[: len(case.batches[number])]
        at = points[row] = points.get(row) or isolated(case, number, index)
        got_here, off_by = float(flat[place]).hex(), (float(ulp[place]), float(share[place]))
        miss = Miss("agrees", case.tree.leaves[number].name, at, case, got_here, truth, *off_by, index)
        # Only now is it asked whether the entry is moot: that takes an evaluation, and few entries are suspect.
        if not by_convention[place] and overflows(miss.case):
            overflowed[place] = True
            continue
        if by_convention[place]:
            judgement.misses.append(replace(miss, verdict="convention"))
        elif vanished[place] and not (inside[place] and _may_vanish(miss.case, number, flat[place])):
            judgement.misses.append(replace(miss, verdict="lost"))
        elif not inside[place]:
            judgement.misses.append(replace(miss, verdict="inaccurate"))
    compared = ~undecided & ~overflowed
    judgement.undecided += int(undecided.sum())
    judgement.overflowed += int(overflowed.sum())
    judgement.compared += int(compared.sum())
    _note_worst(case, number, got.shape, np.where(compared & np.isfinite(ulp), ulp, 0), judgement)
    shares = share[compared & np.isfinite(share)]
    judgement.worst_share = max(judgement.worst_share, float(shares.max(initial=0.0)))
    return ~overflowed


def _ball(centre: float, rest: float, off: float) -> arb:
    """Return the truth as a ball: the sum of its two parts, which may be off by so much where flint was not asked."""
    with precision(160):  # two float64 that do not overlap; what the sum has beyond 160 bits is in its radius
        if not np.isfinite(centre):
            return arb(centre)
        return arb(centre) + arb(rest) + (arb(0, off) if np.isfinite(off) else arb(0))


def _distances(got: Floats, found: Found) -> Floats:
    """Return got - truth, infinite where the truth is; values near it are subtracted exactly."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isfinite(found.centre), got - found.centre - found.rest, np.inf)


def isolated(case: Case, number: int, index: Shape) -> Case:
    """Return the case at the one point that an entry of a derivative comes from; the whole case where there is none.

    There is none for an input that was broadcast, whose entries are sums over points, nor where something else is
    asked for than a gradient with a cotangent: a sum or a mean, a Jacobian, or the change along a tangent of the whole.
    """
    batch = case.batches[number]
    pushed = "f" in case.word and not case.is_pointwise  # a tangent of the whole
    if not batch or batch != case.batch or case.root != "cotangent" or case.units or pushed:
        return case
    return case.at(tuple(int(i) for i in index[: len(batch)]))


def _is_index(index: Shape, shape: Shape) -> bool:
    return len(index) == len(shape) and all(i < n for i, n in zip(index, shape, strict=True))


@lru_cache(maxsize=4096)
def overflows(case: Case) -> bool:
    """Say whether the format cannot hold the function itself, or one of the terms of its derivative.

    A derivative there is moot: an overflow of the forward, of the local derivative that the cotangent
    multiplies, or of a term of a sum, is not the derivative's fault.
    """
    # Outside the domain the formula has no value that could be too large.
    bounded = (
        (case.tree.root.op.interval(leaf.name), p) for leaf, p in zip(case.tree.leaves, case.primals, strict=True)
    )
    if not all(interval.encloses(v, v) for interval, p in bounded if interval != REAL for v in np.unique(p).tolist()):
        return False
    if not all(np.isfinite(primal).all() for primal in case.primals):
        return False
    # the local derivative, before a cotangent or a direction multiplies it
    local = replace(
        case,
        cotangent=np.ones_like(case.cotangent),
        direction=None if case.direction is None else np.ones_like(case.direction),
    )
    is_local = (case.cotangent == 1).all() and (case.direction is None or (case.direction == 1).all())
    if oracle.has_overflow(case, results=False):
        return True
    return case.tree.is_single and not is_local and oracle.has_overflow(local, results=True)


def _may_vanish(case: Case, number: int, got: float) -> bool:
    """Say whether 0 is the derivative at some input within k roundings of this one.

    Near a root of the derivative cancellation may leave exactly 0; a derivative that is merely small has no such
    excuse.
    """
    return got == 0 and may_be_zero(case, number, ROUNDINGS * case.form.unit)


def _note_worst(case: Case, number: int, shape: Shape, ulp: Floats, judgement: Judgement) -> None:
    """Note the largest of some errors, and its inputs, where it is the largest of the judgement so far."""
    if not ulp.size or float(ulp.max()) < judgement.worst_ulp:
        return
    place = int(ulp.argmax())
    judgement.worst_ulp = float(ulp.ravel()[place])
    index = tuple(int(i) for i in np.unravel_index(place, shape))
    leaf = case.tree.leaves[number]
    named = Miss("agrees", leaf.name, isolated(case, number, index), case, "", index=index).point
    judgement.at = {name: v.hex() for name, v in list(named.items())[:MOST_RECORDED]}
