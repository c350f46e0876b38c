"""A graph over arrays of symbols: each element is an expression, which sympy differentiates by itself.

This is the second route to a derivative: it shares the formula with `reference.transform.pullback`, and the slope of a
scalar expression, and nothing else. It takes seconds for a dozen elements, so it is for tiny shapes, and for the
formulas that are shown to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from sympy import Expr, Symbol

from reference.evaluation import evaluate, moved
from reference.graph import Contract, Detached, Gather, Input, Map, Scatter, Select, Shift, Step, Through
from reference.scalars import exact
from reference.trace import applied
from reference.transform import slope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.format import Floats
    from reference.graph import Shape
    from reference.op import Array, Op


@cache
def _names(prefix: str, count: int) -> tuple[Symbol, ...]:
    return tuple(Symbol(f"{prefix}{i}", real=True) for i in range(count))


def symbols(prefix: str, shape: Shape) -> Array:
    """Return an array of a shape of real symbols, the same ones at each call."""
    array = np.empty(shape, dtype=object)
    array.ravel()[:] = _names(f"{prefix}_", array.size)
    return array


def vjp(outputs: Array, cotangents: Array, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """Return the vector-Jacobian product: the gradient of the contraction with a cotangent.

    The result has an array of expressions for each input, of the input's shape.
    """
    # one expression, whose derivative by each symbol is an entry of the gradient
    contraction = sympy.Add(*(c * o for c, o in zip(cotangents.flat, outputs.flat, strict=True)))
    return tuple(_filled(array.shape, [slope(contraction, v) for v in array.flat]) for array in inputs)


def derivative(expression: Expr, variable: Symbol, order: int = 1) -> Expr:
    """Return a derivative of an expression in one variable. Raises ValueError where the order is below 1."""
    if order < 1:
        message = f"order={order}: a derivative has order 1 or more"
        raise ValueError(message)
    return sympy.diff(expression, variable, order)


@dataclass(frozen=True)
class Elements:
    """One op at small shapes, in symbols: its values, and its vector-Jacobian product."""

    inputs: tuple[Array, ...]
    """Symbols, in the shape of each input."""

    outputs: Array
    """Expressions in those."""

    cotangents: Array
    """Symbols, in the shape of the outputs."""

    gradients: tuple[Array, ...]
    """Expressions in the inputs and cotangents, in the shape of each input."""


@cache
def elements(op: Op, shapes: tuple[Shape, ...]) -> Elements:
    """Differentiate an op at these shapes of its inputs, element by element; a second call costs nothing.

    Raises TraceError where the op does not take these shapes.
    """
    inputs = tuple(symbols(name, shape) for name, shape in zip(op.inputs, shapes, strict=True))
    outputs = values(op, inputs)
    cotangents = symbols("cotangent", outputs.shape)
    return Elements(inputs, outputs, cotangents, vjp(outputs, cotangents, inputs))


def values(op: Op, arrays: Sequence[Array]) -> Array:
    """Return the values of an op at arrays of expressions, with contexts of seed 0; several outputs are in one row."""
    sources = [Input((), array.shape, name) for name, array in zip(op.inputs, arrays, strict=True)]
    given: Any = dict(zip(op.inputs, arrays, strict=True))
    (outputs,) = evaluate([applied(op, sources, 0)], given, Symbols())
    return outputs


class Symbols:
    """The arithmetic of expressions, in arrays of objects: exact."""

    def of(self, values: Floats) -> Array:
        """Take exact numbers, or expressions, in."""
        if values.dtype == object or not values.size:
            return values.astype(object)
        return np.vectorize(exact, otypes=[object])(values)

    def saved(self, value: Array) -> Array:
        """Return the value: nothing is rounded."""
        return value

    result = saved

    def step(self, step: Step, sources: Sequence[Array]) -> Array:
        """Write a step in the expressions of its sources.

        Raises NotImplementedError for a kind of step that has no meaning here.
        """
        match step:
            case Map():
                columns = [np.broadcast_to(source, step.shape).ravel() for source in sources]
                rows = zip(*columns, strict=True) if columns else [()]
                values = [dict(zip(step.variables, row, strict=True)) for row in rows]
                return _filled(step.shape, [step.expression.xreplace(each) for each in values])
            case Contract():
                return np.asarray(
                    np.einsum(f"{','.join(step.labels)}->{step.kept}", *sources, optimize=False), dtype=object
                )
            case Gather():
                return _gathered(sources[0], step)
            case Scatter():
                return _scattered(sources[0], step)
            case Select():
                return _selected(sources[0], step)
            case Shift():
                # the function does not depend on a shift, which is for the range of exponentials alone
                return _filled(step.shape, [sympy.S.Zero] * step.size)
            case Through() | Detached():
                return sources[0]
        raise NotImplementedError(type(step).__name__)


def _filled(shape: Shape, elements: Sequence[Expr]) -> Array:
    """Return an array of a shape of these elements."""
    array = np.empty(shape, dtype=object)
    array.ravel()[:] = elements
    return array


def _gathered(source: Array, step: Gather) -> Array:
    if step.move:
        return moved(source, step)
    padded = np.append(source.ravel(), sympy.S.Zero)  # which -1, the number of no element, is the index of
    return padded[step.table]


def _scattered(source: Array, step: Scatter) -> Array:
    result = _filled((step.size,), [sympy.S.Zero] * step.size)
    for index, element in zip(step.table.ravel(), source.ravel(), strict=True):
        if index >= 0:
            result[index] += element
    return result.reshape(step.shape)


def _selected(source: Array, step: Select) -> Array:
    """Write the weight of each element: 1 where it is the extreme; elements are taken to be distinct."""
    rows = np.moveaxis(source, step.axis, -1)
    weights = np.empty(rows.shape, dtype=object)
    for place in np.ndindex(rows.shape[:-1]):
        row = rows[place]
        for i, element in enumerate(row):
            rest = [element > other if step.rank else element < other for j, other in enumerate(row) if j != i]
            # strict on both sides, so that none has the weight where two are equal
            weights[(*place, i)] = sympy.Piecewise((1, sympy.And(*rest)), (0, True))
    return np.moveaxis(weights, -1, step.axis)
