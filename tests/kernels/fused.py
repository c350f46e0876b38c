"""The kernels in Triton: assay them with ``--catalogue tests/kernels/fused.py``."""

from __future__ import annotations

from typing import Any

from reference.op import Op
from tests.kernels.formulas import BATCHED_ATTENTION, LOSS, NORM

TAKEN: dict[str, Any] = {"dtypes": ("float32", "float16", "bfloat16")}
"""The formats that they take: they compute in float32, which is too narrow for float64."""

OPS = (
    Op(name="triton_rms_norm", torch="tests.kernels.norm.RmsNorm.apply", **NORM, **TAKEN),
    Op(name="triton_linear_cross_entropy", torch="tests.kernels.loss.LinearCrossEntropy.apply", **LOSS, **TAKEN),
    Op(name="triton_attention", torch="tests.kernels.attention.Attention.apply", **BATCHED_ATTENTION, **TAKEN),
    Op(
        name="triton_attention_operands",
        torch="tests.kernels.attention.for_tensor_cores",
        **BATCHED_ATTENTION | {"inside": "operands"},
        **TAKEN,
    ),
)
