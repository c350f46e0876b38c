"""Mutants in the backward of every tensor op, at sizes around blocks and in real use.

A mutant changes what torch's own backward returns, in float32 and in bfloat16. The assay is asked at fixed cases: with
axes of 33, 129 and 257, and with all axes of 33; and at those of real use, which every profile asks. It is asked with
the promise that the entry declares, and with the sharpest that torch keeps at those cases, which the gate holds it to.
`torch.autograd.gradcheck` is asked in float64, in its full mode and with its default tolerances, at small shapes of
the op and with all axes of 3. A mutant that changes no finite gradient at the cases, but for the order in which sums
are rounded, is not planted; cases at which torch itself deviates are left out.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from reference.case import NARROW, PROMISES, Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.oracle import answer
from strategies.cases import case_in_use, fixed_cases, long_case, real_cases
from tests.mutation.plants import is_struck, plants, sound
from tests.runs.table import WIDTH
from tests.subject import binding
from tests.verdict.comparison import is_agreed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.format import Floats, Format
    from reference.op import Op
    from tests.mutation.plants import Change, Gradients, Plant

DTYPES = ("float32", "bfloat16")

LENGTHS = (33, 129, 257)
"""Lengths of a long axis, each one more than a whole number of blocks."""

SIDE, SMALL_SIDE = 33, 3
"""The length of all axes, so that they can be mistaken for each other: for the assay, and for gradcheck."""

AROUND_BLOCKS, IN_USE = "around blocks", "in real use"
"""The sizes at which the assay is asked."""


@dataclass(frozen=True)
class Fate:
    """Whether the assay catches a mutant at the cases of one size, and by how much it misses it."""

    op: str
    plant: Plant
    size: str
    dtype: str
    is_caught: bool
    """Whether it is caught where the op is held to the promise that its entry declares."""

    kept: str
    """The sharpest promise that torch keeps at the cases."""

    is_caught_by_kept: bool
    """Whether it is caught where the op is held to that sharper promise."""

    share: float
    """The largest part of the declared allowance that the mutant uses, where it is missed; infinite without a bound."""


@dataclass(frozen=True)
class Checked:
    """Whether gradcheck catches a mutant at small shapes."""

    op: str
    kind: str
    is_caught: bool


def square(op: Op, form: Format, length: int) -> Case:
    """Return a case in which all axes have this length, or that of the longest in real use where that is shorter."""
    length = min(length, max(op.in_use.values()))
    return case_in_use(op, form, dict.fromkeys(op.letters, length), (length,) if op.rows else ())


def sized(op: Op, form: Format) -> dict[str, list[Case]]:
    """Return the cases that the assay is asked, by their size."""
    blocks = [*(long_case(op, form, length) for length in LENGTHS), square(op, form, SIDE)]
    return {AROUND_BLOCKS: blocks, IN_USE: list(real_cases(op, form))}


def passes(case: Case, gradients: Gradients) -> bool:
    """Say whether gradients pass the assay: a mutant that does is missed."""
    return is_agreed(case, [binding.on_host(gradient) for gradient in gradients])


def worst_share(case: Case, gradients: Gradients) -> float:
    """Return the largest part of its allowance that an entry uses."""
    return max(_share(found, binding.on_host(g)) for found, g in zip(answer(case), gradients, strict=True))


def _share(found: Any, got: Floats) -> float:
    # The truth is a sum of two floats, and `offset` is how far the ball of the allowance lies beside it.
    distance, allowed = np.abs(got - found.centre - found.rest), found.radius + np.abs(found.offset)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(distance == 0, 0.0, distance / allowed)
    return float("inf") if (np.isinf(allowed) & (distance > 0)).any() else float(share.max(initial=0.0))


def fates(op: Op, dtype: str) -> Iterator[Fate]:
    """Plant the mutants of an op, and ask the assay about each at every size; one that changes nothing is left out."""
    for size, cases in sized(op, FORMATS[dtype]).items():
        asked = [(case, gradients) for case in cases if passes(case, gradients := sound(case))]
        kept = sharpest(asked)
        for plant in plants(op, dtype):
            pairs = ((case, mutant(plant, case, gradients)) for case, gradients in asked)
            changed = [(case, mutated) for case, mutated in pairs if mutated is not None]
            if not changed:
                continue
            is_caught = any(not passes(*each) for each in changed)
            by_kept = is_caught or any(not passes(replace(case, promise=kept), mutated) for case, mutated in changed)
            share = 0.0 if is_caught else max(worst_share(*each) for each in changed)
            yield Fate(op.name, plant, size, dtype, is_caught, kept, by_kept, share)


def sharpest(asked: Sequence[tuple[Case, Gradients]]) -> str:
    """Return the sharpest promise that torch's own gradients keep at all cases; the loosest where they keep none."""

    def is_kept(promise: str) -> bool:
        return all(passes(replace(case, promise=promise), gradients) for case, gradients in asked)

    return next(filter(is_kept, PROMISES), PROMISES[-1])


def mutant(plant: Plant, case: Case, gradients: Gradients) -> Gradients | None:
    """Return the gradients with the mutant in them, or None where it changes none."""
    # A change may write into what it is given, and the gradients are needed for the next mutant.
    mutated = plant.change(case, [gradient.clone() for gradient in gradients])
    return mutated if mutated is not None and is_struck(plant, case, gradients, mutated) else None


