"""Root mean square normalisation as a Triton kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from tests.kernels.formulas import EPSILON

TILE = 1024
"""Elements of a tile, which has as many whole rows as fit, and at least one."""


def programs(device: torch.device) -> int:
    """Return how many programs share the tiles of the backward: one for each multiprocessor."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 8


@triton.jit
def _forward(x_ptr, weight_ptr, y_ptr, scale_ptr, rows, columns, epsilon, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Normalise a tile of whole rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    place = row[:, None].to(tl.int64) * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = tl.load(x_ptr + place, inside, 0).to(tl.float32)
    weight = tl.load(weight_ptr + column, column < columns, 0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1) / columns + epsilon)
    tl.store(y_ptr + place, x * scale[:, None] * weight[None, :], inside)
    tl.store(scale_ptr + row, scale, row < rows)


@triton.jit
def _backward(
    x_ptr, weight_ptr, scale_ptr, given_ptr, by_x_ptr, partial_ptr,
    rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Differentiate tile by tile, and sum up what the tiles of this program give for the weight."""
    column = tl.arange(0, COLUMNS)
    weight = tl.load(weight_ptr + column, column < columns, 0).to(tl.float32)
    by_weight = tl.zeros([COLUMNS], tl.float32)
    # Few programs walk through many tiles, so that few partial sums are left to add up.
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tile * ROWS + tl.arange(0, ROWS)
        place = row[:, None].to(tl.int64) * columns + column[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        x = tl.load(x_ptr + place, inside, 0).to(tl.float32)
        given = tl.load(given_ptr + place, inside, 0).to(tl.float32)
        scale = tl.load(scale_ptr + row, row < rows, 0)[:, None]
        normal, inner = x * scale, given * weight[None, :]
        mean = tl.sum(inner * normal, 1)[:, None] / columns
        tl.store(by_x_ptr + place, scale * (inner - normal * mean), inside)
        by_weight += tl.sum(given * normal, 0)
    tl.store(partial_ptr + tl.program_id(0) * columns + column, by_weight, column < columns)


class RmsNorm(torch.autograd.Function):
    """Divide rows by the root of their mean square, in float32 inside."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis of `x`, of any rank; `weight` has its length."""
        if x.dtype.itemsize > 4:
            message = f"x is {x.dtype}; accepted: float32, bfloat16 and float16"
            raise TypeError(message)
        x, weight = x.contiguous(), weight.contiguous()
        columns = x.shape[-1]
        rows = x.numel() // columns
        block = {"COLUMNS": triton.next_power_of_2(columns)}
        block["ROWS"] = min(max(TILE // block["COLUMNS"], 1), triton.next_power_of_2(max(rows, 1)))
        y, scale = torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
        _forward[(triton.cdiv(rows, block["ROWS"]),)](x, weight, y, scale, rows, columns, EPSILON, **block)
        ctx.save_for_backward(x, weight, scale)
        ctx.block = block
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients by `x` and by `weight`."""
        x, weight, scale = ctx.saved_tensors
        rows, columns = len(scale), x.shape[-1]
        count = min(programs(x.device), triton.cdiv(rows, ctx.block["ROWS"]))
        by_x, partial = torch.empty_like(x), x.new_empty(count, columns, dtype=torch.float32)
        _backward[(count,)](x, weight, scale, cotangent.contiguous(), by_x, partial, rows, columns, **ctx.block)
        return by_x, partial.sum(0).to(weight.dtype)
