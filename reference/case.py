"""One question put to torch: a function, the point and the cotangent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reference.format import Floats, Format
    from reference.graph import Shape
    from reference.tree import Tree

PROMISES = ("wide", "operands", "saved", "format")
"""What an op of a 16-bit format computes in, the sharpest promise first.

`wide`: every step is taken in float32, and each result rounded once. `operands`: what enters a product of matrices is
rounded as well, as tensor cores want it. `saved`: what the forward pass keeps for the backward is rounded too.
`format`: every step is rounded to the format.
"""

ROOTS = ("cotangent", "sum", "mean")
"""How the derivative of an output that is no scalar is asked for: with a cotangent, or of its sum or mean."""

NARROW = 16
"""The bits of a format up to which an op may compute in a wider one inside."""

LAYOUTS: dict[str, Callable[[Shape], bool]] = {
    "contiguous": lambda _: True,
    "transposed": lambda shape: len(shape) > 1,
    "strided": lambda shape: len(shape) > 0,
    "expanded": lambda shape: len(shape) > 0 and shape[0] > 1,  # every row is the first one, with a stride of 0
    "offset": lambda _: True,
    "channels_last": lambda shape: len(shape) == 4,
}
"""How the elements of an input may lie in memory, each with the predicate of the shapes that can lie so."""

Layout: TypeAlias = "str | tuple[tuple[int, ...], int]"
"""One of LAYOUTS by name, or strides and an offset, both counted in elements."""


@dataclass(frozen=True, repr=False, eq=False)
class Case:
    """A tree, the values of its inputs, and how its derivative is asked for.

    Inputs have batch dimensions in front of the shapes of the tree's leaves; these broadcast as
    numpy's do, and the gradient of an input that was broadcast is a sum. Cases are equal where the
    answer is the same: layouts do not count.
    """

    tree: Tree
    form: Format
    primals: tuple[Floats, ...]
    """Exact values of the format, held as float64; shapes are batch + leaf."""

    cotangent: Floats
    """Exact values of the format, in the shape of the output; ones unless `root` is "cotangent"."""

    root: str = "cotangent"
    layouts: tuple[Layout, ...] = ()
    """The layout of each input, and after them that of the cotangent; contiguous where the tuple has none."""

    wrt: tuple[int, ...] | None = None
    """The numbers of the inputs that require grad; None for all that the op differentiates."""

    silent: tuple[int, ...] = ()
    """The numbers of the outputs that have no cotangent, where an op has several; `cotangent` is 0 there."""

    along: int | None = None
    """The number of the input by which the function is differentiated first; None for a first derivative."""

    direction: Floats | None = None
    """The cotangent of the gradient by that input, or the tangent of that input, in its shape."""

    word: str = "r"
    """The derivative in the order in which operators are written: "fr" pulls a cotangent back (r), then pushes a
    tangent through that (f)."""

    units: bool = False
    """Whether the derivative is asked for with every unit cotangent in turn: a whole Jacobian, or part of a Hessian."""

    only_tangent: tuple[int, int] | None = None
    """The number of an input, and that of its one element with a tangent of 1: for one column of a Jacobian."""

    each: bool = False
    """Whether each point of the batch has a derivative of its own, by all inputs."""

    seed: int = 0
    """The seed from which an entry draws its contexts: the tensors that are not differentiated."""

    independent: bool = False
    """Whether all bits of the inputs are drawn at random, so that rounding errors of a sum count as independent."""

    promise: str | None = None
    """One of PROMISES, to be held to; None for that of the op's entry."""

    stated: tuple[Floats, ...] = ()
    """The gradient by each input asked for, where the entry states it; NaN where it follows from the formula."""

    def __repr__(self) -> str:
        """Say what is asked, without the values of large inputs."""
        shapes = ", ".join(
            f"{leaf.name}{list(p.shape)}" for leaf, p in zip(self.tree.leaves, self.primals, strict=True)
        )
        return f"<{self.tree} in {self.form.name} at {shapes}, root={self.root}, layouts={self.layouts}>"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:  # noqa: FBT001 - the protocol of IPython, which Hypothesis prints drawn values by
        printer.text(repr(self))

    @cached_property
    def question(self) -> tuple[object, ...]:
        """All that the answer depends on, which layouts are no part of; arrays are compared by their bytes."""
        # bytes tell 0 from -0, and one NaN from another, which values do not
        arrays = [*self.primals, self.cotangent, *([] if self.direction is None else [self.direction]), *self.stated]
        stated = (
            self.tree,
            self.form,
            self.root,
            self.along,
            self.word,
            self.units,
            self.each,
            self.seed,
            self.independent,
            self.only_tangent,
            self.asked,
        )
        return (*stated, self.inside, *((array.shape, array.tobytes()) for array in arrays))

    def __eq__(self, other: object) -> bool:
        """Say whether both cases have the same answer."""
        return isinstance(other, Case) and self.question == other.question

    def __hash__(self) -> int:
        """Hash the question."""
        return hash(self.question)

    @cached_property
    def asked(self) -> tuple[int, ...]:
        """The numbers of the inputs by which the derivative is asked for."""
        if self.wrt is not None:
            return self.wrt
        return self.tree.root.op.differentiable if self.tree.is_single else tuple(range(len(self.primals)))

    @property
    def asked_shapes(self) -> tuple[Shape, ...]:
        """The shapes of these inputs."""
        return tuple(self.primals[number].shape for number in self.asked)

    @property
    def outputs(self) -> tuple[Shape, ...]:
        """The shapes of the outputs, without batch dimensions."""
        return self.tree.root.outputs

    def layout(self, number: int) -> Layout:
        """Return how the input of a number lies in memory; the number after the last is that of the cotangent."""
        return self.layouts[number] if number < len(self.layouts) else "contiguous"

    def without(self, *silent: int) -> Case:
        """Return the case in which the outputs with these numbers have no cotangent."""
        # several outputs lie one behind the other along the last axis, as `reference.trace.joined` lays them
        ends = np.cumsum([0, *(prod(shape) for shape in self.outputs)])
        cotangent = self.cotangent.copy()
        for number in silent:
            cotangent[..., ends[number] : ends[number + 1]] = 0
        return replace(self, cotangent=cotangent, silent=silent)

    @cached_property
    def batches(self) -> tuple[Shape, ...]:
        """The batch dimensions of each input."""
        return tuple(
            primal.shape[: primal.ndim - len(leaf.shape)]
            for primal, leaf in zip(self.primals, self.tree.leaves, strict=True)
        )

    @cached_property
    def batch(self) -> Shape:
        """The batch dimensions of the output."""
        return np.broadcast_shapes(*self.batches)

    @property
    def point_count(self) -> int:
        """The number of points of the batch: how often the tree is evaluated."""
        return int(np.prod(self.batch, dtype=np.int64))

    @property
    def entries(self) -> int:
        """The number of entries of the gradient, over all inputs that are asked for."""
        return sum(prod(shape) for shape in self.asked_shapes)

    @property
    def is_pointwise(self) -> bool:
        """Whether each entry of the gradient comes from one point of the batch: of scalars, none of them broadcast."""
        # of inputs that broadcast an entry of the gradient is a sum over points
        scalar = all(shape == () for shape in (*(leaf.shape for leaf in self.tree.leaves), self.tree.root.shape))
        return scalar and self.root == "cotangent" and len(set(self.batches)) == 1 and not self.units

    @property
    def order(self) -> int:
        """How often the function is differentiated."""
        return len(self.word)

    @property
    def inside(self) -> str:
        """Which promise is asked to hold: the op's own, in plain reverse mode; others round every step."""
        if self.form.bits > NARROW:
            return PROMISES[-1]
        # a promise is of one backward: trees, other words and vectorised modes are several, whose steps all round
        is_plain = self.tree.is_single and self.word == "r" and not (self.each or self.units)
        own = self.tree.root.op.inside if is_plain else PROMISES[-1]
        return self.promise or own

    @property
    def tangents(self) -> tuple[Floats, ...]:
        """The tangent of each input, in its shape: one unit, or else the values of the cotangent in turn."""
        if self.only_tangent is None:
            values = self.cotangent if self.cotangent.size else np.ones(1)  # else np.resize makes zeros
            return tuple(np.resize(values, primal.shape) for primal in self.primals)
        # one element of one input: a column of the Jacobian
        number, element = self.only_tangent
        tangents = tuple(np.zeros(primal.shape) for primal in self.primals)
        tangents[number].ravel()[element] = 1
        return tangents

    @property
    def last_direction(self) -> Floats:
        """The cotangent of the second gradient, which a third derivative differentiates.

        It has at each point the opposite one of DIRECTIONS to the first cotangent's, so that the two differ. It is
        looked up by value, since points may have been left out since the directions were dealt out.
        """
        assert self.direction is not None
        numbers = np.abs(self.direction[..., None] - DIRECTIONS).argmin(-1)
        return DIRECTIONS[::-1][numbers]

    def repeated(self, count: int) -> Case:
        """Return the case with `count` copies of every input and cotangent along a new first dimension."""

        def often(values: Floats) -> Floats:
            return np.repeat(values[None], count, axis=0)

        primals = tuple(often(primal) for primal in self.primals)
        return replace(
            self,
            primals=primals,
            cotangent=often(self.cotangent),
            layouts=(),
            direction=None if self.direction is None else often(self.direction),
            stated=tuple(often(due) for due in self.stated),
        )

    def at(self, index: Shape) -> Case:
        """Return the case at one point of the batch alone, asked with its cotangent."""

        def own(batch: Shape) -> Shape:
            """Return the index into a batch that broadcasts to that of the output: 0 along what is repeated."""
            offset = len(self.batch) - len(batch)
            return tuple(0 if n == 1 else i for n, i in zip(batch, index[offset:], strict=True))

        primals = tuple(primal[own(batch)].copy() for primal, batch in zip(self.primals, self.batches, strict=True))
        direction = (
            None
            if self.direction is None or self.along is None
            else self.direction[own(self.batches[self.along])].copy()
        )
        return replace(
            self,
            primals=primals,
            cotangent=self.cotangent[index].copy(),
            root="cotangent",
            layouts=(),
            direction=direction,
            stated=tuple(
                due[own(self.batches[n])] for n, due in zip(self.asked, self.stated, strict=bool(self.stated))
            ),
        )

    def only(self, keep: np.ndarray[Shape, Any]) -> Case:
        """Return a pointwise case at some of its points, chosen by a mask or by numbers."""
        direction = None if self.direction is None else self.direction.ravel()[keep]
        return replace(
            self,
            primals=tuple(primal.ravel()[keep] for primal in self.primals),
            cotangent=self.cotangent.ravel()[keep],
            layouts=(),
            direction=direction,
            stated=tuple(due.ravel()[keep] for due in self.stated),
        )


@dataclass(frozen=True)
class Sized:
    """A large case, which is made only when it is asked: its name says what is large in it."""

    name: str
    elements: int
    """How many elements its inputs have together."""

    made: Callable[[], Case]
    """The function that makes it."""


DIRECTIONS = np.array([1.0, -2.0, 0.5])
"""The values, in turn, of the cotangent of a gradient that is differentiated again: arbitrary, and exact everywhere."""


def repeated_order(case: Case, word: str) -> Iterator[Case]:
    """Yield the derivatives of a case that a word of more than one letter asks for: by each input in turn."""
    for along in case.asked:
        direction = np.resize(DIRECTIONS, case.primals[along].shape)
        yield replace(case, along=along, direction=direction, word=word)


def twice(case: Case) -> Iterator[Case]:
    """Yield the second derivatives of a case: of the gradient by each input in turn."""
    return repeated_order(case, "rr")
