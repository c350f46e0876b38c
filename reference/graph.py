"""The graph: a function of whole arrays, made of few kinds of step.

A step is one operation on whole arrays, and its result. Steps are made once and never change, and a step
that is used twice is one object, so a graph is directed and has no cycles. What a step means is mathematics;
in which arithmetic it is evaluated is the affair of `reference.evaluation`.

| step | what it is |
|---|---|
| `Input`, `Constant` | arrays that are given |
| `Map` | an expression of scalars, applied to arrays that broadcast |
| `Contract` | a sum of products over named axes, as einsum writes it |
| `Gather`, `Scatter` | a static table of places, -1 for zero: each is the other's derivative |
| `Select` | which elements have a rank along an axis, as weights that sum to 1: it has no derivative of its own |
| `Through` | an op at other inputs with the same derivative: torch differentiates through what it saved |
| `Detached` | an array as it is, without a derivative where torch documents none |
| `Shift` | a value near the largest along an axis, for functions that do not depend on it |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sympy import Expr, Symbol

    from reference.format import Floats, Integers

Shape = tuple[int, ...]

Labels = str
"""The names of an array's axes, a letter each, as einsum writes them."""


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One operation on whole arrays, and its result."""

    sources: tuple[Step, ...]
    shape: Shape

    @property
    def size(self) -> int:
        """The number of elements of the result."""
        return prod(self.shape)

    def __repr__(self) -> str:
        """Name the kind and the shape."""
        return f"<{type(self).__name__} {list(self.shape)}>"


@dataclass(frozen=True, eq=False, repr=False)
class Input(Step):
    """An array that is given when the graph is evaluated."""

    name: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Step):
    """An array of exact numbers that the function itself contains."""

    values: Floats = field(default_factory=lambda: np.zeros(()))


@dataclass(frozen=True)
class Saved:
    """What torch rounds in the forward pass and differentiates through: an output, or another value."""

    value: Expr | None
    """The value in the variables of the step; None where it is the step's own result."""

    instead: tuple[tuple[Expr, Expr], ...]
    """What to replace in a derivative, and by what expression in `output`: an identity."""

    output: Symbol
    """The symbol that stands for the saved value."""


@dataclass(frozen=True)
class Ruled:
    """A step is the derivative of an elementwise op: at its kinks and edges torch's rule says what it is."""

    op: Any
    """The `Op`."""

    number: int
    """The input that it is the derivative by."""


@dataclass(frozen=True, eq=False, repr=False)
class Map(Step):
    """An expression of scalars, applied to the elements of arrays that broadcast against each other."""

    expression: Expr
    variables: tuple[Symbol, ...]
    """What the expression calls an element of each source, in order."""

    saved: Saved | None = None
    seeds: tuple[Symbol, ...] = ()
    """The cotangents and tangents, of which one may meet the rest of a product last: it multiplies what underflowed."""

    op: Any = None
    """The elementwise `Op` whose formula this is."""

    ruled: Ruled | None = None
    exact: bool = False
    """Whether no step of it rounds: a sum of which one term at most is not 0."""


@dataclass(frozen=True, eq=False, repr=False)
class Contract(Step):
    """A sum of products of the elements of one or two arrays over named axes.

    No array has the same name for two axes, and every axis of the result is one of a source.
    """

    labels: tuple[Labels, ...]
    kept: Labels
    terms: int | None = None
    """How many terms of a sum are not 0, where it is known to be fewer than all."""

    @cached_property
    def extents(self) -> dict[str, int]:
        """The length of each axis."""
        return {
            letter: length
            for labels, source in zip(self.labels, self.sources, strict=True)
            for letter, length in zip(labels, source.shape, strict=True)
        }

    @property
    def count(self) -> int:
        """How many terms each element of the result is a sum of."""
        whole = prod(length for letter, length in self.extents.items() if letter not in self.kept)
        return whole if self.terms is None else min(whole, self.terms)

    @cached_property
    def is_product_of_matrices(self) -> bool:
        """Whether rows of one array that is computed meet columns of another: each has an axis that the other lacks."""
        if len(self.labels) < 2 or any(isinstance(source, Constant) for source in self.sources):
            return False
        ours, theirs = map(set, self.labels)
        return all(own & set(self.kept) for own in (ours - theirs, theirs - ours)) and bool(
            ours & theirs - set(self.kept)
        )


@dataclass(frozen=True, eq=False, repr=False)
class Gather(Step):
    """Elements of an array at other places: each element of the result is that at its place in the table, or 0 at -1.

    One that only reshapes, permutes axes or repeats has a `move` instead of a table: nothing needs to be looked up.
    """

    table: Integers
    move: tuple[str, Shape] | None = None
    """``("reshape", shape)``, ``("transpose", axes)`` or ``("broadcast", shape)``."""


@dataclass(frozen=True, eq=False, repr=False)
class Scatter(Step):
    """Sums of the elements of an array that the table sends to each place; -1 sends one nowhere."""

    table: Integers


@dataclass(frozen=True, eq=False, repr=False)
class Select(Step):
    """Weights, 1 at the element that has a rank along an axis and 0 elsewhere; equal elements may share it."""

    axis: int
    rank: int
    """0 for the smallest, -1 for the largest."""

    shares: bool
    """Whether elements that are equal to the one of that rank have equal shares; else the first of them has it all."""


