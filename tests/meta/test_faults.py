"""Every check catches the fault it is there for, and torch's own answer, its sound twin, passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS, Format
from reference.tree import Apply, Leaf, Tree, single
from strategies import fixed_cases, op_cases
from tests.meta.faults import FAKES, FAULTS, Fault, each
from tests.meta.test_entries import FLAT
from tests.subject.mode import MODES, Mode
from tests.verdict import deviation
from tests.verdict.assay import Assay, ComparedNothingError
from tests.verdict.explanation import DisagreementError

if TYPE_CHECKING:
    from reference.op import Op

KNOWN = deviation.read(deviation.FILE, OPS)


def run(op: Op, form: Format, mode: Mode, examples: int = 24) -> Assay:
    """Run the conformance test of an op on a mode; the draws are the same each time."""
    assay = Assay(op.name, mode, form, "cpu", KNOWN)

    @seed(1)  # to derandomize would be to draw others whenever this text changes
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        assay.assert_agrees(data.draw(op_cases(op, form)))

    check()
    assay.assert_compared()
    return assay


@pytest.mark.parametrize("planted", FAULTS, ids=lambda f: f.name)
def test_fault_is_caught(planted: Fault) -> None:
    """A planted fault fails, with the verdict of the check that owns it."""
    with pytest.raises(DisagreementError) as caught:
        run(planted.op, planted.form, planted.mode())
    assert caught.value.miss.verdict in planted.verdicts
    assert f"is {caught.value.miss.verdict}:\ngot {caught.value.miss.got}, should be " in str(caught.value)


@pytest.mark.parametrize(("op", "form"), sorted({(f.op.name, f.form.name) for f in FAULTS}))
def test_sound_twin_passes(op: str, form: str) -> None:
    """torch's own answer passes where a fault was planted."""
    record = run(OPS[op], FORMATS[form], MODES["backward"]).record(0, passed=True)
    assert record.compared > 0
    assert record.verdict == "agrees" or record.known


@pytest.mark.filterwarnings("ignore:var.*degrees of freedom:UserWarning")
@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("op", OPS)
def test_fake_back_end_fails_every_op(op: str, fake: str) -> None:
    """A back end of zeros, one of NaN and one that returns its inputs fail whatever they are asked.

    Zeros are right for ops that are constant between jumps.
    """
    planted = Fault(fake, OPS[op], FORMATS["float32"], (), FAKES[fake])
    if fake == "zeros" and OPS[op] in FLAT:
        assert run(OPS[op], planted.form, planted.mode()).unsupported is None
        return
    with pytest.raises(DisagreementError):
        run(OPS[op], planted.form, planted.mode())


def test_overwritten_adjoint_is_caught() -> None:
    """A node used twice sums its adjoints: half of it, as an overwriting backward leaves, fails."""
    leaf = Leaf("x")
    case = Case(Tree(Apply(OPS["mul"], (leaf, leaf)), (leaf,)), FORMATS["float32"], (np.array([3.0, 5.0]),), np.ones(2))
    overwritten = Fault("overwritten", OPS["mul"], case.form, (), each(lambda g: g / 2)).mode()
    Assay("tree", MODES["backward"], case.form, "cpu", ()).assert_agrees(case)
    with pytest.raises(DisagreementError, match=r"got 0x1\.8"):
        Assay("tree", overwritten, case.form, "cpu", ()).assert_agrees(case)


def test_region_speaks_of_layouts_and_of_what_requires_grad() -> None:
    """A region tells cases that ask the same in another layout, or of another input; its pinned input has both."""
    (tree, *_) = deviation.trees_of(OPS["matmul"])
    known = deviation.Deviation(
        op="matmul", dtype="float32", verdicts=("malformed",), device="cpu", torch="==2.13.*", reason="-", link="-",
        region="x.layout == 'transposed' and g.layout == 'contiguous' and not y.requires_grad",
        pinned={name: 1.0 + place for place, name in enumerate(tree.elements)},
        layouts={"x": "transposed"}, wrt=("x",),
    )  # fmt: skip
    pinned = deviation.pinned(known, OPS["matmul"])
    assert (pinned.layouts, pinned.wrt) == (("transposed", "contiguous"), (0,))
    assert known.holds_for(pinned, "x")
    others: tuple[dict[str, Any], ...] = (
        {"layouts": ()},
        {"layouts": ("contiguous", "transposed")},
        {"layouts": ("transposed",) * 3},
        {"wrt": None},
    )
    assert not any(known.holds_for(replace(pinned, **other), "x") for other in others)


@pytest.mark.parametrize("name", ["softsign", "softmax"])
def test_deviation_of_an_empty_batch_covers_no_other(name: str) -> None:
    """What is on file of an empty batch excuses a gradient that is missing there, and none at a point."""
    op, form = OPS[name], FORMATS["float32"]
    known = deviation.Deviation(
        op=name, dtype=form.name, verdicts=("malformed",), device="cpu", torch="==2.13.*", reason="-", link="-",
        region="x.size == 0", pinned={},
    )  # fmt: skip
    nothing = replace(MODES["backward"], gradients=lambda *_: [None])
    assay = Assay(name, nothing, form, "cpu", (known,))
    assay.assert_agrees(deviation.pinned(known, op))
    assert assay.record(0, passed=True).known
    with pytest.raises(DisagreementError, match="malformed"):
        assay.assert_agrees(fixed_cases(op, form)[0])


def test_deviation_bounds_how_far() -> None:
    """An error above the bound of a known deviation is new, though the region covers its input."""
    op, form = OPS["lgamma"], FORMATS["float64"]
    (known,) = (d for d in KNOWN if d.op == op.name and d.most_ulp < 10)
    case = Case(single(op), form, (np.array([known.pinned["x"]]),), np.array([known.cotangent]))
    Assay(op.name, MODES["backward"], form, "cpu", KNOWN).assert_agrees(case)
    further = Fault("further", op, form, (), each(lambda g: g * (1 + 2.0**-48))).mode()
    with pytest.raises(DisagreementError, match=r"inaccurate"):
        Assay(op.name, further, form, "cpu", KNOWN).assert_agrees(case)


def test_missing_kernel_is_unsupported() -> None:
    """Where torch has no kernel nothing was compared, and the record says why; of a test that broke it is an error."""
    op, form = OPS["erfcx"], FORMATS["float16"]
    assay = Assay(op.name, MODES["backward"], form, "cpu", ())
    assay.assert_agrees(Case(single(op), form, (np.array([1.0]),), np.array([1.0])))
    assay.assert_compared()
    record = assay.record(0, passed=True)
    assert (record.verdict, record.compared) == ("unsupported", 0)
    assert record.got is not None
    assert "not implemented for 'Half'" in record.got
    assert assay.record(0, passed=False).verdict == "error"


def test_comparing_nothing_fails() -> None:
    """A conformance test that ends without a comparison fails."""
    assay = Assay("sin", MODES["backward"], FORMATS["float32"], "cpu", ())
    with pytest.raises(ComparedNothingError, match="sin"):
        assay.assert_compared()
