"""The strategies: what they reach, what they shrink to, what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from sympy import Rational

from reference.case import LAYOUTS, ROOTS, Case
from reference.catalogue import OPS
from reference.domain import NON_ZERO, POSITIVE, REAL, Interval
from reference.format import FORMATS, Format
from reference.oracle import value
from reference.tree import MANNERS, Apply, Tree
from strategies import batches, layouts, manner_cases, manners, op_cases, points, tree_cases, trees
from strategies.cases import LENGTHS, tie
from strategies.points import (
    EmptyDomainError,
    bounds,
    everything,
    hard,
    moderate,
    nearby_ordinals,
    special_ordinals,
    stratified,
)
from strategies.shapes import broadcastable
from strategies.trees import COMPOSABLE, LARGEST_NODE, LEAF_RANGE, image, is_composable, saves_its_output
from tests.meta.kernels import entry

if TYPE_CHECKING:
    from reference.format import Floats
    from reference.graph import Shape
    from reference.op import Op

FORM = FORMATS["float32"]
SEARCH = settings(
    max_examples=2000, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
DRAWS = settings(SEARCH, max_examples=60, phases=[Phase.generate])


@pytest.mark.parametrize(
    "place",
    [0.0, FORM.smallest_subnormal, FORM.smallest_normal, FORM.largest, -FORM.largest, 1.0, -10.0],
    ids=["zero", "subnormal", "normal", "largest", "lowest", "one", "minus_ten"],
)
def test_points_reach(place: float) -> None:
    """Zero, the ends of the subnormals and of the range, and simple values are drawn."""
    assert place in find(points(FORM, (64,)), lambda values: place in values, settings=SEARCH)


@pytest.mark.parametrize(
    ("op", "kink"), [("relu", 0), ("relu6", 6), ("hardswish", 3), ("hardswish", -3), ("softshrink", 0.5), ("sqrt", 0)]
)
def test_points_reach_kinks(op: str, kink: float) -> None:
    """The kinks and the edges of an op are drawn, and so are their neighbours."""
    interval = OPS[op].interval("x")
    drawn = points(FORM, (64,), interval, OPS[op])
    find(drawn, lambda values: kink in values, settings=SEARCH)
    find(drawn, lambda values: bool(((values != kink) & (abs(values - kink) < 1e-6)).any()), settings=SEARCH)


@pytest.mark.parametrize(
    "interval", [REAL, POSITIVE, Interval(-1, 1), Interval(0, 1, closed_below=True), Interval(1)], ids=str
)
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_points_lie_inside(form: Format, interval: Interval) -> None:
    """Every value drawn is a value of the format inside the interval."""
    first, last = bounds(form, interval)

    @DRAWS
    @given(points(form, (64,), interval))
    def check(values: Floats) -> None:
        ordinals = form.ordinals(values)
        assert (form.values(ordinals) == values).all()
        assert ((ordinals >= first) & (ordinals <= last)).all()

    check()


@pytest.mark.parametrize("form", [FORMATS["float16"], FORMATS["bfloat16"]], ids=lambda form: form.name)
def test_everything_is_every_value(form: Format) -> None:
    """Every finite value of a format of 16 bits is there, with zeros of either sign, and no pole."""
    values = everything(form, REAL)
    assert values.size == 2 * form.last_ordinal + 2
    assert (np.diff(values) >= 0).all()
    assert np.signbit(values[values == 0]).tolist() == [True, False]
    assert not (everything(form, NON_ZERO) == 0).any()


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_hard_values_are_spread_and_critical(form: Format) -> None:
    """Three hundred values go from end to end of the range.

    They have every critical place, and half of them lie within eight values of one.
    """
    values = hard(form, REAL, OPS["sqrt"])
    assert 300 <= values.size <= 302
    assert {-form.largest, form.largest} <= set(values.tolist())
    assert np.isin(form.ordinals(values), nearby_ordinals(OPS["sqrt"], form, REAL)).sum() >= 150
    assert np.isin(
        np.intersect1d(special_ordinals(OPS["sqrt"], form, REAL), nearby_ordinals(OPS["sqrt"], form, REAL)),
        form.ordinals(values),
    ).all()
    assert {0.0, form.largest} <= set(hard(form, REAL, OPS["sqrt"], 11).tolist())
    assert (np.abs(values) < form.smallest_normal).sum() > 2


@pytest.mark.parametrize("form", [FORMATS["float32"], FORMATS["float64"]], ids=lambda form: form.name)
def test_strata_reach_every_binade(form: Format) -> None:
    """A hundred thousand values, of every binade of either sign, with the neighbours of a kink."""
    values = stratified(form, REAL, OPS["hardswish"])
    assert values.size >= 100_000
    exponents = np.frexp(values[values > 0])[1]
    assert set(exponents) >= set(range(form.emin + 1, form.emax + 2))
    assert {3.0, 3 + float(form.ulp(np.array(3.0))), -3.0} <= set(values.tolist())


def test_points_shrink_to_one() -> None:
    """The simplest value is 1."""
    assert (find(points(FORM, (3,)), lambda _: True, settings=SEARCH) == 1).all()


def test_empty_domain_is_refused() -> None:
    """An interval without a value of the format is an error, not an empty array."""
    between = Interval(1, 1 + Rational(1, 2**20))
    with pytest.raises(EmptyDomainError, match="float16"):
        find(points(FORMATS["float16"], (1,), between), lambda _: True, settings=SEARCH)


def test_domain_without_simple_values_is_drawn_from() -> None:
    """A short interval that none of the simple values lies in still has points."""
    (found,) = find(points(FORM, (1,), Interval(5, 6)), lambda _: True, settings=SEARCH)
    assert 5 < found < 6


@DRAWS
@given(moderate(FORM, (3, 4), 0.25, 2.0))
def test_moderate_values_differ(values: Floats) -> None:
    """Values of a row differ, and lie in the range."""
    assert (np.diff(np.sort(values, axis=-1)) > 0).all()
    assert ((values >= 0.25) & (values <= 2)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cases_reach_layouts(layout: str) -> None:
    """Every layout is drawn for an op; an expanded input has equal rows."""
    case = find(op_cases(OPS["sin"], FORM), lambda case: layout in case.layouts, settings=SEARCH)
    if layout == "expanded":
        assert (case.primals[0] == case.primals[0][:1]).all()


def test_layouts_fit_the_shape() -> None:
    """A tensor without dimensions is contiguous or has an offset, nothing else."""
    with pytest.raises(NoSuchExample):
        find(layouts(()), lambda layout: layout not in {"contiguous", "offset"}, settings=SEARCH)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (257,), (2, 3, 4, 5)], ids=str)
def test_batches_reach(shape: Shape) -> None:
    """No dimensions, sizes 0 and 1, past a vector register, and four dimensions are drawn."""
    assert find(batches(), lambda batch: batch == shape, settings=SEARCH) == shape


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_any_number_of_shapes_broadcasts(count: int) -> None:
    """There are shapes for as many inputs as an op has, which are not all the same."""
    drawn = find(broadcastable(count), lambda shapes: len({*shapes}) == min(count, 3), settings=SEARCH)
    assert len(drawn) == count
    assert len(np.broadcast_shapes(*drawn)) == max(map(len, drawn))


@DRAWS
@given(trees(inputs=3))
def test_trees_are_connected_and_smooth(tree: Tree) -> None:
    """The inputs of a tree are those it uses, and its ops are smooth."""
    assert set(tree.leaves) <= set(tree.uses)
    assert all(is_composable(node.op) for node in tree.applications)


@DRAWS
@given(tree_cases(FORM))
def test_trees_are_finite(case: Case) -> None:
    """The value of a tree is certified, and of moderate size."""
    assert all(abs(ball) <= 2 * LARGEST_NODE for ball in value(case).flat)


@pytest.mark.parametrize("root", ROOTS)
def test_trees_reach_roots(root: str) -> None:
    """A cotangent, a sum and a mean are drawn."""
    assert find(tree_cases(FORM), lambda case: case.root == root, settings=SEARCH).root == root


def is_smooth(op: Op) -> bool:
    """Say whether an op is smooth on a range that the leaves of trees, or a step or two, give."""
    extents = (LEAF_RANGE, (0.25, 0.75), (2.0, 8.0))
    return any(image(op, (extent,) * len(op.inputs), ((),) * len(op.inputs)) for extent in extents)


@pytest.mark.parametrize("op", [op for op in COMPOSABLE if op.elementwise and is_smooth(op)], ids=lambda op: op.name)
def test_every_smooth_op_is_reached(op: Op) -> None:
    """Trees of an op, and of a few that lead into its domain, have it."""
    pool = (op, *(OPS[name] for name in ("square", "exp", "sigmoid", "add")))
    tree = find(trees(pool, inputs=2), lambda tree: any(node.op is op for node in tree.applications), settings=SEARCH)
    assert op in {node.op for node in tree.applications}


@pytest.mark.parametrize("op", [op for op in COMPOSABLE if not op.elementwise], ids=lambda op: op.name)
def test_tensor_ops_are_reached_inside(op: Op) -> None:
    """Reductions, contractions and ops that move elements are drawn below the root of trees of tensors."""
    tree = find(
        trees((op, OPS["sin"]), tensors=True),
        lambda tree: any(node.op is op for node in tree.applications[:-1]),
        settings=SEARCH,
    )
    assert op in {node.op for node in tree.applications}


def test_broadcasting_inside_is_reached() -> None:
    """A tree of tensors broadcasts one node against another."""
    find(
        trees(tensors=True),
        lambda tree: any(
            child.shape != node.shape for node in tree.applications if node.op.elementwise for child in node.children
        ),
        settings=SEARCH,
    )


@pytest.mark.parametrize("manner", MANNERS)
def test_manners_are_reached(manner: str) -> None:
    """Calls, steps in place and steps in place through a view are drawn."""
    tree = find(trees(), lambda tree: any(node.manner == manner for node in tree.applications), settings=SEARCH)
    assert tree.applications


def test_shared_nodes_are_reached() -> None:
    """A node that two others use is drawn: trees are graphs."""
    tree = find(trees(), lambda tree: any(n > 1 for n in tree.uses.values()), settings=SEARCH)
    assert max(tree.uses.values()) > 1


def test_trees_shrink() -> None:
    """The smallest tree is one op."""
    assert len(find(trees(), lambda _: True, settings=SEARCH).applications) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"inputs": 0}, {"most": 0}, {"ops": ()}, {"ops": (OPS["acosh"],)}],
    ids=["inputs", "most", "ops", "domain"],
)
def test_impossible_trees_are_refused(arguments: dict[str, Any]) -> None:
    """What no tree can be made of is an error."""
    with pytest.raises(ValueError, match=r"inputs=|none of"):
        find(trees(**arguments), lambda _: True, settings=SEARCH)


@DRAWS
@given(st.data())
def test_ties_are_drawn_for_order_ops(data: st.DataObject) -> None:
    """maximum is drawn with inputs of equal shape, where ties are."""
    case = data.draw(op_cases(OPS["maximum"], FORM))
    assert case.primals[0].shape == case.primals[1].shape


def test_ties_stay_inside_the_domain() -> None:
    """Where the second input repeats the first, it does not take a value that its domain lacks.

    So copysign is not asked at y = 0.
    """
    columns = [np.array([-0.0, 0.0, 1.0, 5.0]), np.array([2.0, 3.0, 4.0, 6.0])]
    tie(OPS["copysign"], columns, 3)
    assert columns[1].tolist() == [2, 3, 1, 6]
    tie(OPS["maximum"], columns, 3)
    assert columns[1].tolist() == [0, 0, 1, 6]


def test_own_op_often_stands_behind_one_that_saves_its_output() -> None:
    """Of trees that may have an op of a user's own a sixth at least do: who overwrites its input is noticed."""
    own, found = entry("scribbling", faulty=False), []

    @settings(DRAWS)
    @given(tree=trees((*COMPOSABLE, own)))
    def draw(tree: Tree) -> None:
        firsts = [node.children[0] for node in tree.applications if node.op is own]
        found.append(any(isinstance(first, Apply) and saves_its_output(first.op) for first in firsts))

    draw()
    assert sum(found) > len(found) / 6


