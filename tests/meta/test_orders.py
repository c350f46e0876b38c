"""Second derivatives and pushforwards: two routes lead to one truth, and the allowance around it is narrow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import sympy
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from reference.case import Case, repeated_order, twice
from reference.catalogue import OPS
from reference.compiler import compiled
from reference.convention import critical, seams
from reference.elements import vjp
from reference.format import FORMATS, precision
from reference.op import x
from reference.oracle import allowed, answer, certified
from reference.transform import slope
from reference.tree import Apply, Leaf, Tree, single
from strategies import fixed_cases, op_cases, tree_cases
from tests.meta.test_oracle import flat, reduced, shared, whole
from tests.subject.mode import MODES
from tests.verdict.comparison import judged, overflows
from tests.verdict.explanation import explained

if TYPE_CHECKING:
    from reference.tree import Node

FLOAT32 = FORMATS["float32"]


def applied(*names: str) -> Tree:
    """Return a chain of ops of one argument, the first applied first."""
    leaf = Leaf("x")
    node: Node = leaf
    for name in names:
        node = Apply(OPS[name], (node,))
    assert isinstance(node, Apply)
    return Tree(node, (leaf,))


def saving() -> Tree:
    """Return logaddexp(silu(x), y) * exp(y).

    Torch goes through a value that is not the output, and through one that is.
    """
    one, other = Leaf("x"), Leaf("y")
    inner = Apply(OPS["logaddexp"], (Apply(OPS["silu"], (one,)), other))
    return Tree(Apply(OPS["mul"], (inner, Apply(OPS["exp"], (other,)))), (one, other))


TREES = {
    "shared": shared(),
    "reduced": reduced(),
    "saving": saving(),
    "stepping": applied("exp", "floor", "sin"),
    "linear": applied("neg", "positive"),
}


def narrow_case(tree: Tree, word: str, along: int) -> Case:
    """Return a case of a derivative of the second order, without a batch, at different points."""
    sizes = [int(np.prod(leaf.shape, dtype=int)) for leaf in tree.leaves]
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    # Distinct sixteenths in no progression, which every format has.
    primals = tuple(
        ((3 * i + 5 + i * i % 7) / 16).reshape(leaf.shape) for i, leaf in zip(numbers, tree.leaves, strict=True)
    )
    cotangent = np.resize([1.0, -0.75, 2.0], tree.root.shape)
    cases = list(repeated_order(Case(tree, FORMATS["float64"], primals, cotangent), word))
    return cases[along]


@pytest.mark.parametrize("word", ["rr", "fr", "rf", "ff"])
@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("name", ["shared", "reduced", "saving"])
def test_second_derivative_is_that_of_the_whole(name: str, along: int, word: str) -> None:
    """A pullback and a pushforward in turn overlap sympy's second derivative of the whole tree, and both are tight."""
    case = narrow_case(TREES[name], word, along)
    inputs, outputs = whole(case.tree)
    expressions = second(word, inputs, outputs, along, case)
    found, _ = certified(case, 200)
    with precision(200):
        theirs = compiled(flat(expressions), flat(inputs))(*(arb(v) for primal in case.primals for v in primal.flat))
    assert [array.shape for array in found] == [array.shape for array in expressions]
    for one, other in zip(flat(found), theirs, strict=True):
        assert min(one.rel_accuracy_bits(), other.rel_accuracy_bits()) > 100
        assert one.overlaps(other)


