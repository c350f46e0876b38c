"""What is planted and where: ops at real sizes, their sound kernels, and those that are wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sympy import Rational

from reference.catalogue import OPS
from reference.op import Op
from reference.oracle import answer
from reference.trace import shift
from strategies.cases import case_in_use
from tests.subject import binding
from tests.wall import kernels
from tests.wall.kernels import Given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reference.case import Case
    from reference.format import Floats, Format
    from reference.op import Shape
    from tests.wall.kernels import Kernel

DTYPES = ("float32", "bfloat16")

CORRECT = "correctly rounded"

SOUND = {"in pairs": kernels.pairwise, "in order": kernels.in_order}
"""How sound kernels accumulate, in float32."""


def tokens(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Draw twice as many tokens as there are rows in the table, by Zipf's law: the first is the most frequent."""
    (rows, _), *_ = shapes
    weights = 1 / np.arange(1, rows + 1)
    return random.choice(rows, 2 * rows, p=weights / weights.sum())


def causal_attention(query: Any, key: Any, value: Any) -> Any:
    """Attention in which a query sees the keys up to its own place; the scores are over 8, the root of 64."""
    scores = query @ key.swapaxes(-2, -1) * Rational(1, 8)
    length = scores.shape[-1]
    exponentials = np.exp(scores - shift(scores)) * np.tril(np.ones((length, length)))
    return exponentials / np.sum(exponentials, axis=-1, keepdims=True) @ value


EMBEDDING = Op(
    name="embedding",
    torch="torch.nn.functional.embedding",
    formula=lambda input, weight: weight[input],  # noqa: A006 - torch's name for the tokens
    contexts={"input": tokens},
    axes="vd",
    sizes={"v": 4096, "d": 64},
    batched=0,
)

ATTENTION = Op(
    name="attention",
    torch="torch.nn.functional.scaled_dot_product_attention",
    formula=causal_attention,
    kwargs={"is_causal": True},
    axes="nd,nd,nd",
    sizes={"n": 128, "d": 64},
    batched=3,
)


@dataclass(frozen=True)
class Place:
    """An op at a size, and the kernels that are planted there."""

    op: Op
    size: str
    """The size in words."""

    sizes: Mapping[str, int]
    rows: Shape
    kernel: Any
    """The backward: a `Kernel` that takes a `Total` too."""

    faults: Mapping[str, Kernel]
    others: Mapping[str, Kernel] = field(default_factory=dict)
    """Kernels that round inside by design, where the dtype is bfloat16: neither sound by `wide` nor a fault."""

    small: tuple[Mapping[str, int], Shape] = ({}, ())
    """Smaller sizes and rows, for the suite's own tests."""

    def cases(self, form: Format, *, is_small: bool = False) -> tuple[Case, ...]:
        """Return the drawn case, and those with a cotangent that probes.

        One has ones in the last column and zeros elsewhere, the other a one in the last entry.
        """
        sizes, rows = self.small if is_small else (self.sizes, self.rows)
        case = replace(case_in_use(self.op, form, sizes, rows), promise="wide")
        if not case.cotangent.shape:
            return (replace(case, cotangent=np.ones(())),)
        column, entry = np.zeros(case.cotangent.shape), np.zeros(case.cotangent.shape)
        column[..., -1] = 1
        entry.flat[-1] = 1
        return (case, replace(case, cotangent=column), replace(case, cotangent=entry))

    def sound(self, case: Case) -> dict[str, list[Floats]]:
        """Return the gradients of kernels that are right."""
        correct = [nearest(case.form, found.centre) for found in answer(case)]
        others = {name: rounded(partial(self.kernel, total=total), case) for name, total in SOUND.items()}
        return {CORRECT: correct, **others}


def given(case: Case) -> Given:
    """Return what a kernel is given of a case: every value is one of float32 too."""
    inputs = tuple(primal.astype(np.float32) for primal in case.primals)
    context = case.tree.root.op.context([primal.shape for primal in case.primals], case.seed)
    return Given(inputs, case.cotangent.astype(np.float32), context)


def rounded(kernel: Kernel, case: Case) -> list[Floats]:
    """Return what a kernel makes of a case, each result rounded once to the format."""
    return [binding.read(torch.tensor(gradient).to(binding.dtype(case.form))) for gradient in kernel(given(case))]


def nearest(form: Format, values: Floats) -> Floats:
    """Return the nearest values of a format, ties to even."""
    return np.rint(values / form.ulp(values)) * form.ulp(values)


def common(kernel: Kernel) -> dict[str, Kernel]:
    """Return the faults that any kernel may have: too large by a little, or by more."""
    return {"times 1.005": kernels.times(kernel, 1.005), "times 1.05": kernels.times(kernel, 1.05)}


TAIL, LAST = slice(-kernels.TAIL, None), slice(-1, None)

