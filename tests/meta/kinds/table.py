"""The table of kinds: what the fault is, and kernels of several ops that have it, beside their sound twins.

Some kernels are those of `tests/meta/kernels.py`. The others have a plant of `tests/meta/kinds/plants.py`, or a fault
of their own. A backward is given what was saved, which are the inputs, and the cotangent g of each output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sympy import exp, sin
from torch.nn.functional import avg_pool1d, avg_pool2d, logsigmoid, pad, softplus

from reference.domain import Interval
from reference.op import Stated, x
from reference.trace import shift
from tests.kernels.formulas import EPSILON
from tests.meta import kernels
from tests.meta.kernels import Parts, checkered, embedding, made, words
from tests.meta.kinds import plants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reference.op import Op


@dataclass(frozen=True)
class Kind:
    """A kind of fault, and the kernels that have it, by their names."""

    fault: str
    """What is wrong, in a line."""

    kernels: Mapping[str, Parts]

    dtype: str = "float32"
    """The format in which it shows."""

    mode: str = "backward"
    """The mode in which it shows."""


def known(*names: str) -> dict[str, Parts]:
    """Return kernels of `tests/meta/kernels.py` by their names."""
    return {name: kernels.KERNELS[name] for name in names}


# Fields of entries.
WIDE = {"inside": "wide"}
SHARED = {"axes": "n,n"}
SUMMED = SHARED | WIDE | {"sizes": {"m": 4096, "n": 64}}
MATRICES = {"axes": "mk,nk", "sizes": {"m": 8, "n": 8, "k": 16}}
PAIR = {"formula": lambda x, y: x * y, "broadcasts": False}


def shifted_rows(_: Any, g: Any) -> Any:
    """Differentiate x + bias: return the gradient by x, and what each row adds to that by the bias."""
    return g, g.float()


def scaled_rows(saved: Any, g: Any) -> Any:
    """Differentiate x * weight: return the gradient by x, and what each row adds to that by the weight."""
    x, weight = saved
    return g * weight, g.float() * x.float()


def shared(total: Callable[..., torch.Tensor], fields: dict[str, Any]) -> dict[str, Parts]:
    """Return kernels of x + bias and x * weight whose faulty backward sums over the rows by `total`."""
    end = total.__name__
    return {
        f"shifted_{end}": (torch.add, plants.summed(shifted_rows, total), {"formula": lambda x, b: x + b} | fields),
        f"weighted_{end}": (torch.mul, plants.summed(scaled_rows, total), {"formula": lambda x, w: x * w} | fields),
    }


def hinge_back(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate max(0, 1 - x)."""
    (x,) = saved
    return g * torch.where((x <= 1) if faulty else (x < 1), -1.0, 0.0).to(x.dtype)


def exponentials(x: Any) -> tuple[Any, Any]:
    """Return the exponentials of a row less its largest element, and that element."""
    top = shift(x)
    return np.exp(x - top), top


def log_total(x: Any) -> Any:
    """Return the logarithm of the sum of exponentials of each row."""
    found, top = exponentials(x)
    return np.log(np.sum(found, axis=-1)) + top[..., 0]


def log_total_back(saved: Any, g: Any) -> Any:
    """Differentiate `log_total`."""
    return g[..., None] * torch.softmax(saved[0], -1)


def log_total_linear_back(saved: Any, g: Any) -> Any:
    """Differentiate `log_total` of x @ weight.T."""
    x, weight = saved
    by_logits = g[..., None] * torch.softmax(x @ weight.mT, -1)
    return by_logits @ weight, by_logits.mT @ x


def softmax(x: Any) -> Any:
    """Return the softmax of a row."""
    found, _ = exponentials(x)
    return found / np.sum(found, axis=-1, keepdims=True)


def softmax_back(saved: Any, g: Any) -> torch.Tensor:
    """Differentiate `softmax`."""
    p = torch.softmax(saved[0], -1)
    return p * (g - (g * p).sum(-1, keepdim=True))


def linear_back(saved: Any, g: Any) -> Any:
    """Differentiate x @ weight.T."""
    x, weight = saved
    return g @ weight, g.mT @ x


def norm_back(saved: Any, g: Any) -> Any:
    """Differentiate root mean square normalisation, with its weight."""
    x, weight = saved
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON)
    by = g * weight
    added = (g * x * scale).reshape(-1, x.shape[-1])
    return scale * (by - x * scale * (by * x * scale).mean(-1, keepdim=True)), added.sum(0)


