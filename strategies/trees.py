"""Expression trees and graphs whose every node lies inside its function's domain."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from flint import arb, ctx
from hypothesis import strategies as st
from sympy import Abs, Piecewise

from reference.catalogue import OPS
from reference.compiler import compiled
from reference.op import Op, x, y
from reference.tree import Apply, Leaf, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.tree import Node

Range = tuple[float, float]

LEAF_RANGE = (0.25, 2.0)
"""Where the inputs of a tree lie."""

LARGEST = 64.0
"""The magnitude that a node may reach: no format overflows in a few such factors."""

PIECES = 8
"""Into how many pieces a range is cut to enclose a function over it."""

GRAIN = 16
"""Ends of ranges are rounded outward to multiples of 1/GRAIN, so that few are distinct."""

def is_smooth(op: Op) -> bool:
    """Say whether trees may have an op: elementwise, of one or two arguments, smooth on its domain.

    sympy takes a minute over nested Piecewise conditions, and cannot see that what Abs is applied to
    is real.
    """
    return op.composes and op.broadcasts and len(op.inputs) <= 2 and not callable(op.formula) and not op.formula.has(Abs, Piecewise)


SMOOTH = tuple(op for op in OPS.values() if is_smooth(op))
"""The ops of the catalogue that trees may have."""


@cache
def image(op: Op, ranges: tuple[Range, ...]) -> Range | None:
    """Enclose what an elementwise op makes of ranges; None where it is not smooth and bounded."""
    if not all(op.interval(n).encloses(*r) for n, r in zip(op.inputs, ranges, strict=True)):
        return None
    assert not callable(op.formula)
    program = compiled([op.formula, *op.kinks], (x, y)[: len(ranges)])
    ctx.prec = 64
    results = [program(*cell) for cell in _cells(ranges)]
    if any(not ball.is_finite() for row in results for ball in row):
        return None
    if any(ball.contains(0) for row in results for ball in row[1:]):
        return None
    lower = min(math.floor(float(row[0].lower()) * GRAIN - 1e-9) for row in results) / GRAIN
    upper = max(math.ceil(float(row[0].upper()) * GRAIN + 1e-9) for row in results) / GRAIN
    return (lower, upper) if max(-lower, upper) <= LARGEST else None


def _cells(ranges: tuple[Range, ...]) -> list[tuple[arb, ...]]:
    cells: list[tuple[arb, ...]] = [()]
    for lower, upper in ranges:
        half = (upper - lower) / (2 * PIECES)
        pieces = [arb(lower + half * (2 * i + 1), half) for i in range(PIECES)]
        cells = [(*cell, piece) for cell in cells for piece in pieces]
    return cells


@st.composite
def trees(draw: st.DrawFn, ops: Sequence[Op] = SMOOTH, inputs: int = 2, most: int = 8) -> Tree:
    """Trees of elementwise ops over scalar inputs in LEAF_RANGE, with shared nodes.

    Built upwards: each step applies an op whose domain contains the ranges of nodes made
    before, any of which may be used again. Shrinks towards few nodes and the first of the ops.
    Raises ValueError where no tree can be made of them.
    """
    if inputs < 1 or most < 1:
        message = f"inputs={inputs}, most={most}: a tree has at least one input and one op"
        raise ValueError(message)
    smooth = [op for op in ops if is_smooth(op)]
    leaves = tuple(Leaf(name) for name in ("x", "y", "z", "w")[:inputs])
    nodes: list[tuple[Node, Range]] = [(leaf, LEAF_RANGE) for leaf in leaves]
    for _ in range(draw(st.integers(1, most))):
        nodes.append(_grown(draw, nodes, smooth))
    root = nodes[-1][0]
    assert isinstance(root, Apply)
    whole = Tree(root, leaves)
    return Tree(root, tuple(leaf for leaf in leaves if leaf in whole.uses))


def _grown(draw: st.DrawFn, nodes: list[tuple[Node, Range]], ops: Sequence[Op]) -> tuple[Node, Range]:
    """Draw one more node; the newest node is its first argument, so that the graph is connected."""
    newest = nodes[-1]
    others = draw(st.sampled_from(nodes))
    offered = [(op, (newest, others)[: len(op.inputs)]) for op in ops]
    start = draw(st.integers(0, max(len(offered) - 1, 0)))
    for step in range(len(offered)):
        op, arguments = offered[(start + step) % len(offered)]
        reached = image(op, tuple(extent for _, extent in arguments))
        if reached is not None:
            return Apply(op, tuple(node for node, _ in arguments)), reached
    message = f"none of {len(ops)} ops takes the range {newest[1]}"
    raise ValueError(message)