PLACES = (
    Place(
        OPS["cross_entropy"],
        "64 rows of 32,000 classes",
        {"m": 64, "n": 32000},
        (),
        kernels.cross_entropy,
        {
            "tail of 6 columns zero": kernels.unwritten(kernels.cross_entropy, TAIL),
            "block of 128 zero": kernels.unwritten(kernels.cross_entropy, kernels.BLOCK),
            "block of 128 not summed": partial(kernels.cross_entropy, total=kernels.in_order_without(kernels.BLOCK)),
            "last class not summed": partial(kernels.cross_entropy, total=kernels.in_order_without(LAST)),
            "zero off the target": partial(kernels.cross_entropy, only_target=True),
            **common(kernels.cross_entropy),
        },
        small=({"m": 8, "n": 4000}, ()),
    ),
    Place(
        OPS["softmax"],
        "64 rows of 4,096",
        {"n": 4096},
        (64,),
        kernels.softmax,
        {
            "tail of 6 columns zero": kernels.unwritten(kernels.softmax, TAIL),
            "sum term forgotten": partial(kernels.softmax, has_sum=False),
            "block of 128 not summed": partial(kernels.softmax, inner=kernels.in_order_without(kernels.BLOCK)),
            "last column not summed": partial(kernels.softmax, inner=kernels.in_order_without(LAST)),
            "cotangent's strides ignored": kernels.reading_as_contiguous(kernels.softmax),
            **common(kernels.softmax),
        },
        {"from its rounded output": partial(kernels.softmax, from_output=True)},
        small=({"n": 1024}, (8,)),
    ),
    Place(
        OPS["layer_norm"],
        "256 rows of 512",
        {"n": 512},
        (256,),
        kernels.layer_norm,
        {
            "tail of 6 columns zero": kernels.unwritten(kernels.layer_norm, TAIL),
            "mean term forgotten": partial(kernels.layer_norm, has_mean=False),
            "variance term forgotten": partial(kernels.layer_norm, has_variance=False),
            "last row of 64 dropped": partial(kernels.layer_norm, over_rows=kernels.in_order_without_last_of_tiles),
            "cotangent's strides ignored": kernels.reading_as_contiguous(kernels.layer_norm),
            **common(kernels.layer_norm),
        },
        small=({"n": 64}, (128,)),
    ),
    Place(
        OPS["rms_norm"],
        "4,096 rows of 256",
        {"n": 256},
        (4096,),
        kernels.rms_norm,
        {
            "accumulated in bfloat16": partial(kernels.rms_norm, over_rows=kernels.in_bfloat16),
            "last row of 64 dropped": partial(kernels.rms_norm, over_rows=kernels.in_order_without_last_of_tiles),
            "last row of all dropped": partial(kernels.rms_norm, over_rows=kernels.in_order_without(LAST)),
            "block of 128 rows not summed": partial(
                kernels.rms_norm, over_rows=kernels.in_order_without(kernels.BLOCK)
            ),
            **common(kernels.rms_norm),
        },
        small=({"n": 16}, (1024,)),
    ),
    Place(
        EMBEDDING,
        "8,192 tokens by Zipf's law, of 4,096 rows of 64",
        EMBEDDING.in_use,
        (),
        kernels.embedding,
        {
            "accumulated in bfloat16": partial(kernels.embedding, total=kernels.in_bfloat16),
            "tokens repeated within 64 lost": partial(kernels.embedding, has_races=True),
            "tail of 6 columns zero": kernels.unwritten(kernels.embedding, TAIL),
            **common(kernels.embedding),
        },
        small=({"v": 512, "d": 16}, ()),
    ),
    Place(
        ATTENTION,
        "2 heads of 128 × 64, causal",
        ATTENTION.in_use,
        (2,),
        kernels.attention,
        {
            "mask ignored": partial(kernels.attention, is_masked=False),
            "batch above the first wrong": partial(kernels.attention, knows_batch=False),
            "sum term forgotten": partial(kernels.attention, has_sum=False),
            "cotangent's strides ignored": kernels.reading_as_contiguous(kernels.attention),
            **common(kernels.attention),
        },
        {"operands in bfloat16": partial(kernels.attention, multiplies_bfloat16=True)},
        small=({"n": 16, "d": 64}, (2,)),
    ),
)
"""The places, in the order of the table."""

EXPLAINED = {
    ("cross_entropy", "last class not summed"): (
        "The class is 1.4e-4 of the sum of exponentials at most, and before the result is rounded the allowance is "
        "3.6e-4 of the gradient, since float32 sums of 32,000 terms enter it more than once. An input in which that "
        "class dominates would show it."
    ),
}
"""Op and fault of what rounding by the promise `wide` explains, in either dtype, and why."""

STORIES = {
    "tail of 6 columns zero": "the last 6 columns of the first gradient are not written, as after a loop of vectors",
    "block of 128 zero": "the columns 128 to 255 of the gradient are not written",
    "block of 128 not summed": (
        "the columns 128 to 255 are left out of a sum: of cross_entropy's normaliser, and of softmax's term Σ p c"
    ),
    "last class not summed": "the last class is left out of the normaliser",
    "zero off the target": "the gradient is right at the target of each row, and zero elsewhere",
    "sum term forgotten": "the term Σ p c of the backward of softmax is forgotten, in attention that of its softmax",
    "last column not summed": "the last column is left out of the term Σ p c",
    "mean term forgotten": "the term with the mean of the cotangent is forgotten",
    "variance term forgotten": "the term with the derivative of the variance is forgotten",
    "last row of 64 dropped": "the gradients of weight and bias are sums over rows, without the last of every 64",
    "last row of all dropped": "the gradient of the weight is a sum over rows, without the last",
    "block of 128 rows not summed": "the rows 128 to 255 are left out of the weight's gradient",
    "accumulated in bfloat16": "each term and partial sum of the weight's or table's gradient is rounded to bfloat16",
    "tokens repeated within 64 lost": "of a token that is repeated within 64 only the last one counts: the adds race",
    "mask ignored": "the backward recomputes the probabilities without the causal mask",
    "batch above the first wrong": "the backward reads the sums Σ p c of the first batch for every batch",
    "cotangent's strides ignored": "the cotangent lies transposed in memory, and is read as though it were contiguous",
    "times 1.005": "every gradient is multiplied by 1.005, before it is rounded",
    "times 1.05": "every gradient is multiplied by 1.05, before it is rounded",
}
"""What each fault is."""
