"""A fused linear and cross entropy with ignored labels, its rows as a Triton kernel."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from tests.kernels import plain
from tests.kernels.formulas import IGNORED

CHUNK = 32
"""Rows whose logits are there at once."""

BLOCK = 1024
"""Words of a block, at most."""


@triton.jit
def _rows(logits_ptr, labels_ptr, loss_ptr, count_ptr, words, ignored, BLOCK: tl.constexpr):
    """Take the loss of a row, and write the gradient by its logits where they were."""
    row_ptr = logits_ptr + tl.program_id(0).to(tl.int64) * words
    label = tl.load(labels_ptr + tl.program_id(0))
    largest, total = -float("inf"), 0.0
    # The sum of exponentials is relative to the largest logit so far, which each block may raise.
    for start in range(0, words, BLOCK):
        word = start + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + word, word < words, -float("inf"))
        new = tl.maximum(largest, tl.max(logits, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(logits - new), 0)
        largest = new
    counts = label != ignored
    # Before any gradient is written over the logits.
    at_label = tl.load(row_ptr + label, counts, 0)
    tl.store(loss_ptr + tl.program_id(0), tl.where(counts, tl.log(total) + largest - at_label, 0))
    share = tl.where(counts, 1.0, 0.0) / tl.load(count_ptr)
    for start in range(0, words, BLOCK):
        word = start + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + word, word < words, -float("inf"))
        off = tl.exp(logits - largest) / total - tl.where(word == label, 1.0, 0.0)
        tl.store(row_ptr + word, off * share, word < words)


class LinearCrossEntropy(plain.LinearCrossEntropy):
    """The same as in plain torch, with the gradients by the logits of a chunk from the kernel; its backward is that."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take rows (m, k), weights (n, k) and labels (m), of which -100 has no loss; return a scalar."""
        if x.dtype.itemsize > 4:
            message = f"x is {x.dtype}; accepted: float32, bfloat16 and float16"
            raise TypeError(message)
        rows, matrix = x.float(), weight.float()
        count = (labels != IGNORED).sum().clamp(min=1)
        losses, block = rows.new_empty(len(rows)), min(triton.next_power_of_2(len(weight)), BLOCK)
        by_x, by_weight = torch.empty_like(rows), torch.zeros_like(matrix)
        for chunk in map(slice, range(0, len(rows), CHUNK), range(CHUNK, len(rows) + CHUNK, CHUNK)):
            logits = rows[chunk] @ matrix.T
            _rows[(len(logits),)](
                logits, labels[chunk].contiguous(), losses[chunk], count, len(weight), IGNORED, BLOCK=block
            )
            by_x[chunk] = logits @ matrix
            by_weight += logits.T @ rows[chunk]
        ctx.save_for_backward(by_x, by_weight)
        ctx.dtypes = x.dtype, weight.dtype
        return (losses.sum() / count).to(x.dtype)
