"""Expression trees in which the arguments of every op certainly lie inside its domain."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, reduce
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from flint import arb
from hypothesis import strategies as st
from sympy import Expr

from reference.catalogue import OPS
from reference.compiler import compiled
from reference.convention import seams
from reference.evaluation import Exact, evaluate, objects
from reference.format import precision
from reference.graph import Input, Map
from reference.trace import TraceError, applied
from reference.tree import MANNERS, Apply, Leaf, Tree, result_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.graph import Shape, Step
    from reference.op import Array, Op
    from reference.tree import Node

Range = tuple[float, float]
"""The lower and the upper end of the values that a node may have."""

LEAF_RANGE = (0.25, 2.0)
"""The range of the inputs of a tree: arbitrary, and inside the domains of most ops."""

LARGEST_NODE = 64.0
"""The magnitude that a node may reach: float16, which ends at 65,504, holds the product of two such factors."""

PIECES = 8
"""The number of pieces that a range is cut into to enclose a function over it: balls of narrow ranges are tighter."""

GRAIN = 16
"""Ends of ranges are rounded outward to multiples of 1/GRAIN, so that few are distinct and `image` is cached."""

LEAF_SHAPES: tuple[Shape, ...] = ((2, 3), (1, 3), (2, 1), (1, 1))
"""Shapes of the inputs of a tree of tensors, which broadcast against each other."""

MOST_NODE_ELEMENTS = 6
"""The most elements that a node may have: a tree is drawn for its structure, not for its size."""


def is_composable(op: Op) -> bool:
    """Say whether trees may have an op: one of one or two inputs, without a condition on them, that takes any batch."""
    if not op.composes or len(op.inputs) > 2 or op.where is not None:
        return False
    return op.batched == len(op.inputs) if callable(op.formula) else op.broadcasts


COMPOSABLE = tuple(op for op in OPS.values() if is_composable(op))
"""The ops of the catalogue that trees may have."""


@cache
def image(op: Op, ranges: tuple[Range, ...], shapes: tuple[Shape, ...], order: int = 1) -> Range | None:
    """Return a range that certainly holds the values of an op over ranges of its inputs.

    It is None where the inputs may leave the domain, the op may lack a derivative of the order, its values may exceed
    LARGEST_NODE, or it does not take the shapes.
    """
    if not all(op.interval(n).encloses(*r) for n, r in zip(op.inputs, ranges, strict=True)):
        return None
    try:
        shape = result_shape(op, shapes)
    except TraceError:
        return None
    if prod(shape) > MOST_NODE_ELEMENTS:
        return None
    with precision(64):
        values, kinks = _enclosed(op, ranges, shapes, order)
    if not all(ball.is_finite() and abs(ball) <= LARGEST_NODE for ball in values) or any(
        not ball.is_finite() or ball.contains(0) for row in kinks for ball in row
    ):
        return None
    # float() may round an end inward, by far less than 1e-9
    lower = min(math.floor(float(ball.lower()) * GRAIN - 1e-9) for ball in values) / GRAIN
    upper = max(math.ceil(float(ball.upper()) * GRAIN + 1e-9) for ball in values) / GRAIN
    return (lower, upper) if max(-lower, upper) <= LARGEST_NODE else None


def _enclosed(
    op: Op, ranges: tuple[Range, ...], shapes: tuple[Shape, ...], order: int
) -> tuple[Sequence[arb], Sequence[Sequence[arb]]]:
    """Enclose the values of an op over ranges, and the expressions that vanish where it is not smooth."""
    if isinstance(op.formula, Expr):
        program = compiled([op.formula, *op.kinks, *(seams(op) if order > 1 else ())], op.symbols)
        values, *kinks = program.at(_cells(ranges))
        return values, kinks
    inputs = [Input((), shape, name) for name, shape in zip(op.inputs, shapes, strict=True)]
    given = {
        name: objects([arb((lower + upper) / 2, (upper - lower) / 2)] * prod(shape), shape)
        for name, shape, (lower, upper) in zip(op.inputs, shapes, ranges, strict=True)
    }
    (found,) = evaluate([applied(op, inputs, 0)], given, Ranges())
    return found.ravel().tolist(), []  # kinks of steps inside a formula of arrays are not looked for


class Ranges(Exact):
    """The arithmetic of flint's balls as ranges: a map of one argument encloses each piece of a range by itself."""

    def step(self, step: Step, sources: Sequence[Array]) -> Array:
        """Evaluate a step at the ranges of its sources."""
        if not isinstance(step, Map) or len(sources) != 1:
            return super().step(step, sources)
        pieces = [_pieces(ball) for ball in sources[0].ravel().tolist()]
        # all pieces are one array with an axis in front, whose results are united along that
        shape = (PIECES, *sources[0].shape)
        cells = objects([cell for row in zip(*pieces, strict=True) for cell in row], shape)
        whole = super().step(replace(step, sources=(Input((), shape),), shape=shape), [cells])
        return reduce(np.frompyfunc(arb.union, 2, 1), whole)


