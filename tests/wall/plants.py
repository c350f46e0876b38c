"""The workloads: ops at the sizes of real use, with sound kernels, and kernels that are wrong."""

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
    from reference.graph import Shape
    from tests.wall.kernels import Kernel

DTYPES = ("float32", "bfloat16")

CORRECT = "correctly rounded"
"""The name of the certified gradient, rounded once."""

SOUND = {"in pairs": kernels.pairwise, "in order": kernels.in_order}
"""How sound kernels accumulate, in float32, by their names."""


def tokens(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Draw twice as many tokens as the table has rows, by Zipf's law: token k is drawn as often as 1 / (k + 1) says."""
    (rows, _), *_ = shapes
    weights = 1 / np.arange(1, rows + 1)
    return random.choice(rows, 2 * rows, p=weights / weights.sum())


def causal_attention(query: Any, key: Any, value: Any) -> Any:
    """Attend to the keys up to a query's own position; scores are divided by 8, the root of the 64 features."""
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
class Workload:
    """An op at the sizes of real use, with the kernels that are judged there."""

    op: Op
    size: str
    """The size, as the page says it."""

    sizes: Mapping[str, int]
    """The length of each axis that the entry names."""

    rows: Shape
    """The shape of the batch in front of these axes."""

    kernel: Any
    """The sound backward: a `Kernel` that takes a `Total` too."""

    faults: Mapping[str, Kernel]
    """Kernels with a fault each, by its name, which `STORIES` tells of."""

    others: Mapping[str, Kernel] = field(default_factory=dict)
    """Kernels that round inside by design, judged in bfloat16 alone: neither sound by `wide` nor faulty."""

    small: tuple[Mapping[str, int], Shape] = ({}, ())
    """Sizes and rows that the suite's own tests have the time for."""

    def cases(self, form: Format, *, is_small: bool = False) -> tuple[Case, ...]:
        """Return the case as it is drawn, and two with cotangents that probe.

        One cotangent has ones in the last column and zeros elsewhere, the other a single one in the last entry. A
        scalar output has no probes: its case has a cotangent of 1.
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
        """Return the gradients of the sound kernels, by their names."""
        correct = [nearest(case.form, found.centre) for found in answer(case)]
        others = {name: rounded(partial(self.kernel, total=total), case) for name, total in SOUND.items()}
        return {CORRECT: correct, **others}


def given(case: Case) -> Given:
    """Return what a kernel is given of a case; its values are of float32 or bfloat16, so that no cast rounds."""
    inputs = tuple(primal.astype(np.float32) for primal in case.primals)
    context = case.tree.root.op.context([primal.shape for primal in case.primals], case.seed)
    return Given(inputs, case.cotangent.astype(np.float32), context)


def rounded(kernel: Kernel, case: Case) -> list[Floats]:
    """Return the gradients of a case by a kernel, each rounded once to the format."""
    return [binding.on_host(torch.tensor(gradient).to(binding.dtype(case.form))) for gradient in kernel(given(case))]


def nearest(form: Format, values: Floats) -> Floats:
    """Return the nearest values of a format, ties to even."""
    return np.rint(values / form.ulp(values)) * form.ulp(values)


def common(kernel: Kernel) -> dict[str, Kernel]:
    """Return the faults that every kernel can have: all gradients too large by a small and by a larger factor."""
    return {"times 1.005": kernels.times(kernel, 1.005), "times 1.05": kernels.times(kernel, 1.05)}


WORKLOADS = (
    Workload(
        OPS["cross_entropy"],
        "64 rows of 32,000 classes",
        {"m": 64, "n": 32000},
        (),
        kernels.cross_entropy,
        {
            "tail of 6 columns zero": kernels.unwritten(kernels.cross_entropy, kernels.TAIL),
            "block of 128 zero": kernels.unwritten(kernels.cross_entropy, kernels.SKIPPED),
            "block of 128 not summed": partial(kernels.cross_entropy, total=kernels.in_order_without(kernels.SKIPPED)),
            "last class not summed": partial(kernels.cross_entropy, total=kernels.in_order_without(kernels.LAST)),
            "zero off the target": partial(kernels.cross_entropy, only_target=True),
            **common(kernels.cross_entropy),
        },
        small=({"m": 8, "n": 4000}, ()),
    ),
    Workload(
        OPS["softmax"],
        "64 rows of 4,096",
        {"n": 4096},
        (64,),
        kernels.softmax,
        {
            "tail of 6 columns zero": kernels.unwritten(kernels.softmax, kernels.TAIL),
            "sum term forgotten": partial(kernels.softmax, has_sum=False),
            "block of 128 not summed": partial(kernels.softmax, inner=kernels.in_order_without(kernels.SKIPPED)),
            "last column not summed": partial(kernels.softmax, inner=kernels.in_order_without(kernels.LAST)),
            "cotangent's strides ignored": kernels.reading_as_contiguous(kernels.softmax),
            **common(kernels.softmax),
        },
        {"from its rounded output": partial(kernels.softmax, from_output=True)},
        small=({"n": 1024}, (8,)),
    ),
    Workload(
        OPS["layer_norm"],
        "256 rows of 512",
        {"n": 512},
        (256,),
        kernels.layer_norm,
        {
            "tail of 6 columns zero": kernels.unwritten(kernels.layer_norm, kernels.TAIL),
            "mean term forgotten": partial(kernels.layer_norm, has_mean=False),
            "variance term forgotten": partial(kernels.layer_norm, has_variance=False),
            "last row of 64 dropped": partial(kernels.layer_norm, over_rows=kernels.in_order_without_last_of_tiles),
            "cotangent's strides ignored": kernels.reading_as_contiguous(kernels.layer_norm),
            **common(kernels.layer_norm),
        },
        small=({"n": 64}, (128,)),
    ),
    Workload(
        OPS["rms_norm"],
        "4,096 rows of 256",
        {"n": 256},
        (4096,),
        kernels.rms_norm,
        {
            "accumulated in bfloat16": partial(kernels.rms_norm, over_rows=kernels.in_bfloat16),
            "last row of 64 dropped": partial(kernels.rms_norm, over_rows=kernels.in_order_without_last_of_tiles),
            "last row of all dropped": partial(kernels.rms_norm, over_rows=kernels.in_order_without(kernels.LAST)),
            "block of 128 rows not summed": partial(
                kernels.rms_norm, over_rows=kernels.in_order_without(kernels.SKIPPED)
            ),
            **common(kernels.rms_norm),
        },
        small=({"n": 16}, (1024,)),
    ),
    Workload(
        EMBEDDING,
        "8,192 tokens by Zipf's law, of 4,096 rows of 64",
        EMBEDDING.in_use,
        (),
        kernels.embedding,
        {
            "accumulated in bfloat16": partial(kernels.embedding, total=kernels.in_bfloat16),
            "tokens repeated within 64 lost": partial(kernels.embedding, has_races=True),
            "tail of 6 columns zero": kernels.unwritten(kernels.embedding, kernels.TAIL),
            **common(kernels.embedding),
        },
        small=({"v": 512, "d": 16}, ()),
    ),
    Workload(
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
"""The workloads, in the order of the tables."""

EXPLAINED = {
    ("cross_entropy", "last class not summed"): (
        "The class is 1.4e-4 of the sum of exponentials at most, and before the result is rounded the allowance is "
        "3.6e-4 of the gradient, since float32 sums of 32,000 terms enter it more than once. An input in which that "
        "class dominates would show it."
    ),
}
"""The faults that rounding by the promise `wide` explains in either dtype, by op and name, and why it does."""

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
"""What each fault is, by its name, as the page tells it."""