def second(word: str, inputs: list[np.ndarray], outputs: np.ndarray, along: int, case: Case) -> list[np.ndarray]:
    """Return what a word of two letters asks for, by each input, from sympy's derivatives of the elements."""

    def pushed(array: np.ndarray, variables: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        pairs = list(zip(variables.flat, exact_array(tangent).flat, strict=True))

        def change(element: sympy.Expr) -> sympy.Expr:
            return sympy.Add(*(slope(element, variable) * t for variable, t in pairs))

        return np.array(list(map(change, array.flat)), dtype=object).reshape(array.shape)

    cotangent, direction = exact_array(case.cotangent), case.direction
    assert direction is not None
    gradients = vjp(outputs, cotangent, inputs)
    match word:
        case "rr":
            return list(vjp(gradients[along], exact_array(direction), inputs))
        case "fr":
            return [pushed(gradient, inputs[along], direction) for gradient in gradients]
        case "rf":
            return list(vjp(pushed(outputs, inputs[along], direction), cotangent, inputs))
        case _:
            first = pushed(outputs, inputs[along], direction)
            return [pushed(first, x, tangent) for x, tangent in zip(inputs, case.tangents, strict=True)]


def exact_array(array: np.ndarray) -> np.ndarray:
    """Return floats as rational numbers."""
    return np.array([sympy.Rational(v) for v in array.ravel().tolist()], dtype=object).reshape(array.shape)


def case_of(tree: Tree) -> Case:
    """Return a case of a tree at a few points."""
    primals = tuple(
        np.linspace(0.5, 1.5, 4 * int(np.prod(leaf.shape)))
        .astype(np.float32)
        .astype(np.float64)
        .reshape((4, *leaf.shape))
        for leaf in tree.leaves
    )
    return Case(tree, FLOAT32, primals, np.ones((4, *tree.root.shape)))


def assert_narrow(case: Case) -> None:
    """Assert that an allowance contains the truth, and is no wider than 2,000 roundings of its largest entry.

    The number is arbitrary, and enough to see an allowance that explodes.
    """
    for truth, allowance in zip(certified(case)[0], allowed(case), strict=True):
        largest = max(abs(float(ball)) for ball in truth.flat)
        for true, wide in zip(truth.flat, allowance.flat, strict=True):
            assert wide.contains(true)
            assert float(wide.rad()) <= 2000 * FLOAT32.unit * max(largest, 1)
    for found in answer(case):
        assert (np.abs(found.offset) <= found.radius).all()
        assert (found.radius <= 2000 * FLOAT32.unit * max(np.abs(found.centre).max(), 1)).all()


@pytest.mark.parametrize("word", ["f", "rr", "fr", "rf", "ff"])
@pytest.mark.parametrize("name", TREES)
def test_allowance_is_narrow(name: str, word: str) -> None:
    """The allowances of forward-mode and of the second order contain the truth and little more."""
    case = case_of(TREES[name])
    for asked in [replace(case, word=word)] if len(word) == 1 else repeated_order(case, word):
        assert_narrow(asked)


def test_forward_mode_knows_what_underflows_on_its_way() -> None:
    """A tangent that is subnormal on its way, and large in the end, has lost bits.

    No step of reverse mode loses them.
    """
    case = Case(
        applied("square", "square", "square", "rad2deg"), FORMATS["float16"], (np.array([2.0**-3]),), np.ones(1)
    )
    backwards, forwards = (allowed(replace(case, word=word))[0][0].rad() for word in ("r", "f"))
    assert forwards > backwards


def test_values_on_the_way_may_overflow() -> None:
    """A value that a format cannot hold makes a second derivative moot; one op has none."""
    (asked,) = twice(Case(applied("cube", "cube", "log"), FORMATS["float16"], (np.array([8.0]),), np.ones(1)))
    assert overflows(asked)
    (alone,) = twice(Case(single(OPS["log"]), FORMATS["float16"], (np.array([8.0]),), np.ones(1)))
    assert not overflows(alone)


def test_tangents_may_overflow() -> None:
    """Where a format holds every cotangent but no tangent, forward-mode is moot, and so is a second derivative."""
    case = Case(applied("reciprocal", "log", "deg2rad"), FORMATS["float16"], (np.array([2.0**-8]),), np.ones(1))
    for word, is_moot in (("r", False), ("f", True), ("rr", True), ("ff", True)):
        (asked,) = [case] if len(word) == 1 else repeated_order(case, word)
        assert overflows(replace(asked, word=word)) is is_moot


def test_seams_are_where_pieces_meet() -> None:
    """elu is differentiable once at 0, where its pieces meet, and no rule says what its second derivative is."""
    assert seams(OPS["elu"]) == (x,)
    assert critical(OPS["elu"], [(arb(0),), (arb(1),)], order=2) == [True, False]
    assert critical(OPS["elu"], [(arb(0),), (arb(1),), (arb("inf"),)]) == [False, False, True]


@pytest.mark.parametrize("name", ["elu", "pow", "maximum", "softmax", "digamma"])
def test_fixed_cases_avoid_seams(name: str) -> None:
    """The cases of the second order ask for the gradient by each input, at no point without a second derivative."""
    cases = fixed_cases(OPS[name], FLOAT32, 2)
    assert {case.along for case in cases} == set(range(len(OPS[name].inputs)))
    for case in cases:
        assert case.order == 2
        assert case.along is not None
        assert case.direction is not None
        assert case.direction.shape == case.primals[case.along].shape
        if OPS[name].elementwise:
            columns = [map(arb, primal.ravel().tolist()) for primal in case.primals]
            assert not any(critical(OPS[name], list(zip(*columns, strict=True)), order=2))


@given(data=st.data())
def test_drawn_cases_of_the_second_order(data: st.DataObject) -> None:
    """Drawn cases of second order have a direction; trees reduce no single element, which sympy knows to be linear."""
    op = OPS[data.draw(st.sampled_from(["sin", "maximum", "mul", "matmul"]))]
    assert data.draw(op_cases(op, FLOAT32)).order == 1
    for case in (data.draw(op_cases(op, FLOAT32, order=2)), data.draw(tree_cases(FLOAT32, order=2))):
        assert case.order == 2
        assert case.along is not None
        assert case.direction is not None
        assert case.direction.shape == case.primals[case.along].shape
    assert not any(
        child.shape[-1:] == (1,)
        for node in case.tree.applications
        if not node.op.elementwise
        for child in node.children
    )


def test_failure_says_which_second_derivative() -> None:
    """The explanation of a wrong second derivative names both inputs, and shows its formula."""
    sound = MODES["rr"]
    doubled = replace(
        sound, gradients=lambda case, device: [None if g is None else g * 2 for g in sound.gradients(case, device)]
    )
    second = list(twice(case_of(single(OPS["atan2"]))))[1]
    said = explained(judged(second, doubled, "cpu").misses, doubled, "cpu")
    assert said.startswith("d2 atan2(x, y)/dy dy at x=")
    assert "\nd2/dy dy = " in said
