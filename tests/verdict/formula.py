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

    from reference.op import Op
    from reference.tree import Apply, Node, Tree


LONGEST = 400
"""Characters of a formula that are shown: the derivative of some ops fills pages."""

MOST_LINES = 12
"""Lines of a formula in numpy that are shown."""


def formulas(tree: Tree, wrt: str, along: str | None = None) -> list[str]:
    """Return lines with the function of a tree and its derivative.

    One elementwise op has its derivative by the input `wrt`, or the second one by `along` and then by `wrt`. A tree of
    several ops is written step by step, with the local derivatives of each. A tensor op is written as its entry has it.
    """
    names = names_of(tree)
    if tree.is_single:
        return _step(tree.root, str(tree), names, wrt, along)
    return [line for node in tree.applications for line in _step(node, names[node], names)]


def _step(
    node: Apply, head: str, names: Mapping[Node, str], wrt: str | None = None, along: str | None = None
) -> list[str]:
    """Write what one op gives, with `head` on the left, and the derivatives of an elementwise one: all, or by `wrt`."""
    op = node.op
    if not isinstance(op.formula, Expr):
        return [
            f"{head} = {_called(op)}({', '.join(names[child] for child in node.children)}), where",
            *_source(op.formula),
        ]
    variables = {names[child]: sympy.Symbol(names[child], real=True) for child in node.children}
    places = zip(op.inputs, node.children, strict=True)
    formula = op.formula.xreplace({sympy.Symbol(name, real=True): variables[names[child]] for name, child in places})
    over = "d" if wrt else f"d{head}"  # of a single op the headline says what is differentiated
    if along is not None:
        twice = slope(slope(formula, variables[along]), variables[wrt or along])
        return [f"{head} = {_shortened(str(formula))}", f"d2/d{along} d{wrt} = {_shortened(str(twice))}"]
    derivatives = {name: slope(formula, v) for name, v in variables.items() if wrt in {None, name}}
    return [
        f"{head} = {_shortened(str(formula))}",
        *(f"{over}/d{name} = {_shortened(str(derivative))}" for name, derivative in derivatives.items()),
    ]


def _called(op: Op) -> str:
    """Return the name that the formula of a tensor op has in its source, or the op's where it has none."""
    name = getattr(op.formula, "__name__", op.name)
    return str(name if name.isidentifier() else op.name)


def _source(formula: Any) -> list[str]:
    """Return the first lines of a formula in numpy, as it stands in its file."""
    try:
        # of `assert_gradient` the formula is wrapped, since some of its arguments are fixed
        lines = inspect.getsource(getattr(formula, "source", formula)).splitlines()
    except (OSError, TypeError):
        return ["    its formula is not in a file"]
    return textwrap.dedent("\n".join(lines[:MOST_LINES])).splitlines()


def _shortened(formula: str) -> str:
    return formula if len(formula) <= LONGEST else f"{formula[:LONGEST]} ... ({len(formula)} characters)"


def names_of(tree: Tree) -> dict[Node, str]:
    """Name the nodes of a tree: inputs as they are called, steps ``t0``, ``t1``, ..., and the root ``output``."""
    steps = {node: "output" if node is tree.root else f"t{number}" for number, node in enumerate(tree.applications)}
    return {leaf: leaf.name for leaf in tree.leaves} | steps
