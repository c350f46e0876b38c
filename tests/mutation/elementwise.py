"""Mutants in the backward of every elementwise op.

A mutant changes what torch's own backward returns. The assay is asked in float32, with the default
profile's tests and the known deviations on file; `torch.autograd.gradcheck`, in its full mode and with
its default tolerances, in float64, for which it is made, at 25 inputs drawn from the domain between
-9 and 9. A mutant that changes no finite gradient at hard points is not planted.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
import torch
from hypothesis import HealthCheck, Phase, given, settings
from rich.console import Console
from rich.progress import track
from rich.table import Table

from reference.case import Case
from reference.catalogue import OPS
from reference.convention import critical_expressions, infinite_points, ruled_points
from reference.format import FORMATS
from reference.tree import single
from strategies import op_cases
from strategies.points import bounds, hard
from tests.subject import binding
from tests.subject.mode import MODES, Mode
from tests.test_conventions import test_gradient_follows_the_documented_rule as kink_test
from tests.test_positions import test_gradient_is_within_the_allowance_at_any_position as position_test
from tests.verdict import deviation
from tests.verdict.assay import Assay
from tests.verdict.choice import PROFILES
from tests.verdict.explanation import DisagreementError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.format import Format
    from reference.op import Op

    Tensors = Sequence[torch.Tensor]

ENTRIES, WITHIN = 25, 9.0
"""How many inputs gradcheck is given, and how far from 0 they lie at most; both numbers are arbitrary."""

# Without phases that shrink, since nobody reads the failure; and with the same draws each time.
DRAWS = settings(
    phases=[Phase.generate], derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)

KNOWN = deviation.read(deviation.FILE, OPS)


@dataclass(frozen=True)
class Call:
    """A call whose backward is asked: of which op, in which format, at which inputs."""

    op: Op
    form: Format
    inputs: Tensors

    @property
    def first(self) -> torch.Tensor:
        """The first input."""
        return self.inputs[0]


@dataclass(frozen=True)
class Mutant:
    """A way to be wrong, and the elements that it strikes."""

    name: str
    change: Callable[[torch.Tensor, Format], torch.Tensor]
    """Returns the gradient as it is where it is wrong."""

    strikes: Callable[[Call], torch.Tensor]
    """Returns, in the shape of the inputs, which elements are wrong."""

    def gradients(self, call: Call, sound: Tensors) -> list[torch.Tensor]:
        """Return the gradients as the mutant has them."""
        struck = self.strikes(call)
        return [torch.where(struck, self.change(g, call.form), g) for g in sound]


def scaled(gradient: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply in float64 and round to the dtype of the gradient."""
    return (gradient.double() * factor).to(gradient.dtype)


def everywhere(call: Call) -> torch.Tensor:
    """Strike every element."""
    return torch.ones_like(call.first, dtype=torch.bool)


