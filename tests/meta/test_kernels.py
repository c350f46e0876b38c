"""Kernels that are differentiable once say so, and those that overwrite what is not theirs are told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.case import Case
from reference.catalogue import OPS
from reference.convention import ruled_points
from reference.format import FORMATS
from reference.op import InvalidOpError
from reference.tree import Apply, Leaf, Tree, single
from strategies import fixed_cases, manner_cases
from tests.meta.kernels import entry
from tests.subject.binding import written
from tests.subject.mode import MODES
from tests.test_conventions import at_points
from tests.verdict.comparison import UnsupportedError, judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.format import Format
    from reference.op import Op

ONCE = ("backward", "grad", "func_grad", "compiled_grad", "vmap_grad", "checkpoint", "jacrev", "rr", "rrr")
"""The modes in which a user's function that is differentiable once is asked: it answers, or says that it cannot."""


def cases(op: Op, form: Format) -> Iterator[Case]:
    """Yield what the quick profile asks of an op in the first mode."""
    yield from manner_cases(op, form)
    yield from fixed_cases(op, form)
    if kinks := ruled_points(op):
        yield at_points(op, kinks, form)


@pytest.mark.parametrize("mode", ONCE)
def test_kernel_that_is_differentiable_once_says_so(mode: str) -> None:
    """It agrees in the modes that need nothing of it but a backward, and is unsupported in the others."""
    op, asked = entry("rows", faulty=False), MODES[mode]
    (case, *_) = fixed_cases(op, FORMATS["float32"], asked.order, whole=True)
    if asked.order == 1 and mode not in {"func_grad", "compiled_grad", "vmap_grad", "jacrev"}:
        assert not judged(asked.asks(case), asked, "cpu").misses
    else:
        with pytest.raises(UnsupportedError):
            judged(asked.asks(case), asked, "cpu")


OVERWRITING = {
    "scribbling": "x was overwritten",
    "reused": "x was overwritten",
    "spent": "cotangent was overwritten",
    "emptied": "output was overwritten",
    "masked": "mask was overwritten",
}
"""Kernels that write into what is not theirs, through a pointer, and what is said of them."""


@pytest.mark.parametrize("mode", ["backward", "grad"])
@pytest.mark.parametrize("name", OVERWRITING)
def test_whoever_is_overwritten_is_told(name: str, mode: str) -> None:
    """A kernel that overwrites an input, a context, a cotangent or its output is malformed, and that one is named."""
    op, asked = entry(name, faulty=True), MODES[mode]
    (case, *_) = fixed_cases(op, FORMATS["float32"])
    (miss,) = judged(asked.asks(case), asked, "cpu").misses
    assert miss.verdict == "malformed"
    assert miss.got.startswith(OVERWRITING[name])


@pytest.mark.parametrize("faulty", [False, True])
def test_op_in_front_shows_that_its_output_was_overwritten(*, faulty: bool) -> None:
    """The gradient of exp is wrong where the op behind it has overwritten what exp saved, which no leaf shows."""
    leaf, own = Leaf("x"), entry("scribbling", faulty=faulty)
    tree = Tree(Apply(own, (Apply(OPS["exp"], (leaf,)),)), (leaf,))
    case, mode = Case(tree, FORMATS["float32"], (np.array([0.5, 1.0]),), np.ones(2)), MODES["backward"]
    assert [miss.verdict for miss in judged(mode.asks(case), mode, "cpu").misses] == ["inaccurate"] * 2 * faulty


def test_entry_that_says_in_place_may_overwrite() -> None:
    """What an entry says that it overwrites is a copy, in the suite's call and in the one that it writes."""
    sound, faulty = (entry("scribbling", faulty=each) for each in (False, True))
    mode, (case, *_) = MODES["backward"], fixed_cases(faulty, FORMATS["float32"])
    for op, is_told in ((faulty, True), (replace(faulty, overwrites=("x",)), False)):
        asked = mode.asks(replace(case, tree=single(op)))
        told = [miss.overwritten is not None for miss in judged(asked, mode, "cpu").misses]
        assert any(told) is is_told
    assert written(replace(sound, overwrites=("x",)), ["t0"], [()], 0).endswith("(t0.clone())")


def test_entry_overwrites_what_it_takes() -> None:
    """Only inputs can be overwritten."""
    with pytest.raises(InvalidOpError, match=r"overwrites=\('y',\) is not valid; accepted: some of x"):
        replace(entry("scribbling", faulty=True), overwrites=("y",))
