"""An op is asked at the lengths that its entry names and at no others, or around blocks as far as there is time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.format import FORMATS
from reference.op import InvalidOpError, Op, x
from strategies import fixed_cases, manner_cases, op_cases, sized_cases
from tests.kernels.formulas import rms_norm
from tests.meta.kernels import kernel
from tests.meta.test_contract import run
from tests.subject.mode import MODES
from tests.verdict.assay import Assay
from tests.verdict.explanation import DisagreementError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from reference.case import Case

FLOAT32 = FORMATS["float32"]
NAMED = Op(name="named", torch="torch.sin", formula=rms_norm, axes="n,n", sizes={"n": (64, 128, 512)})


def assay() -> Assay:
    """Return an assay of backward in float32."""
    return Assay("own", MODES["backward"], FLOAT32, "cpu", ())


def wave(ends: Callable[[torch.Tensor], Any]) -> Op:
    """Return sin with a backward whose gradient is multiplied by a function of the input."""
    back = kernel(torch.sin, lambda saved, g, **_: g * torch.cos(saved[0]) * ends(saved[0]), faulty=False)
    return Op(name="wave", torch=back, formula=sympy.sin(x))


def lengths(cases: Iterable[Case]) -> set[int]:
    """Return the lengths of the last axis in some cases."""
    return {case.primals[0].shape[-1] for case in cases}


def test_named_lengths_are_asked_by_rule_and_no_others() -> None:
    """Each length that an entry names is asked in any manner; fixed cases have no other, the last in real use."""
    assert lengths(manner_cases(NAMED, FLOAT32)) == {64, 128, 512}
    assert lengths(fixed_cases(NAMED, FLOAT32)) == {64, 128, 512}
    assert all(case.name.endswith(" rows") for case in sized_cases(NAMED, FLOAT32))


@settings(max_examples=30)
@given(data=st.data())
def test_drawn_lengths_are_those_that_are_named(data: st.DataObject) -> None:
    """No drawn case of an op has a length that its entry does not name."""
    assert lengths([data.draw(op_cases(NAMED, FLOAT32))]) <= {64, 128, 512}


def test_named_rows_are_asked() -> None:
    """An entry that names several numbers of rows is asked each, in the place of those that the suite would take."""
    op = Op(name="rows", torch="torch.sin", formula=rms_norm, axes="n,n", sizes={"n": 8, "m": (48, 96)})
    rows = {case.batch for case in manner_cases(op, FLOAT32)}
    assert {(48,), (96,)} <= rows
    assert (4099,) not in rows
    assert op.rows == (96,)


@pytest.mark.parametrize("sizes", [{"n": ()}, {"n": (0, 4)}, {"n": "many"}, {"n": 2.5}])
def test_what_is_no_length_is_refused(sizes: Any) -> None:
    """A size that is not a length, nor a tuple of some, is refused with what is accepted."""
    with pytest.raises(InvalidOpError, match="a length, or a tuple of lengths"):
        Op(name="op", torch="torch.sin", formula=rms_norm, axes="n,n", sizes=sizes)


@pytest.mark.parametrize("length", [63, 65, 1023, 8193, 65_537])
def test_fault_at_one_size_is_seen(length: int) -> None:
    """A kernel that is wrong in its last element at one size is found; a sound one is not."""

    def faulty(v: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(v.numel()) == length - 1, 2.0 if v.numel() == length else 1.0, 1.0).reshape(
            v.shape
        )

    assay().assert_agrees_within(600, sized_cases(wave(lambda _: 1), FLOAT32))
    with pytest.raises(DisagreementError):
        assay().assert_agrees_within(600, sized_cases(wave(faulty), FLOAT32))


def test_what_there_is_no_time_for_is_said() -> None:
    """A kernel that takes a millisecond a row is asked the sizes for which there is time, and the others are named."""

    def slow(v: torch.Tensor) -> int:
        time.sleep(v.numel() / 1000)
        return 1

    own, start = assay(), time.monotonic()
    own.assert_agrees_within(2, sized_cases(wave(slow), FLOAT32))
    assert own.record(0, passed=True).compared > 0
    assert own.unasked[-1] == "65,537 elements"
    assert time.monotonic() - start < 10


def test_no_case_is_too_large() -> None:
    """A square matrix is not asked at sizes that take minutes; the first case is small."""
    op = Op(name="square", torch="torch.sin", formula=lambda x: np.sum(x, axis=-1), axes="nn", sizes={"n": 64})
    cases = sized_cases(op, FLOAT32)
    assert [case.elements for case in cases] == sorted(case.elements for case in cases)
    assert {case.name for case in cases} >= {"n of 1,023", "65,537 rows"}
    assert "n of 2,047" not in {case.name for case in cases}


def test_op_of_fixed_shapes_is_not_asked_at_others(tmp_path: Path) -> None:
    """The test of sizes is not collected for an op that has one shape, as it could compare nothing."""
    path = tmp_path / "fixed.py"
    path.write_text(
        "import numpy as np\nfrom reference.op import Op\n"
        "OPS = (Op(name='fixed', torch='torch.square', formula=lambda x: x * x, shapes=(((2,),),), batched=0), "
        "Op(name='free', torch='torch.square', formula=lambda x: x * x, axes='n'))\n"
    )
    done = run("--catalogue", str(path), "--op", "fixed,free", "--collect-only", "-q")
    assert "any_size[free-backward-float32" in done.stdout
    assert "any_size[fixed-backward" not in done.stdout
