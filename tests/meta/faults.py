"""Faults planted in torch's answers: each changes the gradients of one op, and has the verdicts that it may get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from reference.catalogue import OPS
from reference.format import FORMATS, Format
from tests.subject import binding
from tests.subject.mode import MODES, Mode

if TYPE_CHECKING:
    from reference.case import Case
    from reference.op import Op

Gradients = list[torch.Tensor]
Strike = Callable[["Case", Gradients], "Gradients | list[None]"]
"""Returns the gradients of a case as they are with the fault, given torch's own."""


@dataclass(frozen=True)
class Fault:
    """One way for the backward of an op to be wrong in a format."""

    name: str
    op: Op
    form: Format
    verdicts: tuple[str, ...]
    strike: Strike

    def mode(self) -> Mode:
        """Return the mode `backward` with the fault in it."""
        sound = MODES["backward"]

        def gradients(case: Case, device: str) -> list[torch.Tensor | None]:
            return list(self.strike(case, [g for g in sound.gradients(case, device) if g is not None]))

        return replace(sound, gradients=gradients)


def fault(
    name: str, op: str, strike: Strike, form: str = "float32", verdicts: tuple[str, ...] = ("inaccurate",)
) -> Fault:
    """Return a fault by the names of its op and format."""
    return Fault(name, OPS[op], FORMATS[form], verdicts, strike)


def each(change: Callable[[torch.Tensor], torch.Tensor]) -> Strike:
    """Change every gradient alike."""
    return lambda case, gradients: [change(g) for g in gradients]


def where(region: Callable[[torch.Tensor], torch.Tensor], factor: float = 1.5) -> Strike:
    """Multiply the gradient by a factor where the input lies in a region."""

    def strike(case: Case, gradients: Gradients) -> Gradients:
        inputs = binding.leaves(case, "cpu")
        return [torch.where(region(x.detach()), g * factor, g) for x, g in zip(inputs, gradients, strict=True)]

    return strike


def at_kink(place: float, value: float) -> Strike:
    """Give a derivative of this value, which is not the rule's, where the input is at a kink."""

    def strike(case: Case, gradients: Gradients) -> Gradients:
        (x,) = binding.leaves(case, "cpu")
        cotangent = binding.tensor(case.cotangent, case.form, "cpu")
        return [torch.where(x.detach() == place, value * cotangent, gradients[0])]

    return strike


def laid_out(layout: str) -> Strike:
    """Go wrong for one layout of the input."""
    return lambda case, gradients: [
        g * 2 if binding.applies(layout, p) and layout in case.layouts[i : i + 1] else g
        for i, (g, p) in enumerate(zip(gradients, case.primals, strict=True))
    ]


def sized(is_hit: Callable[[torch.Tensor], bool], factor: float = 2.0) -> Strike:
    """Multiply the gradients of some sizes by a factor."""
    return each(lambda g: g * factor if is_hit(g) else g)


def element(number: int) -> Strike:
    """Go wrong in one element alone, by its number; shorter gradients are sound."""

    def change(g: torch.Tensor) -> torch.Tensor:
        flat = g.clone().flatten()
        flat[number : number + 1] *= 1.5
        return flat.reshape(g.shape)

    return each(change)


def past(width: int) -> Strike:
    """Go wrong in the remainder after whole vectors."""

    def change(g: torch.Tensor) -> torch.Tensor:
        flat = g.clone().flatten()
        flat[len(flat) - len(flat) % width :] *= 1.5
        return flat.reshape(g.shape)

    return each(change)


