"""Second derivatives, and tangents that are pushed through a graph.

The truth comes by two routes, inside an allowance that is narrow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st

from reference.case import Case, twice
from reference.catalogue import OPS
from reference.chain import flat
from reference.compiler import compiled
from reference.convention import critical, seams
from reference.derivative import symbols, vjp
from reference.format import FORMATS
from reference.op import x
from reference.oracle import answer, products
from reference.second import second_program
from reference.tree import Apply, Leaf, Tree, single
from strategies import fixed_cases, op_cases, tree_cases
from tests.meta.test_oracle import reduced, shared
from tests.subject.mode import MODES
from tests.verdict.comparison import judged, overflows
from tests.verdict.explanation import explained

if TYPE_CHECKING:
    from reference.oracle import Answer

FLOAT32 = FORMATS["float32"]


def applied(*names: str) -> Tree:
    """Return a chain of ops of one argument, the first applied first."""
    leaf = node = Leaf("x")
    for name in names:
        node = Apply(OPS[name], (node,))
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


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize("name", ["shared", "reduced", "saving"])
def test_second_derivative_is_that_of_the_whole(name: str, along: int) -> None:
    """What is accumulated forwards twice overlaps sympy's second derivative of the whole tree, and both are tight."""
    tree = TREES[name]
    inputs = [symbols(leaf.name, leaf.shape) for leaf in tree.leaves]
    values = dict(zip(tree.leaves, inputs, strict=True))
    for node in tree.applications:
        values[node] = node.op(*(values[child] for child in node.children))
    cotangents, direction = symbols("cotangent", tree.root.shape), symbols("direction", tree.leaves[along].shape)
    gradient = vjp(values[tree.root], cotangents, inputs)[along]
    arguments = flat((*inputs, cotangents, direction))
    whole = compiled(flat(vjp(gradient, direction, inputs)), arguments)
    ctx.prec = 200
    point = [arb(3 * i + 5) / 16 for i in range(len(arguments))]
    for ours, theirs in zip(second_program(tree, along)(*point), whole(*point), strict=True):
        assert min(ours.rel_accuracy_bits(), theirs.rel_accuracy_bits()) > 100
        assert ours.overlaps(theirs)


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


def assert_narrow(found: Answer) -> None:
    """Assert that an allowance contains the truth, and is within 2,000 roundings of the largest of it."""
    for truth, allowance in zip(found.truth, found.allowance, strict=True):
        largest = max(abs(float(ball)) for ball in truth.flat)
        for true, wide in zip(truth.flat, allowance.flat, strict=True):
            assert wide.contains(true)
            assert float(wide.rad()) <= 2000 * FLOAT32.unit * max(largest, 1)


@pytest.mark.parametrize("name", TREES)
def test_allowance_is_narrow(name: str) -> None:
    """That of the second order, and that of forward-mode, contain the truth and little more."""
    case = case_of(TREES[name])
    for second in twice(case):
        assert_narrow(answer(second))
    assert_narrow(answer(replace(case, forwards=True)))


def test_forward_mode_knows_what_underflows_on_its_way() -> None:
    """A tangent that is subnormal on its way, and large in the end, has lost bits.

    No step of reverse mode loses them.
    """
    case = Case(
        applied("square", "square", "square", "rad2deg"), FORMATS["float16"], (np.array([2.0**-3]),), np.ones(1)
    )
    backwards, forwards = (answer(replace(case, forwards=forwards)).allowance[0][0].rad() for forwards in (False, True))
    assert forwards > backwards


def test_products_of_tangents_may_overflow() -> None:
    """Two tangents whose product a format cannot hold make a second derivative moot; one op alone has none."""
    (second,) = twice(Case(applied("cube", "cube", "log"), FORMATS["float16"], (np.array([8.0]),), np.ones(1)))
    assert overflows(second)
    (alone,) = twice(Case(single(OPS["log"]), FORMATS["float16"], (np.array([8.0]),), np.ones(1)))
    assert products(alone) == []
    assert not overflows(alone)


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
        assert case.direction.shape == case.primals[case.along].shape
        if OPS[name].elementwise:
            assert not any(
                critical(OPS[name], list(zip(*([arb(v) for v in p.flat] for p in case.primals), strict=True)), order=2)
            )


@given(data=st.data())
def test_drawn_cases_of_the_second_order(data: st.DataObject) -> None:
    """They have a direction; trees reduce no single element, which sympy knows to be straight."""
    op = OPS[data.draw(st.sampled_from(["sin", "maximum", "mul", "matmul"]))]
    assert data.draw(op_cases(op, FLOAT32)).order == 1
    for case in (data.draw(op_cases(op, FLOAT32, order=2)), data.draw(tree_cases(FLOAT32, order=2))):
        assert case.order == 2
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
        sound, gradients=lambda case, device: [gradient * 2 for gradient in sound.gradients(case, device)]
    )
    second = list(twice(case_of(single(OPS["atan2"]))))[1]
    said = explained(judged(second, doubled, "cpu").misses, doubled, "cpu")
    assert said.startswith("d2 atan2(x, y)/dy dy at x=")
    assert "\nd2/dy dy = " in said
