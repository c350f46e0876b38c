"""Whole cases: a function, a point, a cotangent, layouts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from flint import arb
from hypothesis import strategies as st

from reference.case import ROOTS, Case, repeated_order
from reference.convention import critical
from reference.domain import REAL
from reference.oracle import value_allowance
from reference.tree import single
from strategies.points import hard, moderate, points
from strategies.shapes import batches, broadcastable, layouts, wholes
from strategies.trees import LARGEST, LEAF_RANGE, is_composable, trees

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reference.format import Floats, Format
    from reference.graph import Shape
    from reference.op import Op

COTANGENTS = (1.0, -1.0, 2.0, 0.5, -0.75)
LENGTHS = (1, 2, 7, 8, 9, 31, 33, 127, 129, 255, 257, 1025)
"""Lengths of the axes of a tensor op: around vector registers and the blocks of kernels."""

SHORT = 64
"""The length up to which an axis of real use is not long."""

STEPS, TENSOR_STEPS = 8, 5
"""The most ops that a tree of scalars, or of tensors, has."""

TENSOR_POINTS = 8
"""Points at which a tree of tensors is evaluated."""

FIXED, FIXED_COTANGENTS = 61, np.array([1.0, 2.0, -0.75])
"""How many points of an op are the same each time, and the cotangents that they have in turn."""

REACHED, NEAR = 24, 2.0
"""How many points of an op stand for the whole range in which trees use it, and as many for that near 0."""

TENSOR_RANGE = 2.5
"""Inputs of tensor ops lie within this of 0, where their domain is the whole line."""


@st.composite
def op_cases(draw: st.DrawFn, op: Op, form: Format, most: int = 256, order: int = 1) -> Case:
    """Cases of one op. Shrinks towards one point at 1, a cotangent of 1 and contiguous inputs."""
    case = _elementwise(draw, op, form, most, order) if op.elementwise else _tensor(draw, op, form)
    laid_out = _laid_out(draw, case)
    return laid_out if order == 1 else draw(st.sampled_from(list(repeated_order(laid_out, "r" * order))))


def _tensor(draw: st.DrawFn, op: Op, form: Format) -> Case:
    """Draw a case of a tensor op: small shapes and batches, or lengths around those of registers and blocks."""
    if op.axes and not op.shapes and draw(st.booleans()):
        lengths = {letter: draw(st.sampled_from(LENGTHS)) for letter in op.letters}
        shapes = op.shaped(lengths)
        batch = draw(st.sampled_from(((), (2,), (1, 3)))) if op.batched else ()
    else:
        shapes = draw(st.sampled_from(op.cores))
        batch = draw(batches().filter(lambda b: len(b) < 3)) if op.batched else ()
    tree = single(op, shapes)
    primals = tuple(
        _tensor_input(draw, op, form, leaf.name, (*(batch if i < op.batched else ()), *leaf.shape))
        for i, leaf in enumerate(tree.leaves)
    )
    cotangent = _cotangent(draw, form, (*batch, *tree.root.shape))
    return Case(tree, form, primals, cotangent, seed=draw(st.integers(0, 7)))


@cache
def fixed_cases(op: Op, form: Format, order: int = 1, *, whole: bool = False) -> tuple[Case, ...]:
    """Return cases of an op that are the same each time.

    They are hard points of an elementwise op; of another its small shapes and, unless a whole Jacobian is asked
    for, the lengths of real use.
    """
    real = () if whole or order > 2 else real_cases(op, form)[: 3 - order]
    cases = [*_fixed(op, form, order), *real]
    if order == 1:
        return tuple(cases)
    return tuple(each for case in cases for each in repeated_order(_smooth(case), "r" * order))


@cache
def real_cases(op: Op, form: Format) -> tuple[Case, ...]:
    """Return cases of a tensor op in real use: all bits drawn, and a cotangent that probes the last element."""
    if op.elementwise or not op.axes:
        return ()
    case = case_in_use(op, form, op.sizes, op.rows)
    if not case.cotangent.shape:
        return (case,)
    probe = np.zeros(case.cotangent.shape)
    probe[..., -1] = 1.0
    return case, replace(case, cotangent=probe)


@cache
def long_case(op: Op, form: Format, length: int) -> Case:
    """Return a case of a tensor op whose long axes have so many elements; its other axes are as in real use."""
    sizes = {letter: length if size > SHORT else size for letter, size in op.sizes.items()}
    return case_in_use(op, form, sizes, tuple(min(size, length) for size in op.rows))


def case_in_use(op: Op, form: Format, sizes: Mapping[str, int], batch: Shape) -> Case:
    """Draw inputs of the sizes and a cotangent, the same each time."""
    rng = np.random.default_rng(1)
    tree = single(op, op.shaped(sizes))
    primals = tuple(
        _spread_out(op, form, leaf.name, rng, (*(batch if i < op.batched else ()), *leaf.shape))
        for i, leaf in enumerate(tree.leaves)
    )
    cotangent = _rounded(form, rng.standard_normal((*batch, *tree.root.shape)))
    return Case(tree, form, primals, cotangent, independent=True)


def _spread_out(op: Op, form: Format, name: str, rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw values as activations have them; within its domain where that is not the whole line."""
    if op.interval(name) == REAL:
        return _rounded(form, rng.standard_normal(shape))
    return _rounded(form, rng.uniform(*_tensor_range(op, name), size=shape))


@cache
def reached_cases(op: Op, form: Format) -> tuple[Case, ...]:
    """Return cases of an op that stand for how drawn trees use it, the same each time.

    They are over the whole range, and near 0; there are none for an op that drawn trees do not use.
    """
    if not is_composable(op):
        return ()
    cases = _spread(op, form) if op.elementwise else _fixed(op, form, 1)
    return tuple(case for case in cases if case.points)


