"""The entry of one op: its mathematics beside torch's name for it.

An entry reads like a row of a table, whose columns are the fields of `Op`. They are in four groups, each a class of its
own here: how torch is called (`Call`), what it computes (`Mathematics`), where it is defined and at what sizes
(`Inputs`), and how it composes (`Composition`). Its `variants` are further rows, which say what differs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from inspect import Parameter
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import sympy
from sympy import Expr, Piecewise, Symbol

from reference.domain import REAL, Interval
from reference.format import FORMATS
from reference.graph import Saved, Shape
from reference.scalars import turns, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.format import Format

SMALL_LENGTHS = ((3, 2, 4), (5, 1, 2))
"""Lengths that the axes of a small tensor op have in turn, for each of two sets of shapes."""

COMMON_BITS = 8
"""The significant bits that every format has: as many as bfloat16. Floats of contexts have no more."""

Context: TypeAlias = "Callable[[Sequence[Shape], np.random.Generator], Any]"
"""A function of the shapes of the inputs and a generator of random numbers, which draws an array."""

Array = np.ndarray[Any, np.dtype[Any]]
"""A numpy array of sympy expressions, or of balls."""

Formula: TypeAlias = "Expr | Callable[..., Any]"
"""A sympy expression, or a function in plain numpy."""

T = TypeVar("T")

x, y, z = sympy.symbols("x y z", real=True)
"""The inputs of elementwise formulas, in the order torch takes them."""

OUTPUT = Symbol("output", real=True)
"""What torch saved of an elementwise op, in the `saved` of an entry."""


class InvalidOpError(ValueError):
    """An entry of the catalogue contradicts itself."""


class Variant:
    """A further row of an op: other fixed arguments, the formula where that differs, and any other field."""

    def __init__(
        self, formula: Formula | None = None, *, changed: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Take the fixed arguments by name, as torch does, and in `changed` other fields of `Op` by name."""
        self.kwargs = kwargs
        self.changed = dict(changed or {}) | ({} if formula is None else {"formula": formula})


