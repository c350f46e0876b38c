"""One question put to torch: a function, the point and the cotangent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reference.format import Floats, Format
    from reference.op import Shape
    from reference.tree import Tree

ROOTS = ("cotangent", "sum", "mean")
"""How a derivative of a non-scalar is asked for: with a cotangent, or of its sum or mean."""

LAYOUTS: dict[str, Callable[[Shape], bool]] = {
    "contiguous": lambda _: True,
    "transposed": lambda shape: len(shape) > 1,
    "strided": lambda shape: len(shape) > 0,
    "expanded": lambda shape: len(shape) > 0 and shape[0] > 1,
    "offset": lambda _: True,
    "channels_last": lambda shape: len(shape) == 4,
}
"""How the elements of an input lie in memory, and which shapes can be laid out so."""


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
    """Exact values of the format, in the shape of the output; ones unless root is cotangent."""

    root: str = "cotangent"
    layouts: tuple[str, ...] = ()
    """One of LAYOUTS for each input; contiguous where there is none."""

    along: int | None = None
    """For a second derivative: the number of the input whose gradient is differentiated again, by every input."""

    direction: Floats | None = None
    """The cotangent of that gradient, in the shape of the input."""

    forwards: bool = False
    """Whether the derivative of a tree is accumulated from its inputs, as forward-mode does, which rounds otherwise."""

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
        """All that the answer depends on."""
        arrays = (
            (*self.primals, self.cotangent)
            if self.direction is None
            else (*self.primals, self.cotangent, self.direction)
        )
        return (
            self.tree,
            self.form,
            self.root,
            self.along,
            self.forwards,
            *((array.shape, array.tobytes()) for array in arrays),
        )

    def __eq__(self, other: object) -> bool:
        """Say whether both ask the same."""
        return isinstance(other, Case) and self.question == other.question

    def __hash__(self) -> int:
        """Hash what is asked."""
        return hash(self.question)

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
    def points(self) -> int:
        """The number of places at which the tree is evaluated."""
        return int(np.prod(self.batch, dtype=np.int64))

    @property
    def entries(self) -> int:
        """The number of entries of the gradient, over all inputs."""
        return sum(primal.size for primal in self.primals)

    @property
    def is_pointwise(self) -> bool:
        """Whether each entry of the gradient comes from one point of the batch."""
        scalar = all(shape == () for shape in (*(leaf.shape for leaf in self.tree.leaves), self.tree.root.shape))
        return scalar and self.root == "cotangent" and len(set(self.batches)) == 1

    @property
    def order(self) -> int:
        """How often the function is differentiated."""
        return 1 if self.along is None else 2

    def repeated(self, count: int) -> Case:
        """Return the case with every input and cotangent that often, along a new first dimension."""

        def often(values: Floats) -> Floats:
            return np.repeat(values[None], count, axis=0)

        primals = tuple(often(primal) for primal in self.primals)
        return replace(
            self,
            primals=primals,
            cotangent=often(self.cotangent),
            layouts=(),
            direction=None if self.direction is None else often(self.direction),
        )

    def at(self, index: Shape) -> Case:
        """Return the case at one point of the batch alone, asked with its cotangent."""

        def place(batch: Shape) -> Shape:
            offset = len(self.batch) - len(batch)
            return tuple(0 if n == 1 else i for n, i in zip(batch, index[offset:], strict=True))

        primals = tuple(primal[place(batch)].copy() for primal, batch in zip(self.primals, self.batches, strict=True))
        direction = (
            None
            if self.direction is None or self.along is None
            else self.direction[place(self.batches[self.along])].copy()
        )
        return replace(
            self,
            primals=primals,
            cotangent=self.cotangent[index].copy(),
            root="cotangent",
            layouts=(),
            direction=direction,
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
        )


DIRECTIONS = np.array([1.0, -2.0, 0.5])
"""The cotangents of a gradient that is differentiated again, in turn."""


def twice(case: Case) -> Iterator[Case]:
    """Yield the second derivatives of a case: of the gradient by each input in turn."""
    for along, primal in enumerate(case.primals):
        yield replace(case, along=along, direction=np.resize(DIRECTIONS, primal.shape))
