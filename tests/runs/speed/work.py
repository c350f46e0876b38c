"""What is timed: one op at a size, compositions of ops, and networks of torch's own layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reference.catalogue import FAMILIES, OPS
from reference.format import FORMATS
from reference.tree import Apply, Leaf, Tree, single
from tests.runs.speed.network import LENGTH, NETWORKS, WIDTH
from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.format import Floats, Format
    from reference.op import Op
    from reference.tree import Node
    from tests.runs.speed.network import Network

REACH = 2.5
"""How far from 0 inputs lie at most, where the domain is that wide; an arbitrary number."""

BATCH = 8
"""Sequences that a network is given at once."""

FAMILY = {op.name: family for family, ops in FAMILIES.items() for op in ops}
"""The family of each op of the catalogue."""


@dataclass(frozen=True, eq=False)
class Work:
    """A function and its inputs: all that it takes to time its derivative."""

    name: str
    family: str
    primals: tuple[Floats, ...]
    form: Format
    tree: Tree | None = None
    """The function, where it is made of ops of the catalogue."""

    network: Network | None = None
    """The function, where it is made of torch's layers; it is differentiated by their parameters too."""

    @property
    def size(self) -> int:
        """The elements of the largest input."""
        return max(primal.size for primal in self.primals)

    def __str__(self) -> str:
        """Name it, as in a table."""
        return f"{self.name}, {self.size:,} {self.form.name}"


class Graph:
    """A piece of work on a device, ready to be run forwards, and backwards again and again."""

    def __init__(self, work: Work, device: str) -> None:
        """Make the inputs, and run it forwards once."""
        self.leaves = [binding.tensor(primal, work.form, device).requires_grad_() for primal in work.primals]
        parameters: list[torch.Tensor] = []
        if work.tree is not None:
            self._function = binding.function(work.tree)
        else:
            assert work.network is not None
            torch.manual_seed(0)
            layers = work.network.layers().to(binding.dtype(work.form)).to(device)
            self._function, parameters = layers, list(layers.parameters())
        self.wanted = [*self.leaves, *parameters]
        self.output = self.forward()
        self.cotangent = torch.full_like(self.output, 0.5)
        self._twice: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self) -> torch.Tensor:
        """Run the function."""
        return self._function(*self.leaves)

    def backward(self) -> tuple[torch.Tensor, ...]:
        """Run the backward alone: the graph is kept for the next time."""
        return torch.autograd.grad(self.output, self.wanted, self.cotangent, retain_graph=True)

    def both(self) -> tuple[torch.Tensor, ...]:
        """Run forwards and backwards, as a step of training does."""
        return torch.autograd.grad(self.forward(), self.wanted, self.cotangent)

    def double(self) -> tuple[torch.Tensor, ...]:
        """Run the backward of the gradient by the first input; raises RuntimeError where torch has none."""
        if self._twice is None:
            (gradient,) = torch.autograd.grad(self.output, self.leaves[:1], self.cotangent, create_graph=True)
            self._twice = gradient, torch.ones_like(gradient)
        gradient, cotangent = self._twice
        return torch.autograd.grad(gradient, self.leaves[:1], cotangent, retain_graph=True, allow_unused=True)


TIMED: dict[str, Callable[[Graph], Callable[[], Any]]] = {
    "backward": lambda graph: graph.backward,
    "both": lambda graph: graph.both,
    "double": lambda graph: graph.double,
    "forward": lambda graph: graph.forward,
}
"""The kinds of run that are timed, each by the call of a graph."""


def spread(op: Op, name: str, form: Format, count: int) -> Floats:
    """Return values of an input, evenly spread over the part of its domain near 0, in random order."""
    number, (lower, upper) = op.inputs.index(name), op.interval(name).clipped(REACH)
    margin = (upper - lower) / (16 + number)  # another for each input, so that no two of them tie
    values = np.random.default_rng(number).permutation(np.linspace(lower + margin, upper - margin, max(count, 2)))[
        :count
    ]
    poles = op.interval(name).is_pole(values)  # which are replaced by the value at three quarters of the range
    return form.values(form.ordinals(np.where(poles, (lower + 3 * upper) / 4, values)))


