"""Backwards as kernels have them: numpy in float32, with a switch for each term that one may forget.

Sums are taken by a `Total`, so that a kernel accumulates as it is told to. Nothing here asks the oracle, which derives
its gradients from the formulas: what both got wrong could not be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]

Total = Callable[[Array, int], Array]
"""Returns the sum along an axis of an array, where the axis is kept with length 1."""

EPSILON = np.float32(1e-5)
"""What layer_norm and rms_norm add to a mean of squares."""

SKIPPED = slice(128, 256)
"""The block of 128 that a loop over blocks skips, neither the first nor the last."""

TAIL = slice(-6, None)
"""The columns at the end that a loop over whole vectors leaves out."""

LAST = slice(-1, None)

TILE = 64
"""The rows that a program takes at a time: of each such tile one row is lost."""


@dataclass(frozen=True)
class Given:
    """What a backward is given: the inputs, as the forward had them, and the cotangent of its output."""

    inputs: tuple[Array, ...]
    cotangent: Array
    context: Mapping[str, Any]
    """The tensors that are not differentiated, such as targets, by the name of torch's argument."""


Kernel = Callable[[Given], list[Array]]
"""Returns the gradient by each input, in float32: it is rounded to the format afterwards."""


def in_order(terms: Array, axis: int) -> Array:
    """Add one after the other, each sum in float32."""
    return np.add.accumulate(terms, axis=axis, dtype=np.float32).take([-1], axis=axis)


def pairwise(terms: Array, axis: int) -> Array:
    """Add in pairs, and the sums in pairs, each in float32."""
    sums = np.moveaxis(terms, axis, 0)
    while len(sums) > 1:  # of an odd number the last one waits for the next round
        half = len(sums) // 2
        sums = np.concatenate([sums[:half] + sums[half : 2 * half], sums[2 * half :]])
    return np.moveaxis(sums, 0, axis)


def in_bfloat16(terms: Array, axis: int) -> Array:
    """Add one after the other, with each term and each sum rounded to bfloat16."""
    rows = torch.tensor(np.moveaxis(terms, axis, 0)).bfloat16()
    result = torch.zeros_like(rows[:1])
    for row in rows:
        result += row
    return np.moveaxis(result.float().numpy(), 0, axis)


def in_order_without(dropped: slice) -> Total:
    """Return a sum in order that leaves some terms out."""
    return lambda terms, axis: in_order(np.delete(terms, dropped, axis), axis)


def in_order_without_last_of_tiles(terms: Array, axis: int) -> Array:
    """Add in order, but drop the last of every 64 terms."""
    return in_order(np.delete(terms, np.s_[TILE - 1 :: TILE], axis), axis)


def to_bfloat16(values: Array) -> Array:
    """Round to bfloat16."""
    result: Array = torch.tensor(np.ascontiguousarray(values)).bfloat16().float().numpy()
    return result


def softmax(
    given: Given,
    total: Total = in_order,
    inner: Total | None = None,
    *,
    has_sum: bool = True,
    from_output: bool = False,
) -> list[Array]:
    """Differentiate softmax along the last axis: p (c - Σ p c), where c is the cotangent.

    `inner` takes the sum in that term, and `total` all others; without `inner` it takes that one too. With
    `from_output`, p is what the forward pass returned, rounded to bfloat16.
    """
    (x,) = given.inputs
    p = probabilities(x, total)
    if from_output:
        p = to_bfloat16(p)
    weighted = p * given.cotangent
    return [weighted - p * (inner or total)(weighted, -1) if has_sum else weighted]


def probabilities(x: Array, total: Total) -> Array:
    """Return the softmax of the last axis."""
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / total(exponentials, -1)


def cross_entropy(given: Given, total: Total = in_order, *, only_target: bool = False) -> list[Array]:
    """Differentiate the mean cross entropy of logits (m, n): softmax less 1 at the target, over the number of rows."""
    (x,) = given.inputs
    at_target = np.zeros_like(x)
    at_target[np.arange(len(x)), given.context["target"]] = 1
    off = probabilities(x, total) - at_target
    return [(off * at_target if only_target else off) * (given.cotangent / np.float32(len(x)))]


def layer_norm(
    given: Given,
    total: Total = in_order,
    over_rows: Total | None = None,
    *,
    has_mean: bool = True,
    has_variance: bool = True,
) -> list[Array]:
    """Differentiate layer_norm by input (m, n), weight (n) and bias (n).

    `over_rows` takes the sums over rows, for weight and bias, and `total` all others, or without it those too.
    """
    x, weight, _ = given.inputs
    length = np.float32(x.shape[-1])
    deviation = x - total(x, -1) / length
    scale = 1 / np.sqrt(total(deviation * deviation, -1) / length + EPSILON)
    normal, cotangent = deviation * scale, given.cotangent * weight
    inside = cotangent
    if has_mean:
        inside = inside - total(cotangent, -1) / length
    if has_variance:
        inside = inside - normal * (total(cotangent * normal, -1) / length)
    rows = over_rows or total
    return [scale * inside, rows(given.cotangent * normal, 0)[0], rows(given.cotangent, 0)[0]]


