"""Kinks of numpy's functions in formulas of whole arrays: torch's documented rule, in both arithmetics."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flint import arb

from reference import convention, oracle
from reference.balls import Balls, Widened
from reference.case import Case
from reference.catalogue import OPS
from reference.evaluation import Arrays, Exact, Rounding, objects
from reference.format import FORMATS, precision
from reference.graph import Input, Map
from reference.op import Op
from reference.trace import Traced, traced
from reference.transform import pullback
from reference.tree import single
from strategies import fixed_cases
from tests.meta.kernels import embedding, kernel, words
from tests.subject.mode import MODES
from tests.verdict.comparison import judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.oracle import Answer

# With zeros, ties, and the bounds of hardtanh among them.
POINTS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 0.5])
OTHERS = np.array([-2.0, 1.0, 0.0, 1.0, -2.0, 0.25])
COTANGENT = np.array([1.0, 2.0, -0.75, 1.5, 3.0, -1.0])


def magnitude(x: Any) -> Any:
    """Return the absolute value; a function of its own has the names that an entry needs, in every numpy."""
    return np.abs(x)


def larger(x: Any, y: Any) -> Any:
    """Return the larger of two."""
    return np.maximum(x, y)


def smaller(x: Any, y: Any) -> Any:
    """Return the smaller of two."""
    return np.minimum(x, y)


def root(x: Any) -> Any:
    """Return the square root."""
    return np.sqrt(x)


SAME: dict[str, tuple[str, Callable[..., Any]]] = {
    "abs": ("abs", magnitude),
    "fabs": ("abs", lambda x: np.fabs(x) * 1),
    "relu": ("relu", lambda x: np.maximum(x, 0)),
    "relu, turned": ("relu", lambda x: np.maximum(0, x)),
    "relu, as a clip": ("relu", lambda x: np.clip(x, 0, 1000)),
    "maximum": ("maximum", larger),
    "minimum": ("minimum", smaller),
    "clip": ("hardtanh", lambda x: np.clip(x, -1, 1)),
    "of a difference": ("l1_loss", lambda x, y: np.abs(x - y)),
}
"""Formulas of whole arrays, beside the elementwise op of the catalogue that is the same."""


def op_of(formula: Callable[..., Any], count: int = 1, path: str = "torch.abs") -> Op:
    """Return a tensor op with a formula of so many rows."""
    return Op(name="here", torch=path, formula=formula, axes=",".join(["n"] * count))


def whole(op: Op, primals: tuple[np.ndarray[Any, Any], ...], cotangent: Any, dtype: str = "float32") -> Case:
    """Return a case of a tensor op of rows."""
    return Case(single(op, tuple(p.shape[-1:] for p in primals)), FORMATS[dtype], primals, np.asarray(cotangent))


def in_float64(monkeypatch: pytest.MonkeyPatch, case: Case) -> Answer:
    """Answer a case in float64 balls alone: it is an error to ask flint."""
    with monkeypatch.context() as patch:
        patch.delattr(oracle, "by_flint")
        return oracle._evaluated(case)  # noqa: SLF001 - what is kept is no news


@pytest.mark.parametrize("word", ["r", "f"])
@pytest.mark.parametrize("name", SAME)
def test_formula_has_the_rule_of_the_op(name: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At kinks and ties the derivative of a formula is that of the elementwise op, in float64 balls and in flint."""
    op_name, formula = SAME[name]
    op = OPS[op_name]
    primals = (POINTS, OTHERS)[: len(op.inputs)]
    due = oracle.answer(Case(single(op), FORMATS["float32"], primals, COTANGENT, word=word))
    case = replace(whole(op_of(formula, len(primals)), primals, COTANGENT), word=word)
    for found in (in_float64(monkeypatch, case), oracle.by_flint(case)):
        for ours, theirs in zip(found, due, strict=True):
            assert (ours.centre == theirs.centre).all()
            assert (ours.by_convention == theirs.by_convention).all()
            assert ours.by_convention.any()
            assert (ours.radius <= theirs.radius * (1 + 2**-16) + 2**-149).all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_square_root_is_infinitely_steep_at_0(dtype: str) -> None:
    """The square root has its derivative at 0 by continuity."""
    case = whole(op_of(root), (np.array([0.0, 4.0]),), [1.0, -2.0], dtype)
    (found,) = oracle.answer(case)
    assert found.centre.tolist() == [np.inf, -0.5]
    assert found.by_convention.tolist() == [True, False]


