"""The certified gradient of a case, and the values that rounding may turn it into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from flint import arb, ctx, fmpq

from reference.compiler import STEPS, Emitter, compiled
from reference.convention import conventional, critical
from reference.derivative import vjp

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sympy import Expr

    from reference.case import Case
    from reference.compiler import Program
    from reference.format import Format
    from reference.op import Array, Shape
    from reference.tree import Apply, Node, Tree

GUARD_BITS = 12
"""Bits that a certified value must have beyond its format's."""

ONE = fmpq(1)

MOST_BITS = 16384
"""The precision at which certification gives up; sin at float64's largest value needs 1,200."""


class UncertifiedError(ArithmeticError):
    """No enclosure was tight enough: an error of the oracle, never a pass."""


@dataclass(frozen=True)
class Answer:
    """What the gradient of a case is, and may be."""

    truth: tuple[Array, ...]
    """The certified gradient of each input, as tight balls; plus or minus infinity at an edge."""

    allowance: tuple[Array, ...]
    """The ball of every value that could result if each step were rounded to the format."""

    by_convention: tuple[np.ndarray[Shape, np.dtype[np.bool_]], ...]
    """Where the truth is what the rule for non-differentiable points gives."""


def is_certified(ball: arb, form: Format) -> bool:
    """Say whether a ball is tight enough to judge a value of the format by.

    A NaN ball and a very wide one contain everything, so this comes before any `contains`.
    """
    if not ball.is_finite():
        return False
    if ball.rel_accuracy_bits() >= form.precision + GUARD_BITS:
        return True
    return bool(ball.rad() * 2**GUARD_BITS <= form.smallest_subnormal)


def certified(program: Program, rows: Sequence[Sequence[arb]], form: Format) -> list[Sequence[arb]]:
    """Evaluate a plain program at each row of arguments, each at the precision that certifies it.

    Arguments are exact: floats, or balls of radius 0. Raises UncertifiedError.
    """
    results: list[Sequence[arb]] = [()] * len(rows)
    pending: Sequence[int] = range(len(rows))
    bits = form.precision + 2 * GUARD_BITS
    while pending and bits <= MOST_BITS:
        ctx.prec = bits
        for number in pending:
            results[number] = program(*rows[number])
        pending = [number for number in pending if not all(is_certified(ball, form) for ball in results[number])]
        bits *= 2
    if pending:
        message = f"no enclosure within {MOST_BITS} bits is tight enough for {form.name} at {[float(a) for a in rows[pending[0]]]}"
        raise UncertifiedError(message)
    return results


@lru_cache(maxsize=256)
def gradient_program(tree: Tree) -> Program:
    """Compile sympy's derivative of the whole tree: inputs and cotangents to gradients."""
    inputs, outputs, cotangents = tree.symbolic()
    gradients = vjp(outputs, cotangents, inputs)
    return compiled(flat(gradients), flat((*inputs, cotangents)))


@lru_cache(maxsize=256)
def value_program(tree: Tree) -> Program:
    """Compile the value of the whole tree."""
    inputs, outputs, _ = tree.symbolic()
    return compiled(flat((outputs,)), flat(inputs))


@lru_cache(maxsize=512)
def allowance_program(tree: Tree, form: Format) -> Program:
    """Compile reverse mode over the tree in the arithmetic of a format, every step widened."""
    emitter = Emitter(form)
    return _Reverse(tree, emitter).program()


class _Reverse:
    """Reverse-mode differentiation of a tree, written as code.

    Each node's local derivative is sympy's own; the products and sums between them are written
    as the nodes' vector-Jacobian products are.
    """

    def __init__(self, tree: Tree, emitter: Emitter) -> None:
        self._tree = tree
        self._emitter = emitter
        self._values: dict[Node, list[str]] = {}
        self._contributions: dict[Node, list[list[str]]] = {}

    def program(self) -> Program:
        """Write both passes and compile them."""
        arguments = []
        for number, leaf in enumerate(self._tree.leaves):
            self._values[leaf] = [f"x{number}_{i}" for i in range(_size(leaf.shape))]
            arguments += self._values[leaf]
        cotangent = [f"c{i}" for i in range(_size(self._tree.root.shape))]
        for node in self._tree.applications:
            if node is not self._tree.root or node.rule.saved is not None:
                self._forward(node)
        self._contributions[self._tree.root] = [cotangent]
        for node in reversed(self._tree.applications):
            self._backward(node)
        results = [name for leaf in self._tree.leaves for name in self._adjoint(leaf)]
        return self._emitter.program([*arguments, *cotangent], results)

    def _bound(self, node: Apply) -> dict[Expr, str]:
        pairs = zip(node.rule.inputs, node.children, strict=True)
        return {
            symbol: name
            for array, child in pairs
            for symbol, name in zip(array.flat, self._values[child], strict=True)
        }

    def _forward(self, node: Apply) -> None:
        scope = self._emitter.scope(self._bound(node))
        self._values[node] = [scope.emit(expression) for expression in node.rule.outputs.flat]

    def _backward(self, node: Apply) -> None:
        local = node.rule
        env = self._bound(node)
        env |= dict(zip(local.cotangents.flat, self._adjoint(node), strict=True))
        if local.saved is not None and local.saved_value is not None:
            values = self._emitter.scope(env)
            env |= {
                symbol: values.emit(expression)
                for symbol, expression in zip(local.saved.flat, local.saved_value.flat, strict=True)
            }
        scope = self._emitter.scope(env)
        for child, gradient in zip(node.children, local.saved_gradients, strict=True):
            names = [scope.emit(expression) for expression in gradient.flat]
            self._contributions.setdefault(child, []).append(names)

    def _adjoint(self, node: Node) -> list[str]:
        contributions = self._contributions[node]
        return [self._emitter.total(terms) for terms in zip(*contributions, strict=True)]


