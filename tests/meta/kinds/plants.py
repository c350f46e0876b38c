"""Faults that can be planted in the backward of any op, so that several ops have one kind of fault.

Each plant takes a sound backward, of what was saved and the cotangent, and returns one for `tests.meta.kernels.kernel`,
which has the fault where it is told to be faulty. Docstrings say what such a backward does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from tests.meta.kernels import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Backward: TypeAlias = "Callable[..., Any]"


def first_row(back: Backward) -> Backward:
    """Scale every row by the first row's cotangent."""
    return _changed(back, lambda saved, g: (saved, g.flatten()[0].expand(g.shape)))


def cotangent_in_order(back: Backward) -> Backward:
    """Read the cotangent in the order of memory, whatever its strides."""
    return _changed(back, lambda saved, g: (saved, in_order(g)))


def inputs_in_order(back: Backward) -> Backward:
    """Read what was saved in the order of memory, where it is dense there."""

    def read(x: torch.Tensor) -> torch.Tensor:
        return in_order(x) if x.untyped_storage().nbytes() == x.numel() * x.element_size() else x

    return _changed(back, lambda saved, g: ([read(x) for x in saved], g))


def unmasked(back: Backward) -> Backward:
    """Forget the mask, which is the last that was saved."""
    return _changed(back, lambda saved, g: ([*saved[:-1], torch.ones_like(saved[-1])], g))


def tail(back: Backward) -> Backward:
    """Leave out the columns past the last whole block of 32 where there are more than 1,024."""

    def planted(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
        found = back(saved, g)
        columns = found.shape[-1]
        return found * (torch.arange(columns) < columns - columns % 32) if faulty and columns > 1024 else found

    return planted


def frozen(back: Backward) -> Backward:
    """Leave out every gradient where the first input needs none."""

    def planted(saved: Any, g: Any, *, faulty: bool, needed: Sequence[bool], **_: Any) -> Any:
        return (None,) * len(saved) if faulty and not needed[0] else back(saved, g)

    return planted


def biased(back: Backward) -> Backward:
    """Multiply the gradient by the first input by 1.02, in float32, before it is rounded."""

    def planted(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
        first, *others = back([x.float() for x in saved], g.float())
        return tuple(found.to(g.dtype) for found in (first * (1.02 if faulty else 1), *others))

    return planted


def last_output(back: Backward) -> Backward:
    """Forget the cotangent of the last output."""

    def planted(saved: Any, *cotangents: Any, faulty: bool, **_: Any) -> Any:
        *others, last = cotangents
        return back(saved, *others, torch.zeros_like(last) if faulty else last)

    return planted


def summed(by_rows: Callable[..., Any], total: Callable[[torch.Tensor, torch.Size], torch.Tensor]) -> Backward:
    """Sum over rows by `total`, which is wrong, for the gradient of a vector that all rows share.

    `by_rows` returns the gradient by x, and what each row adds to that of the vector.
    """

    def planted(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
        x, _shared = saved
        by_x, added = by_rows(saved, g)
        rows = added.reshape(-1, x.shape[-1])
        return by_x.to(x.dtype), (total(rows, x.shape) if faulty else rows.sum(0)).to(x.dtype)

    return planted


def whole_blocks(rows: torch.Tensor, _: torch.Size) -> torch.Tensor:
    """Sum rows; from 1,024 of them on, without those past the last whole block of 8."""
    return rows[: len(rows) - len(rows) % 8 if len(rows) >= 1024 else None].sum(0)


def first_dimension(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Take the first dimension for the number of rows, which is wrong from three dimensions on."""
    return rows.reshape(shape[0], -1)[:, : shape[-1]].sum(0) if len(shape) > 2 else rows.sum(0)


def in_bfloat16(rows: torch.Tensor, _: torch.Size) -> torch.Tensor:
    """Sum rows one after the other, with each partial sum rounded to bfloat16."""
    total = torch.zeros(rows.shape[-1], dtype=torch.bfloat16)
    for row in rows.to(torch.bfloat16):
        total += row
    return total


def _changed(back: Backward, change: Callable[[Any, Any], tuple[Any, Any]]) -> Backward:
    def planted(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
        return back(*(change(saved, g) if faulty else (saved, g)))

    return planted
