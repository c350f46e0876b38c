"""The record of one op: its formula beside torch's name for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import sympy
from sympy import Expr, Symbol

from reference.domain import REAL, Interval

Array = np.ndarray[Any, np.dtype[Any]]
"""A numpy array of sympy expressions."""

Formula: TypeAlias = "Expr | Callable[..., Any]"
Shape = tuple[int, ...]

x, y, z = sympy.symbols("x y z", real=True)
"""The inputs of elementwise formulas, in the order torch takes them."""

OUTPUT = Symbol("output", real=True)
"""What torch saved of an elementwise op, in the `saved` of an entry."""


class InvalidOpError(ValueError):
    """An entry of the catalogue contradicts itself."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Op:
    """One op: everything that is known of it, and nothing that follows from the rest.

    An elementwise op has a sympy expression in `x`, `y`, `z` as its formula. A tensor op has
    a function from numpy arrays of symbols to an array of expressions, and the `shapes` it
    is tried at.
    """

    name: str
    """The id of the op, as it stands in test ids and on the command line."""

    torch: str
    """Dotted path of the callable, such as ``"torch.nn.functional.softplus"``."""

    formula: Formula
    """The mathematics, exact: no Python float occurs in it."""

    aliases: tuple[str, ...] = ()
    """Dotted paths of other names that torch has for it, on real inputs."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Fixed keyword arguments of the callable."""

    leading: tuple[Any, ...] = ()
    """Fixed positional arguments that come before the inputs (the equation of einsum)."""

    keywords: tuple[str, ...] = ()
    """Names to pass the inputs by; by position where it is empty."""

    packed: bool = False
    """Whether the callable takes its inputs as one tuple, as ``torch.cat`` does."""

    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Keyword arguments that are tensors of integers or truths: class targets, indices, conditions."""

    domain: Mapping[str, Interval] = field(default_factory=dict)
    """The interval of each input that is not the whole real line."""

    second_domain: Mapping[str, Interval] = field(default_factory=dict)
    """The interval of each input in which second derivatives are asked for, where that is less."""

    kinks: tuple[Expr, ...] = ()
    """Expressions that vanish where the formula is continuous but not differentiable."""

    saved: Callable[..., Any] | Mapping[Expr, Any] | None = None
    """Set where torch differentiates through a value it rounded before: its output, say.

    An elementwise op says what to replace by expressions in `OUTPUT`, that value: exp has
    ``{x: log(OUTPUT)}``. A tensor op gives a function of its inputs and the value: other inputs
    with the same derivative, such as ``lambda x, output: output`` for log_softmax, which is
    shift invariant. Either is an identity, which the suite's own tests check.
    """

    saves: Formula | None = None
    """That value, where it is not the output."""

    shapes: tuple[tuple[Shape, ...], ...] = ()
    """Shapes of the inputs that a tensor op is tried at, without batch dimensions."""

    batched: int = 1
    """How many of a tensor op's inputs, from the first, may have further dimensions in front."""

    broadcasts: bool = True
    """Whether the inputs of an elementwise op may differ in shape."""

    composes: bool = True
    """Whether drawn trees may have it; the entry says why not."""

    composes_forwards: bool = True
    """Whether drawn trees through which tangents are pushed may have it; the entry says why not."""

    in_place: bool = True
    """Whether torch differentiates the variant that overwrites its input, where there is one."""

    def __repr__(self) -> str:
        """Name the op and its formula."""
        return f"<{self.name}: {self.formula if self.elementwise else self.torch}>"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001 - the protocol of IPython, which Hypothesis prints arguments by
        printer.text(repr(self))

    def __post_init__(self) -> None:
        """Refuse an entry that contradicts itself, naming the field and what it accepts."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            self._refuse("name", "lower-case letters, digits and underscores")
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", self.torch):
            self._refuse("torch", "a dotted path such as 'torch.sin'")
        if self.elementwise:
            self._validate_elementwise()
        elif not callable(self.formula):
            self._refuse("formula", "a sympy expression, or a function over arrays of symbols")
        else:
            self._validate_tensor()
        for name in ("domain", "second_domain"):
            table = getattr(self, name)
            if not set(table) <= set(self.inputs) or not all(isinstance(i, Interval) for i in table.values()):
                self._refuse(name, f"an Interval for each of {', '.join(self.inputs)}")

    def _validate_elementwise(self) -> None:
        assert isinstance(self.formula, Expr)
        if self.shapes:
            self._refuse("shapes", "nothing: an elementwise op has any shape")
        used = self.formula.free_symbols
        if not used or used != set((x, y, z)[: len(used)]):
            self._refuse("formula", "the symbols x; x and y; or x, y and z of reference.op")
        expressions = (self.formula, *self.kinks)
        if any(sympy.sympify(e).has(sympy.Float) for e in expressions):
            self._refuse("formula", "exact numbers: Rational(1, 10), not 0.1")
        if any(not e.free_symbols or not e.free_symbols <= used for e in self.kinks):
            self._refuse("kinks", f"expressions in {', '.join(self.inputs)}")
        if self.saved is not None and not isinstance(self.saved, Mapping):
            self._refuse("saved", "a mapping from expressions to expressions in OUTPUT")

    def _validate_tensor(self) -> None:
        if not self.shapes or any(len(s) != len(self.inputs) for s in self.shapes):
            self._refuse("shapes", f"tuples of one shape for each of {', '.join(self.inputs)}")
        if self.kinks:
            self._refuse("kinks", "nothing: kinks are stated for elementwise ops")

    def _refuse(self, name: str, accepted: str) -> None:
        message = f"op {self.name!r}: {name}={getattr(self, name)!r} is not valid; accepted: {accepted}"
        raise InvalidOpError(message)

    @property
    def elementwise(self) -> bool:
        """Whether the formula is applied to each element by itself."""
        return isinstance(self.formula, Expr)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the differentiable inputs, in order."""
        if isinstance(self.formula, Expr):
            return ("x", "y", "z")[: len(self.formula.free_symbols)]
        return tuple(inspect.signature(self.formula).parameters)

    def interval(self, name: str, order: int = 1) -> Interval:
        """Return the interval that an input lies in, for a derivative of an order."""
        domain = self.domain.get(name, REAL)
        return domain if order == 1 else self.second_domain.get(name, domain)

    def __call__(self, *arrays: Array) -> Array:
        """Apply the formula to arrays of sympy expressions, with numpy's broadcasting."""
        if not isinstance(self.formula, Expr):
            return as_array(self.formula(*arrays))
        return as_array(np.frompyfunc(self._substitute, len(self.inputs), 1)(*arrays))

    def _substitute(self, *elements: Expr) -> Expr:
        assert isinstance(self.formula, Expr)
        return self.formula.xreplace(dict(zip((x, y, z), elements, strict=False)))

    def saved_value(self, arrays: tuple[Array, ...], output: Array) -> Array:
        """Return the value that torch rounds before the backward pass, as expressions."""
        if self.saves is None:
            return output
        if isinstance(self.saves, Expr):
            names = dict(zip((x, y, z), (array[()] for array in arrays), strict=False))
            return as_array(self.saves.xreplace(names))
        return as_array(self.saves(*arrays))

    def through_saved(self, arrays: tuple[Array, ...], saved: Array) -> dict[Expr, Expr]:
        """Return the replacements that write the derivative with the saved value."""
        if isinstance(self.saved, Mapping):
            names = dict(zip((x, y, z), (array[()] for array in arrays), strict=False))
            names[OUTPUT] = saved[()]
            return {
                before.xreplace(names): sympy.sympify(after).xreplace(names) for before, after in self.saved.items()
            }
        assert self.saved is not None
        rewritten = as_array(self.saved(*arrays, saved))
        return dict(zip(arrays[0].flat, rewritten.flat, strict=True))


def as_array(value: object) -> Array:
    """Return expressions as an object array, a single one as an array without dimensions."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value
    array = np.empty((), dtype=object)
    if isinstance(value, list | tuple | np.ndarray):
        return np.array(value, dtype=object)
    array[()] = sympy.sympify(value)
    return array
