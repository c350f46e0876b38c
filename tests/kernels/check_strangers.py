"""What docs/kernels.md says of other people's kernels, in plain torch: once one is mended, its test fails."""

from __future__ import annotations

import torch
from liger_kernel.ops import LigerCrossEntropyFunction, LigerFusedLinearCrossEntropyFunction

LABELS = torch.tensor([1, 0, 2])


def drawn(*shape: int) -> torch.Tensor:
    """Return the same values each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_liger_cross_entropy_gives_transposed_logits_back() -> None:
    """The gradient by logits that lie transposed in memory is the logits; by the same ones in order it is right."""
    logits = drawn(4, 3).T.requires_grad_()
    LigerCrossEntropyFunction.apply(logits, LABELS, None)[0].backward()
    torch.testing.assert_close(logits.grad, logits.detach(), rtol=0, atol=0)
    in_order = drawn(4, 3).T.contiguous().requires_grad_()
    due = torch.autograd.grad(torch.nn.functional.cross_entropy(in_order, LABELS), in_order)[0]
    LigerCrossEntropyFunction.apply(in_order, LABELS, None)[0].backward()
    torch.testing.assert_close(in_order.grad, due)


def test_liger_fused_linear_cross_entropy_has_no_gradient_by_the_weight_alone() -> None:
    """Where the input requires no gradient the weight gets none; where both do, both are right."""
    x, weight = drawn(3, 5), drawn(4, 5).requires_grad_()
    loss = LigerFusedLinearCrossEntropyFunction.apply(x, weight, LABELS)[0]
    assert loss.requires_grad
    loss.backward()
    assert weight.grad is None
    due = torch.autograd.grad(torch.nn.functional.cross_entropy(x @ weight.T, LABELS), weight)[0]
    LigerFusedLinearCrossEntropyFunction.apply(x.requires_grad_(), weight, LABELS)[0].backward()
    torch.testing.assert_close(weight.grad, due)
