"""Inputs keep to the condition of an entry, wherever they come from."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.case import Case
from reference.catalogue import OPS
from reference.convention import ruled_points
from reference.definition import is_defined
from reference.domain import Interval
from reference.format import FORMATS
from reference.op import InvalidOpError, Op, x
from reference.tree import single
from strategies import fixed_cases, manner_cases, op_cases, reached_cases, sized_cases
from strategies.cases import UnmetError, real_cases
from tests.test_enumeration import cases
from tests.test_positions import repeated
from tests.verdict.comparison import judge_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.verdict.comparison import Judgement

SQUARE = Interval(-2, 2)
CONIC = Op(
    name="conic",
    torch="torch.sin",
    formula=lambda u, v, a, b, c: np.exp(-(a * u * u + c * v * v) / 2 - b * u * v),
    where=lambda u, v, a, b, c: (a > 0) & (a * c > b * b) & (u != v),
    domain=dict.fromkeys("uvabc", SQUARE),
)
"""A splat, whose conic is positive definite."""

ROWS = Op(
    name="rows",
    torch="torch.sin",
    formula=lambda x, y: np.sqrt(np.sum(x * x, axis=-1) - np.sum(y * y, axis=-1)),
    where=lambda x, y: np.sum(x * x, axis=-1) > np.sum(y * y, axis=-1),
    axes="n,n",
    batched=2,
)
"""A function of rows, of which one is longer than the other."""

WHOLE = Op(
    name="whole",
    torch="torch.sin",
    formula=lambda x, weight: x * weight,
    where=lambda _, weight: np.sum(weight) > 0,
    axes="n,n",
)
"""A function of a weight whose sum is positive."""

HALF = Op(name="half", torch="torch.abs", formula=sympy.Abs(x), kinks=(x,), where=lambda x: x > 0)
"""A function whose kink is left out."""


def all_of(op: Op, dtype: str) -> Iterable[Case]:
    """Return every case of an op that is not drawn."""
    form = FORMATS[dtype]
    sized = (each.made() for each in sized_cases(op, form) if each.elements < 10_000)
    whole = (fixed_cases(op, form), fixed_cases(op, form, 2), manner_cases(op, form), real_cases(op, form), sized)
    return chain(*whole, [repeated(op, form, 100, "strided")] if op.elementwise else [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", [CONIC, ROWS, WHOLE, HALF], ids=lambda op: op.name)
def test_no_case_breaks_the_condition(op: Op, dtype: str) -> None:
    """Fixed, laid out, large, tied and repeated: all inputs meet it, and there are as many cases as without it."""
    found = list(all_of(op, dtype))
    assert all(op.holds(case.primals).all() for case in found)
    assert {case.batch for case in found} >= {(5,), (2, 3)}


@settings(max_examples=50)
@given(data=st.data())
@pytest.mark.parametrize("op", [CONIC, ROWS, WHOLE, HALF], ids=lambda op: op.name)
def test_no_drawn_case_breaks_the_condition(op: Op, data: st.DataObject) -> None:
    """Drawn inputs meet it too, however they are laid out or expanded, in the first and the second order."""
    case = data.draw(op_cases(op, FORMATS["float32"], order=data.draw(st.integers(1, 2))))
    assert op.holds(case.primals).all()


def test_points_are_left_out_where_they_are_listed() -> None:
    """A kink that the condition excludes is not asked, nor an enumerated value; no drawn tree has the op."""
    assert ruled_points(HALF) == []
    (case,) = cases(HALF, FORMATS["float16"], (np.array([-1.0, 0.0, 2.0, 3.0]),))
    assert case.primals[0].tolist() == [2.0, 3.0]
    assert reached_cases(HALF, FORMATS["float32"]) == ()


def test_condition_that_nothing_meets_is_an_error() -> None:
    """It says what is accepted; there is never a case without points instead."""
    op = Op(name="never", torch="torch.sin", formula=sympy.sin(x), where=lambda x: x > np.inf)
    with pytest.raises(UnmetError, match=r"op 'never': where: .* accepted: "):
        fixed_cases(op, FORMATS["float32"])


def deviation(x: Any, dim: int, correction: int) -> Any:
    """Return the standard deviation of rows."""
    return np.sqrt(np.sum((x - np.mean(x, axis=dim, keepdims=True)) ** 2, axis=dim) / (x.shape[dim] - correction))


DEFINED: dict[str, tuple[Op, Callable[..., Any]]] = {
    "log": (Op(name="log", torch="torch.log", formula=np.log), lambda x: x > 0),
    "root": (Op(name="root", torch="torch.sin", formula=lambda x, y: np.sqrt(x + y)), lambda x, y: x + y > 0),
    "arc": (Op(name="arc", torch="torch.acos", formula=sympy.acos(x)), lambda x: abs(x) < 1),
    "magnitude": (Op(name="magnitude", torch="torch.sin", formula=lambda x: np.log(np.abs(x))), lambda x: x != 0),
    "sum": (
        Op(name="sum", torch="torch.sin", formula=lambda x: np.log(np.sum(x, axis=-1)), axes="n"),
        lambda x: np.sum(x, axis=-1) > 0,
    ),
    "ratio": (
        Op(
            name="ratio",
            torch="torch.sin",
            formula=lambda x: 1 / (x[0, 0] * x[1, 1] - x[0, 1] * x[1, 0]),
            shapes=(((2, 2),),),
            batched=0,
        ),
        lambda x: np.asarray(x[0, 0] * x[1, 1] != x[0, 1] * x[1, 0]),
    ),
}
"""Entries without a domain, and where their formula has a value and a gradient."""


@pytest.mark.parametrize("name", DEFINED)
def test_no_case_is_where_the_formula_has_no_value(name: str) -> None:
    """An entry that says no domain is asked where its formula has a value: of no singular matrix, nor a sum below 0."""
    op, has_value = DEFINED[name]
    found = list(all_of(op, "float32"))
    assert len(found) > 3
    for case in found:
        held = np.asarray(has_value(*case.primals)) | np.any([np.isinf(p).any() for p in case.primals])
        assert held.all(), case


@settings(max_examples=50)
@given(data=st.data())
@pytest.mark.parametrize("name", DEFINED)
def test_no_drawn_case_is_where_the_formula_has_no_value(name: str, data: st.DataObject) -> None:
    """So it is of what is drawn."""
    op, has_value = DEFINED[name]
    case = data.draw(op_cases(op, FORMATS["float32"]))
    assert np.asarray(has_value(*np.broadcast_arrays(*case.primals))).all()


def test_large_values_and_rules_are_kept() -> None:
    """What float64 alone cannot hold has a value; at kinks, edges and infinities a rule says what is due."""
    soft = Op(name="soft", torch="torch.sin", formula=lambda x: np.log(1 + np.exp(x)))
    points = np.array([-1e300, 0.0, 1e4, np.inf])
    assert is_defined(Case(single(soft), FORMATS["float64"], (points,), np.ones(4))).all()
    sinc = Case(single(OPS["sinc"]), FORMATS["float64"], (np.array([0.0, -np.inf]),), np.ones(2))
    assert is_defined(sinc).all()


def test_no_rule_is_asked_where_a_function_is_undefined() -> None:
    """A kink at which a function is infinite is no place to ask at, as one with a value, or a limit, is."""
    op, _ = DEFINED["magnitude"]
    assert op.kinks
    assert not ruled_points(op)
    for other in (
        OPS["abs"],
        OPS["sqrt"],
        OPS["sinc"],
        Op(name="edge", torch="torch.sin", formula=lambda x: abs(x) + 1),
    ):
        assert ruled_points(other) == [(0,)]


def test_nothing_is_due_where_an_infinite_slope_meets_0() -> None:
    """The deviation of a single element is a root at 0 of what does not change: no rule says what its gradient is."""
    op = Op(name="std", torch=torch.std, kwargs={"dim": -1, "correction": 0}, formula=deviation, axes="n")

    def judge(*row: float) -> Judgement:
        case = Case(single(op, ((len(row),),)), FORMATS["float32"], (np.array(row),), np.array(1.0))
        return judge_values(case, [np.full(len(row), 7.0)])

    assert (judge(3.0).undecided, judge(3.0).misses) == (1, [])
    assert len(judge(3.0, 1.0).misses) == 2


def test_formula_that_never_has_a_value_is_an_error() -> None:
    """It is said, with what is accepted."""
    op = Op(name="never", torch="torch.sin", formula=lambda x: np.log(-1 - x * x))
    with pytest.raises(UnmetError, match=r"op 'never': its formula has no finite value at any of .* accepted: "):
        fixed_cases(op, FORMATS["float32"])


@pytest.mark.parametrize("where", [lambda x: x > 0, 3])
def test_what_is_no_condition_is_refused(where: Any) -> None:
    """A condition takes all inputs of the formula."""
    with pytest.raises(InvalidOpError, match="a function of arrays x, y that says"):
        Op(name="op", torch="torch.sin", formula=lambda x, y: x * y, where=where)
