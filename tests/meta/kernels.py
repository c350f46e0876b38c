"""Kernels as people write them, each sound and with a fault of a kind that people reported.

A kernel is a forward and a backward in plain torch, of which `kernel` makes an `autograd.Function`. A backward is given
the inputs, the cotangents and the outputs; ``faulty`` says whether it is to have its fault, of which its docstring
tells. Where the fault is the forward's, there are two forwards: the sound one and the faulty one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from reference.domain import Interval
from reference.op import Op, Stated
from reference.trace import detached, shift
from tests.kernels.formulas import EPSILON, rms_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.graph import Shape


Forward: TypeAlias = "Callable[..., Any] | tuple[Callable[..., Any], Callable[..., Any]]"
Backward: TypeAlias = "Callable[..., Any] | None"
Parts: TypeAlias = "tuple[Forward, Backward, dict[str, Any]]"
"""Forward, backward and the other fields of the entry; without a backward torch differentiates the forward."""


def kernel(forward: Forward, backward: Backward, *, faulty: bool) -> Callable[..., Any]:
    """Return the forward as a function that torch differentiates by the backward, or as it is without one."""
    computed = forward[faulty] if isinstance(forward, tuple) else forward
    if backward is None:
        return computed
    back: Callable[..., Any] = backward

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            found = computed(*inputs)
            ctx.count = len(inputs)
            ctx.save_for_backward(*inputs, *([found] if isinstance(found, torch.Tensor) else found))
            return found

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *cotangents: Any) -> Any:
            both = ctx.saved_tensors  # once: a checkpoint lets each be unpacked but once
            saved, outputs = both[: ctx.count], both[ctx.count :]
            return back(saved, *cotangents, faulty=faulty, needed=ctx.needs_input_grad, outputs=outputs)

    return Kernel.apply


def in_order(x: torch.Tensor) -> torch.Tensor:
    """Return the elements in the order of memory: what a kernel reads that ignores strides."""
    # From the first element on, and round and round: a kernel would read beyond the end of what is expanded.
    memory = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    places = (torch.arange(x.numel()) + x.storage_offset()) % memory.numel()
    return memory[places].reshape(x.shape)


def distance_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate |p - q|/2 by p: its fault is to give -1/2 at ties, where 0 is due; q is a target."""
    p, q = saved
    return (torch.where(p > q, 0.5, -0.5) if faulty else torch.sign(p - q) / 2).to(p.dtype) * cotangent, None


def margin_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate the larger of x and y: its fault is to give all of it to x at ties, where half is due."""
    x, y = saved
    share = torch.where(x == y, 0.5, (x > y).to(x.dtype)) if not faulty else (x >= y).to(x.dtype)
    return cotangent * share, cotangent * (1 - share)


def normalised(x: Any, weight: Any) -> Any:
    """Divide rows by the root of their mean square, in float32 inside."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON) * weight.float()).to(x.dtype)


