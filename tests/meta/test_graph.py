"""The graph's own tests: a second route, the adjoint identity, each kind of step."""

from __future__ import annotations

import linecache
import math
import re
from dataclasses import replace
from operator import add, mul, sub, truediv
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import derivative, graph, transform
from reference.balls import Balls, Widened
from reference.case import Case, repeated_order
from reference.catalogue import OPS
from reference.compiler import compiled
from reference.elements import Symbols, elements, symbols, values, vjp
from reference.evaluation import Arrays, Exact, evaluate, objects
from reference.format import FORMATS, precision
from reference.graph import (
    Constant,
    Contract,
    Gather,
    Input,
    Map,
    Scatter,
    Select,
    Shift,
    Step,
    Through,
    constant,
    contracted,
    gathered,
    mapped,
    scattered,
    summed,
)
from reference.op import Op
from reference.oracle import certified
from reference.scalars import UFUNCS
from reference.trace import ARRAY_FUNCTIONS, Traced, TraceError, applied, traced
from reference.transform import pullback, pushforward
from reference.tree import Apply, Leaf, Tree, single
from strategies.cases import real_cases
from strategies.trees import trees

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reference.graph import Shape
    from reference.op import Array
    from reference.tree import Node

FLOAT32 = FORMATS["float32"]

BITS = 240
"""The precision, in bits, at which two routes are compared."""

GOOD = 100
"""The bits to which each route must be certain, relative or absolute: what steps lose of `BITS` is less."""

TENSORS = {name: op for name, op in OPS.items() if not op.elementwise}

LARGE = {name: op for name, op in TENSORS.items() if real_cases(op, FLOAT32)}

HAVING_SECOND = (
    "square",
    "exp",
    "tanh",
    "mul",
    "div",
    "pow",
    "hypot",
    "relu",
    "dot",
    "matmul",
    "sum",
    "prod",
    "norm",
    "cumsum",
)
"""The ops of which sympy differentiates the gradient in little time."""

# ---------------------------------------------------------------------------------------------- points


