"""Sympy expressions, compiled to straight-line code over balls: flint's, or those on whole arrays.

`sympy.lambdify` is no substitute: it writes ``Rational(1, 3)`` as a Python float, and the ball that results excludes
the true value. Here every constant is an exact integer or rational, or enclosed by flint.

The same emitter writes two kinds of code. *Plain* code encloses the value of the expression. *Widened* code encloses
every value that could come out if each step were rounded to a format: each result r becomes r (1 ± k u) ± s, with u
the unit roundoff and s the smallest subnormal. In the code that it writes, W is the factor 1 ± k u of flint's balls, or
the share k u of those on arrays, and S is s likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sympy
from flint import arb, ctx, fmpq

from reference.balls import Balls
from reference.format import precision
from reference.functions import nearest_integer, poly_gamma, scaled_bessel_i, scaled_erfc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sympy import Basic, Expr, Symbol

    from reference.format import Format

ROUNDINGS = 4
"""k: how many roundings, of half an ulp each, one step may take.

IEEE 754 asks for one from + - * / sqrt; vendors' elementary functions promise one to four ulp, and torch's own
derivation of a formula may take a step more than the textbook's. Four covers all of that in practice. It is a choice,
and the only number of this kind in the project.
"""


@dataclass(frozen=True)
class Program:
    """A compiled function of balls."""

    at: Callable[[Iterable[Sequence[Any]]], tuple[list[Any], ...]]
    """The function of rows of arguments, each a ball or an array of balls, that returns a column of each result."""

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        """Evaluate it at one row of arguments; return a ball, or an array of balls, for each result."""
        return tuple(result for (result,) in self.at([arguments]))


class UnsupportedExpressionError(TypeError):
    """An expression cannot be compiled, or not for this kind of balls; the message says what can be."""


FLINT_FUNCTIONS: dict[str, str] = {
    "exp": "{0}.exp()",
    "log": "{0}.log()",
    "sin": "{0}.sin()",
    "cos": "{0}.cos()",
    "tan": "{0}.tan()",
    "asin": "{0}.asin()",
    "acos": "{0}.acos()",
    "atan": "{0}.atan()",
    "atan2": "arb.atan2({0}, {1})",
    "sinh": "{0}.sinh()",
    "cosh": "{0}.cosh()",
    "tanh": "{0}.tanh()",
    "asinh": "{0}.asinh()",
    "acosh": "{0}.acosh()",
    "atanh": "{0}.atanh()",
    "erf": "{0}.erf()",
    "erfc": "{0}.erfc()",
    "erfinv": "{0}.erfinv()",
    "gamma": "{0}.gamma()",
    "loggamma": "log_gamma({0})",
    "besseli": "{1}.bessel_i({0})",
    "Abs": "abs({0})",
    "sign": "{0}.sgn()",
    "Floor": "{0}.floor()",
    "Nearest": "nearest({0})",
    "Sign": "{0}.sgn()",
    "ScaledBesselI": "scaled_bessel_i({0}, {1})",
    "ScaledErfc": "scaled_erfc({0})",
}
"""How flint spells the functions of sympy, and of `reference.functions`, by the names of their classes."""

ON_ARRAYS = {
    name for name, code in FLINT_FUNCTIONS.items() if code.startswith("{0}.") and hasattr(Balls, code[4:-2])
} | {"Abs"}
"""The functions that balls on whole arrays have too: methods of the same name, and `abs`."""

INEQUALITIES = sympy.StrictGreaterThan | sympy.StrictLessThan | sympy.GreaterThan | sympy.LessThan

INDENT = " " * 4

DYADIC_BITS = 48
"""The longest numerator, in bits, of a rational that is held as one exact ball.

A longer one is enclosed at each precision that the code is run at.
"""

UNROUNDED = {"Abs", "sign", "Floor", "Nearest", "Sign"}
"""Functions that no kernel rounds: their value is a number of the format."""

CONSTANTS: dict[Expr, str] = {
    sympy.pi: "arb.pi()",
    sympy.E: "arb.const_e()",
    sympy.EulerGamma: "arb.const_euler()",
    sympy.S.NaN: "NAN",
    sympy.zoo: "NAN",
}
"""How flint spells sympy's irrational constants, and what is undefined: a NaN ball, which is never certified."""


