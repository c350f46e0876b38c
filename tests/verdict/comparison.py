"""The one comparison: every gradient is judged here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flint import arb, ctx

from reference.compiler import STEPS
from reference.oracle import NIL, Answer, answer, contributions, derivative_program, filtered, points, products, value
from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.case import Case
    from reference.format import Floats, Integers
    from reference.op import Shape
    from reference.oracle import Filtered, Reach
    from tests.subject.mode import Mode

VERDICTS = ("agrees", "inaccurate", "lost", "convention", "malformed")

UNSUPPORTED = "unsupported"
"""What is recorded where torch says that it has no kernel: counted and shown, neither a pass nor a miss."""

NO_KERNEL = (
    "not implemented for",  # of a dtype
    "Could not run 'aten::",  # of a device
    "_backward is not implemented",  # of a second derivative
    "that does not support it",  # of forward-mode, of a backward
    "we do not yet support",  # of vmap
    "has not been implemented yet",  # of forward-mode
    "must override the setup_context",  # of torch.func, for a function of the user's own
    "You must implement the jvp function",  # of forward-mode, likewise
    "does not have vmap support",  # likewise
    "vmap: inplace arithmetic",  # of vmap, for steps in place
    "No working C++ compiler found",  # of inductor
)
"""What torch says where it, or the function of a user's own, cannot be asked in a mode or a dtype."""

MARGIN = 0.5
"""The part of the allowance within which float64 may settle that a gradient agrees."""

REPEATS = 64
"""How often a point is repeated, where only torch's vectorised loop goes wrong at it."""


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
    ulp: float = float("inf")
    share: float = float("inf")

    @property
    def point(self) -> dict[str, float]:
        """The inputs at which it happened; of a tensor, elements are named x0, x1, ..."""
        named = {}
        for leaf, primal in zip(self.case.tree.leaves, self.case.primals, strict=True):
            if primal.size == 1:
                named[leaf.name] = float(primal.reshape(-1)[0])
            else:
                named |= {f"{leaf.name}{i}": float(v) for i, v in enumerate(primal.flat)}
        return named

    @property
    def expected(self) -> str:
        """The truth, correctly rounded to the format, as a hex float."""
        if self.truth is None:
            return "a gradient"
        if not self.truth.is_finite():
            return str(float(self.truth))
        rounded = self.case.form.round_enclosure(self.truth)
        return (float(self.truth) if rounded is None else rounded).hex()


@dataclass
class Judgement:
    """What the comparison of one gradient with the truth found."""

    compared: int = 0
    undecided: int = 0
    """Entries whose allowance is unbounded: finite non-zero values there are not judged."""

    overflowed: int = 0
    """Entries left out since the function itself overflows the format there."""

    worst_ulp: float = 0.0
    worst_share: float = 0.0
    at: dict[str, str] = field(default_factory=dict)
    """Where the worst error in ulp occurred."""

    misses: list[Miss] = field(default_factory=list)