def answer(case: Case) -> Answer:
    """Return the certified gradient of a case and its rounding allowance.

    Raises UncertifiedError where no enclosure is tight enough.
    """
    rows = points(case)
    exact = critical(case.tree.root.op, rows) if case.tree.is_single else [False] * len(rows)
    smooth = [row for row, is_exact in zip(rows, exact, strict=True) if not is_exact]
    truths = iter(certified(gradient_program(case.tree), smooth, case.form))
    allowances = iter(_allowances(case, smooth))
    pairs = [
        conventional(case.tree.root.op, row, case.form) if is_exact else (next(truths), next(allowances))
        for row, is_exact in zip(rows, exact, strict=True)
    ]
    share = 1 / fmpq(case.cotangent.size or 1) if case.root == "mean" else ONE
    return Answer(
        tuple(_collected(case, [truth for truth, _ in pairs], None, share)),
        tuple(_collected(case, [allowance for _, allowance in pairs], case.form)),
        tuple(_flagged(case, exact)),
    )


def _allowances(case: Case, rows: Sequence[Sequence[arb]]) -> list[Sequence[arb]]:
    """Evaluate reverse mode, widened; a mean hands each point its share of the cotangent, rounded."""
    program = allowance_program(case.tree, case.form)
    ctx.prec = 64
    if case.root != "mean":
        return [program(*row) for row in rows]
    inputs = sum(_size(leaf.shape) for leaf in case.tree.leaves)
    share = arb(fmpq(1, case.cotangent.size or 1)) * arb(1, STEPS * case.form.unit)
    return [program(*row[:inputs], *(cotangent * share for cotangent in row[inputs:])) for row in rows]


def value(case: Case) -> list[Sequence[arb]]:
    """Return the certified value of the function at each point of the batch."""
    count = sum(_size(leaf.shape) for leaf in case.tree.leaves)
    return certified(value_program(case.tree), [row[:count] for row in points(case)], case.form)


def contributions(case: Case) -> list[Sequence[arb]]:
    """Return the certified gradient at each point of the batch, before it is summed for any input."""
    return certified(gradient_program(case.tree), points(case), case.form)


def points(case: Case) -> list[list[arb]]:
    """Return the inputs and cotangents of each point of the batch, flat, as exact balls."""
    ctx.prec = 64
    columns = []
    for primal, leaf in zip(case.primals, case.tree.leaves, strict=True):
        whole = np.broadcast_to(primal, (*case.batch, *leaf.shape))
        columns.append(whole.reshape(case.points, _size(leaf.shape)))
    columns.append(case.cotangent.reshape(case.points, _size(case.tree.root.shape)))
    return [list(map(arb, row)) for row in np.concatenate(columns, axis=1).tolist()]


def _collected(case: Case, rows: Sequence[Sequence[arb]], form: Format | None, factor: fmpq = ONE) -> Iterator[Array]:
    """Gather the results at points into an array an input, summing where it was broadcast."""
    sizes = [_size(leaf.shape) for leaf in case.tree.leaves]
    table = np.empty((case.points, sum(sizes)), dtype=object)
    if rows:
        table[:] = rows
    if factor != 1:
        ctx.prec = 128
        table = table * arb(factor)
    starts = np.cumsum([0, *sizes])
    for leaf, batch, start, size in zip(case.tree.leaves, case.batches, starts, sizes, strict=False):
        whole = table[:, start : start + size].reshape((*case.batch, size))
        yield _unbroadcast(whole, batch, form).reshape((*batch, *leaf.shape))


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
    total = np.array([program(*column)[0] for column in summed.T], dtype=object)
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


def flat(arrays: Sequence[Array]) -> list[Expr]:
    """List the elements of arrays, one array after the other."""
    return [element for array in arrays for element in array.flat]


def _size(shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64))
