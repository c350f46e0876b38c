"""The oracle's own tests: it encloses, it certifies, it refuses."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
from flint import arb, arb_series, ctx
from sympy import And, Piecewise
from sympy.core.function import ArgumentIndexError

from reference import derivative
from reference.case import Case
from reference.catalogue import OPS
from reference.compiler import compiled
from reference.convention import rule
from reference.elements import symbols, values, vjp
from reference.evaluation import Exact, evaluate, objects
from reference.format import FORMATS, Format, precision
from reference.functions import Nearest, ScaledBesselI, ScaledErfc, Sign
from reference.graph import Input, mapped
from reference.op import InvalidOpError, Op, x
from reference.oracle import UncertifiedError, allowed, answer, certified, certified_steps, is_certified
from reference.trace import applied
from reference.transform import pullback
from reference.tree import Apply, Leaf, Tree, single

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reference.graph import Step
    from reference.op import Array
    from reference.tree import Node

SERIES = {
    "exp": lambda s: s.exp(),
    "log": lambda s: s.log(),
    "sin": lambda s: s.sin(),
    "cos": lambda s: s.cos(),
    "sqrt": lambda s: s.sqrt(),
    "atan": lambda s: s.atan(),
    "erf": lambda s: s.erf(),
    "lgamma": lambda s: s.lgamma(),
}
"""Functions of flint's power series, whose second coefficient is a derivative that no symbolic step led to."""


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("at", [0.3, 1.75, 6.0])
def test_two_routes_agree(name: str, at: float) -> None:
    """The derivative by sympy overlaps the one by power series, and both are tight."""
    form = FORMATS["float64"]
    case = Case(single(OPS[name]), form, (np.array(at),), np.array(1.0))
    ours = certified(case)[0][0].item()
    ctx.prec = 200
    theirs = SERIES[name](arb_series([arb(at), 1], prec=2))[1]
    assert is_certified(ours, form)
    assert is_certified(theirs, form)
    assert ours.overlaps(theirs)


def test_allowance_knows_the_order_of_multiplication() -> None:
    """The error of a local derivative that underflows is multiplied by the cotangent that it meets afterwards.

    An input that was broadcast inside a tree has its sum in the allowance.
    """
    form = FORMATS["float16"]
    tiny = np.array(form.smallest_subnormal)
    one, four = (allowed(Case(single(OPS["mul"]), form, (tiny, tiny), np.array(g)))[0].item().rad() for g in (1.0, 4.0))
    assert one < 2 * form.smallest_subnormal
    assert four >= 4 * form.smallest_subnormal
    vector, scalar = Leaf("x", (2,)), Leaf("y", ())
    case = Case(
        Tree(Apply(OPS["mul"], (vector, scalar)), (vector, scalar)),
        form,
        (np.array([2.0, 3.0]), np.array(5.0)),
        np.ones(2),
    )
    assert certified(case)[0][1].item() == 5
    assert allowed(case)[1].item().contains(5)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.saved is not None])
def test_saved_output_is_an_identity(name: str) -> None:
    """The derivative written with the saved value equals the derivative, at any precision."""
    op = OPS[name]
    tree = single(op, op.cores[0] if not op.elementwise else None)
    inputs = tuple(Input((), leaf.shape, leaf.name) for leaf in tree.leaves)
    output = applied(op, inputs, 0)
    cotangent = Input((), output.shape, "cotangent")
    given = {each.name: distinct(each.shape) for each in (*inputs, cotangent)}
    plain, through = (every(pullback([output], [cotangent], inputs, saved=saved)) for saved in (False, True))
    with precision(120):
        values = [evaluate(steps, given, Exact()) for steps in (plain, through)]
    assert [step.sources for step in plain] != [step.sources for step in through]
    for one, other in zip(flat(values[0]), flat(values[1]), strict=True):
        assert one.rel_accuracy_bits() > 90
        assert one.overlaps(other)


def every(steps: Sequence[Step | None]) -> list[Step]:
    """Return gradients, of which none must be missing."""
    found = [step for step in steps if step is not None]
    assert len(found) == len(steps)
    return found


def distinct(shape: tuple[int, ...]) -> np.ndarray:
    """Return different values between 0 and 1, none of them 1/2."""
    count = int(np.prod(shape, dtype=int))
    return ((np.arange(count) + 11) / (count + 15)).reshape(shape)


def flat(arrays: Sequence[np.ndarray]) -> list[Any]:
    """List the elements of arrays, one array after the other."""
    return [element for array in arrays for element in array.flat]


def shared() -> Tree:
    """Return exp(x) * sin(exp(x) / y), in which exp(x) is used twice."""
    one, other = Leaf("x"), Leaf("y")
    first = Apply(OPS["exp"], (one,))
    return Tree(Apply(OPS["mul"], (first, Apply(OPS["sin"], (Apply(OPS["div"], (first, other)),)))), (one, other))


