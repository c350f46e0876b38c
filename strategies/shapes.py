"""Shapes of batches, shapes that broadcast, and layouts in memory."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from reference.case import LAYOUTS

if TYPE_CHECKING:
    from reference.graph import Shape

BATCHES: tuple[Shape, ...] = ((), (1,), (0,), (7,), (3, 4), (64,), (2, 1, 3), (257,), (2, 3, 4, 5))
"""Batch shapes: without dimensions, of sizes 1 and 0, and of sizes below and past a vector register."""

BROADCASTABLE: tuple[tuple[Shape, Shape, Shape], ...] = (
    ((), (3,), ()),
    ((3,), (1,), (3,)),
    ((4, 1), (1, 5), (4, 5)),
    ((2, 3), (3,), ()),
    ((8,), (8,), (8,)),
)
"""Shapes for up to three inputs that broadcast against each other."""


def batches() -> st.SearchStrategy[Shape]:
    """Batch shapes. Shrinks towards the one without dimensions."""
    return st.sampled_from(BATCHES)


def broadcastable(count: int) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Tuples of `count` shapes that broadcast, of more than three in turn. Shrinks towards scalars beside a vector."""
    return st.sampled_from([tuple(islice(cycle(shapes), count)) for shapes in BROADCASTABLE])


def wholes(most: int) -> st.SearchStrategy[Shape]:
    """Shapes of `most` elements, a fourth power, in one, two and four dimensions. Shrinks towards one dimension."""
    side, root = int(most**0.5), int(most**0.25)
    return st.sampled_from([(most,), (side, side), (root,) * 4])


def layouts(shape: Shape, *, expands: bool = True) -> st.SearchStrategy[str]:
    """Layouts, by name, that a tensor of a shape can have. Shrinks towards contiguous.

    An expanded tensor has equal rows, which a tensor op without batch dimensions may not be given: a maximum has ties
    there, and a variance is 0. Callers clear `expands` for those.
    """
    return st.sampled_from([name for name, fits in LAYOUTS.items() if fits(shape) and (expands or name != "expanded")])
