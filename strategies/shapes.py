"""Shapes and layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from reference.case import LAYOUTS

if TYPE_CHECKING:
    from reference.op import Shape

BATCHES: tuple[Shape, ...] = ((), (1,), (0,), (7,), (3, 4), (64,), (2, 1, 3), (257,), (2, 3, 4, 5))
"""Batch shapes: without dimensions, sizes 1 and 0, below and past a vector register."""

PAIRS: tuple[tuple[Shape, Shape, Shape], ...] = (
    ((), (3,), ()),
    ((3,), (1,), (3,)),
    ((4, 1), (1, 5), (4, 5)),
    ((2, 3), (3,), ()),
    ((8,), (8,), (8,)),
)
"""Shapes that broadcast against each other."""


def batches() -> st.SearchStrategy[Shape]:
    """Batch shapes; shrinks towards the one without dimensions."""
    return st.sampled_from(BATCHES)


def broadcastable(count: int) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Tuples of shapes that broadcast; shrinks towards scalars beside a vector."""
    return st.sampled_from([shapes[:count] for shapes in PAIRS])


def wholes(most: int) -> st.SearchStrategy[Shape]:
    """Shapes of `most` elements, a fourth power, in one, two and four dimensions; shrinks towards one."""
    side, root = int(most**0.5), int(most**0.25)
    return st.sampled_from([(most,), (side, side), (root,) * 4])


def layouts(shape: Shape, *, expands: bool = True) -> st.SearchStrategy[str]:
    """Layouts that a shape can have; shrinks towards contiguous.

    An expanded tensor has equal rows, which a tensor op without batch dimensions may not be given:
    a maximum has ties there, and a variance is 0.
    """
    return st.sampled_from([name for name, fits in LAYOUTS.items() if fits(shape) and (expands or name != "expanded")])