def reduced() -> Tree:
    """Return sum(x * softmax(x + y)) over rows, of which y has one and x two."""
    one, other = Leaf("x", (2, 3)), Leaf("y", (1, 3))
    weights = Apply(OPS["softmax"], (Apply(OPS["add"], (one, other)),))
    return Tree(Apply(OPS["sum"], (Apply(OPS["mul"], (one, weights)),)), (one, other))


def whole(tree: Tree) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the inputs of a tree as symbols, and its value in them: one expression for each element."""
    inputs = [symbols(leaf.name, leaf.shape) for leaf in tree.leaves]
    found: dict[Node, Array] = dict(zip(tree.leaves, inputs, strict=True))
    for node in tree.applications:
        found[node] = values(node.op, [found[child] for child in node.children])
    return inputs, found[tree.root]


def point(count: int) -> list[arb]:
    """Return different sixteenths, in no progression."""
    return [arb(3 * i + 5 + i * i % 7) / 16 for i in range(count)]


@pytest.mark.parametrize(
    "tree",
    [
        shared(),
        reduced(),
        *(
            single(OPS[name], shapes)
            for name, shapes in (("mul", ((2, 3), (1, 3))), ("atan2", ((1, 3), (2, 1))), ("tanh", ((2, 1),)))
        ),
        *(single(op, op.cores[0]) for op in OPS.values() if not op.elementwise),
    ],
    ids=str,
)
def test_pullback_is_the_whole_derivative(tree: Tree) -> None:
    """The pullback of a tree overlaps sympy's derivative of the whole, element by element, and both are tight."""
    inputs, outputs = whole(tree)
    cotangents = symbols("cotangent", outputs.shape)
    arguments = flat([*inputs, cotangents])
    expressions = compiled(flat(vjp(outputs, cotangents, inputs)), arguments)
    steps = derivative.function(tree, tuple(leaf.shape for leaf in tree.leaves), "cotangent", 0)
    cotangent = Input((), outputs.shape, "cotangent")
    gradients = every(pullback([steps.output], [cotangent], steps.inputs, saved=False))
    with precision(160):
        balls = iter(point(len(arguments)))
        given = {each.name: objects(list(islice(balls, each.size)), each.shape) for each in (*steps.inputs, cotangent)}
        ours, theirs = evaluate(gradients, given, Exact()), expressions(*point(len(arguments)))
    assert [found.shape for found in ours] == [array.shape for array in inputs]
    for one, other in zip(flat(ours), theirs, strict=True):
        assert min(one.rel_accuracy_bits(), other.rel_accuracy_bits()) > 120
        assert one.overlaps(other)


def test_derivative_through_a_step_is_zero() -> None:
    """What depends on an input through a step function alone has a derivative of exactly 0."""
    leaf = Leaf("x")
    tree = Tree(Apply(OPS["exp"], (Apply(OPS["floor"], (leaf,)),)), (leaf,))
    case = Case(tree, FORMATS["float32"], (np.array([1.5]),), np.array([3.0]))
    assert [ball.str() for ball in certified(case)[0][0]] == ["0"]
    assert repr(case) == "<exp(floor(x)) in float32 at x[1], root=cotangent, layouts=()>"
    assert answer(case)[0].centre[0] == 0


def test_conditions_of_two_parts() -> None:
    """A branch whose condition has two parts is taken where both hold.

    It is united with the next where that is not decided.
    """
    (program,) = (compiled([Piecewise((x, And(x > 1, x < 3)), (0, True))], [x]),)
    assert program(arb(2))[0] == 2
    assert program(arb(4))[0] == 0
    (either,) = program(arb(3, 0.5))
    assert either.contains(0)
    assert either.contains(2.75)


def test_formats_have_their_bits() -> None:
    """The name of a format says how many bits it has."""
    assert {form.name: f"{form.name.rstrip('0123456789')}{form.bits}" for form in FORMATS.values()} == {
        name: name for name in FORMATS
    }


@pytest.mark.parametrize(
    ("value", "whole"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (0.49, 0), (1.51, 2), (-2.75, -3)]
)
def test_nearest_takes_ties_to_even(value: float, whole: int) -> None:
    """The nearest integer, of a tie the even one."""
    assert compiled([Nearest(x)], [x])(arb(value))[0] == whole


@pytest.mark.parametrize("at", [-30.0, -2.0, -0.25, 0.0, 0.5, 3.0, 27.5])
def test_scaled_functions_are_their_factors(at: float) -> None:
    """erfcx is exp(x^2) erfc(x), and the scaled Bessel functions exp(-|x|) I_n(x); their derivatives are sympy's."""
    ctx.prec = 2000
    point = arb(at)
    for scaled, factors in (
        (ScaledErfc(x), sympy.exp(x**2) * sympy.erfc(x)),
        (ScaledBesselI(0, x), sympy.exp(-Sign(x) * x) * sympy.besseli(0, x)),
        (ScaledBesselI(1, x), sympy.exp(-Sign(x) * x) * sympy.besseli(1, x)),
    ):
        for ours, theirs in zip(
            compiled([scaled, scaled.diff(x)], [x])(point),
            compiled([factors, factors.diff(x)], [x])(point),
            strict=True,
        ):
            assert ours.rel_accuracy_bits() > 100 or at == 0
            assert ours.overlaps(theirs)


