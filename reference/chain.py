"""The chain rule over a tree, written as code: its value, its derivative, and what rounding makes of it.

Each op's derivative is sympy's. The derivative of a tree is accumulated from them forwards, from
each input to the output; its rounding allowance backwards, as torch does. Two accumulations that
share nothing but the ops' formulas would have to be wrong alike to pass a wrong gradient. The
whole tree as one expression is no way to go: sympy simplifies what it constructs, which takes
minutes for some compositions of eight ops.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from reference.compiler import Emitter, compiled
from reference.tree import Leaf, jacobian

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sympy import Expr

    from reference.compiler import Program, Scope
    from reference.format import Format
    from reference.op import Array
    from reference.tree import Apply, Node, Tree

    Slope = tuple[int, Node, int, str]
    Tangents = dict[tuple[Node, int], str | None]


@lru_cache(maxsize=256)
def value_program(tree: Tree, form: Format | None = None) -> Program:
    """Compile the value of a tree: inputs to outputs, in balls; in the arithmetic of a format every step is widened."""
    chain = Chain(tree, Emitter(form))
    for node in tree.applications:
        chain.forward(node)
    return chain.emitter.program(chain.arguments, chain.values[tree.root])


@lru_cache(maxsize=256)
def gradient_program(tree: Tree) -> Program:
    """Compile the derivative of a tree: inputs and cotangents to gradients, in balls."""
    if tree.is_single:
        local = tree.root.rule
        return compiled(flat(local.gradients), flat((*local.inputs, local.cotangents)))
    chain = Chain(tree, Emitter())
    for node in tree.applications:
        chain.forward(node)
    slopes = {node: chain.slopes(node) for node in tree.applications}
    results = []
    for leaf in tree.leaves:
        for index in range(len(chain.values[leaf])):
            tangents = chain.tangents({(leaf, index): chain.one}, slopes)
            results.append(chain.contracted(zip(chain.cotangents, chain.at_root(tangents), strict=True)) or chain.zero)
    return chain.emitter.program([*chain.arguments, *chain.cotangents], results)


@lru_cache(maxsize=512)
def allowance_program(tree: Tree, form: Format) -> Program:
    """Compile reverse mode over a tree in the arithmetic of a format, every step widened."""
    chain = Chain(tree, Emitter(form))
    for application in tree.applications:
        if application is not tree.root or application.rule.saved is not None:
            chain.forward(application)
    contributions: dict[Node, list[list[str]]] = {tree.root: [chain.cotangents]}
    adjoints: dict[Node, list[str]] = {}
    backwards: tuple[Node, ...] = (*reversed(tree.applications), *tree.leaves)
    for node in backwards:
        adjoints[node] = [chain.emitter.total(terms) for terms in zip(*contributions[node], strict=True)]
        for child, gradient in chain.pulled_back(node, adjoints[node]):
            contributions.setdefault(child, []).append(gradient)
    return chain.emitter.program(
        [*chain.arguments, *chain.cotangents], [name for leaf in tree.leaves for name in adjoints[leaf]]
    )


class Chain:
    """A tree as code, node by node: the variables that hold each node's elements."""

    def __init__(self, tree: Tree, emitter: Emitter) -> None:
        """Start with the inputs as arguments."""
        self._tree = tree
        self.emitter = emitter
        self.values: dict[Node, list[str]] = {
            leaf: [f"x{number}_{i}" for i in range(elements(leaf))] for number, leaf in enumerate(tree.leaves)
        }
        self.arguments = [name for leaf in tree.leaves for name in self.values[leaf]]
        self.cotangents = [f"c{i}" for i in range(elements(tree.root))]

    @property
    def one(self) -> str:
        """A variable that is 1."""
        return self.emitter.assign("arb(1)")

    @property
    def zero(self) -> str:
        """A variable that is 0."""
        return self.emitter.assign("arb(0)")

    def bound(self, node: Apply) -> dict[Expr, str]:
        """Return what stands for the inputs of a node's rule."""
        pairs = zip(node.rule.inputs, node.children, strict=True)
        return {
            symbol: name for array, child in pairs for symbol, name in zip(array.flat, self.values[child], strict=True)
        }

    def forward(self, node: Apply) -> None:
        """Write the value of a node."""
        scope = self.emitter.scope(self.bound(node))
        self.values[node] = [scope.emit(expression) for expression in node.rule.outputs.flat]

    def slopes(self, node: Apply) -> list[Slope]:
        """Write the derivatives of a node: of which element, by which element of which child."""
        scope = self.emitter.scope(self.bound(node))
        entries = jacobian(node.op, tuple(child.shape for child in node.children))
        return [
            (output, node.children[number], element, scope.emit(slope)) for output, number, element, slope in entries
        ]

    def tangents(self, start: Tangents, slopes: dict[Apply, list[Slope]]) -> Tangents:
        """Write the derivatives of every element of every node in a direction, given for inputs; None where it is 0."""
        found = dict(start)
        for node in self._tree.applications:
            for output in range(elements(node)):
                terms = [
                    (slope, found.get((child, element)))
                    for place, child, element, slope in slopes[node]
                    if place == output
                ]
                found[node, output] = self.contracted(terms)
        return found

    def at_root(self, found: Tangents) -> list[str | None]:
        """Return what was written for each element of the root."""
        return [found.get((self._tree.root, output)) for output in range(elements(self._tree.root))]

    def contracted(self, pairs: Iterable[tuple[str, str | None]]) -> str | None:
        """Write a sum of products; None where all of them are 0."""
        terms = [f"{left} * {right}" for left, right in pairs if right is not None]
        return self.emitter.assign(" + ".join(terms)) if terms else None

    def pulled_back(self, node: Node, adjoint: Sequence[str]) -> list[tuple[Node, list[str]]]:
        """Write a node's vector-Jacobian product, through the saved value where torch has one."""
        if isinstance(node, Leaf):
            return []
        scope = self.backward_scope(node, adjoint)
        pulled = [
            (child, [scope.emit(expression) for expression in gradient.flat])
            for child, gradient in zip(node.children, node.rule.saved_gradients, strict=True)
        ]
        if not node.op.elementwise:
            return pulled
        return [(child, self.amplified(gradients, adjoint)) for child, gradients in pulled]

    def backward_scope(self, node: Apply, adjoint: Sequence[str]) -> Scope:
        """Open the scope of a node's backward: its inputs, its cotangent, and the saved value where torch has one."""
        local = node.rule
        env = self.bound(node) | dict(zip(local.cotangents.flat, adjoint, strict=True))
        if local.saved is not None and local.saved_value is not None:
            scope = self.emitter.scope(env)
            env |= {
                symbol: scope.emit(expression)
                for symbol, expression in zip(local.saved.flat, local.saved_value.flat, strict=True)
            }
        return self.emitter.scope(env)

    def amplified(self, gradients: list[str], adjoint: Sequence[str]) -> list[str]:
        """Widen the gradients of an elementwise op for local derivatives that underflowed.

        Those of an input that was broadcast are sums already, and stay as they are.
        """
        if len(gradients) != len(adjoint):
            return gradients
        return [
            self.emitter.amplified(gradient, cotangent) for gradient, cotangent in zip(gradients, adjoint, strict=True)
        ]


def elements(node: Node) -> int:
    """Return how many elements a node has at each point."""
    return int(np.prod(node.shape, dtype=np.int64))


def flat(arrays: Sequence[Array]) -> list[Expr]:
    """List the elements of arrays, one array after the other."""
    return [element for array in arrays for element in array.flat]
