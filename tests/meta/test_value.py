"""Drawn trees have only ops whose values are right: others would be blamed for those that are not."""

from typing import Any

import torch

from reference.catalogue import OPS
from reference.format import FORMATS
from reference.op import Op, x
from strategies import reached_cases
from tests.subject.mode import MODES
from tests.verdict.assay import Assay


class Blunt(torch.autograd.Function):
    """The square: its value is off by a thousandth below 1, its gradient right."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: torch.Tensor) -> torch.Tensor:
        """Return a value that is off."""
        ctx.save_for_backward(values)
        return values.square() * torch.where(values < 1, 1.001, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the square."""
        (values,) = ctx.saved_tensors
        return 2 * values * gradient


def test_trees_leave_out_an_op_whose_values_are_off_and_say_so() -> None:
    """The op whose values are off is left out and named, and no other is."""
    blunt = Op(name="blunt", torch="tests.meta.test_value.Blunt.apply", formula=x**2)
    assay = Assay("tree", MODES["backward"], FORMATS["float32"], "cpu", ())
    sound = (OPS["sin"], OPS["square"], OPS["softmax"])
    assert assay.sound((blunt, *sound), reached_cases) == sound
    assert assay.left_out == ["blunt"]


def test_trees_leave_out_an_op_without_a_kernel() -> None:
    """What torch cannot compute in a format is no part of a tree."""
    assay = Assay("tree", MODES["backward"], FORMATS["float16"], "cpu", ())
    assert assay.sound((OPS["erfcx"], OPS["sin"]), reached_cases) == (OPS["sin"],)
    assert assay.left_out == ["erfcx"]


def test_cases_that_stand_for_trees() -> None:
    """The cases by which an op is judged for trees lie inside its domain; an op that trees do not have has none."""
    assert reached_cases(OPS["floor"], FORMATS["float32"]) == ()
    (case,) = reached_cases(OPS["acosh"], FORMATS["float16"])
    assert case.point_count > 20
    assert (case.primals[0] > 1).all()
    assert (case.primals[0] <= 64).all()
