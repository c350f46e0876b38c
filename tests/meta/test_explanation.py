"""A failure points: at the entries that are wrong, at what they are instead, and at plain torch that shows it."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sympy
import torch

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.op import Op, x
from reference.tree import single
from strategies import fixed_cases
from strategies.cases import real_cases
from tests.meta.kernels import entry
from tests.meta.test_kernels import cases
from tests.subject.mode import MODES
from tests.verdict.comparison import VERDICTS, judged
from tests.verdict.diagnosis import simplest
from tests.verdict.explanation import DisagreementError, explained
from tests.verdict.pattern import described, labelled
from tests.verdict.question import question

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.subject.mode import Mode
    from tests.verdict.comparison import Miss

BACKWARD = MODES["backward"]
SCREEN = 32
"""Lines that a terminal shows at once, and a failure has at most."""

POINTS = {
    "distance": ("dp: 3 of 61 entries are wrong: those where p equals q",),
    "margin": ("those where x equals y; each is 2 times what is due", "those where x equals y; each is 0"),
    "rows": (
        "at [0] of x[4099, 3], weight[3] [float32, backward, cpu]",
        "each is what is due if those past the last whole block of 8 along axis 0 of the output are left out",
        "\ndx is right",
    ),
    "rank": ("each is what is due if only the first along axis 1 of the output counts", "\ndx is right"),
    "tail": ("dx: 14 of 2,062 entries are wrong: columns 1024 on, the last 7; each is 0", "\ndweight is right"),
    "half": ("times the rounding allowance: 86.5 by wide, 86.5 by operands, 0.199 by saved", "; wide is asked of it"),
    "scaled": ("rows 1, 2, 4; each is what is due if the cotangent is 1 everywhere",),
    "wave": ("x[2, 3, 4, 2] transposed", "each is what is due if x is read in the order of memory"),
    "gate": ("cotangent transposed", "each is what is due if the cotangent is read in the order of memory"),
    "attended": ("dv: 6 of 8 entries are wrong: rows 1 on, the last 3",),
    "splat": ("each is 1/2 times what is due", "\ndu, dv, da, dc, do are right"),
    "product": ("dx: 2 of 8 entries are wrong: those where x is 0; each is NaN",),
    "woven": ("only b requires grad", "got None, should be a gradient"),
    "stepped": ("each is what is due if output 1 has no cotangent",),
    "looked_up": ("dweight: 2 of 6 entries are wrong: row 0, of 3",),
    "scribbling": ("is malformed:\nx was overwritten", 'says overwrites=("x",)', "'elements of x have changed'"),
    "emptied": ("output was overwritten", "'elements of output have changed'"),
}
"""What a failure says of each kernel that has a fault."""


def first(op: Op, form: str = "float32") -> list[Miss]:
    """Return the misses of the first case of an op that has any, as a test sorts them."""
    for case in cases(op, FORMATS[form]):
        misses = judged(BACKWARD.asks(case), BACKWARD, "cpu").misses
        if misses:
            return sorted(misses, key=lambda miss: VERDICTS.index(miss.verdict), reverse=True)
    return []


@pytest.mark.parametrize("name", POINTS)
def test_failure_points_at_the_fault(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the entries and what they are instead, fits a screen, and its snippet prints what it says."""
    op = entry(name, faulty=True)
    said = explained(first(op, "bfloat16" if name == "half" else "float32"), BACKWARD, "cpu")
    for words in POINTS[name]:
        assert words in said
    assert len(said.splitlines()) <= SCREEN
    if "is malformed" in said and "overwritten" not in said:
        return
    text, code = said.split("import torch\n")
    exec(f"import torch\n{code}", {"apply": op.torch})  # noqa: S102 - that the text runs is what is tested
    printed, *changed = capsys.readouterr().out.splitlines()
    if changed:
        assert re.fullmatch(r"[1-9]\d* elements of \w+ have changed", changed[0])
        return
    comes = re.search(r"simpler inputs, where (\S+) comes", text) or re.search(r"^got (\S+),", text, re.MULTILINE)
    assert comes is not None
    assert comes[1] in ast.literal_eval(printed)


