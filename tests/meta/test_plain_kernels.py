"""The kernels in plain torch agree, and with one line of them wrong they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reference.format import FORMATS
from tests.kernels.faults import FAULTS, assert_agrees
from tests.kernels.plain import OPS
from tests.verdict.explanation import DisagreementError

if TYPE_CHECKING:
    from pathlib import Path

    from reference.op import Op

BY_NAME = {op.name: op for op in OPS}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", BY_NAME.values(), ids=BY_NAME)
def test_kernel_agrees(kernel: Op, dtype: str) -> None:
    """A kernel in plain torch is right at what is asked of every op, and keeps its promise in 16 bits."""
    assert_agrees(kernel, FORMATS[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", BY_NAME.values(), ids=BY_NAME)
def test_faulty_kernel_is_caught(kernel: Op, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line of it wrong the assay fails."""
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DisagreementError, match="inaccurate"):
        assert_agrees(FAULTS[kernel.name].planted(kernel, tmp_path), FORMATS[dtype])
