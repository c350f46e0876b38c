"""Faults planted in the kernels of a device: ``python -m tests.meta.device_faults`` prints which are noticed.

It needs a process of its own, since torch takes up no new device once a backward has run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.tree import single
from strategies import fixed_cases
from tests.meta import pyrite
from tests.subject.mode import MODES
from tests.verdict.comparison import UnsupportedError, judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.meta.pyrite import Strike
    from tests.subject.mode import Mode

SOUND = MODES["backward"]
COMPARED = ("backward", "vmap_grad", "jacfwd", "rr")
"""The modes in which the sound device is compared with the CPU."""


def cases(op: str, form: str) -> Iterator[Case]:
    """Yield the fixed cases of an op, hard points or small tensors, each with contiguous and with strided inputs."""
    for case in fixed_cases(OPS[op], FORMATS[form], whole=True):
        yield case
        yield replace(case, layouts=("strided",) * len(case.primals))


def verdicts(case: Case, mode: Mode, device: str) -> set[tuple[str, ...]]:
    """Return what is wrong in a mode on a device: input, verdict, what came, and where; or that it is unsupported."""
    try:
        return {
            (miss.wrt, miss.verdict, miss.got, *map(float.hex, miss.point.values()))
            for miss in judged(mode.asks(case), mode, device).misses
        }
    except UnsupportedError:
        return {("unsupported",)}


@dataclass(frozen=True)
class Fault:
    """What is wrong with one kernel, and the derivative that it shows in."""

    name: str
    kernel: str
    """The operator as torch names it, such as ``aten::cos``."""

    strike: Strike | None
    """What it does to the result; without one the result is left on the host."""

    op: str
    """The op of the catalogue whose derivative uses the kernel."""

    form: str = "float32"
    silent: str = "bfloat16"
    """A format in which it does not show; empty where it shows in all."""


def ulps(count: int) -> Strike:
    """Be off by so many ulps, away from 0."""

    def strike(result: torch.Tensor, _arguments: tuple[object, ...]) -> torch.Tensor:
        for _ in range(count):
            result = torch.nextafter(result, torch.full_like(result, torch.inf).copysign(result))
        return result

    return strike


def in_format(strike: Strike, *formats: torch.dtype) -> Strike:
    """Strike in some formats only."""
    return lambda result, arguments: strike(result, arguments) if result.dtype in formats else result


def one_element(result: torch.Tensor, _: tuple[object, ...]) -> torch.Tensor:
    """Be wrong in the last element."""
    wrong = result.clone()
    wrong.view(-1)[-1:] += 1
    return wrong


def strided(result: torch.Tensor, arguments: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Be wrong where the input is not contiguous."""
    return result if arguments[0].is_contiguous() else result * 2


def long(result: torch.Tensor, _: tuple[object, ...]) -> torch.Tensor:
    """Be wrong past 32 elements."""
    return (
        result
        if result.numel() <= 32
        else torch.cat([result.flatten()[:32], result.flatten()[32:] * 2]).reshape(result.shape)
    )


F32 = torch.float32
FAULTS = (
    Fault("off_by_8_ulp", "aten::cos", in_format(ulps(8), F32), "sin"),
    Fault("one_element", "aten::cos", in_format(one_element, F32), "sin"),
    Fault(
        "one_dtype",
        "aten::tanh_backward",
        in_format(lambda r, _: r * 1.5, torch.float16),
        "tanh",
        form="float16",
        silent="float32",
    ),
    Fault("one_layout", "aten::cos", in_format(strided, F32), "sin"),
    Fault("past_a_size", "aten::sigmoid_backward", in_format(long, F32), "sigmoid"),
    Fault("wrong_device", "aten::tanh_backward", None, "tanh", silent=""),
    Fault("returns_its_input", "aten::sigmoid_backward", in_format(lambda _, a: a[0].clone(), F32), "sigmoid"),
    Fault("returns_zeros", "aten::mul", in_format(lambda r, _: torch.zeros_like(r), F32), "sin"),
    Fault("returns_nan", "aten::gelu_backward", in_format(lambda r, _: torch.full_like(r, torch.nan), F32), "gelu"),
    Fault("forgets_the_sign", "aten::neg", in_format(lambda r, _: -r, F32), "cos"),
    Fault("sum_misses_a_term", "aten::sum", in_format(lambda r, a: r - a[0].flatten()[-1], F32), "linear"),
)


LIES = {
    "zeros": lambda gradient, _: torch.zeros_like(gradient),
    "input": lambda gradient, primal: torch.full_like(gradient, float(primal.flat[0])),
    "host": lambda gradient, _: gradient.cpu(),
}
"""What a device that computes nothing may answer to everything: a gradient by the sound one and the input."""


def differs(op: str, form: str, mode: Mode = SOUND) -> bool:
    """Say whether anything in a mode is wrong on the device and right with torch on the CPU, or the other way round."""
    return any(
        verdicts(case, mode, pyrite.NAME) != verdicts(case, mode, "cpu")
        for case in (cases(op, form) if mode.order == 1 else fixed_cases(OPS[op], FORMATS[form], 2, whole=True))
    )


def noticed(fault: Fault) -> dict[str, bool]:
    """Break a kernel; say whether anything differs before, with the fault, in a format without it, and afterwards."""
    before = differs(fault.op, fault.form)
    with pyrite.broken(fault.kernel, fault.strike):
        caught = differs(fault.op, fault.form)
        elsewhere = bool(fault.silent) and differs(fault.op, fault.silent)
    return {"before": before, "caught": caught, "elsewhere": elsewhere, "after": differs(fault.op, fault.form)}


def believed(lie: str) -> list[str]:
    """Return the ops of which the lie is not noticed."""
    lying = replace(
        SOUND, gradients=lambda case, device: list(map(LIES[lie], SOUND.gradients(case, device), case.primals))
    )

    def is_noticed(op: str) -> bool:
        return any(verdicts(case, lying, pyrite.NAME) for case in fixed_cases(OPS[op], FORMATS["float32"], whole=True))

    return [op for op in OPS if not is_noticed(op)]


def one_ulp() -> list[float]:
    """Return the worst error of the device in ulps, with a sound cosine and with one that is an ulp off; both agree."""
    points = np.linspace(0.25, 1.25, 9).astype(np.float32).astype(np.float64)
    case = Case(single(OPS["sin"]), FORMATS["float32"], (points,), np.ones(9))
    sound = judged(case, SOUND, pyrite.NAME)
    with pyrite.broken("aten::cos", ulps(1)):
        off = judged(case, SOUND, pyrite.NAME)
    assert not sound.misses
    assert not off.misses
    return [sound.worst_ulp, off.worst_ulp]


def main() -> None:
    """Print what is noticed, a line of JSON each."""
    pyrite.register()
    findings: dict[str, object] = {fault.name: noticed(fault) for fault in FAULTS}
    findings |= {lie: believed(lie) for lie in LIES}
    findings["one_ulp"] = one_ulp()
    for name in COMPARED:
        findings[name] = [op for op in OPS if differs(op, "float32", MODES[name])]
    for name, found in findings.items():
        sys.stdout.write(json.dumps([name, found]) + "\n")


if __name__ == "__main__":
    main()