def judged(case: Case, mode: Mode, device: str) -> Judgement:
    """Ask torch for a gradient and judge it; an exception of torch is a gradient that is not there.

    Raises UnsupportedError where torch says that it has no kernel.
    """
    try:
        gradients = mode.gradients(case, device)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
        if said := refusal(error, device):
            raise UnsupportedError(said) from error
        gradients = [None] * len(case.primals)
        return judge(case, gradients, device, instead=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return judge(case, gradients, device)


def refusal(error: Exception, device: str) -> str | None:
    """Return what torch said, in a line, where an exception says that it cannot do this at all.

    It is None where the exception says something else.
    """
    no_code = f"KeyError: {torch.device(device).type!r}"  # of inductor, which knows few devices
    return str(error).splitlines()[0] if any(said in str(error) for said in (*NO_KERNEL, no_code)) else None


def judge(case: Case, gradients: Sequence[torch.Tensor | None], device: str, instead: str = "None") -> Judgement:
    """Compare gradients, one for each input, with the certified truth.

    `instead` is what came where there is no gradient.
    """
    malformed = [
        Miss("malformed", leaf.name, case, case, fault or instead)
        for leaf, primal, gradient in zip(case.tree.leaves, case.primals, gradients, strict=True)
        if (fault := _malformed(gradient, primal, case, device)) is not None
    ]
    if malformed:
        return Judgement(compared=case.entries, misses=malformed)
    got = [binding.read(gradient) for gradient in gradients if gradient is not None]
    return judge_values(case, got)


def _malformed(gradient: torch.Tensor | None, primal: Floats, case: Case, device: str) -> str | None:
    """Say what is wrong with a gradient before its values are read; nothing to say of a missing one."""
    if gradient is None:
        return ""
    want = (tuple(primal.shape), binding.dtype(case.form), torch.device(device).type, torch.strided)
    have = (tuple(gradient.shape), gradient.dtype, gradient.device.type, gradient.layout)
    return None if have == want else f"shape, dtype, device, layout = {have} where {want} is due"


def judge_values(case: Case, gradients: Sequence[Floats]) -> Judgement:
    """Compare the values of gradients with the certified truth.

    Of many points, those with the same gradient are judged once, and those where float64 is enough
    to see that torch is right are left to it.
    """
    judgement = Judgement()
    whole = case
    if case.is_pointwise and case.points >= REPEATS:
        gradients = [gradient.ravel() for gradient in gradients]
        case, gradients = _picked(case, gradients, _distinct(case, gradients))
        rough = filtered(case)
        if rough is not None:
            case, gradients = _picked(case, gradients, ~_settled(case, rough, gradients, judgement))
    found = answer(case)
    for number in range(len(gradients)):
        _judge_input(case, found, number, gradients[number], judgement)
    judgement.misses = [replace(miss, whole=whole) for miss in judgement.misses]
    return judgement


def _picked(case: Case, gradients: Sequence[Floats], keep: np.ndarray[Shape, Any]) -> tuple[Case, list[Floats]]:
    return case.only(keep), [gradient[keep] for gradient in gradients]


def _distinct(case: Case, gradients: Sequence[Floats]) -> Integers:
    """Return the numbers of points that differ from each other, in their bits or those of the gradients, in order."""
    direction = [] if case.direction is None else [case.direction]
    rows = np.stack([column.ravel() for column in (*case.primals, case.cotangent, *direction, *gradients)], axis=1)
    whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    return np.sort(np.unique(whole, return_index=True)[1])


def _settled(
    case: Case, rough: Filtered, gradients: Sequence[Floats], judgement: Judgement
) -> np.ndarray[Shape, np.dtype[np.bool_]]:
    """Say at which points float64 is enough to see that every gradient is well inside its allowance.

    How far off they are is noted.
    """
    form, settled, errors = case.form, rough.trusted, []
    for got, truth, allowance in zip(gradients, rough.truth, rough.allowance, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(got - truth.mid)
            inside = distance + np.abs(allowance.mid - truth.mid) + truth.rad <= MARGIN * allowance.rad
            ordinary = inside & (got != 0) & (np.abs(truth.mid) < form.largest)
        settled = settled & (ordinary | (got == 0) & (np.abs(truth.mid) + truth.rad < NIL))
        errors.append((distance, form.ulp(truth.mid), allowance.rad))
    for number, (distance, ulp, radius) in enumerate(errors):
        judgement.compared += int(settled.sum())
        judgement.worst_share = max(
            judgement.worst_share, float((distance[settled] / np.maximum(radius[settled], NIL)).max(initial=0.0))
        )
        _note_worst(case, number, case.batch, np.where(settled, distance / ulp, 0), judgement)
    return settled


def _judge_input(case: Case, found: Answer, number: int, got: Floats, judgement: Judgement) -> None:
    truth, known = found.truth[number], found.reach[number]
    offset, radius, centre = known.offset, known.radius, known.centre
    distance = _distances(got, known)
    if bool((np.abs(offset) > radius).any()):
        message = f"the allowance of {case.tree} does not contain its certified derivative"
        raise OracleError(message)
    form, flat = case.form, got.ravel()
    unbounded = ~np.isfinite(radius) & np.isfinite(centre)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        inside = np.abs(distance - offset) <= radius
        reach = np.abs(centre) + radius + np.abs(offset)
        rounds_to_infinity = np.isinf(flat) & (reach >= form.largest) & (flat * (centre + offset) > 0)
        inside = np.where(np.isfinite(flat), inside, rounds_to_infinity & ~unbounded)
        inside = np.where(np.isfinite(centre), inside, flat == centre)
        ulp = np.abs(distance) / form.ulp(centre)
        share = np.where(distance == 0, 0.0, np.abs(distance) / (radius + np.abs(offset)))
    normal = (np.abs(centre) >= form.smallest_normal) & (np.abs(centre) <= form.largest)
    vanished = normal & ((flat == 0) | ~np.isfinite(flat))
    by_convention = found.by_convention[number].ravel()
    # a sum over a broadcast axis may cancel, as in a composition
    always_lost = case.tree.is_single and case.tree.root.op.elementwise and case.batches[number] == case.batch
    suspect = ~inside | (vanished & always_lost)
    undecided = unbounded & ~(vanished & always_lost)
    overflowed = np.zeros_like(undecided)
    for place in np.flatnonzero(suspect & ~undecided):
        index = tuple(int(i) for i in np.unravel_index(int(place), got.shape))
        miss = _miss(case, number, index, flat[place], truth.ravel()[place], ulp[place], share[place])
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


def _distances(got: Floats, reach: Reach) -> Floats:
    """Return got - truth, infinite where the truth is; values near it are subtracted exactly."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isfinite(reach.centre), got.ravel() - reach.centre - reach.rest, np.inf)


def _miss(case: Case, number: int, index: Shape, got: float, truth: arb, ulp: float, share: float) -> Miss:
    leaf = case.tree.leaves[number]
    return Miss(
        "agrees", leaf.name, isolated(case, number, index), case, float(got).hex(), truth, float(ulp), float(share)
    )


def isolated(case: Case, number: int, index: Shape) -> Case:
    """Return the case at the point that an entry of a gradient comes from, where there is one."""
    batch = case.batches[number]
    if batch != case.batch or case.root != "cotangent":
        return case
    return case.at(tuple(int(i) for i in index[: len(batch)]))


@lru_cache(maxsize=4096)
def overflows(case: Case) -> bool:
    """Say whether the format cannot hold the function itself, or one of the terms of its gradient.

    A gradient there is moot: an overflow of the forward, of the local derivative that the cotangent
    multiplies, or of a term of a sum over a broadcast axis, is not the derivative's fault.
    """
    if not all(
        case.tree.root.op.interval(leaf.name).encloses(v, v)
        for leaf, p in zip(case.tree.leaves, case.primals, strict=True)
        for v in np.unique(p).tolist()
    ):
        return False
    local = replace(
        case,
        cotangent=np.ones_like(case.cotangent),
        direction=None if case.direction is None else np.ones_like(case.direction),
    )
    is_local = (case.cotangent == 1).all() and (case.direction is None or (case.direction == 1).all())
    terms = contributions(local) if case.tree.is_single and not is_local else []
    terms += contributions(case) if case.points > 1 else []
    if case.along is not None:
        terms += [row for asked in (case, local) for row in contributions(replace(asked, along=None, direction=None))]
    return any(abs(ball) > case.form.largest for row in (*value(case), *terms, *products(case)) for ball in row)


def _may_vanish(case: Case, number: int, got: float) -> bool:
    """Say whether 0 is the derivative at some input within k roundings of this one.

    Near a root of the derivative cancellation may leave exactly 0; a derivative that is merely
    small has no such excuse.
    """
    if got != 0:
        return False
    program = derivative_program(case)
    nearby = arb(1, STEPS * case.form.unit)
    count, rows = len(case.tree.leaves), points(case)
    ctx.prec = 4 * case.form.precision
    return any(
        program(*(a * nearby for a in arguments[:count]), *arguments[count:])[number].contains(0) for arguments in rows
    )


def _note_worst(case: Case, number: int, shape: Shape, ulp: Floats, judgement: Judgement) -> None:
    if not ulp.size or float(ulp.max()) < judgement.worst_ulp:
        return
    place = int(ulp.argmax())
    judgement.worst_ulp = float(ulp[place])
    point = isolated(case, number, tuple(int(i) for i in np.unravel_index(place, shape)))
    named = Miss("agrees", "", point, case, "").point
    judgement.at = {name: v.hex() for name, v in list(named.items())[:8]}