def choose(conditions: Sequence[bool | None], branches: Sequence[Callable[[], arb]]) -> arb:
    """Return the first branch whose condition holds, united with the earlier ones whose condition may hold.

    Conditions are three-valued, None where balls do not decide. The result is NaN where none certainly holds.
    """
    # Where rounding may have put an argument on either side of a kink, such as 3 * x - 1 next to 1/3, the ball holds
    # the derivatives of both sides, and the rule's, which is between them. It holds all else between them, too: to tell
    # that apart, each combination of sides would be evaluated, as a point may be next to several kinks.
    result = None
    for condition, branch in zip(conditions, branches, strict=True):
        if condition is False:
            continue
        value = branch()
        result = value if result is None else united(result, value)
        if condition is True:
            return result
    return arb.nan()


def united(one: arb, other: arb) -> arb:
    """Enclose both: flint's balls, or arrays of balls, of which either may be a constant of flint's."""
    return other.union(one) if isinstance(other, Balls) else one.union(other)


def log_gamma(ball: arb) -> arb:
    """Return log |gamma|, as torch's lgamma does; flint has it for positive arguments only."""
    return ball.lgamma() if ball > 0 else abs(ball.gamma()).log()


def integer_power(base: arb, exponent: int) -> arb:
    """Return a positive integer power by repeated squaring; flint's own is NaN for a ball that has 0 inside."""
    if exponent == 1:
        return base
    half = integer_power(base, exponent // 2)
    return half * half * base if exponent % 2 else half * half


def both(*parts: bool | None) -> bool | None:
    """Return the conjunction of three-valued truths, None standing for what is not known."""
    return False if False in parts else None if None in parts else True


def either(*parts: bool | None) -> bool | None:
    """Return the disjunction of three-valued truths, None standing for what is not known."""
    return True if True in parts else None if None in parts else False


def is_dyadic(value: Expr) -> bool:
    """Say whether an expression is a number that a ball of DYADIC_BITS holds exactly."""
    if not value.is_Rational:
        return False
    numerator, denominator = int(value.p), int(value.q)
    return denominator & (denominator - 1) == 0 and numerator.bit_length() <= DYADIC_BITS


@lru_cache(maxsize=4096)
def is_constant(expression: Basic) -> bool:
    """Say whether an expression has no symbols."""
    return not expression.is_Symbol and all(map(is_constant, expression.args))


def by_precision(evaluate: Callable[[], tuple[arb, ...]]) -> Callable[[], tuple[arb, ...]]:
    """Cache what a function of no arguments returns, for each of flint's working precisions."""
    kept: dict[int, tuple[arb, ...]] = {}

    def recalled() -> tuple[arb, ...]:
        found = kept.get(ctx.prec)
        if found is None:
            found = kept[ctx.prec] = evaluate()
        return found

    return recalled


class Emitter:
    """Writes the lines of one function: a loop over rows of arguments, with an assignment for each step."""

    def __init__(self, form: Format | None = None, arrays: type[Balls] | None = None) -> None:
        """Start an empty function, on balls of the kind `arrays`, or on flint's where that is None.

        With a format, each step is widened by the rounding to it.
        """
        self.arrays = arrays
        self.lines: list[str] = []
        self.namespace: dict[str, Any] = {
            "arb": arb,
            "fmpq": fmpq,
            "choose": choose,
            "both": both,
            "either": either,
            "log_gamma": log_gamma,
            "integer_power": integer_power,
            "by_precision": by_precision,
            "nearest": nearest_integer,
            "poly_gamma": poly_gamma,
            "scaled_bessel_i": scaled_bessel_i,
            "scaled_erfc": scaled_erfc,
            "NAN": arb.nan(),
        }
        self.form = form
        self._count = 0
        self._indent = INDENT * 2
        self._fixed: list[str] = []
        self._fixed_lines: list[str] = []
        self._constants: dict[Expr, str] = {}
        if arrays:
            self.namespace["balls"] = arrays
            self.namespace["W"] = 0.0 if form is None else ROUNDINGS * form.unit
            self.namespace["S"] = 0.0 if form is None else form.smallest_subnormal
        elif form is not None:
            # balls around 0 and 1: to multiply and add them is to widen
            self.namespace["S"] = arb(0, form.smallest_subnormal)
            self.namespace["W"] = arb(1, ROUNDINGS * form.unit)
        self.namespace["ONE"] = self.held(arb(1))

    def scope(self, env: Mapping[Symbol, str]) -> Scope:
        """Open a scope in which symbols stand for variables of the code."""
        return Scope(self, dict(env))

    def assign(self, code: str) -> str:
        """Write an assignment to a fresh variable, and return its name."""
        name = self.fresh()
        self.lines.append(f"{self._indent}{name} = {code}")
        return name

    def constant(self, value: Expr) -> str:
        """Return a variable, bound outside the function, that holds an exact rational."""
        if value not in self._constants:  # each is bound once, however often it occurs
            name = f"K{len(self._constants)}"
            self._constants[value] = name
            exact = fmpq(int(value.p), int(value.q))
            with precision(DYADIC_BITS):  # flint may be at fewer bits now than when the code runs
                ball = arb(exact)
            self.namespace[name] = self.held(ball) if is_dyadic(value) else exact
        return self._constants[value]

    def held(self, ball: arb) -> Any:
        """Return a constant as a ball of the kind that the code runs on."""
        return self.arrays.of(ball) if self.arrays else ball

    def rounded(self, code: str, *, underflows: bool = True) -> str:
        """Write a step whose result is rounded, and return the variable that holds it."""
        if self.arrays:
            step = f"balls.of({code})"
            return self.assign(f"{step}.rounded(W, {'S' if underflows else 0})" if self.form else step)
        if self.form is None:
            return self.assign(code)
        return self.assign(f"({code}) * W + S" if underflows else f"({code}) * W")

    def total(self, terms: Sequence[str]) -> str:
        """Write a sum of variables, each with a minus sign or none, in any order of summation.

        A sum of n terms rounds n - 1 times: the bound on its error is n - 1 times u times the sum of the terms'
        magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2, to first order).
        Pairwise summation, or a wider accumulator, stays far below that.
        """
        if len(terms) == 1:
            return terms[0]
        # two terms are one step that rounds, which is written below
        if self.arrays and len(terms) > 2:
            roundings = 0.0 if self.form is None else (len(terms) - 1) * self.form.unit
            return self.assign(f"balls.total([{', '.join(f'balls.of({term})' for term in terms)}], W, {roundings!r})")
        code = " + ".join(terms).replace("+ -", "- ")
        if self.form is None or len(terms) == 2:
            return self.rounded(code, underflows=False)
        magnitude = " + ".join(f"abs({term})" for term in terms)
        self.namespace[f"O{len(terms)}"] = arb(0, (len(terms) - 1) * self.form.unit)
        return self.assign(f"({code}) * W + ({magnitude}) * O{len(terms)}")

    def block(self, header: str, write: Callable[[], str], last: str) -> None:
        """Write a block below a header; its last line is `last` with the variable that `write` returned."""
        self.lines.append(f"{self._indent}{header}:")
        self._indent += INDENT
        result = write()
        self.lines.append(f"{self._indent}{last} {result}")
        self._indent = self._indent[: -len(INDENT)]

    def fresh(self, letter: str = "t") -> str:
        """Return a name that no variable of the code has."""
        self._count += 1
        return f"{letter}{self._count}"

    def fixed(self, write: Callable[[], str]) -> str:
        """Write what depends on no argument into a function of its own, which is run once for each precision."""
        lines, indent = self.lines, self._indent
        self.lines, self._indent = self._fixed_lines, INDENT  # `assign` writes there until these are put back
        name = write()
        self.lines, self._indent = lines, indent
        self._fixed.append(name)
        return name

    def program(self, arguments: Sequence[str], results: Iterable[str]) -> Program:
        """Compile what was written to a function of these arguments that returns these variables."""
        columns = {f"column{number}": name for number, name in enumerate(results)}
        fixed = [
            "@by_precision",
            "def fixed():",
            *self._fixed_lines,
            f"    return {_tuple(self._fixed)}",
        ]
        source = [
            *(fixed if self._fixed else ()),
            # the loop is in the code: a call for each row would cost more than a short formula
            # the loop is in the code: a call for each row would cost more than a short formula
            "def at(rows):",
            f"    {_tuple(columns)} = out = ({'[], ' * len(columns)})",
            *([f"    {_tuple(self._fixed)} = fixed()"] if self._fixed else ()),
            f"    for {_tuple(arguments)} in rows:",
            *self.lines,
            *(f"        {column}.append({name})" for column, name in columns.items()),
            "    return out",
        ]
        namespace = dict(self.namespace)
        exec(compile("\n".join(source), "<gradassay>", "exec"), namespace)  # noqa: S102 - our own expressions, nothing that anyone typed
        return Program(namespace["at"])


def _tuple(names: Iterable[str]) -> str:
    return f"({''.join(f'{name}, ' for name in names)})"


class Scope:
    """Expressions in one set of symbols, written into a function; equal sub-expressions are written once."""

    def __init__(self, emitter: Emitter, env: dict[Symbol, str]) -> None:
        """Open the scope, for `Emitter.scope`."""
        self._emitter = emitter
        self._memo: dict[Expr, str] = dict(env)

    def emit(self, expression: Expr) -> str:
        """Write the steps of an expression, and return the variable that holds its value.

        Raises UnsupportedExpressionError for a function or condition that cannot be compiled.
        """
        if expression not in self._memo:
            once = is_constant(expression) and not is_dyadic(expression)  # a dyadic number is a variable already
            self._memo[expression] = (
                self._emitter.fixed(lambda: self._write(expression)) if once else self._write(expression)
            )
        return self._memo[expression]

    def _write(self, e: Expr) -> str:
        emitter = self._emitter
        if e.is_Rational:
            name = emitter.constant(e)
            return name if is_dyadic(e) else emitter.rounded(f"arb({name})", underflows=False)
        if e in CONSTANTS:
            return emitter.rounded(CONSTANTS[e], underflows=False)
        if e.is_Add:
            return emitter.total(sorted((self._term(arg) for arg in e.args), key=lambda term: term.startswith("-")))
        if e.is_Mul:
            return self._product(e)
        if e.is_Pow:
            return self._power(*e.args)
        if isinstance(e, sympy.Piecewise):
            return self._piecewise(e)
        return self._function(e)

    def _term(self, e: Expr) -> str:
        """Write a term of a sum; a factor of -1 becomes a minus sign, which rounds nothing."""
        return f"-{self.emit(-e)}" if e.as_coeff_Mul()[0] == -1 else self.emit(e)

    def _product(self, e: Expr) -> str:
        """Write a product, and its number last.

        What a partial product lost to underflow is then multiplied by that number, which allows for either order.
        """
        emitter = self._emitter
        number, factors = e.as_coeff_mul()
        # plain code divides last, since x / y is tighter than (1 / y) x; widened code keeps sympy's order, which allows
        # for a reciprocal that is a step of its own
        names = iter(factors if emitter.form else sorted(factors, key=_divides))
        product = self.emit(next(names))
        for factor in names:
            product = self._times(product, factor)
        if number == -1:
            return emitter.assign(f"-{product}")
        return product if number == 1 else emitter.rounded(f"{product} * {self.emit(number)}")

    def _times(self, product: str, factor: Expr) -> str:
        if _divides(factor):
            return self._emitter.rounded(f"{product} / {self.emit(1 / factor)}")
        return self._emitter.rounded(f"{product} * {self.emit(factor)}")

    def _power(self, base: Expr, exponent: Expr) -> str:
        emitter = self._emitter
        if exponent == -sympy.S.Half:
            return emitter.rounded(f"{self.emit(base)}.rsqrt()")
        if exponent.is_negative:
            return emitter.rounded(f"ONE / {self.emit(base**-exponent)}")
        if exponent == sympy.S.Half:
            return emitter.rounded(f"{self.emit(base)}.sqrt()")
        if exponent.is_Integer:
            name = self.emit(base)
            short = exponent <= 3  # the same product as `integer_power` writes, without a call
            return emitter.rounded(
                " * ".join([name] * int(exponent)) if short else f"integer_power({name}, {int(exponent)})"
            )
        exact = exponent.is_Rational and not is_dyadic(exponent)
        # a rational exponent is no step that rounds: the kernel has it as a constant
        # a rational exponent is no step that rounds: the kernel has it as a constant
        power = f"arb({emitter.constant(exponent)})" if exact else self.emit(exponent)
        return emitter.rounded(f"{self.emit(base)} ** {power}")

    def _function(self, e: Expr) -> str:
        name = type(e).__name__
        args = [self.emit(arg) for arg in e.args]
        if name == "polygamma" and e.args[0].is_Integer and not self._emitter.arrays:  # its order is no ball
            return self._emitter.rounded(f"poly_gamma({int(e.args[0])}, {args[1]})")
        if name not in FLINT_FUNCTIONS:
            message = f"{name}: the evaluator has no such function; it has {', '.join(FLINT_FUNCTIONS)}"
            raise UnsupportedExpressionError(message)
        arrays = self._emitter.arrays
        if arrays and name not in (found := ON_ARRAYS - arrays.lacks):
            message = f"{name}: balls on arrays have no such function; they have {', '.join(sorted(found))}"
            raise UnsupportedExpressionError(message)
        code = FLINT_FUNCTIONS[name].format(*args)
        return self._emitter.assign(code) if name in UNROUNDED else self._emitter.rounded(code)

    def _piecewise(self, e: Expr) -> str:
        """Write a Piecewise: its branches in place, for points at which conditions decide, and again for `choose`.

        Balls that straddle a condition are rare, so that the code for them, a function for each branch, is apart.
        """
        emitter = self._emitter
        conditions = [self._condition(condition) for _, condition in e.args]
        result = emitter.assign("None")
        for number, (value, _) in enumerate(e.args):
            # this condition holds for certain, and none before it does
            # this condition holds for certain, and none before it does
            decided = [f"{c} is {number == at}" for at, c in enumerate(conditions[: number + 1])]
            emitter.block(f"{'elif' if number else 'if'} {' and '.join(decided)}", self._branch(value), f"{result} =")
        functions = [emitter.fresh("b") for _ in conditions]

        def chosen() -> str:
            for function, (value, _) in zip(functions, e.args, strict=True):
                emitter.block(f"def {function}()", self._branch(value), "return")
            return f"choose(({', '.join(conditions)},), ({', '.join(functions)},))"

        emitter.block(f"if {result} is None", chosen, f"{result} =")
        return result

    def _branch(self, value: Expr) -> Callable[[], str]:
        """Return the function that writes a branch."""

        def write() -> str:
            outer = dict(self._memo)
            name = self.emit(value)
            self._memo = outer  # variables of a branch have no value where that is not run
            return name

        return write

    def _condition(self, condition: Any) -> str:
        """Return code for a three-valued condition: True, False, or None where balls overlap."""
        if condition is sympy.true or condition is sympy.false:
            return str(bool(condition))
        if isinstance(condition, sympy.And | sympy.Or):
            parts = ", ".join(self._condition(part) for part in condition.args)
            return f"{'both' if isinstance(condition, sympy.And) else 'either'}({parts})"
        if not isinstance(condition, INEQUALITIES):
            message = f"{condition}: a condition is an inequality between two expressions"
            raise UnsupportedExpressionError(message)
        left, right = (self.emit(side) for side in (condition.gts, condition.lts))
        strict = isinstance(condition, sympy.StrictGreaterThan | sympy.StrictLessThan)
        holds, fails = (">", "<=") if strict else (">=", "<")
        return self._emitter.assign(f"True if {left} {holds} {right} else False if {left} {fails} {right} else None")


def _divides(factor: Expr) -> bool:
    return bool(factor.is_Pow and factor.args[1].is_negative)


def compiled(
    expressions: Sequence[Expr],
    variables: Sequence[Symbol],
    form: Format | None = None,
    arrays: type[Balls] | None = None,
) -> Program:
    """Compile expressions to a function from a ball for each variable to a ball for each expression.

    With a format, steps are widened by the rounding to it. `arrays` is a kind of balls on whole arrays for the function
    to run on, and flint's balls are those of None. Raises UnsupportedExpressionError where balls of that kind lack a
    function that the expressions have.
    """
    emitter = Emitter(form, arrays)
    names = [f"v{i}" for i in range(len(variables))]
    scope = emitter.scope(dict(zip(variables, names, strict=True)))
    return emitter.program(names, [scope.emit(expression) for expression in expressions])
