"""numpy's functions of scalars in terms of sympy: what a formula in plain numpy means, element by element."""

from __future__ import annotations

import operator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from numpy.lib import mixins
from sympy import Abs, Expr, Piecewise, Rational
from sympy.core.relational import Relational

from reference.functions import Floor, Nearest, Sign

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Scalar(mixins.NDArrayOperatorsMixin):
    """One element of an array in a formula, of which numpy's functions make expressions."""

    def __init__(self, expression: Expr) -> None:
        """Stand for an expression."""
        self.expression = expression

    def __bool__(self) -> bool:
        """Refuse: a formula that branches would be traced along one branch only."""
        message = "a truth value is asked for, in an `if`, `and` or `or`; accepted: np.where(condition, a, b)"
        raise TypeError(message)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Apply a universal function. Raises TypeError where that is none of scalars."""
        return self._called(ufunc.__name__ if method == "__call__" else method, inputs, kwargs)

    def __array_function__(self, function: Any, _: Any, args: Any, kwargs: Any) -> Any:
        """Apply a function of arrays. Raises TypeError where that does not work element by element."""
        return self._called(function.__name__, args, kwargs)

    def _called(self, name: str, args: Any, kwargs: Any) -> Scalar:
        """Apply the function of a name, or say which there are."""
        if name not in SCALARS or kwargs:
            accepted = f"{', '.join(sorted(SCALARS))}; or a formula of whole arrays, whose entry has `axes`"
            message = f"np.{name} is no function of scalars; accepted: {accepted}"
            raise TypeError(message)
        return Scalar(sympy.sympify(SCALARS[name](*map(expression_of, args)), strict=True))


def expression_of(value: Any) -> Expr:
    """Return a value of a formula as an expression."""
    return value.expression if isinstance(value, Scalar) else value if isinstance(value, Expr) else exact(value)


def exact(number: Any) -> Expr:
    """Return a number as an exact expression: a float is a dyadic rational."""
    return (
        sympy.Integer(int(number))
        if isinstance(number, bool | int | np.integer | np.bool_)
        else Rational(float(number))
    )


def holds(value: Expr) -> Any:
    """Return the condition that a number counts as true, as numpy has it: that it is not 0.

    It is written in inequalities, since the compiler, which compares balls, has no other conditions.
    """
    return sympy.Or(value > 0, value < 0)


def indicator(relation: Callable[[Any, Any], Any]) -> Callable[..., Any]:
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
    # sympy's power of a negative number to a third is complex
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
    # what avoids overflow or cancellation in a kernel is the plain formula here: expressions are exact
    "hypot": lambda a, b: sympy.sqrt(a**2 + b**2),
    "logaddexp": lambda a, b: sympy.log(sympy.exp(a) + sympy.exp(b)),
    "absolute": Abs,
    "fabs": Abs,
    "sign": Sign,
    "floor": Floor,
    "ceil": lambda a: -Floor(-a),
    "rint": Nearest,
    # where both are equal the branch does not matter: torch's rule decides what the derivative is
    "maximum": lambda a, b: Piecewise((a, a > b), (b, True)),
    "minimum": lambda a, b: Piecewise((a, a < b), (b, True)),
    "greater": indicator(operator.gt),
    "greater_equal": indicator(operator.ge),
    "less": indicator(operator.lt),
    "less_equal": indicator(operator.le),
    "logical_and": lambda a, b: Piecewise((1, sympy.And(holds(a), holds(b))), (0, True)),
    "logical_not": lambda a: Piecewise((0, holds(a)), (1, True)),
}
"""numpy's universal functions by name, as functions of sympy's expressions."""


def turns(formula: Expr) -> tuple[Expr, ...]:
    """Return expressions that vanish where pieces of a formula meet: where it compares, or has a sign or magnitude."""
    pieces = [c for piecewise in formula.atoms(Piecewise) for _, c in piecewise.args]
    sides = {side.lhs - side.rhs for condition in pieces for side in condition.atoms(Relational)}
    # sympy's functions and ours, whose argument is compared with 0
    turned = {function.args[0] for function in formula.atoms(Abs, sympy.sign, Sign)}
    # any two arguments of a maximum may be the ones that meet
    apart = {a - b for e in formula.atoms(sympy.Max, sympy.Min) for a, b in combinations(e.args, 2)}
    # sets have no order that two runs agree on
    return tuple(sorted(sides | turned | apart, key=sympy.default_sort_key))


def written(formula: Callable[..., Any], names: Sequence[str]) -> Expr:
    """Return the expression that a formula, in numpy's functions or in sympy's, makes of symbols of these names.

    Raises TypeError, which says what is accepted, for a function of numpy that is none of scalars.
    """
    symbols = [sympy.Symbol(name, real=True) for name in names]
    try:
        found = formula(*map(Scalar, symbols))
    except sympy.SympifyError:  # it is written in sympy's functions, which do not take a `Scalar`
        found = formula(*symbols)
    return sympy.sympify(expression_of(found), strict=True)


SCALARS = UFUNCS | {
    "where": lambda c, left, right: Piecewise((left, holds(c)), (right, True)),
    "clip": lambda v, low, high: Piecewise((low, v < low), (v, v <= high), (high, True)),
}
"""The universal functions, and functions of arrays that work element by element too."""
