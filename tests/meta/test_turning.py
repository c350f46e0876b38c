"""Numbers that a formula of whole arrays compares with are found, and faults of kernels at them and beyond too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
import torch
from hypothesis import find, settings
from hypothesis.errors import NoSuchExample
from sympy import Rational

from reference.derivative import given, value_of
from reference.domain import Interval
from reference.format import FORMATS
from reference.op import Op
from reference.trace import detached
from reference.turning import crossings, turns_of, undecided
from strategies import manner_cases, op_cases
from strategies.cases import turning_cases
from tests.meta.kernels import between, interpolated, interpolated_back, kernel
from tests.meta.test_kinks import op_of, whole
from tests.subject.mode import MODES
from tests.verdict.comparison import judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from reference.case import Case

FLOAT32 = FORMATS["float32"]
BACKWARD = MODES["backward"]
ROW = np.array([-1.9375, -0.4375, 0.3125, 1.5625])


def huber(x: Any, y: Any) -> Any:
    """Return a loss that is a parabola up to a difference of 1."""
    difference = x - y
    return np.where(np.abs(difference) < 1, difference * difference / 2, np.abs(difference) - Rational(1, 2))


FOUND: dict[str, tuple[Callable[..., Any], set[float]]] = {
    "clip": (lambda x: np.clip(x, 0, 7), {0, 7}),
    "branch": (lambda x: np.where(x > 2, x * x, 4 * x), {2}),
    "absolute value": (lambda x: np.abs(x - 1), {1}),
    "maximum": (lambda x: np.maximum(x, 3), {3}),
    "root": (lambda x: np.sqrt(x + 3), {-3}),
    "either side": (lambda x: np.where(np.abs(x) > 5, x, 0), {-5, 0, 5}),
    "scaled": (lambda x: np.minimum(x / 3, 1), {3}),
    "moved": (lambda x: np.maximum(np.broadcast_to(x[::-1].reshape(2, 2).T[None], (3, 2, 2)), 3), {3}),
    "joined": (lambda x: np.maximum(np.concatenate([x[2:] - 1, 2 * x[:2] + 1]), 0), {-0.5, 1}),
    "of a place": (lambda x: np.maximum(x, np.arange(4)), {0, 1, 2, 3}),
    "both": (lambda x: np.where(np.logical_and(x > -1, x <= 6), x, 0), {-1, 6}),
    "several elements": (lambda x: np.maximum(x - np.mean(x), 1), set()),
    "not affine": (lambda x: np.maximum(np.exp(x), 3), set()),
    "no number": (lambda x: 2 * x, set()),
}


@pytest.mark.parametrize("name", FOUND)
def test_numbers_are_found(name: str) -> None:
    """The values at which an element crosses what it is compared with come out exactly, and no others."""
    formula, values = FOUND[name]
    case = whole(op_of(formula), (ROW,), np.ones(()))
    found = crossings(value_of(case).output, given(case), "x0")
    assert {crossing.value for crossing in found} == values


def test_other_inputs_are_as_they_are() -> None:
    """A margin between two inputs is met by moving either; one that no step has is not moved."""
    case = whole(op_of(huber, 2), (ROW, ROW[::-1].copy()), np.ones(4))
    output = value_of(case).output
    for name, other in (("x0", ROW[::-1]), ("x1", ROW)):
        found = {(each.element, each.value - other[each.element]) for each in crossings(output, given(case), name)}
        assert {distance for _, distance in found} == {-1, 0, 1}
    assert crossings(output, given(case), "x2") == []


def test_function_that_numpy_lacks_is_left_alone() -> None:
    """Where an argument cannot be evaluated in float64, no number is found, and nothing is raised."""
    zeta = Op(
        name="zeta",
        torch="torch.sin",
        formula=sympy.zeta(sympy.Symbol("x", real=True)),
        symbols=(sympy.Symbol("x", real=True),),
    )
    case = whole(op_of(lambda x: np.maximum(zeta(x), 0)), (ROW,), np.ones(4))
    assert turns_of(value_of(case).output)
    assert crossings(value_of(case).output, given(case), "x0") == []


KNOTS: dict[str, tuple[Callable[..., Any], list[bool]]] = {
    "one kink": (lambda x: np.clip(x, 0, 1), [False, False, False]),
    "two kinks meet": (lambda x: np.clip(x, 0, 1) + 3 * np.clip(x - 1, 0, 1), [False, True, False]),
    "clip of a clip": (lambda x: np.clip(np.clip(x, 0, 1), 0, 1), [True, True, False]),
    "one kink twice": (lambda x: np.abs(x) + np.abs(x), [False, False, False]),
    "kink and branch": (lambda x: np.where(x > 0, np.abs(x), 2 * x), [True, False, False]),
    "kink beside a truth": (lambda x: np.where(x > 5, 2 * x, np.abs(x)), [False, False, False]),
    "branches": (lambda x: np.where(x > 1, 2 * x, 0) + np.where(x > 1, x, 0), [False, False, False]),
    "detached": (lambda x: np.abs(detached(x) - 1) * np.abs(x - 1), [False, True, False]),
    "on either side": (lambda x: np.maximum(x / 3, Rational(1, 3)), [False, True, False]),
}


@pytest.mark.parametrize("name", KNOTS)
def test_where_kinks_meet_nothing_is_due(name: str) -> None:
    """Nor is it where no precision tells on which side an element is; one kink and any branches are decided."""
    formula, due = KNOTS[name]
    case = whole(op_of(formula), (np.array([0.0, 1.0, 0.5]),), np.ones(3))
    assert undecided(value_of(case).output, given(case), "x0").tolist() == due


# ----------------------------------------------------------------------------------------- what is noticed


def where_of(inside: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the backward that passes the cotangent on where its one input is inside."""
    return lambda saved, g, **_: g * inside(saved[0])


