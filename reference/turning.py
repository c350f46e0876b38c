"""Where a formula of whole arrays turns: the values of an element at which a step compares, or has a kink or an edge.

What vanishes at a turn, x - 6 for a bound of 6, is an array like any other. Where an element of that array depends on
one element of an input, and is an affine function of it, two evaluations tell where it vanishes, whatever moves and
constants lie between.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import sympy
from flint import arb

from reference.compiler import UnsupportedExpressionError
from reference.evaluation import Arrays, Exact, evaluate, moved
from reference.format import EXACT_BITS, precision
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
"""How far elements are moved to measure a slope: a power of two, so that differences are mostly exact. Arbitrary."""

RESIDUAL = 2.0**-48
"""The share of its change that an argument may have left where it should vanish: the rounding of float64."""

NEGLIGIBLE = 2.0**-70
"""A magnitude below which a solution is taken for 0, which rounding of float64 would miss."""


class Turn(NamedTuple):
    """A kind of turn of a formula: where an array vanishes."""

    argument: Step
    """The array that vanishes there."""

    source: object
    """What turns: the same for both bounds of one clip, and for one function called twice with the same arrays."""

    is_ruled: bool
    """Whether torch's rule for kinks and edges says what the derivative is there; else it is that of a branch."""


class Crossing(NamedTuple):
    """A value at which a step turns."""

    turn: int
    """The number of the turn, in `turns_of`."""

    element: int
    """The number of the element of the input that would have the value."""

    value: float
    """The value, in float64."""


@lru_cache(maxsize=256)
def turns_of(output: Step) -> tuple[Turn, ...]:
    """Return the turns of the steps that an array is made of."""
    found: list[Turn] = []
    flat: set[Step] = set()  # steps that change in jumps alone, comparisons of which are no turns of their own
    for step in ordered([output]):
        if _is_flat(step, flat):
            flat.add(step)
        if isinstance(step, Map):
            moving = [e for e in _vanishing(step.expression) if not _is_flat(_argument(e, step), flat)]
            source = step if step.op is None else (step.op, step.sources)
            found += [Turn(_argument(e, step), source, step.op is not None) for e in moving]
    return tuple(found)


def _argument(expression: Expr, step: Map) -> Step:
    """Return an expression in the variables of a map as a step of the same sources."""
    return mapped(expression, step.variables, step.sources)


@lru_cache(maxsize=4096)
def _is_level(expression: Expr, variable: Symbol) -> bool:
    """Say whether an expression is constant in a variable between its jumps."""
    return slope(expression, variable) == 0


def _is_flat(step: Step, flat: set[Step]) -> bool:
    """Say whether the elements of an array change in jumps alone, as truth values do; `flat` has sources that do."""
    if isinstance(step, Map):
        pairs = zip(step.variables, step.sources, strict=True)
        return all(source in flat or _is_level(step.expression, variable) for variable, source in pairs)
    return step in flat or (not isinstance(step, Input) and all(source in flat for source in step.sources))


@lru_cache(maxsize=4096)
def _vanishing(expression: Expr) -> tuple[Expr, ...]:
    """Return expressions that vanish where an expression compares, or has a kink or an edge, as roots have at 0."""
    roots = {p.base for p in expression.atoms(sympy.Pow) if p.exp.is_Rational and not p.exp.is_Integer}
    return tuple(e for e in (*turns(expression), *sorted(roots, key=sympy.default_sort_key)) if e.free_symbols)


def crossings(output: Step, given: Mapping[str, Floats], name: str) -> list[Crossing]:
    """Return the values of single elements of an input at which a step turns, all else being as it is given.

    `name` is that of the input. A turn that depends on several elements of it, or not in an affine way, is left out.
    """
    if not any(isinstance(step, Input) and step.name == name for step in ordered([output])):
        return []
    owners = _owners([turn.argument for turn in turns_of(output)], name)
    found = []
    for number, (turn, owner) in enumerate(zip(turns_of(output), owners, strict=True)):
        if ((owner > 0) & (owner <= given[name].size)).any():
            solutions = _solved(turn.argument, owner, given, name)
            found += [Crossing(number, element, value) for element, value in solutions]
    return found


