"""What rounding makes of forward-mode over a tree: tangents of the inputs are pushed through it, every step widened.

A small local derivative meets others in another order than in reverse mode, and underflows elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from reference.chain import Chain, elements
from reference.compiler import Emitter
from reference.derivative import slope
from reference.tree import rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sympy import Expr

    from reference.compiler import Program
    from reference.format import Format
    from reference.op import Array, Op, Shape
    from reference.tree import Apply, Node, Tree

    Change = tuple[int, int, int, int, Expr]
    """How an element of the gradient of an input changes with an element of something.

    Each has the input, its element, the number and the element of that, and the derivative.
    """


@lru_cache(maxsize=512)
def forward_allowance_program(tree: Tree, form: Format) -> Program:
    """Compile forward-mode over a tree in the arithmetic of a format: inputs and cotangents to gradients, in balls.

    Of a scalar function the cotangent is the tangent that is pushed; of another, units are, and the
    cotangent picks from what comes.
    """
    chain = Chain(tree, Emitter(form))
    for application in tree.applications:
        if application is not tree.root or application.rule.saved is not None:
            chain.forward(application)
    scalar = elements(tree.root) == 1
    seed = chain.cotangents[0] if scalar else chain.one
    results = []
    for leaf in tree.leaves:
        for index in range(elements(leaf)):
            tangents: dict[Node, list[str | None]] = {other: [None] * elements(other) for other in tree.leaves}
            tangents[leaf][index] = seed
            for application in tree.applications:
                tangents[application] = pushed(chain, application, tangents)
            reached = tangents[tree.root]
            found = reached[0] if scalar else chain.contracted(zip(chain.cotangents, reached, strict=True))
            results.append(found or chain.zero)
    return chain.emitter.program([*chain.arguments, *chain.cotangents], results)


@dataclass(frozen=True)
class Changes:
    """How the vector-Jacobian product of an op changes, through the saved value where torch has one."""

    by_input: tuple[Change, ...]
    by_cotangent: tuple[Change, ...]
    by_saved: tuple[Change, ...]
    saved_by_input: tuple[Change, ...]
    """How the saved value changes; only where it is not the output."""


@cache
def changes_of(op: Op, shapes: tuple[Shape, ...]) -> Changes:
    """Differentiate the vector-Jacobian product of an op at these shapes, once."""
    local = rule(op, shapes)
    own = op.saves is not None and local.saved_value is not None
    return Changes(
        _changes(local.saved_gradients, local.inputs),
        _changes(local.saved_gradients, (local.cotangents,)),
        _changes(local.saved_gradients, () if local.saved is None else (local.saved,)),
        _changes((local.saved_value,), local.inputs) if own and local.saved_value is not None else (),
    )


def _changes(arrays: Sequence[Array], variables: Sequence[Array]) -> tuple[Change, ...]:
    places = [
        (number, element, symbol) for number, array in enumerate(variables) for element, symbol in enumerate(array.flat)
    ]
    return tuple(
        (number, element, other, place, change)
        for number, array in enumerate(arrays)
        for element, expression in enumerate(array.flat)
        for other, place, symbol in places
        if symbol in expression.free_symbols and (change := slope(expression, symbol)) != 0
    )


def pushed(chain: Chain, node: Apply, tangents: dict[Node, list[str | None]]) -> list[str | None]:
    """Write the derivative of a node in the direction: the Jacobian is that of its vector-Jacobian product."""
    terms: list[list[str]] = [[] for _ in range(elements(node))]
    scope = chain.backward_scope(node, [chain.one] * elements(node))
    for number, element, _, output, change in changes_of(
        node.op, tuple(child.shape for child in node.children)
    ).by_cotangent:
        tangent = tangents[node.children[number]][element]
        if tangent is not None:
            term = chain.emitter.rounded(f"{scope.emit(change)} * {tangent}")
            terms[output].append(chain.emitter.amplified(term, tangent) if node.op.elementwise else term)
    return [total(chain, each) for each in terms]


def total(chain: Chain, terms: Sequence[str | None]) -> str | None:
    """Write the sum of what is not 0; None where all of it is."""
    some = [term for term in terms if term is not None]
    return chain.emitter.total(some) if some else None
