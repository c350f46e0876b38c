"""Points that an entry states are asked, with what is documented to be due there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
import torch

from reference import oracle
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.op import InvalidOpError, Op, Stated, x, y
from tests.meta.kernels import entry, kernel
from tests.meta.test_contract import run
from tests.subject.mode import MODES
from tests.test_conventions import at_stated
from tests.verdict import deviation
from tests.verdict.comparison import judged
from tests.verdict.explanation import explained

if TYPE_CHECKING:
    from pathlib import Path

    from tests.verdict.comparison import Judgement

BACKWARD = MODES["backward"]


def judgements(op: Op, dtype: str) -> list[Judgement]:
    """Judge an op at its points."""
    cases = [case for point in op.points for case in at_stated(op, point, FORMATS[dtype])]
    return [judged(BACKWARD.asks(case), BACKWARD, "cpu") for case in cases]


@pytest.mark.parametrize("dtype", FORMATS)
def test_border_is_asked(dtype: str) -> None:
    """A backward that goes on at the borders misses at both, by convention; one that stops there agrees."""
    assert not any(judgement.misses for judgement in judgements(entry("between", faulty=False), dtype))
    for judgement in judgements(entry("between", faulty=True), dtype):
        assert {(miss.verdict, miss.wrt) for miss in judgement.misses} == {("convention", "place")}
        assert "what is due is what the entry states at this point" in explained(judgement.misses, BACKWARD, "cpu")


def stated(due: float, **named: Any) -> Op:
    """Return |x| with another gradient at 0 than the rule has."""
    back = kernel(torch.abs, lambda saved, g, **_: g * torch.where(saved[0] >= 0, 1.0, -1.0), faulty=False)
    point = Stated({"x": 0}, due={"x": due})
    return Op(name="mine", torch=back, formula=sympy.Abs(x), kinks=(x,), points=(point,), **named)


def test_what_is_stated_is_due_in_the_place_of_the_rule() -> None:
    """It is due of an elementwise op too, and at a pole of the formula; the cotangent multiplies it."""
    assert not any(judgement.misses for judgement in judgements(stated(1), "float32"))
    (miss, *_), (other, *_) = (judgement.misses for judgement in judgements(stated(0.5), "float32"))
    assert (float.fromhex(miss.expected), float.fromhex(other.expected)) == (1.0, -0.375)
    pole = Op(name="pole", torch="torch.rad2deg", formula=lambda x: 1 / x, points=(Stated({"x": 0}, due={"x": 3}),))
    for case in at_stated(pole, pole.points[0], FORMATS["float32"]):
        (found,) = oracle.answer(case)
        assert found.centre == 3 * case.cotangent
        assert oracle.answer(replace(case, stated=(np.array(7.0),)))[0].centre == 7


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", ["norm", "hypot"])
def test_length_of_nothing_has_the_sub_gradient_of_least_norm(name: str, dtype: str) -> None:
    """At 0 a Euclidean length is convex, so that 0 is due; the NaN that torch has for two numbers is on file."""
    missed = {(miss.verdict, miss.got) for each in judgements(OPS[name], dtype) for miss in each.misses}
    assert missed == ({("convention", "nan")} if name == "hypot" else set())
    sloping = replace(OPS[name], torch=lambda *xs, **_: sum(xs) if len(xs) > 1 else xs[0].sum(-1, keepdim=True))
    assert {(miss.verdict, miss.expected) for each in judgements(sloping, dtype) for miss in each.misses} == {
        ("convention", "0x0.0p+0")
    }


@pytest.mark.parametrize("dtype", FORMATS)
def test_pinned_input_at_a_point_has_what_is_stated(dtype: str) -> None:
    """What is on file at a point of an entry is judged by what is stated there, in each mode of the first order."""
    (known,) = (
        d
        for d in deviation.read(deviation.FILE, OPS)
        if (d.op, d.dtype, d.device) == ("hypot", dtype, "cpu") and d.pinned["y"] == 0
    )
    assert [due.tolist() for due in deviation.pinned(known, OPS["hypot"]).stated] == [0, 0]


def test_what_is_not_stated_of_a_hard_op_is_certain() -> None:
    """In float64, too, what a point does not state follows from the formula, as flint has it."""
    op = Op(
        name="here", torch="torch.hypot", formula=sympy.sqrt(x**2 + y**2), points=(Stated({"x": 3, "y": 4}, {"x": 7}),)
    )
    (case, _) = at_stated(op, op.points[0], FORMATS["float64"])
    of_x, of_y = oracle.answer(case)
    assert of_x.centre == 14
    assert of_x.by_convention
    (_, exact) = oracle.by_flint(replace(case, stated=()))
    assert [part.tolist() for part in of_y.parts] == [part.tolist() for part in exact.parts]
    assert {miss.wrt for miss in judged(BACKWARD.asks(case), BACKWARD, "cpu").misses} == {"x"}


def test_point_without_what_is_due_has_that_of_the_formula() -> None:
    """A point that states nothing due is asked all the same, and the formula has its derivative there."""
    op = Op(name="here", torch="torch.sin", formula=sympy.sin(x), points=(Stated({"x": 1.5}),))
    assert not any(judgement.misses for judgement in judgements(op, "bfloat16"))
    wrong = Op(name="here", torch="torch.cos", formula=sympy.sin(x), points=(Stated({"x": 1.5}),))
    assert {miss.verdict for judgement in judgements(wrong, "float32") for miss in judgement.misses} == {"inaccurate"}


@pytest.mark.parametrize(
    "point",
    [
        0,
        Stated({}),
        Stated({"y": 0}),
        Stated({"x": 0.1}),
        Stated({"x": 0}, due={"y": 0}),
        Stated({"x": 0}, due={"x": (0, 1)}),
    ],
)
def test_point_of_something_else_is_refused(point: Any) -> None:
    """A point names each input, in numbers that every format has, and what is due in their shapes."""
    with pytest.raises(InvalidOpError, match="a Stated for each point"):
        Op(name="op", torch="torch.sin", formula=sympy.sin(x), points=(point,))


def test_command_line_asks_it(tmp_path: Path) -> None:
    """The test of a user's own point runs and fails by its name, with the verdict."""
    path = tmp_path / "pointed.py"
    path.write_text(
        "import numpy as np\nfrom reference.op import Op, Stated\n"
        "OPS = (Op(name='mine', torch='torch.abs', formula=lambda x: np.abs(x), "
        "points=(Stated({'x': 0}, due={'x': 1}),)),)\n"
    )
    done = run("--catalogue", str(path), "--op", "mine", "--mode", "backward,jacrev", "--dtype", "float32")
    assert done.returncode == 1
    assert "entry_states[mine-at-0-backward-float32-cpu]" in done.stdout
    assert "is convention:" in done.stdout
    assert "entry_states[mine-at-0-jacrev" not in done.stdout