def planted(change: Callable[[Any], Any], place: int = 0) -> Mode:
    """Return the mode whose gradient by one input is changed."""

    def gradients(case: Case, device: str) -> list[Any]:
        return [change(g) if n == place else g for n, g in enumerate(BACKWARD.gradients(case, device))]

    return replace(BACKWARD, gradients=gradients)


def said_of(case: Case, mode: Mode) -> str:
    """Return what is said of a case in a mode that is wrong."""
    return explained(judged(mode.asks(case), mode, "cpu").misses, mode, "cpu")


ROWS = 65
"""Rows of a sum, one more than a whole number of blocks."""

DIAGNOSES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "sign": (lambda g: -g, "dx: 3 of 3 entries are wrong: all of them; each has the other sign"),
    "bias": (lambda g: g * 1.02, "all of them; each is 1.02 times what is due"),
    "infinite": (lambda g: g * float("inf"), "each is infinite"),
    "next column": (lambda g: g.roll(1, -1), "each is what is due one column before"),
    "next row": (lambda g: g.roll(-1, 0), "each is what is due one row after"),
}
"""Faults by what is said of them."""


@pytest.mark.parametrize("fault", DIAGNOSES)
def test_what_entries_are_instead(fault: str) -> None:
    """Of a fault that is the same in all entries it is said what it is."""
    change, words = DIAGNOSES[fault]
    (case, *_) = fixed_cases(OPS["mse_loss"], FORMATS["float32"])
    case = replace(case, wrt=(0,))
    if "row" in fault or "column" in fault:
        (case, *_) = fixed_cases(OPS["rms_norm"], FORMATS["float32"])
        rows = np.sqrt(np.arange(3.0, 23.0)).astype(np.float32).astype(np.float64).reshape(4, 5), np.arange(1.0, 6.0)
        case = replace(
            case,
            tree=single(OPS["rms_norm"], ((5,), (5,))),
            primals=rows,
            cotangent=np.resize(case.cotangent, (4, 5)) + 1,
        )
    assert words in said_of(case, planted(change)), said_of(case, planted(change))


def test_nothing_is_said_that_is_not_so_of_all() -> None:
    """Where one entry is off by another factor there is no factor, and no diagnosis."""
    (case, *_) = fixed_cases(OPS["mse_loss"], FORMATS["float32"])

    def change(g: Any) -> Any:
        changed = g * 1.02
        changed.view(-1)[0] *= 3
        return changed

    said = said_of(replace(case, wrt=(0,)), planted(change))
    assert "all of them\n" in said
    assert "each" not in said


def test_swapped_gradients_are_told() -> None:
    """Where two inputs have each other's gradient, each is named."""

    def swapped(case: Case, device: str) -> list[Any]:
        return BACKWARD.gradients(case, device)[::-1]

    (case, *_) = fixed_cases(OPS["mul"], FORMATS["float32"])
    small = case.only(np.flatnonzero(np.abs(case.primals[0] * case.primals[1]) < 100))
    said = said_of(small, replace(BACKWARD, gradients=swapped))
    assert "each is what is due for y" in said
    assert "each is what is due for x" in said


def test_snippet_of_a_real_size_fits_a_screen() -> None:
    """At 256 x 512 x 128 the inputs are written in a line each, of values that still miss."""
    case = real_cases(OPS["linear"], FORMATS["float32"])[0]

    def without_last(g: Any) -> Any:
        return g * (g.new_ones(g.shape[-1]).cumsum(0) < g.shape[-1])

    said = said_of(case, planted(without_last))
    assert "Too large" not in said
    assert len(said.splitlines()) <= SCREEN
    assert ", the last of 512; each is 0" in said