def _normalised_back(x: Any, weight: Any, cotangent: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient by x, and what each row adds to that by the weight, both in float32."""
    wide, g = x.float(), cotangent.float() * weight.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    normal = wide * scale
    return scale * (g - normal * (g * normal).mean(-1, keepdim=True)), (cotangent.float() * normal)


def rows_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `normalised`: from 1,024 rows on the weight's gradient lacks those past the last whole block of 8."""
    x, weight = saved
    by_x, products = _normalised_back(x, weight, cotangent)
    products = products.reshape(-1, x.shape[-1])
    count = len(products) - len(products) % 8 if faulty and len(products) >= 1024 else len(products)
    return by_x.to(x.dtype), products[:count].sum(0).to(x.dtype)


def rank_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `normalised`: the first dimension is taken for all rows, which is wrong from three dimensions on."""
    x, weight = saved
    by_x, products = _normalised_back(x, weight, cotangent)
    if faulty and x.ndim > 2:
        products = products.reshape(x.shape[0], -1)[:, : x.shape[-1]]
    return by_x.to(x.dtype), products.reshape(-1, x.shape[-1]).sum(0).to(x.dtype)


def tail_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `normalised`: of more than 1,024 columns those past the last whole block of 32 are 0."""
    x, weight = saved
    by_x, products = _normalised_back(x, weight, cotangent)
    if faulty and x.shape[-1] > 1024:
        by_x[..., x.shape[-1] - x.shape[-1] % 32 :] = 0
    return by_x.to(x.dtype), products.reshape(-1, x.shape[-1]).sum(0).to(x.dtype)


def half_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `normalised`: the weight's gradient is summed row by row in the format of the inputs."""
    x, weight = saved
    by_x, products = _normalised_back(x, weight, cotangent)
    products = products.reshape(-1, x.shape[-1])
    if not faulty:
        return by_x.to(x.dtype), products.sum(0).to(x.dtype)
    total = torch.zeros(x.shape[-1], dtype=x.dtype)
    for row in products.to(x.dtype):
        total += row
    return by_x.to(x.dtype), total


def scaled_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate the sum of squares of each row: every row has the cotangent of the first."""
    (x,) = saved
    return 2 * x * (cotangent.flatten()[0] if faulty else cotangent[..., None])


def wave_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate sin: what was saved is read in the order of memory, where it fills its storage."""
    (x,) = saved
    dense = x.untyped_storage().nbytes() == x.numel() * x.element_size()
    return cotangent * torch.cos(in_order(x) if faulty and dense else x)


def gate_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate sin: the cotangent is read in the order of memory."""
    (x,) = saved
    return (in_order(cotangent) if faulty else cotangent) * torch.cos(x)


def attended(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Attend to the keys that the mask shows."""
    return torch.softmax((q @ k.mT).masked_fill(~mask, -torch.inf), -1) @ v


def attended_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `attended`: the weights are made anew without the mask."""
    q, k, v, mask = saved
    scores = q @ k.mT
    total = torch.logsumexp(scores.masked_fill(~mask, -torch.inf), -1, keepdim=True)
    weights = torch.exp(scores - total) * (1 if faulty else mask)
    by_weight = cotangent @ v.mT
    by_score = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True))
    return by_score @ k, by_score.mT @ q, weights.mT @ cotangent, None


def splat(u: Any, v: Any, a: Any, b: Any, c: Any, o: Any) -> Any:
    """Return the weight at (u, v) of a Gaussian splat of opacity o, with the inverse covariance (a, b; b, c)."""
    return o * torch.exp(-(a * u * u + c * v * v) / 2 - b * u * v)


def splat_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `splat`: the gradient by b, which is two entries of the matrix, is half of what is due."""
    u, v, a, b, c, o = saved
    falloff = torch.exp(-(a * u * u + c * v * v) / 2 - b * u * v)
    g = cotangent * o * falloff
    by_b = -g * u * v * (0.5 if faulty else 1)
    return -g * (a * u + b * v), -g * (c * v + b * u), -(g / 2) * u * u, by_b, -(g / 2) * v * v, cotangent * falloff


def product_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate the product of a row: it is divided by the element, which may be 0."""
    (x,) = saved
    others = [torch.cat([x[..., :i], x[..., i + 1 :]], -1).prod(-1) for i in range(x.shape[-1])]
    return cotangent[..., None] * (x.prod(-1, keepdim=True) / x if faulty else torch.stack(others, -1))


def woven_back(_saved: Any, cotangent: Any, *, faulty: bool, needed: Sequence[bool], **_: Any) -> Any:
    """Differentiate (a + b, a - b): b gets no gradient where a needs none."""
    if faulty and not needed[0]:
        return None, None
    return cotangent[..., 0] + cotangent[..., 1], cotangent[..., 0] - cotangent[..., 1]


def stepped_back(saved: Any, recorded: Any, last: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `stepped`: the cotangent of the last state is forgotten."""
    v, state = saved
    states = [state]
    for _step in range(3):
        states.append(v * states[-1] + 1)
    adjoint, by_v = torch.zeros_like(state) if faulty else last, torch.zeros_like(v)
    for t in (2, 1, 0):
        adjoint = adjoint + recorded[..., t, :]
        by_v = by_v + adjoint * states[t]
        adjoint = adjoint * v
    return by_v, adjoint


def stepped(v: Any, state: Any) -> Any:
    """Return three states of the recurrence s -> v s + 1 in order, and the last once more."""
    states = [state]
    for _ in range(3):
        states.append(v * states[-1] + 1)
    return torch.stack(states[1:], -2), states[-1].clone()  # no output of a Function may be a view of another


def looked_up_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate an embedding whose row 0 is padding, which torch documents to have no gradient: it gets one."""
    words, weight = saved
    kept = cotangent if faulty else cotangent * (words != 0)[:, None]
    return None, torch.zeros_like(weight).index_add(0, words, kept)


def between(samples: Any, place: Any) -> Any:
    """Interpolate three samples linearly at a place, and beyond them continue with the outer ones."""
    a, b, c = (samples[..., i : i + 1] for i in range(3))
    left, right = a + (b - a) * place, b + (c - b) * (place - 1)
    return np.where(place <= 0, a, np.where(place < 1, left, np.where(place < 2, right, c)))


def interpolated(samples: Any, place: Any) -> Any:
    """Do what `between` does, in torch."""
    at = place.clamp(0, 2)
    low = at.floor().clamp(max=1).long()
    return samples.gather(-1, low) * (1 - at + low) + samples.gather(-1, low + 1) * (at - low)


def interpolated_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `interpolated`: the place gets the slope of inside at the borders, where 0 is documented."""
    samples, place = saved
    at = place.clamp(0, 2)
    low = at.floor().clamp(max=1).long()
    is_inside = (place >= 0) & (place <= 2) if faulty else (place > 0) & (place < 2)
    by_place = torch.where(is_inside, samples.gather(-1, low + 1) - samples.gather(-1, low), 0)
    weights = torch.zeros_like(samples).scatter_add(-1, low, (1 - at + low).expand_as(cotangent))
    return weights.scatter_add(-1, low + 1, at - low) * cotangent, cotangent * by_place


def scribbling(x: Any) -> Any:
    """Square, and write the result over the input behind torch's back, as a kernel with a pointer can."""
    x.data.mul_(x.data)
    return x.clone()


def squared_back(saved: Any, cotangent: Any, **_: Any) -> Any:
    """Differentiate the square; the fault is the forward's."""
    return 2 * saved[0] * cotangent


def reused_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate sin: the cosine is written over what was saved, which is the input."""
    (x,) = saved
    return (x.data.cos_() if faulty else torch.cos(x)) * cotangent


def spent_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate sin: the gradient is written over the cotangent."""
    (x,) = saved
    return (cotangent.data.mul_(torch.cos(x)) if faulty else cotangent * torch.cos(x)).clone()


def emptied_back(_saved: Any, cotangent: Any, *, faulty: bool, outputs: Any, **_: Any) -> Any:
    """Differentiate exp: the gradient is written over the output."""
    (output,) = outputs
    return (output.data.mul_(cotangent) if faulty else output * cotangent).clone()


def masked_back(saved: Any, cotangent: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate the product with a mask: the mask is set to zeros afterwards."""
    _, mask = saved
    kept = cotangent * mask
    if faulty:
        mask.data.zero_()
    return kept, None


def checkered(shapes: Sequence[Shape], _: np.random.Generator) -> Any:
    """Let every other element through."""
    return np.arange(shapes[0][-1]) % 2 == 0


def words(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Draw six words, of which some may be the same, and padding."""
    return np.append(random.integers(0, shapes[0][0], 6), 0)


def causal(shapes: Sequence[Shape], _: np.random.Generator) -> Any:
    """Let each query see the keys up to its own place."""
    return np.tril(np.ones((shapes[0][-2], shapes[1][-2]), dtype=bool))


def attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    """Attend to the keys that the mask shows, as a formula."""
    scores = q @ k.swapaxes(-2, -1)
    weights = np.exp(scores - shift(scores)) * mask
    return weights / np.sum(weights, axis=-1, keepdims=True) @ v


def recurrence(v: Any, state: Any) -> Any:
    """Return what `stepped` does, as a formula."""
    states = [state]
    for _ in range(3):
        states.append(v * states[-1] + 1)
    return np.stack(states[1:], -2), states[-1]


def embedding(words: Any, weight: Any) -> Any:
    """Look rows up by number, of which row 0 has no gradient, as a formula."""
    found = weight[words]
    return np.where((words == 0)[:, None], detached(found, tangents=True), found)


# At both borders torch documents a gradient of 0 by the place; the derivative has two sides there.
BORDER = tuple(Stated({"samples": (1, 2, 4), "place": (end,)}, due={"place": (0,)}) for end in (0, 2))

NORM = {"formula": rms_norm, "axes": "n,n", "inside": "wide"}

KERNELS: dict[str, Parts] = {
    "distance": (lambda p, q: (p - q).abs() / 2, distance_back, {"formula": lambda p, q: np.abs(p - q) / 2, "frozen": ("q",), "broadcasts": False}),
    "margin": (torch.maximum, margin_back, {"formula": lambda x, y: np.maximum(x, y), "broadcasts": False}),
    "rows": (normalised, rows_back, NORM),
    "rank": (normalised, rank_back, NORM),
    "tail": (normalised, tail_back, NORM),
    "half": (normalised, half_back, NORM | {"sizes": {"m": 4096, "n": 64}}),
    "scaled": (lambda x: x.pow(2).sum(-1), scaled_back, {"formula": lambda x: np.sum(x * x, axis=-1), "axes": "n"}),
    "wave": (torch.sin, wave_back, {"formula": lambda x: np.sin(x)}),
    "gate": (torch.sin, gate_back, {"formula": lambda x: np.sin(x)}),
    "attended": (attended, attended_back, {"formula": attention, "axes": "md,nd,nd", "sizes": {"m": 32, "n": 32, "d": 16}, "batched": 3, "contexts": {"mask": causal}}),
    "splat": (splat, splat_back, {"formula": lambda u, v, a, b, c, o: o * np.exp(-(a * u * u + c * v * v) / 2 - b * u * v), "broadcasts": False, "domain": dict.fromkeys("uvabco", Interval(-2, 2))}),
    "product": (lambda x: x.prod(-1), product_back, {"formula": lambda x: np.prod(x, axis=-1), "shapes": (((4,),),)}),
    "woven": (lambda a, b: torch.stack([a + b, a - b], -1), woven_back, {"formula": lambda a, b: np.stack([a + b, a - b], -1), "axes": "n,n", "batched": 2}),
    "stepped": (stepped, stepped_back, {"formula": recurrence, "axes": "n,n", "batched": 2}),
    "looked_up": (lambda words, weight: weight[words], looked_up_back, {"formula": embedding, "axes": "vd", "sizes": {"v": 64, "d": 32}, "batched": 0, "contexts": {"words": words}}),
    "between": (interpolated, interpolated_back, {"formula": between, "shapes": (((3,), (1,)),), "batched": 2, "points": BORDER}),
    "scribbling": ((torch.square, scribbling), squared_back, {"formula": lambda x: x * x}),
    "reused": (torch.sin, reused_back, {"formula": lambda x: np.sin(x)}),
    "spent": (torch.sin, spent_back, {"formula": lambda x: np.sin(x)}),
    "emptied": (torch.exp, emptied_back, {"formula": lambda x: np.exp(x)}),
    "masked": (lambda x, mask: x * mask, masked_back, {"formula": lambda x, mask: x * mask, "axes": "n", "contexts": {"mask": checkered}}),
}
"""The parts of each kernel, by its name."""


def entry(name: str, *, faulty: bool) -> Op:
    """Return the entry of a kernel, sound or with its fault."""
    return made(name, KERNELS[name], faulty=faulty)


def made(name: str, parts: Parts, *, faulty: bool) -> Op:
    """Return the entry of a kernel that has these parts."""
    forward, backward, fields = parts
    return Op(name=name, torch=kernel(forward, backward, faulty=faulty), **fields)