def _solved(argument: Step, owner: Integers, given: Mapping[str, Floats], name: str) -> Iterator[tuple[int, float]]:
    """Yield the elements in which an argument is affine, and the value of each at which it vanishes.

    `owner` is that of the argument, as `_owners` gives it. All elements are moved at once, since each element of the
    argument depends on one of them; this is Newton's method, which of an affine function takes one step.
    """
    start = given[name].ravel()
    single = np.flatnonzero((owner.ravel() > 0) & (owner.ravel() <= start.size))
    elements = owner.ravel()[single] - 1

    def at(values: Floats) -> Floats:
        """Return the elements of the argument that depend on one of these values each."""
        (found,) = evaluate([argument], {**given, name: values.reshape(given[name].shape)}, Arrays())
        return np.broadcast_to(found.mid, argument.shape).ravel()[single]

    goal = start
    with np.errstate(all="ignore"):
        try:
            before = at(start)
            slopes = (at(start + PROBE) - before) / PROBE
            for _ in range(2):  # the second step mends what differences have lost
                values = goal[elements] - at(goal) / slopes
                values = np.where(
                    np.isfinite(values), np.where(np.abs(values) < NEGLIGIBLE, 0, values), start[elements]
                )
                goal = start.copy()
                goal[elements] = values
            left = np.abs(at(goal))
        except UnsupportedExpressionError:
            return
        # where the argument is not affine it does not vanish; where two elements of it want one input moved, one is met
        is_met = (
            (slopes != 0) & (left <= RESIDUAL * (np.abs(before) + np.abs(slopes * values))) & (goal[elements] == values)
        )
    yield from dict.fromkeys(zip(elements[is_met].tolist(), values[is_met].tolist(), strict=True))


def undecided(output: Step, given: Mapping[str, Floats], name: str) -> Mask:
    """Say at which elements of an input nothing determines what the derivative is.

    torch's rule determines it at one kink. It does not where two steps turn at once, of which it rules at least one:
    applied step by step it gives another result than for the function as a whole. Nor is the derivative determined
    where balls do not show, at any precision, on which side of a turn a value is.
    """
    whole = turns_of(output)
    owners = _owners([turn.argument for turn in whole], name)
    size = given[name].size
    meeting: dict[int, list[Turn]] = {}
    vague = np.zeros(given[name].shape, dtype=bool)
    with precision(EXACT_BITS):
        arguments = evaluate([turn.argument for turn in whole], given, Exact())
        for turn, owner, balls in zip(whole, owners, arguments, strict=True):
            for element, ball in zip(owner.ravel().tolist(), balls.ravel().tolist(), strict=True):
                # what is compared vanishes, or may: of exact inputs a ball that is not exact stays vague
                if 0 < element <= size and ball.contains(0):
                    meeting.setdefault(element - 1, []).append(turn)
                    vague.ravel()[element - 1] |= not arb.is_exact(ball)
    for element, met in meeting.items():
        vague.ravel()[element] |= len({turn.source for turn in met}) > 1 and any(turn.is_ruled for turn in met)
    return vague


def _owners(roots: Sequence[Step], name: str) -> list[Integers]:
    """Return for each element of some arrays the number, from 1, of the element of an input that it depends on.

    It is 0 where it depends on none, and one more than there are elements where it may depend on several.
    """
    owners: dict[Step, Integers] = {}
    several = 1 + max((s.size for s in ordered(roots) if isinstance(s, Input) and s.name == name), default=0)
    for step in ordered(roots):
        sources = [owners[source] for source in step.sources]
        match step:
            case Input() if step.name == name:
                owners[step] = np.arange(1, several).reshape(step.shape)
            case Gather():
                owners[step] = moved(sources[0], step)  # a 0 that is put in depends on none, which is 0 here too
            case Map() if sources:
                owners[step] = _common_owner(sources, several)
            case Detached() | Through():
                owners[step] = sources[0]
            case _:
                # sums and selections mix elements, and which ones does not matter here
                owners[step] = np.full(step.shape, several if any(source.any() for source in sources) else 0)
    return [owners[root] for root in roots]


def _common_owner(sources: Sequence[Integers], several: int) -> Integers:
    """Return the owner of what is computed from elements with these owners: several, unless those are one or none."""
    stacked = np.stack(np.broadcast_arrays(*sources))
    most = stacked.max(0)
    least = np.where(stacked == 0, most, stacked).min(0)  # among the sources that depend on any element
    return np.asarray(np.where(most == least, most, several))