def test_command_names_the_catalogue() -> None:
    """Where a case is too large to print, and its op is a user's own, the command names the file."""
    for file, named in (
        ("my_ops.py", "pytest tests --catalogue my_ops.py --op linear "),
        ("", "pytest tests --op linear "),
    ):
        case = real_cases(replace(OPS["linear"], file=file), FORMATS["float32"])[0]
        assert named in question(case, BACKWARD, "cpu").again


class Constant(torch.autograd.Function):
    """exp, whose backward takes what it saved for constant."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Keep the exponential out of the graph."""
        ctx.saved = x.exp()
        return ctx.saved.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> torch.Tensor:
        """Multiply with what was kept."""
        return cotangents[0] * ctx.saved


def test_lost_second_order_is_told_how_to_say_so() -> None:
    """A backward that is not to be differentiated is one of its own file, and says so in one of two ways."""
    op = Op(name="constant", torch=Constant.apply, formula=sympy.exp(x), file="my_ops.py")
    mode = MODES["rr"]
    (case, *_) = fixed_cases(op, FORMATS["float32"], 2)
    said = str(DisagreementError(judged(case, mode, "cpu").misses, mode, "cpu"))
    assert "`@torch.autograd.function.once_differentiable`, or write orders=1 in the entry" in said


def failing(*_: Any) -> Any:
    """Raise as a compiler of torch does: what is wrong stands in the second line."""
    message = "backend='own' raised:\nKeyError: 'tile'\n\nSet a flag for more"
    raise RuntimeError(message)


def test_exception_of_two_lines_is_told() -> None:
    """Where the first line ends in a colon the next one is shown too."""
    op = Op(name="failing", torch=failing, formula=sympy.exp(x))
    case = Case(single(op), FORMATS["float32"], (np.array([1.0]),), np.array([1.0]))
    (miss,) = judged(case, BACKWARD, "cpu").misses
    assert miss.got == "RuntimeError: backend='own' raised: KeyError: 'tile'"


def test_line_says_as_much_as_fits() -> None:
    """What is said where the op was explained before: the verdict, how far, where, and what came."""
    error = DisagreementError(first(entry("tail", faulty=True)), BACKWARD, "cpu")
    error.is_brief = True
    assert re.fullmatch(r"lost, \S+ times the allowance: dx at \[0, 1024\] is 0x0.0p\+0, should be 0x\S+", str(error))
    overwriting = DisagreementError(first(entry("spent", faulty=True)), BACKWARD, "cpu")
    assert overwriting.line.startswith("malformed: cotangent was overwritten: ")


SUMS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "tail": (lambda rows: [*range(32, rows)], "if only those from 32 on count along axis 0 of the output"),
    "head": (lambda rows: [*range(16)], "if only those before 16 count along axis 0 of the output"),  # noqa: ARG005 - which ones does not depend on it
    "first": (
        lambda rows: [0] * rows,
        f"if the first along axis 0 of the output counts {ROWS} times, and no other does",
    ),
}
"""The rows that a gradient by a weight is summed over by mistake, and what is said of it."""


@pytest.mark.parametrize("fault", SUMS)
def test_sum_over_some_rows_is_told(fault: str) -> None:
    """Where a sum over rows begins late, ends early or counts one for all, it is said which rows count."""
    rows, words = SUMS[fault]
    rng = np.random.default_rng(0)
    x, weight, cotangent = (
        rng.standard_normal(shape).astype(np.float32).astype(np.float64) for shape in ((ROWS, 3), (3,), (ROWS, 3))
    )

    def gradients(case: Case, device: str) -> list[Any]:
        taken = replace(case, primals=(case.primals[0][rows(ROWS)], weight), cotangent=case.cotangent[rows(ROWS)])
        return [BACKWARD.gradients(case, device)[0], BACKWARD.gradients(taken, device)[1]]

    case = Case(single(OPS["rms_norm"], ((3,), (3,))), FORMATS["float32"], (x, weight), cotangent)
    said = said_of(case, replace(BACKWARD, gradients=gradients))
    assert f"dweight: 3 of 3 entries are wrong: all of them; each is what is due {words}\n" in said, said