def test_tie_of_the_largest_is_by_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements that share the derivative of the largest have it by the rule; the largest itself has not."""
    case = whole(op_of(lambda x: np.max(x) ** 2 + x[0]), (np.array([1.0, 2.0, 2.0]),), 1.0)
    for (found,) in (in_float64(monkeypatch, case), oracle.by_flint(case)):
        assert found.centre.tolist() == [1, 2, 2]
        assert found.by_convention.tolist() == [False, True, True]
    apart = whole(op_of(lambda x: np.max(x) * x), (np.array([1.0, 2.0, 2.0]),), [1.0, 0.0, 0.0])
    (found,) = oracle.by_flint(apart)
    assert found.by_convention.tolist() == [False, True, True]


def slope_of(formula: Callable[..., Any]) -> Map:
    """Return the step that is the derivative of a formula of one row."""
    row, cotangent = Input((), (3,), "row"), Input((), (3,), "cotangent")
    (step,) = traced(formula, [Traced(row)], "here")
    (slope,) = pullback([step], [cotangent], [row], saved=False)
    assert isinstance(slope, Map)
    return slope


@pytest.mark.parametrize("kind", [Balls, Widened])
def test_uncertain_kink_says_nothing(kind: type[Balls]) -> None:
    """Where an input may be at a kink, and may not, float64 says nothing; it does where the input is exact."""
    slope = slope_of(lambda x: np.maximum(x, 0))
    arithmetic = Arrays() if kind is Balls else Arrays(Rounding(FORMATS["float32"]))
    mids, radii = np.array([0.0, 0.0, 1.0]), np.array([2.0**-60, 0.0, 2.0**-60])
    found = arithmetic.step(slope, [kind(mids, radii), kind(np.array([1.0, np.nan, 3.0]))])
    assert np.isnan(found.mid).tolist() == [True, True, False]
    found = arithmetic.step(slope, [kind(mids, radii), kind(np.ones(3))])
    assert np.isnan(found.mid).tolist() == [True, False, False]
    assert arithmetic.ruled[slope].tolist() == [False, True, False]
    assert found.mid[1:].tolist() == [0, 1]


def test_flint_rules_where_the_input_is_exact() -> None:
    """A row of which one element is known exactly has the rule's value there, whatever the others are."""
    slope = slope_of(lambda x: np.maximum(x, 0))
    arithmetic = Exact(form=FORMATS["float32"])
    with precision(64):
        row = objects([arb(0), arb(1, 2.0**-60), arb(0, 2.0**-60)], (3,))
        found = arithmetic.step(slope, [row, objects([arb(1)] * 3, (3,))])
    assert arithmetic.ruled[slope].tolist() == [True, False, False]
    assert found[:2].tolist() == [0, 1]
    assert found[2].contains(0)
    assert found[2].contains(1)


