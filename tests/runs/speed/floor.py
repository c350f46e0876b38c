"""The analytic floor: the derivative of a function step by step in plain torch, without autograd.

It starts from what torch's backward has too: the inputs, the values of the steps, and what the forward saved. It does
the least that the mathematics asks for, one call of torch after the other. A fused kernel may be faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from tests.runs.speed import formula
from tests.runs.speed.formula import COTANGENT, LEFT, RIGHT
from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sympy import Expr

    from reference.graph import Shape
    from reference.op import Op
    from reference.tree import Node, Tree
    from tests.runs.speed.formula import Printed
    from tests.runs.speed.work import Graph, Work

    Back = Callable[..., Sequence[torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the forward; two of equal elements are two nodes."""

    tensor: torch.Tensor


class Steps:
    """A forward that is run step by step, with the pullback of each step."""

    def __init__(self) -> None:
        """Start without one."""
        self._steps: list[tuple[tuple[Value, ...], tuple[Value, ...], Back]] = []
        self.moved = 0
        """How many bytes the pullbacks of all steps read and write at least."""

    def op(self, op: Op, *sources: Value, shapes: tuple[Shape, ...] | None = None) -> Value:
        """Apply an op of the catalogue at these shapes, with a batch in front; elementwise without them.

        Raises NoFloorError.
        """
        shapes = shapes or ((),) * len(sources)
        arguments = [source.tensor for source in sources]
        output, known, save = binding.call(op)(arguments), list(arguments), formula.saved(op, shapes)
        if op.saved is not None:
            known += [output] if save is None else save(*arguments)
        return self._pulled(output, sources, formula.back_over_op(op, shapes), known)

    def formula(self, expression: Expr, **sources: Value) -> Value:
        """Apply a formula to the elements of tensors that broadcast, each by the name of its symbol."""
        symbols = tuple(sorted(expression.free_symbols, key=str))
        values = [sources[str(symbol)] for symbol in symbols]
        tensors = [value.tensor for value in values]
        forward, back = formula.of_formula(expression, symbols)
        return self._pulled(forward(*tensors)[0], values, back, tensors)

    def product(self, left: Value, right: Value) -> Value:
        """Multiply matrices (..., m, k) and (..., n, k), the second transposed, as a linear layer does."""
        gradients = formula.of_product()

        def back(cotangent: torch.Tensor) -> list[torch.Tensor]:
            matrices = {LEFT: left.tensor, RIGHT: right.tensor, COTANGENT: cotangent}
            return [formula.multiplied(gradient, matrices) for gradient in gradients]

        output = left.tensor @ right.tensor.mT
        return self._added([output], (left, right), back, left.tensor.nbytes + right.tensor.nbytes + 2 * output.nbytes)[
            0
        ]

    def total(self, source: Value) -> Value:
        """Sum the last axis, which is kept with length 1."""
        output = source.tensor.sum(-1, keepdim=True)
        return self._added([output], (source,), lambda cotangent: [cotangent.expand_as(source.tensor)], output.nbytes)[
            0
        ]

    def arranged(
        self, source: Value, there: Callable[[torch.Tensor], torch.Tensor], back: Callable[[torch.Tensor], torch.Tensor]
    ) -> Value:
        """Arrange elements otherwise by `there`, which `back` undoes; neither counts as moving bytes."""
        return self._added(
            [there(source.tensor)], (source,), lambda cotangent: [back(cotangent)], -source.tensor.nbytes
        )[0]

    def split(self, source: Value) -> tuple[Value, ...]:
        """Return the tensors along the first dimension."""
        return self._added(
            source.tensor.unbind(), (source,), lambda *cotangents: [torch.stack(cotangents)], source.tensor.nbytes
        )

    def differentiated(
        self, root: Value, leaves: Sequence[Value], cotangent: torch.Tensor
    ) -> Callable[[], list[torch.Tensor]]:
        """Return a call that takes the cotangent from the root back to the leaves, and returns their gradients."""
        steps = self._steps[::-1]

        def run() -> list[torch.Tensor]:
            adjoints = {root: cotangent}
            for targets, sources, back in steps:
                for source, gradient in zip(sources, back(*[adjoints[target] for target in targets]), strict=True):
                    adjoints[source] = adjoints[source] + gradient if source in adjoints else gradient
            return [adjoints[leaf] for leaf in leaves]

        return run

    def _pulled(
        self, output: torch.Tensor, sources: Sequence[Value], pull: Printed, known: Sequence[torch.Tensor]
    ) -> Value:
        """Add a step of one output, whose pullback takes what is known and a cotangent."""

        def narrowed(cotangent: torch.Tensor) -> list[torch.Tensor]:
            return [
                gradient.sum_to_size(source.tensor.shape)
                for gradient, source in zip(pull(*known, cotangent), sources, strict=True)
            ]

        # Only a source that was broadcast needs its gradient summed, which this trial run finds out.
        wide = pull(*known, torch.ones_like(output))
        is_narrow = any(source.tensor.shape != gradient.shape for source, gradient in zip(sources, wide, strict=True))
        back = narrowed if is_narrow else partial(pull, *known)
        read = sum(share * tensor.nbytes for share, tensor in zip(pull.reads, (*known, output), strict=True))
        return self._added([output], sources, back, round(read))[0]

    def _added(
        self, outputs: Sequence[torch.Tensor], sources: Sequence[Value], back: Back, read: int
    ) -> tuple[Value, ...]:
        """Add a step whose pullback reads so many bytes, and writes a gradient for each source."""
        targets = tuple(map(Value, outputs))
        self._steps.append((targets, tuple(sources), back))
        self.moved += read + sum(source.tensor.nbytes for source in sources)
        return targets


def floor(work: Work, graph: Graph) -> tuple[Callable[[], list[torch.Tensor]], int]:
    """Return the derivative of a piece of work as plain torch, and how many bytes at least it reads and writes.

    The forward is run once, and its values are kept. Raises NoFloorError where torch lacks a function of the
    derivative.
    """
    steps = Steps()
    leaves = [Value(leaf.detach()) for leaf in graph.wanted]
    if work.tree is not None:
        root = _steps_of(work.tree, steps, leaves)
    else:
        assert work.network is not None
        root = work.network.steps(steps, *leaves)
    return steps.differentiated(root, leaves, graph.cotangent), steps.moved


def _steps_of(tree: Tree, steps: Steps, leaves: Sequence[Value]) -> Value:
    """Run a tree step by step."""
    values: dict[Node, Value] = dict(zip(tree.leaves, leaves, strict=True))
    for node in tree.applications:
        values[node] = steps.op(
            node.op, *(values[child] for child in node.children), shapes=tuple(child.shape for child in node.children)
        )
    return values[tree.root]
