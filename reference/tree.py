"""Expression trees: what Hypothesis draws, and what the oracle and torch are both given.

They are no expressions of sympy, which simplifies as it constructs: ``exp(log(x))`` would become ``x``. A node that is
used twice is one object, so that trees are directed acyclic graphs; nodes are compared by identity.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from reference.graph import Input, Step, topological
from reference.trace import TraceError, joined, results, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.graph import Shape
    from reference.op import Op


MANNERS = ("call", "in_place", "through_view")
"""Ways to apply an op of one argument: as a function, in place on a copy, or in place on a view of a copy."""


# nodes are compared by identity: two leaves of one name and shape are different inputs
@dataclass(frozen=True, eq=False)
class Leaf:
    """An input of a tree."""

    name: str
    """The name that it is printed by."""

    shape: Shape = ()
    """The shape, without batch dimensions."""

    @property
    def elements(self) -> tuple[str, ...]:
        """The names of its elements: its own of a scalar, or x0, x1, ... of a tensor x."""
        return tuple(f"{self.name}{i}" for i in range(prod(self.shape))) if self.shape else (self.name,)

    def __str__(self) -> str:
        """Return the name."""
        return self.name


@dataclass(frozen=True, eq=False)
class Apply:
    """An op applied to nodes."""

    op: Op
    children: tuple[Node, ...]
    """The arguments of the op, in order."""

    manner: str = "call"
    """One of MANNERS: how torch is asked to compute the node. Its value does not depend on that."""

    @cached_property
    def shape(self) -> Shape:
        """The shape of the result, without batch dimensions; several outputs are in one row.

        Raises TraceError where the op does not take its arguments.
        """
        return result_shape(self.op, tuple(child.shape for child in self.children))

    @property
    def outputs(self) -> tuple[Shape, ...]:
        """The shape of each output of the op, without batch dimensions."""
        return result_shapes(self.op, tuple(child.shape for child in self.children))

    def __str__(self) -> str:
        """Write the node as a call, with torch's underscore where it works in place."""
        mark = "" if self.manner == "call" else "_"
        return f"{self.op.name}{mark}({', '.join(str(child) for child in self.children)})"


Node = Leaf | Apply


@cache
def result_shape(op: Op, shapes: tuple[Shape, ...]) -> Shape:
    """Return the shape of the result of an op, with several outputs in one row; raises TraceError as below."""
    outputs = result_shapes(op, shapes)
    return outputs[0] if len(outputs) == 1 else (sum(map(prod, outputs)),)


@cache
def result_shapes(op: Op, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Return the shape of each output of an op; raises TraceError where it does not take inputs of these shapes."""
    inputs = [Input((), shape, name) for name, shape in zip(op.inputs, shapes, strict=True)]
    # contexts of any seed have the same shapes
    return tuple(output.shape for output in results(op, inputs, 0))


@dataclass(frozen=True, eq=False)
class Tree:
    """A function composed of ops: a root, and its inputs in order."""

    root: Apply
    leaves: tuple[Leaf, ...]

    def __str__(self) -> str:
        """Write the tree as nested calls."""
        return str(self.root)

    @property
    def elements(self) -> tuple[str, ...]:
        """The names of the elements of all inputs, in order."""
        return tuple(name for leaf in self.leaves for name in leaf.elements)

    @property
    def is_single(self) -> bool:
        """Whether the tree is one op, applied to its inputs in order."""
        return self.root.children == self.leaves

    @cached_property
    def applications(self) -> tuple[Apply, ...]:
        """The nodes that apply an op, each once, children first."""
        nodes: list[Node] = topological([self.root], lambda node: node.children if isinstance(node, Apply) else ())
        return tuple(node for node in nodes if isinstance(node, Apply))

    @cached_property
    def uses(self) -> Counter[Node]:
        """How often each node is an argument of another."""
        return Counter(child for node in self.applications for child in node.children)

    def traced(self, inputs: Sequence[Input], seed: int) -> dict[Node, Step]:
        """Return the step of each node; `inputs` have batch dimensions in front, and `seed` is that of contexts.

        Raises TraceError where an op does not take such arguments.
        """
        steps: dict[Node, Step] = dict(zip(self.leaves, inputs, strict=True))
        for node in self.applications:
            steps[node] = _batched(node, [steps[child] for child in node.children], seed)
        return steps


def _batched(node: Apply, sources: Sequence[Step], seed: int) -> Step:
    """Apply the op of a node to arrays with a batch in front, and return its outputs in one row for each of these.

    Raises TraceError where an output has not the batch in front: its formula counts axes from the start, say.
    """
    outputs = results(node.op, sources, seed)
    # what comes has to be what the op makes of one point, with the broadcast of all batches in front
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
    """Write shapes out in a message."""
    return f"shape{'s' * (len(shapes) > 1)} {', '.join(str(list(shape)) for shape in shapes)}"


@cache
def single(op: Op, shapes: tuple[Shape, ...] | None = None) -> Tree:
    """Return the tree that is one op, applied to inputs of these shapes, or to scalars."""
    # cached, since cases are equal where their trees are, which are compared by identity
    shapes = shapes or ((),) * len(op.inputs)
    leaves = tuple(Leaf(name, shape) for name, shape in zip(op.inputs, shapes, strict=True))
    return Tree(Apply(op, leaves), leaves)
