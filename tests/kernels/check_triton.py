"""The tests of `tox -e assay-triton`: faults are caught, and Triton's interpreter does not compute in bfloat16."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import triton
import triton.language as tl

from reference.format import FORMATS
from tests.kernels.faults import FAULTS, assert_agrees
from tests.kernels.fused import OPS
from tests.kernels.promises import CHANGES, row
from tests.verdict.explanation import DisagreementError

if TYPE_CHECKING:
    from reference.op import Op

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
BY_NAME = {op.name: op for op in OPS}
FAULTY = pytest.mark.parametrize(
    "kernel", [BY_NAME[name] for name in FAULTS if name in BY_NAME], ids=lambda op: op.name
)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@FAULTY
def test_faulty_kernel_is_caught(kernel: Op, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line of it wrong the assay fails."""
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DisagreementError, match="inaccurate"):
        assert_agrees(FAULTS[kernel.name].planted(kernel, tmp_path), FORMATS[dtype])


@pytest.mark.parametrize("kernel", BY_NAME.values(), ids=BY_NAME)
def test_kernel_keeps_its_promise_at_the_sizes_in_use(kernel: Op) -> None:
    """In float16 a kernel is right at its sizes in use and in every manner, which `quick` asks in float32 alone."""
    assert_agrees(kernel, FORMATS["float16"])


@pytest.mark.parametrize("name", CHANGES)
def test_page_has_the_share_by_each_promise(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of docs/kernels.md has how much of the allowance a kernel takes in float16, by each promise."""
    monkeypatch.syspath_prepend(tmp_path)
    assert row(name, tmp_path) in PAGE.read_text().splitlines()


@FAULTY
def test_page_shows_what_a_failure_says(kernel: Op, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line that docs/kernels.md shows of a failure is one of it, or the start of one where it ends in dots."""
    monkeypatch.syspath_prepend(tmp_path)
    found = re.search(rf"<!-- failure: {kernel.name} -->\n```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    with pytest.raises(DisagreementError) as failure:
        assert_agrees(FAULTS[kernel.name].planted(kernel, tmp_path), FORMATS["float32"])
    said = str(failure.value).splitlines()
    for line in found[1].splitlines():
        assert any(each == line or (line.endswith("…") and each.startswith(line[:-1])) for each in said)


def test_kernels_compile() -> None:
    """The compiler, which refuses more than the interpreter does, takes every kernel."""
    command = [sys.executable, "-m", "tests.kernels.compiled"]
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(command, cwd=PAGE.parents[1], env=environment, capture_output=True, text=True, check=True)
    assert len(re.findall(r"[1-9]\d* bytes", done.stdout)) == 9


@triton.jit
def added(x_ptr, y_ptr, result_ptr, COUNT: tl.constexpr) -> None:
    """Add in the format of the inputs."""
    place = tl.arange(0, COUNT)
    tl.store(result_ptr + place, tl.load(x_ptr + place) + tl.load(y_ptr + place))


@triton.jit
def largest(x_ptr, y_ptr, result_ptr, COUNT: tl.constexpr) -> None:
    """Take the larger of two in their format."""
    place = tl.arange(0, COUNT)
    tl.store(result_ptr + place, tl.maximum(tl.load(x_ptr + place), tl.load(y_ptr + place)))


@triton.jit
def converted(x_ptr, result_ptr, COUNT: tl.constexpr) -> None:
    """Convert to the format of the result."""
    place = tl.arange(0, COUNT)
    tl.store(result_ptr + place, tl.load(x_ptr + place).to(result_ptr.dtype.element_ty))


def of_two(kernel: Any, x: float, y: float, dtype: torch.dtype) -> torch.Tensor:
    """Run a kernel on two numbers in a format."""
    result = torch.empty(1, dtype=dtype)
    kernel[(1,)](torch.tensor([x], dtype=dtype), torch.tensor([y], dtype=dtype), result, COUNT=1)
    return result


def stored(x: float, dtype: torch.dtype) -> float:
    """Convert a number from float32 to a format, by a kernel."""
    result = torch.empty(1, dtype=dtype)
    converted[(1,)](torch.tensor([x]), result, COUNT=1)
    return float(result)


def test_interpreter_adds_float16() -> None:
    """The interpreter adds right in float16 and in float32."""
    for dtype in (torch.float16, torch.float32):
        assert of_two(added, 1.0, 0.5, dtype) == 1.5


def test_interpreter_adds_the_bits_of_bfloat16() -> None:
    """The interpreter adds the bits of bfloat16 as though they were integers: 1 + 1/2 is 2^126."""
    bits = sum(torch.tensor(v, dtype=torch.bfloat16).view(torch.int16).item() for v in (1.0, 0.5))
    found = of_two(added, 1.0, 0.5, torch.bfloat16)
    assert found.view(torch.int16).item() == bits
    assert found == 2.0**126


def test_interpreter_orders_the_bits_of_bfloat16() -> None:
    """The interpreter orders bfloat16 by its bits too: numbers below 0 are above all others, -2.5 above -1."""
    assert of_two(largest, -2.5, 3.0, torch.bfloat16) == -2.5
    assert of_two(largest, -1.0, -2.0, torch.bfloat16) == -2.0
    assert of_two(largest, -2.5, 3.0, torch.float16) == 3.0


@pytest.mark.parametrize(
    ("x", "truncated", "rounded"), [(1 + 2.0**-7 - 2.0**-9, 1, 1 + 2.0**-7), (-3.999, -3.984375, -4)]
)
def test_interpreter_truncates_to_bfloat16(x: float, truncated: float, rounded: float) -> None:
    """The interpreter converts float32 to bfloat16 by dropping bits, where torch rounds; to float16 it rounds."""
    assert stored(x, torch.bfloat16) == truncated
    assert torch.tensor(x).bfloat16() == rounded
    assert stored(x, torch.float16) == torch.tensor(x).half()
