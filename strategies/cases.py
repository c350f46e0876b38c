"""Whole cases: a function, the values of its inputs, a cotangent and layouts; drawn, or by rule, the same each time.

Strategies are composites over a `DrawFn`. What is by rule is a function that returns cases, with generators of numpy
whose seeds are arbitrary.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from itertools import combinations, product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from flint import arb
from hypothesis import strategies as st

from reference.case import LAYOUTS, ROOTS, Case, Sized, repeated_order
from reference.convention import critical
from reference.definition import is_defined
from reference.derivative import given, value_of
from reference.domain import REAL
from reference.format import FORMATS
from reference.oracle import FILTERED_BITS, has_limits, value_allowance
from reference.tree import single
from reference.turning import crossings, turns_of, undecided
from strategies.points import bounds, hard, moderate, points
from strategies.shapes import batches, broadcastable, layouts, wholes
from strategies.trees import LARGEST_NODE, LEAF_RANGE, is_composable, trees

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from reference.format import Floats, Format
    from reference.graph import Shape
    from reference.op import Op

COTANGENTS = (1.0, -1.0, 2.0, 0.5, -0.75)
"""The values that a drawn cotangent has in turn: exact in every format, of either sign, and no two alike."""

LENGTHS = (1, 2, 7, 8, 9, 31, 33, 127, 129, 255, 257, 1025)
"""Lengths of the axes of a tensor op: around vector registers and the blocks of kernels."""

BLOCKS = (63, 64, 65, 1023, 2047, 2049, 4097, 8193)
"""Further lengths around the blocks of kernels, at which a user's own op is asked."""

BATCH_ROWS = (2, 63, 65, 257, 1025, 65_537)
"""Rows of a batch at which a user's own op is asked: the last exceeds the 65,535 that a grid's second dimension has."""

MOST_CASE_ELEMENTS = 2**20
"""The most elements of the inputs of a case that is asked for its size: a square matrix of 1,023, but none of 2,047."""

OTHER_LENGTH = 3
"""The length of the other axes where one has a length to be tried. Arbitrary, and small."""

SHORT = 64
"""The length in real use up to which an axis does not count as long."""

MOST_TREE_OPS, MOST_TENSOR_TREE_OPS = 8, 5
"""The most ops that a drawn tree of scalars, or of tensors, has."""

TENSOR_POINTS = 8
"""The points of the batch at which a tree of tensors is evaluated."""

OP_POINTS, TREE_POINTS = 256, 64
"""The points of the largest drawn batch of an op, a fourth power, and of a tree of scalars."""

FIXED, FIXED_COTANGENTS = 61, np.array([1.0, 2.0, -0.75])
"""How many hard points of an op are asked each time, and the cotangents that they have in turn."""

REACHED, NEAR_ZERO = 24, 2.0
"""How many points of an op stand for the whole range in which trees use it, and as many for that up to NEAR_ZERO."""

RANKS: tuple[Shape, ...] = ((), (5,), (2, 3), (2, 1, 3), (2, 3, 4, 2))
"""A batch of each rank; the last has every layout."""

MANY_ROWS = 4099
"""More rows of a batch than a kernel gives to one block or thread: a prime, so that the last of these is not full."""

MANY_COLUMNS = 1031
"""A length of an axis beyond what a kernel gives to one block: a prime too."""

MOST_SUBSET_INPUTS = 4
"""The most inputs of which every subset is tried as those that require grad; of more, only one and all but one."""

DOMINATING = 12.0
"""An element that dominates the others of a row, which are up to about 4, in a sum of exponentials.

exp(12) is 160,000, and exp(4) 55.
"""

TENSOR_RANGE = 2.5
"""The magnitude of inputs of tensor ops whose domain is the whole line. Arbitrary."""

TURNING_ROWS = 8
"""The rows of a batch some of whose elements are put where a formula turns."""

TURNING_GRID = 16
"""The other elements of that batch are odd multiples of 1/TURNING_GRID, which few kinks are: kinks do not meet."""

