"""Expression trees: what Hypothesis draws, and what sympy and torch are both given.

sympy simplifies as it constructs (``exp(log(x))`` becomes ``x``), so the drawn object is ours.
A node that is used twice is one object: trees are directed acyclic graphs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
import sympy

from reference.derivative import symbols, vjp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sympy import Expr

    from reference.op import Array, Op, Shape


MANNERS = ("call", "in_place", "through_view")
"""Ways to apply an op of one argument: as a function, on a copy in place, or in place on a view of a copy."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """An input of a tree."""

    name: str
    """The name it is printed by."""

    shape: Shape = ()
    """Its shape, without batch dimensions."""

    @property
    def elements(self) -> tuple[str, ...]:
        """The names of its elements: its own, or x0, x1, ... of a tensor."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return tuple(f"{self.name}{i}" for i in range(count)) if self.shape else (self.name,)

    def __str__(self) -> str:
        """Return the name."""
        return self.name


@dataclass(frozen=True, eq=False)
class Apply:
    """An op applied to nodes."""

    op: Op
    children: tuple[Node, ...]
    manner: str = "call"
    """One of MANNERS: how torch is asked to compute it, which changes nothing of its value."""

    @cached_property
    def rule(self) -> Rule:
        """The op's formulas at these shapes."""
        return rule(self.op, tuple(child.shape for child in self.children))

    @property
    def shape(self) -> Shape:
        """The shape of the result, without batch dimensions."""
        return self.rule.outputs.shape

    def __str__(self) -> str:
        """Write the node as a call, with torch's underscore where it is in place."""
        mark = "" if self.manner == "call" else "_"
        return f"{self.op.name}{mark}({', '.join(str(child) for child in self.children)})"


Node = Leaf | Apply


@dataclass(frozen=True, eq=False)
class Tree:
    """A function built of ops, with its inputs in order."""

    root: Apply
    leaves: tuple[Leaf, ...]

    def __str__(self) -> str:
        """Write the tree as nested calls."""
        return str(self.root)

    @property
    def elements(self) -> tuple[str, ...]:
        """The names of the elements of all inputs."""
        return tuple(name for leaf in self.leaves for name in leaf.elements)

    @property
    def is_single(self) -> bool:
        """Whether the tree is one op applied to its inputs."""
        return self.root.children == self.leaves

    @cached_property
    def applications(self) -> tuple[Apply, ...]:
        """The ops of the tree, each once, children first."""
        order: dict[Apply, None] = {}
        waiting: list[tuple[Node, bool]] = [(self.root, False)]
        while waiting:  # no recursion: chains are a thousand deep
            node, is_done = waiting.pop()
            if not isinstance(node, Apply) or node in order:
                continue
            if is_done:
                order[node] = None
            else:
                waiting.append((node, True))
                waiting += [(child, False) for child in reversed(node.children)]
        return tuple(order)

    @cached_property
    def uses(self) -> Counter[Node]:
        """How often each node is an argument of another."""
        return Counter(child for node in self.applications for child in node.children)


@dataclass(frozen=True)
class Rule:
    """One op at given shapes, in symbols: its values, and its vector-Jacobian product."""

    inputs: tuple[Array, ...]
    outputs: Array
    cotangents: Array
    gradients: tuple[Array, ...]
    """In the inputs and cotangents."""

    saved: Array | None
    """The symbols of the value that torch saves, where it differentiates through one."""

    saved_value: Array | None
    """That value, in the inputs."""

    saved_gradients: tuple[Array, ...]
    """The gradients in the saved value, inputs and cotangents; as `gradients` without one."""


