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
"""Elements whose bytes are copied to be compared."""


@dataclass(frozen=True)
class Overwritten:
    """A tensor that has other values than it was given with."""

    name: str
    """That of an input, ``cotangent``, ``tangent``, ``direction``, ``last_direction``, ``output`` or of a context."""

    count: int
    """Elements that changed."""

    index: Shape
    """The first of them."""

    before: float
    after: float

    def __str__(self) -> str:
        """Say what was overwritten."""
        at = f" at {list(self.index)}" if self.index else ""
        count = f"; {self.count:,} of its elements have changed" if self.count > 1 else ""
        return f"{self.name} was overwritten: {self.before.hex()} became {self.after.hex()}{at}{count}"


class Custody:
    """Tensors that torch was given or gave, each with the values that it must keep."""

    def __init__(self) -> None:
        """Start without any."""
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
    host = tensor.detach().cpu()
    values: Floats = (host.clone() if host.dtype == torch.float64 else host.double()).numpy()
    return values


def _compared(name: str, before: Floats, after: Floats) -> Overwritten | None:
    """Compare values bit for bit; one NaN is as good as another, since formats differ in what they keep of its bits."""
    if _is_same(before, after):
        return None
    same = (before == after) & (np.signbit(before) == np.signbit(after)) | np.isnan(before) & np.isnan(after)
    changed = np.argwhere(~same)
    if not len(changed):
        return None
    index = tuple(changed[0].tolist())
    return Overwritten(name, len(changed), index, float(before[index]), float(after[index]))


def _is_same(before: Floats, after: Floats) -> bool:
    """Compare the bits: of a few elements as bytes, which takes less than numpy needs to begin."""
    if before.size <= FEW:
        return before.tobytes() == after.tobytes()
    bits, bits_after = (np.ascontiguousarray(values).view(np.int64) for values in (before, after))
    return bool((bits == bits_after).all())


_CUSTODY: ContextVar[Custody | None] = ContextVar("custody", default=None)


@contextmanager
def watched() -> Iterator[Custody]:
    """Note what torch is given, and gives, inside the context."""
    custody = Custody()
    token = _CUSTODY.set(custody)
    try:
        yield custody
    finally:
        _CUSTODY.reset(token)


def keep(name: str, tensor: torch.Tensor) -> None:
    """Note a tensor where someone watches."""
    custody = _CUSTODY.get()
    if custody is not None:
        custody.keep(name, tensor)