def test_wrong_rows_have_a_label() -> None:
    """Where the rows that are wrong are those of one label, it is said which."""
    labels = np.array([2, -100, 0, -100])
    wrong = np.broadcast_to((labels == -100)[:, None], (4, 3))
    assert labelled(wrong, {"labels": labels}) == "those where labels is -100"
    assert labelled(wrong, {"mask": labels >= 0}) == "those where mask is False"
    assert not labelled(wrong, {"labels": labels[:3], "weights": labels / 2})
    wrong = wrong.copy()
    wrong[1, 0] = False
    assert not labelled(wrong, {"labels": labels})


COLUMNS = np.arange(16)
GRID = np.zeros((4, 16), dtype=bool)
VALUES = np.random.default_rng(0).permutation(np.linspace(-3.0, 4.5, 64)).reshape(4, 16)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (~GRID, "all of them"),
        (GRID | (COLUMNS >= 13), "columns 13 on, the last 3"),
        (GRID | (COLUMNS < 2), "the first 2 columns"),
        (GRID | (COLUMNS == 15), "column 15, the last of 16"),
        (GRID | (COLUMNS == 3), "column 3, of 16"),
        (GRID | (COLUMNS != 3), "all columns but 3"),
        (GRID | (COLUMNS % 8 == 7), "columns 7, 15"),
        (GRID | (COLUMNS % 4 == 3), "every 4th column from 3 on"),
        (GRID | (COLUMNS % 2 == 0), "every second column from 0 on"),
        (GRID | (COLUMNS // 4 % 2 == 1), "blocks 1, 3 of 4 columns"),
        (np.arange(4)[:, None] + 0 * COLUMNS >= 2, "rows 2 on, the last 2"),
        ((np.arange(4)[:, None] >= 2) & (COLUMNS < 2), "the first 2 columns of rows 2 on, the last 2"),
        (np.arange(4)[:, None] < COLUMNS, "those above the diagonal"),
        (np.arange(4)[:, None] == COLUMNS, "those on the diagonal"),
        (VALUES < 0, "those where x < 0"),
        (np.abs(VALUES) > 3.5, "those where |x| is 3.54762 or more (right up to 3.42857)"),
        (
            np.eye(4, 16, dtype=bool) | np.eye(4, 16, 9, dtype=bool),
            "8 of the 32 in columns 0, 1, 2, 3, 9, 10, ... (8 of them)",
        ),
    ],
)
def test_pattern_is_the_simplest_that_is_true(wrong: Any, words: str) -> None:
    """Whole axes are left out, ranges and steps are named, and what fits no pattern is counted."""
    assert described(wrong, {"x": VALUES}) == words


def test_pattern_knows_zeros_and_ties() -> None:
    """Entries are told by zeros, by ties of two inputs, and by ties of a row's largest value."""
    x = np.array([[1.0, 2.0, 2.0, 0.0], [3.0, 0.0, 1.0, 1.0]])
    y = np.array([[0.0, 2.0, 1.0, 5.0], [3.0, 7.0, 8.0, 9.0]])
    assert described(x == 0, {"x": x}) == "those where x is 0"
    assert described(x == y, {"x": x, "y": y}) == "those where x equals y"
    tied = np.array([[False, True, True, False], [False] * 4])
    assert described(tied, {"x": x}) == "those where x has its row's largest value more than once"


def test_simplest_fraction() -> None:
    """The factor that is said has the least denominator of those that all entries admit."""
    assert simplest(1.0199, 1.0201) == Fraction(51, 50)
    assert simplest(-0.51, -0.49) == Fraction(-1, 2)
    assert simplest(0.3, 0.34) == Fraction(1, 3)
    assert simplest(-1.0, 2.0) == 0
    assert simplest(4095.5, 4096.5) == 4096
