"""Derivatives as transformations of the graph: a pullback and a pushforward, each of which makes steps.

Scalars are differentiated by sympy, sums and moves by exchanging axes. What is made is a graph like any
other, so that a derivative of any order is these two applied in turn: `rf` is the pullback of a pushforward.
Where torch differentiates through a value that it saved, a step says so; with ``saved=True`` its derivative
refers to that value, which is how torch rounds. Without it the derivative is the textbook's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, Symbol

from reference.functions import Sign
from reference.graph import (
    Contract,
    Detached,
    Gather,
    Map,
    Ruled,
    Scatter,
    Select,
    Shift,
    Through,
    broadcast,
    contracted,
    gathered,
    mapped,
    ordered,
    reshaped,
    scattered,
    transposed,
    unbroadcast,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reference.graph import Saved, Step

SEEDS = tuple(Symbol(name, real=True) for name in ("cotangent", "direction", "direction2", "direction3", "direction4"))
"""What an element of a cotangent or tangent is called in an expression: the first for a first derivative, and so on."""

RESULT = Symbol("result", real=True)
"""A step's own result, where its derivative contains it."""


def slope(expression: Expr, variable: Symbol) -> Expr:
    """Return the derivative between jumps: that of sympy's own sign has an impulse at 0."""
    return sympy.diff(expression.replace(sympy.sign, Sign), variable)


def pullback(
    outputs: Sequence[Step], cotangents: Sequence[Step], inputs: Sequence[Step], *, saved: bool
) -> list[Step | None]:
    """Return the vector-Jacobian product: the gradient of the outputs, contracted with cotangents, by each input.

    The result has a step of the input's shape for each input; None where no output depends on it.
    """
    active = dependents(outputs, inputs, saved=saved)
    adjoints: dict[Step, list[Step]] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        adjoints.setdefault(output, []).append(cotangent)
    found: dict[Step, Step] = {}
    for step in reversed(ordered(outputs)):
        if step not in adjoints or step not in active:
            continue
        found[step] = total(adjoints[step])
        for number in _differentiated(step, saved=saved):
            if (
                step.sources[number] in active
                and (pulled := _pulled(step, number, found[step], saved=saved)) is not None
            ):
                for target, gradient in pulled:
                    adjoints.setdefault(target, []).append(gradient)
    return [found.get(each) for each in inputs]


def pushforward(outputs: Sequence[Step], tangents: Mapping[Step, Step], *, saved: bool) -> list[Step | None]:
    """Return the Jacobian-vector product: how each output changes along the tangents of some inputs.

    It is None for an output that does not change.
    """
    found: dict[Step, Step] = dict(tangents)
    active = dependents(outputs, list(tangents), saved=saved, pushed=True)
    for step in ordered(outputs):
        if step in found or step not in active:
            continue
        terms = [
            term
            for number in _differentiated(step, saved=saved, pushed=True)
            if step.sources[number] in active
            for term in _pushed(step, number, found, saved=saved)
        ]
        if terms:
            found[step] = total(terms)
    return [found.get(output) for output in outputs]


def dependents(outputs: Sequence[Step], inputs: Sequence[Step], *, saved: bool, pushed: bool = False) -> set[Step]:
    """Return the inputs and the steps whose values depend on one of them in a way that has a derivative."""
    active = set(inputs)
    for step in ordered(outputs):
        if not active.isdisjoint(step.sources[number] for number in _differentiated(step, saved=saved, pushed=pushed)):
            active.add(step)
    return active


def _differentiated(step: Step, *, saved: bool, pushed: bool = False) -> Sequence[int]:
    """Return the numbers of the sources by which a step is differentiated, where tangents are pushed or not."""
    if isinstance(step, Select | Shift) or (isinstance(step, Detached) and not (pushed and step.pushes)):
        return ()
    numbers = range(len(step.sources))
    return numbers if not isinstance(step, Through) else numbers[1:] if saved else numbers[:1]


def total(terms: Sequence[Step]) -> Step:
    """Add steps of one shape up, in no order: one sum."""
    if len(terms) == 1:
        return terms[0]
    names = tuple(Symbol(f"addend{i}", real=True) for i in range(len(terms)))
    return mapped(sympy.Add(*names), names, terms)