def _spread(op: Op, form: Format) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    columns = []
    for name in op.inputs:
        interval = op.interval(name)
        values = _rounded(
            form, np.concatenate([rng.uniform(*interval.clipped(most), REACHED) for most in (LARGEST, NEAR)])
        )
        columns.append(rng.permutation(values[[interval.encloses(value, value) for value in values.tolist()]]))
    count = min(map(len, columns))
    case = Case(single(op), form, tuple(column[:count] for column in columns), np.ones(count))
    yield case.only(np.array([abs(ball) <= LARGEST for ball in value_allowance(case).tolist()], dtype=bool))


def _smooth(case: Case) -> Case:
    """Leave out the points of an op at which no rule says what its second derivative is: kinks, edges and seams."""
    if not case.is_pointwise:
        return case
    rows = list(zip(*(map(arb, primal.ravel().tolist()) for primal in case.primals), strict=True))
    ruled = np.array(critical(case.tree.root.op, rows, order=2), dtype=bool)
    return case.only(~ruled) if ruled.any() else case


def _fixed(op: Op, form: Format, order: int) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    if op.elementwise:
        columns = [
            rng.permutation(np.resize(hard(form, op.interval(name, order), op, FIXED), FIXED)) for name in op.inputs
        ]
        if op.kinks and len(columns) > 1:
            tie(op, columns, 3)
        yield Case(single(op), form, tuple(columns), np.resize(FIXED_COTANGENTS, FIXED))
        return
    for shapes in op.cores:
        tree = single(op, shapes)
        batch = (2,) if op.batched else ()
        primals = tuple(
            _rounded(
                form, rng.uniform(*_tensor_range(op, leaf.name), size=(*(batch if i < op.batched else ()), *leaf.shape))
            )
            for i, leaf in enumerate(tree.leaves)
        )
        yield Case(tree, form, primals, np.resize(FIXED_COTANGENTS, (*batch, *tree.root.shape)))


def _rounded(form: Format, values: Floats) -> Floats:
    return form.values(form.ordinals(values))


def _elementwise(draw: st.DrawFn, op: Op, form: Format, most: int, order: int) -> Case:
    count = len(op.inputs)
    if count > 1 and op.broadcasts and not op.kinks and order == 1 and draw(st.booleans()):
        shapes = draw(broadcastable(count))
    else:
        shapes = (draw(wholes(most) | batches()),) * count
    primals = [
        draw(points(form, shape, op.interval(name, order), op)) for shape, name in zip(shapes, op.inputs, strict=True)
    ]
    if count > 1 and op.kinks:
        tie(op, [primal.reshape(-1) for primal in primals], draw(st.integers(0, 3)))
    batch = np.broadcast_shapes(*shapes)
    case = Case(single(op), form, tuple(primals), _cotangent(draw, form, batch))
    return case if order == 1 else _smooth(case)


def tie(op: Op, columns: Sequence[Floats], count: int) -> None:
    """Have the first values of the second input be those of the first, where its domain has them."""
    tied = columns[0][:count]
    columns[1][:count] = np.where(op.interval(op.inputs[1]).is_pole(tied), columns[1][:count], tied)


def _laid_out(draw: st.DrawFn, case: Case) -> Case:
    """Draw how each input lies in memory; of one that is expanded, all rows are the first."""
    chosen = tuple(
        draw(layouts(primal.shape, expands=bool(batch)))
        for primal, batch in zip(case.primals, case.batches, strict=True)
    )
    primals = tuple(
        np.broadcast_to(primal[:1], primal.shape).copy() if layout == "expanded" else primal
        for primal, layout in zip(case.primals, chosen, strict=True)
    )
    return replace(case, primals=primals, layouts=chosen)


def _tensor_input(draw: st.DrawFn, op: Op, form: Format, name: str, shape: Shape) -> Floats:
    return draw(moderate(form, shape, *_tensor_range(op, name)))


def _tensor_range(op: Op, name: str) -> tuple[float, float]:
    lower, upper = op.interval(name).clipped(TENSOR_RANGE)
    margin = (upper - lower) / 16
    return lower + margin, upper - margin


def _cotangent(draw: st.DrawFn, form: Format, shape: Shape) -> Floats:
    """Draw a cotangent that differs between elements, or ones."""
    return _rounded(form, np.resize(np.array(COTANGENTS), shape) if draw(st.booleans()) else np.ones(shape))


@st.composite
def tree_cases(draw: st.DrawFn, form: Format, ops: Sequence[Op] | None = None, most: int = 64, order: int = 1) -> Case:
    """Cases of a drawn tree: broadcast inputs, shared nodes, reductions inside, a sum or mean at the root."""
    tensors = draw(st.sampled_from((False, False, True)))
    tree = draw(
        trees(
            ops, inputs=draw(st.integers(1, 3)), most=TENSOR_STEPS if tensors else STEPS, tensors=tensors, order=order
        )
    )
    count = len(tree.leaves)
    shapes = ((TENSOR_POINTS,),) * count if tensors else draw(broadcastable(count) | st.just(((most,),) * count))
    primals = tuple(
        draw(moderate(form, (*shape, *leaf.shape), *LEAF_RANGE))
        for shape, leaf in zip(shapes, tree.leaves, strict=True)
    )
    root = draw(st.sampled_from(ROOTS))
    whole = (*np.broadcast_shapes(*shapes), *tree.root.shape)
    cotangent = _cotangent(draw, form, whole) if root == "cotangent" else np.ones(whole)
    case = _laid_out(draw, Case(tree, form, primals, cotangent, root))
    return case if order == 1 else draw(st.sampled_from(list(repeated_order(case, "rr"))))