def gradcheck_catches(case: Case, change: Change) -> bool:
    """Say whether gradcheck fails the op of a case once its gradients are changed."""
    call = binding.call(case.tree.root.op, case.seed)

    class Mutated(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(*inputs)
            return call(list(inputs))

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            primals = tuple(binding.on_host(saved) for saved in ctx.saved_tensors)
            with torch.enable_grad():
                asked = replace(case, primals=primals, cotangent=binding.on_host(cotangent))
                gradients = change(asked, sound(asked)) or sound(asked)
            mutated = dict(zip(case.asked, gradients, strict=True))
            return tuple(mutated.get(number) for number in range(len(primals)))  # None for what is not asked

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return not torch.autograd.gradcheck(Mutated.apply, binding.leaves(case, "cpu"), raise_exception=False)


def gradchecked(op: Op) -> Iterator[Checked]:
    """Ask gradcheck about each mutant that changes an op at small shapes."""
    form = FORMATS["float64"]
    small = [*fixed_cases(op, form, whole=True), square(op, form, SMALL_SIDE)]
    # Where gradcheck fails torch's own gradients, it has not caught a mutant if it fails those.
    usable = [case for case in small if not gradcheck_catches(case, lambda _, gradients: gradients)]
    for plant in plants(op, form.name):
        changed = [case for case in small if mutant(plant, case, sound(case)) is not None]
        if changed:
            is_caught = any(gradcheck_catches(case, plant.change) for case in changed if case in usable)
            yield Checked(op.name, plant.kind, is_caught)


def table(found: Sequence[Fate], checked: Sequence[Checked], dtype: str) -> Table:
    """Return the table of a dtype: how many mutants of each kind were planted, and how many of them were caught."""
    some = [each for each in found if each.dtype == dtype]
    is_narrow = FORMATS[dtype].bits <= NARROW
    result = Table(box=box.SIMPLE, title=f"Mutants of tensor ops in {dtype}", title_justify="left")
    result.add_column("caught of planted")
    for size in (AROUND_BLOCKS, IN_USE):
        for name in (size, *["as kept"] * is_narrow):
            result.add_column(name, justify="right")
    if not is_narrow:
        result.add_column("gradcheck, small", justify="right")
    kinds = list(dict.fromkeys(each.plant.kind for each in some))
    declared: dict[str, list[str]] = {promise: [] for promise in PROMISES}
    for op in OPS.values():
        declared[op.inside].append(op.name)
    promised = [(f"all, of ops that declare {promise}", set(kinds), ops) for promise, ops in declared.items()]
    promised *= is_narrow  # in wider formats all promises are the same
    for name, of_kinds, of_ops in [*((kind, {kind}, OPS) for kind in kinds), ("all", set(kinds), OPS), *promised]:
        cells = []
        for size in (AROUND_BLOCKS, IN_USE):
            here = [o for o in some if o.size == size and o.plant.kind in of_kinds and o.op in of_ops]
            cells.append(_of([each.is_caught for each in here]))
            cells += [_of([each.is_caught_by_kept for each in here])] * is_narrow
        small = [each.is_caught for each in checked if each.kind in of_kinds and each.op in of_ops]
        result.add_row(name, *cells, *[_of(small)] * (not is_narrow))
    return result


def _of(caught: Sequence[bool]) -> str:
    return f"{sum(caught)} of {len(caught)}" if caught else "none planted"


def missed(found: Sequence[Fate]) -> Table:
    """Return the table of missed mutants: how much of the allowance each uses, and whether a promise shows it."""
    result = Table(box=box.SIMPLE)
    for name in ("dtype", "op", "declares", "within the allowance, and how much of it is used"):
        result.add_column(name, overflow="fold")
    rows: dict[tuple[str, str], list[Fate]] = defaultdict(list)
    for each in found:
        if not each.is_caught:
            rows[each.dtype, each.op].append(each)
    for (dtype, op), some in rows.items():
        declared = OPS[op].inside if FORMATS[dtype].bits <= NARROW else ""
        said: dict[str, list[str]] = defaultdict(list)
        for each in some:
            ending = f"; {each.kept} shows it" if each.is_caught_by_kept else ""
            said[each.size].append(f"{each.plant.kind}{_where(each.plant)}: {_used(each.share)}{ending}")
        result.add_row(dtype, op, declared, "\n".join(f"{size}: {', '.join(said[size])}" for size in said))
    return result


def _where(plant: Plant) -> str:
    return f" ({plant.where})" if plant.where else ""


def _used(share: float) -> str:
    return "no bound" if np.isinf(share) else f"{share:.2g}"


def report() -> None:
    """Print how many mutants of each kind were planted and caught, and why the others were not."""
    ops = [op for op in OPS.values() if op.axes and not op.elementwise]
    torch.set_num_threads(1)  # most tensors are so small that more threads only cost time
    found, checked = [], []
    for op in track(ops, description="planting in tensor ops"):
        checked += list(gradchecked(op))
        for dtype in DTYPES:
            found += list(fates(op, dtype))
    console = Console(width=None if Console().is_terminal else WIDTH)
    for dtype in DTYPES:
        console.print(table(found, checked, dtype))
    console.print(
        f"{len(ops)} ops. What was missed is within the allowance of the declared promise at every case. In bfloat16 a "
        "promise of format bounds a long sum by little, or not at all; where torch keeps a sharper one than the entry "
        "declares, that may show the mutant:"
    )
    console.print(missed(found))
