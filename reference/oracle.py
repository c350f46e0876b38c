"""The certified gradient of a case, and the values that rounding may turn it into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from flint import arb, ctx, fmpq

from reference.compiler import STEPS, Emitter, compiled
from reference.convention import conventional, critical_program
from reference.derivative import vjp
from reference.tree import Apply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sympy import Expr

    from reference.case import Case
    from reference.compiler import Program
    from reference.format import Format
    from reference.op import Array, Shape
    from reference.tree import Node, Tree

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


def certified(program: Program, arguments: Sequence[arb], form: Format) -> Sequence[arb]:
    """Evaluate a plain program, doubling the precision until every result is certified.

    Arguments are exact: floats, or balls of radius 0.
    """
    bits = form.precision + 2 * GUARD_BITS
    while bits <= MOST_BITS:
        ctx.prec = bits
        results = program(*arguments)
        if all(is_certified(ball, form) for ball in results):
            return results
        bits *= 2
    message = f"no enclosure within {MOST_BITS} bits is tight enough for {form.name} at {arguments}"
    raise UncertifiedError(message)


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
    truth_program = gradient_program(case.tree)
    wide_program = allowance_program(case.tree, case.form)
    critical = critical_program(case.tree.root.op) if case.tree.is_single else None
    inputs = sum(_size(leaf.shape) for leaf in case.tree.leaves)
    shared = _shared(case)
    truths, allowances, conventions = [], [], []
    for arguments in points(case):
        exact = critical is not None and critical(*arguments[: len(case.tree.leaves)])
        if exact:
            truth, allowance = conventional(case.tree.root.op, arguments, case.form)
        else:
            truth = certified(truth_program, arguments, case.form)
            ctx.prec = 64
            allowance = wide_program(*arguments[:inputs], *(c * shared for c in arguments[inputs:]))
        truths.append(truth)
        allowances.append(allowance)
        conventions.append(bool(exact))
    return Answer(
        tuple(_collected(case, truths, None, 1 / fmpq(case.cotangent.size or 1) if case.root == "mean" else fmpq(1))),
        tuple(_collected(case, allowances, case.form)),
        tuple(_flagged(case, conventions)),
    )


def value(case: Case) -> list[Sequence[arb]]:
    """Return the certified value of the function at each point of the batch."""
    program = value_program(case.tree)
    count = sum(_size(leaf.shape) for leaf in case.tree.leaves)
    return [certified(program, arguments[:count], case.form) for arguments in points(case)]


def contributions(case: Case) -> list[Sequence[arb]]:
    """Return the certified gradient at each point of the batch, before it is summed for any input."""
    program = gradient_program(case.tree)
    return [certified(program, arguments, case.form) for arguments in points(case)]


def points(case: Case) -> Iterator[list[arb]]:
    """Yield the inputs and cotangents of each point of the batch, flat, as exact balls."""
    ctx.prec = 64
    columns = []
    for primal, leaf in zip(case.primals, case.tree.leaves, strict=True):
        whole = np.broadcast_to(primal, (*case.batch, *leaf.shape))
        columns.append(whole.reshape(case.points, _size(leaf.shape)))
    columns.append(case.cotangent.reshape(case.points, _size(case.tree.root.shape)))
    table = np.concatenate(columns, axis=1)
    for row in table.tolist():
        yield [arb(number) for number in row]


def _shared(case: Case) -> arb:
    """Return what a mean at the root makes of its cotangent, rounded: it may be subnormal further on."""
    if case.root != "mean" or not case.cotangent.size:
        return arb(1)
    ctx.prec = 64
    return arb(fmpq(1, case.cotangent.size)) * arb(1, STEPS * case.form.unit)


def _collected(case: Case, rows: Sequence[Sequence[arb]], form: Format | None, factor: fmpq = ONE) -> Iterator[Array]:
    """Gather the results at points into an array an input, summing where it was broadcast."""
    start = 0
    for leaf, batch in zip(case.tree.leaves, case.batches, strict=True):
        size = _size(leaf.shape)
        table = np.empty((case.points, size), dtype=object)
        for number, row in enumerate(rows):
            table[number] = row[start : start + size]
        start += size
        if factor != 1:
            ctx.prec = 128
            table = table * arb(factor)
        whole = table.reshape((*case.batch, size))
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