def unsummed(case: Case, gradients: Gradients) -> Gradients:
    """Divide by the number of elements that were summed: the mean over a broadcast axis, where the sum is due."""
    return [g / max(case.cotangent.size // max(g.numel(), 1), 1) for g in gradients]


def stale(case: Case, gradients: Gradients) -> Gradients:
    """Differentiate at inputs that were overwritten after the forward, as an unguarded saved tensor is."""
    moved = replace(case, primals=tuple(np.roll(p, 1) for p in case.primals), layouts=())
    return [g for g in MODES["backward"].gradients(moved, "cpu") if g is not None]


def without_cotangent(case: Case, gradients: Gradients) -> Gradients:
    """Answer as though the cotangent were one."""
    return [g / binding.tensor(case.cotangent, case.form, "cpu").reshape(g.shape) for g in gradients]


def without_mean(case: Case, gradients: Gradients) -> Gradients:
    """Drop the term of softmax's gradient that makes it sum to 0."""
    (x,) = binding.leaves(case, "cpu")
    return [torch.softmax(x.detach(), -1) * binding.tensor(case.cotangent, case.form, "cpu")]


def raised(case: Case, gradients: Gradients) -> Gradients:
    """Have no kernel."""
    message = "the back end gave up"
    raise NotImplementedError(message)


def inputs_back(case: Case, gradients: Gradients) -> Gradients:
    """Return the inputs as their own gradients."""
    return [x.detach() for x in binding.leaves(case, "cpu")]


ZEROS = each(torch.zeros_like)
NANS = each(lambda g: torch.full_like(g, float("nan")))
FAKES = {"zeros": ZEROS, "nans": NANS, "inputs": inputs_back}
"""Back ends that compute nothing: they must fail every op."""

LOST = ("lost",)
MALFORMED = ("malformed",)
CONVENTION = ("convention",)
ANY = ("inaccurate", "lost", "convention")

FAULTS = (
    fault("sign", "square", each(torch.neg)),
    fault("factor_1_plus_2_to_-20", "sin", each(lambda g: g * (1 + 2**-20)), "float64"),
    fault("factor_1_plus_2_to_-15", "sin", each(lambda g: g * (1 + 2**-15))),
    fault("factor_1_plus_2_to_-5", "sin", each(lambda g: g * (1 + 2**-5)), "bfloat16"),
    fault("factor_1_plus_2_to_-7", "sin", each(lambda g: g * (1 + 2**-7)), "float16"),
    fault("sixteen_ulp", "exp", each(lambda g: g * (1 + 2**-19))),
    fault("dropped_term", "softmax", without_mean),
    fault(
        "swapped_arguments", "sub", lambda case, g: [g[0], g[0].reshape(g[1].shape)] if g[0].shape == g[1].shape else g
    ),
    fault("missing_broadcast_sum", "add", unsummed),
    fault("only_beyond_10", "sin", where(lambda x: x.abs() > 10), verdicts=ANY),
    fault("only_negative", "sin", where(lambda x: x < 0), verdicts=ANY),
    fault("only_integers", "cos", where(lambda x: x == x.trunc()), verdicts=ANY),
    fault("only_subnormal_inputs", "square", where(lambda x: (x != 0) & (x.abs() < 2.0**-126), 8.0), verdicts=ANY),
    fault("kink_of_relu", "relu", at_kink(0, 1.0), verdicts=CONVENTION),
    fault("kink_of_abs", "abs", at_kink(0, 1.0), verdicts=CONVENTION),
    fault("kink_of_relu6", "relu6", at_kink(6, 1.0), verdicts=CONVENTION),
    fault("kink_of_hardswish", "hardswish", at_kink(3, 1.5), verdicts=CONVENTION),
    fault("edge_of_sqrt", "sqrt", at_kink(0, 0.0), verdicts=("convention", "lost")),
    fault("past_the_vector", "sin", past(8)),
    fault("only_strided", "sin", laid_out("strided")),
    fault("only_transposed", "sin", laid_out("transposed")),
    fault("only_without_dimensions", "sin", sized(lambda g: g.ndim == 0)),
    fault("only_large", "sin", sized(lambda g: g.numel() > 200)),
    fault("one_element_of_257", "sin", element(200)),
    fault("stale_saved_tensor", "sin", stale, verdicts=ANY),
    fault("cotangent_ignored", "sin", without_cotangent),
    fault("mean_by_n_minus_1", "mean", each(lambda g: g * 4 / 3)),
    fault("through_bfloat16", "exp", each(lambda g: g.to(torch.bfloat16).to(g.dtype)), verdicts=ANY),
    fault(
        "flushes_to_zero", "exp", each(lambda g: torch.where(g.abs() < 1e-30, 0, g)), verdicts=("lost", "inaccurate")
    ),
    fault("saturates_early", "exp", each(lambda g: torch.where(g.abs() > 1e20, torch.inf, g)), verdicts=LOST),
    fault("nan_somewhere", "sin", where(lambda x: x > 100, float("nan")), verdicts=LOST),
    fault("zeros", "sin", ZEROS, verdicts=LOST),
    fault("nans", "sin", NANS, verdicts=LOST),
    fault("inputs_back", "sin", inputs_back, verdicts=ANY),
    fault("wrong_dtype", "sin", each(torch.Tensor.double), verdicts=MALFORMED),
    fault("wrong_shape", "sin", each(lambda g: g.flatten()), verdicts=MALFORMED),
    fault("sparse", "sin", each(torch.Tensor.to_sparse), verdicts=MALFORMED),
    fault("no_gradient", "sin", lambda case, gradients: [None], verdicts=MALFORMED),
    fault("raises", "sin", raised, verdicts=MALFORMED),
)
"""The faults; torch's own answer is the sound twin of each."""
