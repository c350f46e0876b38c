"""How far off the gradients of a tensor op are at real size, along the last axis of each input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.oracle import UncertifiedError, answer
from strategies.cases import real_cases
from tests.runs.report.sweep import CEILING, MODE, drawn, known_or_new
from tests.subject import binding
from tests.subject.mode import MODES
from tests.verdict.comparison import is_within, judge_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.case import Case
    from reference.format import Floats, Format, Integers
    from reference.op import Op
    from reference.oracle import Found
    from tests.verdict.deviation import Deviation

DTYPES = ("float32", "bfloat16")
"""The formats in which it is drawn: one in which sums are in the format itself, and one that promises more."""

MOST = 256
"""Places along an axis that are drawn: of a longer axis as many neighbours as a power of two are drawn as one."""

LIGHT = 1e-12
"""What an ulp weighs beside the whole of an allowance: so little that it decides among equals alone."""


@dataclass(frozen=True)
class Stretch:
    """Some neighbouring places of an axis, and the entry of a gradient there that uses most of its allowance."""

    device: str
    dtype: str
    wrt: str
    """The input that the gradient is by."""

    place: int
    """The place of that entry."""

    ulp: float
    """Its distance from the truth, in ulps of the truth."""

    allowed: float
    """What rounding explains, in ulps."""

    state: str
    """``agrees``, ``known`` or ``new``."""


def stretches(op: Op, form: Format, device: str, known: Sequence[Deviation]) -> list[Stretch]:
    """Judge the gradients of a tensor op at real size, and return each stretch with the worst entry of all cases.

    A case for which torch does not have every gradient is left out. `device` is a name, and `known` are the deviations
    on file.
    """
    concerned = [d for d in known if d.concerns(op.name, form.name, MODE, device)]
    worst: dict[tuple[str, int], tuple[float, Stretch]] = {}
    # a case may have fewer stretches than another: what is compared is those of one number
    for case in real_cases(op, form):
        for number, (weight, stretch) in _of_case(case, device, concerned):
            key = stretch.wrt, number
            worst[key] = max(worst.get(key, (weight, stretch)), (weight, stretch), key=lambda pair: pair[0])
    return [stretch for _, stretch in worst.values()]


def _of_case(case: Case, device: str, concerned: Sequence[Deviation]) -> Iterator[tuple[int, tuple[float, Stretch]]]:
    """Yield the number of each stretch of each gradient, with the entry there that weighs most, and its weight."""
    try:
        found = answer(case)
        gradients = [binding.on_host(g) for g in MODES[MODE].gradients(case, device) if g is not None]
    except (UncertifiedError, RuntimeError, TypeError, ValueError):
        return  # the table of verdicts says what torch answered
    if [g.shape for g in gradients] != [each.centre.shape for each in found]:
        return  # likewise: a gradient is missing, or malformed
    errors = [_errors(each, got, case.form) for each, got in zip(found, gradients, strict=True)]
    places = [_worst_places(weight) for weight, _, _ in errors]
    states = _states(case, gradients, places, concerned)
    for wrt, (weight, ulp, allowed), picked in zip(case.asked, errors, places, strict=True):
        name, width = case.tree.leaves[wrt].name, weight.shape[-1]
        for number, place in enumerate(picked.tolist()):
            figures = drawn(float(ulp.flat[place])), drawn(float(allowed.flat[place]))
            state = states.get((name, place), "agrees")
            stretch = Stretch(device, case.form.name, name, place % width, *figures, state)
            yield number, (float(weight.flat[place]), stretch)


def _errors(found: Found, got: Floats, form: Format) -> tuple[Floats, Floats, Floats]:
    """Return of each entry its weight, its distance from the truth in ulps, and its allowance in ulps.

    The weight is the share of the allowance that the entry uses. Where the allowance is unbounded, and among equals,
    the larger distance weighs more.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        distance = np.nan_to_num(np.abs(got - found.centre - found.rest), nan=np.inf)
        allowed = found.radius + np.abs(found.offset)
        share = np.where((distance == 0) | np.isinf(allowed), 0.0, distance / allowed)
        ulps = distance / form.ulp(found.centre)
    # `np.minimum` keeps an infinite distance from outweighing every share
    return share + LIGHT * np.minimum(ulps, CEILING), ulps, allowed / form.ulp(found.centre)


def _worst_places(weight: Floats) -> Integers:
    """Return the flat number of the entry that weighs most in each stretch of the last axis."""
    rows = weight.reshape(-1, weight.shape[-1])
    length = rows.shape[1]
    step = 1 << max(0, (length - 1) // MOST).bit_length()  # the least power of two that leaves `MOST` places or fewer
    found = []
    for start in range(0, length, step):
        part = rows[:, start : start + step]
        row, column = divmod(int(part.argmax()), part.shape[1])
        found.append(row * length + start + column)
    return np.array(found, dtype=np.int64)


def _states(
    case: Case, gradients: Sequence[Floats], places: Sequence[Integers], concerned: Sequence[Deviation]
) -> dict[tuple[str, int], str]:
    """Return the state of each entry that is a miss, of those at some places, by the name of the input and the place.

    A judgement looks into each miss at length, so misses at other places have the truth in their place.
    """
    drawn_alone = []
    for found, got, picked in zip(answer(case), gradients, places, strict=True):
        is_drawn = np.zeros(got.size, dtype=bool)
        is_drawn[picked] = True
        keeps = is_within(found, got, case.form) | is_drawn.reshape(got.shape)
        drawn_alone.append(np.where(keeps, got, found.centre))
    shapes = {case.tree.leaves[number].name: case.primals[number].shape for number in case.asked}
    states = {}
    for miss in judge_values(case, drawn_alone).misses:
        place = int(np.ravel_multi_index(miss.index, shapes[miss.wrt]))
        states[miss.wrt, place] = known_or_new(miss, concerned)
    return states