def rms_norm(given: Given, total: Total = in_order, over_rows: Total | None = None) -> list[Array]:
    """Differentiate rms_norm by input (m, n) and weight (n), with sums as in `layer_norm`."""
    x, weight = given.inputs
    length = np.float32(x.shape[-1])
    scale = 1 / np.sqrt(total(x * x, -1) / length + EPSILON)
    normal, cotangent = x * scale, given.cotangent * weight
    inside = cotangent - normal * (total(cotangent * normal, -1) / length)
    return [scale * inside, (over_rows or total)(given.cotangent * normal, 0)[0]]


def embedding(given: Given, total: Total = in_order, *, has_races: bool = False) -> list[Array]:
    """Differentiate embedding by its table (v, d): each row is the sum of the cotangents of its token.

    With races, of the occurrences of a token among 64 tokens only the last counts, as where a program adds without
    atomics.
    """
    (table,), tokens, rows = given.inputs, given.context["input"], given.cotangent
    if has_races:
        tiles = np.arange(len(tokens)) // TILE
        # Backwards, since `unique` returns the first index of each pair and the last one is meant.
        pairs = np.stack([tiles, tokens], axis=1)[::-1]
        keep = len(tokens) - 1 - np.unique(pairs, axis=0, return_index=True)[1]
        tokens, rows = tokens[keep], rows[keep]
    result = np.zeros_like(table)
    for token in np.unique(tokens):
        result[token] = total(rows[tokens == token], 0)[0]
    return [result]


def attention(
    given: Given,
    total: Total = in_order,
    *,
    is_masked: bool = True,
    knows_batch: bool = True,
    has_sum: bool = True,
    multiplies_bfloat16: bool = False,
) -> list[Array]:
    """Differentiate causal attention by query, key and value, each (b, n, d), recomputing the probabilities p.

    Unless `is_masked`, p is recomputed as though there were no mask, though with the normaliser of the forward, which
    knew it. Unless `knows_batch`, the sums Σ p c of the first batch are taken for every batch. With
    `multiplies_bfloat16`, operands of the last products are rounded, as tensor cores take them.
    """
    query, key, value = given.inputs
    scale = np.float32(1 / np.sqrt(query.shape[-1]))
    scores = products(query, key, total) * scale
    mask = np.tril(np.ones(scores.shape[-2:], dtype=bool))
    # As the forward has it, of what the mask shows: what it hides may be larger.
    largest = scores.max(-1, keepdims=True, where=mask, initial=-np.inf)
    exponentials = np.exp(scores - largest)
    masked = exponentials * mask
    normaliser = total(masked, -1)
    p = (masked if is_masked else exponentials) / normaliser
    of_p = products(given.cotangent, value, total)
    sums = total(p * of_p, -1) if has_sum else np.zeros_like(normaliser)
    of_scores = p * (of_p - (sums if knows_batch else sums[:1])) * scale
    if multiplies_bfloat16:
        p, of_scores = to_bfloat16(p), to_bfloat16(of_scores)
    turned = of_scores.swapaxes(-1, -2)
    return [
        products(of_scores, key.swapaxes(-1, -2), total),
        products(turned, query.swapaxes(-1, -2), total),
        products(p.swapaxes(-1, -2), given.cotangent.swapaxes(-1, -2), total),
    ]


def products(left: Array, right: Array, total: Total) -> Array:
    """Multiply matrices (..., m, k) and (..., n, k), the second transposed, by sums over k that are taken as told."""
    # Column by column: all terms at once would be m n k numbers.
    return np.stack([total(left * row[..., None, :], -1)[..., 0] for row in np.moveaxis(right, -2, 0)], axis=-1)


def times(kernel: Kernel, factor: float) -> Kernel:
    """Return a kernel whose gradients are too large by a factor."""
    return lambda given: [gradient * np.float32(factor) for gradient in kernel(given)]


def unwritten(kernel: Kernel, columns: slice) -> Kernel:
    """Return a kernel that leaves some columns of its first gradient at zero."""

    def left(given: Given) -> list[Array]:
        first, *rest = kernel(given)
        first[..., columns] = 0
        return [first, *rest]

    return left


def reading_as_contiguous(kernel: Kernel) -> Kernel:
    """Return a kernel that reads a cotangent which lies transposed in memory as though it were contiguous."""

    def misread(given: Given) -> list[Array]:
        memory = np.ascontiguousarray(given.cotangent.swapaxes(0, -1))
        return kernel(replace(given, cotangent=memory.reshape(given.cotangent.shape)))

    return misread
