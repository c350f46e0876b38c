"""numpy's functions of scalars, as sympy writes them: what a formula in plain numpy means, element by element."""

from __future__ import annotations

import operator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from numpy.lib import mixins
from sympy import Abs, Expr, Piecewise, Rational
from sympy.core.relational import Relational

from reference.functions import Nearest, Sign
from reference.functions import Step as Floor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Scalar(mixins.NDArrayOperatorsMixin):
    """One element in a formula: numpy's functions make expressions of it."""

    def __init__(self, expression: Expr) -> None:
        """Stand for an expression."""
        self.expression = expression

    def __bool__(self) -> bool:
        """Refuse: a truth would be that of one input."""
        message = "a truth value is asked for, in an `if`, `and` or `or`; accepted: np.where(condition, a, b)"
        raise TypeError(message)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Apply a function of scalars."""
        return self._called(ufunc.__name__ if method == "__call__" else method, inputs, kwargs)

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        """Apply a function of arrays that is one of scalars too."""
        return self._called(function.__name__, args, kwargs)

    def _called(self, name: str, args: Any, kwargs: Any) -> Scalar:
        if name not in SCALARS or kwargs:
            accepted = f"{', '.join(sorted(SCALARS))}; or a formula of whole arrays, whose entry has `axes`"
            message = f"np.{name} is no function of scalars; accepted: {accepted}"
            raise TypeError(message)
        return Scalar(sympy.sympify(SCALARS[name](*map(expression_of, args)), strict=True))


def expression_of(value: Any) -> Expr:
    """Return a value of a formula as an expression."""
    return value.expression if isinstance(value, Scalar) else value if isinstance(value, Expr) else exact(value)


def exact(number: Any) -> Expr:
    """Return a number as it is: a float is a dyadic rational."""
    return (
        sympy.Integer(int(number))
        if isinstance(number, bool | int | np.integer | np.bool_)
        else Rational(float(number))
    )


def holds(value: Expr) -> Any:
    """Write that a number counts as true, as numpy has it: that it is not 0."""
    return sympy.Or(value > 0, value < 0)


def compared(relation: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a comparison as a function that is 1 where it holds and 0 elsewhere."""
    return lambda a, b: Piecewise((1, relation(a, b)), (0, True))


UFUNCS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "negative": operator.neg,
    "positive": operator.pos,
    "power": operator.pow,
    "float_power": operator.pow,
    "square": lambda a: a**2,
    "reciprocal": lambda a: 1 / a,
    "sqrt": sympy.sqrt,
    "cbrt": lambda a: Sign(a) * Abs(a) ** Rational(1, 3),
    "exp": sympy.exp,
    "exp2": lambda a: 2**a,
    "expm1": lambda a: sympy.exp(a) - 1,
    "log": sympy.log,
    "log2": lambda a: sympy.log(a) / sympy.log(2),
    "log10": lambda a: sympy.log(a) / sympy.log(10),
    "log1p": lambda a: sympy.log(1 + a),
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "arctan2": sympy.atan2,
    "hypot": lambda a, b: sympy.sqrt(a**2 + b**2),
    "logaddexp": lambda a, b: sympy.log(sympy.exp(a) + sympy.exp(b)),
    "absolute": Abs,
    "fabs": Abs,
    "sign": Sign,
    "floor": Floor,
    "ceil": lambda a: -Floor(-a),
    "rint": Nearest,
    "maximum": lambda a, b: Piecewise((a, a > b), (b, True)),
    "minimum": lambda a, b: Piecewise((a, a < b), (b, True)),
    "greater": compared(operator.gt),
    "greater_equal": compared(operator.ge),
    "less": compared(operator.lt),
    "less_equal": compared(operator.le),
    "logical_and": lambda a, b: Piecewise((1, sympy.And(holds(a), holds(b))), (0, True)),
    "logical_not": lambda a: Piecewise((0, holds(a)), (1, True)),
}
"""Functions of scalars, as sympy writes them."""


def turns(formula: Expr) -> tuple[Expr, ...]:
    """Return what vanishes where pieces of a formula meet, or the argument of an absolute value is 0."""
    pieces = [c for piecewise in formula.atoms(Piecewise) for _, c in piecewise.args]
    compared = {side.lhs - side.rhs for condition in pieces for side in condition.atoms(Relational)}
    turned = {function.args[0] for function in formula.atoms(Abs, sympy.sign, Sign)}
    apart = {a - b for e in formula.atoms(sympy.Max, sympy.Min) for a, b in combinations(e.args, 2)}
    return tuple(sorted(compared | turned | apart, key=sympy.default_sort_key))


def written(formula: Callable[..., Any], names: Sequence[str]) -> Expr:
    """Return what a formula makes of scalars, in numpy's functions or in sympy's.

    Raises TypeError, which says what is accepted.
    """
    symbols = [sympy.Symbol(name, real=True) for name in names]
    try:
        found = formula(*map(Scalar, symbols))
    except sympy.SympifyError:  # it is written in sympy's functions
        found = formula(*symbols)
    return sympy.sympify(expression_of(found), strict=True)


SCALARS = UFUNCS | {
    "where": lambda c, left, right: Piecewise((left, holds(c)), (right, True)),
    "clip": lambda v, low, high: Piecewise((low, v < low), (v, v <= high), (high, True)),
}
"""Those, and functions of arrays that work element by element."""
