"""Derivatives by sympy: the only place where anything is differentiated."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import sympy
from sympy import Expr, Symbol

from reference.functions import Sign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.op import Array, Shape


@cache
def _names(prefix: str, count: int) -> tuple[Symbol, ...]:
    return tuple(Symbol(f"{prefix}{i}", real=True) for i in range(count))


def symbols(prefix: str, shape: Shape) -> Array:
    """Return an array of this shape of real symbols, the same at each call."""
    array = np.empty(shape, dtype=object)
    array.ravel()[:] = _names(f"{prefix}_", array.size)
    return array


def vjp(outputs: Array, cotangents: Array, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """Return the vector-Jacobian product: the gradient of the contraction with a cotangent.

    The result has an array of expressions for each input, of the input's shape.
    """
    contraction = sympy.Add(*(c * o for c, o in zip(cotangents.flat, outputs.flat, strict=True)))
    return tuple(_gradient(contraction, array) for array in inputs)


def _gradient(expression: Expr, variables: Array) -> Array:
    gradient = np.empty(variables.shape, dtype=object)
    gradient.ravel()[:] = [slope(expression, v) for v in variables.flat]
    return gradient


def slope(expression: Expr, variable: Symbol) -> Expr:
    """Return the derivative between jumps: that of sympy's own sign has an impulse at 0."""
    return sympy.diff(expression.replace(sympy.sign, Sign), variable)


def derivative(expression: Expr, variable: Symbol, order: int = 1) -> Expr:
    """Return the n-th derivative of an expression in one variable."""
    if order < 1:
        message = f"order={order}: a derivative has order 1 or more"
        raise ValueError(message)
    return sympy.diff(expression, variable, order)
