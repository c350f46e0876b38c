"""Kernels with faults of the kinds that people reported are rejected from a short entry, and their sound twins pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reference.convention import places
from reference.format import FORMATS
from strategies import fixed_cases, manner_cases
from tests.meta.kernels import KERNELS, entry
from tests.subject.mode import MODES
from tests.test_conventions import at_points
from tests.verdict.comparison import UnsupportedError, judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.case import Case
    from reference.format import Format
    from reference.op import Op

ONCE = ("backward", "grad", "vmap_grad", "checkpoint", "jacrev", "rr", "rrr")
"""Modes that a function of a user's own which is differentiable once can be asked in, or refuses."""


def cases(op: Op, form: Format) -> Iterator[Case]:
    """Yield what the quick profile asks of an op in the first mode."""
    yield from manner_cases(op, form)
    yield from fixed_cases(op, form)
    if kinks := places(op):
        yield at_points(op, kinks, form)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KERNELS)
def test_sound_kernel_passes(name: str, dtype: str) -> None:
    """A sound kernel agrees, in whatever manner it is asked."""
    op, mode = entry(name, faulty=False), MODES["backward"]
    for case in cases(op, FORMATS[dtype]):
        assert not judged(mode.asks(case), mode, "cpu").misses


@pytest.mark.parametrize("name", KERNELS)
def test_faulty_kernel_is_rejected(name: str) -> None:
    """A kernel with its fault misses somewhere: in float32, or where it sums in 16 bits in bfloat16."""
    op, mode = entry(name, faulty=True), MODES["backward"]
    form = FORMATS["bfloat16" if name == "half" else "float32"]
    assert any(judged(mode.asks(case), mode, "cpu").misses for case in cases(op, form))


@pytest.mark.parametrize("mode", ONCE)
def test_kernel_that_is_differentiable_once_says_so(mode: str) -> None:
    """It agrees in modes of the first order that need no rule of its own, and is unsupported in the second."""
    op, asked = entry("rows", faulty=False), MODES[mode]
    (case, *_) = fixed_cases(op, FORMATS["float32"], asked.order, whole=True)
    if asked.order == 1 and mode not in {"vmap_grad", "jacrev"}:
        assert not judged(asked.asks(case), asked, "cpu").misses
    else:
        with pytest.raises(UnsupportedError):
            judged(asked.asks(case), asked, "cpu")