BEYOND = (1.0, -1.0, 32.0, -32.0)
"""The distances from a turn at which a formula is asked, besides at it and next to it on either side."""

TRIES = 100
"""How often inputs are drawn anew before an entry's condition counts as unmet. Arbitrary."""


class UnmetError(ValueError):
    """No inputs were found that meet the condition of an entry, or at which its formula has a value.

    The message says which, and what is accepted.
    """


@st.composite
def op_cases(draw: st.DrawFn, op: Op, form: Format, order: int = 1) -> Case:
    """Cases of one op, of at most OP_POINTS points. Shrinks towards one point at 1, a cotangent of 1, and contiguous.

    Of an order above 1 they are of the word that repeats r. Raises UnmetError.
    """
    case = _drawn_elementwise(draw, op, form, order) if op.elementwise else _drawn_tensor(draw, op, form, order)
    laid_out = admissible(_laid_out(draw, case))
    return laid_out if order == 1 else draw(st.sampled_from(list(repeated_order(laid_out, "r" * order))))


def _drawn_tensor(draw: st.DrawFn, op: Op, form: Format, order: int) -> Case:
    """Draw a case of a tensor op: of small shapes and batches, with ties or without, or of lengths around registers."""
    is_tied = False
    if op.axes and not op.shapes and draw(st.booleans()):
        lengths = {letter: draw(st.sampled_from(lengths_of(op, letter))) for letter in op.letters}
        shapes = op.shaped(lengths)
        batch = draw(st.sampled_from(((), (2,), (1, 3)))) if op.batched else ()
    else:
        shapes = draw(st.sampled_from(op.cores))
        batch = draw(batches().filter(lambda b: len(b) < 3)) if op.batched else ()
        is_tied = order == 1 and draw(st.booleans())  # no rule says what a second derivative is there
    tree = single(op, shapes)
    primals = tuple(
        _tensor_input(draw, op, form, leaf.name, (*(batch if i < op.batched else ()), *leaf.shape))
        for i, leaf in enumerate(tree.leaves)
    )
    if is_tied:
        primals = tied(op, primals, draw(st.integers(0, 3)))
    cotangent = _cotangent(draw, form, (*batch, *tree.root.shape))
    case = Case(tree, form, primals, cotangent, seed=draw(st.integers(0, 7)))
    return draw(_at_turns(case)) if order == 1 and not is_tied and turns_of(value_of(case).output) else case


@st.composite
def _at_turns(draw: st.DrawFn, case: Case) -> Case:
    """Cases of a tensor op with some elements of an input moved to where its formula turns. Shrinks towards none."""
    number = draw(st.sampled_from((None, *range(len(case.primals)))))
    if number is None:
        return case
    values, start = case.primals[number].copy(), draw(st.integers(0, 15))
    for element, choices in _near_turns(case, number).items():
        _, value = choices[(start + element) % len(choices)]
        values.ravel()[element] = value
    return _decided(case, number, values)


def lengths_of(op: Op, letter: str) -> tuple[int, ...]:
    """Return the lengths that an axis of a tensor op is tried at: those that its entry names, or LENGTHS."""
    return op.named(letter) or tuple(length for length in LENGTHS if length >= op.shortest)


def free(op: Op) -> list[str]:
    """Return the axes of a tensor op that may have any length."""
    return [] if op.shapes or not op.axes else [letter for letter in op.letters if not op.named(letter)]


def tied(op: Op, primals: Sequence[Floats], start: int = 0) -> tuple[Floats, ...]:
    """Return inputs of a tensor op with ties: every row has its largest value twice, and a 0 if it has three elements.

    Rows are rolled by `start`. Where two inputs in turn have one shape, the first elements of their rows are equal.
    """
    found: list[Floats] = []
    for name, values in zip(op.inputs, primals, strict=True):
        if not values.size or not values.ndim:
            found.append(values)
            continue
        row = values.copy()
        row[..., :2] = values.max(-1, keepdims=True)
        if op.interval(name).encloses(0, 0):
            row[..., 2:3] = 0
        row = np.roll(row, start, -1)
        if found and found[-1].shape == row.shape:
            row[..., :1] = found[-1][..., :1]
        found.append(row)
    return tuple(found)


