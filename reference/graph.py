"""The graph: a function of whole arrays, made of few kinds of step.

A step is one operation on whole arrays, and its result. Steps are made once and never change, and a step that is used
twice is one object, so that a graph is directed and acyclic. Steps are compared by identity. What a step means is
mathematics; `reference.evaluation` has the arithmetics in which it is evaluated.

| step | what it is |
|---|---|
| `Input`, `Constant` | arrays that are given |
| `Map` | an expression of scalars, applied to arrays that broadcast |
| `Contract` | a sum of products over named axes, as einsum writes it |
| `Gather`, `Scatter` | a static table of flat indices, -1 for zero: each is the other's derivative |
| `Select` | which elements have a rank along an axis, as weights that sum to 1: its derivative is taken for 0 |
| `Through` | an op that torch differentiates through what it saved: at other inputs, with the same derivative |
| `Detached` | an array as it is, whose derivative torch documents to be none |
| `Shift` | a value near the largest along an axis, for functions that do not depend on it |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sympy import Expr, Symbol

    from reference.format import Floats, Integers

Shape = tuple[int, ...]
"""The lengths of an array's axes, as numpy has them."""

T = TypeVar("T")

Labels = str
"""The names of an array's axes, a letter each, as einsum writes them."""


# steps are compared and hashed by identity: by value that would cost as much as the graph below them is large
@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One operation on whole arrays, and its result."""

    sources: tuple[Step, ...]
    """The steps whose results it is made of, in the order of its operands."""

    shape: Shape
    """The shape of the result."""

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
    """What it is given by."""


@dataclass(frozen=True, eq=False, repr=False)
class Constant(Step):
    """An array of exact numbers that the function itself contains."""

    values: Floats = field(default_factory=lambda: np.zeros(()))
    """The numbers, each exactly a float64."""


@dataclass(frozen=True)
class Saved:
    """What torch saves in the forward pass, rounded, and differentiates through: the output, or another value."""

    value: Expr | None
    """The value in the variables of the step; None where it is the step's own result."""

    instead: tuple[tuple[Expr, Expr], ...]
    """Pairs of what to replace in a derivative, and by what expression in `output`: each pair is an identity."""

    output: Symbol
    """The symbol that stands for the saved value."""


@dataclass(frozen=True)
class Ruled:
    """Marks a step that is the derivative of an elementwise op: at the op's kinks and edges torch's rule gives it."""

    op: Any
    """The `Op`, of a module above this one."""

    number: int
    """The number of the input that it is the derivative by."""


@dataclass(frozen=True, eq=False, repr=False)
class Map(Step):
    """An expression of scalars, applied to the elements of arrays that broadcast against each other."""

    expression: Expr
    """The expression, in `variables`."""

    variables: tuple[Symbol, ...]
    """The symbols that stand for an element of each source, in order."""

    saved: Saved | None = None
    """What torch saves of it, where it differentiates through that."""

    seeds: tuple[Symbol, ...] = ()
    """Those of the variables that are cotangents and tangents.

    A kernel may multiply by any of them last, and so multiply what had underflowed before.
    """

    op: Any = None
    """The elementwise `Op` whose formula this is, if it is one."""

    ruled: Ruled | None = None
    """The op that this is the derivative of, if torch's rule may have to decide."""

    exact: bool = False
    """Whether nothing is rounded in it: a sum of which at most one term is not 0."""


