"""Expression trees: what Hypothesis draws, and what the oracle and torch are both given.

sympy simplifies as it constructs (``exp(log(x))`` becomes ``x``), so the drawn object is ours.
A node that is used twice is one object: trees are directed acyclic graphs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from reference.graph import Input, Step
from reference.trace import TraceError, joined, results, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.graph import Shape
    from reference.op import Op


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
        return tuple(f"{self.name}{i}" for i in range(prod(self.shape))) if self.shape else (self.name,)

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
    def shape(self) -> Shape:
        """The shape of the result, without batch dimensions.

        Raises TraceError where the op does not take its arguments.
        """
        return result_shape(self.op, tuple(child.shape for child in self.children))

    @property
    def outputs(self) -> tuple[Shape, ...]:
        """The shapes of what the op returns, without batch dimensions: several of an op of several outputs."""
        return result_shapes(self.op, tuple(child.shape for child in self.children))

    def __str__(self) -> str:
        """Write the node as a call, with torch's underscore where it is in place."""
        mark = "" if self.manner == "call" else "_"
        return f"{self.op.name}{mark}({', '.join(str(child) for child in self.children)})"


Node = Leaf | Apply


@cache
def result_shape(op: Op, shapes: tuple[Shape, ...]) -> Shape:
    """Return the shape of what an op makes of inputs of some shapes; raises TraceError where it does not take them."""
    outputs = result_shapes(op, shapes)
    return outputs[0] if len(outputs) == 1 else (sum(map(prod, outputs)),)


@cache
def result_shapes(op: Op, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Return the shape of each output of an op; raises TraceError as above."""
    inputs = [Input((), shape, name) for name, shape in zip(op.inputs, shapes, strict=True)]
    return tuple(output.shape for output in results(op, inputs, 0))


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

    def traced(self, inputs: Sequence[Input], seed: int) -> dict[Node, Step]:
        """Return the step that each node is, of inputs in whole, batch dimensions and all; raises TraceError."""
        steps: dict[Node, Step] = dict(zip(self.leaves, inputs, strict=True))
        for node in self.applications:
            steps[node] = _batched(node, [steps[child] for child in node.children], seed)
        return steps


def _batched(node: Apply, sources: Sequence[Step], seed: int) -> Step:
    """Apply the op of a node to arrays with a batch in front, which what it returns has in front as well."""
    outputs = results(node.op, sources, seed)
    batches = [s.shape[: len(s.shape) - len(child.shape)] for s, child in zip(sources, node.children, strict=True)]
    batch = np.broadcast_shapes(*batches)
    found, due = [each.shape for each in outputs], [(*batch, *shape) for shape in node.outputs]
    if found != due:
        op, given = node.op, ", ".join(f"{n}{list(s.shape)}" for n, s in zip(node.op.inputs, sources, strict=True))
        message = (
            f"{op.name}: {start(op.formula)}the formula returns {_listed(found)} of inputs {given}, and "
            f"{_listed(node.outputs)} of the same without the batch {list(batch)} in front; accepted: {_listed(due)}, "
            "as where axes are counted from the end; or batched=0 in the entry, for an op that takes no batch"
        )
        raise TraceError(message)
    return joined(outputs, len(batch))


def _listed(shapes: Sequence[Shape]) -> str:
    return f"shape{'s' * (len(shapes) > 1)} {', '.join(str(list(shape)) for shape in shapes)}"


@cache
def single(op: Op, shapes: tuple[Shape, ...] | None = None) -> Tree:
    """Return the tree that is one op applied to its own inputs."""
    shapes = shapes or ((),) * len(op.inputs)
    leaves = tuple(Leaf(name, shape) for name, shape in zip(op.inputs, shapes, strict=True))
    return Tree(Apply(op, leaves), leaves)