def clipped(x: Any) -> Any:
    """Keep between 0 and 6."""
    return torch.clamp(x, 0, 6)


def steep(x: Any) -> Any:
    """Turn at a third, which is no float: 3 x - 1 is 0 next to it, once it is rounded."""
    return torch.relu(3 * x - 1)


def steep_back(at_0: float) -> Callable[..., Any]:
    """Return the backward of `steep`, whose slope where the rounded argument is 0 is given."""
    return lambda saved, g, **_: g * torch.where(3 * saved[0] - 1 == 0, at_0, torch.where(3 * saved[0] > 1, 3.0, 0.0))


def hinge(x: Any, label: Any) -> Any:
    """Return the loss of a margin."""
    return torch.clamp(1 - label * x, min=0)


def hinged(beyond: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return the backward of `hinge`, given where the margin counts as positive."""
    return lambda saved, g, **_: (-saved[1] * g * beyond(1 - saved[1] * saved[0]), None)


def signs(shapes: Any, random: np.random.Generator) -> Any:
    """Draw labels."""
    return random.choice([-1.0, 1.0], shapes[0])


CLIPPED = {"formula": lambda x: np.clip(x, 0, 6), "axes": "n"}
STEEP = {"formula": lambda x: np.maximum(3 * x - 1, 0), "axes": "n"}
HINGED = {
    "formula": lambda x, label: np.maximum(np.where(label > 0, 1 - x, 1 + x), 0),
    "axes": "n",
    "batched": 0,
    "contexts": {"label": signs},
}
SAMPLED = {"formula": between, "shapes": (((3,), (1,)),), "batched": 2}


def by_clips(samples: Any, place: Any) -> Any:
    """Interpolate three samples, as a sum of clips."""
    a, b, c = (samples[..., i : i + 1] for i in range(3))
    return a + (b - a) * np.clip(place, 0, 1) + (c - b) * np.clip(place - 1, 0, 1)


def sampled_back(*, faulty: bool) -> Callable[..., Any]:
    """Return the backward of the interpolation, which goes on beyond its borders where it is faulty."""

    def back(saved: Any, g: Any, **_: Any) -> Any:
        samples, place = saved
        by_samples, by_place = interpolated_back(saved, g, faulty=False)
        low = place.clamp(0, 2).floor().clamp(max=1).long()
        return by_samples, g * (samples.gather(-1, low + 1) - samples.gather(-1, low)) if faulty else by_place

    return back


SOUND: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "clip": (clipped, where_of(lambda x: (x > 0) & (x < 6)), CLIPPED),
    "steep": (steep, steep_back(0.0), STEEP),
    "steep, of the other side": (steep, steep_back(3.0), STEEP),
    "hinge": (hinge, hinged(lambda m: m > 0), HINGED),
    "interpolation": (interpolated, sampled_back(faulty=False), SAMPLED),
    "interpolation, as clips": (interpolated, sampled_back(faulty=False), {**SAMPLED, "formula": by_clips}),
}

FAULTY: dict[str, tuple[str, Callable[..., Any], set[str]]] = {
    "beyond the upper border": ("clip", where_of(lambda x: x > 0), {"inaccurate", "convention"}),
    "far beyond it": ("clip", where_of(lambda x: (x > 0) & ((x < 6) | (x > 20))), {"inaccurate", "convention"}),
    "at the upper border": ("clip", where_of(lambda x: (x > 0) & (x <= 6)), {"convention"}),
    "next to the border": ("clip", where_of(lambda x: (x > 0) & (x < 6 - 2**-20)), {"lost"}),
    "undefined where the argument rounds to 0": ("steep", steep_back(np.nan), {"lost"}),
    "past both sides there": ("steep", steep_back(4.0), {"inaccurate"}),
    "at the margin": ("hinge", hinged(lambda m: m >= 0), {"convention"}),
    "interpolation at the border": (
        "interpolation",
        lambda s, g, **_: interpolated_back(s, g, faulty=True),
        {"inaccurate"},
    ),
    "at the border of clips": (
        "interpolation, as clips",
        lambda s, g, **_: interpolated_back(s, g, faulty=True),
        {"convention"},
    ),
    "interpolation beyond": ("interpolation", sampled_back(faulty=True), {"inaccurate"}),
}


def entry(name: str, backward: Callable[..., Any] | None = None) -> Op:
    """Return the entry of a sound kernel, or of that with another backward."""
    forward, sound, fields = SOUND[name]
    return Op(name="here", torch=kernel(forward, backward or sound, faulty=False), **fields)


def verdicts(case: Case) -> set[str]:
    """Return the verdicts of the misses of a case."""
    return {miss.verdict for miss in judged(BACKWARD.asks(case), BACKWARD, "cpu").misses}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", SOUND)
def test_sound_kernel_agrees_at_its_turns(name: str, dtype: str) -> None:
    """A sound kernel agrees at, next to and beyond the numbers of its formula, in each format."""
    cases = list(turning_cases(entry(name), FORMATS[dtype]))
    assert cases
    assert not [verdict for case in cases for verdict in verdicts(case)]


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_kernel_is_rejected_by_rule(name: str) -> None:
    """A kernel that is wrong at a number of its formula, or beyond, is rejected from a short entry."""
    base, backward, due = FAULTY[name]
    met = set().union(*map(verdicts, manner_cases(entry(base, backward), FLOAT32)))
    assert met == due


@pytest.mark.parametrize("name", ["at the upper border", "interpolation beyond"])
def test_drawn_cases_reach_the_numbers(name: str) -> None:
    """Drawn cases find such a kernel too; those of a second order are at no kink."""
    base, backward, _ = FAULTY[name]
    op = entry(base, backward)
    assert verdicts(
        find(
            op_cases(op, FLOAT32), lambda case: bool(verdicts(case)), settings=settings(max_examples=500, database=None)
        )
    )
    with pytest.raises(NoSuchExample):
        find(
            op_cases(entry("clip"), FLOAT32, order=2), lambda c: 6 in c.primals[0], settings=settings(max_examples=100)
        )


def test_values_keep_to_the_domain() -> None:
    """No value is asked beyond the interval of an input."""
    op = Op(
        name="here",
        torch="torch.sqrt",
        formula=lambda x: np.sqrt(x - 1),
        axes="n",
        domain={"x": Interval(1, 20, closed_below=True)},
    )
    cases = list(turning_cases(op, FLOAT32))
    values = np.concatenate([case.primals[0].ravel() for case in cases])
    assert values.min() == 1
    assert values.max() <= 20
    assert 1 + 2**-23 in values
    assert 2 in values