@settings(max_examples=50)
@given(tree=trees((OPS["softmax"], OPS["sin"]), tensors=True, order=2))
def test_trees_of_second_order_reduce_no_single_element(tree: Tree) -> None:
    """Sympy knows the softmax of one element to be 1, torch computes it."""
    assert all(
        child.shape[-1:] != (1,) for node in tree.applications if not node.op.elementwise for child in node.children
    )


@pytest.mark.parametrize(("name", "first"), [("linear", 1), ("layer_norm", 1), ("var", 2), ("var_biased", 1)])
def test_every_length_of_every_axis_is_asked(name: str, first: int) -> None:
    """Each length of each axis is asked by rule, so that no draw decides whether; a variance of one element is 0/0."""
    op = OPS[name]
    trees = [case.tree for case in manner_cases(op, FORMATS["float32"])]
    for letter in op.letters:
        axes = [(i, part.index(letter)) for i, part in enumerate(op.axes.split(",")) if letter in part]
        asked = {tree.leaves[i].shape[axis] for tree in trees for i, axis in axes}
        assert asked >= {length for length in LENGTHS if length >= first}
        assert min(asked) >= first


def ends(name: str) -> set[tuple[str, float]]:
    """Return the infinite values that an op is asked at, each with the input that has it."""
    found = set()
    for case in manner_cases(OPS[name], FORMATS["float32"]):
        for leaf, primal in zip(case.tree.leaves, case.primals, strict=True):
            found |= {(leaf.name, value) for value in primal[np.isinf(primal)].tolist()}
    return found


