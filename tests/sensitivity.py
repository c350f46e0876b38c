"""Measure the smallest bias of a backward that is noticed: ``python -m tests.sensitivity``.

Each run draws 25 standard normal inputs and multiplies the gradient, or one element of it, by 1 + 2**-k. The table
gives the smallest 2**-k that at least 99 of 100 runs notice, for the least sensitive of the ops; the same for
`torch.autograd.gradcheck`, on the same inputs.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.tree import single
from tests.subject import binding
from tests.subject.mode import MODES
from tests.verdict.comparison import judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.format import Format
    from reference.op import Op

# Smooth ops of one input, whose domain is all numbers.
NAMES = ("sin", "exp", "tanh", "sigmoid", "atan", "square")
RUNS, DUE, ENTRIES = 100, 99, 25
"""How many runs there are, how many of them must notice a bias, and the inputs of each; the numbers are arbitrary."""


def biased(gradient: torch.Tensor, bias: float, *, one: bool) -> torch.Tensor:
    """Multiply a gradient, or one element of it, by 1 + bias, rounded to its dtype."""
    factor = torch.ones(ENTRIES, dtype=torch.float64)
    factor[ENTRIES // 2 if one else slice(None)] += bias
    return (gradient.double() * factor).to(gradient.dtype)


def drawn(op: Op, form: Format, run: int) -> Case:
    """Return the case of a run: the same inputs whoever is asked."""
    values = np.random.default_rng(run).standard_normal(ENTRIES)
    return Case(single(op), form, (form.values(form.ordinals(values)),), np.ones(ENTRIES))


def assay_notices(op: Op, form: Format, run: int, bias: float, *, one: bool) -> bool:
    """Say whether the assay notices a bias."""
    case = drawn(op, form, run)
    gradients = [biased(g, bias, one=one) for g in MODES["backward"].gradients(case, "cpu") if g is not None]
    return bool(judge(case, gradients, "cpu").misses)


def gradcheck_notices(op: Op, form: Format, run: int, bias: float, *, one: bool, fast: bool) -> bool:
    """Say whether gradcheck, with its default tolerances, notices a bias."""

    class Biased(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return binding.call(op)([x])

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                x = ctx.saved_tensors[0].detach().requires_grad_()
                (sound,) = torch.autograd.grad(binding.call(op)([x]), x, gradient)
            return biased(sound, bias, one=one)

    inputs = binding.leaves(drawn(op, form, run), "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that float32 is too short for it
        return not torch.autograd.gradcheck(Biased.apply, inputs, fast_mode=fast, raise_exception=False)


def threshold(notices: Callable[[int, float], bool], most: int) -> str:
    """Return the smallest bias 2**-k that is noticed, by bisection over k, as text.

    A larger bias is taken to be noticed wherever a smaller one is.
    """
    if sum(notices(run, 0.0) for run in range(RUNS)) > RUNS - DUE:
        return "fails a sound backward"
    low, high = -8, most  # from a factor of 257 to half an ulp
    while low < high:
        k = (low + high + 1) // 2
        if sum(notices(run, 2.0**-k) for run in range(RUNS)) >= DUE:
            low = k
        else:
            high = k - 1
    return f"2^-{low} = {2.0**-low:.1e}" if low >= 0 else "none up to 1"


def main() -> None:
    """Print the table."""
    table = Table("dtype", "wrong", "assay", "gradcheck", "gradcheck, fast mode")
    todo = [(form, one) for form in FORMATS.values() for one in (False, True)]
    for form, one in track(todo, description="measuring"):
        row = []
        for ask in (assay_notices, partial(gradcheck_notices, fast=False), partial(gradcheck_notices, fast=True)):
            said = [threshold(partial(ask, OPS[name], form, one=one), form.precision) for name in NAMES]
            row.append(min(said, key=_sensitivity))
        table.add_row(form.name, f"one element of {ENTRIES}" if one else "every element", *row)
    Console().print(table)


def _sensitivity(said: str) -> int:
    """Return the k of a threshold, by which they are ordered, the least sensitive first; -1 where there is none."""
    return int(said.split(maxsplit=1)[0].removeprefix("2^-")) if said.startswith("2^-") else -1


if __name__ == "__main__":
    main()