def beyond_median(call: Call) -> torch.Tensor:
    """Strike where the first input is larger in magnitude than half the values of its domain."""
    lower, upper = bounds(call.form, call.op.interval(call.op.inputs[0]))
    # Values of a float format are ordered as their ordinals are, so the middle ordinal is that of the median.
    magnitudes = np.abs([max(lower, 0) or min(upper, 0), max(-lower, upper)])
    return call.first.abs() > float(call.form.values(np.array([magnitudes.sum() // 2]))[0])


def at_kinks(call: Call) -> torch.Tensor:
    """Strike kinks and edges of the domain."""
    values = [x.double().numpy() for x in call.inputs]
    with np.errstate(all="ignore"):  # an expression need not be defined at every input
        zeros = [sympy.lambdify(call.op.symbols, e, "numpy")(*values) == 0 for e in critical_expressions(call.op)]
    return torch.tensor(np.any(zeros, axis=0) if zeros else np.zeros(values[0].shape, dtype=bool)).reshape(
        call.first.shape
    )


def at_infinity(call: Call) -> torch.Tensor:
    """Strike where an input is infinite."""
    return torch.stack([x.isinf() for x in call.inputs]).any(dim=0)


def numbered(call: Call) -> torch.Tensor:
    """Return the number of each element."""
    return torch.arange(call.first.numel()).reshape(call.first.shape)


MUTANTS = (
    Mutant("sign", lambda g, _: -g, everywhere),
    Mutant("times 1 + 64 u", lambda g, form: scaled(g, 1 + 64 * form.unit), everywhere),
    Mutant("plus 2^-10", lambda g, _: g + 2**-10, everywhere),
    Mutant("rounded to bfloat16", lambda g, _: g.bfloat16().to(g.dtype), everywhere),
    Mutant("half as much again beyond the median magnitude", lambda g, _: scaled(g, 1.5), beyond_median),
    Mutant("plus 1 at kinks and edges", lambda g, _: g + 1, at_kinks),
    Mutant("plus 1/2 at infinite inputs", lambda g, _: g + 0.5, at_infinity),
    Mutant("1 for inputs below 0", lambda g, _: torch.ones_like(g), lambda call: call.first < 0),
    Mutant("plus 1 at -0", lambda g, _: g + 1, lambda call: (call.first == 0) & call.first.signbit()),
    Mutant(
        "half as much again for subnormal inputs",
        lambda g, _: scaled(g, 1.5),
        lambda call: call.first.abs() < call.form.smallest_normal,
    ),
    Mutant(
        "0 above half the square root of the largest value",
        lambda g, _: g * 0,
        lambda call: call.first.abs() > call.form.largest**0.5 / 2,
    ),
    Mutant(
        "plus 1 in the tail after whole vectors of 8",
        lambda g, _: g + 1,
        lambda call: numbered(call) >= call.first.numel() // 8 * 8,
    ),
    Mutant("plus 1 in one element of a thousand", lambda g, _: g + 1, lambda call: numbered(call) % 1000 == 999),
)


def mode(mutant: Mutant) -> Mode:
    """Return backward with the mutant in it."""
    sound = MODES["backward"]

    def gradients(case: Case, device: str) -> list[torch.Tensor | None]:
        found = [g for g in sound.gradients(case, device) if g is not None]
        if len(set(case.batches)) > 1:
            return list(found)  # an input that was broadcast has no element of its own for each of the other
        # Contiguous, whatever the case asks: a tail after vectors is one of the elements in their order.
        inputs = [x.detach() for x in binding.leaves(replace(case, layouts=()), device)]
        return list(mutant.gradients(Call(case.tree.root.op, case.form, inputs), found))

    return replace(sound, gradients=gradients)


def is_planted(op: Op, form: Format, mutant: Mutant) -> bool:
    """Say whether the mutant changes a finite gradient at hard points or where torch's rule decides."""
    # So many hard values of each input that all combinations of them are a few thousand points.
    sides = [hard(form, op.interval(name), op, {1: 2000, 2: 60, 3: 15}[len(op.inputs)]) for name in op.inputs]
    ruled = np.array([*ruled_points(op), *infinite_points(op)], dtype=np.float64).reshape(-1, len(op.inputs)).T
    columns = tuple(
        np.append(column, by_rule) for column, by_rule in zip(np.meshgrid(*sides, indexing="ij"), ruled, strict=True)
    )
    case = Case(single(op), form, columns, np.ones_like(columns[0]))
    pairs = zip(MODES["backward"].gradients(case, "cpu"), mode(mutant).gradients(case, "cpu"), strict=True)
    return any(bool((a.isfinite() & (a != b)).any()) for a, b in pairs if a is not None and b is not None)


def assay_catches(op: Op, form: Format, mutant: Mutant) -> bool:
    """Say whether a conformance test of the op fails with the mutant in torch's backward."""
    assay = Assay(op.name, mode(mutant), form, "cpu", KNOWN)

    @settings(DRAWS, max_examples=PROFILES["default"].op_cases)
    @given(op_cases(op, form))
    def drawn(case: Case) -> None:
        assay.assert_agrees(case)

    try:
        drawn()
        position_test(op, form, PROFILES["default"].sizes, assay)
        for place in [*ruled_points(op), *infinite_points(op)]:
            kink_test(op, [place], form, assay)
    except DisagreementError:
        return True
    return False


def gradcheck_catches(op: Op, mutant: Mutant | None) -> bool:
    """Say whether gradcheck fails the op with the mutant in its backward; without one, torch's own backward."""
    form = FORMATS["float64"]

    class Mutated(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(*inputs)
            return binding.call(op)(list(inputs))

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
            inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            with torch.enable_grad():
                sound = torch.autograd.grad(binding.call(op)(inputs), inputs, cotangent)
            return tuple(
                sound if mutant is None else mutant.gradients(Call(op, form, [x.detach() for x in inputs]), sound)
            )

    rng = np.random.default_rng(0)
    inputs = []
    for name in op.inputs:
        interval = op.interval(name)
        lower, upper = max(float(interval.lower), -WITHIN), min(float(interval.upper), WITHIN)
        inputs.append(torch.tensor(rng.uniform(lower, upper, ENTRIES), dtype=torch.float64, requires_grad=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return not torch.autograd.gradcheck(Mutated.apply, inputs, raise_exception=False)


def report() -> None:
    """Print how many mutants of each kind were planted and caught, and which the assay missed."""
    planted, ours, theirs = Counter[str](), Counter[str](), Counter[str]()
    missed = []
    ops = [op for op in OPS.values() if op.elementwise]
    form = FORMATS["float32"]
    by_op: Counter[str] = Counter()
    for op in track(ops, description="planting"):
        unusable = gradcheck_catches(op, None)  # it fails torch's own backward, and so can catch nothing
        for mutant in MUTANTS:
            if not is_planted(op, form, mutant):
                continue
            by_op[op.name] += 1
            planted[mutant.name] += 1
            if assay_catches(op, form, mutant):
                ours[mutant.name] += 1
            else:
                missed.append(f"{op.name}: {mutant.name}")
            theirs[mutant.name] += not unusable and gradcheck_catches(op, mutant)
    table = Table("mutant", "planted", "assay", "gradcheck")
    for name in (mutant.name for mutant in MUTANTS):
        table.add_row(name, *(str(counts[name]) for counts in (planted, ours, theirs)))
    table.add_row("all", *(str(counts.total()) for counts in (planted, ours, theirs)))
    Console().print(table)
    Console().print(
        f"{len(ops)} ops, each with {min(by_op.values())} mutants or more. "
        f"Missed by the assay: {'; '.join(missed) or 'none'}"
    )