def wide(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a function that computes in float32, and rounds its result to the format of the first input."""
    return lambda *inputs: function(*(x.float() for x in inputs)).to(inputs[0].dtype)


def masked_softmax(x: Any, mask: Any) -> Any:
    """Return the softmax of what the mask lets through, and 0 elsewhere."""
    found = exponentials(x)[0] * mask
    return found / np.sum(found, axis=-1, keepdims=True)


def masked_softmax_back(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate `masked_softmax`: where it is faulty, the shares are made anew without the mask."""
    x, mask = saved
    total = torch.logsumexp(x.masked_fill(~mask, -torch.inf), -1, keepdim=True)
    p = torch.exp(x - total) * (1 if faulty else mask)
    return p * (g - (g * p).sum(-1, keepdim=True)), None


def quadratic_back(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate a u² + 2 b u v + c v² by a, b, c, u and v."""
    a, b, c, u, v = saved
    by_b = g * u * v * (1 if faulty else 2)
    return g * u * u, by_b, g * v * v, g * 2 * (a * u + b * v), g * 2 * (b * u + c * v)


def determinant_back(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate a c - b²."""
    a, b, c = saved
    return g * c, -g * b * (1 if faulty else 2), g * a


def pair_back(saved: Any, g: Any, *, faulty: bool, outputs: Any, **_: Any) -> Any:
    """Differentiate x y: where it is faulty, the product is divided by the factor, which may be 0."""
    x, y = saved
    return g * (outputs[0] / x if faulty else y), g * x


def alternating(x: Any) -> Any:
    """Return the products of the even and of the odd elements."""
    return np.stack([np.prod(x[..., ::2], axis=-1), np.prod(x[..., 1::2], axis=-1)], axis=-1)


def alternating_back(saved: Any, g: Any, *, faulty: bool, outputs: Any, **_: Any) -> Any:
    """Differentiate `alternating` of four elements: where it is faulty, a product is divided by the element."""
    (x,) = saved
    by_output = g.repeat(*(1,) * (g.ndim - 1), 2)
    others = outputs[0].repeat(*(1,) * (g.ndim - 1), 2) / x if faulty else x.roll(2, -1)
    return by_output * others


def refusing(function: Callable[..., torch.Tensor], refuse: Callable[[], None]) -> tuple[Any, Any]:
    """Return a function that refuses all but float16 and bfloat16, and a faulty one that refuses bfloat16 too."""

    def taking(*formats: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
        def called(x: torch.Tensor) -> torch.Tensor:
            if x.dtype not in formats:
                refuse()
            return function(x)

        return called

    return taking(torch.float16, torch.bfloat16), taking(torch.float16)


def raising(error: Exception) -> Callable[[], None]:
    """Return a function that raises an error."""

    def refuse() -> None:
        raise error

    return refuse


HALVES = {"dtypes": ("float16", "bfloat16")}


def in_halves(back: plants.Backward) -> plants.Backward:
    """Return a backward of one input that computes in float32, and rounds its result."""
    return lambda saved, g, **_: back(saved[0].float(), g.float()).to(g.dtype)


def once(sound: Callable[..., torch.Tensor], compiled: Callable[..., torch.Tensor]) -> tuple[Any, Any]:
    """Return a function, and a faulty one that is another function where it is compiled."""
    return sound, lambda *inputs: compiled(*inputs) if torch.compiler.is_compiling() else sound(*inputs)


def windows(x: Any) -> Any:
    """Return the means of windows of three elements, two apart, of which the last overhangs a row of six."""
    return np.stack([np.mean(x[..., at : at + 3], axis=-1) for at in range(0, 6, 2)], axis=-1)


def planes(x: Any) -> Any:
    """Return the means of windows of 2 × 2, which overhang a 3 × 3 plane on two sides."""

    def row(i: int) -> Any:
        return np.stack([np.mean(x[..., i : i + 2, j : j + 2], axis=(-2, -1)) for j in (0, 2)], axis=-1)

    return np.stack([row(0), row(2)], axis=-2)


def pooled(x: torch.Tensor) -> torch.Tensor:
    """Return what `windows` does, in torch: the sum over the window that overhangs is divided by what lies inside."""
    return avg_pool1d(x, 3, 2, ceil_mode=True)


def pooled_whole(x: torch.Tensor) -> torch.Tensor:
    """Return the same, but for the window that overhangs, whose sum is divided by the size of the window."""
    return avg_pool1d(pad(x, (0, 1)), 3, 2)


WINDOWS = {"shapes": (((1, 6),),), "batched": 0}


def ramp_back(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate x, kept between 0 and 2."""
    (x,) = saved
    return g * ((x >= 0) & (x <= 2) if faulty else (x > 0) & (x < 2))


def blended_back(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
    """Differentiate a + (b - a) p, with p kept between 0 and 1."""
    a, b, place = saved
    p = place.clamp(0, 1)
    inside = (place >= 0) & (place <= 1) if faulty else (place > 0) & (place < 1)
    return g * (1 - p), g * p, g * torch.where(inside, b - a, 0)


def blended(a: Any, b: Any, place: Any) -> Any:
    """Interpolate linearly, and continue with the ends."""
    return a + (b - a) * np.clip(place, 0, 1)


def moments_back(saved: Any, g: Any, by_squares: Any) -> Any:
    """Differentiate the sum and the sum of squares of a row."""
    return g[..., None] + 2 * saved[0] * by_squares[..., None]


def scaled_to_one(x: Any) -> Any:
    """Return a row divided by its root mean square, and that root, both with 1 added to the mean."""
    root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1)
    return x / root, root


def scaled_to_one_torch(x: torch.Tensor) -> Any:
    """Do what `scaled_to_one` does, in torch."""
    root = (x.pow(2).mean(-1, keepdim=True) + 1).sqrt()
    return x / root, root


def scaled_to_one_back(saved: Any, g: Any, by_root: Any) -> Any:
    """Differentiate `scaled_to_one`."""
    (x,) = saved
    root = (x.pow(2).mean(-1, keepdim=True) + 1).sqrt()
    by_root = by_root - (g * x).sum(-1, keepdim=True) / root**2
    return g / root + by_root * x / (root * x.shape[-1])


def looked_up(by_rows: Callable[[Any, Any], Any]) -> plants.Backward:
    """Return the backward of what is done with rows of a table; where it is faulty, row 0, padding, gets a gradient."""

    def back(saved: Any, g: Any, *, faulty: bool, **_: Any) -> Any:
        places, weight = saved
        kept = by_rows(weight[places], g) * (1 if faulty else (places != 0)[:, None])
        return None, torch.zeros_like(weight).index_add(0, places, kept)

    return back


TABLE = {"axes": "vd", "sizes": {"v": 64, "d": 32}, "batched": 0, "contexts": {"words": words}}

KINDS: dict[str, Kind] = {
    "ties": Kind(
        "a backward of two branches gives at ties what is due on one side",
        known("distance", "margin")
        | {
            "hinge": (lambda x: (1 - x).clamp(min=0), hinge_back, {"formula": lambda x: np.maximum(0, 1 - x)}),
        },
    ),
    "first row": Kind(
        "every row is scaled by the first row's cotangent",
        known("scaled")
        | {
            "log_total": (
                lambda x: x.logsumexp(-1),
                plants.first_row(log_total_back),
                {"formula": log_total, "axes": "n", "sizes": {"n": 64}},
            ),
            "log_total_linear": (
                lambda x, weight: (x @ weight.mT).logsumexp(-1),
                plants.first_row(log_total_linear_back),
                {"formula": lambda x, weight: log_total(x @ weight.T)} | MATRICES | {"batched": 0},
            ),
        },
    ),
    "last block of rows": Kind(
        "rows past the last whole block are missing from the gradient of what they share",
        known("rows") | shared(plants.whole_blocks, SHARED),
    ),
    "last block of columns": Kind(
        "the gradient is 0 past the last whole block of columns",
        known("tail")
        | {
            "squares_tail": (
                lambda x: x.pow(2).sum(-1),
                plants.tail(lambda saved, g: 2 * saved[0] * g[..., None]),
                {"formula": lambda x: np.sum(x * x, axis=-1), "axes": "n"},
            ),
            "softmax_tail": (
                lambda x: torch.softmax(x, -1),
                plants.tail(softmax_back),
                {"formula": softmax, "axes": "n"},
            ),
        },
    ),
    "rank": Kind(
        "the first dimension is taken for the rows, which is wrong from three dimensions on",
        known("rank") | shared(plants.first_dimension, SHARED),
    ),
    "strides of the cotangent": Kind(
        "the cotangent is read in the order of memory, whatever its strides",
        known("gate")
        | {
            "linear_in_order": (
                lambda x, weight: x @ weight.mT,
                plants.cotangent_in_order(linear_back),
                {"formula": lambda x, weight: x @ weight.T, "batched": 0} | MATRICES,
            ),
            "softmax_in_order": (
                lambda x: torch.softmax(x, -1),
                plants.cotangent_in_order(softmax_back),
                {"formula": softmax, "axes": "n", "sizes": {"n": 64}},
            ),
        },
    ),
    "strides of an input": Kind(
        "what was saved of a permuted input is read in the order of memory",
        known("wave")
        | {
            "cube_in_order": (
                lambda x: x**3,
                plants.inputs_in_order(lambda saved, g: 3 * saved[0] ** 2 * g),
                {"formula": lambda x: x**3},
            ),
            "pair_in_order": (
                torch.mul,
                plants.inputs_in_order(lambda saved, g: (g * saved[1], g * saved[0])),
                PAIR,
            ),
        },
    ),
    "mask": Kind(
        "the forward masks, and the backward forgets the mask",
        known("attended")
        | {
            "masked_softmax": (
                lambda x, mask: torch.softmax(x.masked_fill(~mask, -torch.inf), -1),
                masked_softmax_back,
                {"formula": masked_softmax, "axes": "n", "sizes": {"n": 64}, "contexts": {"mask": checkered}},
            ),
            "dropped": (
                lambda x, mask: 2 * x * mask,
                plants.unmasked(lambda saved, g: (2 * g * saved[1], None)),
                {"formula": lambda x, mask: 2 * x * mask, "axes": "n", "contexts": {"mask": checkered}},
            ),
        },
    ),
    "symmetric entry": Kind(
        "the gradient by an entry that stands for two of a symmetric matrix is half of what is due",
        known("splat")
        | {
            "quadratic": (
                lambda a, b, c, u, v: a * u * u + 2 * b * u * v + c * v * v,
                quadratic_back,
                {
                    "formula": lambda a, b, c, u, v: a * u * u + 2 * b * u * v + c * v * v,
                    "broadcasts": False,
                    "domain": dict.fromkeys("abcuv", Interval(-2, 2)),
                },
            ),
            "determinant": (
                lambda a, b, c: a * c - b * b,
                determinant_back,
                {"formula": lambda a, b, c: a * c - b * b, "broadcasts": False},
            ),
        },
    ),
    "product over an element": Kind(
        "the gradient of a product is the product over the element, which may be 0",
        known("product")
        | {
            "alternating": (
                lambda x: torch.stack([x[..., ::2].prod(-1), x[..., 1::2].prod(-1)], -1),
                alternating_back,
                {"formula": alternating, "shapes": (((4,),),)},
            ),
            "pair": (torch.mul, pair_back, PAIR),
        },
    ),
    "frozen input": Kind(
        "there is no gradient for any input where the first needs none",
        known("woven")
        | {
            "pair_frozen": (torch.mul, plants.frozen(lambda saved, g: (g * saved[1], g * saved[0])), PAIR),
            "linear_frozen": (
                lambda x, weight: x @ weight.mT,
                plants.frozen(linear_back),
                {"formula": lambda x, weight: x @ weight.T, "batched": 0} | MATRICES,
            ),
        },
    ),
    "refusal": Kind(
        "a kernel of half precision refuses one of the formats that its entry says it takes",
        {
            "sin_raises": (
                refusing(torch.sin, raising(RuntimeError("this kernel is for half precision"))),
                in_halves(lambda x, g: g * torch.cos(x)),
                {"formula": sin(x)} | HALVES,
            ),
            "exp_asserts": (
                refusing(torch.exp, raising(AssertionError("half precision"))),
                in_halves(lambda x, g: g * torch.exp(x)),
                {"formula": exp(x)} | HALVES,
            ),
            "square_declines": (
                refusing(torch.square, raising(ValueError("dtype"))),
                in_halves(lambda x, g: g * 2 * x),
                {"formula": lambda x: x * x} | HALVES,
            ),
        },
        dtype="bfloat16",
    ),
    "sum in half precision": Kind(
        "a gradient is added up over the rows in the format of the inputs, where float32 is promised",
        known("half") | shared(plants.in_bfloat16, SUMMED),
        dtype="bfloat16",
    ),
    "bias of 2 %": Kind(
        "a gradient in a 16-bit format is 1.02 times what is due, where float32 is promised inside",
        {
            "norm_biased": (
                kernels.normalised,
                plants.biased(norm_back),
                kernels.NORM | {"sizes": {"n": 64}},
            ),
            "softmax_biased": (
                wide(lambda x: torch.softmax(x, -1)),
                plants.biased(lambda saved, g: (softmax_back(saved, g),)),
                {"formula": softmax, "axes": "n", "sizes": {"n": 64}} | WIDE,
            ),
            "linear_biased": (
                wide(lambda x, weight: x @ weight.mT),
                plants.biased(linear_back),
                {"formula": lambda x, weight: x @ weight.T, "batched": 0} | MATRICES | WIDE,
            ),
        },
        dtype="bfloat16",
    ),
    "compiled windows": Kind(
        "compiled, the mean of a window that overhangs is divided by the whole kernel",
        {
            "pooled": (once(pooled, pooled_whole), None, {"formula": windows} | WINDOWS),
            "pooled_squares": (
                once(lambda x: pooled(x * x), lambda x: pooled_whole(x * x)),
                None,
                {"formula": lambda x: windows(x * x)} | WINDOWS,
            ),
            "pooled_plane": (
                once(
                    lambda x: avg_pool2d(x, 2, 2, ceil_mode=True),
                    lambda x: avg_pool2d(pad(x, (0, 1, 0, 1)), 2, 2),
                ),
                None,
                {"formula": planes, "shapes": (((1, 3, 3),),), "batched": 0},
            ),
        },
        mode="aot_eager",
    ),
    "compiled transform": Kind(
        "compiled with torch.func.grad, a stable function has the derivative of its textbook formula, which overflows",
        {
            "soft": (
                once(softplus, lambda x: torch.log(1 + torch.exp(x))),
                None,
                {"formula": lambda x: np.log(1 + np.exp(x))},
            ),
            "log_added": (
                once(torch.logaddexp, lambda x, y: torch.log(torch.exp(x) + torch.exp(y))),
                None,
                {"formula": lambda x, y: np.log(np.exp(x) + np.exp(y)), "broadcasts": False},
            ),
            "log_share": (
                once(logsigmoid, lambda x: -torch.log(1 + torch.exp(-x))),
                None,
                {"formula": lambda x: -np.log(1 + np.exp(-x))},
            ),
        },
        mode="compiled_grad",
    ),
    "border": Kind(
        "at the border a gradient goes on as inside, where it is documented to be 0",
        known("between")
        | {
            "ramp": (
                lambda x: x.clamp(0, 2),
                ramp_back,
                {
                    "formula": lambda x: np.clip(x, 0, 2),
                    "points": tuple(Stated({"x": end}, due={"x": 0}) for end in (0, 2)),
                },
            ),
            "blended": (
                lambda a, b, place: torch.lerp(a, b, place.clamp(0, 1)),
                blended_back,
                {
                    "formula": blended,
                    "broadcasts": False,
                    "points": tuple(Stated({"a": 1, "b": 3, "place": end}, due={"place": 0}) for end in (0, 1)),
                },
            ),
        },
    ),
    "several outputs": Kind(
        "the cotangent of the last output is forgotten",
        known("stepped")
        | {
            "moments": (
                lambda x: (x.sum(-1), x.pow(2).sum(-1)),
                plants.last_output(moments_back),
                {"formula": lambda x: (np.sum(x, axis=-1), np.sum(x * x, axis=-1)), "axes": "n"},
            ),
            "scaled_to_one": (
                scaled_to_one_torch,
                plants.last_output(scaled_to_one_back),
                {"formula": scaled_to_one, "axes": "n", "sizes": {"n": 64}},
            ),
        },
    ),
    "padding": Kind(
        "the padding row of a table has a gradient, where none is documented",
        known("looked_up")
        | {
            "bagged": (
                lambda words, weight: weight[words].sum(0),
                looked_up(lambda rows, g: g.expand(rows.shape)),
                {"formula": lambda words, weight: np.sum(embedding(words, weight), axis=0)} | TABLE,
            ),
            "squared_rows": (
                lambda words, weight: weight[words] ** 2,
                looked_up(lambda rows, g: 2 * rows * g),
                {"formula": lambda words, weight: embedding(words, weight) ** 2} | TABLE,
            ),
        },
    ),
    "overwriting": Kind(
        "an input, a context, the cotangent or the output is overwritten through a pointer",
        known("scribbling", "reused", "spent", "emptied", "masked"),
    ),
}
"""The kinds by name."""

PLANTED = [(kind, name) for kind, each in KINDS.items() for name in each.kernels]
"""Each kernel with its kind."""


def planted(kind: str, name: str, *, faulty: bool) -> Op:
    """Return the entry of a kernel, sound or with its fault."""
    return made(name, KINDS[kind].kernels[name], faulty=faulty)
