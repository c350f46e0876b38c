"""Attention with a mask and grouped heads as Triton kernels, which never hold all scores at once."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

BLOCK = 32
"""Queries of a block, and keys of one; an arbitrary number."""


@triton.jit
def _load(ptr, row, rows, width, WIDTH: tl.constexpr):
    """Load rows of a matrix, in float32, and zeros beyond its end."""
    column = tl.arange(0, WIDTH)
    # In 64 bits: the number of an element of a large matrix overflows 32.
    place = row[:, None].to(tl.int64) * width + column[None, :]
    return tl.load(ptr + place, (row < rows)[:, None] & (column < width)[None, :], 0).to(tl.float32)


@triton.jit
def _store(ptr, values, row, rows, width, WIDTH: tl.constexpr):
    """Store rows of a matrix, but for what is beyond its end."""
    column = tl.arange(0, WIDTH)
    place = row[:, None].to(tl.int64) * width + column[None, :]
    tl.store(ptr + place, values, (row < rows)[:, None] & (column < width)[None, :])


@triton.jit
def _dot(a, b, like_ptr, ROUNDS: tl.constexpr):
    """Multiply in float32, or what is rounded to the inputs' format, and add up in float32."""
    if ROUNDS:
        a, b = a.to(like_ptr.dtype.element_ty), b.to(like_ptr.dtype.element_ty)
    return tl.dot(a, b, input_precision="ieee")  # tensor cores would round factors in float32 to 10 bits


@triton.jit
def _scores(q, k, like_ptr, mask_ptr, query, key, queries, keys, scale, ROUNDS: tl.constexpr):
    """Return the scores of a block, -inf where the mask hides the key."""
    place = query[:, None].to(tl.int64) * keys + key[None, :]
    seen = tl.load(mask_ptr + place, (query < queries)[:, None] & (key < keys)[None, :], 0)
    return tl.where(seen != 0, _dot(q, tl.trans(k), like_ptr, ROUNDS) * scale, -float("inf"))


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, mask_ptr, output_ptr, normaliser_ptr,
    group, queries, keys, width, scale, BLOCK: tl.constexpr, WIDTH: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Attend with a block of queries of one head, key block by key block."""
    head = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q = _load(q_ptr + head * queries * width, query, queries, width, WIDTH)
    kv = head // group * keys * width  # a group of query heads shares the keys and values of one key head
    largest, total = tl.full([BLOCK], -float("inf"), tl.float32), tl.zeros([BLOCK], tl.float32)
    output = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, keys, BLOCK):
        key = start + tl.arange(0, BLOCK)
        k = _load(k_ptr + kv, key, keys, width, WIDTH)
        v = _load(v_ptr + kv, key, keys, width, WIDTH)
        scores = _scores(q, k, q_ptr, mask_ptr, query, key, queries, keys, scale, ROUNDS)
        largest_now = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(largest_now == -float("inf"), 0.0, largest_now)  # of a query that saw no key yet
        # What was added up so far was relative to the largest score then, and decays to the one now.
        weights, decay = tl.exp(scores - shift[:, None]), tl.exp(largest - shift)
        total = total * decay + tl.sum(weights, 1)
        # Not of rounded weights: what the backward takes off the gradient by the scores comes from this.
        output = output * decay[:, None] + _dot(weights, v, q_ptr, ROUNDS=False)
        largest = largest_now
    # The backward makes the weights anew as exp(score - normaliser); of a query that sees no key all of them are 0.
    sees_none = total == 0
    total = tl.where(sees_none, 1.0, total)
    _store(output_ptr + head * queries * width, output / total[:, None], query, queries, width, WIDTH)
    normaliser = tl.where(sees_none, 0.0, largest) + tl.log(total)
    tl.store(normaliser_ptr + head * queries + query, normaliser, query < queries)


@triton.jit
def _by_scores(scores, given, v, like_ptr, normaliser, inner, ROUNDS: tl.constexpr):
    """Make the weights of a block anew; return them, and the gradient by its scores."""
    weights = tl.exp(scores - normaliser[:, None])
    return weights, weights * (_dot(given, tl.trans(v), like_ptr, ROUNDS) - inner[:, None])


@triton.jit
def _by_query(
    q_ptr, k_ptr, v_ptr, mask_ptr, normaliser_ptr, given_ptr, inner_ptr, by_q_ptr,
    group, queries, keys, width, scale, BLOCK: tl.constexpr, WIDTH: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Differentiate by a block of queries of one head."""
    head = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q = _load(q_ptr + head * queries * width, query, queries, width, WIDTH)
    given = _load(given_ptr + head * queries * width, query, queries, width, WIDTH)
    normaliser = tl.load(normaliser_ptr + head * queries + query, query < queries, 0)
    inner = tl.load(inner_ptr + head * queries + query, query < queries, 0)
    kv = head // group * keys * width
    by_q = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, keys, BLOCK):
        key = start + tl.arange(0, BLOCK)
        k = _load(k_ptr + kv, key, keys, width, WIDTH)
        v = _load(v_ptr + kv, key, keys, width, WIDTH)
        scores = _scores(q, k, q_ptr, mask_ptr, query, key, queries, keys, scale, ROUNDS)
        _, by_scores = _by_scores(scores, given, v, q_ptr, normaliser, inner, ROUNDS)
        by_q += _dot(by_scores, k, q_ptr, ROUNDS)
    _store(by_q_ptr + head * queries * width, by_q * scale, query, queries, width, WIDTH)