@dataclass(frozen=True, eq=False, repr=False)
class Through(Step):
    """The result of a tensor op that torch differentiates through a value it saved: the first source as it is.

    Its derivative is that of `again`, the op at `at`: other inputs with the same derivative, made of the saved value.
    """

    again: Step
    at: tuple[Step, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Detached(Step):
    """An array as it is, which has no derivative: what torch documents where that is not the mathematics."""

    pushes: bool = False
    """Whether tangents are pushed through it nevertheless, so that only gradients are none."""


@dataclass(frozen=True, eq=False, repr=False)
class Shift(Step):
    """A value near the largest along an axis, which is kept with length 1.

    The function as a whole does not depend on it.
    """

    axis: int


def ordered(roots: Iterable[Step]) -> list[Step]:
    """Return every step that the roots are made of, each once, sources first."""
    order: dict[Step, None] = {}
    waiting: list[tuple[Step, bool]] = [(root, False) for root in roots]
    while waiting:  # no recursion: chains are a thousand deep
        step, is_done = waiting.pop()
        if step in order:
            continue
        if is_done:
            order[step] = None
        else:
            waiting.append((step, True))
            waiting += [(source, False) for source in reversed(step.sources)]
    return list(order)


def constant(values: Any) -> Constant:
    """Return exact numbers as a step."""
    array = np.asarray(values, dtype=np.float64)
    return Constant((), array.shape, array)


def mapped(expression: Expr, variables: Sequence[Symbol], sources: Sequence[Step], **properties: Any) -> Step:
    """Apply an expression to arrays; what it does not depend on is left out, and a bare variable is its array.

    Raises ValueError where the shapes do not broadcast.
    """
    shape = np.broadcast_shapes(*(source.shape for source in sources))
    sources = [_unrepeated(source, len(shape)) for source in sources]
    is_whole = properties.get("op") or (
        properties.get("ruled") and not expression.is_Symbol
    )  # the rule needs every input
    used = [(v, s) for v, s in zip(variables, sources, strict=True) if is_whole or v in expression.free_symbols]
    if len(used) == 1 and expression == used[0][0] and not is_whole:
        return broadcast(used[0][1], shape)
    names, arrays = tuple(v for v, _ in used), tuple(s for _, s in used)
    if "seeds" in properties:
        properties["seeds"] = tuple(seed for seed in properties["seeds"] if seed in names)
    own = np.broadcast_shapes(*(s.shape for s in arrays))
    return broadcast(Map(arrays, own, expression, names, **properties), shape)


def _unrepeated(source: Step, rank: int) -> Step:
    """Return what a source repeats, where a map repeats it by itself."""
    if isinstance(source, Gather) and source.move and source.move[0] == "broadcast" and len(source.shape) <= rank:
        return source.sources[0]
    return source


def contracted(labels: Sequence[Labels], kept: Labels, sources: Sequence[Step], terms: int | None = None) -> Step:
    """Sum products of elements over the axes that are not kept.

    Raises ValueError where an axis has two lengths.
    """
    extents: dict[str, int] = {}
    for names, source in zip(labels, sources, strict=True):
        for letter, length in zip(names, source.shape, strict=True):
            if extents.setdefault(letter, length) != length:
                message = f"axes of lengths {extents[letter]} and {length} are contracted; accepted: equal lengths"
                raise ValueError(message)
    shape = tuple(extents[letter] for letter in kept)
    return Contract(tuple(sources), shape, tuple(labels), kept, terms)


def summed(source: Step, axes: Sequence[int]) -> Step:
    """Sum over some axes, which go."""
    if not axes:
        return source
    letters = _letters(len(source.shape))
    return contracted([letters], "".join(c for i, c in enumerate(letters) if i not in axes), [source])


def _letters(count: int) -> Labels:
    return "".join(chr(ord("a") + i) for i in range(count))


NOWHERE = np.zeros(0, dtype=np.int64)
"""The table of a gather that has a move."""


def places(shape: Shape) -> Integers:
    """Return the number of each element of an array of a shape."""
    return np.arange(prod(shape)).reshape(shape)


def reshaped(source: Step, shape: Shape) -> Step:
    """Give the elements of an array, in their order, another shape."""
    if source.shape == shape:
        return source
    return Gather((source,), shape, NOWHERE, ("reshape", shape))


def transposed(source: Step, axes: Sequence[int]) -> Step:
    """Permute the axes of an array."""
    axes = tuple(axis % len(source.shape) for axis in axes)
    if axes == tuple(range(len(axes))):
        return source
    return Gather((source,), tuple(source.shape[axis] for axis in axes), NOWHERE, ("transpose", axes))


def broadcast(source: Step, shape: Shape) -> Step:
    """Repeat an array along axes that it lacks or has of length 1, as numpy does."""
    if source.shape == shape:
        return source
    return Gather((source,), shape, NOWHERE, ("broadcast", shape))


def gathered(source: Step, table: Integers) -> Step:
    """Take the elements at places of a flat array, 0 at -1."""
    return Gather((source,), table.shape, table)


def scattered(source: Step, table: Integers, shape: Shape) -> Step:
    """Add the elements of an array up at the places of another."""
    return Scatter((source,), shape, table)


def unbroadcast(source: Step, shape: Shape) -> Step:
    """Sum an array down to a shape that broadcasts to its own."""
    if source.shape == shape:
        return source
    extra = len(source.shape) - len(shape)
    repeated = [i + extra for i, n in enumerate(shape) if n == 1 and source.shape[i + extra] != 1]
    return reshaped(summed(source, [*range(extra), *repeated]), shape)
