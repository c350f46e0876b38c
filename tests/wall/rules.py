"""The rules by which projects accept gradients, as their own test files state them.

The numbers were read between July and September 2026. A rule that a project has for one op is applied to all here.
Each sees one gradient at a time, beside those of torch that it may compare with, all of one shape and in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.format import Floats


@dataclass(frozen=True)
class Compared:
    """The gradient of a kernel by one input, and what it is compared with."""

    got: Floats
    same: Floats
    """Torch's own gradient in the dtype of the kernel."""

    single: Floats
    """Torch's own gradient in float32, of the same values."""

    double: Floats
    """Torch's own gradient in float64, of the same values."""

    is_narrow: bool = False
    """Whether the dtype is bfloat16; else it is float32."""

    is_norm: bool = False
    """Whether the op is layer_norm or rms_norm."""


@dataclass(frozen=True)
class Rule:
    """A rule of a project, in words and as a predicate."""

    project: str
    reference: str
    """What it compares with: torch's gradient in `SAME`, `SINGLE` or `DOUBLE`."""

    in_float32: str
    """When it accepts, as the page says it."""

    in_bfloat16: str
    accepts: Callable[[Compared], bool]


def is_close(got: Floats, due: Floats, atol: float, rtol: float) -> bool:
    """Say whether every element is within atol + rtol |due|."""
    return bool((np.abs(got - due) <= atol + rtol * np.abs(due)).all())


def close(single: tuple[float, float], narrow: tuple[float, float]) -> Callable[[Compared], bool]:
    """Return the rule that every element is close to torch's in the same dtype; atol and rtol are for each dtype."""
    return lambda each: is_close(each.got, each.same, *(narrow if each.is_narrow else single))


def distance(got: Floats, due: Floats) -> float:
    """Return the largest difference."""
    return float(np.abs(got - due).max())


def rms(values: Floats) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def relative_rms(got: Floats, due: Floats) -> float:
    """Return the root mean square of the difference, divided by that of what is due."""
    return rms(got - due) / (rms(due) + 1e-8)  # as flash-linear-attention has it, so that zeros can be compared


def sol_exec_bench(each: Compared) -> bool:
    """Accept where 99 of 100 elements are close, and not all are zero."""
    within = np.abs(each.got - each.same) <= 1e-2 + 1e-2 * np.abs(each.same)
    return bool(within.mean() >= 0.99 and each.got.any())


def flash_attention(each: Compared) -> bool:
    """Accept where the largest error is at most twice that of torch in the same dtype, plus a constant."""
    least = 5e-2 if each.is_narrow and each.is_norm else 1e-4
    return distance(each.got, each.single) <= 2 * distance(each.same, each.single) + least


def flash_linear_attention(each: Compared) -> bool:
    """Accept where the root mean square of the error is below 5e-3 of that of the reference."""
    return relative_rms(each.got, each.single) < 5e-3


def flash_linear_attention_in_ci(each: Compared) -> bool:
    """Accept where that ratio is below 1e-2, or no element is off by more than 0.3: CI only warns of these."""
    ratio = relative_rms(each.got, each.single)
    return ratio < 1e-2 or distance(each.got, each.single) <= 0.3


def transformer_engine(each: Compared) -> bool:
    """Accept where every element is close to torch's gradient in float64."""
    return is_close(each.got, each.double, 1e-5, 1.6e-2 if each.is_narrow else 1.3e-6)


def torch_npu(each: Compared) -> bool:
    """Accept where few elements are off by more than a bound, or few by more than that part of their value."""
    precision = 1e-3 if each.is_narrow else 1e-4
    difference = np.abs(each.got - each.same)
    larger = np.maximum(np.abs(each.got), np.abs(each.same))
    few = each.got.size * precision
    absolute = np.sum(difference > precision)
    relative = np.sum(difference > precision * larger)
    return bool(not (absolute > few and relative > few))


def unsloth(each: Compared) -> bool:
    """Accept where the norm of the difference is at most 0.1."""
    return bool(np.sqrt(np.sum((each.got - each.same) ** 2)) <= 0.1)


def torchao(each: Compared) -> bool:
    """Accept where the signal is more than 20 dB above the noise: the norm of the difference is below a tenth."""
    noise = np.sqrt(np.sum((each.got - each.same) ** 2))
    return bool(noise == 0 or 20 * np.log10(np.sqrt(np.sum(each.same**2)) / noise) > 20)


def number(value: float) -> str:
    """Write a tolerance as test files do."""
    return f"{value:g}" if value == 0 or value >= 0.1 else np.format_float_scientific(value, trim="-", exp_digits=1)


def allclose(single: tuple[float, float], narrow: tuple[float, float], project: str) -> Rule:
    """Return a project's rule that every element is close to torch's in the same dtype; pairs are atol and rtol."""
    texts = [f"allclose({number(atol)}, {number(rtol)})" for atol, rtol in (single, narrow)]
    return Rule(project, SAME, texts[0], texts[1], close(single, narrow))


SAME, SINGLE, DOUBLE = "same dtype", "float32", "float64"
"""The dtypes of torch's gradients that rules compare with."""

RULES = (
    allclose((1e-4, 1e-4), (1e-2, 1e-2), "KernelBench"),
    allclose((1e-2, 1e-2), (1e-2, 1e-2), "BackendBench, older KernelBench"),
    Rule("SOL-ExecBench", SAME, "99 % in allclose(1e-2, 1e-2), not 0", "same", sol_exec_bench),
    allclose((1e-3, 1e-2), (1e-3, 1e-2), "GPU MODE, cross_entropy"),
    allclose((1e-5, 1e-5), (1e-5, 1e-5), "robust-kbench"),
    allclose((1e-2, 0), (1e-2, 0), "Triton tutorial, layer norm"),
    allclose((1e-4, 1e-6), (0.2, 0.02), "Liger-Kernel, rms_norm"),
    allclose((30, 5e-2), (100, 5e-2), "Liger-Kernel, experts"),
    Rule(
        "flash-attention",
        SINGLE,
        "dist(g, r) ≤ 2 dist(p, r) + 1e-4",
        "same; + 5e-2 for norms",
        flash_attention,
    ),
    Rule("flash-linear-attention", SINGLE, "RMS(g - r) / RMS(r) < 5e-3", "same", flash_linear_attention),
    Rule(
        "flash-linear-attention in CI",
        SINGLE,
        "RMS ratio < 1e-2 or dist(g, r) ≤ 0.3",
        "same",
        flash_linear_attention_in_ci,
    ),
    Rule("TransformerEngine", DOUBLE, "allclose(1e-5, 1.3e-6)", "allclose(1e-5, 1.6e-2)", transformer_engine),
    Rule("torch_npu", SAME, "assertRtolEqual, prec 1e-4", "prec 1e-3", torch_npu),
    Rule("unsloth", SAME, "norm(g - r) ≤ 0.1", "same", unsloth),
    Rule("torchao", SAME, "norm(r) / norm(g - r) above 20 dB", "same", torchao),
    allclose((1e-4, 1e-4), (5e-2, 5e-2), "gpucheck"),
)
"""The rules, one for each column of the table."""
