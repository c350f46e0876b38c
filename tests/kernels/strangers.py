"""Kernels of other projects in Triton's interpreter: assay them with ``--catalogue tests/kernels/strangers.py``.

They are those of liger-kernel 0.8.5, and those of flash-linear-attention 0.6.0 that the interpreter runs.

Two things that they need, the interpreter lacks, so that they are supplied here. A float argument of a kernel is made
float32, as it is where a kernel is compiled. And functions of numpy stand for those of libdevice.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import triton.language as tl
from liger_kernel import ops
from sympy import Rational, pi, sqrt
from triton.runtime import interpreter

from reference.catalogue.normalisers import softmax
from reference.domain import Interval
from reference.op import Op
from tests.kernels.formulas import EPSILON, IGNORED, LOSS, attention, cross_entropy, labels, rms_norm

with warnings.catch_warnings(action="ignore"):  # that there is no GPU
    from fla.modules.fused_cross_entropy import cross_entropy_loss
    from fla.modules.fused_linear_cross_entropy import fused_linear_cross_entropy_loss
    from fla.ops.attn import parallel_attn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from reference.graph import Shape

IN_PLACE = False
"""Whether a backward may write over the cotangent, as some do by default: it is not theirs."""

as_argument = interpreter._implicit_cvt  # noqa: SLF001 - there is no other place to give an argument its type


def as_compiled(argument: Any) -> Any:
    """Return an argument of a kernel as the interpreter takes it, but a float in float32."""
    if not isinstance(argument, float):
        return as_argument(argument)
    return tl.tensor(interpreter.TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)


def stand_in(function: Callable[[Any], Any]) -> Callable[[tl.tensor], tl.tensor]:
    """Return a function of numpy as one of the interpreter's tensors."""
    return lambda x: tl.tensor(interpreter.TensorHandle(function(x.handle.data), x.handle.dtype), x.type)


interpreter._implicit_cvt = as_compiled  # noqa: SLF001 - as above
for module, name, stands_in in (
    ("fused_add_rms_norm", "rsqrt", lambda x: 1 / np.sqrt(x)),
    ("geglu", "tanh", np.tanh),
    ("group_norm", "rsqrt", lambda x: 1 / np.sqrt(x)),
    ("layer_norm", "rsqrt", lambda x: 1 / np.sqrt(x)),
    ("modulated_rms_norm", "rsqrt", lambda x: 1 / np.sqrt(x)),
    ("poly_norm", "rsqrt", lambda x: 1 / np.sqrt(x)),
    ("rms_norm", "rsqrt", lambda x: 1 / np.sqrt(x)),
):
    setattr(importlib.import_module(f"liger_kernel.ops.{module}"), name, stand_in(stands_in))


def liger_cross_entropy(x: torch.Tensor, labels: torch.Tensor) -> Any:
    """Return the mean loss; the gradient is written over the logits where they are contiguous."""
    return ops.LigerCrossEntropyFunction.apply(x, labels, None)[0]


