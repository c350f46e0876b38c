"""A function and its derivative, written for people."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Expr

from reference.transform import slope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reference.tree import Apply, Node, Tree


LONGEST = 400
"""Characters of a formula that are shown: a derivative of a large tensor op fills pages."""

MOST_LINES = 12
"""Lines of a formula in numpy that are shown."""


def formulas(tree: Tree, wrt: str, along: str | None = None) -> list[str]:
    """Return the function of a tree and its derivative.

    The derivative of one elementwise op is by one input, or by that of the derivative along another; a tree is
    written step by step. A tensor op is written as its entry has it.
    """
    names = names_of(tree)
    if tree.is_single:
        return _step(tree.root, str(tree), names, wrt, along)
    return [line for node in tree.applications for line in _step(node, names[node], names)]


def _step(
    node: Apply, head: str, names: Mapping[Node, str], wrt: str | None = None, along: str | None = None
) -> list[str]:
    """Write what one op gives, and the derivatives of an elementwise one."""
    op = node.op
    if not isinstance(op.formula, Expr):
        return [
            f"{head} = {op.name}({', '.join(names[child] for child in node.children)}), where",
            *_source(op.formula),
        ]
    variables = {names[child]: sympy.Symbol(names[child], real=True) for child in node.children}
    places = zip(op.inputs, node.children, strict=True)
    formula = op.formula.xreplace({sympy.Symbol(name, real=True): variables[names[child]] for name, child in places})
    over = "d" if wrt else f"d{head}"
    if along is not None:
        twice = slope(slope(formula, variables[along]), variables[wrt or along])
        return [f"{head} = {_shortened(str(formula))}", f"d2/d{along} d{wrt} = {_shortened(str(twice))}"]
    derivatives = {name: slope(formula, v) for name, v in variables.items() if wrt in {None, name}}
    return [
        f"{head} = {_shortened(str(formula))}",
        *(f"{over}/d{name} = {_shortened(str(derivative))}" for name, derivative in derivatives.items()),
    ]


def _source(formula: Any) -> list[str]:
    """Return the lines of a formula in numpy."""
    try:
        lines = inspect.getsource(getattr(formula, "source", formula)).splitlines()
    except (OSError, TypeError):
        return ["    its formula is not in a file"]
    return textwrap.dedent("\n".join(lines[:MOST_LINES])).splitlines()


def _shortened(formula: str) -> str:
    return formula if len(formula) <= LONGEST else f"{formula[:LONGEST]} ... ({len(formula)} characters)"


def names_of(tree: Tree) -> dict[Node, str]:
    """Name the nodes of a tree: the inputs by their names, the root output."""
    steps = {node: "output" if node is tree.root else f"t{number}" for number, node in enumerate(tree.applications)}
    return {leaf: leaf.name for leaf in tree.leaves} | steps
