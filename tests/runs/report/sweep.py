"""How far off the gradient of an op is along its input line, beside what rounding explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reference.case import Case
from reference.convention import ruled_points
from reference.oracle import UncertifiedError, answer
from reference.tree import single
from tests.subject import binding
from tests.subject.mode import MODES
from tests.verdict.comparison import UnsupportedError, judged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reference.format import Floats, Format
    from reference.op import Op
    from tests.verdict.comparison import Miss
    from tests.verdict.deviation import Deviation

SMALLEST, LARGEST, DECADES = -6, 5, 30
"""The powers of ten between which inputs lie, and how many lie there on each side of 0, and again from -4 to 4."""

ELSEWHERE = 0.75
"""Where the other inputs of an op are, or as near to it as their domain is."""

CEILING = 1e9
"""The most ulps that are drawn; what is not finite is drawn there too."""

MODE = "backward"
"""The mode that errors are drawn of: plain reverse mode, which everyone uses."""


@dataclass(frozen=True)
class Spot:
    """One input of an op, and what was found there."""

    device: str
    dtype: str
    x: float
    """The op's first input."""

    ulp: float
    """The distance of torch's gradient from the truth, in ulps of the truth."""

    allowed: float
    """What rounding explains, in ulps."""

    state: str
    """``agrees``, ``known`` or ``new``."""


def inputs(op: Op, form: Format) -> Floats:
    """Return different values for the first input of an op inside its domain, in order.

    They are evenly spaced by powers of ten, and again around 0, with the kinks and 0 itself.
    """
    decades = np.logspace(SMALLEST, LARGEST, DECADES)
    fine = np.linspace(-4, 4, DECADES)
    kinks = [float(place[0]) for place in ruled_points(op)] if len(op.inputs) == 1 else []
    rounded = form.values(form.ordinals(np.concatenate([-decades, decades, fine, [0.0], kinks])))
    name = op.inputs[0]
    interval = op.interval(name)
    # an edge is asked whether or not it belongs to the domain: the rule for edges says what is due there
    edges = {float(edge) for edge in interval.edges}
    return np.unique([value for value in rounded.tolist() if value in edges or interval.encloses(value, value)])


def spots(op: Op, form: Format, device: str, known: Sequence[Deviation]) -> Iterator[Spot]:
    """Judge the gradient of an elementwise op by its first input along the line, and yield what is found at each.

    Nothing is yielded where torch does not have the gradient, or the oracle no truth. `device` is a name, and `known`
    are the deviations on file.
    """
    concerned = [d for d in known if d.concerns(op.name, form.name, MODE, device)]
    line = inputs(op, form)
    others = [np.full(line.shape, _inside(op, name)) for name in op.inputs[1:]]
    case = Case(
        single(op), form, tuple(form.values(form.ordinals(column)) for column in (line, *others)), np.ones(line.shape)
    )
    try:
        judgement = judged(case, MODES[MODE], device)
        found = answer(case)[0]
    except (UnsupportedError, UncertifiedError):
        return
    # a judgement keeps only the worst error, so that torch is asked again for all of them
    gradient = MODES[MODE].gradients(case, device)[0]
    assert gradient is not None
    got = binding.on_host(gradient)
    first = op.inputs[0]
    missed = {miss.point[first]: known_or_new(miss, concerned) for miss in judgement.misses if miss.wrt == first}
    with np.errstate(invalid="ignore", over="ignore"):
        ulp = form.ulp(found.centre)
        # Infinities that are the same are no distance apart, and their difference is NaN.
        is_finite = np.isfinite(got) & np.isfinite(found.centre)
        same = (got == found.centre) | (is_finite & (got - found.centre - found.rest == 0))
        distance = np.where(same, 0.0, np.abs(got - found.centre - found.rest) / ulp)
        allowed = (found.radius + np.abs(found.offset)) / ulp
    for x, off, may in zip(line.tolist(), distance.tolist(), allowed.tolist(), strict=True):
        yield Spot(device, form.name, x, drawn(off), drawn(may), missed.get(x, "agrees"))


def known_or_new(miss: Miss, concerned: Iterable[Deviation]) -> str:
    """Return ``known`` where one of the deviations that concern a miss covers it, and ``new`` where none does."""
    return "known" if any(deviation.covers(miss) for deviation in concerned) else "new"


def drawn(ulps: float) -> float:
    """Return ulps with three digits, or the most that are drawn."""
    return float(f"{min(ulps, CEILING) if np.isfinite(ulps) else CEILING:.3g}")


def _inside(op: Op, name: str) -> float:
    """Return a value inside the domain of an input: `ELSEWHERE`, or the middle of the domain within 8 of 0."""
    lower, upper = op.interval(name).clipped(8)
    return ELSEWHERE if lower < ELSEWHERE < upper else (lower + upper) / 2