def liger_linear_cross_entropy(x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Any:
    """Return the mean loss."""
    return ops.LigerFusedLinearCrossEntropyFunction.apply(x, weight, labels)[0]


def liger_rms_norm(x: torch.Tensor, weight: torch.Tensor) -> Any:
    """Normalise as models of the Llama family do."""
    return ops.LigerRMSNormFunction.apply(x, weight, EPSILON, 0.0, "llama", IN_PLACE)


def liger_rms_norm_gemma(x: torch.Tensor, weight: torch.Tensor) -> Any:
    """Normalise as models of the Gemma family do."""
    return ops.LigerRMSNormFunction.apply(x, weight, EPSILON, 1.0, "gemma", IN_PLACE)


def liger_layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    """Normalise the last axis."""
    return ops.LigerLayerNormFunction.apply(x, weight, bias, EPSILON)


def liger_group_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    """Normalise two groups of channels."""
    return ops.LigerGroupNormFunction.apply(x, weight, bias, x.shape[1], 2, EPSILON)


def liger_fused_add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> Any:
    """Add, and normalise the sum; return the normalised sum and the sum."""
    return ops.LigerFusedAddRMSNormFunction.apply(x, residual, weight, EPSILON, 0.0, "llama", IN_PLACE)


def liger_poly_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    """Normalise three powers, and sum them."""
    return ops.LigerPolyNormFunction.apply(x, weight, bias, EPSILON, IN_PLACE)


def liger_kl_div(x: torch.Tensor, target: torch.Tensor) -> Any:
    """Return the divergence, divided by the number of rows."""
    return ops.LigerKLDivLossFunction.apply(x, target)


def liger_tvd(x: torch.Tensor, target: torch.Tensor) -> Any:
    """Return the total variation distance, divided by the number of rows."""
    return ops.LigerTVDLossFunction.apply(x, target)


def liger_rope(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
    """Rotate queries and keys."""
    return ops.LigerRopeFunction.apply(query, key, cos, sin)


def fla_cross_entropy(x: torch.Tensor, labels: torch.Tensor) -> Any:
    """Return the mean loss over the rows that have one."""
    losses, _ = cross_entropy_loss(x, labels)
    return losses.sum() / (labels != IGNORED).sum().clamp(min=1)


def fla_linear_cross_entropy(x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Any:
    """Return the mean loss."""
    return fused_linear_cross_entropy_loss(x, labels, weight)


def fla_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Any:
    """Attend to no later place."""
    return parallel_attn(query, key, value)


def causal(query: Any, key: Any, value: Any) -> Any:
    """Attend to no later place; the axes are (batch, place, head, feature)."""
    ours, keys, values = (np.moveaxis(a, 2, 1) for a in (query, key, value))
    places = np.arange(query.shape[1])
    mask = places <= places[:, None]
    return np.moveaxis(attention(ours[:, :, None], keys, values, mask)[:, :, 0], 1, 2)


def normalised(x: Any) -> Any:
    """Divide by the root of the mean square of each row."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON)


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    """Normalise the last axis."""
    deviation = x - np.mean(x, axis=-1, keepdims=True)
    return normalised(deviation) * weight + bias


def group_norm(x: Any, weight: Any, bias: Any) -> Any:
    """Normalise two groups of channels."""
    batch, channels, length = x.shape
    grouped = x.reshape(batch, 2, channels // 2 * length)
    normal = normalised(grouped - np.mean(grouped, axis=-1, keepdims=True)).reshape(batch, channels, length)
    return normal * weight[:, None] + bias[:, None]


def poly_norm(x: Any, weight: Any, bias: Any) -> Any:
    """Normalise three powers, and sum them."""
    return weight[0] * normalised(x * x * x) + weight[1] * normalised(x * x) + weight[2] * normalised(x) + bias


def turned(x: Any) -> Any:
    """Turn the halves of the last axis by a right angle."""
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


def angles(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a context: the cosines, or sines, of the angles that each place is turned by, the same in both halves."""

    def drawn(shapes: Sequence[Shape], _: np.random.Generator) -> Any:
        places, width = shapes[0][-2:]
        turns = np.arange(places)[:, None] / 10.0 ** np.arange(width // 2)
        return function(np.concatenate([turns, turns], axis=-1))[None]

    return drawn


def gelu(x: Any) -> Any:
    """Return the approximation of gelu with tanh."""
    return x / 2 * (1 + np.tanh((x + x**3 * Rational(44715, 10**6)) * sqrt(2 / pi)))


ROWS: dict[str, Any] = {"axes": "mn,mn", "sizes": {"m": 4, "n": 4096}, "batched": 0, "frozen": ("target",)}
TAKEN: dict[str, Any] = {"dtypes": ("float32", "float16", "bfloat16")}

OPS = (
    Op(name="liger_softmax", torch=ops.LigerSoftmaxFunction.apply, formula=softmax, axes="n", inside="saved", **TAKEN),
    Op(
        name="liger_cross_entropy", torch="tests.kernels.strangers.liger_cross_entropy", formula=cross_entropy,
        contexts={"labels": lambda shapes, random: labels([shapes[0], shapes[0][::-1]], random)},
        axes="mn", sizes={"m": 8, "n": 1000}, batched=0, overwrites=("logits",), **TAKEN,
    ),
    Op(name="liger_linear_cross_entropy", torch="tests.kernels.strangers.liger_linear_cross_entropy", **LOSS | {"inside": "format"}, **TAKEN),
    Op(name="liger_rms_norm", torch="tests.kernels.strangers.liger_rms_norm", formula=rms_norm, axes="n,n", **TAKEN),
    Op(name="liger_rms_norm_gemma", torch="tests.kernels.strangers.liger_rms_norm_gemma", formula=lambda x, weight: normalised(x) * (weight + 1), axes="n,n", **TAKEN),
    Op(name="liger_layer_norm", torch="tests.kernels.strangers.liger_layer_norm", formula=layer_norm, axes="n,n,n", **TAKEN),
    Op(
        name="liger_group_norm", torch="tests.kernels.strangers.liger_group_norm", formula=group_norm,
        shapes=(((2, 4, 6), (4,), (4,)), ((1, 2, 9), (2,), (2,))), batched=0, **TAKEN,
    ),
    Op(
        name="liger_fused_add_rms_norm", torch="tests.kernels.strangers.liger_fused_add_rms_norm",
        formula=lambda x, residual, weight: (normalised(x + residual) * weight, x + residual), axes="n,n,n", batched=2, **TAKEN,
    ),
    Op(
        name="liger_poly_norm", torch="tests.kernels.strangers.liger_poly_norm", formula=poly_norm,
        shapes=(((5,), (3,), ()), ((33,), (3,), ())), **TAKEN,
    ),
    Op(name="liger_geglu", torch=ops.LigerGELUMulFunction.apply, formula=lambda a, b: gelu(a) * b, axes="n,n", batched=2, overwrites=("a", "b"), **TAKEN),
    Op(name="liger_swiglu", torch=ops.LigerSiLUMulFunction.apply, formula=lambda a, b: a / (1 + np.exp(-a)) * b, axes="n,n", batched=2, overwrites=("a", "b"), **TAKEN),
    Op(name="liger_relu_squared", torch=ops.LigerReLUSquaredFunction.apply, formula=lambda x: np.maximum(x, 0) ** 2, axes="n", **TAKEN),
    Op(
        name="liger_kl_div", torch="tests.kernels.strangers.liger_kl_div", domain={"target": Interval(0, 1)},
        formula=lambda x, target: np.sum(target * (np.log(target) - x)) / len(x), **ROWS, **TAKEN,
    ),
    Op(name="liger_tvd", torch="tests.kernels.strangers.liger_tvd", formula=lambda x, target: np.sum(np.abs(x - target)) / 2 / len(x), **ROWS, **TAKEN),
    Op(
        name="liger_rope", torch="tests.kernels.strangers.liger_rope", contexts={"cos": angles(np.cos), "sin": angles(np.sin)},
        formula=lambda query, key, cos, sin: (query * cos[:, None] + turned(query) * sin[:, None], key * cos[:, None] + turned(key) * sin[:, None]),
        shapes=(((2, 2, 3, 4), (2, 1, 3, 4)), ((1, 4, 5, 8), (1, 2, 5, 8)), ((1, 1, 2, 2), (1, 1, 2, 2))), batched=0, overwrites=("query", "key"), **TAKEN,
    ),
    Op(
        name="fla_cross_entropy", torch="tests.kernels.strangers.fla_cross_entropy", formula=cross_entropy,
        contexts={"labels": lambda shapes, random: labels([shapes[0], shapes[0][::-1]], random)},
        axes="mn", sizes={"m": 8, "n": 1000}, batched=0, **TAKEN,
    ),
    Op(name="fla_linear_cross_entropy", torch="tests.kernels.strangers.fla_linear_cross_entropy", **LOSS | {"inside": "format"}, **TAKEN),
    Op(
        name="fla_attention", torch="tests.kernels.strangers.fla_attention", formula=causal,
        shapes=(((1, 5, 2, 16),) * 3, ((2, 33, 1, 16),) * 3), batched=0, **TAKEN,
    ),
)
