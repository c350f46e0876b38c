"""The analytic floor: sympy's derivative, with common sub-expressions, as plain torch without autograd.

It starts from what torch's backward starts from, the inputs, the values of the nodes, and what the forward
saved, and does the least that the mathematics asks for, one step of torch after the other. A fused kernel may be below it.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

import sympy
import torch

from reference.tree import rule
from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.op import Op, Shape
    from reference.tree import Apply, Node, Tree

    Step = Callable[..., tuple[torch.Tensor, ...]]


class NoFloorError(NotImplementedError):
    """There is no closed form of the derivative in functions of torch."""


def _either(of_tensors: Callable[..., Any], of_numbers: Callable[..., float]) -> Callable[..., Any]:
    """Return a function of tensors, or of the numbers in a formula."""

    def called(*arguments: Any) -> Any:
        return of_tensors(*arguments) if any(isinstance(a, torch.Tensor) for a in arguments) else of_numbers(*arguments)

    return called


def _chosen(conditions: Sequence[Any], values: Sequence[Any], default: float) -> Any:
    """Choose the value of the first condition that holds, as numpy's `select` does."""
    result: Any = default
    for condition, value in zip(reversed(conditions), reversed(values), strict=True):
        result = value if condition is True else torch.where(condition, value, result)
    return result


@dataclass(frozen=True)
class _Reduced:
    """What numpy calls `logical_and` and `logical_or`, of which formulas use `reduce`."""

    pair: Callable[[Any, Any], Any]

    def reduce(self, conditions: Sequence[Any]) -> Any:
        """Say where all conditions, or any, hold."""
        return reduce(self.pair, conditions)


TORCH: dict[str, Any] = {
    **{name: _either(getattr(torch, name), getattr(math, name)) for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "erf", "erfc", "log1p")},
    **{f"arc{name}": _either(getattr(torch, f"a{name}"), getattr(math, f"a{name}")) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "arctan2": torch.atan2,
    "abs": abs,
    "sign": torch.sign,
    "erfinv": torch.erfinv,
    "loggamma": _either(torch.lgamma, math.lgamma),
    "digamma": torch.digamma,
    "polygamma": lambda order, x: torch.special.polygamma(int(order), x),
    "select": _chosen,
    "logical_and": _Reduced(operator.and_),
    "logical_or": _Reduced(operator.or_),
    **{name: getattr(operator, short) for name, short in (("less", "lt"), ("less_equal", "le"), ("greater", "gt"), ("greater_equal", "ge"), ("equal", "eq"), ("not_equal", "ne"))},
    "pi": math.pi,
    "Step": torch.floor,
    "Sign": torch.sign,
    "Nearest": torch.round,
    "ScaledErfc": torch.special.erfcx,
}
"""What the names in a printed formula stand for."""

NAMES = {*TORCH, "asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2", "Abs", "Piecewise"}
"""The functions of sympy that can be printed."""


@cache
def step(op: Op, shapes: tuple[Shape, ...]) -> Step:
    """Return the vector-Jacobian product of an op as plain torch: of its inputs, the value that is saved where there is one, and a cotangent.

    Raises NoFloorError where torch lacks a function of the derivative, or the op is not elementwise.
    """
    if not op.elementwise or any(shapes):
        message = f"the derivative of {op.name} is a formula of each element, at one shape"
        raise NoFloorError(message)
    local = rule(op, shapes)
    arrays = [*local.inputs, *([] if local.saved is None else [local.saved]), local.cotangents]
    gradients = [sympy.piecewise_fold(gradient[()]) for gradient in local.saved_gradients]
    lacking = {type(f).__name__ for gradient in gradients for f in gradient.atoms(sympy.Function)} - NAMES
    if lacking:
        message = f"torch has no {', '.join(sorted(lacking))}"
        raise NoFloorError(message)
    written: Step = sympy.lambdify([array[()] for array in arrays], gradients, modules=[TORCH, "numpy"], cse=True)
    return written


def floor(tree: Tree, leaves: Sequence[torch.Tensor], cotangent: torch.Tensor) -> tuple[Callable[[], list[torch.Tensor]], int]:
    """Return the derivative of a tree as plain torch, and how many bytes at least it reads and writes.

    The forward is run once, and its values are kept. Raises NoFloorError.
    """
    values: dict[Node, torch.Tensor] = dict(zip(tree.leaves, (leaf.detach() for leaf in leaves), strict=True))
    steps = []
    for node in tree.applications:
        arguments = [values[child] for child in node.children]
        values[node] = binding.call(node.op)(arguments)
        pull = step(node.op, tuple(child.shape for child in node.children))
        saved = [] if node.rule.saved is None else [_saved(node, arguments, values[node])]
        steps.append((node, pull, [*arguments, *saved]))
    steps.reverse()

    def differentiated() -> list[torch.Tensor]:
        adjoints: dict[Node, torch.Tensor] = {tree.root: cotangent}
        for node, pull, known in steps:
            for child, slope in zip(node.children, pull(*known, adjoints[node]), strict=True):
                gradient = slope if isinstance(slope, torch.Tensor) else torch.full_like(adjoints[node], slope)  # of floor, say, it is 0
                adjoints[child] = adjoints[child] + gradient if child in adjoints else gradient
        return [adjoints[leaf] for leaf in tree.leaves]

    moved = sum(_read(node) + len(node.children) for node in tree.applications)
    return differentiated, moved * cotangent.numel() * cotangent.element_size()


def _saved(node: Apply, arguments: Sequence[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Return the value that torch saves of a node: its output, or what the entry says."""
    local = node.rule
    assert local.saved_value is not None
    if node.op.saves is None:
        return output
    value: torch.Tensor = sympy.lambdify([array[()] for array in local.inputs], local.saved_value[()], modules=[TORCH, "numpy"])(*arguments)
    return value


def _read(node: Apply) -> int:
    """Count the arrays that the gradients of a node depend on."""
    return len({symbol for gradient in node.rule.saved_gradients for symbol in sympy.sympify(gradient[()]).free_symbols})