@dataclass(frozen=True, eq=False, repr=False)
class Contract(Step):
    """A sum of products of the elements of one or two arrays over named axes.

    No array has the same name for two axes, and every axis of the result is one of a source.
    """

    labels: tuple[Labels, ...]
    """The axes of each source."""

    kept: Labels
    """The axes of the result, in order; the sum is over the others."""

    terms: int | None = None
    """How many terms of each sum are not 0, where these are known to be fewer than all."""

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
        """How many terms that are not 0 each element of the result is a sum of, at most."""
        # of a maximum, which multiplies elements with their weights, there is one term
        whole = prod(length for letter, length in self.extents.items() if letter not in self.kept)
        return whole if self.terms is None else min(whole, self.terms)

    @cached_property
    def is_product_of_matrices(self) -> bool:
        """Whether this multiplies matrices, of which neither is constant.

        Each of the two then has an axis of the result that the other lacks, and they share one that is summed over.
        """
        if len(self.labels) < 2 or any(isinstance(source, Constant) for source in self.sources):
            return False
        ours, theirs = map(set, self.labels)
        # a product with a constant, such as a triangle of ones, is no product of two rounded operands
        return all(own & set(self.kept) for own in (ours - theirs, theirs - ours)) and bool(
            ours & theirs - set(self.kept)
        )


@dataclass(frozen=True, eq=False, repr=False)
class Gather(Step):
    """Elements of an array, moved: each element of the result is the one of the source that the table names.

    A gather that only reshapes, permutes axes or repeats has a `move` in place of a table.
    """

    table: Integers
    """For each element of the result the flat index of one of the source, or -1 for a 0."""
    move: tuple[str, Shape] | None = None
    """``("reshape", shape)``, ``("transpose", axes)`` or ``("broadcast", shape)``."""


@dataclass(frozen=True, eq=False, repr=False)
class Scatter(Step):
    """Sums of the elements of an array that the table sends to each element of the result."""

    table: Integers
    """For each element of the source the flat index of one of the result, or -1 for none."""


@dataclass(frozen=True, eq=False, repr=False)
class Select(Step):
    """Weights along an axis that sum to 1: 1 at the element of a rank and 0 elsewhere, unless elements are equal."""

    axis: int
    """The number of the axis, from 0."""

    rank: int
    """0 for the smallest element, -1 for the largest."""

    shares: bool
    """Whether elements equal to the one of that rank have equal weights; else the first of them has the weight 1."""


@dataclass(frozen=True, eq=False, repr=False)
class Through(Step):
    """The result of a tensor op that torch differentiates through a value that it saved.

    Its value is the first source, as it is. The other sources are made of the saved value, and the op has the same
    derivative there: log_softmax, for one, has it at its own output.
    """

    again: Step
    """The op, applied to the other sources."""

    at: tuple[Step, ...]
    """The inputs of `again`: the sources but the first."""


@dataclass(frozen=True, eq=False, repr=False)
class Detached(Step):
    """An array as it is, through which no gradient goes, as torch documents where that is not the mathematics."""

    pushes: bool = False
    """Whether tangents are pushed through it nevertheless."""


@dataclass(frozen=True, eq=False, repr=False)
class Shift(Step):
    """A value near the largest along an axis, which stays with length 1.

    The function as a whole must not depend on it, so that its derivative is taken for 0, and it need not be certified.
    """

    axis: int
    """The number of the axis, from 0."""


def ordered(roots: Iterable[Step]) -> list[Step]:
    """Return every step that the roots are made of, each once, sources first."""
    return topological(roots, attrgetter("sources"))


def topological(roots: Iterable[T], below: Callable[[T], Sequence[T]]) -> list[T]:
    """Return every node of an acyclic graph that is reached from some roots, each once, what is below a node first."""
    order: dict[T, None] = {}
    # each node waits twice: until what is below it is asked for, and until that is done
    waiting: list[tuple[T, bool]] = [(root, False) for root in roots]
    while waiting:  # no recursion: chains are a thousand deep
        node, is_done = waiting.pop()
        if node in order:
            continue  # it was reached by another way
        if is_done:
            order[node] = None
        else:
            waiting.append((node, True))
            waiting += [(each, False) for each in reversed(below(node))]
    return list(order)


def constant(values: Any) -> Constant:
    """Return exact numbers as a step."""
    array = np.asarray(values, dtype=np.float64)
    return Constant((), array.shape, array)


