"""The certified gradient of a case, and the values that rounding may turn it into."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from flint import arb, ctx, fmpq

from reference.balls import evaluated
from reference.chain import allowance_program, elements, gradient_program, value_program
from reference.compiler import STEPS, Emitter
from reference.convention import conventional, critical, critical_program
from reference.forward import forward_allowance_program
from reference.second import products_program, second_allowance_program, second_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reference.balls import Balls
    from reference.case import Case
    from reference.compiler import Program
    from reference.format import Floats, Format
    from reference.op import Array, Shape
    from reference.tree import Node

GUARD_BITS = 12
"""Bits that a certified value must have beyond its format's."""

ONE, ONE_BALL = fmpq(1), arb(1)

MOST_BITS = 16384
"""The precision at which certification gives up; sin at float64's largest value needs 1,200."""


class UncertifiedError(ArithmeticError):
    """No enclosure was tight enough: an error of the oracle, never a pass."""


MOST_KEPT = 1000
"""Entries up to which an answer is kept: the same is asked in every mode."""

FEWEST = 1000
"""Points from which the filter is worth its cost."""

NIL = 2.0**-1000
"""What float64 does not tell from 0: far below any value of such a format."""

FILTERED_BITS = 24
"""The precision of the widest format that float64 is a filter for."""


@dataclass(frozen=True)
class Filtered:
    """What float64 can say about the gradient of a case, an input at a time."""

    truth: list[Balls]
    allowance: list[Balls]
    trusted: np.ndarray[Shape, np.dtype[np.bool_]]
    """At which points the filter's bounds may stand for flint's.

    There the truth is tight enough, the allowance so narrow that flint's is no other, and no rule for kinks and edges
    applies.
    """


@dataclass(frozen=True)
class Answer:
    """What the gradient of a case is, and may be."""

    truth: tuple[Array, ...]
    """The certified gradient of each input, as tight balls; plus or minus infinity at an edge."""

    allowance: tuple[Array, ...]
    """The ball of every value that could result if each step were rounded to the format."""

    by_convention: tuple[np.ndarray[Shape, np.dtype[np.bool_]], ...]
    """Where the truth is what the rule for non-differentiable points gives."""

    @cached_property
    def reach(self) -> tuple[Reach, ...]:
        """Truth and allowance of each input as floats."""
        return tuple(
            _reached(truth.ravel().tolist(), allowance.ravel().tolist())
            for truth, allowance in zip(self.truth, self.allowance, strict=True)
        )


@dataclass(frozen=True)
class Reach:
    """Certified values and their allowance as floats, flat."""

    offset: Floats
    """The centre of the allowance less the truth."""

    radius: Floats
    """That of the allowance, and the little of the truth."""

    centre: Floats
    """The truth, rounded."""

    rest: Floats
    """The truth less that."""


