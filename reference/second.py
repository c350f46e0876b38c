"""The second derivative of a tree, and what rounding makes of it.

What is asked is the gradient, by every input, of the gradient by one, contracted with a direction:
a product with the Hessian of the function that the cotangent makes a scalar of. The truth is
accumulated forwards twice; the allowance follows the backward pass and how a step in the direction
changes it, as both reverse over reverse and forward over reverse do.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from reference.chain import Chain, elements, flat
from reference.compiler import Emitter, compiled
from reference.derivative import slope, symbols, vjp
from reference.forward import changes_of, pushed, total
from reference.tree import Leaf, jacobian, rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sympy import Expr

    from reference.chain import Slope, Tangents
    from reference.compiler import Program
    from reference.format import Format
    from reference.op import Op, Shape
    from reference.tree import Apply, Node, Tree

    Bend = tuple[int, Node, int, Node, int, str]


@lru_cache(maxsize=256)
def second_program(tree: Tree, along: int) -> Program:
    """Compile the second derivative: inputs, cotangents and direction to the gradient of each input, in balls."""
    if tree.is_single:
        local = tree.root.rule
        direction = symbols("direction", tree.leaves[along].shape)
        seconds = vjp(local.gradients[along], direction, local.inputs)
        return compiled(flat(seconds), flat((*local.inputs, local.cotangents, direction)))
    chain = Chain(tree, Emitter())
    for node in tree.applications:
        chain.forward(node)
    slopes = {node: chain.slopes(node) for node in tree.applications}
    bends = {node: _bends(chain, node) for node in tree.applications}
    directions = _direction(tree, along)
    along_it = chain.tangents({(tree.leaves[along], i): name for i, name in enumerate(directions)}, slopes)
    results = []
    for leaf in tree.leaves:
        for index in range(elements(leaf)):
            curved = _curved(chain, tree, along_it, chain.tangents({(leaf, index): chain.one}, slopes), slopes, bends)
            results.append(chain.contracted(zip(chain.cotangents, chain.at_root(curved), strict=True)) or chain.zero)
    return chain.emitter.program([*chain.arguments, *chain.cotangents, *directions], results)


@lru_cache(maxsize=64)
def products_program(tree: Tree, along: int) -> Program:
    """Compile the products of two tangents that meet in each node of a tree.

    A format may not hold one although it holds the second derivative.
    """
    chain = Chain(tree, Emitter())
    for node in tree.applications:
        chain.forward(node)
    slopes = {node: chain.slopes(node) for node in tree.applications}
    directions = _direction(tree, along)
    along_it = chain.tangents({(tree.leaves[along], i): name for i, name in enumerate(directions)}, slopes)
    products = []
    for leaf in tree.leaves:
        for index in range(elements(leaf)):
            other = chain.tangents({(leaf, index): chain.one}, slopes)
            products += [
                chain.emitter.assign(f"{one} * {two}")
                for place, one in along_it.items()
                if one is not None and (two := other.get(place)) is not None
            ]
    return chain.emitter.program([*chain.arguments, *chain.cotangents, *directions], products)


@lru_cache(maxsize=512)
def second_allowance_program(tree: Tree, along: int, form: Format) -> Program:
    """Compile the change of reverse mode in a direction, in the arithmetic of a format, every step widened."""
    chain = Chain(tree, Emitter(form))
    direction = _direction(tree, along)
    tangents: dict[Node, list[str | None]] = {
        leaf: list(direction) if number == along else [None] * elements(leaf) for number, leaf in enumerate(tree.leaves)
    }
    for application in tree.applications:
        if application is not tree.root or application.rule.saved is not None:
            chain.forward(application)
            tangents[application] = pushed(chain, application, tangents)
    contributions: dict[Node, list[list[str]]] = {tree.root: [chain.cotangents]}
    changes: dict[Node, list[list[str | None]]] = {tree.root: [[None] * len(chain.cotangents)]}
    results: dict[Node, list[str | None]] = {}
    backwards: tuple[Node, ...] = (*reversed(tree.applications), *tree.leaves)
    for node in backwards:
        adjoint = [chain.emitter.total(terms) for terms in zip(*contributions[node], strict=True)]
        results[node] = [total(chain, terms) for terms in zip(*changes[node], strict=True)]
        if isinstance(node, Leaf):
            continue
        for child, gradient in chain.pulled_back(node, adjoint):
            contributions.setdefault(child, []).append(gradient)
        for child, change in zip(node.children, _changed(chain, node, adjoint, results[node], tangents), strict=True):
            changes.setdefault(child, []).append(change)
    zero = chain.zero
    return chain.emitter.program(
        [*chain.arguments, *chain.cotangents, *direction],
        [name or zero for leaf in tree.leaves for name in results[leaf]],
    )


def _direction(tree: Tree, along: int) -> list[str]:
    return [f"d{i}" for i in range(elements(tree.leaves[along]))]


@cache
def hessian(op: Op, shapes: tuple[Shape, ...]) -> tuple[tuple[int, tuple[int, int], tuple[int, int], Expr], ...]:
    """Differentiate each element of an op's output twice, once: its number, two elements of inputs, the derivative.

    Derivatives that are 0 are left out.
    """
    local = rule(op, shapes)
    places = [
        (number, element, symbol)
        for number, array in enumerate(local.inputs)
        for element, symbol in enumerate(array.flat)
    ]
    return tuple(
        (output, (number, element), (other, place), second)
        for output, number, element, first in jacobian(op, shapes)
        for other, place, symbol in places
        if symbol in first.free_symbols and (second := slope(first, symbol)) != 0
    )


def _bends(chain: Chain, node: Apply) -> list[Bend]:
    """Write the second derivatives of a node: of which element, by which elements of which children."""
    scope = chain.emitter.scope(chain.bound(node))
    entries = hessian(node.op, tuple(child.shape for child in node.children))
    return [
        (output, node.children[a], i, node.children[b], j, scope.emit(second))
        for output, (a, i), (b, j), second in entries
    ]


def _curved(
    chain: Chain,
    tree: Tree,
    one: Tangents,
    other: Tangents,
    slopes: dict[Apply, list[Slope]],
    bends: dict[Apply, list[Bend]],
) -> Tangents:
    """Write the second derivatives of every element of every node in two directions; None where it is 0."""
    found: Tangents = {}
    for node in tree.applications:
        for output in range(elements(node)):
            terms = [
                (slope, found.get((child, element))) for place, child, element, slope in slopes[node] if place == output
            ]
            for place, a, i, b, j, bend in bends[node]:
                left, right = one.get((a, i)), other.get((b, j))
                if place == output and left is not None and right is not None:
                    terms.append((f"{bend} * {left}", right))
            found[node, output] = chain.contracted(terms)
    return found


def _changed(
    chain: Chain,
    node: Apply,
    adjoint: Sequence[str],
    change: Sequence[str | None],
    tangents: dict[Node, list[str | None]],
) -> list[list[str | None]]:
    """Write how the vector-Jacobian product of a node changes in the direction, for each element of each child."""
    local = changes_of(node.op, tuple(child.shape for child in node.children))
    scope = chain.backward_scope(node, adjoint)
    saved = [None] * elements(node) if node.rule.saved is None else tangents[node]
    if node.op.saves is not None and node.rule.saved_value is not None:
        own: list[list[str]] = [[] for _ in node.rule.saved_value.flat]
        for _, output, number, element, bend in local.saved_by_input:
            tangent = tangents[node.children[number]][element]
            if tangent is not None:
                own[output].append(chain.emitter.rounded(f"{scope.emit(bend)} * {tangent}"))
        saved = [total(chain, each) for each in own]
    terms: list[list[list[str]]] = [[[] for _ in range(elements(child))] for child in node.children]
    for entries, sources in (
        (local.by_input, [tangents[child] for child in node.children]),
        (local.by_cotangent, [change]),
        (local.by_saved, [saved]),
    ):
        for number, element, source, place, derivative in entries:
            tangent = sources[source][place]
            if tangent is None:
                continue
            term = chain.emitter.rounded(f"{scope.emit(derivative)} * {tangent}")
            if node.op.elementwise and len(terms[number]) == len(adjoint):
                term = chain.emitter.amplified(chain.emitter.amplified(term, adjoint[element]), tangent)
            terms[number][element].append(term)
    return [[total(chain, each) for each in child] for child in terms]