def mapped(expression: Expr, variables: Sequence[Symbol], sources: Sequence[Step], **properties: Any) -> Step:
    """Apply an expression to arrays that broadcast.

    Arrays that it does not depend on are left out, though they count for the shape, and an expression that is one of
    the variables returns the array itself. `properties` are further fields of `Map`. Raises ValueError where the
    shapes do not broadcast.
    """
    shape = np.broadcast_shapes(*(source.shape for source in sources))
    # a map broadcasts by itself, and what is not repeated before takes less memory
    sources = [_unrepeated(source, len(shape)) for source in sources]
    # the rule needs every input
    is_whole = properties.get("op") or (properties.get("ruled") and not expression.is_Symbol)
    used = [(v, s) for v, s in zip(variables, sources, strict=True) if is_whole or v in expression.free_symbols]
    if len(used) == 1 and expression == used[0][0] and not is_whole:
        return broadcast(used[0][1], shape)
    names, arrays = tuple(v for v, _ in used), tuple(s for _, s in used)
    if "seeds" in properties:
        properties["seeds"] = tuple(seed for seed in properties["seeds"] if seed in names)
    # smaller than `shape` if an array that was left out was larger
    own = np.broadcast_shapes(*(s.shape for s in arrays))
    return broadcast(Map(arrays, own, expression, names, **properties), shape)


def _unrepeated(source: Step, rank: int) -> Step:
    """Return the array that a source repeats, where a map of this rank broadcasts it anyway."""
    if isinstance(source, Gather) and source.move and source.move[0] == "broadcast" and len(source.shape) <= rank:
        return source.sources[0]
    return source


def contracted(labels: Sequence[Labels], kept: Labels, sources: Sequence[Step], terms: int | None = None) -> Step:
    """Return a `Contract`: sums of products over the axes that are not kept.

    Raises ValueError where an axis has two lengths.
    """
    extents: dict[str, int] = {}
    for names, source in zip(labels, sources, strict=True):
        for letter, length in zip(names, source.shape, strict=True):
            if extents.setdefault(letter, length) != length:
                message = f"axes of lengths {extents[letter]} and {length} are contracted; accepted: equal lengths"
                raise ValueError(message)
    shape = tuple(extents[letter] for letter in kept)  # each of which a source has
    return Contract(tuple(sources), shape, tuple(labels), kept, terms)


def summed(source: Step, axes: Sequence[int]) -> Step:
    """Sum over some axes, which the result lacks."""
    if not axes:
        return source
    letters = _letters(len(source.shape))
    # a contraction of one array is a sum
    return contracted([letters], "".join(c for i, c in enumerate(letters) if i not in axes), [source])


def _letters(count: int) -> Labels:
    """Return a letter for each axis of an array."""
    return "".join(chr(ord("a") + i) for i in range(count))


NOWHERE = np.zeros(0, dtype=np.int64)
"""The empty table of a gather that has a move."""


def flat_indices(shape: Shape) -> Integers:
    """Return the flat index of each element of an array of a shape, in that shape."""
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
    """Return the elements that a table of flat indices names, in its shape; 0 at -1."""
    return Gather((source,), table.shape, table)


def scattered(source: Step, table: Integers, shape: Shape) -> Step:
    """Return sums, in a shape, of the elements that a table sends to each flat index; -1 sends one nowhere."""
    return Scatter((source,), shape, table)


def unbroadcast(source: Step, shape: Shape) -> Step:
    """Sum an array down to a shape that broadcasts to its own: the transpose of `broadcast`."""
    if source.shape == shape:
        return source
    extra = len(source.shape) - len(shape)  # shapes are aligned on the right
    repeated = [i + extra for i, n in enumerate(shape) if n == 1 and source.shape[i + extra] != 1]
    return reshaped(summed(source, [*range(extra), *repeated]), shape)