@cache
def rule(op: Op, shapes: tuple[Shape, ...]) -> Rule:
    """Differentiate an op at these shapes of its inputs, once.

    Raises ValueError or IndexError where the op does not take these shapes.
    """
    if op.elementwise and any(shapes):
        return _lifted(rule(op, ((),) * len(shapes)), op, shapes)
    inputs = tuple(symbols(name, shape) for name, shape in zip(op.inputs, shapes, strict=True))
    outputs = op(*inputs)
    cotangents = symbols("cotangent", outputs.shape)
    gradients = vjp(outputs, cotangents, inputs)
    if op.saved is None:
        return Rule(inputs, outputs, cotangents, gradients, None, None, gradients)
    value = op.saved_value(inputs, outputs)
    saved = symbols("saved", value.shape)
    replacement = op.through_saved(inputs, saved)
    through = tuple(g.copy() for g in gradients)
    for array in through:
        array.ravel()[:] = [
            sympy.factor(g.subs(replacement, simultaneous=True))
            if op.elementwise
            else g.subs(replacement, simultaneous=True)
            for g in array.flat
        ]
    return Rule(inputs, outputs, cotangents, gradients, saved, value, through)


def _lifted(scalar: Rule, op: Op, shapes: tuple[Shape, ...]) -> Rule:
    """Apply the rule of scalars to each element; the gradient of what is broadcast is a sum."""
    inputs = tuple(symbols(name, shape) for name, shape in zip(op.inputs, shapes, strict=True))
    shape = np.broadcast_shapes(*shapes)
    cotangents, saved = symbols("cotangent", shape), symbols("saved", shape)
    sources = [a[()] for a in (*scalar.inputs, scalar.cotangents)] + (
        [] if scalar.saved is None else [scalar.saved[()]]
    )
    spread = [np.broadcast_to(array, shape).ravel() for array in (*inputs, cotangents, saved)]
    places = [dict(zip(sources, elements, strict=False)) for elements in zip(*spread, strict=True)]

    def each(expression: Expr) -> Array:
        return _filled(shape, [expression.xreplace(place) for place in places])

    def gradients(scalars: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(_summed(each(g[()]), target) for g, target in zip(scalars, shapes, strict=True))

    return Rule(
        inputs,
        each(scalar.outputs[()]),
        cotangents,
        gradients(scalar.gradients),
        None if scalar.saved is None else saved,
        None if scalar.saved_value is None else each(scalar.saved_value[()]),
        gradients(scalar.saved_gradients),
    )


@cache
def jacobian(op: Op, shapes: tuple[Shape, ...]) -> tuple[tuple[int, int, int, Expr], ...]:
    """Differentiate each element of an op's output, once: its number, the input, the element of that, the derivative.

    Derivatives that are 0 are left out.
    """
    local = rule(op, shapes)
    found = []
    for number, array in enumerate(local.inputs):
        every = np.arange(array.size)
        reached = (
            np.broadcast_to(every.reshape(array.shape), local.outputs.shape).reshape(-1, 1)
            if op.elementwise
            else [every] * local.outputs.size
        )
        for output, value in enumerate(local.outputs.flat):
            slopes = ((int(element), sympy.diff(value, array.flat[element])) for element in reached[output])
            found += [(output, number, element, slope) for element, slope in slopes if slope != 0]
    return tuple(found)


def _filled(shape: Shape, elements: Sequence[Expr]) -> Array:
    array = np.empty(shape, dtype=object)
    array.ravel()[:] = elements
    return array


def _summed(array: Array, shape: Shape) -> Array:
    """Sum an array down to a shape that broadcasts to its own."""
    padded = (1,) * (array.ndim - len(shape)) + shape
    axes = tuple(i for i, n in enumerate(padded) if n == 1 and array.shape[i] != 1)
    return (np.sum(array, axis=axes, keepdims=True) if axes else array).reshape(shape)


@cache
def single(op: Op, shapes: tuple[Shape, ...] | None = None) -> Tree:
    """Return the tree that is one op applied to its own inputs."""
    shapes = shapes or ((),) * len(op.inputs)
    leaves = tuple(Leaf(name, shape) for name, shape in zip(op.inputs, shapes, strict=True))
    return Tree(Apply(op, leaves), leaves)
