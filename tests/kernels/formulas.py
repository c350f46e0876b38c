"""What the kernels compute, in plain numpy, and the tensors that they take without a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from reference.trace import shift

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.graph import Shape

EPSILON = 2.0**-16
"""What rms_norm adds to the mean of squares; it is exact in every format."""

IGNORED = -100
"""The label of a row that has no loss."""


def rms_norm(x: Any, weight: Any) -> Any:
    """Divide by the root of the mean square of each row."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean of minus the log-softmax at the label, over the rows that have one."""
    largest = shift(logits)  # no exponential overflows, and its derivative is known to cancel
    normaliser = np.log(np.sum(np.exp(logits - largest), axis=-1)) + largest[:, 0]
    counts = labels != IGNORED
    at_label = logits[np.arange(len(labels)), np.where(counts, labels, 0)]
    return np.sum((normaliser - at_label) * counts) / max(np.sum(counts), 1)


def linear_cross_entropy(x: Any, weight: Any, labels: Any) -> Any:
    """Return the mean cross entropy of the logits ``x @ weight.T``."""
    return cross_entropy(x @ weight.T, labels)


def attention(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """Attend to the keys that the mask shows; a query that sees none gets 0.

    The last axes of a query are (key head, query head of it, place, feature), of a key and a value (key head, place,
    feature); a batch is in front of them.
    """
    scores = query @ key[..., None, :, :].swapaxes(-2, -1) / sympy.sqrt(query.shape[-1])
    weights = np.exp(scores - shift(scores)) * mask
    sees_none = ~np.any(mask, axis=-1, keepdims=True)
    # Where a query sees none, 0 is divided by 1.
    return weights / (np.sum(weights, axis=-1, keepdims=True) + sees_none) @ value[..., None, :, :]


def labels(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Draw a label for each row; about every third is ignored."""
    (rows, _), (words, _) = shapes
    return np.where(random.random(rows) < 1 / 3, IGNORED, random.integers(0, words, rows))


def mask(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Show about half of the keys to each query, and none to about every eighth."""
    queries, keys = shapes[0][-2], shapes[1][-2]
    return (random.random((queries, keys)) < 1 / 2) & (random.random((queries, 1)) >= 1 / 8)


NORM: dict[str, Any] = {"formula": rms_norm, "axes": "n,n", "sizes": {"n": 4096}, "inside": "wide"}

LOSS: dict[str, Any] = {
    "formula": linear_cross_entropy,
    "contexts": {"labels": labels},
    "axes": "mk,nk",
    "sizes": {"m": 64, "k": 32, "n": 1000},
    "batched": 0,
    "inside": "wide",
}

ATTENTION: dict[str, Any] = {
    "formula": attention,
    "contexts": {"mask": mask},
    "axes": "ghmd,gnd,gnd",
    "sizes": {"g": 2, "h": 2, "m": 80, "n": 96, "d": 32},
    "shapes": tuple(
        ((g, h, m, d), (g, n, d), (g, n, d)) for g, h, m, n, d in [(1, 2, 3, 4, 2), (2, 1, 1, 5, 3), (2, 3, 33, 17, 8)]
    ),
    "batched": 3,
    "inside": "wide",
}
"""The fields of each entry, but for the name and the callable, which plain torch and Triton do not share."""


def batched(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """Put a batch of two in front of each shape."""
    return tuple((2, *shape) for shape in shapes)


BATCHED_ATTENTION = ATTENTION | {
    "axes": "bghmd,bgnd,bgnd",
    "sizes": ATTENTION["sizes"] | {"b": 2},
    "shapes": tuple(map(batched, ATTENTION["shapes"])),
    "batched": 0,
}
"""Attention with an axis of its own for the batch: Triton's interpreter would take long at batches of 4,099."""