@cache
def fixed_cases(op: Op, form: Format, order: int = 1, *, whole: bool = False) -> tuple[Case, ...]:
    """Return cases of an op that are the same each time.

    They are hard points of an elementwise op. Of a tensor op they are its small shapes, once with ties, and those of
    real use; these are left out where whole Jacobians are asked for, of the third order, and of a variant's second.
    """
    is_too_many = whole or order > 2 or (order > 1 and op.base)  # of its variants, an op stands for all
    real = () if is_too_many else real_cases(op, form)[: 3 - order]  # of the second order, one of the two
    cases = [*_fixed(op, form, order), *real]
    if order == 1:
        if not op.elementwise:
            turns = [replace(cases[0], primals=tied(op, cases[0].primals))]
            cases[1:1] = [case for case in turns if is_admissible(case)]
        return tuple(cases)
    return tuple(each for case in cases for each in repeated_order(_smooth(case), "r" * order))


@cache
def empty_cases(op: Op, form: Format, order: int = 1) -> tuple[Case, ...]:
    """Return an op at a batch without a point, where its inputs may have one: its gradients are empty, or sums of none.

    Of a higher order there is one for each input by which it is differentiated first.
    """
    if not (op.elementwise or op.batched):
        return ()
    case = _at_rank(op, form, (0,))
    return (case,) if order == 1 else tuple(repeated_order(case, "r" * order))


@cache
def real_cases(op: Op, form: Format) -> tuple[Case, ...]:
    """Return cases of a tensor op in real use: one of random numbers, and a probe of the last element.

    The cotangent of the probe is 0 but for the last element of each row; where an output is a sum of a whole row, the
    last element of the input dominates that instead.
    """
    if op.elementwise or not op.axes:
        return ()
    case = case_in_use(op, form, op.in_use, op.rows)
    is_folded = case.cotangent.ndim < case.primals[0].ndim or case.cotangent.shape[-1:] == (1,)
    if is_folded and op.interval(op.inputs[0]) == REAL:
        probed = case.primals[0].copy()
        probed[..., -1] = DOMINATING
        probing = replace(case, primals=(probed, *case.primals[1:]))
        return (case, probing) if is_admissible(probing) else (case,)
    probe = np.zeros(case.cotangent.shape)
    probe[..., -1] = 1.0
    return case, replace(case, cotangent=probe)


@cache
def long_case(op: Op, form: Format, length: int) -> Case:
    """Return a case of a tensor op whose long axes have a length, if they may; the others are as in real use."""
    sizes = {letter: length if size > SHORT and not op.named(letter) else size for letter, size in op.in_use.items()}
    return case_in_use(op, form, sizes, tuple(min(size, length) for size in op.rows))


def case_in_use(op: Op, form: Format, sizes: Mapping[str, int], batch: Shape) -> Case:
    """Return a case of a tensor op with axes of these sizes: random numbers, the same each time."""
    rng = np.random.default_rng(1)
    tree = single(op, op.shaped(sizes))
    primals = tuple(
        _spread_out(op, form, leaf.name, rng, (*(batch if i < op.batched else ()), *leaf.shape))
        for i, leaf in enumerate(tree.leaves)
    )
    cotangent = _rounded(form, rng.standard_normal((*batch, *tree.root.shape)))
    return admissible(Case(tree, form, primals, cotangent, independent=True))


