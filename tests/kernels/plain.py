"""The kernels in plain torch: assay them with ``--catalogue tests/kernels/plain.py``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from reference.op import Op
from tests.kernels.formulas import ATTENTION, EPSILON, IGNORED, LOSS, NORM


def widened(x: torch.Tensor) -> torch.Tensor:
    """Return 16-bit values in float32, and others as they are."""
    return x.float() if x.dtype.itemsize < 4 else x


class RmsNorm(torch.autograd.Function):
    """Divide rows by the root of their mean square, in float32 inside."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis of `x`, of any rank; `weight` has its length."""
        wide = widened(x)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale * weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients by `x` and by `weight`."""
        x, weight, scale = ctx.saved_tensors
        normal, given = widened(x) * scale, widened(cotangent)
        inner = given * weight
        by_x = scale * (inner - normal * (inner * normal).mean(-1, keepdim=True))
        by_weight = (given * normal).reshape(-1, x.shape[-1]).sum(0)
        return by_x.to(x.dtype), by_weight.to(weight.dtype)


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of ``x @ weight.T``, in chunks of rows, so that not all logits are there at once."""

    CHUNK = 32
    """Rows of a chunk."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take rows (m, k), weights (n, k) and labels (m), of which -100 has no loss; return a scalar."""
        wide = widened(weight)
        counts = labels != IGNORED
        count = counts.sum().clamp(min=1)
        # The gradients are taken here, while a chunk has its logits: the backward only scales them.
        by_x, by_weight, loss = torch.zeros_like(widened(x)), torch.zeros_like(wide), wide.new_zeros(())
        for start in range(0, len(x), LinearCrossEntropy.CHUNK):
            chunk = slice(start, start + LinearCrossEntropy.CHUNK)
            rows, kept = widened(x[chunk]), counts[chunk, None]
            log_p = torch.log_softmax(rows @ wide.T, -1)
            place = labels[chunk, None].where(kept, 0)
            loss -= (log_p.gather(-1, place) * kept).sum()
            by_logits = log_p.exp().scatter_add(-1, place, -log_p.new_ones(place.shape)) * kept / count
            by_x[chunk] = by_logits @ wide
            by_weight += by_logits.T @ rows
        ctx.save_for_backward(by_x, by_weight)
        ctx.dtypes = x.dtype, weight.dtype
        return (loss / count).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients by the rows and by the weights, kept in float32 since they are rounded but once."""
        by_x, by_weight = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        return (by_x * cotangent).to(x_dtype), (by_weight * cotangent).to(weight_dtype), None


class Attention(torch.autograd.Function):
    """Attention with a mask and grouped heads, in float32 inside."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Take queries (..., g, h, m, d), keys and values (..., g, n, d) and a mask (m, n), true for what is seen."""
        q, k, v = widened(query), widened(key)[..., None, :, :], widened(value)[..., None, :, :]
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
        weights = torch.softmax(scores, -1).where(mask, 0)  # softmax of a row that sees nothing is NaN
        ctx.save_for_backward(query, key, value, weights)
        return (weights @ v).to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Return the gradients by the queries, by the keys and by the values."""
        query, key, value, weights = ctx.saved_tensors
        q, k, v = widened(query), widened(key)[..., None, :, :], widened(value)[..., None, :, :]
        given = widened(cotangent)
        by_weights = given @ v.mT
        by_scores = weights * (by_weights - (weights * by_weights).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
        by_key = (by_scores.mT @ q).sum(-3)  # a key head serves all query heads of its group
        by_value = (weights.mT @ given).sum(-3)
        return (by_scores @ k).to(query.dtype), by_key.to(key.dtype), by_value.to(value.dtype), None


OPS = (
    Op(name="plain_rms_norm", torch="tests.kernels.plain.RmsNorm.apply", **NORM),
    Op(name="plain_linear_cross_entropy", torch="tests.kernels.plain.LinearCrossEntropy.apply", **LOSS),
    Op(name="plain_attention", torch="tests.kernels.plain.Attention.apply", **ATTENTION),
)