@pytest.mark.parametrize(
    ("name", "due"),
    [
        ("softmax", {("x", -np.inf)}),
        ("logsumexp", {("x", -np.inf)}),
        ("sum", {("x", -np.inf), ("x", np.inf)}),
        ("linear", {("bias", -np.inf), ("bias", np.inf)}),
        ("var", set()),
    ],
)
def test_tensor_ops_are_asked_at_infinity_where_there_are_limits(name: str, due: set[tuple[str, float]]) -> None:
    """A masked element of softmax has -inf; its derivative at +inf, and that of a variance, is inf less inf."""
    assert ends(name) == due


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_tensor_ops_are_asked_at_values_of_all_magnitudes(form: Format) -> None:
    """One case spreads its values over a quarter of the exponents of the format at least."""
    spread = [
        np.ptp(np.log2(np.abs(primal[(primal != 0) & np.isfinite(primal)])))
        for case in manner_cases(OPS["softmax"], form)
        for primal in case.primals
    ]
    assert max(spread) >= form.emax / 4


@pytest.mark.parametrize(
    ("changed", "dtype", "is_asked"),
    [
        ({}, "float32", True),
        ({}, "bfloat16", False),
        ({"inside": "wide"}, "bfloat16", True),
        ({"dtypes": ("bfloat16",)}, "bfloat16", True),
        ({}, "float64", False),
    ],
)
def test_long_axes_are_asked_where_something_can_be_judged(
    changed: dict[str, Any], dtype: str, *, is_asked: bool
) -> None:
    """Many columns are asked in float32, and in 16-bit formats where more is promised or nothing else is taken."""
    op = replace(OPS["softmax"], **({"inside": "format"} | changed))
    assert bool(manners(op, FORMATS[dtype])["columns"]) is is_asked