def _spread_out(op: Op, form: Format, name: str, rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw normal values, as activations are; uniform ones where the domain of the input is not the whole line."""
    if op.interval(name) == REAL:
        return _rounded(form, rng.standard_normal(shape))
    return _rounded(form, rng.uniform(*_tensor_range(op, name), size=shape))


def manner_cases(op: Op, form: Format) -> tuple[Case, ...]:
    """Return cases that ask the same of an op in every manner, by rule and the same each time."""
    return tuple(case for cases in manners(op, form).values() for case in cases)


@cache
def manners(op: Op, form: Format) -> dict[str, tuple[Case, ...]]:
    """Return cases by what they vary, one manner of asking an op.

    There is a case for each rank of the batch, for many rows and many columns, for each length of each axis, for values
    of all magnitudes, for each infinite input at which there are limits, for values at and beyond which the formula
    turns, for each layout of the inputs and of the cotangent, for each set of inputs that require grad, and for each
    output of several alone.
    """
    ranked = [_at_rank(op, form, batch) for batch in (RANKS if op.batched or op.elementwise else [()])]
    whole = ranked[-1]
    is_quick = form.precision <= FILTERED_BITS  # float64 takes long, and lengths go wrong in other formats as well
    has_rows = op.batched and not op.elementwise and is_quick
    inputs, cotangent = _layout_numbers(whole)
    numbers, outputs = whole.asked, range(len(whole.outputs))
    counts = range(1, len(numbers)) if len(numbers) <= MOST_SUBSET_INPUTS else (1, len(numbers) - 1)
    subsets = [set_ for count in counts for set_ in combinations(numbers, count)]
    lengths = [(letter, length) for letter in ("" if op.shapes else op.letters) for length in lengths_of(op, letter)]
    alone = [whole.without(*(n for n in outputs if n != one)) for one in outputs] if len(outputs) > 1 else []
    found: dict[str, Iterable[Case | None]] = {
        "ranks": ranked,
        "rows": (_at_rank(op, form, (rows,)) for rows in (_named_rows(op) or (MANY_ROWS,)) if has_rows),
        "columns": [long_case(op, form, MANY_COLUMNS)] if free(op) and is_quick and _is_sharp(op, form) else [],
        "lengths": (_at_length(op, form, *which) for which in lengths if is_quick or which[1] <= SHORT),
        "magnitudes": [] if op.elementwise else [admissible(_of_all_magnitudes(op, whole))],
        "infinities": [] if op.elementwise else (case for case in _infinite(op, ranked[0]) if is_admissible(case)),
        "turns": [] if op.elementwise else (case for case in turning_cases(op, form) if is_admissible(case)),
        "layouts of inputs": (_in_layout(whole, layout, inputs) for layout in LAYOUTS),
        "layouts of the cotangent": (_in_layout(whole, layout, cotangent) for layout in LAYOUTS),
        "sets of inputs": (replace(whole, wrt=set_) for set_ in subsets),
        "outputs alone": alone,
    }
    return {manner: tuple(case for case in cases if case is not None) for manner, cases in found.items()}


def _is_sharp(op: Op, form: Format) -> bool:
    """Say whether long sums can be judged in a format, or whether the op takes no sharper one.

    Where every step is rounded to 16 bits, rounding may explain anything, which it takes minutes to establish.
    """
    return form.precision == FILTERED_BITS or op.inside != "format" or not op.takes(FORMATS["float32"])


def _at_rank(op: Op, form: Format, batch: Shape) -> Case:
    """Return a small case of an op with a batch of a shape."""
    rng = np.random.default_rng(2)
    if op.elementwise:
        columns = [
            np.resize(rng.permutation(hard(form, op.interval(name), op, FIXED)), batch).copy() for name in op.inputs
        ]
        return admissible(Case(single(op), form, tuple(columns), np.resize(FIXED_COTANGENTS, batch)))
    return _small(op, form, op.cores[0], batch, rng)


def _at_length(op: Op, form: Format, letter: str, length: int) -> Case:
    """Return a case of a tensor op in which one axis has a length, and the others are short."""
    return case_in_use(op, form, _with_length(op, letter, length), (2,) if op.batched else ())


def _with_length(op: Op, letter: str, length: int) -> dict[str, int]:
    """Return lengths of all axes: one that is given, and short ones of the others."""
    return {other: OTHER_LENGTH if other in free(op) else op.named(other)[0] for other in op.letters} | {letter: length}


def _named_rows(op: Op) -> tuple[int, ...]:
    """Return the rows of a batch that an entry names: by the axis m, where no input has that."""
    return op.named("m") if "m" in op.sizes and "m" not in op.axes else ()


def sized_cases(op: Op, form: Format) -> list[Sized]:
    """Return cases of sizes around the blocks of kernels, the smallest first, but of no axis whose lengths are named.

    Their values are the same each time.
    """
    if op.elementwise:
        sizes = sorted({*LENGTHS, *BLOCKS, *BATCH_ROWS})
        return [Sized(f"{n:,} elements", n * len(op.inputs), partial(_at_rank, op, form, (n,))) for n in sizes]
    few = sum(map(prod, op.cores[0][: op.batched]))
    rows = BATCH_ROWS if op.batched and not _named_rows(op) else ()
    cases = [Sized(f"{n:,} rows", n * few, partial(_at_rank, op, form, (n,))) for n in rows]
    for letter, length in product(free(op), BLOCKS):
        elements = sum(map(prod, op.shaped(_with_length(op, letter, length))))
        cases.append(Sized(f"{letter} of {length:,}", elements, partial(_at_length, op, form, letter, length)))
    return sorted((case for case in cases if case.elements <= MOST_CASE_ELEMENTS), key=lambda case: case.elements)


def _of_all_magnitudes(op: Op, case: Case) -> Case:
    """Spread the inputs whose domain is the whole line over half of all binades: fourth powers do not overflow."""
    rng = np.random.default_rng(3)
    most = case.form.emax / 4
    primals = tuple(
        _rounded(case.form, np.copysign(2.0 ** rng.uniform(-most, most, p.shape), p))
        if op.interval(name) == REAL
        else p
        for name, p in zip(op.inputs, case.primals, strict=True)
    )
    return replace(case, primals=primals)


def _infinite(op: Op, case: Case) -> Iterator[Case]:
    """Yield cases with the last element of each row of an input infinite, if the derivatives have limits there."""
    for number, (name, primal) in enumerate(zip(op.inputs, case.primals, strict=True)):
        if op.interval(name) != REAL or not primal.shape:
            continue
        for end in (-np.inf, np.inf):
            values = primal.copy()
            values[..., -1] = end
            found = replace(case, primals=(*case.primals[:number], values, *case.primals[number + 1 :]))
            if has_limits(found):
                yield found


def turning_cases(op: Op, form: Format) -> Iterator[Case]:
    """Yield cases of a tensor op with elements of an input at, next to and beyond where its formula turns.

    Each turn is asked at each of these distances by some element, at either sign if it turns at both. Elements at which
    nothing determines the derivative, such as where two kinks meet, stay where they were.
    """
    start = _small(op, form, op.cores[0], (TURNING_ROWS,) if op.batched else (), np.random.default_rng(4))
    primals = tuple(
        np.floor(primal * (TURNING_GRID / 2)) * (2 / TURNING_GRID) + 1 / TURNING_GRID
        if op.interval(name) == REAL
        else primal
        for name, primal in zip(op.inputs, start.primals, strict=True)
    )
    start, asked = replace(start, primals=primals), set[int]()
    largest_first = sorted(range(len(primals)), key=lambda number: -primals[number].size)
    for number in largest_first if turns_of(value_of(start).output) else ():
        near = _near_turns(start, number)
        waiting = dict.fromkeys(label for choices in near.values() for label, _ in choices if label[0] not in asked)
        asked |= {turn for turn, *_ in waiting}  # each turn is asked through one input, the largest that reaches it
        while waiting:
            values = start.primals[number].copy()
            for element, choices in near.items():
                # each element takes the first of its values that no element has stood for yet
                label, values.ravel()[element] = next((c for c in choices if c[0] in waiting), choices[0])
                waiting.pop(label, None)
            yield _decided(start, number, values)


def _near_turns(case: Case, number: int) -> dict[int, list[tuple[tuple[int, bool, int], float]]]:
    """Return by element of an input the values at and near which a formula turns, each with a label.

    A label is the number of the turn, whether the value at the turn is negative, and the number of the distance.
    """
    op, form = case.tree.root.op, case.form
    interval = op.interval(op.inputs[number])
    lower, upper = bounds(form, interval)
    near: dict[int, list[tuple[tuple[int, bool, int], float]]] = {}
    for turn, element, value in crossings(value_of(case).output, given(case), f"x{number}"):
        (nearest,) = form.ordinals(np.array([value]))
        ordinals = np.array([nearest, nearest + 1, nearest - 1, *form.ordinals(value + np.array(BEYOND))])
        is_inside = (ordinals >= lower) & (ordinals <= upper) & ~interval.is_pole(form.values(ordinals))
        for distance in np.flatnonzero(is_inside).tolist():
            label = (turn, value < 0, distance)
            near.setdefault(element, []).append((label, float(form.values(ordinals[distance : distance + 1])[0])))
    return near


def _decided(case: Case, number: int, values: Floats) -> Case:
    """Put values in the place of an input, but for elements at which nothing determines the derivative then."""
    output, primals = value_of(case).output, list(case.primals)
    primals[number] = values
    moved = replace(case, primals=tuple(primals))
    primals[number] = np.where(undecided(output, given(moved), f"x{number}"), case.primals[number], values)
    return replace(case, primals=tuple(primals))


def _layout_numbers(case: Case) -> tuple[range, range]:
    """Return the numbers of the inputs, and that of the cotangent, in the layouts of a case."""
    count = len(case.primals)
    return range(count), range(count, count + 1)


def _in_layout(case: Case, layout: str, numbers: range) -> Case | None:
    """Return a case with some tensors in a layout, an expanded one repeating its first row; None where none can be."""
    tensors = [*case.primals, case.cotangent]
    batches = [*case.batches, case.batch]
    fitting = [
        n for n in numbers if LAYOUTS[layout](tensors[n].shape) and (layout != "expanded" or len(batches[n]) > 0)
    ]
    if not fitting or layout == "contiguous":
        return None
    if layout == "expanded":
        for n in fitting:
            tensors[n] = np.broadcast_to(tensors[n][:1], tensors[n].shape).copy()
    chosen = tuple(layout if n in fitting else "contiguous" for n in range(len(tensors)))
    laid = replace(case, primals=tuple(tensors[:-1]), cotangent=tensors[-1], layouts=chosen)
    return laid if is_admissible(laid) else None


@cache
def reached_cases(op: Op, form: Format) -> tuple[Case, ...]:
    """Return cases of an op in the ranges in which drawn trees use it, the same each time.

    They are over the whole range, and near 0. There are none for an op that drawn trees do not use.
    """
    if not is_composable(op):
        return ()
    cases = _reached_points(op, form) if op.elementwise else _fixed(op, form, 1)
    return tuple(case for case in cases if case.point_count)


def _reached_points(op: Op, form: Format) -> Iterator[Case]:
    """Yield a case of an elementwise op at random points at which its value is no larger than a node of a tree is."""
    rng = np.random.default_rng(0)
    columns = []
    for name in op.inputs:
        interval = op.interval(name)
        values = _rounded(
            form, np.concatenate([rng.uniform(*interval.clipped(most), REACHED) for most in (LARGEST_NODE, NEAR_ZERO)])
        )
        columns.append(rng.permutation(values[[interval.encloses(value, value) for value in values.tolist()]]))
    count = min(map(len, columns))
    case = Case(single(op), form, tuple(column[:count] for column in columns), np.ones(count))
    yield case.only(np.array([abs(ball) <= LARGEST_NODE for ball in value_allowance(case).tolist()], dtype=bool))


def _smooth(case: Case) -> Case:
    """Leave out points of an op at which nothing determines its second derivative: kinks, edges and seams."""
    if not case.is_pointwise:
        return case
    rows = list(zip(*(map(arb, primal.ravel().tolist()) for primal in case.primals), strict=True))
    ruled = np.array(critical(case.tree.root.op, rows, order=2), dtype=bool)
    return case.only(~ruled) if ruled.any() else case


def _fixed(op: Op, form: Format, order: int) -> Iterator[Case]:
    """Yield a case of hard points of an elementwise op, with some ties, or one of each small shape of a tensor op."""
    rng = np.random.default_rng(0)
    if op.elementwise:
        columns = [
            rng.permutation(np.resize(hard(form, op.interval(name, order), op, FIXED), FIXED)) for name in op.inputs
        ]
        if op.kinks and len(columns) > 1:
            tie(op, columns, 3)
        yield admissible(Case(single(op), form, tuple(columns), np.resize(FIXED_COTANGENTS, FIXED)))
        return
    yield from (_small(op, form, shapes, (2,) if op.batched else (), rng) for shapes in op.cores)


def _small(op: Op, form: Format, shapes: tuple[Shape, ...], batch: Shape, rng: np.random.Generator) -> Case:
    """Return a case of a tensor op at small shapes, with a batch in front of the inputs that may have one."""
    tree = single(op, shapes)
    primals = tuple(
        _rounded(
            form, rng.uniform(*_tensor_range(op, leaf.name), size=(*(batch if i < op.batched else ()), *leaf.shape))
        )
        for i, leaf in enumerate(tree.leaves)
    )
    return admissible(Case(tree, form, primals, np.resize(FIXED_COTANGENTS, (*batch, *tree.root.shape))))


def _rounded(form: Format, values: Floats) -> Floats:
    """Round values to a format, as `Format.ordinals` does."""
    return form.values(form.ordinals(values))


def _drawn_elementwise(draw: st.DrawFn, op: Op, form: Format, order: int) -> Case:
    """Draw a case of an elementwise op: of inputs that broadcast, or of one shape, and with ties where it has kinks."""
    count = len(op.inputs)
    if count > 1 and op.broadcasts and op.where is None and not op.kinks and order == 1 and draw(st.booleans()):
        shapes = draw(broadcastable(count))
    else:
        shapes = (draw(wholes(OP_POINTS) | batches()),) * count
    primals = [
        draw(points(form, shape, op.interval(name, order), op)) for shape, name in zip(shapes, op.inputs, strict=True)
    ]
    if count > 1 and op.kinks:
        tie(op, [primal.reshape(-1) for primal in primals], draw(st.integers(0, 3)))
    batch = np.broadcast_shapes(*shapes)
    case = Case(single(op), form, tuple(primals), _cotangent(draw, form, batch))
    return case if order == 1 else _smooth(case)


def is_admissible(case: Case) -> bool:
    """Say whether the inputs of a case of one op meet the condition of its entry, and its formula has a value there."""
    return bool(where_met(case).all())


def where_met(case: Case) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Say where the inputs of a case of one op meet the condition of its entry: of each point, or of the whole.

    Where the entry has neither a condition nor a domain, its formula has to have a value.
    """
    op = case.tree.root.op
    return is_defined(case) if op.where is None and not op.domain else op.holds(case.primals)


def admissible(case: Case) -> Case:
    """Return a case of one op with inputs that meet the condition of its entry, or at which its formula has a value.

    Points or rows that do not are replaced by others that do. Where none does, or the condition is on the whole, all
    inputs are drawn anew, the same each time. Raises UnmetError where TRIES of that do not help.
    """
    op, rng = case.tree.root.op, np.random.default_rng(3)
    for _ in range(TRIES):
        met = where_met(case)
        if met.all():
            return case
        if op.elementwise:  # inputs that broadcast share points, and are repeated to be replaced one by one
            case = replace(case, primals=tuple(np.broadcast_to(p, case.batch).copy() for p in case.primals))
        of_rows = bool(case.batch) and case.batches == (case.batch,) * len(case.primals)
        if of_rows and met.shape == case.batch and met.any():
            return _replacing(case, met)
        case = replace(
            case,
            primals=tuple(
                _anew(op, case.form, name, rng, primal.shape)
                for name, primal in zip(op.inputs, case.primals, strict=True)
            ),
        )
    failing = (
        f"its formula has no finite value at any of {TRIES} drawn {case}; accepted: a formula that has one, or "
        f"`domain` or `where`, which say where: domain={{{op.inputs[0]!r}: Interval(0, 1)}}"
        if op.where is None
        else f"where: of {TRIES} drawn {case} none meets it; accepted: a condition that inputs of these "
        "shapes meet, drawn in the domain of each, or a formula of other inputs, which meets it by itself"
    )
    message = f"op {op.name!r}: {failing}"
    raise UnmetError(message)


def _replacing(case: Case, met: np.ndarray[Shape, np.dtype[np.bool_]]) -> Case:
    """Put rows that meet the condition, in turn, in the place of those that do not."""
    rows = np.arange(met.size)
    rows[~met.ravel()] = np.resize(np.flatnonzero(met), met.size - met.sum())
    primals = tuple(primal.reshape(met.size, *primal.shape[met.ndim :])[rows] for primal in case.primals)
    return replace(case, primals=tuple(new.reshape(old.shape) for new, old in zip(primals, case.primals, strict=True)))


def _anew(op: Op, form: Format, name: str, rng: np.random.Generator, shape: Shape) -> Floats:
    """Draw an input anew: of hard values, or of uniform ones for a tensor op."""
    if op.elementwise:
        return np.asarray(rng.choice(hard(form, op.interval(name), op), shape))
    return _rounded(form, rng.uniform(*_tensor_range(op, name), size=shape))


def tie(op: Op, columns: Sequence[Floats], count: int) -> None:
    """Make the first `count` values of the second input, in place, those of the first, unless they are its poles."""
    tied = columns[0][:count]
    columns[1][:count] = np.where(op.interval(op.inputs[1]).is_pole(tied), columns[1][:count], tied)


def _laid_out(draw: st.DrawFn, case: Case) -> Case:
    """Draw how each input lies in memory; one that is expanded repeats its first row."""
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
    """Draw an input of a tensor op."""
    return draw(moderate(form, shape, *_tensor_range(op, name)))


def _tensor_range(op: Op, name: str) -> tuple[float, float]:
    """Return the range of an input of a tensor op: inside its domain by a sixteenth on either side."""
    lower, upper = op.interval(name).clipped(TENSOR_RANGE)
    margin = (upper - lower) / 16
    return lower + margin, upper - margin


def _cotangent(draw: st.DrawFn, form: Format, shape: Shape) -> Floats:
    """Draw a cotangent that differs between elements, or ones."""
    return _rounded(form, np.resize(np.array(COTANGENTS), shape) if draw(st.booleans()) else np.ones(shape))


@st.composite
def tree_cases(draw: st.DrawFn, form: Format, ops: Sequence[Op] | None = None, order: int = 1) -> Case:
    """Cases of a drawn tree: with inputs that broadcast, shared nodes, reductions, and a sum or mean at the root.

    Of an order above 1 they are second derivatives. Shrinks as `trees` does, towards scalars. Raises ValueError where
    no tree can be made of the ops.
    """
    tensors = draw(st.sampled_from((False, False, True)))
    tree = draw(
        trees(
            ops,
            inputs=draw(st.integers(1, 3)),
            most=MOST_TENSOR_TREE_OPS if tensors else MOST_TREE_OPS,
            tensors=tensors,
            order=order,
        )
    )
    count = len(tree.leaves)
    shapes = ((TENSOR_POINTS,),) * count if tensors else draw(broadcastable(count) | st.just(((TREE_POINTS,),) * count))
    primals = tuple(
        draw(moderate(form, (*shape, *leaf.shape), *LEAF_RANGE))
        for shape, leaf in zip(shapes, tree.leaves, strict=True)
    )
    root = draw(st.sampled_from(ROOTS))
    whole = (*np.broadcast_shapes(*shapes), *tree.root.shape)
    cotangent = _cotangent(draw, form, whole) if root == "cotangent" else np.ones(whole)
    case = _laid_out(draw, Case(tree, form, primals, cotangent, root))
    return case if order == 1 else draw(st.sampled_from(list(repeated_order(case, "rr"))))
