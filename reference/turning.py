"""Where a formula of whole arrays turns: values of an element at which a step compares, or has a kink or an edge.

What vanishes at such a place is an array like any other. Where an element of it depends on one element of an input,
and is an affine function of that, two evaluations tell where it vanishes, whatever moves and constants lie between.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import sympy
from flint import arb

from reference.compiler import UnsupportedExpressionError
from reference.evaluation import Arrays, Exact, evaluate, moved
from reference.format import precision
from reference.graph import Detached, Gather, Input, Map, Through, mapped, ordered
from reference.scalars import turns
from reference.transform import slope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sympy import Expr, Symbol

    from reference.format import Floats, Integers
    from reference.graph import Shape, Step

    Mask = np.ndarray[Shape, np.dtype[np.bool_]]

PROBE = 2.0**-12
"""How far elements are moved to see how an argument changes: a power of two, so that differences are exact mostly."""

NEAR = 2.0**-48
"""The part of an argument's change that may be left where it was affine, and float64 rounded."""

NOTHING = 2.0**-70
"""A magnitude below which a value is taken for 0: float64 may not know better."""

EXACT_BITS = 2200
"""Bits by which sums of values of any format are exact."""


class Turn(NamedTuple):
    """What vanishes where a step turns."""

    argument: Step
    source: object
    """What turns: the same for the bounds of one clip, and for one function of the same arrays that is called twice."""

    is_ruled: bool
    """Whether torch's rule for kinks and edges says what the derivative is there; else it is that of a branch."""


class Crossing(NamedTuple):
    """A value at which a step turns."""

    turn: int
    """The number of what vanishes there."""

    element: int
    """The number of the element of the input that would have the value."""

    value: float


@lru_cache(maxsize=256)
def turns_of(output: Step) -> tuple[Turn, ...]:
    """Return what vanishes where the steps that an array is made of turn."""
    found: list[Turn] = []
    flat: set[Step] = set()
    for step in ordered([output]):
        if _is_flat(step, flat):
            flat.add(step)
        if isinstance(step, Map):
            moving = [e for e in _vanishing(step.expression) if not _is_flat(_argument(e, step), flat)]
            source = step if step.op is None else (step.op, step.sources)
            found += [Turn(_argument(e, step), source, step.op is not None) for e in moving]
    return tuple(found)


def _argument(expression: Expr, step: Map) -> Step:
    return mapped(expression, step.variables, step.sources)


@lru_cache(maxsize=4096)
def _is_level(expression: Expr, variable: Symbol) -> bool:
    return slope(expression, variable) == 0


def _is_flat(step: Step, flat: set[Step]) -> bool:
    """Say whether the elements of an array change in jumps alone, as truths do, where those of some others do."""
    if isinstance(step, Map):
        pairs = zip(step.variables, step.sources, strict=True)
        return all(source in flat or _is_level(step.expression, variable) for variable, source in pairs)
    return step in flat or (not isinstance(step, Input) and all(source in flat for source in step.sources))


@lru_cache(maxsize=4096)
def _vanishing(expression: Expr) -> tuple[Expr, ...]:
    """Return what vanishes where an expression compares, or has a kink or an edge: of a root too."""
    roots = {p.base for p in expression.atoms(sympy.Pow) if p.exp.is_Rational and not p.exp.is_Integer}
    return tuple(e for e in (*turns(expression), *sorted(roots, key=sympy.default_sort_key)) if e.free_symbols)


def crossings(output: Step, given: Mapping[str, Floats], name: str) -> list[Crossing]:
    """Return where single elements of an input would have to be for a step to turn, all else being as it is.

    What depends on several elements of the input, or not in an affine way, is left out.
    """
    if not any(isinstance(step, Input) and step.name == name for step in ordered([output])):
        return []
    owners = _owners([turn.argument for turn in turns_of(output)], name)
    found = []
    for number, (turn, owner) in enumerate(zip(turns_of(output), owners, strict=True)):
        if ((owner > 0) & (owner <= given[name].size)).any():
            found += [Crossing(number, *place) for place in _solved(turn.argument, owner, given, name)]
    return found


