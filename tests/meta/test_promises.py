"""The table of promises says what the entries declare, and its command what torch keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reference.case import PROMISES
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.op import Op
from strategies.cases import fixed_cases, long_case
from tests.runs.promises import DTYPES, row, sharpest
from tests.runs.table import NONE
from tests.subject.mode import MODES
from tests.verdict.comparison import judged

TABLE = (Path(__file__).parents[2] / "docs/promises.md").read_text(encoding="utf-8")
ROWS = [list(map(str.strip, line.split("|")[1:-1])) for line in TABLE.splitlines() if line.startswith("| ")][1:]


def test_table_has_every_tensor_op() -> None:
    """Each tensor op of the catalogue has a row in each 16-bit format, with what its entry declares."""
    due = [(op.name, dtype, op.inside) for op in OPS.values() if not op.elementwise for dtype in DTYPES]
    assert [tuple(cells[:3]) for cells in ROWS] == due


@pytest.mark.parametrize("cells", ROWS, ids=lambda cells: "-".join(cells[:2]))
def test_no_promise_is_looser_than_the_declared(cells: list[str]) -> None:
    """What torch keeps is at least as sharp as what the entry declares, at every size."""
    declared, *found = (PROMISES.index(cell) for cell in cells[2:] if cell)
    assert max(found) <= declared


def test_row_says_what_torch_keeps() -> None:
    """The command finds again what the table has of an op that keeps different promises at different sizes."""
    assert row(OPS["softmax"], FORMATS["bfloat16"]) in ROWS


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
