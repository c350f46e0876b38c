"""Pullbacks of formulas as plain torch: sympy's derivatives, printed with common sub-expressions."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import cache, reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
import torch

from reference.elements import Symbols, elements, symbols
from reference.evaluation import evaluate
from reference.graph import Input
from reference.op import x, y, z
from reference.trace import Traced, traced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sympy import Expr, MatrixExpr, Symbol

    from reference.elements import Elements
    from reference.graph import Shape
    from reference.op import Array, Op


class NoFloorError(NotImplementedError):
    """There is no closed form of the derivative in functions of torch."""


def _either(of_tensors: Callable[..., Any], of_numbers: Callable[..., float]) -> Callable[..., Any]:
    """Return a function that takes tensors, and the constants of a formula too, which torch's own does not."""

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


def _bessel(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    """Return the modified Bessel function of any order, from those of order 0 and 1 by its recurrence."""

    def called(order: int, x: torch.Tensor) -> torch.Tensor:
        lower, upper = first(x), second(x)
        for n in range(1, order):
            lower, upper = upper, lower - 2 * n * upper / x
        result: torch.Tensor = upper if order else lower
        return result

    return called


TORCH: dict[str, Any] = {
    **{
        name: _either(getattr(torch, name), getattr(math, name))
        for name in ("exp", "log", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "erf", "erfc", "log1p")
    },
    **{
        f"arc{name}": _either(getattr(torch, f"a{name}"), getattr(math, f"a{name}"))
        for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")
    },
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
    **{
        name: getattr(operator, short)
        for name, short in (
            ("less", "lt"),
            ("less_equal", "le"),
            ("greater", "gt"),
            ("greater_equal", "ge"),
            ("equal", "eq"),
            ("not_equal", "ne"),
        )
    },
    "pi": math.pi,
    "Floor": torch.floor,
    "Sign": torch.sign,
    "Nearest": torch.round,
    "ScaledErfc": torch.special.erfcx,
    "besseli": _bessel(torch.special.i0, torch.special.i1),
    "ScaledBesselI": _bessel(torch.special.i0e, torch.special.i1e),
}
"""What the names stand for that sympy's printer for numpy writes."""

NAMES = {*TORCH, "asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2", "Abs", "Piecewise"}
"""The functions of sympy that can be printed: by numpy's name or by their own."""


@dataclass(frozen=True)
class Printed:
    """Formulas of the elements of tensors, printed as plain torch; a batch is in front of every tensor."""

    function: Callable[..., Sequence[Any]]
    """Returns every element of the results, given every element of the tensors."""

    dimensions: tuple[int, ...]
    """How many dimensions each of its tensors has, without the batch."""

    reads: tuple[float, ...]
    """The share of the elements of each tensor that the results depend on."""

    shapes: tuple[Shape, ...]
    """The shapes of the results, without the batch."""

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Return the results; a constant one has the shape of the last tensor."""
        if not any(self.dimensions):
            return [
                result if isinstance(result, torch.Tensor) else _tensor(result, tensors[-1])
                for result in self.function(*tensors)
            ]
        elements = [
            element
            for tensor, count in zip(tensors, self.dimensions, strict=True)
            for element in _elements(tensor, count)
        ]
        found = (_tensor(element, elements[-1]) for element in self.function(*elements))
        return [_whole(list(islice(found, math.prod(shape))), shape) for shape in self.shapes]


def _elements(tensor: torch.Tensor, dimensions: int) -> Sequence[torch.Tensor]:
    return tensor.flatten(-dimensions).unbind(-1) if dimensions else (tensor,)


def _tensor(result: Any, like: torch.Tensor) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else torch.full_like(like, result)  # of floor, say, it is 0


def _whole(elements: list[torch.Tensor], shape: Shape) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(*elements), -1).unflatten(-1, shape) if shape else elements[0]


def _printed(arrays: Sequence[Array], results: Sequence[Array]) -> Printed:
    expressions = [
        sympy.piecewise_fold(sympy.sympify(result, strict=True)) for array in results for result in array.flat
    ]
    lacking = {type(f).__name__ for expression in expressions for f in expression.atoms(sympy.Function)} - NAMES
    if lacking:
        message = f"torch has no {', '.join(sorted(lacking))}"
        raise NoFloorError(message)
    used = {symbol for expression in expressions for symbol in expression.free_symbols}
    return Printed(
        sympy.lambdify(
            [symbol for array in arrays for symbol in array.flat], expressions, modules=[TORCH, "numpy"], cse=True
        ),
        tuple(array.ndim for array in arrays),
        tuple(len(used.intersection(array.flat)) / array.size for array in arrays),
        tuple(array.shape for array in results),
    )


@dataclass(frozen=True)
class Local:
    """The pullback of an op at given shapes, element by element in symbols."""

    known: tuple[Array, ...]
    """The symbols of the inputs, and of the value that torch saves where it saves one."""

    value: Array | None
    """That value, as expressions in the inputs."""

    cotangents: Array
    gradients: tuple[Array, ...]
    """The gradient by each input, as expressions in what is known and the cotangents."""


@cache
def local(op: Op, shapes: tuple[Shape, ...]) -> Local:
    """Differentiate an op at these shapes, element by element, by the value that torch saves where it saves one."""
    plain = elements(op, shapes)
    if op.saved is None:
        return Local(plain.inputs, None, plain.cotangents, plain.gradients)
    value, saved, instead = _through_saved(op, plain)
    gradients = tuple(np.empty(array.shape, dtype=object) for array in plain.gradients)
    for written, array in zip(gradients, plain.gradients, strict=True):
        through = [gradient.subs(instead, simultaneous=True) for gradient in array.flat]
        written.ravel()[:] = [sympy.factor(gradient) for gradient in through] if op.elementwise else through
    return Local((*plain.inputs, saved), value, plain.cotangents, gradients)


def _through_saved(op: Op, plain: Elements) -> tuple[Array, Array, dict[Expr, Expr]]:
    """Return the value that torch saves of an op, its symbols, and what they replace in the gradients: an identity."""
    if op.saving is not None:
        names = dict(zip((x, y, z), (array[()] for array in plain.inputs), strict=False))
        value = plain.outputs if op.saving.value is None else np.array(op.saving.value.xreplace(names))
        names[op.saving.output] = symbols("saved", ())[()]
        instead = {before.xreplace(names): after.xreplace(names) for before, after in op.saving.instead}
        return value, symbols("saved", ()), instead
    assert callable(op.saved)
    value = plain.outputs if op.saves is None else _of_symbols(op.saves, plain.inputs)
    saved = symbols("saved", value.shape)
    rewritten = _of_symbols(op.saved, (*plain.inputs, saved))
    return value, saved, dict(zip(plain.inputs[0].flat, rewritten.flat, strict=True))


def _of_symbols(formula: Callable[..., Any], arrays: Sequence[Array]) -> Array:
    """Evaluate a formula in numpy on arrays of symbols."""
    inputs = [Input((), array.shape, str(number)) for number, array in enumerate(arrays)]
    (step,) = traced(formula, [Traced(each) for each in inputs], "saved")
    given: Any = {each.name: array for each, array in zip(inputs, arrays, strict=True)}
    (result,) = evaluate([step], given, Symbols())
    return result


@cache
def back_over_op(op: Op, shapes: tuple[Shape, ...]) -> Printed:
    """Return the gradients of an op at these shapes.

    They are of its inputs, the value that torch saves where it saves one, and a cotangent. Raises NoFloorError where
    torch lacks a function of the derivative.
    """
    back = local(op, shapes)
    return _printed([*back.known, back.cotangents], back.gradients)


@cache
def saved(op: Op, shapes: tuple[Shape, ...]) -> Printed | None:
    """Return the value that torch saves of an op at these shapes, from its inputs.

    It is None where torch saves none, or the output.
    """
    back = local(op, shapes)
    return None if back.value is None or op.saves is None else _printed(back.known[:-1], [back.value])


@cache
def of_formula(formula: Expr, inputs: tuple[Symbol, ...]) -> tuple[Printed, Printed]:
    """Return a formula of the elements of its inputs, and the gradients of that, from these and a cotangent."""
    cotangent = sympy.Dummy("cotangent", real=True)
    arrays = [np.array(symbol) for symbol in (*inputs, cotangent)]
    gradients = [np.array(cotangent * sympy.diff(formula, symbol)) for symbol in inputs]
    return _printed(arrays[:-1], [np.array(formula)]), _printed(arrays, gradients)


M, N, K = sympy.symbols("m n k", integer=True, positive=True)
LEFT, RIGHT, COTANGENT = (
    sympy.MatrixSymbol("left", M, K),
    sympy.MatrixSymbol("right", N, K),
    sympy.MatrixSymbol("cotangent", M, N),
)
"""The matrices of a product left @ right.T, and of the cotangent."""


@cache
def of_product() -> tuple[MatrixExpr, MatrixExpr]:
    """Return the gradients of the product left @ right.T by both, which are products themselves."""
    # The gradient of <cotangent, left @ right.T>, which sympy has as a trace.
    weighted = sympy.Trace(COTANGENT.T * LEFT * RIGHT.T)
    return sympy.diff(weighted, LEFT).doit(), sympy.diff(weighted, RIGHT).doit()


def multiplied(product: MatrixExpr, matrices: dict[MatrixExpr, torch.Tensor]) -> torch.Tensor:
    """Evaluate a product of matrices, some of them transposed."""
    return reduce(
        torch.matmul,
        [
            matrices[factor.arg].mT if isinstance(factor, sympy.Transpose) else matrices[factor]
            for factor in product.args
        ],
    )