class Stated:
    """A point of an op, and the gradient that its documentation states there, for a cotangent of ones.

    The gradient by an input that is not named follows from the formula.
    """

    def __init__(self, inputs: Mapping[str, Any], due: Mapping[str, Any] | None = None) -> None:
        """Take numbers or arrays by the names of the inputs; what is due has the shape of its input."""
        self.inputs = {name: np.asarray(values, dtype=np.float64) for name, values in inputs.items()}
        self.due = {name: np.asarray(values, dtype=np.float64) for name, values in (due or {}).items()}

    def of(self, op: Op, cotangent: float) -> tuple[Array, ...]:
        """Return what is due of each input that an op differentiates, for a cotangent that is the same at each element.

        It is NaN where it follows from the formula.
        """
        names = [op.inputs[number] for number in op.differentiable]
        return tuple(cotangent * self.due.get(name, np.full(self.inputs[name].shape, np.nan)) for name in names)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Call:
    """How torch is called."""

    torch: str | Callable[..., Any]
    """Dotted path of the callable, such as ``"torch.nn.functional.softplus"``, or the callable itself."""

    aliases: tuple[str, ...] = ()
    """Dotted paths of other names that torch has for it, when its inputs are real."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Fixed arguments by name, also for the formula if it names them; a function is called with the inputs' shapes."""

    leading: tuple[Any, ...] = ()
    """Fixed positional arguments that come before the inputs (the equation of einsum)."""

    packed: bool = False
    """Whether the callable takes its inputs as one tuple, as ``torch.cat`` does."""

    in_place: bool = True
    """Whether torch differentiates the variant that overwrites its input, where there is one."""

    overwrites: tuple[str, ...] = ()
    """Inputs that the callable is documented to overwrite: it is given copies. Any other must stay as it is."""

    @property
    def path(self) -> str:
        """The dotted path, or the name of the callable."""
        return self.torch if isinstance(self.torch, str) else str(getattr(self.torch, "__name__", self.torch))

    def settings(self, shapes: Sequence[Shape]) -> dict[str, Any]:
        """Return the fixed arguments for inputs of some shapes."""
        return {name: value(*shapes) if callable(value) else value for name, value in self.kwargs.items()}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Mathematics:
    """What an op computes, and what torch computes its derivative from."""

    formula: Formula
    """The mathematics, exact: a sympy expression in `x`, `y`, `z`, or a function in plain numpy.

    A function takes what the callable takes, in its order; what it takes by keyword only is passed by keyword. The
    formula of a tensor op, whose entry has `axes`, is of whole arrays, and may return several; that of any other is of
    their elements.
    """

    symbols: tuple[Symbol, ...] = ()
    """The symbols of the inputs in an elementwise formula, in order: `x`, `y`, `z`, or the parameters of a function."""

    saved: Callable[..., Any] | Mapping[Expr, Any] | None = None
    """Set where torch differentiates through a value that it saved, and so rounded: mostly its output.

    An elementwise op has a mapping of what to replace by expressions in `OUTPUT`, which stands for that value: exp has
    ``{x: log(OUTPUT)}``. A tensor op has a function of its input and the value, which returns another input with the
    same derivative: ``lambda x, output: output`` for log_softmax, which adding a constant to its input does not change.
    Either is an identity, which the suite's own tests check.
    """

    saves: Formula | None = None
    """The value that is saved, where that is not the output."""

    orders: int = 3
    """How often torch can differentiate it: once where a backward takes what it saved for constant."""

    inside: str = "format"
    """What its backward promises to compute in, in 16-bit formats: one of `reference.case.PROMISES`."""

    @property
    def elementwise(self) -> bool:
        """Whether the formula is applied to each element by itself."""
        return isinstance(self.formula, Expr)

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters of a formula in numpy, in order. Raises ValueError for one that has no signature."""
        return {} if isinstance(self.formula, Expr) else inspect.signature(self.formula).parameters

    @cached_property
    def saving(self) -> Saved | None:
        """What torch saves of an elementwise op, and differentiates through; None where it does not."""
        if not isinstance(self.saved, Mapping):
            return None
        value = self.saves if isinstance(self.saves, Expr) else None
        return Saved(
            value, tuple((before, sympy.sympify(after, strict=True)) for before, after in self.saved.items()), OUTPUT
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Inputs:
    """Where an op is defined, and at what sizes it is used."""

    domain: Mapping[str, Interval] = field(default_factory=dict)
    """The interval of each input that is not the whole real line."""

    where: Callable[..., Any] | None = None
    """A condition that the inputs meet together, beyond the interval of each: ``lambda a, b, c: a * c > b * b``.

    It takes arrays of float64 in the order of the formula and says it of each element, or for a tensor op of each row
    of the batch or of the whole.
    """

    points: tuple[Stated, ...] = ()
    """Points that are always asked, with the documented gradient where the formula does not give it."""

    second_domain: Mapping[str, Interval] = field(default_factory=dict)
    """The interval of each input in which higher derivatives are asked for, where that is smaller."""

    dtypes: tuple[str, ...] = ()
    """The formats that it takes, all of them unless it is said: it is asked in no other."""

    frozen: tuple[str, ...] = ()
    """Inputs that are drawn as the others are, and not differentiated: the target of a loss."""

    kinks: tuple[Expr, ...] = ()
    """Expressions that vanish where the formula is continuous but not differentiable."""

    contexts: Mapping[str, Context] = field(default_factory=dict)
    """Tensors that are not differentiated, such as class targets, indices and masks, by name.

    Each is drawn by a function of the shapes of the inputs and a generator of random numbers. The formula takes it by
    name, as an array of numpy.
    """

    axes: str = ""
    """The axes of each input of a tensor op, without batch dimensions: ``"mk,nk,n"`` for linear."""

    sizes: Mapping[str, int | tuple[int, ...]] = field(default_factory=lambda: {"n": 4096})
    """The length of each axis in real use; or a tuple of all that it may have, the last of them that in real use."""

    shortest: int = 1
    """The shortest length that its axes are tried at: 2 for a variance, which of one element is 0/0."""

    shapes: tuple[tuple[Shape, ...], ...] = ()
    """Tuples of small shapes of the inputs, without batch dimensions, where the op does not take any lengths."""

    batched: int = 1
    """How many of a tensor op's inputs, counted from the first, may have batch dimensions in front."""

    broadcasts: bool = True
    """Whether the inputs of an elementwise op may differ in shape."""

    def interval(self, name: str, order: int = 1) -> Interval:
        """Return the interval that the input of a name lies in where a derivative of an order is asked for."""
        domain = self.domain.get(name, REAL)
        return domain if order == 1 else self.second_domain.get(name, domain)

    def holds(self, primals: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Say where inputs meet the condition `where`: of each element, each row of the batch, or of the whole."""
        with np.errstate(all="ignore"):
            return np.asarray(True if self.where is None else self.where(*primals), dtype=bool)

    def context(self, shapes: Sequence[Shape], seed: int) -> dict[str, Any]:
        """Return the tensors that are not differentiated, the same for the same shapes and seed."""
        # each has a generator of its own, so that one does not depend on which others there are
        drawn = {name: draw(shapes, np.random.default_rng(seed)) for name, draw in self.contexts.items()}
        return {name: _of_few_bits(np.asarray(values)) for name, values in drawn.items()}

    @cached_property
    def cores(self) -> tuple[tuple[Shape, ...], ...]:
        """The small shapes of the inputs, without batch dimensions, that a tensor op is tried at."""
        return self.shapes or tuple(self.shaped(self._small(number)) for number in range(len(SMALL_LENGTHS)))

    def _small(self, number: int) -> dict[str, int]:
        """Return small lengths of the axes: those that the entry names for an axis, or else SMALL_LENGTHS, in turn."""
        lengths = dict(zip(self.letters, cycle(SMALL_LENGTHS[number]), strict=False))
        return lengths | {letter: own[number % len(own)] for letter in lengths if (own := self.named(letter))}

    def named(self, letter: str) -> tuple[int, ...]:
        """Return the lengths that the entry names for an axis; none where the axis may have any."""
        size = self.sizes[letter]
        return size if isinstance(size, tuple) else ()

    @cached_property
    def in_use(self) -> dict[str, int]:
        """The length that each axis has in real use."""
        return {letter: size[-1] if isinstance(size, tuple) else size for letter, size in self.sizes.items()}

    @cached_property
    def letters(self) -> str:
        """The axes of a tensor op, each once, in the order of the inputs."""
        return "".join(dict.fromkeys(self.axes.replace(",", "")))

    @property
    def rows(self) -> Shape:
        """The batch in real use: the axis m where no input has it, two rows of vectors, or none."""
        if "m" in self.sizes and "m" not in self.axes:  # then m is the number of rows by convention
            return (self.in_use["m"],)
        return (2,) if self.batched and all(len(part) < 2 for part in self.axes.split(",")) else ()

    def shaped(self, lengths: Mapping[str, int]) -> tuple[Shape, ...]:
        """Return the shapes of the inputs for given lengths of the axes."""
        return tuple(tuple(lengths[letter] for letter in part) for part in self.axes.split(","))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Composition:
    """How an op composes with others."""

    composes: bool = True
    """Whether drawn trees may have it."""

    composes_forwards: bool = True
    """Whether drawn trees through which tangents are pushed may have it."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Op(Call, Mathematics, Inputs, Composition):
    """One op: everything that is known of it, and nothing that follows from something else.

    Raises InvalidOpError where the entry contradicts itself.
    """

    name: str
    """The id of the op, as it stands in test ids and on the command line."""

    variants: Mapping[str, Variant] = field(default_factory=dict)
    """Further rows, by the ends of their names: ``tanh`` of gelu is ``gelu_tanh``."""

    base: str = ""
    """The name of the op that this is a variant of; empty where it is none."""

    file: str = ""
    """The file of a user's own catalogue that it was read from, as the command line named it; empty for ours."""

    def __repr__(self) -> str:
        """Name the op and its formula."""
        return f"<{self.name}: {self.formula if self.elementwise else self.path}>"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001 - the protocol of IPython, which Hypothesis prints arguments by
        printer.text(repr(self))

    def __post_init__(self) -> None:
        """Validate the entry. Raises InvalidOpError, which names a field and what it accepts."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            self._refuse("name", "lower-case letters, digits and underscores")
        if not callable(self.torch) and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", str(self.torch)):
            self._refuse("torch", "a dotted path such as 'torch.sin'")
        if not self.elementwise and not _has_parameters(self.formula):
            self._refuse("formula", "a sympy expression, or a function in plain numpy")
        if not self.axes and not self.shapes:
            self._write()  # before all else, since the inputs are those of the expression
            self._validate_elementwise()
        elif self.elementwise:
            self._refuse("shapes", "nothing: an elementwise op has any shape")
        else:
            self._validate_tensor()
        for name in ("domain", "second_domain"):
            table = getattr(self, name)
            if not set(table) <= set(self.inputs) or not all(isinstance(i, Interval) for i in table.values()):
                self._refuse(name, f"an Interval for each of {', '.join(self.inputs)}")
        self._validate_kinds()
        self._validate_names()

    def _validate_kinds(self) -> None:
        """Refuse fields of a wrong type: a string is a sequence too, of letters that nobody meant."""
        for name in ("dtypes", "frozen", "overwrites", "points"):
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), Sequence):
                self._refuse(name, f"a tuple, also of one: {name}=(...,)")
        if not isinstance(self.orders, int) or self.orders < 1:
            self._refuse("orders", "how often it may be differentiated: 1, 2 or 3")
        if not isinstance(self.batched, int) or not 0 <= self.batched <= len(self.inputs):
            self._refuse("batched", f"how many of {', '.join(self.inputs)} may have a batch in front")
        if not all(callable(draw) for draw in self.contexts.values()) or not set(self.contexts) <= set(self.parameters):
            self._refuse(
                "contexts", "functions of shapes and a generator of random numbers, by names that the formula takes"
            )

    def _validate_names(self) -> None:
        """Refuse fields that name what there is not."""
        if not set(self.dtypes) <= set(FORMATS):
            self._refuse("dtypes", f"some of {', '.join(FORMATS)}")
        if not set(self.frozen) < set(self.inputs):
            self._refuse("frozen", f"some of {', '.join(self.inputs)}, but not all")
        if not all(isinstance(point, Stated) and self._has(point) for point in self.points):
            differentiated = ", ".join(self.inputs[number] for number in self.differentiable)
            wanted = (
                f"a Stated for each point, with values of at most {COMMON_BITS} bits, which every format has, for each "
                f"of {', '.join(self.inputs)}, and due gradients of some of {differentiated}, in the same shapes"
            )
            self._refuse("points", wanted)
        if self.where is not None and not _takes(self.where, len(self.inputs)):
            self._refuse("where", f"a function of arrays {', '.join(self.inputs)} that says where they are accepted")
        if not set(self.overwrites) <= set(self.inputs):
            self._refuse("overwrites", f"some of {', '.join(self.inputs)}")
        # a variant's name and fixed arguments are given otherwise; its base and file are those of the op
        accepted = {each.name for each in fields(self)} - {"name", "variants", "base", "file", "kwargs"}
        if not all(isinstance(v, Variant) and set(v.changed) <= accepted for v in self.variants.values()):
            self._refuse(
                "variants", f"a Variant by the end of its name, which changes some of {', '.join(sorted(accepted))}"
            )

    def _has(self, point: Stated) -> bool:
        """Say whether a point gives every input, and states gradients of differentiated ones in their shapes."""
        differentiated = {self.inputs[number] for number in self.differentiable}
        return (
            set(point.inputs) == set(self.inputs)
            and set(point.due) <= differentiated
            and all((_of_few_bits(values) == values).all() for values in point.inputs.values())
            and all(due.shape == point.inputs[name].shape for name, due in point.due.items())
        )

    def _write(self) -> None:
        """Make an expression of the formula of an elementwise op, and derive the kinks of one that is a function."""
        if isinstance(self.formula, Expr):
            used = self.formula.free_symbols
            symbols, formula = self.symbols or (x, y, z)[: len(used)], self.formula
        else:
            names = self.inputs  # parameters of the function: it has not been replaced yet
            symbols = tuple(Symbol(name, real=True) for name in names)
            try:
                formula = written(partial(self.formula, **self.known((), 0)), names)
            # what a formula of whole arrays, whose entry lacks `axes`, may raise where it is given scalars
            except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
                accepted = f"a letter for each axis of each of {', '.join(names)}, or a formula of scalars ({error})"
                self._refuse("axes", accepted)
            if not self.kinks:
                object.__setattr__(self, "kinks", turns(formula))
        # sympy's derivative of Max and Min is in Heaviside's function, that of a Piecewise in its pieces
        formula = formula.replace(lambda e: isinstance(e, sympy.Max | sympy.Min), lambda e: e.rewrite(Piecewise))
        for name, value in {"symbols": symbols, "formula": formula}.items():
            object.__setattr__(self, name, value)  # the entry is frozen for all but itself

    def _validate_elementwise(self) -> None:
        """Refuse what an elementwise op does not take: inexact numbers, and symbols of no input."""
        assert isinstance(self.formula, Expr)
        used = self.formula.free_symbols
        if not used or used != set(self.symbols):
            self._refuse("formula", "the symbols x; x and y; or x, y and z of reference.op; or those of `symbols`")
        expressions = (self.formula, *self.kinks)
        if self.formula.has(sympy.nan, sympy.zoo):
            self._refuse("formula", "one that has a value: it is undefined wherever it is asked")
        if any(sympy.sympify(e, strict=True).has(sympy.Float) for e in expressions):
            self._refuse("formula", "exact numbers: Rational(1, 10), not 0.1")
        if any(not e.free_symbols or not e.free_symbols <= used for e in self.kinks):
            self._refuse("kinks", f"expressions in {', '.join(self.inputs)}")
        if self.saved is not None and not isinstance(self.saved, Mapping):
            self._refuse("saved", "a mapping from expressions to expressions in OUTPUT")

    def _validate_tensor(self) -> None:
        """Refuse axes, sizes and shapes that do not fit the inputs of a tensor op."""
        parts = self.axes.split(",")
        if not isinstance(self.sizes, Mapping):
            self._refuse("sizes", "a length, or a tuple of lengths, by the letter of an axis")
        if not self.shapes and (
            not self.axes or len(parts) != len(self.inputs) or not re.fullmatch(r"[a-z,]*", self.axes)
        ):
            self._refuse(
                "axes", f"a letter for each axis of each of {', '.join(self.inputs)}, with commas between them"
            )
        if self.axes and not set(self.axes) - {","} <= set(self.sizes):
            self._refuse("sizes", f"a length for each of the axes {', '.join(sorted(set(self.axes) - {','}))}")
        for size in self.sizes.values():
            lengths = size if isinstance(size, tuple) else (size,)
            if not lengths or not all(isinstance(length, int) and length > 0 for length in lengths):
                self._refuse("sizes", "a length, or a tuple of lengths, for each axis: integers above 0")
        if any(len(s) != len(self.inputs) or not all(isinstance(part, tuple) for part in s) for s in self.shapes):
            self._refuse("shapes", f"tuples of one shape for each of {', '.join(self.inputs)}")
        if self.kinks:
            self._refuse("kinks", "nothing: kinks are stated for elementwise ops")

    def _refuse(self, name: str, accepted: str) -> None:
        """Raise InvalidOpError for the field of a name."""
        message = f"op {self.name!r}: {name}={getattr(self, name)!r} is not valid; accepted: {accepted}"
        raise InvalidOpError(message)

    @property
    def entries(self) -> Iterator[Op]:
        """The op without variants, and each of its variants as an op of its own."""
        yield replace(self, variants={})
        for end, variant in self.variants.items():
            symbols = () if "formula" in variant.changed else self.symbols  # another formula names its own
            changed = {"kwargs": {**self.kwargs, **variant.kwargs}, "symbols": symbols, **variant.changed}
            yield replace(self, name=f"{self.name}_{end}", base=self.name, variants={}, **changed)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that are drawn, in order: no context, fixed argument or parameter with a default."""
        if isinstance(self.formula, Expr):
            return tuple(symbol.name for symbol in self.symbols)
        given = {*self.contexts, *self.kwargs}
        return tuple(n for n, p in self.parameters.items() if n not in given and p.default is Parameter.empty)

    @cached_property
    def differentiable(self) -> tuple[int, ...]:
        """The numbers of the inputs that are differentiated, which are all but the frozen ones."""
        return tuple(number for number, name in enumerate(self.inputs) if name not in self.frozen)

    def takes(self, form: Format) -> bool:
        """Say whether the op takes inputs of a format."""
        return not self.dtypes or form.name in self.dtypes

    def known(self, shapes: Sequence[Shape], seed: int) -> dict[str, Any]:
        """Return what the formula takes besides the inputs, by name: contexts, and fixed arguments that it names.

        `seed` is that of the contexts.
        """
        named = {name: value for name, value in self.settings(shapes).items() if name in self.parameters}
        return self.context(shapes, seed) | named

    def arranged(
        self, tensors: Sequence[T], known: Mapping[str, Any], shapes: Sequence[Shape]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return what the callable is given by position and by keyword: inputs, contexts and fixed arguments.

        `tensors` are the inputs in order, and `known` the contexts by name, both as the caller has them.
        """
        settings = self.settings(shapes)
        if self.packed:
            return [*self.leading, tuple(tensors)], settings
        named = {**dict(zip(self.inputs, tensors, strict=True)), **known}
        positional = [n for n, p in self.parameters.items() if n in named and p.kind is not Parameter.KEYWORD_ONLY]
        positional = positional if self.parameters else list(self.inputs)
        by_name = {n: v for n, v in {**settings, **named}.items() if n not in positional}
        return [*self.leading, *(named[n] for n in positional)], by_name

    def __call__(self, *arrays: Any) -> Any:
        """Apply the op in the formula of another: one step, with its own derivative."""
        return next(array for array in arrays if hasattr(array, "apply")).apply(self, *arrays)


def _has_parameters(function: Any) -> bool:
    """Say whether this is a function with a signature, which no built-in function of torch has."""
    try:
        return bool(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False


def _takes(function: Any, count: int) -> bool:
    """Say whether a function takes so many arguments by position."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def _of_few_bits(values: Array) -> Array:
    """Round floats to COMMON_BITS; return integers and truth values as they are."""
    if values.dtype.kind != "f":
        return values
    mantissa, exponent = np.frexp(values)  # infinities and zeros stay what they are
    return np.ldexp(np.rint(np.ldexp(mantissa, COMMON_BITS)), exponent - COMMON_BITS)
