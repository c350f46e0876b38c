"""The notebook's neuron as a graph: what goes forwards and what comes back on each edge, certified and by torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.oracle import answer, value
from reference.tree import Apply, Leaf, Tree
from tests.subject import binding

POINT = {"x": 6.7, "w": 1.0, "b": 0.0}
"""The notebook's point; the answer should be 0."""


@dataclass(frozen=True)
class Edge:
    """One edge of the graph."""

    source: str
    """The name of the node that it comes from."""

    target: str
    start: tuple[float, float]
    """Where that node is drawn: x to the right and y upwards."""

    end: tuple[float, float]
    value: str
    """What goes forwards."""

    gradient: str
    """What comes back: the certified derivative of the loss, and torch's."""


def steps() -> tuple[tuple[Leaf, ...], tuple[Apply, ...]]:
    """Return the neuron's leaves x, w and b, and its steps: w x, score, prediction, loss -log(1 - prediction)."""
    x, w, b = (Leaf(name) for name in POINT)
    product = Apply(OPS["mul"], (w, x))
    score = Apply(OPS["add"], (product, b))
    prediction = Apply(OPS["sigmoid"], (score,))
    loss = Apply(OPS["neg"], (Apply(OPS["log1p"], (Apply(OPS["neg"], (prediction,)),)),))
    return (x, w, b), (product, score, prediction, loss)


def neuron(weight: float, bias: float) -> tuple[float, tuple[float, float]]:
    """Return the neuron's loss at a weight and a bias, and its certified gradient by both."""
    leaves, (*_, loss) = steps()
    primals = tuple(np.array([each]) for each in (POINT["x"], weight, bias))
    case = Case(Tree(loss, leaves), FORMATS["float64"], primals, np.ones(1))
    _, by_weight, by_bias = answer(case)
    return float(value(case)[0]), (float(by_weight.centre[0]), float(by_bias.centre[0]))


def edges() -> list[Edge]:
    """Return the edges of the neuron as a graph."""
    (x, w, b), (product, score, prediction, rest) = steps()
    # what each node is called, and where it is drawn
    places: dict[Leaf | Apply, tuple[str, tuple[float, float]]] = {
        x: ("x", (0, 1.2)),
        w: ("w", (0, -0.2)),
        b: ("b", (1.4, -1.1)),
        product: ("w x", (1.4, 0.5)),
        score: ("z", (2.8, -0.3)),
        prediction: ("p", (4.0, -0.3)),
        rest: ("L", (5.2, -0.3)),
    }
    found = []
    for node, target in (
        (x, product),
        (w, product),
        (product, score),
        (b, score),
        (score, prediction),
        (prediction, rest),
    ):
        name, start = places[node]
        forwards, certified, torchs = _at(node, rest, (x, w, b))
        found.append(
            Edge(
                name,
                places[target][0],
                start,
                places[target][1],
                f"{name} = {forwards:.5g}",
                f"dL/d({name}) = {certified:.5g}"
                + ("" if f"{certified:.5g}" == f"{torchs:.5g}" else f", torch {torchs:.5g}"),
            )
        )
    return found


def _at(node: Leaf | Apply, root: Apply, leaves: tuple[Leaf, ...]) -> tuple[float, float, float]:
    """Return the value at a node, and the derivative of the root by it: certified, and by torch in float64."""
    form = FORMATS["float64"]
    point = tuple(np.array([POINT[leaf.name]]) for leaf in leaves)
    here = (
        point[leaves.index(node)]
        if isinstance(node, Leaf)
        else np.array([float(value(Case(Tree(node, leaves), form, point, np.ones(1)))[0])])
    )
    # The graph is cut at the node, which then is an input: the derivative by it is one that a case can ask for.
    cut = Leaf("v")
    replaced = _replaced(root, node, cut)
    assert isinstance(replaced, Apply)
    free = tuple(leaf for leaf in (*leaves, cut) if leaf in Tree(replaced, (*leaves, cut)).uses)
    primals = tuple(here if leaf is cut else point[leaves.index(leaf)] for leaf in free)
    tree = Tree(replaced, free)
    certified = answer(Case(tree, form, primals, np.ones(1)))[free.index(cut)].centre[0]
    tensors = [torch.tensor(primal, requires_grad=True) for primal in primals]
    (gradient,) = torch.autograd.grad(
        binding.function(tree)(*tensors), tensors[free.index(cut)], torch.ones(1, dtype=torch.float64)
    )
    return float(here[0]), float(certified), float(gradient[0])


def _replaced(node: Leaf | Apply, old: Leaf | Apply, new: Leaf) -> Leaf | Apply:
    """Return a graph with a leaf in the place of one of its nodes."""
    if node is old:
        return new
    return (
        node if isinstance(node, Leaf) else Apply(node.op, tuple(_replaced(child, old, new) for child in node.children))
    )
