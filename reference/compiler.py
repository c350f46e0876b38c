"""Sympy expressions as straight-line code over flint's balls.

`sympy.lambdify` is no substitute: it writes ``Rational(1, 3)`` as a Python float, and the ball
that results excludes the true value. Here every constant is an exact integer or rational.

The same emitter writes two kinds of code. *Plain* code encloses the value of the expression.
*Widened* code encloses every value that could come out if each step were rounded to a format:
each result r becomes r (1 ± k u) ± s, with u the unit roundoff and s the smallest subnormal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sympy
from flint import arb, ctx, fmpq

from reference.balls import Balls
from reference.functions import nearest, poly_gamma, scaled_bessel_i, scaled_erfc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sympy import Basic, Expr, Symbol

    from reference.format import Format

STEPS = 4
"""k: the roundings of half an ulp that one step may take.

IEEE 754 asks for one from + - * / sqrt; vendors' elementary functions promise one to four ulp.
Torch's own derivation of a formula may take a step more than the textbook's. Four covers all of
that in practice, and is the only number of this kind in the project.
"""


@dataclass(frozen=True)
class Program:
    """A compiled function of balls."""

    at: Callable[[Iterable[Sequence[Any]]], tuple[list[Any], ...]]
    """Evaluate it at each row of arguments, flint's balls or arrays of balls: a column of each result."""

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        """Evaluate it at one point."""
        return tuple(result for (result,) in self.at([arguments]))


class UnsupportedExpressionError(TypeError):
    """The expression has a function that the evaluator does not know."""


FUNCTIONS: dict[str, str] = {
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
    "Step": "{0}.floor()",
    "Nearest": "nearest({0})",
    "Sign": "{0}.sgn()",
    "ScaledBesselI": "scaled_bessel_i({0}, {1})",
    "ScaledErfc": "scaled_erfc({0})",
}
"""How flint spells sympy's functions."""

ON_ARRAYS = {name for name, code in FUNCTIONS.items() if code.startswith("{0}.") and hasattr(Balls, code[4:-2])} | {
    "Abs"
}
"""Those that balls on whole arrays have too."""

INEQUALITIES = sympy.StrictGreaterThan | sympy.StrictLessThan | sympy.GreaterThan | sympy.LessThan

INDENT = " " * 4

EXACT_BITS = 48
"""Rationals with a longer numerator are held as rationals, and enclosed at each evaluation."""

EXACT = {"Abs", "sign", "Step", "Nearest", "Sign"}
"""Functions whose value is not rounded."""

CONSTANTS: dict[Expr, str] = {
    sympy.pi: "arb.pi()",
    sympy.E: "arb.const_e()",
    sympy.EulerGamma: "arb.const_euler()",
    sympy.S.NaN: "NAN",
    sympy.zoo: "NAN",
}


def choose(conditions: Sequence[bool | None], branches: Sequence[Callable[[], arb]]) -> arb:
    """Return the first branch whose condition holds, united with those before it that may hold."""
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
    """Enclose both: flint's balls, or arrays of balls beside a constant."""
    return other.union(one) if isinstance(other, Balls) else one.union(other)


def log_gamma(ball: arb) -> arb:
    """Return log|gamma|, which flint has for positive arguments only."""
    return ball.lgamma() if ball > 0 else abs(ball.gamma()).log()