def _pieces(ball: arb) -> list[arb]:
    """Cut a ball into PIECES of equal width."""
    half = ball.rad() / PIECES
    return [ball.mid() + half * (2 * i + 1 - PIECES) + arb(0, half) for i in range(PIECES)]


def _cells(ranges: tuple[Range, ...]) -> list[tuple[arb, ...]]:
    """Cut a box into the products of the pieces of its ranges."""
    cells: list[tuple[arb, ...]] = [()]
    for lower, upper in ranges:
        half = (upper - lower) / (2 * PIECES)
        pieces = [arb(lower + half * (2 * i + 1), half) for i in range(PIECES)]
        cells = [(*cell, piece) for cell in cells for piece in pieces]
    return cells


@st.composite
def trees(
    draw: st.DrawFn,
    ops: Sequence[Op] | None = None,
    inputs: int = 2,
    most: int = 8,
    *,
    tensors: bool = False,
    order: int = 1,
) -> Tree:
    """Trees over inputs in LEAF_RANGE, with shared nodes: of scalars, or of small tensors.

    Their ops are those of COMPOSABLE unless some are given; there are at most `inputs` leaves, and `most` ops, or two
    more. Trees of tensors broadcast inside, and have reductions, contractions and ops that move elements. A tree is
    built upwards: each step applies an op whose domain contains the ranges of earlier nodes, any of which may be used
    again. Where a user's own ops are among them, every other tree ends in one, behind an op whose output torch saves,
    so that an op which overwrites its input gives another gradient. Of an order above 1, no tree reduces a single
    element: its second derivative is exactly 0, and what torch computes need not be. Shrinks towards few nodes and the
    first of the ops. Raises ValueError where no tree can be made of them.
    """
    ops = COMPOSABLE if ops is None else ops  # a default would be printed at every draw, to tell strategies apart
    if inputs < 1 or most < 1:
        message = f"inputs={inputs}, most={most}: a tree has at least one input and one op"
        raise ValueError(message)
    offered = [op for op in ops if is_composable(op) and (tensors or op.elementwise)]
    shapes = [draw(st.sampled_from(LEAF_SHAPES)) if tensors else () for _ in range(inputs)]
    leaves = tuple(Leaf(name, shape) for name, shape in zip(("x", "y", "z", "w"), shapes, strict=False))
    nodes: list[tuple[Node, Range]] = [(leaf, LEAF_RANGE) for leaf in leaves]
    for _ in range(draw(st.integers(1, most))):
        grown = _grown(draw, nodes, offered, order)
        if grown is None:
            message = f"none of {len(offered)} ops takes the range {nodes[-1][1]}"
            raise ValueError(message)
        nodes.append(grown)
    own = [op for op in offered if op.name not in OPS]  # those of a user's catalogue
    if bool(own) and draw(st.booleans()):
        for choice in ([op for op in offered if saves_its_output(op)], own):
            grown = _grown(draw, nodes, choice, order)
            nodes += [] if grown is None else [grown]
    root = nodes[-1][0]
    assert isinstance(root, Apply)
    whole = Tree(root, leaves)
    return Tree(root, tuple(leaf for leaf in leaves if leaf in whole.uses))  # some may not have been used


def saves_its_output(op: Op) -> bool:
    """Say whether torch differentiates an op through its output, which it saves."""
    return op.saved is not None and op.saves is None


def _grown(
    draw: st.DrawFn, nodes: list[tuple[Node, Range]], ops: Sequence[Op], order: int
) -> tuple[Node, Range] | None:
    """Draw one more node, with its range; the newest node is its first argument, so that the graph is connected.

    It is None where no op takes the range and shape of that node.
    """
    newest = nodes[-1]
    others = draw(st.sampled_from(nodes))
    manner = draw(st.sampled_from(MANNERS))
    offered = [(op, (newest, others)[: len(op.inputs)]) for op in ops]
    # the ops are tried in turn from a drawn one on: to draw until one fits would be many choices, which shrink badly
    start = draw(st.integers(0, max(len(offered) - 1, 0)))
    for step in range(len(offered)):
        op, arguments = offered[(start + step) % len(offered)]
        if order > 1 and not op.elementwise and any(node.shape[-1:] == (1,) for node, _ in arguments):
            continue
        reached = image(op, tuple(extent for _, extent in arguments), tuple(node.shape for node, _ in arguments), order)
        if reached is not None:
            children = tuple(node for node, _ in arguments)
            return Apply(
                op, children, manner if op.elementwise and op.in_place and len(children) == 1 else MANNERS[0]
            ), reached
    return None
