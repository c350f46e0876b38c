"""What torch is given, and whether it is still what it was when torch has answered.

A kernel that writes into an input, a cotangent or an output of its own corrupts what other ops have saved. Where it
writes through a pointer, torch's counter of versions does not see it: so values are compared, whatever that says.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.format import Floats
    from reference.graph import Shape


FEW = 1024
"""Elements up to which bytes are copied to be compared. The number is arbitrary."""


@dataclass(frozen=True)
class Overwritten:
    """A tensor whose values changed while torch had it."""

    name: str
    """That of an input, ``cotangent``, ``tangent``, ``direction``, ``last_direction``, ``output`` or of a context."""

    count: int
    """Elements that changed."""

    index: Shape
    """The first of them."""

    before: float
    """What that element was."""

    after: float
    """What it is now."""

    def __str__(self) -> str:
        """Say what was overwritten."""
        at = f" at {list(self.index)}" if self.index else ""
        count = f"; {self.count:,} of its elements have changed" if self.count > 1 else ""
        return f"{self.name} was overwritten: {self.before.hex()} became {self.after.hex()}{at}{count}"


class Custody:
    """Tensors that torch was given or gave, each with the values that it must keep."""

    def __init__(self) -> None:
        """Start with no tensor."""
        self._kept: list[tuple[str, torch.Tensor, Floats]] = []

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Note a tensor, and a copy of its values."""
        self._kept.append((name, tensor, _copied(tensor)))

    def overwritten(self) -> Overwritten | None:
        """Return the first tensor that has changed; None where none has."""
        found = (_compared(name, values, _copied(tensor)) for name, tensor, values in self._kept)
        return next((each for each in found if each is not None), None)


def _copied(tensor: torch.Tensor) -> Floats:
    """Return a tensor's exact values on the host, in memory of their own."""
    host = tensor.detach().cpu()  # of the CPU's own tensors no copy, but the same memory
    values: Floats = (host.clone() if host.dtype == torch.float64 else host.double()).numpy()
    return values


def _compared(name: str, before: Floats, after: Floats) -> Overwritten | None:
    """Compare values bit for bit; one NaN is as good as another, since formats differ in what they keep of its bits.

    Returns None where nothing changed.
    """
    if _is_same(before, after):  # nearly always, and soon found
        return None
    same = (before == after) & (np.signbit(before) == np.signbit(after)) | np.isnan(before) & np.isnan(after)
    # equal by value are also 0 and -0, which a kernel may have made of each other
    changed = np.argwhere(~same)
    if not len(changed):
        return None
    index = tuple(changed[0].tolist())
    return Overwritten(name, len(changed), index, float(before[index]), float(after[index]))


def _is_same(before: Floats, after: Floats) -> bool:
    """Say whether all bits are the same: of few elements by their bytes, which takes less than numpy needs to begin."""
    if before.size <= FEW:
        return before.tobytes() == after.tobytes()
    bits, bits_after = (np.ascontiguousarray(values).view(np.int64) for values in (before, after))
    return bool((bits == bits_after).all())


# The functions that make tensors are called from inside every mode, so that a custody is not passed but found.
_CUSTODY: ContextVar[Custody | None] = ContextVar("custody", default=None)


@contextmanager
def watched() -> Iterator[Custody]:
    """Have a custody keep what is noted inside the context; of contexts that nest the innermost does."""
    custody = Custody()
    token = _CUSTODY.set(custody)
    try:
        yield custody
    finally:
        _CUSTODY.reset(token)


def keep(name: str, tensor: torch.Tensor) -> None:
    """Note a tensor, and a copy of its values, in the custody that watches, if any."""
    custody = _CUSTODY.get()
    if custody is not None:
        custody.keep(name, tensor)
