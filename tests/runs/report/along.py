"""How far off the gradients of a tensor op are at real size, along the last axis of each input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.oracle import UncertifiedError, answer
from strategies.cases import real_cases
from tests.runs.report.sweep import CEILING, MODE, drawn
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
"""Places along an axis that are drawn; of a longer axis a power of two is taken together."""


LIGHT = 1e-12
"""What an ulp weighs beside the whole of an allowance."""


@dataclass(frozen=True)
class Stretch:
    """Some neighbouring places of an axis, and the entry of a gradient there that uses most of its allowance."""

    device: str
    dtype: str
    wrt: str
    place: int
    """The place of that entry."""

    ulp: float
    """Its distance from the truth, in ulps of the truth."""

    allowed: float
    """What rounding explains, in ulps."""

    state: str
    """``agrees``, ``known`` or ``new``."""


def stretches(op: Op, form: Format, device: str, known: Sequence[Deviation]) -> list[Stretch]:
    """Judge the gradients of a tensor op at real size, and return of each stretch the worst of the cases.

    There is nothing where torch does not have them all.
    """
    concerned = [d for d in known if d.concerns(op.name, form.name, MODE, device)]
    worst: dict[tuple[str, int], tuple[float, Stretch]] = {}
    for case in real_cases(op, form):
        for number, (weight, stretch) in _of_case(case, device, concerned):
            key = stretch.wrt, number
            worst[key] = max(worst.get(key, (weight, stretch)), (weight, stretch), key=lambda pair: pair[0])
    return [stretch for _, stretch in worst.values()]


def _of_case(case: Case, device: str, concerned: Sequence[Deviation]) -> Iterator[tuple[int, tuple[float, Stretch]]]:
    """Yield the number of each stretch of each gradient, with the entry there that weighs most, and its weight."""
    try:
        found = answer(case)
        gradients = [binding.read(g) for g in MODES[MODE].gradients(case, device) if g is not None]
    except (UncertifiedError, RuntimeError, TypeError, ValueError):
        return  # the table of verdicts says what torch answered
    if [g.shape for g in gradients] != [each.centre.shape for each in found]:
        return
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
    """Return the distance from the truth of each entry: its weight, in ulps, and the allowance in ulps.

    The weight is the share of the allowance. Where that is unbounded, and among equals, the larger distance weighs
    more.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        distance = np.nan_to_num(np.abs(got - found.centre - found.rest), nan=np.inf)
        allowed = found.radius + np.abs(found.offset)
        share = np.where((distance == 0) | np.isinf(allowed), 0.0, distance / allowed)
        ulps = distance / form.ulp(found.centre)
    return share + LIGHT * np.minimum(ulps, CEILING), ulps, allowed / form.ulp(found.centre)


def _worst_places(weight: Floats) -> Integers:
    """Return the flat number of the entry that weighs most in each stretch of the last axis."""
    rows = weight.reshape(-1, weight.shape[-1])
    length = rows.shape[1]
    step = 1 << max(0, (length - 1) // MOST).bit_length()
    found = []
    for start in range(0, length, step):
        part = rows[:, start : start + step]
        row, column = divmod(int(part.argmax()), part.shape[1])
        found.append(row * length + start + column)
    return np.array(found, dtype=np.int64)


def _states(
    case: Case, gradients: Sequence[Floats], places: Sequence[Integers], concerned: Sequence[Deviation]
) -> dict[tuple[str, int], str]:
    """Say of the entries at some places which are misses, by the name of the input and the place."""
    shown = []
    for found, got, picked in zip(answer(case), gradients, places, strict=True):
        is_drawn = np.zeros(got.size, dtype=bool)
        is_drawn[picked] = True
        keeps = is_within(found, got, case.form) | is_drawn.reshape(got.shape)
        shown.append(np.where(keeps, got, found.centre))  # in the place of a miss that is not drawn
    shapes = {case.tree.leaves[number].name: case.primals[number].shape for number in case.asked}
    return {
        (miss.wrt, int(np.ravel_multi_index(miss.index, shapes[miss.wrt]))): (
            "known" if any(d.covers(miss) for d in concerned) else "new"
        )
        for miss in judge_values(case, shown).misses
    }