def _solved(argument: Step, owner: Integers, given: Mapping[str, Floats], name: str) -> Iterator[tuple[int, float]]:
    """Yield the elements by which an argument is affine, and the values of them at which it vanishes."""
    start = given[name].ravel()
    places = np.flatnonzero((owner.ravel() > 0) & (owner.ravel() <= start.size))
    elements = owner.ravel()[places] - 1

    def at(values: Floats) -> Floats:
        (found,) = evaluate([argument], {**given, name: values.reshape(given[name].shape)}, Arrays())
        return np.broadcast_to(found.mid, argument.shape).ravel()[places]

    goal = start
    with np.errstate(all="ignore"):
        try:
            before = at(start)
            slopes = (at(start + PROBE) - before) / PROBE
            for _ in range(2):  # the second step mends what differences have lost
                values = goal[elements] - at(goal) / slopes
                values = np.where(np.isfinite(values), np.where(np.abs(values) < NOTHING, 0, values), start[elements])
                goal = start.copy()
                goal[elements] = values
            left = np.abs(at(goal))
        except UnsupportedExpressionError:
            return
        is_met = (
            (slopes != 0) & (left <= NEAR * (np.abs(before) + np.abs(slopes * values))) & (goal[elements] == values)
        )
    yield from dict.fromkeys(zip(elements[is_met].tolist(), values[is_met].tolist(), strict=True))


def undecided(output: Step, given: Mapping[str, Floats], name: str) -> Mask:
    """Say at which elements of an input nothing tells what the derivative is.

    A rule tells it of one kink, not where two steps turn that it rules, or one and a branch: taken step by step it is
    another than for the function as a whole. Nor is it told where no precision shows on which side of a turn it is.
    """
    whole = turns_of(output)
    owners = _owners([turn.argument for turn in whole], name)
    size = given[name].size
    meeting: dict[int, list[Turn]] = {}
    vague = np.zeros(given[name].shape, dtype=bool)
    with precision(EXACT_BITS):
        for turn, owner, balls in zip(
            whole, owners, evaluate([turn.argument for turn in whole], given, Exact()), strict=True
        ):
            for element, ball in zip(owner.ravel().tolist(), balls.ravel().tolist(), strict=True):
                if 0 < element <= size and ball.contains(0):
                    meeting.setdefault(element - 1, []).append(turn)
                    vague.ravel()[element - 1] |= not arb.is_exact(ball)
    for element, met in meeting.items():
        vague.ravel()[element] |= len({turn.source for turn in met}) > 1 and any(turn.is_ruled for turn in met)
    return vague


def _owners(roots: Sequence[Step], name: str) -> list[Integers]:
    """Say on which element of an input each element of some arrays depends, counted from 1.

    It is 0 where it depends on none, and larger than the number of elements where it may be on several.
    """
    owners: dict[Step, Integers] = {}
    several = 1 + max((s.size for s in ordered(roots) if isinstance(s, Input) and s.name == name), default=0)
    for step in ordered(roots):
        sources = [owners[source] for source in step.sources]
        match step:
            case Input() if step.name == name:
                owners[step] = np.arange(1, several).reshape(step.shape)
            case Gather():
                owners[step] = moved(sources[0], step)
            case Map() if sources:
                owners[step] = _joined(sources, several)
            case Detached() | Through():
                owners[step] = sources[0]
            case _:
                owners[step] = np.full(step.shape, several if any(source.any() for source in sources) else 0)
    return [owners[root] for root in roots]


def _joined(sources: Sequence[Integers], several: int) -> Integers:
    """Say on which element that depends which depends on some, each of which depends on one, or on several."""
    stacked = np.stack(np.broadcast_arrays(*sources))
    most = stacked.max(0)
    least = np.where(stacked == 0, most, stacked).min(0)
    return np.asarray(np.where(most == least, most, several))