def _pulled(step: Step, number: int, cotangent: Step, *, saved: bool) -> Iterable[tuple[Step, Step]]:
    """Yield what a step hands back to a source, and to the value that torch saved of it."""
    source = step.sources[number]
    if isinstance(step, Map):
        gradient = _local(step, number, cotangent, saved=saved)
        return [] if gradient is None else [(source, unbroadcast(gradient, source.shape))]
    if isinstance(step, Contract):
        return [(source, _exchanged(step, number, cotangent))]
    if isinstance(step, Gather):
        return [(source, _moved_back(step, cotangent))]
    if isinstance(step, Through):
        if not number:
            return [(source, cotangent)]
        (gradient,) = pullback([step.again], [cotangent], [step.at[number - 1]], saved=saved)
        return [] if gradient is None else [(source, gradient)]
    assert isinstance(step, Scatter)
    return [(source, gathered(cotangent, step.table))]


def _pushed(step: Step, number: int, tangents: Mapping[Step, Step], *, saved: bool) -> Iterable[Step]:
    """Yield what the tangent of a source adds to that of a step."""
    source = step.sources[number]
    if source not in tangents:
        return
    tangent = tangents[source]
    if isinstance(step, Map):
        change = _local(step, number, tangent, saved=saved)
        if change is not None:
            yield broadcast(change, step.shape)
    elif isinstance(step, Contract):
        sources = [tangent if i == number else other for i, other in enumerate(step.sources)]
        yield contracted(step.labels, step.kept, sources, step.terms)
    elif isinstance(step, Detached):
        yield Detached((tangent,), step.shape, step.pushes)  # nor is a gradient pulled back to what made the tangent
    elif isinstance(step, Through) and not number:
        yield tangent
    elif isinstance(step, Through):
        (change,) = pushforward([step.again], {step.at[number - 1]: tangent}, saved=saved)
        if change is not None:
            yield change
    elif isinstance(step, Gather):
        yield Gather((tangent,), step.shape, step.table, step.move)
    else:
        assert isinstance(step, Scatter)
        yield scattered(tangent, step.table, step.shape)


def _local(step: Map, number: int, seed: Step, *, saved: bool) -> Step | None:
    """Multiply the derivative of a map by one of its sources with a cotangent or a tangent; None where it is 0."""
    symbol = next(s for s in SEEDS if s not in step.variables)
    through = step.saved if saved else None
    again = bool(step.seeds)
    expression = _times_slope(step.expression, step.variables[number], symbol, through, again=again)
    if expression == 0:
        return None
    variables, sources = [*step.variables, symbol], [*step.sources, seed]
    if (
        step.op is None and not again and step.expression.args and expression.has(step.expression)
    ):  # exp is its own derivative
        expression = expression.xreplace({step.expression: RESULT})
        variables.append(RESULT)
        sources.append(step)
    if through is not None:
        variables.append(through.output)
        sources.append(step if through.value is None else mapped(through.value, step.variables, step.sources))
    ruled = None if step.op is None else Ruled(step.op, number)
    return mapped(expression, variables, sources, seeds=(*step.seeds, symbol), ruled=ruled)


@lru_cache(maxsize=4096)
def _times_slope(expression: Expr, variable: Symbol, seed: Symbol, saved: Saved | None, *, again: bool) -> Expr:
    """Multiply a derivative with a seed.

    They are one expression; the derivative of a derivative is a factor of its own.
    """
    if again and (change := slope(expression, variable)) not in {0, 1}:
        return sympy.Mul(seed, change, evaluate=False)
    product = slope(seed * expression, variable)
    return product if saved is None else sympy.factor(product.subs(list(saved.instead), simultaneous=True))


def _exchanged(step: Contract, number: int, cotangent: Step) -> Step:
    """Contract a cotangent with the other source, and repeat it along the axes that only this source has."""
    wanted = step.labels[number]
    others = [
        (labels, other) for i, (labels, other) in enumerate(zip(step.labels, step.sources, strict=True)) if i != number
    ]
    labels = [step.kept, *(names for names, _ in others)]
    available = "".join(letter for letter in wanted if any(letter in names for names in labels))
    gradient = cotangent
    if others or available != step.kept:
        gradient = contracted(labels, available, [cotangent, *(other for _, other in others)])
    extents = step.extents
    kept = tuple(extents[letter] if letter in available else 1 for letter in wanted)
    return broadcast(reshaped(gradient, kept), step.sources[number].shape)


def _moved_back(step: Gather, cotangent: Step) -> Step:
    """Send a cotangent to where a gather took its elements from."""
    (source,) = step.sources
    match step.move:
        case ("reshape", _):
            return reshaped(cotangent, source.shape)
        case ("transpose", axes):
            return transposed(cotangent, sorted(range(len(axes)), key=axes.__getitem__))
        case ("broadcast", _):
            return unbroadcast(cotangent, source.shape)
        case _:
            return scattered(cotangent, step.table, source.shape)
