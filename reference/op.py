"""The record of one op: its formula beside torch's name for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import Any, TypeAlias

import numpy as np
import sympy
from sympy import Expr, Symbol

from reference.domain import REAL, Interval
from reference.graph import Saved

SMALL = ((3, 2, 4), (5, 1, 2))
"""Lengths of the axes of a tensor op where it is small, in turn."""

Context: TypeAlias = "Callable[[Sequence[Shape], np.random.Generator], Any]"

Array = np.ndarray[Any, np.dtype[Any]]
"""A numpy array of sympy expressions, or of balls."""

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
    a function in plain numpy, and the `axes` of its inputs.
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

    contexts: Mapping[str, Context] = field(default_factory=dict)
    """Tensors that are not differentiated: class targets, indices, masks.

    Each is drawn with the inputs: by a function of their shapes and a generator of random numbers. The
    formula takes it by name, as an array of numpy, and so does the callable.
    """

    domain: Mapping[str, Interval] = field(default_factory=dict)
    """The interval of each input that is not the whole real line."""

    second_domain: Mapping[str, Interval] = field(default_factory=dict)
    """The interval of each input in which second derivatives are asked for, where that is less."""

    kinks: tuple[Expr, ...] = ()
    """Expressions that vanish where the formula is continuous but not differentiable."""

    saved: Callable[..., Any] | Mapping[Expr, Any] | None = None
    """Set where torch differentiates through a value it rounded before: its output, say.

    An elementwise op says what to replace by expressions in `OUTPUT`, that value: exp has
    ``{x: log(OUTPUT)}``. A tensor op gives a function of its input and the value: another input
    with the same derivative, such as ``lambda x, output: output`` for log_softmax, which is
    shift invariant. Either is an identity, which the suite's own tests check.
    """

    saves: Formula | None = None
    """That value, where it is not the output."""

    axes: str = ""
    """The axes of each input of a tensor op, without batch dimensions: ``"mk,nk,n"`` for linear."""

    sizes: Mapping[str, int] = field(default_factory=lambda: {"n": 4096})
    """The length that each axis has in real use."""

    shapes: tuple[tuple[Shape, ...], ...] = ()
    """Small shapes of the inputs, without batch dimensions, where not any lengths of the axes will do."""

    inside: str = "format"
    """What its reverse mode promises of its inside in 16-bit formats: one of `reference.case.PROMISES`."""

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
            self._refuse("formula", "a sympy expression, or a function in plain numpy")
        else:
            self._validate_tensor()
        for name in ("domain", "second_domain"):
            table = getattr(self, name)
            if not set(table) <= set(self.inputs) or not all(isinstance(i, Interval) for i in table.values()):
                self._refuse(name, f"an Interval for each of {', '.join(self.inputs)}")

    def _validate_elementwise(self) -> None:
        assert isinstance(self.formula, Expr)
        if self.shapes or self.axes:
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
        parts = self.axes.split(",")
        if not self.shapes and (
            not self.axes or len(parts) != len(self.inputs) or not re.fullmatch(r"[a-z,]*", self.axes)
        ):
            self._refuse(
                "axes", f"a letter for each axis of each of {', '.join(self.inputs)}, with commas between them"
            )
        if self.axes and not set(self.axes) - {","} <= set(self.sizes):
            self._refuse("sizes", f"a length for each of the axes {', '.join(sorted(set(self.axes) - {','}))}")
        if any(len(s) != len(self.inputs) for s in self.shapes):
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
        return tuple(name for name in inspect.signature(self.formula).parameters if name not in self.contexts)

    def interval(self, name: str, order: int = 1) -> Interval:
        """Return the interval that an input lies in, for a derivative of an order."""
        domain = self.domain.get(name, REAL)
        return domain if order == 1 else self.second_domain.get(name, domain)

    @cached_property
    def cores(self) -> tuple[tuple[Shape, ...], ...]:
        """The small shapes of the inputs, without batch dimensions, that a tensor op is tried at."""
        return self.shapes or tuple(self.shaped(dict(zip(self.letters, cycle(n), strict=False))) for n in SMALL)

    @cached_property
    def letters(self) -> str:
        """The axes of a tensor op, each once, in the order of the inputs."""
        return "".join(dict.fromkeys(self.axes.replace(",", "")))

    @property
    def rows(self) -> Shape:
        """The batch in real use: the axis m where no input has it, two rows of vectors, or none."""
        if "m" in self.sizes and "m" not in self.axes:
            return (self.sizes["m"],)
        return (2,) if self.batched and all(len(part) < 2 for part in self.axes.split(",")) else ()

    def shaped(self, lengths: Mapping[str, int]) -> tuple[Shape, ...]:
        """Return the shapes of the inputs for given lengths of the axes."""
        return tuple(tuple(lengths[letter] for letter in part) for part in self.axes.split(","))

    def context(self, shapes: Sequence[Shape], seed: int) -> dict[str, Any]:
        """Return the tensors that are not differentiated, the same for the same shapes and seed."""
        return {name: draw(shapes, np.random.default_rng(seed)) for name, draw in self.contexts.items()}

    def settings(self, shapes: Sequence[Shape]) -> dict[str, Any]:
        """Return the fixed keyword arguments; one that is a function is of the inputs' shapes."""
        return {name: value(*shapes) if callable(value) else value for name, value in self.kwargs.items()}

    @cached_property
    def saving(self) -> Saved | None:
        """What torch rounds before the backward pass of an elementwise op, and differentiates through."""
        if not isinstance(self.saved, Mapping):
            return None
        value = self.saves if isinstance(self.saves, Expr) else None
        return Saved(value, tuple((before, sympy.sympify(after)) for before, after in self.saved.items()), OUTPUT)

    def __call__(self, *arrays: Any) -> Any:
        """Apply the op in the formula of another: one step, with its own derivative."""
        return next(array for array in arrays if hasattr(array, "apply")).apply(self, *arrays)