def test_half_of_the_smallest_may_underflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of a cotangent that is the smallest subnormal is no value of the format: it may be either neighbour."""
    case = whole(op_of(larger, 2), (np.ones(1), np.ones(1)), [2.0**-149])
    for found in (in_float64(monkeypatch, case), oracle.by_flint(case)):
        assert all((each.radius >= 2.0**-150).all() for each in found)


def test_where_is_the_branch_that_its_author_chose() -> None:
    """The derivative of `np.where` is that of the branch."""
    case = whole(op_of(lambda x: np.where(x > 0, x, 0.25 * x)), (np.zeros(1),), [1.0])
    (found,) = oracle.answer(case)
    assert (found.centre.tolist(), found.by_convention.tolist()) == ([0.25], [False])


# ----------------------------------------------------------------------------------------- what is noticed


def backward_of(forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """Return a kernel with a forward and a backward: of the inputs and the cotangent."""
    return kernel(forward, lambda saved, *cotangents, **_: backward(*saved, *cotangents), faulty=False)


def mean_of_relu(x: torch.Tensor) -> torch.Tensor:
    """Average what is positive."""
    return torch.relu(x).mean(-1)


def largest(x: torch.Tensor) -> torch.Tensor:
    """Return the largest of a row."""
    return x.amax(-1)


relu_of_1 = backward_of(mean_of_relu, lambda x, g: g[..., None] * (x >= 0) / x.shape[-1])
unfair = backward_of(
    torch.maximum, lambda x, y, g: (torch.where(x == y, -g / 2, g * (x > y)), torch.where(x == y, -g / 2, g * (x < y)))
)
first_of_all = backward_of(
    largest, lambda x, g: g[..., None] * torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype)
)

PLANTS: dict[str, tuple[str, str, Callable[..., Any], tuple[np.ndarray[Any, Any], ...]]] = {
    "1 at 0": ("relu_of_1", "mean_of_relu", lambda x: np.mean(np.maximum(x, 0), -1), (POINTS,)),
    "-1/2 at ties": ("unfair", "", larger, (POINTS, OTHERS)),
    "the first of all": ("first_of_all", "largest", lambda x: np.max(x, -1), (np.abs(POINTS),)),
}
"""Kernels with the wrong derivative at a kink: the wrong one, the right one, the formula and the inputs."""


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", PLANTS)
def test_wrong_branch_is_noticed(name: str, dtype: str) -> None:
    """A kernel that does not follow the rule at a kink is told so, and its sound twin is not."""
    wrong, right, formula, primals = PLANTS[name]
    for path in (f"{__name__}.{right}" if right else "torch.maximum", f"{__name__}.{wrong}"):
        op = op_of(formula, len(primals), path)
        shape = single(op, tuple(p.shape for p in primals)).root.shape
        judgement = judged(whole(op, primals, np.ones(shape), dtype), MODES["backward"], "cpu")
        assert {miss.verdict for miss in judgement.misses} == ({"convention"} if path.endswith(wrong) else set())


# ----------------------------------------------------------------------------------------------- speed


def test_kinks_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten exact zeros of 4 x 4,096 do not send the others to flint, nor take long."""
    row = np.random.default_rng(0).standard_normal((4, 4096)).astype(np.float32).astype(np.float64)
    zeros = row.copy()
    zeros[1, 7:17] = 0
    op, times = op_of(lambda x: np.mean(np.abs(x), -1, keepdims=True)), []
    for primal in (row, zeros):
        case = whole(op, (primal,), np.ones((4, 1)))
        for _ in range(5):
            start = perf_counter()
            (found,) = in_float64(monkeypatch, case)
            times.append(perf_counter() - start)
        assert found.by_convention.sum() == (primal == 0).sum()
        assert np.isfinite(found.radius).all()
    assert min(times[5:]) < 3 * min(times[:5]) + 0.02


def test_rule_is_looked_up_once_for_alike_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where planes meet, the rule is the same for every tie."""
    asked: list[Any] = []
    rule = convention.rule

    def noted(op: Op, point: Any) -> Any:
        asked.append(point)
        return rule(op, point)

    monkeypatch.setattr(convention, "rule", noted)
    x = np.arange(300.0) / 8
    for found in in_float64(monkeypatch, whole(op_of(larger, 2), (x, x.copy()), np.ones(300))):
        assert (found.centre == 0.5).all()
        assert found.by_convention.all()
    assert len(asked) <= 1  # none where another test has asked it before


def test_every_tie_of_planes_is_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands for other ties has the gradient of each."""
    op = op_of(lambda x, y: np.clip(x, y, 2), 2)
    x = np.array([-1.0, -0.5, 2.0, 2.0, 1.5])
    y = np.array([-1.0, -0.5, 1.0, 0.5, 1.5])
    for found in (
        in_float64(monkeypatch, whole(op, (x, y), np.ones(5))),
        oracle.by_flint(whole(op, (x, y), np.ones(5))),
    ):
        assert found[0].centre.tolist() == [0.5, 0.5, 0, 0, 0.5]
        assert found[1].centre.tolist() == [0.5, 0.5, 0, 0, 0.5]


@pytest.mark.parametrize("mode", ["backward", "forward", "func_jvp", "jacrev", "jacfwd", "rf", "fr", "ff"])
def test_padding_row_has_tangents_and_no_gradient(mode: str) -> None:
    """What torch's embedding documents of its padding row, and does: only its gradient is none."""

    def looked_up(words: Any, weight: Any) -> Any:
        return embedding(words, weight**3)

    def cubed(words: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(words, weight**3, padding_idx=0)

    op = Op(
        name="cubes",
        torch=cubed,
        formula=looked_up,
        axes="vd",
        sizes={"v": 5, "d": 3},
        batched=0,
        contexts={"words": words},
    )
    asked = MODES[mode]
    for case in fixed_cases(op, FORMATS["float64"], asked.order, whole=True):
        judgement = judged(asked.asks(case), asked, "cpu")
        assert not judgement.misses
        assert judgement.compared