def integer_power(base: arb, exponent: int) -> arb:
    """Return a positive integer power; flint's own is NaN for a ball that has 0 inside."""
    if exponent == 1:
        return base
    half = integer_power(base, exponent // 2)
    return half * half * base if exponent % 2 else half * half


def both(*parts: bool | None) -> bool | None:
    """Conjunction of three-valued truths."""
    return False if False in parts else None if None in parts else True


def either(*parts: bool | None) -> bool | None:
    """Disjunction of three-valued truths."""
    return True if True in parts else None if None in parts else False


def is_dyadic(value: Expr) -> bool:
    """Say whether an expression is a number that is held exactly by a ball of any precision in use here."""
    if not value.is_Rational:
        return False
    numerator, denominator = int(value.p), int(value.q)
    return denominator & (denominator - 1) == 0 and numerator.bit_length() <= EXACT_BITS


@lru_cache(maxsize=4096)
def is_constant(expression: Basic) -> bool:
    """Say whether an expression has no symbols."""
    return not expression.is_Symbol and all(map(is_constant, expression.args))


def by_precision(evaluate: Callable[[], tuple[arb, ...]]) -> Callable[[], tuple[arb, ...]]:
    """Keep what a function of no arguments returns, for each working precision."""
    kept: dict[int, tuple[arb, ...]] = {}

    def recalled() -> tuple[arb, ...]:
        found = kept.get(ctx.prec)
        if found is None:
            found = kept[ctx.prec] = evaluate()
        return found

    return recalled


class Emitter:
    """Writes the lines of one function, sharing equal sub-expressions."""

    def __init__(self, form: Format | None = None, arrays: type[Balls] | None = None) -> None:
        """Start an empty function; with a format, its steps are widened to the format's.

        Code for arrays runs on balls of that kind, else on flint's.
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
            "nearest": nearest,
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
            self.namespace["W"] = 0.0 if form is None else STEPS * form.unit
            self.namespace["S"] = 0.0 if form is None else form.smallest_subnormal
        elif form is not None:
            self.namespace["S"] = arb(0, form.smallest_subnormal)
            self.namespace["W"] = arb(1, STEPS * form.unit)
        self.namespace["ONE"] = self.held(arb(1))

    def scope(self, env: Mapping[Symbol, str]) -> Scope:
        """Open a scope in which these symbols stand for these variables."""
        return Scope(self, dict(env))

    def assign(self, code: str) -> str:
        """Write an assignment to a fresh variable and return the variable."""
        name = self.fresh()
        self.lines.append(f"{self._indent}{name} = {code}")
        return name

    def constant(self, value: Expr) -> str:
        """Return a variable, bound outside the function, that holds an exact rational."""
        if value not in self._constants:
            name = f"K{len(self._constants)}"
            self._constants[value] = name
            exact = fmpq(int(value.p), int(value.q))
            self.namespace[name] = self.held(arb(exact)) if is_dyadic(value) else exact
        return self._constants[value]

    def held(self, ball: arb) -> Any:
        """Return a constant as the code's balls have it."""
        return self.arrays.of(ball) if self.arrays else ball

    def rounded(self, code: str, *, underflows: bool = True) -> str:
        """Write a step that rounds once."""
        if self.arrays:
            step = f"balls.of({code})"
            return self.assign(f"{step}.rounded(W, {'S' if underflows else 0})" if self.form else step)
        if self.form is None:
            return self.assign(code)
        return self.assign(f"({code}) * W + S" if underflows else f"({code}) * W")

    def total(self, terms: Sequence[str]) -> str:
        """Write a sum of variables, each with a minus sign or none, in any order of summation.

        A sum of n terms rounds n - 1 times: the bound on the error is that many u times the sum of
        magnitudes. Pairwise summation, or a wider accumulator, stays far below; a product of
        matrices reaches it where terms are alike.
        """
        if len(terms) == 1:
            return terms[0]
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
        """Write an indented block; its last line is to do this with the variable that was written."""
        self.lines.append(f"{self._indent}{header}:")
        self._indent += INDENT
        result = write()
        self.lines.append(f"{self._indent}{last} {result}")
        self._indent = self._indent[: -len(INDENT)]

    def fresh(self, letter: str = "t") -> str:
        """Return a name that nothing has."""
        self._count += 1
        return f"{letter}{self._count}"

    def fixed(self, write: Callable[[], str]) -> str:
        """Write what depends on no argument, to be evaluated once for each precision."""
        lines, indent = self.lines, self._indent
        self.lines, self._indent = self._fixed_lines, INDENT
        name = write()
        self.lines, self._indent = lines, indent
        self._fixed.append(name)
        return name

    def program(self, arguments: Sequence[str], results: Iterable[str]) -> Program:
        """Compile what was written: from a ball for each argument to a ball for each result."""
        columns = {f"column{number}": name for number, name in enumerate(results)}
        fixed = [
            "@by_precision",
            "def fixed():",
            *self._fixed_lines,
            f"    return {_tuple(self._fixed)}",
        ]
        source = [
            *(fixed if self._fixed else ()),
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
    """Expressions in one set of symbols, emitted into a function."""

    def __init__(self, emitter: Emitter, env: dict[Symbol, str]) -> None:
        """Open the scope; use `Emitter.scope`."""
        self._emitter = emitter
        self._memo: dict[Expr, str] = dict(env)

    def emit(self, expression: Expr) -> str:
        """Write the steps of an expression and return the variable that holds its value."""
        if expression not in self._memo:
            once = is_constant(expression) and not is_dyadic(expression)
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
        """Write a term of a sum, without the -1 that it may be multiplied by."""
        return f"-{self.emit(-e)}" if e.as_coeff_Mul()[0] == -1 else self.emit(e)

    def _product(self, e: Expr) -> str:
        """Write a product, its number last: a partial product that underflows is off by that many times more."""
        emitter = self._emitter
        number, factors = e.as_coeff_mul()
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
            short = exponent <= 3
            return emitter.rounded(
                " * ".join([name] * int(exponent)) if short else f"integer_power({name}, {int(exponent)})"
            )
        exact = exponent.is_Rational and not is_dyadic(exponent)
        power = f"arb({emitter.constant(exponent)})" if exact else self.emit(exponent)
        return emitter.rounded(f"{self.emit(base)} ** {power}")

    def _function(self, e: Expr) -> str:
        name = type(e).__name__
        args = [self.emit(arg) for arg in e.args]
        if name == "polygamma" and e.args[0].is_Integer and not self._emitter.arrays:
            return self._emitter.rounded(f"poly_gamma({int(e.args[0])}, {args[1]})")
        if name not in FUNCTIONS:
            message = f"{name}: the evaluator has no such function; it has {', '.join(FUNCTIONS)}"
            raise UnsupportedExpressionError(message)
        arrays = self._emitter.arrays
        if arrays and name not in (found := ON_ARRAYS - arrays.lacks):
            message = f"{name}: balls on arrays have no such function; they have {', '.join(sorted(found))}"
            raise UnsupportedExpressionError(message)
        code = FUNCTIONS[name].format(*args)
        return self._emitter.assign(code) if name in EXACT else self._emitter.rounded(code)

    def _piecewise(self, e: Expr) -> str:
        """Write the branches, for where the conditions decide and for where they do not.

        They are written in place for points where the conditions decide, and as functions for `choose` elsewhere.
        """
        emitter = self._emitter
        conditions = [self._condition(condition) for _, condition in e.args]
        result = emitter.assign("None")
        for number, (value, _) in enumerate(e.args):
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
        def write() -> str:
            outer = dict(self._memo)
            name = self.emit(value)
            self._memo = outer
            return name

        return write

    def _condition(self, condition: Any) -> str:
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
    """Compile expressions: a function from a ball for each variable to a tuple of balls.

    For a kind of balls on arrays, it is one from those to those.
    """
    emitter = Emitter(form, arrays)
    names = [f"v{i}" for i in range(len(variables))]
    scope = emitter.scope(dict(zip(variables, names, strict=True)))
    return emitter.program(names, [scope.emit(expression) for expression in expressions])