@triton.jit
def _by_key(
    q_ptr, k_ptr, v_ptr, mask_ptr, normaliser_ptr, given_ptr, inner_ptr, by_k_ptr, by_v_ptr,
    group, queries, keys, width, scale, BLOCK: tl.constexpr, WIDTH: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """Differentiate by a block of keys and values of one key head, which serves a group of query heads."""
    kv = tl.program_id(1).to(tl.int64) * keys * width
    key = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = _load(k_ptr + kv, key, keys, width, WIDTH)
    v = _load(v_ptr + kv, key, keys, width, WIDTH)
    by_k, by_v = tl.zeros([BLOCK, WIDTH], tl.float32), tl.zeros([BLOCK, WIDTH], tl.float32)
    for member in range(group):
        head = tl.program_id(1).to(tl.int64) * group + member
        for start in range(0, queries, BLOCK):
            query = start + tl.arange(0, BLOCK)
            q = _load(q_ptr + head * queries * width, query, queries, width, WIDTH)
            given = _load(given_ptr + head * queries * width, query, queries, width, WIDTH)
            normaliser = tl.load(normaliser_ptr + head * queries + query, query < queries, 0)
            inner = tl.load(inner_ptr + head * queries + query, query < queries, 0)
            scores = _scores(q, k, q_ptr, mask_ptr, query, key, queries, keys, scale, ROUNDS)
            weights, by_scores = _by_scores(scores, given, v, q_ptr, normaliser, inner, ROUNDS)
            by_v += _dot(tl.trans(weights), given, q_ptr, ROUNDS)
            by_k += _dot(tl.trans(by_scores), q, q_ptr, ROUNDS)
    _store(by_k_ptr + kv, by_k * scale, key, keys, width, WIDTH)
    _store(by_v_ptr + kv, by_v, key, keys, width, WIDTH)


class Attention(torch.autograd.Function):
    """Attention with a mask and grouped heads, in float32 inside."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor,
        rounds: bool = False,  # noqa: FBT001, FBT002 - autograd.Function takes arguments by position
    ) -> torch.Tensor:  # fmt: skip
        """Take queries (..., g, h, m, d), keys and values (..., g, n, d) and a mask (m, n), true for what is seen.

        With `rounds` the backward rounds the weights and the gradient by the scores before it multiplies them.
        """
        if query.dtype.itemsize > 4:
            message = f"query is {query.dtype}; accepted: float32, bfloat16 and float16"
            raise TypeError(message)
        *batch, group, queries, width = query.shape
        keys = key.shape[-2]
        sizes = (group, queries, keys, width, 1 / math.sqrt(width))
        wide = max(triton.next_power_of_2(width), 16)  # what tl.dot takes at least
        block = {"BLOCK": BLOCK, "WIDTH": wide, "ROUNDS": rounds}
        q, k, v, seen = query.contiguous(), key.contiguous(), value.contiguous(), mask.to(torch.int8).contiguous()
        output, normaliser = torch.empty_like(q, dtype=torch.float32), q.new_empty(q.shape[:-1], dtype=torch.float32)
        grid = triton.cdiv(queries, BLOCK), math.prod(batch) * group
        _forward[grid](q, k, v, seen, output, normaliser, *sizes, **block)
        ctx.save_for_backward(q, k, v, seen, output, normaliser)
        ctx.sizes, ctx.block, ctx.grid = sizes, block, grid
        return output.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients by the queries, by the keys and by the values."""
        q, k, v, seen, output, normaliser = ctx.saved_tensors
        given = cotangent.contiguous()
        inner = (output * given).sum(-1)  # of the output in float32: what was returned is rounded
        by_q, by_k, by_v = map(torch.empty_like, (q, k, v))
        shared = (q, k, v, seen, normaliser, given, inner)
        _by_query[ctx.grid](*shared, by_q, *ctx.sizes, **ctx.block)
        _by_key[triton.cdiv(k.shape[-2], BLOCK), math.prod(k.shape[:-2])](*shared, by_k, by_v, *ctx.sizes, **ctx.block)
        return by_q, by_k, by_v, None, None


def for_tensor_cores(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> Any:
    """Attend so that every product of the backward is one in the inputs' format, which tensor cores take."""
    return Attention.apply(query, key, value, mask, True)  # noqa: FBT003 - what autograd.Function takes by position
