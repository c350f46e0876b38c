"""Derivatives as transformations of the graph: a pullback and a pushforward, each of which makes steps.

Scalar expressions are differentiated by sympy; sums and moves are linear, and have themselves or their transposes for
derivatives. What is made is a graph like any other, so that a derivative of any order is these two applied in turn:
`rf` is the pullback of a pushforward. Where torch differentiates through a value that it saved, a step says so. With
``saved=True`` its derivative is in terms of that value, which is how torch rounds; else it is the textbook's.
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
"""The symbols of an element of a cotangent or tangent: the first one in a first derivative, the next in a second."""

RESULT = Symbol("result", real=True)
"""The symbol of a step's own result, where its derivative contains that."""


def slope(expression: Expr, variable: Symbol) -> Expr:
    """Return the derivative of an expression between its jumps: that of sympy's own sign has an impulse at 0."""
    return sympy.diff(expression.replace(sympy.sign, Sign), variable)


def pullback(
    outputs: Sequence[Step], cotangents: Sequence[Step], inputs: Sequence[Step], *, saved: bool
) -> list[Step | None]:
    """Return the vector-Jacobian product: the gradient by each input of the outputs contracted with cotangents.

    The result has a step of the input's shape for each input; None where no output depends on it. This is reverse
    accumulation: each step, consumers first, hands its sum of cotangents on to its sources.
    """
    active = dependents(outputs, inputs, saved=saved)
    adjoints: dict[Step, list[Step]] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        adjoints.setdefault(output, []).append(cotangent)
    found: dict[Step, Step] = {}
    for step in reversed(ordered(outputs)):
        if step not in adjoints or step not in active:
            continue
        found[step] = added(adjoints[step])  # complete: all that use the step come before it in this order
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

    The result has a step of the output's shape for each output; None where it does not change. This is forward
    accumulation.
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
            found[step] = added(terms)
    return [found.get(output) for output in outputs]


def dependents(outputs: Sequence[Step], inputs: Sequence[Step], *, saved: bool, pushed: bool = False) -> set[Step]:
    """Return the inputs, and the steps that depend on one of them in a way that has a derivative."""
    active = set(inputs)
    for step in ordered(outputs):
        if not active.isdisjoint(step.sources[number] for number in _differentiated(step, saved=saved, pushed=pushed)):
            active.add(step)
    return active


def _differentiated(step: Step, *, saved: bool, pushed: bool = False) -> Sequence[int]:
    """Return the numbers of the sources by which a step is differentiated; `pushed` in forward accumulation."""
    if isinstance(step, Select | Shift) or (isinstance(step, Detached) and not (pushed and step.pushes)):
        return ()
    numbers = range(len(step.sources))
    # the first source of a `Through` is the textbook's value, the others are what torch differentiates by
    return numbers if not isinstance(step, Through) else numbers[1:] if saved else numbers[:1]


def added(terms: Sequence[Step]) -> Step:
    """Add steps of one shape up, in one sum, whose terms have no order."""
    if len(terms) == 1:
        return terms[0]
    names = tuple(Symbol(f"addend{i}", real=True) for i in range(len(terms)))
    return mapped(sympy.Add(*names), names, terms)


def _pulled(step: Step, number: int, cotangent: Step, *, saved: bool) -> Iterable[tuple[Step, Step]]:
    """Return what a step hands back to its source of a number: pairs of a step and its share of the cotangent."""
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
        # the gradient of the op at the other inputs is passed on to the sources that these are
        (gradient,) = pullback([step.again], [cotangent], [step.at[number - 1]], saved=saved)
        return [] if gradient is None else [(source, gradient)]
    assert isinstance(step, Scatter)
    return [(source, gathered(cotangent, step.table))]


def _pushed(step: Step, number: int, tangents: Mapping[Step, Step], *, saved: bool) -> Iterable[Step]:
    """Yield what the tangent of a source adds to that of a step: nothing where the source does not change."""
    source = step.sources[number]
    if source not in tangents:
        return
    tangent = tangents[source]
    if isinstance(step, Map):
        change = _local(step, number, tangent, saved=saved)
        if change is not None:
            yield broadcast(change, step.shape)
    elif isinstance(step, Contract):
        # a contraction is linear in each of its sources
        sources = [tangent if i == number else other for i, other in enumerate(step.sources)]
        yield contracted(step.labels, step.kept, sources, step.terms)
    elif isinstance(step, Detached):
        yield Detached((tangent,), step.shape, step.pushes)  # so that no gradient is pulled back through it either
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
    """Return the derivative of a map by one of its sources, times a cotangent or a tangent; None where it is 0."""
    # a derivative of a derivative has the seeds of both
    symbol = next(s for s in SEEDS if s not in step.variables)
    through = step.saved if saved else None
    again = bool(step.seeds)
    expression = _times_slope(step.expression, step.variables[number], symbol, through, again=again)
    if expression == 0:
        return None
    variables, sources = [*step.variables, symbol], [*step.sources, seed]
    # exp is its own derivative, and a formula that takes np.exp means one exponential; an op says what it saves
    if step.op is None and not again and step.expression.args and expression.has(step.expression):
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
    """Return a seed times the derivative of an expression by a variable.

    A first derivative is one expression with the seed, as backward formulas are written; `again`, of an expression that
    is a derivative itself, it is a factor of its own.
    """
    if again and (change := slope(expression, variable)) not in {0, 1}:
        return sympy.Mul(seed, change, evaluate=False)
    product = slope(seed * expression, variable)
    # factored it is what torch computes, up to signs: output (1 - output) for a sigmoid
    return product if saved is None else sympy.factor(product.subs(list(saved.instead), simultaneous=True))


def _exchanged(step: Contract, number: int, cotangent: Step) -> Step:
    """Return the gradient of a contraction by a source: the cotangent, contracted with the other source if any.

    It is repeated along axes that this source alone has, which the contraction sums over.
    """
    wanted = step.labels[number]
    labels = [step.kept, *(names for i, names in enumerate(step.labels) if i != number)]
    others = [other for i, other in enumerate(step.sources) if i != number]
    available = "".join(letter for letter in wanted if letter in "".join(labels))
    gradient = cotangent
    if others or available != step.kept:
        gradient = contracted(labels, available, [cotangent, *others])
    extents = step.extents
    kept = tuple(extents[letter] if letter in available else 1 for letter in wanted)
    return broadcast(reshaped(gradient, kept), step.sources[number].shape)


def _moved_back(step: Gather, cotangent: Step) -> Step:
    """Return the gradient of a gather: the cotangent, sent back to where its elements were taken from."""
    (source,) = step.sources
    match step.move:
        case ("reshape", _):
            return reshaped(cotangent, source.shape)
        case ("transpose", axes):
            return transposed(cotangent, sorted(range(len(axes)), key=axes.__getitem__))  # the inverse permutation
        case ("broadcast", _):
            return unbroadcast(cotangent, source.shape)
        case _:
            return scattered(cotangent, step.table, source.shape)