def _reached(truth: list[arb], allowance: list[arb]) -> Reach:
    ctx.prec = 160
    rows = []
    for true, wide in zip(truth, allowance, strict=True):
        centre = float(true)
        if not true.is_finite():
            rows.append((0.0, 0.0, centre, 0.0))
        elif not wide.is_finite():
            rows.append((0.0, math.inf, centre, _rest(true, centre)))
        else:
            rows.append(
                (
                    float((wide.mid() - true).mid()),
                    float(wide.rad().upper() + true.rad().upper()),
                    centre,
                    _rest(true, centre),
                )
            )
    return Reach(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def _rest(true: arb, centre: float) -> float:
    return float((true - arb(centre)).mid()) if math.isfinite(centre) else 0.0


def is_certified(ball: arb, form: Format) -> bool:
    """Say whether a ball is tight enough to judge a value of the format by.

    A NaN ball and a very wide one contain everything, so this comes before any `contains`.
    """
    if not ball.is_finite():
        return False
    if ball.rel_accuracy_bits() >= form.precision + GUARD_BITS:
        return True
    return bool(ball.rad() * 2**GUARD_BITS <= form.smallest_subnormal)


def certified(program: Program, rows: Sequence[Sequence[arb]], form: Format) -> list[tuple[arb, ...]]:
    """Evaluate a plain program at each row of arguments, each at the precision that certifies it.

    Arguments are exact: floats, or balls of radius 0. Raises UncertifiedError.
    """
    bits = form.precision + 2 * GUARD_BITS
    ctx.prec = bits
    results = program.at(rows)
    pending = _uncertified(results, form)
    while pending and bits < MOST_BITS:
        bits *= 2
        ctx.prec = bits
        again = program.at(rows[number] for number in pending)
        for number, balls in zip(pending, again, strict=True):
            results[number] = balls
        pending = [pending[number] for number in _uncertified(again, form)]
    if pending:
        at = [float(a) for a in rows[pending[0]]]
        message = f"no enclosure within {MOST_BITS} bits is tight enough for {form.name} at {at}"
        raise UncertifiedError(message)
    return results


def _uncertified(results: Sequence[Sequence[arb]], form: Format) -> list[int]:
    """Return the numbers of the rows that have a ball which is not tight enough."""
    bits = form.precision + GUARD_BITS
    loose: set[int] = set()
    for column in zip(*results, strict=True):
        if min(map(arb.rel_accuracy_bits, column)) < bits or not all(map(arb.is_finite, column)):
            loose |= {number for number, ball in enumerate(column) if not is_certified(ball, form)}
    return sorted(loose)


def answer(case: Case) -> Answer:
    """Return the certified gradient of a case and its rounding allowance.

    Raises UncertifiedError where no enclosure is tight enough.
    """
    return kept(case) if case.entries <= MOST_KEPT else _answered(case)


@lru_cache(maxsize=512)
def kept(case: Case) -> Answer:
    """Return the answer, which is kept for the next one who asks the same."""
    return _answered(case)


def _answered(case: Case) -> Answer:
    rows = points(case)
    ruled = case.tree.is_single and case.along is None
    exact = critical(case.tree.root.op, rows) if ruled else [False] * len(rows)
    smooth = [row for row, is_exact in zip(rows, exact, strict=True) if not is_exact] if any(exact) else rows
    truths = certified(derivative_program(case), smooth, case.form)
    allowances = _allowances(case, smooth)
    if any(exact):
        pairs = iter(zip(truths, allowances, strict=True))
        both = [
            conventional(case.tree.root.op, row, case.form) if is_exact else next(pairs)
            for row, is_exact in zip(rows, exact, strict=True)
        ]
        truths, allowances = [truth for truth, _ in both], [allowance for _, allowance in both]
    share = 1 / fmpq(case.cotangent.size or 1) if case.root == "mean" else ONE
    return Answer(
        tuple(_collected(case, truths, None, share)),
        tuple(_collected(case, allowances, case.form)),
        tuple(_flagged(case, exact)),
    )


def filtered(case: Case) -> Filtered | None:
    """Return what float64 can say; None where there are few points, or no filter for the op or the format."""
    op, form = case.tree.root.op, case.form
    if (
        not (case.is_pointwise and case.tree.is_single and case.along is None)
        or case.points < FEWEST
        or form.precision > FILTERED_BITS
    ):
        return None
    columns = [array.ravel() for array in (*case.primals, case.cotangent)]
    ctx.prec = 64
    try:
        truth = evaluated(gradient_program(case.tree), columns)
        allowance = evaluated(allowance_program(case.tree, form), columns)
        places = evaluated(critical_program(op), columns[:-1])
    except (AttributeError, TypeError):
        return None
    with np.errstate(over="ignore"):
        tight = [
            np.isfinite(ball.mid)
            & (ball.rad * 2**GUARD_BITS <= np.maximum(np.abs(ball.mid) * form.unit, form.smallest_subnormal))
            for ball in truth
        ]
        narrow = [ball.rad * 4 <= np.abs(ball.mid) + 32 * form.smallest_subnormal for ball in allowance]
    apart = [np.abs(ball.mid) > ball.rad for ball in places]
    return Filtered(truth, allowance, np.all([*tight, *narrow, *apart], axis=0))


def _allowances(case: Case, rows: Sequence[Sequence[arb]]) -> list[tuple[arb, ...]]:
    """Evaluate reverse mode, widened; a mean hands each point its share of the cotangent, rounded."""
    program = _rounded_program(case)
    ctx.prec = 64
    if case.root != "mean":
        return program.at(rows)
    first = sum(elements(leaf) for leaf in case.tree.leaves)
    last = first + elements(case.tree.root)
    share = arb(fmpq(1, case.cotangent.size or 1)) * arb(1, STEPS * case.form.unit)
    return program.at(
        (*row[:first], *(cotangent * share for cotangent in row[first:last]), *row[last:]) for row in rows
    )


def _rounded_program(case: Case) -> Program:
    """Return the program of what rounding makes of the derivative that a case asks for."""
    if case.along is not None:
        return second_allowance_program(case.tree, case.along, case.form)
    accumulated = forward_allowance_program if case.forwards and not case.tree.is_single else allowance_program
    return accumulated(case.tree, case.form)


def derivative_program(case: Case) -> Program:
    """Return the program of the derivative that a case asks for."""
    return gradient_program(case.tree) if case.along is None else second_program(case.tree, case.along)


def value(case: Case) -> list[tuple[arb, ...]]:
    """Return the certified value of the function at each point of the batch."""
    count = sum(elements(leaf) for leaf in case.tree.leaves)
    return certified(value_program(case.tree), [row[:count] for row in points(case)], case.form)


def value_allowance(case: Case) -> list[tuple[arb, ...]]:
    """Return what rounding makes of the value of the function at each point of the batch."""
    count = sum(elements(leaf) for leaf in case.tree.leaves)
    ctx.prec = 64
    return value_program(case.tree, case.form).at([row[:count] for row in points(case)])


def contributions(case: Case) -> list[tuple[arb, ...]]:
    """Return the certified gradient at each point of the batch, before it is summed for any input."""
    return certified(derivative_program(case), points(case), case.form)


def products(case: Case) -> list[tuple[arb, ...]]:
    """Return the products of tangents that a second derivative of a composition is made of; none of one op alone."""
    if case.along is None or case.tree.is_single:
        return []
    ctx.prec = 64
    return products_program(case.tree, case.along).at(points(case))


def points(case: Case) -> list[tuple[arb, ...]]:
    """Return the inputs and cotangents of each point of the batch, flat, as exact balls.

    The direction of a second derivative comes with them.
    """
    ctx.prec = 64
    arguments = [
        np.broadcast_to(primal, (*case.batch, *leaf.shape))
        for primal, leaf in zip(case.primals, case.tree.leaves, strict=True)
    ]
    nodes: list[Node] = [*case.tree.leaves, case.tree.root]
    whole = [*arguments, case.cotangent]
    if case.along is not None and case.direction is not None:
        nodes.append(case.tree.leaves[case.along])
        whole.append(np.broadcast_to(case.direction, arguments[case.along].shape))
    columns = [
        repeat(ONE_BALL, len(column)) if column.count(1.0) == len(column) else map(arb, column)
        for array, node in zip(whole, nodes, strict=True)
        for column in array.reshape(case.points, elements(node)).T.tolist()
    ]
    return list(zip(*columns, strict=True))


def _collected(case: Case, rows: Sequence[Sequence[arb]], form: Format | None, factor: fmpq = ONE) -> Iterator[Array]:
    """Gather the results at points into an array an input, summing where it was broadcast."""
    columns = iter(zip(*rows, strict=True))
    for leaf, batch in zip(case.tree.leaves, case.batches, strict=True):
        whole = np.empty((elements(leaf), case.points), dtype=object)
        for number in range(len(whole) if rows else 0):
            whole[number] = next(columns)
        if factor != 1:
            ctx.prec = 128
            whole = whole * arb(factor)
        yield _unbroadcast(whole.T.reshape((*case.batch, len(whole))), batch, form).reshape((*batch, *leaf.shape))


def _unbroadcast(whole: Array, batch: Shape, form: Format | None) -> Array:
    """Sum over the batch dimensions that the input lacks or has of length 1."""
    padded = (1,) * (whole.ndim - 1 - len(batch)) + batch
    axes = tuple(i for i, n in enumerate(padded) if n == 1 and whole.shape[i] != 1)
    if not axes:
        return whole.reshape((*batch, whole.shape[-1]))
    ctx.prec = 128
    count = int(np.prod([whole.shape[i] for i in axes]))
    if count == 0:
        total = np.full([n for i, n in enumerate(whole.shape) if i not in axes], arb(0), dtype=object)
        return total.reshape((*batch, whole.shape[-1]))
    summed = np.moveaxis(whole, axes, range(len(axes))).reshape((count, -1))
    program = _sum_program(count, form)
    total = np.array([total for (total,) in program.at(summed.T)], dtype=object)
    return total.reshape((*batch, whole.shape[-1]))


@lru_cache(maxsize=64)
def _sum_program(count: int, form: Format | None) -> Program:
    emitter = Emitter(form)
    names = [f"v{i}" for i in range(count)]
    return emitter.program(names, [emitter.total(names)])


def _flagged(case: Case, flags: Sequence[bool]) -> Iterator[np.ndarray[Shape, np.dtype[np.bool_]]]:
    """Mark the entries of each input to which a conventional point contributed."""
    table = np.array(flags, dtype=bool).reshape(case.batch)
    for leaf, batch in zip(case.tree.leaves, case.batches, strict=True):
        padded = (1,) * (table.ndim - len(batch)) + batch
        axes = tuple(i for i, n in enumerate(padded) if n == 1)
        flagged = table.any(axis=axes, keepdims=True).reshape(batch)
        yield np.broadcast_to(flagged.reshape(batch + (1,) * len(leaf.shape)), batch + leaf.shape)
