"""The table of promises says what the entries declare, and its command what torch keeps."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from reference.balls import Widened, or_nil
from reference.case import PROMISES
from reference.catalogue import OPS
from reference.evaluation import Arrays, Exact, Rounding, evaluate
from reference.format import FORMATS
from reference.graph import constant
from reference.op import Op
from reference.oracle import answer
from strategies import manner_cases
from strategies.cases import fixed_cases, long_case
from tests.meta.kernels import entry
from tests.runs.promises import DTYPES, row, sharpest
from tests.runs.table import NONE
from tests.subject.mode import MODES
from tests.verdict.comparison import judged

if TYPE_CHECKING:
    from reference.case import Case

TENSOR_OPS = {name: op for name, op in OPS.items() if not op.elementwise}
MOST_ENTRIES = 1024
"""Entries of the gradients of a case up to which it is asked whether promises are ordered."""

BRANCHING = ("between", "looked_up", "masked", "product")
"""Kernels of the suite's own whose formulas compare, or have a zero among their factors."""

ORDERED = (*TENSOR_OPS.values(), *(entry(name, faulty=False) for name in BRANCHING))
TABLE = (Path(__file__).parents[2] / "docs/promises.md").read_text(encoding="utf-8")
ROWS = [list(map(str.strip, line.split("|")[1:-1])) for line in TABLE.splitlines() if line.startswith("| ")][1:]


def test_table_has_every_tensor_op() -> None:
    """Each tensor op of the catalogue has a row in each 16-bit format, with what its entry declares."""
    due = [(op.name, dtype, op.inside) for op in TENSOR_OPS.values() for dtype in DTYPES]
    assert [tuple(cells[:3]) for cells in ROWS] == due


@pytest.mark.parametrize("cells", ROWS, ids=lambda cells: "-".join(cells[:2]))
def test_no_promise_is_looser_than_the_declared(cells: list[str]) -> None:
    """What torch keeps is at least as sharp as what the entry declares, at every size."""
    declared, *found = (PROMISES.index(cell) for cell in cells[2:] if cell)
    assert max(found) <= declared


def test_row_says_what_torch_keeps() -> None:
    """The command finds again what the table has of an op that keeps different promises at different sizes."""
    assert row(OPS["softmax"], FORMATS["bfloat16"]) in ROWS


def assert_ordered(case: Case) -> None:
    """Assert that what a promise allows lies within what each looser one does, but for what floats are off by."""
    answers = [answer(replace(case, promise=promise)) for promise in PROMISES]
    for sharp, loose in chain.from_iterable(zip(*pair, strict=True) for pair in pairwise(answers)):
        reach = loose.radius + np.where(np.isfinite(sharp.radius), sharp.radius, 0) * Widened.own
        assert (np.abs(loose.offset - sharp.offset) + sharp.radius <= reach).all(), case


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ORDERED, ids=lambda op: op.name)
def test_no_looser_promise_allows_less(op: Op, dtype: str) -> None:
    """Promises are ordered at every entry, so that what keeps one keeps the looser ones too.

    So they are where a formula branches: a truth that is kept is a value of the format, and the branch stays the same.
    """
    cases = [*fixed_cases(op, FORMATS[dtype], whole=True), *manner_cases(op, FORMATS[dtype])]
    for case in (case for case in cases if case.entries <= MOST_ENTRIES):
        assert_ordered(case)


def test_rounding_leaves_values_of_the_format() -> None:
    """What only moves elements is exact by every promise; what is no value of the format is rounded by half an ulp."""
    moved = fixed_cases(OPS["flip"], FORMATS["bfloat16"], whole=True)[0]
    assert all(not found.radius.any() for promise in PROMISES for found in answer(replace(moved, promise=promise)))
    form, values = FORMATS["bfloat16"], np.array([1.0, 257.0, 0.0])
    rounding = Rounding(FORMATS["float32"], results=form)
    (balls,) = evaluate([constant(values)], {}, Arrays(rounding))
    assert or_nil(balls.rad).tolist() == [0, 257 * form.unit + form.smallest_subnormal / 2, 0]
    (exact,) = evaluate([constant(values)], {}, Exact(rounding))
    assert [float(ball.rad()) for ball in exact] == pytest.approx(or_nil(balls.rad).tolist(), rel=1e-6)


class RoundedSum(torch.autograd.Function):
    """A sum over rows whose backward accumulates the cotangent of the weight in the format, or breaks altogether."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the rows up one after the other, each sum rounded."""
        x, weight = ctx.saved_tensors
        total = torch.zeros_like(weight)
        for term in (cotangent * x).reshape(-1, weight.numel()):
            total = total + term
        return cotangent * weight, total


def scaled(name: str, inside: str = "format") -> Op:
    """Return an entry for a kernel that multiplies rows with a weight."""
    return Op(
        name="scaled",
        torch=f"tests.meta.test_promises.{name}",
        formula=lambda x, weight: x * weight,
        axes="n,n",
        sizes={"m": 300, "n": 4},
        inside=inside,
    )


def broken(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply, with a gradient that is twice what it should be."""
    product = x * weight
    return product + (product - product.detach())


def test_accumulation_in_the_format_is_told_apart() -> None:
    """A kernel that accumulates 300 rows in bfloat16 keeps `format` only; one that is wrong keeps nothing."""
    form = FORMATS["bfloat16"]
    assert sharpest([long_case(scaled("RoundedSum.apply"), form, 300)]) == PROMISES[-1]
    assert sharpest(fixed_cases(scaled("broken"), form, whole=True)) == NONE


@pytest.mark.parametrize(("name", "looser"), [("RoundedSum.apply", ("format",)), ("broken", ())])
def test_a_broken_promise_leaves_a_looser_one(name: str, looser: tuple[str, ...]) -> None:
    """A kernel that does not keep what its entry declares may keep less, which its record says."""
    case = long_case(scaled(name, "wide"), FORMATS["bfloat16"], 300)
    judgement = judged(case, MODES["backward"], "cpu")
    assert judgement.misses
    assert judgement.held == looser