def shapes_of(op: Op) -> list[tuple[Shape, ...]]:
    """Return small shapes of the inputs: the op's own, those with a batch in front, and broadcast ones of scalars."""
    if op.elementwise:
        alike: list[tuple[Shape, ...]] = [((),) * len(op.inputs), ((2,),) * len(op.inputs)]
        return alike + [(((2, 1), (3,), (1,))[: len(op.inputs)])] * (len(op.inputs) > 1 and op.broadcasts)
    whole = list(op.cores)
    if op.batched:

        def with_batch(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
            return (*((2, *shape) for shape in shapes[: op.batched]), *shapes[op.batched :])

        whole += map(with_batch, op.cores)
    return whole


def inside(op: Op, name: str, shape: Shape, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Draw distinct values of float32 inside the domain of an input, off the places where the op is not smooth."""
    lower, upper = op.interval(name).clipped(2.5)
    drawn = rng.uniform(lower + (upper - lower) / 16, upper - (upper - lower) / 16, shape)
    return np.asarray(drawn).astype(np.float32).astype(np.float64)


def small_case(op: Op, shapes: tuple[Shape, ...], seed: int = 0) -> Case:
    """Return a case of an op at small shapes, with a cotangent that differs between elements."""
    rng = np.random.default_rng(seed)
    primals = tuple(inside(op, name, shape, rng) for name, shape in zip(op.inputs, shapes, strict=True))
    tree = single(op, shapes if not op.elementwise else None)
    outputs = elements(op, shapes).outputs.shape
    return Case(tree, FLOAT32, primals, np.asarray(rng.standard_normal(outputs)).astype(np.float32).astype(np.float64))


def balls_of(array: Any) -> list[arb]:
    """Return the elements as balls."""
    return [ball if isinstance(ball, arb) else arb(ball) for ball in np.asarray(array, dtype=object).ravel().tolist()]


def assert_same(ours: Sequence[arb], theirs: Sequence[arb]) -> None:
    """Assert that balls of two routes overlap, all of them tight: relative to the value, or to 1 where it is near 0."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for ball in (one, other):
            assert ball.is_finite()
            assert ball.rel_accuracy_bits() >= GOOD or ball.rad() < arb(2) ** -GOOD
        assert one.overlaps(other), f"{one} and {other}"


def through(case: Case, *, saved: bool) -> list[list[arb]]:
    """Evaluate the graph of a case in flint, with nothing rounded."""
    asked = derivative.of_case(case, saved=saved)
    with precision(BITS):
        found = evaluate(asked.results, derivative.given(case), Exact())
    return [balls_of(each) for each in found]


# ---------------------------------------------------------------------------------------- second route


def rational(expression: sympy.Expr) -> sympy.Expr:
    """Write floats as the dyadic rationals that they are."""
    return expression.xreplace({number: sympy.Rational(float(number)) for number in expression.atoms(sympy.Float)})


def by_elements(gradients: Sequence[Any], arguments: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[list[arb]]:
    """Evaluate gradients that sympy found, laid out in one row, at rows of values of all arguments."""
    flat = [rational(g) for array in gradients for g in array.ravel()]
    program = compiled(flat, [s for array in arguments for s in array.ravel()])
    with precision(BITS):
        return [list(found) for found in zip(*program.at([balls_of(np.concatenate(row)) for row in rows]), strict=True)]


def assert_first_order(case: Case, gradients: Sequence[Any], arguments: Sequence[Any]) -> None:
    """Assert that pullback and pushforward are what sympy finds element by element: a gradient, and its transpose.

    The gradient is linear in the cotangent, so that at each unit cotangent it is a row of the Jacobian.
    """
    primals = [primal.ravel() for primal in case.primals]
    units = np.eye(case.cotangent.size)
    rows = [[*primals, cotangent] for cotangent in (case.cotangent.ravel(), *units)]
    whole, *jacobian = by_elements(gradients, arguments, rows)
    ends = np.cumsum([0, *(primal.size for primal in primals)]).tolist()
    ours, _ = certified(case, BITS)
    assert_same([ball for array in ours for ball in balls_of(array)], whole)
    pushed = replace(case, word="f")
    changes, _ = certified(pushed, BITS)
    with precision(BITS):
        for start, end, tangent, change in zip(ends, ends[1:], pushed.tangents, changes, strict=False):
            column = tangent.ravel().tolist()
            assert_same(balls_of(change), [sum(map(mul, row[start:end], column), arb(0)) for row in jacobian])
    for word, expected in (("r", ours), ("f", changes)):
        saved = through(replace(case, word=word), saved=True)
        for one, other in zip(saved, expected, strict=True):
            assert_same(one, balls_of(other))


@pytest.mark.parametrize("name", OPS)
def test_pullback_is_what_sympy_finds(name: str) -> None:
    """At every small shape the gradient is that of every element by sympy, and the change is its transpose."""
    for seed, shapes in enumerate(shapes_of(OPS[name])):
        second = elements(OPS[name], shapes)
        case = small_case(OPS[name], shapes, seed)
        assert_first_order(case, second.gradients, (*second.inputs, second.cotangents))


def flipped(step: Map, number: int, seed: Step, *, saved: bool) -> Step | None:
    """Differentiate a map, with the wrong sign by its second source."""
    found = LOCAL(step, number, seed, saved=saved)
    return found if number != 1 or found is None else mapped(-X, [X], [found])


LOCAL, EXCHANGED, PULLED, MOVED_BACK = transform._local, transform._exchanged, transform._pulled, transform._moved_back  # noqa: SLF001
X, Y = sympy.symbols("x y", real=True)


def renewed(case: Case) -> Case:
    """Return a case whose tree is another object: nothing that was kept of the first is found again."""
    leaves = tuple(Leaf(leaf.name, leaf.shape) for leaf in case.tree.leaves)
    return replace(case, tree=Tree(Apply(case.tree.root.op, leaves), leaves))


def test_second_route_notices_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map with the wrong sign in both modes is consistent with itself, but not with sympy."""
    case = renewed(small_case(OPS["mul"], ((2,), (2,))))
    second = elements(OPS["mul"], ((2,), (2,)))
    monkeypatch.setattr(transform, "_local", flipped)
    assert_adjoint(case)
    with pytest.raises(AssertionError, match="and"):
        assert_first_order(case, second.gradients, (*second.inputs, second.cotangents))


@pytest.mark.parametrize("name", HAVING_SECOND)
def test_second_pullback_is_what_sympy_finds(name: str) -> None:
    """The gradient of a gradient is that of every element by sympy, by each input in turn."""
    op = OPS[name]
    shapes = shapes_of(op)[0 if op.elementwise else -1]
    second = elements(op, shapes)
    for case in repeated_order(small_case(op, shapes), "rr"):
        assert case.along is not None
        assert case.direction is not None
        directions = symbols("direction", second.inputs[case.along].shape)
        gradients = vjp(second.gradients[case.along], directions, second.inputs)
        row = [*(p.ravel() for p in case.primals), case.cotangent.ravel(), case.direction.ravel()]
        (theirs,) = by_elements(gradients, (*second.inputs, second.cotangents, directions), [row])
        ours, _ = certified(case, BITS)
        assert_same([ball for array in ours for ball in balls_of(array)], theirs)


@settings(max_examples=12, derandomize=True)
@given(tree=st.booleans().flatmap(lambda tensors: trees(inputs=2, most=3, tensors=tensors)))
def test_pullback_of_trees_is_what_sympy_finds(tree: Tree) -> None:
    """The gradient of a drawn tree is that of every element of the whole by sympy."""
    inputs = [symbols(leaf.name, leaf.shape) for leaf in tree.leaves]
    found: dict[Node, Array] = dict(zip(tree.leaves, inputs, strict=True))
    for node in tree.applications:
        found[node] = values(node.op, [found[child] for child in node.children])
    cotangents = symbols("cotangent", tree.root.shape)
    rng = np.random.default_rng(0)
    primals = tuple(
        (rng.uniform(0.25, 2.0, leaf.shape) * np.ones(leaf.shape)).astype(np.float32) for leaf in tree.leaves
    )
    case = Case(
        tree, FLOAT32, tuple(p.astype(np.float64) for p in primals), np.resize([1.0, -0.75, 2.0], tree.root.shape)
    )
    assert_first_order(case, vjp(found[tree.root], cotangents, inputs), (*inputs, cotangents))


@pytest.mark.parametrize("name", OPS)
def test_pushforward_is_the_limit_of_differences(name: str) -> None:
    """The change along a tangent is the difference of two values over their distance, for a third of the digits."""
    op = OPS[name]
    shapes = shapes_of(op)[0]
    case = replace(small_case(op, shapes), word="f")
    whole = derivative.value_of(case)
    with precision(3 * BITS):
        nearby = arb(2) ** -BITS
        for number, change in enumerate(through(case, saved=False)):
            ends = []
            for sign in (1, -1):
                given_values: dict[str, Any] = dict(derivative.given(case))
                moved = [
                    v + sign * t * nearby
                    for v, t in zip(balls_of(case.primals[number]), case.tangents[number].ravel().tolist(), strict=True)
                ]
                given_values[f"x{number}"] = objects(moved, case.primals[number].shape)
                ends.append(balls_of(evaluate([whole.output], given_values, Exact())[0]))
            for above, below, ours in zip(*ends, change, strict=True):
                slope = (above - below) / (2 * nearby)
                assert abs(slope - ours) < arb(2) ** -GOOD * (1 + abs(ours))


# ------------------------------------------------------------------------------------ adjoint identity

SHARE = 2.0**-30
"""How wide the two sides may be, as a share of the magnitudes of the terms: they are sums of float64."""


def product(one: Step, other: Step) -> tuple[Step, Step]:
    """Return the sum of products of the elements of two arrays, and that of their magnitudes."""
    letters = "abcdefgh"[: len(one.shape)]
    sizes = [mapped(sympy.Abs(X), [X], [array]) for array in (one, other)]
    return contracted([letters, letters], "", [one, other]), contracted([letters, letters], "", sizes)


def assert_sides_agree(sides: Sequence[tuple[Case, int, str, np.ndarray[Any, Any]]], *, saved: bool) -> None:
    """Assert that the inner products of results of two cases with arrays are one number, tightly enclosed."""
    found = []
    for case, number, name, weights in sides:
        asked = derivative.of_case(case, saved=saved)
        known = derivative.given(case) | {name: weights}
        with precision(64), np.errstate(all="ignore"):
            found.append(evaluate(product(asked.results[number], Input((), weights.shape, name)), known, Arrays()))
    radii = [0.0 if side.rad is None else float(side.rad) for side, _ in found]
    scale = max(float(size.mid) for _, size in found)
    assert scale > 0
    assert max(radii) <= SHARE * scale
    assert abs(float(found[0][0].mid) - float(found[1][0].mid)) <= sum(radii)


def assert_adjoint(case: Case) -> None:
    """Assert by each input that <c, J v> from the word f is <J^T c, v> from the word r."""
    pushed = replace(case, word="f")
    for number, tangent in enumerate(pushed.tangents):
        for saved in (False, True):
            sides = [(pushed, number, "weights", case.cotangent), (case, number, "weights", tangent)]
            assert_sides_agree(sides, saved=saved)


@pytest.mark.parametrize("name", LARGE)
def test_modes_are_adjoint_at_real_sizes(name: str) -> None:
    """Pulling back and pushing forward are each other's adjoint, at the lengths of real use."""
    for case in real_cases(LARGE[name], FLOAT32)[:1]:
        assert_adjoint(case)


@pytest.mark.parametrize("name", LARGE)
def test_second_derivative_is_symmetric_at_real_sizes(name: str) -> None:
    """<d, H e> from the gradient of a gradient is <e, H d> from the change of a gradient."""
    case = next(iter(real_cases(LARGE[name], FLOAT32)))
    rng = np.random.default_rng(2)
    directions = [rng.standard_normal(primal.shape) for primal in case.primals]
    compared = 0
    for one, first in enumerate(directions):
        for other, second in enumerate(directions):
            pulled = replace(case, word="rr", along=one, direction=first)
            pushed = replace(case, word="fr", along=other, direction=second)
            if is_zero(pulled, other):
                assert is_zero(pushed, one)
                continue
            compared += 1
            assert_sides_agree([(pulled, other, "weights", second), (pushed, one, "weights", first)], saved=False)
    assert (compared > 0) == ((OPS[name].base or name) in CURVED)


CURVED = {
    "prelu", "prod", "var", "norm", "logsumexp", "dot", "matmul", "einsum", "outer", "linear",
    "softmax", "log_softmax", "layer_norm", "rms_norm", "mse_loss", "cross_entropy",
}  # fmt: skip
"""The tensor ops that are not linear in all inputs together, so that they have a second derivative."""


def is_zero(case: Case, number: int) -> bool:
    """Say whether the graph itself knows that a derivative is 0."""
    step = derivative.of_case(case, saved=False).results[number]
    return isinstance(step, Constant) and not step.values.any()


def without_a_factor(step: Contract, number: int, cotangent: Step) -> Step:
    """Exchange the axes of a contraction, with the other source taken as ones."""
    ones = [s if i == number else constant(np.ones(s.shape)) for i, s in enumerate(step.sources)]
    return EXCHANGED(replace(step, sources=tuple(ones)), number, cotangent)


def with_the_wrong_axes(step: Contract, number: int, cotangent: Step) -> Step:
    """Exchange the axes of a contraction, and reverse the elements along the last."""
    found = EXCHANGED(step, number, cotangent)
    return gathered(found, graph.flat_indices(found.shape)[..., ::-1]) if len(found.shape) > 1 else found


def without_repeated_places(step: Gather, cotangent: Step) -> Step:
    """Send a cotangent back to each place once, where a place was taken several times."""
    if step.move is not None:
        return MOVED_BACK(step, cotangent)
    first = np.full(step.table.size, -1)
    _, numbers = np.unique(step.table, return_index=True)
    first[numbers] = step.table.ravel()[numbers]
    return scattered(cotangent, first.reshape(step.table.shape), step.sources[0].shape)


def without_a_sign(step: Step, number: int, cotangent: Step, *, saved: bool) -> Any:
    """Pull back through a map with the wrong sign by its second source."""
    pulled = PULLED(step, number, cotangent, saved=saved)
    return (
        [(target, mapped(-X, [X], [gradient])) for target, gradient in pulled]
        if isinstance(step, Map) and number == 1
        else pulled
    )


def without_a_sum(source: Step, shape: Shape) -> Step:
    """Take one of the elements that were repeated, where all are to be summed."""
    table = np.broadcast_to(graph.flat_indices(shape), source.shape)
    _, numbers = np.unique(table, return_index=True)
    return source if source.shape == shape else gathered(source, numbers.reshape(shape))


def turned_the_same_way(step: Gather, cotangent: Step) -> Step:
    """Move a cotangent as the elements were moved, not back: three exchanged axes are not their own inverse."""
    if step.move is not None and step.move[0] == "transpose":
        table = np.arange(cotangent.size).reshape(step.sources[0].shape)
        return gathered(cotangent, table)
    return MOVED_BACK(step, cotangent)


FAULTS: dict[str, tuple[str, Any, str]] = {
    "a factor is dropped": ("_exchanged", without_a_factor, "matmul"),
    "a factor of linear is dropped": ("_exchanged", without_a_factor, "linear"),
    "axes are exchanged wrongly": ("_exchanged", with_the_wrong_axes, "matmul"),
    "repeated places count once": ("_moved_back", without_repeated_places, "index_select"),
    "a map has the wrong sign": ("_pulled", without_a_sign, "rms_norm"),
    "a broadcast is not summed": ("unbroadcast", without_a_sum, "layer_norm"),
    "axes are not moved back": ("_moved_back", turned_the_same_way, "transpose"),
}
"""What is planted, by its name: in which function of `transform`, what, and the op in which it shows."""


@pytest.mark.parametrize("fault", FAULTS)
def test_adjoint_identity_notices(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformation with a planted fault is no adjoint."""
    place, faulty, name = FAULTS[fault]
    case = renewed(real_cases(OPS[name], FLOAT32)[0])
    monkeypatch.setattr(transform, place, faulty)
    with pytest.raises(AssertionError):
        assert_adjoint(case)


# -------------------------------------------------------------------------------------- kinds of step


@pytest.mark.parametrize("arithmetic", [Arrays(), Exact()], ids=["arrays", "flint"])
def test_gather_from_nothing_is_zero(arithmetic: Arrays | Exact) -> None:
    """Where an array has no element, as one that is padded may have none, each place gets the 0 of the arithmetic."""
    (found,) = evaluate([gathered(constant(np.ones(0)), np.full((2, 3), -1))], {}, arithmetic)
    values = found.mid if isinstance(found, Balls) else found
    assert values.shape == (2, 3)
    assert {type(value) for value in values.ravel()} == {np.float64 if isinstance(found, Balls) else arb}
    assert all(value == 0 for value in values.ravel())


@pytest.mark.parametrize("arithmetic", [Arrays(), Exact()], ids=["arrays", "flint"])
def test_step_of_another_kind_is_refused(arithmetic: Arrays | Exact) -> None:
    """Neither arithmetic passes a step on that it does not know."""
    with pytest.raises(NotImplementedError, match="Step"):
        evaluate([Step((constant(np.ones(2)),), (2,))], {}, arithmetic)


ONE, OTHER = Input((), (2, 3), "one"), Input((), (3, 2), "other")
AT_ONE, AT_OTHER = np.array([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]]), np.array([[1.0, -2.0], [0.25, 3.0], [-0.75, 0.5]])
TABLE = np.array([5, 0, 0, -1])


def both_ways(step: Step | None, known: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Evaluate a step in float64 and by flint, have the balls overlap, and return the midpoints."""
    assert step is not None
    with precision(80), np.errstate(all="ignore"):
        (rough,), (exact,) = evaluate([step], known, Arrays()), evaluate([step], known, Exact())
    balls = rough.repeated(step.shape)
    radii = np.zeros(step.shape) if balls.rad is None else balls.rad
    assert np.shape(exact) == balls.mid.shape == step.shape
    for mid, radius, ball in zip(balls.mid.ravel().tolist(), np.ravel(radii).tolist(), balls_of(exact), strict=True):
        assert arb(mid, radius).overlaps(ball)
        assert radius <= 2.0**-40 * (1 + abs(mid))
    return balls.mid


def test_map_and_its_derivative() -> None:
    """A map applies its expression to arrays that broadcast, and hands a sum back to what was repeated."""
    row = Input((), (3,), "row")
    step = mapped(X * sympy.exp(Y), [X, Y], [ONE, row])
    known = {"one": AT_ONE, "row": np.array([0.5, -1.0, 2.0]), "cotangent": AT_OTHER.T.copy()}
    scale = np.exp(known["row"])
    assert isinstance(step, Map)
    np.testing.assert_array_max_ulp(both_ways(step, known), AT_ONE * scale, 4)
    first, second = pullback([step], [Input((), (2, 3), "cotangent")], [ONE, row], saved=False)
    np.testing.assert_array_max_ulp(both_ways(first, known), AT_OTHER.T * scale, 4)
    np.testing.assert_array_max_ulp(both_ways(second, known), (AT_OTHER.T * AT_ONE * scale).sum(0), 16)


def test_contract_and_its_derivative() -> None:
    """A contraction is einsum; its derivative contracts with the other array, and repeats over axes summed alone."""
    known = {"one": AT_ONE, "other": AT_OTHER, "cotangent": np.array([2.0, -0.5])}
    step = contracted(["ij", "jk"], "i", [ONE, OTHER])
    assert isinstance(step, Contract)
    assert step.count == 6
    assert (both_ways(step, known) == np.einsum("ij,jk->i", AT_ONE, AT_OTHER)).all()
    cotangent = Input((), (2,), "cotangent")
    first, second = pullback([step], [cotangent], [ONE, OTHER], saved=False)
    assert (both_ways(first, known) == np.outer(known["cotangent"], AT_OTHER.sum(1))).all()
    assert (both_ways(second, known) == np.repeat((known["cotangent"] @ AT_ONE)[:, None], 2, 1)).all()
    with pytest.raises(ValueError, match=r"lengths 3 and 2.*accepted: equal"):
        contracted(["ij", "jk"], "ik", [ONE, ONE])


def test_gather_and_scatter_are_each_others_derivative() -> None:
    """A place that is taken twice has the sum of two cotangents, one that is not taken 0; -1 takes 0."""
    known = {"one": AT_ONE, "row": np.array([1.0, 2.0, 4.0, 8.0])}
    row = Input((), (4,), "row")
    step = gathered(ONE, TABLE)
    assert isinstance(step, Gather)
    assert both_ways(step, known).tolist() == [-0.5, 0.5, 0.5, 0]
    (back,) = pullback([step], [row], [ONE], saved=False)
    assert isinstance(back, Scatter)
    assert both_ways(back, known).tolist() == [[6, 0, 0], [0, 0, 1]]
    (again,) = pullback([back], [ONE], [row], saved=False)
    assert both_ways(again, known).tolist() == [-0.5, 0.5, 0.5, 0]
    (along,) = pushforward([back], {row: row}, saved=False)
    assert both_ways(along, known).tolist() == [[6, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(("rank", "at"), [(0, 1), (1, 0), (-2, 3), (-1, 2)])
def test_select_has_a_rank(rank: int, at: int) -> None:
    """The weight is 1 at the element of that rank, and the derivative of the sum of products goes there alone."""
    keys = Input((), (4,), "keys")
    known = {"keys": np.array([0.5, -1.0, 3.0, 2.0]), "cotangent": np.array(1.0)}
    weights = Select((keys,), (4,), 0, rank, shares=True)
    assert both_ways(weights, known).tolist() == np.eye(4)[at].tolist()
    result = contracted(["a", "a"], "", [weights, keys], terms=1)
    (gradient,) = pullback([result], [Input((), (), "cotangent")], [keys], saved=False)
    assert both_ways(gradient, known).tolist() == np.eye(4)[at].tolist()


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_select_ties(axis: int, *, shares: bool) -> None:
    """Elements that are equal have equal shares, or the first has it all."""
    table = np.array([[2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 2.0, 0.0], [0.0, 1.0, 2.0, 1.0]])
    shared = np.array([[1 / 4] * 4, [0, 1 / 2, 1 / 2, 0], [0, 0, 1, 0]])
    due = shared if shares else np.eye(3, 4)
    shape = table.shape if axis else table.T.shape
    known = {"keys": table if axis else table.T.copy()}
    found = both_ways(Select((Input((), shape, "keys"),), shape, axis, -1, shares=shares), known)
    assert (found == (due if axis else due.T)).all()


def test_select_of_an_uncertain_order_says_nothing() -> None:
    """Where two keys overlap at the rank, every weight of their row is unknown, and only of theirs."""
    keys = Input((), (2, 3), "keys")
    step = Select((keys,), (2, 3), 1, -1, shares=True)
    mids, radius = np.array([[1.0, 2.0, 2.25], [1.0, 1.125, 4.0]]), 0.25
    for kind in (Balls, Widened):
        rough = Arrays().step(step, [kind(mids, np.full((2, 3), radius))])
        assert np.isnan(rough.mid[0]).all()
        assert rough.mid[1].tolist() == [0, 0, 1]
    exact = Exact().step(step, [objects([arb(mid, radius) for mid in mids.ravel().tolist()], (2, 3))])
    assert not any(ball.is_finite() for ball in exact[0])
    assert exact[1].tolist() == [0, 0, 1]
    equal = np.array([[2.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    assert np.isnan(Arrays().step(step, [Balls(equal, np.full((2, 3), 2.0**-60))]).mid[0]).all()


def test_shift_leaves_no_trace() -> None:
    """What is shifted has the value and the derivative of what is not, where neither would overflow."""
    shift = Shift((ONE,), (2, 1), 1)
    known = {"one": AT_ONE, "cotangent": np.array([2.0, -0.5])}
    assert both_ways(shift, known).tolist() == [[2.0], [1.5]]
    cotangent = Input((), (2,), "cotangent")
    exponentials = [mapped(sympy.exp(X - Y), [X, Y], [ONE, by]) for by in (shift, constant(0.0))]
    shares = [mapped(X / Y, [X, Y], [e, graph.reshaped(summed(e, [1]), (2, 1))]) for e in exponentials]
    firsts = [graph.reshaped(gathered(share, np.array([0, 3])), (2,)) for share in shares]
    values_found = [both_ways(first, known) for first in firsts]
    np.testing.assert_array_max_ulp(values_found[0], values_found[1], 8)
    gradients = [both_ways(pullback([f], [cotangent], [ONE], saved=False)[0], known) for f in firsts]
    assert np.abs(gradients[0] - gradients[1]).max() < 2.0**-48
    assert pullback([shift], [Input((), (2, 1), "column")], [ONE], saved=False) == [None]
    far = known | {"one": AT_ONE + 1000}
    assert np.isfinite(both_ways(firsts[0], far)).all()


def test_through_is_differentiated_at_what_was_saved() -> None:
    """The value is that of the first source; the derivative with what was saved is that of the op at other inputs."""
    row, cotangent = Input((), (3,), "row"), Input((), (3,), "cotangent")
    known = {"row": np.array([0.5, -1.0, 2.0]), "cotangent": np.array([1.0, 2.0, -4.0])}
    value = mapped(X**2, [X], [row])
    elsewhere = mapped(X + 1, [X], [row])
    step = Through((value, row), (3,), mapped(X**2, [X], [elsewhere]), (elsewhere,))
    assert (both_ways(step, known) == known["row"] ** 2).all()
    for saved, at in ((False, known["row"]), (True, known["row"] + 1)):
        (pulled,) = pullback([step], [cotangent], [row], saved=saved)
        (pushed,) = pushforward([step], {row: cotangent}, saved=saved)
        assert (both_ways(pulled, known) == 2 * at * known["cotangent"]).all()
        assert (both_ways(pushed, known) == 2 * at * known["cotangent"]).all()


def test_symbols_write_every_step() -> None:
    """Written in symbols, a graph is what it is evaluated to be."""
    step = mapped(
        X * Y, [X, Y], [contracted(["ij", "jk"], "ik", [ONE, OTHER]), scattered(ONE, np.arange(6) % 4, (2, 2))]
    )
    names = {"one": symbols("one", (2, 3)), "other": symbols("other", (3, 2))}
    (written,) = evaluate([step], names, Symbols())
    known = {"one": AT_ONE, "other": AT_OTHER}
    places = {s: v for name, array in names.items() for s, v in zip(array.ravel(), known[name].ravel(), strict=True)}
    found = [float(e.subs(places)) for e in written.ravel()]
    np.testing.assert_array_max_ulp(np.array(found).reshape(2, 2), both_ways(step, known), 8)


# ------------------------------------------------------------------------------------------- tracing

A = np.array([[0.5, -1.25, 2.0], [1.5, 0.75, -0.5]])
B = np.array([[1.25, 0.75, -0.5], [0.25, 3.0, 2.0]])
POSITIVE = np.array([[0.5, 1.25, 2.0], [1.5, 0.75, 3.5]])
UNIT = np.array([[0.5, -0.25, 0.75], [0.125, 0.875, -0.625]])
CUBE = np.arange(24.0).reshape(2, 3, 4) / 8 - 1

ARGUMENTS: dict[str, list[Any]] = {
    "power": [POSITIVE, B],
    "float_power": [POSITIVE, B],
    "arctan2": [A, POSITIVE],
    "sqrt": [POSITIVE],
    "log": [POSITIVE],
    "log2": [POSITIVE],
    "log10": [POSITIVE],
    "log1p": [POSITIVE],
    "arccosh": [POSITIVE + 1],
    "arcsin": [UNIT],
    "arccos": [UNIT],
    "arctanh": [UNIT],
    **{
        name: [A, np.where(A > 1, A, B)]
        for name in ("maximum", "minimum", "greater", "greater_equal", "less", "less_equal")
    },
    "logical_and": [np.array([0.0, 2.0, -1.0, 0.0]), np.array([1.0, -3.0, 0.5, 0.0])],
    "logical_not": [np.array([0.0, 2.0, -1.0])],
    "rint": [np.array([0.5, 1.5, -2.5, 0.75, -0.25])],
    "sign": [np.array([-2.0, 0.0, 3.0])],
}
"""Arguments of functions of scalars, where they are not `A` and `B`."""

Formula = tuple["Callable[..., Any]", list[np.ndarray[Any, Any]]]

CALLS: dict[str, list[Formula]] = {
    "sum": [(np.sum, [A]), (lambda a: np.sum(a, axis=(0, -1), keepdims=True), [CUBE]), (lambda a: a.sum(1), [CUBE])],
    "mean": [(np.mean, [A]), (lambda a: np.mean(a, -1, keepdims=True), [A]), (lambda a: a.mean(0), [A])],
    "average": [(np.average, [A]), (lambda a: np.average(a, axis=1), [A])],
    "var": [(np.var, [A]), (lambda a: np.var(a, axis=1, ddof=1, keepdims=True), [A])],
    "std": [(np.std, [A]), (lambda a: np.std(a, axis=-1, ddof=1), [A])],
    "prod": [(np.prod, [A]), (lambda a: np.prod(a, axis=(0, 2), keepdims=True), [CUBE]), (lambda a: a.prod(1), [CUBE])],
    "cumsum": [(np.cumsum, [A]), (lambda a: np.cumsum(a, axis=1), [CUBE]), (lambda a: a.cumsum(-1), [A])],
    **{
        name: [(getattr(np, name), [A]), (lambda a, name=name: getattr(np, name)(a, axis=1, keepdims=True), [CUBE])]
        for name in ("max", "amax", "min", "amin")
    },
    "dot": [(np.dot, [A, B.T]), (np.dot, [A[0], B[0]]), (lambda a: np.dot(a, 2.0), [A]), (np.dot, [CUBE, CUBE[0].T])],
    "einsum": [
        (lambda a, b: np.einsum("ij,kj->ik", a, b), [A, B]),
        (lambda a: np.einsum("ijk->kj", a), [CUBE]),
        (lambda a, b, c: np.einsum("ij,kj,ik->k", a, b, c, optimize=True), [A, B, np.array([[1.0, 2.0], [0.5, -1.0]])]),
    ],
    "outer": [(np.outer, [A, B[0]])],
    "inner": [(np.inner, [A[0], B[0]]), (np.inner, [A, B[0]])],
    "norm": [
        (np.linalg.norm, [A[0]]),
        (lambda a: np.linalg.norm(a, axis=-1, keepdims=True), [A]),
        (lambda a: np.linalg.norm(a, 2, 0), [A]),
    ],
    "reshape": [(lambda a: np.reshape(a, (3, 2)), [A]), (lambda a: a.reshape(-1, 2), [A])],
    "ravel": [(np.ravel, [A]), (lambda a: a.ravel(), [A])],
    "transpose": [(np.transpose, [CUBE]), (lambda a: np.transpose(a, (1, 2, 0)), [CUBE]), (lambda a: a.T, [A])],
    "swapaxes": [(lambda a: np.swapaxes(a, 0, -1), [CUBE]), (lambda a: a.swapaxes(1, 2), [CUBE])],
    "moveaxis": [(lambda a: np.moveaxis(a, 0, -1), [CUBE])],
    "expand_dims": [(lambda a: np.expand_dims(a, (0, 2)), [A]), (lambda a: a[:, None], [A])],
    "squeeze": [(np.squeeze, [CUBE[:1, :, :1]]), (lambda a: np.squeeze(a, axis=0), [CUBE[:1]])],
    "broadcast_to": [(lambda a: np.broadcast_to(a, (4, 2, 3)), [A]), (lambda a: np.broadcast_to(a, 3), [A[:1, 0]])],
    "concatenate": [
        (lambda a, b: np.concatenate([a, b], axis=-1), [A, B]),
        (lambda a, b: np.concatenate([a, b[:1], a]), [A, B]),
    ],
    "stack": [(lambda a, b: np.stack([a, b]), [A, B]), (lambda a, b: np.stack([a, b], axis=-1), [A, B])],
    "flip": [(np.flip, [A]), (lambda a: np.flip(a, 1), [CUBE])],
    "roll": [(lambda a: np.roll(a, 2), [A]), (lambda a: np.roll(a, -1, axis=1), [A])],
    "rot90": [(np.rot90, [A]), (lambda a: np.rot90(a, 3, (1, 2)), [CUBE])],
    "take": [(lambda a: np.take(a, [2, 0, 0], axis=1), [A]), (lambda a: np.take(a, [5, 1]), [A])],
    "take_along_axis": [(lambda a: np.take_along_axis(a, np.array([[2, 0], [1, 1]]), 1), [A])],
    "repeat": [(lambda a: np.repeat(a, 2), [A]), (lambda a: np.repeat(a, [1, 0, 3], axis=1), [A])],
    "tile": [(lambda a: np.tile(a, (2, 1, 2)), [A])],
    "diagonal": [(np.diagonal, [A]), (lambda a: np.diagonal(a, 1, axis1=1, axis2=2), [CUBE])],
    "trace": [(np.trace, [A]), (np.trace, [CUBE])],
    "tril": [(np.tril, [A]), (lambda a: np.tril(a, -1), [A])],
    "triu": [(np.triu, [A]), (lambda a: np.triu(a, 1), [A])],
    "pad": [
        (lambda a: np.pad(a, 1), [A]),
        (lambda a: np.pad(a, ((1, 0), (0, 2)), constant_values=0), [A]),
        *(
            (lambda a, mode=mode: np.pad(a, ((1, 1), (2, 0)), mode=mode), [A])
            for mode in ("edge", "reflect", "symmetric", "wrap")
        ),
    ],
    "where": [
        (lambda a, b: np.where(a > b, a, b), [A, B]),
        (lambda a: np.where(np.array([[True], [False]]), a, -1.0), [A]),
        (lambda a, b: np.where(a, b, 0.5), [np.array([0.0, -1.0, 2.0]), B[0]]),
    ],
    "clip": [(lambda a: np.clip(a, -0.5, 1), [A]), (lambda a, b: np.clip(a, b, 2), [A, UNIT])],
    "shape": [(lambda a: a * np.shape(a)[1], [A])],
    "ndim": [(lambda a: a * np.ndim(a), [A])],
    "size": [(lambda a: a * np.size(a), [A])],
}
"""Calls of functions of arrays, with their arguments."""

METHODS: dict[str, list[Formula]] = {
    "reductions": [(lambda a, r=r: r.reduce(a), [A]) for r in (np.add, np.multiply, np.maximum, np.minimum)],
    "matmul": [
        (np.matmul, [A, B.T]),
        (np.matmul, [CUBE, CUBE[:1].swapaxes(1, 2)]),
        (np.matmul, [CUBE, CUBE[0, 0]]),
        (np.matmul, [A[0], CUBE]),
        (lambda a: a @ np.eye(3), [A]),
        (np.matmul, [CUBE[:, None], CUBE.swapaxes(1, 2)]),
    ],
    "getitem": [
        (lambda a: a[..., ::-1], [A]),
        (lambda a: a[[1, 0, 1], 2], [A]),
        (lambda a: a[np.eye(2, 3) > 0], [A]),
        (lambda a: sum(row * i for i, row in enumerate(a)), [A]),
    ],
    "others": [
        (lambda a: a.max(1) - a.min(1), [A]),
        (lambda a: a[0, 1] * a, [A]),
        (lambda a: a[:1].squeeze() * len(a) * a.ndim * a.size, [A]),
        (lambda a: 2 - a / 4 + 3 * -(abs(a) ** 2) - 1 / (a + 5), [A]),
    ],
}
"""What formulas do without naming a function."""

NUMPY_ULPS = 64
"""How far numpy itself may be off: ulps of the largest number among the arguments and the results."""


def assert_numpys(formula: Any, arguments: Sequence[np.ndarray[Any, Any]]) -> None:
    """Have a formula, traced and evaluated by flint and in float64, be what numpy makes of floats."""
    inputs = [Input((), a.shape, f"x{i}") for i, a in enumerate(arguments)]
    (step,) = traced(formula, [Traced(each) for each in inputs], "here")
    due = np.asarray(formula(*(a.copy() for a in arguments)), dtype=np.float64)
    assert step.shape == due.shape
    known = {f"x{i}": a for i, a in enumerate(arguments)}
    with precision(100), np.errstate(all="ignore"):
        found = [balls_of(evaluate([step], known, Exact())[0])]
        try:
            (balls,) = evaluate([step], known, Arrays())
        except (AttributeError, TypeError):  # numpy lacks a function: flint decides
            pass
        else:
            pair = (balls.mid, np.zeros(()) if balls.rad is None else balls.rad)
            mids, radii = (np.broadcast_to(part, due.shape).ravel().tolist() for part in pair)
            found.append([arb(mid, radius) for mid, radius in zip(mids, radii, strict=True)])
        largest = max([1.0, *(float(np.abs(a).max(initial=0)) for a in (*arguments, due))])
        for ours in found:
            for ball, value in zip(ours, due.ravel().tolist(), strict=True):
                assert ball.is_finite()
                assert ball.rad() < 2.0**-36
                assert abs(ball - arb(value)) <= ball.rad() + arb(NUMPY_ULPS * 2.0**-52 * largest)


@pytest.mark.parametrize("name", UFUNCS)
def test_function_of_scalars_is_numpys(name: str) -> None:
    """A function of scalars, traced, has numpy's own value; so it has of a number and an array."""
    function = getattr(np, name)
    arguments = ARGUMENTS.get(name, [A, B][: function.nin])
    assert_numpys(function, arguments)
    if function.nin > 1:
        assert_numpys(lambda a: function(a, 1.5), arguments[:1])
        assert_numpys(lambda b: function(1.5, b), arguments[1:])


@pytest.mark.parametrize("name", [*ARRAY_FUNCTIONS, *METHODS])
def test_function_of_arrays_is_numpys(name: str) -> None:
    """A function of arrays, traced, has numpy's own value."""
    for formula, arguments in (CALLS | METHODS)[name]:
        assert_numpys(formula, arguments)


def test_examples_are_complete() -> None:
    """Every function that can be traced has an example, and no example is of another."""
    assert set(CALLS) == set(ARRAY_FUNCTIONS)
    assert set(ARGUMENTS) <= set(UFUNCS)
    for name, calls in CALLS.items():
        assert name in names_of(calls[0][0])


def names_of(formula: Any) -> set[str]:
    """Return the names that a formula refers to, or its own where it is numpy's."""
    code = getattr(formula, "__code__", None)
    own = {formula.__name__}
    return (
        own
        if code is None
        else own | set(code.co_names) | {d for d in formula.__defaults__ or () if isinstance(d, str)}
    )


def test_comparison_with_numpy_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is another than numpy's is noticed, whether of scalars or of arrays."""
    monkeypatch.setitem(UFUNCS, "cbrt", sympy.sqrt)
    monkeypatch.setitem(ARRAY_FUNCTIONS, "flip", lambda a: a)
    for name, formula in (("cbrt", np.cbrt), ("flip", np.flip)):
        with pytest.raises(AssertionError):
            assert_numpys(formula, [POSITIVE])
        assert name in {*UFUNCS, *ARRAY_FUNCTIONS}


REFUSED: dict[str, tuple[Any, str]] = {
    "truth": (lambda x: x if x > 0 else -x, r"np\.where"),
    "and": (lambda x: x > 0 and x, r"np\.where"),
    "float": (lambda x: x * float(x), "whole arrays"),
    "int": (lambda x: x * int(x), "whole arrays"),
    "math": (lambda x: math.exp(x) * x, "whole arrays"),
    "asarray": (lambda x: 2 * np.asarray(x), "whole arrays"),
    "unknown function": (lambda x: 2 * np.sort(x), "absolute, add"),
    "unknown ufunc": (lambda x: 2 * np.spacing(x), "absolute, add"),
    "unknown method of a ufunc": (lambda x: 2 * np.add.accumulate(x), "absolute, add"),
    "unknown method": (lambda x: x.cumprod(), "whole arrays"),
    "out": (lambda x: np.exp(x, out=x), "a new one"),
    "where": (lambda x: np.exp(x, where=x > 0), "absolute, add"),
    "in place": (lambda x: x.__iadd__(1), "a new one"),
    "out of a sum": (lambda x: np.sum(x, out=x), "a, axis, keepdims"),
    "where of a sum": (lambda x: np.sum(x, where=True), "a, axis, keepdims"),
    "out of einsum": (lambda x: np.einsum("ij->i", x, out=x), "equation, operands"),
    "shapes that do not fit": (lambda x: x + np.ones(2), "shapes that broadcast"),
    "shapes of a comparison": (lambda x: np.where(x > 0, x, np.ones(4)), "shapes that broadcast"),
    "matrices that do not fit": (lambda x: x @ x, "last"),
    "stacks that do not fit": (lambda x: np.ones((3, 2, 2)) @ np.broadcast_to(x, (2, 2, 3)), "as numpy takes"),
    "lengths that do not fit": (lambda x: np.einsum("ij,jk->ik", x, x), "equal lengths"),
    "reshape": (lambda x: x.reshape(4), "numpy takes"),
    "broadcast_to": (lambda x: np.broadcast_to(x, (3,)), "broadcasts to"),
    "axis of a sum": (lambda x: np.sum(x, axis=2), "from -2 to 1"),
    "axis twice": (lambda x: np.sum(x, axis=(0, -2)), "each axis once"),
    "axis of a maximum": (lambda x: np.max(x, axis=-3), "from -2 to 1"),
    "axis of flip": (lambda x: np.flip(x, axis=4), "numpy takes"),
    "axis of concatenate": (lambda x: np.concatenate([x, x], axis=5), "from -2 to 1"),
    "lengths of concatenate": (lambda x: np.concatenate([x, x[:1]], axis=1), "equal other lengths"),
    "index": (lambda x: x[7], "numpy takes"),
    "nothing": (lambda x: None, "an array"),  # noqa: ARG005 - that is the mistake
    "text": (lambda x: "x", "an array"),  # noqa: ARG005 - as above
    "repeated axis": (lambda x: np.einsum("ii->i", x), "each axis of an array named apart"),
    "repeated axis of a result": (lambda x: np.einsum("ij->ii", x), "each once"),
    "axis that no array has": (lambda x: np.einsum("ij->k", x), "axes of the arrays"),
    "pad with a number": (lambda x: np.pad(x, 1, constant_values=5), "zeros"),
    "pad with a mean": (lambda x: np.pad(x, 1, mode="mean"), "edge, reflect"),
    "pad with an odd reflection": (lambda x: np.pad(x, 1, mode="reflect", reflect_type="odd"), "edge, reflect"),
    "spectral norm": (lambda x: np.linalg.norm(x, 2, axis=(0, 1)), "Euclidean"),
    "inner of matrices": (lambda x: np.inner(x, x), r"np\.einsum"),
    "dot of stacks": (lambda x: np.dot(x[None], x.T[None]), r"np\.matmul"),
}
"""Formulas that cannot be traced, or that numpy reads otherwise than it would be traced; and what is accepted."""


@pytest.mark.parametrize("name", REFUSED)
def test_formula_is_refused(name: str) -> None:
    """The message names the op, the line of the formula in its own text, and what is accepted."""
    formula, accepted = REFUSED[name]
    with pytest.raises(TraceError) as refused:
        traced(formula, [Traced(Input((), (2, 3), "x"))], "an_op")
    message = str(refused.value)
    line = formula.__code__.co_firstlineno
    text = linecache.getline(__file__, line).strip()
    assert message.startswith(f"an_op: line {line}, `{text}`: ")
    assert re.search(accepted, message.split("accepted: ", 1)[1])


def test_refusal_names_an_op_of_the_catalogue() -> None:
    """An op that is given shapes which do not fit says which op, and what is accepted."""
    for name, shapes, accepted in (("mul", ((2,), (3,)), "broadcast"), ("matmul", ((2, 3), (2, 3)), "last length")):
        inputs = [Input((), shape, "x") for shape in shapes]
        with pytest.raises(TraceError, match=rf"^{name}: .*accepted: .*{accepted}"):
            applied(OPS[name], inputs, 0)


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        (
            lambda x: np.sum(x, axis=0),
            r"returns shape \[3\] of inputs x\[2, 3\], and shape \[\] .* accepted: shape \[2\],",
        ),
        (lambda x: (x, x[0]), r"returns shapes \[2, 3\], \[3\] .* accepted: shapes \[2, 3\], \[2\], as"),
    ],
    ids=["one output", "two outputs"],
)
def test_formula_that_mistakes_the_batch_is_refused(formula: Any, said: str) -> None:
    """A formula that counts axes from the start gives another shape with a batch in front: it is told the line."""
    op = Op(name="an_op", torch="torch.sum", formula=formula, axes="n", sizes={"n": 3})
    line = formula.__code__.co_firstlineno
    with pytest.raises(TraceError, match=rf"^an_op: line {line}, `.*`: the formula {said}"):
        single(op, ((3,),)).traced([Input((), (2, 3), "x")], 0)


@pytest.mark.parametrize("operation", [add, sub, mul, truediv, pow], ids=lambda each: each.__name__)
@pytest.mark.parametrize("number", [sympy.sqrt(2), sympy.Rational(1, 3), sympy.Integer(2), sympy.pi + 1], ids=str)
def test_sympy_number_stands_on_either_side(number: sympy.Expr, operation: Any) -> None:
    """An exact number is part of the step, whether it is on the left of an array or on the right."""
    formulas: list[Callable[[Any], Any]] = [lambda a: operation(number, a), lambda a: operation(a, number)]
    for formula in formulas:
        (step,) = traced(formula, [Traced(Input((), (2,), "x"))], "here")
        assert isinstance(step, Map)
        assert step.shape == (2,)
        assert step.expression == formula(*step.variables)


def test_sympy_number_is_compared_from_either_side() -> None:
    """A condition may have an exact number on its left, too."""
    two = sympy.Integer(2)
    formulas: list[Callable[[Any], Any]] = [lambda a: two < a, lambda a: a > two]
    for formula in formulas:
        (step,) = traced(formula, [Traced(Input((), (2,), "x"))], "here")
        assert isinstance(step, Map)
        assert [step.expression.subs(step.variables[0], value) for value in (1, 2, 3)] == [0, 0, 1]
