"""What a failing test says: what, where, got, should be, how far, how sure, and how to see it again."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from reference.case import NARROW, PROMISES
from reference.oracle import answer
from tests.verdict.diagnosis import diagnosed, seen
from tests.verdict.fault import faults
from tests.verdict.formula import formulas
from tests.verdict.pattern import described, labelled
from tests.verdict.question import asked_again, derivative, inputs_of, manner, point_of, where_asked
from tests.verdict.reduction import reproducing
from tests.verdict.snippet import snippet, watching
from tests.verdict.value import wrong_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.case import Case
    from tests.subject.mode import Mode
    from tests.verdict.comparison import Miss
    from tests.verdict.fault import Fault


MOST_VALUES = 8
"""Elements of inputs that a headline has the values of; of more it has the shapes. The number is arbitrary."""

MOST_INTERVALS = 4
"""Intervals of misses that are named; more than these few are no pattern. The number is arbitrary."""


class DisagreementError(AssertionError):
    """A gradient is not what it should be.

    The explanation is written when it is read: that takes seconds, and Hypothesis drops many such errors while it looks
    for a smaller example.
    """

    is_brief = False
    """Whether a line is enough, since the same was explained before."""

    def __init__(self, misses: Sequence[Miss], mode: Mode, device: str) -> None:
        """Keep what the explanation needs: the misses of one case, of which the first is explained."""
        super().__init__(misses, mode, device)
        self.miss, self._misses, self._mode, self._device = misses[0], misses, mode, device

    def __str__(self) -> str:
        """Explain the first miss."""
        return self.line if self.is_brief else self._explanation

    @cached_property
    def _explanation(self) -> str:
        return explained(self._misses, self._mode, self._device)

    @property
    def about(self) -> str:
        """The name of the op, or ``tree`` where there are several."""
        tree = self.miss.case.tree
        return tree.root.op.name if tree.is_single else "tree"

    @cached_property
    def faults(self) -> list[Fault]:
        """What is known of the faults that the misses show."""
        return faults(self._misses)

    @property
    def line(self) -> str:
        """The verdict, how far off and where, in a line."""
        miss = self.miss
        if miss.verdict == "malformed":
            return f"malformed: {miss.got}"
        at = f" at {list(miss.index)}" if miss.index else ""
        if miss.case.is_pointwise and miss.case.point_count == 1:
            at = f" at {point_of(miss)}"
        far = f", {miss.share:.3g} times the allowance" if np.isfinite(miss.share) else ""
        return f"{miss.verdict}{far}: d{miss.wrt}{at} is {miss.got}, should be {miss.expected}"


def explained(misses: Sequence[Miss], mode: Mode, device: str) -> str:
    """Explain the first of some misses of a case, so that a reader can check it without this project.

    What comes first is of the case as it was asked; the snippet at the end is of the smallest case that still misses.
    """
    miss = misses[0]
    tree = miss.case.tree
    small = reproducing(miss, mode, device)
    along = None if miss.case.along is None else tree.leaves[miss.case.along].name
    # Where nothing smaller misses, and where it takes a layout, the point alone would mislead.
    is_whole = small.whole is miss.whole or bool(small.whole.layouts)
    lines = [*headline(miss, mode, device, is_whole=is_whole), *_distances(miss)]
    if miss.verdict != "malformed":
        lines += _spread([m for m in misses if (m.verdict, m.wrt) == (miss.verdict, miss.wrt)], mode, device)
        lines += _suspected(small.whole, miss, device)
    lines += ["what is due is what the entry states at this point"] * bool(miss.case.stated)
    lines += ["", *formulas(tree, miss.wrt, along), ""]
    text = snippet(small.whole, miss.wrt, mode, device, small.index)
    if small.overwritten is not None:
        text = watching(text, small.overwritten.name)
    again = asked_again(text, miss.case, mode, device, _simpler(small, miss))
    return "\n".join([*lines, again])


def _simpler(small: Miss, miss: Miss) -> str:
    """Say what a snippet prints whose inputs are other than those of the miss."""
    if (small.got, small.expected) == (miss.got, miss.expected) or miss.verdict == "malformed":
        return ""
    at = f" at {list(small.index)}" if small.index else ""
    return f", of simpler inputs, where {small.got} comes{at} and {small.expected} is due"


def headline(miss: Miss, mode: Mode, device: str, *, is_whole: bool) -> list[str]:
    """Say which derivative is wrong, where and how it was asked for, what came and what is due.

    A derivative at a point is told with its inputs; where the miss needs the whole case, with its shapes and layouts.
    """
    tree, case = miss.case.tree, miss.whole if is_whole or not miss.case.is_pointwise else miss.case
    where = where_asked(case, mode, device)
    if miss.overwritten is not None:
        said = f'; an entry that means to says overwrites=("{miss.overwritten.name}",)'
        is_input = tree.is_single and miss.overwritten.name in tree.root.op.inputs
        return [f"{tree} of {inputs_of(case)} {where} is malformed:", f"{miss.got}{said * is_input}"]
    elements = sum(primal.size for primal in case.primals)
    if elements <= MOST_VALUES:
        at = "; ".join(filter(None, [point_of(miss), manner(case)]))
    else:
        at = f"{list(miss.index)} of {inputs_of(case)}" if miss.index else inputs_of(case)
    sure = "" if miss.truth is None else f" (certified to {miss.truth.str(20)})"
    return [
        f"{derivative(case, miss.wrt)} at {at} {where} is {miss.verdict}:",
        f"got {miss.got}, should be {miss.expected}{sure}",
    ]


def _suspected(case: Case, miss: Miss, device: str) -> Iterator[str]:
    """Say where an entry of the catalogue may be behind a miss: by its formula, or by what it does not say."""
    wrong = wrong_value(case, device)
    if wrong is not None:
        got, due = wrong
        yield f"its value is wrong too: it is {got}, the formula gives {due}; where the callable is meant to be another"
        yield "function than the formula, the entry's `domain` or `where` leaves that out"
    if case.order > 1 and miss.verdict == "lost" and case.tree.root.op.file:
        yield "no second order is asked of a backward that takes what it saved for constant, if it says so:"
        yield "decorate it with `@torch.autograd.function.once_differentiable`, or write orders=1 in the entry"


def _distances(miss: Miss) -> list[str]:
    """Say how far off an entry is, and in a 16-bit format how far by each promise."""
    if not np.isfinite(miss.ulp):
        return []
    line = f"off by {miss.ulp:.3g} ulp, {miss.share:.3g} times the rounding allowance"
    case = miss.whole
    if case.form.bits > NARROW or case.is_pointwise or not miss.index:
        return [line]
    # each promise has an allowance of its own, and the truth is the same
    place, got = [case.tree.leaves[n].name for n in case.asked].index(miss.wrt), float.fromhex(miss.got)
    shares = []
    for promise in PROMISES:
        found = answer(replace(case, promise=promise))[place]
        off = abs(got - float(found.centre[miss.index]) - float(found.rest[miss.index]))
        allowed = float(found.radius[miss.index] + abs(found.offset[miss.index]))
        share = off / allowed if allowed else np.inf if off else 0.0
        shares.append(f"{share:.3g} by {promise}")
    return [f"{line}: {', '.join(shares)}; {case.inside} is asked of it"]


def _spread(alike: Sequence[Miss], mode: Mode, device: str) -> list[str]:
    """Say of each gradient which of its entries are wrong and what they are instead.

    Of a function of one input, in which intervals of the values tried. `alike` has the misses of one gradient that have
    one verdict; torch is asked again for all, since a case lists no more than `MOST_MISSES`.
    """
    miss, case = alike[0], alike[0].whole
    every = seen(case, mode, device)
    if not any(one.wrong.any() for one in every) or all(one.got.size == 1 for one in every):
        return _intervals(alike)
    inputs = {leaf.name: primal for leaf, primal in zip(case.tree.leaves, case.primals, strict=True)}
    shapes = [primal.shape for primal in case.primals]
    contexts = case.tree.root.op.context(shapes, case.seed) if case.tree.is_single else {}
    lines = []
    for one in sorted(every, key=lambda one: one.name != miss.wrt):  # that of the headline first
        if not one.wrong.any():
            continue
        which = _tried(alike) if len(every) == len(inputs) == 1 and case.is_pointwise else ""
        which = which or (described(one.wrong, inputs) if one.wrong.size > 1 else "")
        line = f"d{one.name}: {int(one.wrong.sum()):,} of {one.wrong.size:,} entries are wrong"
        said = [f"{line}: {which}" if which else line, labelled(one.wrong, contexts), diagnosed(one, every, case)]
        lines.append("; ".join(filter(None, said)))
    right = [f"d{one.name}" for one in every if not one.wrong.any()]
    return [*lines, f"{', '.join(right)} {'is' if len(right) == 1 else 'are'} right"] if right else lines


def _intervals(alike: Sequence[Miss]) -> list[str]:
    """Say how many entries of a case miss alike, and where."""
    case, wrt = alike[0].whole, alike[0].wrt
    if len(alike) == 1:
        return []
    (primal,) = [p for leaf, p in zip(case.tree.leaves, case.primals, strict=True) if leaf.name == wrt]
    line = f"{len(alike):,} of {primal.size:,} entries are {alike[0].verdict}"
    return [f"{line}: {which}" if (which := _tried(alike)) else line]


def _tried(alike: Sequence[Miss]) -> str:
    """Say in which intervals of the values tried a function of one input misses, where that is so of few."""
    case, wrt = alike[0].whole, alike[0].wrt
    if len(case.primals) > 1 or wrt not in alike[0].point or not case.is_pointwise:
        return ""
    tried = np.unique(case.primals[0])
    missed = np.isin(tried, [m.point[wrt] for m in alike])
    edges = np.diff(missed.astype(int), prepend=0, append=0)  # 1 where a run of misses begins, -1 behind its end
    runs = [
        f"[{tried[a]:.6g}, {tried[b - 1]:.6g}]" if b - a > 1 else f"{{{tried[a]:.6g}}}"
        for a, b in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    ]
    # where all miss, or here and there, intervals tell nothing
    return "" if missed.all() or len(runs) > MOST_INTERVALS else f"{wrt} in {', '.join(runs)}"