def of_op(op: Op, size: int, form: Format) -> Work:
    """Return an op on so many elements; a tensor op has a batch of as many of its shape as fit, if it takes one."""
    if op.elementwise:
        tree, shapes = single(op), ((size,),) * len(op.inputs)
    else:
        tree = single(op, op.cores[0])
        most = max(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in tree.leaves)
        batch = (max(size // most, 1),) if op.batched else ()
        shapes = tuple(
            (*(batch if number < op.batched else ()), *leaf.shape) for number, leaf in enumerate(tree.leaves)
        )
    primals = tuple(
        spread(op, name, form, int(np.prod(shape, dtype=np.int64))).reshape(shape)
        for name, shape in zip(op.inputs, shapes, strict=True)
    )
    return Work(op.name, FAMILY.get(op.name, "your own"), primals, form, tree)


def _of_tree(name: str, tree: Tree, size: int, form: Format) -> Work:
    values = form.values(form.ordinals(np.linspace(0.25, 2, size)))
    return Work(name, "graphs", (values,) * len(tree.leaves), form, tree)


def chain(depth: int, size: int, form: Format) -> Work:
    """Return sin(sin(...)), so many times over, on `size` elements."""
    leaf = Leaf("x")
    node: Node = leaf
    for _ in range(depth):
        node = Apply(OPS["sin"], (node,))
    assert isinstance(node, Apply)
    return _of_tree(f"chain of {depth:,}", Tree(node, (leaf,)), size, form)


def fan_out(width: int, size: int, form: Format) -> Work:
    """Return the sum of `width` sines of one input of `size` elements."""
    leaf = Leaf("x")
    total = Apply(OPS["sin"], (leaf,))
    for _ in range(width - 1):
        total = Apply(OPS["add"], (total, Apply(OPS["sin"], (leaf,))))
    return _of_tree(f"fan-out of {width:,}", Tree(total, (leaf,)), size, form)


def neuron(size: int, form: Format) -> Work:
    """Return the notebook's neuron on inputs x, weights w and biases b.

    It is the binary cross-entropy of sigmoid(w x + b) for y = 0.
    """
    x, w, b = Leaf("x"), Leaf("w"), Leaf("b")
    logit = Apply(OPS["add"], (Apply(OPS["mul"], (w, x)), b))
    loss = Apply(OPS["neg"], (Apply(OPS["log1p"], (Apply(OPS["neg"], (Apply(OPS["sigmoid"], (logit,)),)),)),))
    return replace(_of_tree("neuron", Tree(loss, (x, w, b)), size, form), family="networks")


def of_network(name: str, form: Format) -> Work:
    """Return a network of torch's own layers."""
    samples = form.values(form.ordinals(np.random.default_rng(0).uniform(-1, 1, (BATCH, LENGTH, WIDTH))))
    return Work(name, "networks", (samples,), form, network=NETWORKS[name])


GATED = ("exp", "sqrt", "sin", "erf", "erfinv", "gelu", "softplus", "sigmoid", "mul", "div", "pow", "softmax")
"""The ops whose backward a comparison times."""


def gated() -> dict[str, Callable[[], Work]]:
    """Return what makes each work that a comparison of two builds times: large enough for the kernels to count."""
    form = FORMATS["float32"]
    return {
        **{name: partial(of_op, OPS[name], 100_000, form) for name in GATED},
        "chain of 100": partial(chain, 100, 1000, form),
        "fan-out of 100": partial(fan_out, 100, 1000, form),
        "neuron": partial(neuron, 10_000, form),
        **{name: partial(of_network, name, form) for name in NETWORKS},
    }


def counted() -> dict[str, Callable[[], Work]]:
    """Return what makes each work whose instructions a comparison counts: every elementwise op, on few elements."""
    form = FORMATS["float32"]
    ops = {op.name: partial(of_op, op, 256, form) for op in OPS.values() if op.elementwise}
    return {**ops, "chain of 10": partial(chain, 10, 256, form), "neuron": partial(neuron, 256, form)}