def test_scaled_bessel_refuses_its_order() -> None:
    """There is no derivative by the order."""
    with pytest.raises(ArgumentIndexError):
        ScaledBesselI(1, x).fdiff(1)


def test_constants_are_exact_whenever_they_are_compiled() -> None:
    """A constant of 41 bits is exact in a function that was compiled while flint worked with 32."""
    with precision(32):
        program = compiled([x + 2**40 + 1], [x])
    with precision(64):
        (found,) = program(arb(1))
    assert found == 2**40 + 2


@pytest.mark.parametrize("exponent", [2, 3, 5, 8])
def test_powers_enclose_zero(exponent: int) -> None:
    """The power of a ball around 0 is a ball around 0, where flint has NaN."""
    (power,) = compiled([x**exponent], [x])(arb(0, 0.5))
    assert power.contains(0)
    assert power.contains(arb(0.5) ** exponent)
    assert not power.contains(0.3)


@pytest.mark.parametrize("ball", [arb.nan(), arb.pos_inf(), arb(1, 1), arb(1, 2.0**-20)], ids=str)
def test_wide_balls_are_not_certified(ball: arb) -> None:
    """A ball that contains everything, or merely much, certifies nothing."""
    assert not is_certified(ball, FORMATS["float32"])


def test_uncertified_is_an_error() -> None:
    """What no precision decides is refused, not passed."""
    given = Input((), (), "x")
    pole = mapped(1 / x, [x], [given])
    with pytest.raises(UncertifiedError, match="float32"):
        certified_steps([pole], {"x": np.array(0.0)}, FORMATS["float32"])


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("relu", 0, "0"),
        ("abs", 0, "0"),
        ("leaky_relu", 0, "1/100"),
        ("hardtanh", 1, "0"),
        ("sqrt", 0, "oo"),
        ("hardswish", 3, "1"),
        ("hardswish", -3, "0"),
    ],
)
def test_kinks_follow_the_documented_rule(name: str, at: int, value: str) -> None:
    """At a kink the value is the sub-gradient or super-gradient of least norm, or that by continuity."""
    assert rule(OPS[name], (Fraction(at),)) == (sympy.sympify(value),)


def test_ties_share_the_gradient() -> None:
    """maximum(x, x) gives one half to each."""
    assert rule(OPS["maximum"], (Fraction(2), Fraction(2))) == (sympy.S.Half, sympy.S.Half)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_ordinals_number_the_values(form: Format) -> None:
    """Neighbouring numbers are neighbouring values, and rounding leaves values alone."""
    ordinals = np.array([-form.last_ordinal, -1, 0, 1, 2, 1000, form.last_ordinal])
    values = form.values(ordinals)
    assert (form.ordinals(values) == ordinals).all()
    assert values[3] == form.smallest_subnormal
    assert values[-1] == form.largest


def test_entries_refuse_floats() -> None:
    """An inexact constant in a formula is refused, with what is accepted."""
    with pytest.raises(InvalidOpError, match="Rational"):
        Op(name="wrong", torch="torch.sin", formula=0.1 * x)


@pytest.mark.parametrize("package", ["reference", "strategies"])
def test_oracle_does_not_see_torch(package: str) -> None:
    """Importing the oracle or the strategies does not import torch."""
    code = f"import sys, {package}, reference.oracle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("root", ["sum", "mean"])
def test_roots_share_the_cotangent(root: str) -> None:
    """A mean at the root hands each of three points a third, which its allowance contains."""
    points = np.array([1.0, 2.0, 3.0])
    case = Case(single(OPS["square"]), FORMATS["float32"], (points,), np.ones(3), root)
    share = Fraction(1, 3) if root == "mean" else Fraction(1)
    for truth, allowance, at in zip(certified(case)[0][0], allowed(case)[0], points, strict=True):
        assert truth.overlaps(arb(2 * at) * share.numerator / share.denominator)
        assert allowance.contains(truth.mid())


def test_broadcast_over_nothing_is_zero() -> None:
    """An input that is broadcast against a tensor of size 0 has a gradient of exactly 0."""
    case = Case(single(OPS["mul"]), FORMATS["float32"], (np.ones(1), np.ones(0)), np.ones(0))
    assert [ball.str() for ball in certified(case)[0][0]] == ["0"]
    assert answer(case)[0].centre.tolist() == [0]


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
@pytest.mark.parametrize("name", ["logsigmoid", "bce_with_logits"])
def test_a_point_that_float64_does_not_decide_is_left_to_flint(name: str, shape: tuple[int, ...]) -> None:
    """At -893 float64 has inf / inf for what is 1: in whatever shape it is asked, flint says so."""
    op = OPS[name]
    primals = (np.full(shape, -893.0), np.ones(shape))[: len(op.inputs)]
    found = answer(Case(single(op), FORMATS["float32"], primals, np.ones(shape)))[0]
    assert found.centre.shape == shape
    assert (found.centre == (1.0 if name == "logsigmoid" else -1.0)).all()
