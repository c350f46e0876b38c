"""Not drawn but listed (profile exhaustive): every value of the 16-bit formats, hard pairs, and every binade."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.case import Case
from reference.tree import single
from strategies.cases import LENGTHS, fixed_cases, free, long_case, real_cases, where_met
from strategies.points import everything, hard, stratified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.format import Floats, Format
    from reference.op import Op
    from tests.verdict.assay import Assay

CHUNK = 100_000
"""Points that are judged at once, which bounds the memory. The number is arbitrary."""

HARD = {2: 300, 3: 45}
"""Hard values of each input, for ops of so many inputs: some 90,000 combinations of either, all of which are asked."""


@pytest.mark.enumerated(arguments=(1,), bits=(16,))
def test_gradient_at_every_value(op: Op, form: Format, assay: Assay) -> None:
    """The gradient could have come from correctly rounded steps at every value of the domain."""
    for case in cases(op, form, (everything(form, op.interval(op.inputs[0])),)):
        assay.assert_agrees(case)


@pytest.mark.enumerated(arguments=(1,), bits=(32, 64))
def test_gradient_in_every_binade(op: Op, form: Format, assay: Assay) -> None:
    """The gradient could have come from correctly rounded steps at 100,000 values, as many in each binade."""
    for case in cases(op, form, (stratified(form, op.interval(op.inputs[0]), op),)):
        assay.assert_agrees(case)


@pytest.mark.enumerated(arguments=(2, 3), bits=(16, 32, 64))
def test_gradient_at_hard_combinations(op: Op, form: Format, assay: Assay) -> None:
    """The gradient could have come from correctly rounded steps at every combination of hard values."""
    sides = [hard(form, op.interval(name), op, HARD[len(op.inputs)]) for name in op.inputs]
    columns = tuple(column.ravel() for column in np.meshgrid(*sides, indexing="ij"))
    for case in cases(op, form, columns):
        assay.assert_agrees(case)


@pytest.mark.enumerated(arguments=(0,), bits=(16, 32, 64))
def test_gradient_of_a_tensor_op(op: Op, form: Format, assay: Assay) -> None:
    """The gradient could have come from correctly rounded steps at small sizes, around blocks, and in real use."""
    lengths = [long_case(op, form, length) for length in LENGTHS if length >= max(2, op.shortest) and free(op)]
    for case in (*fixed_cases(op, form, whole=True), *lengths, *real_cases(op, form)):
        assay.assert_agrees(case)


def cases(op: Op, form: Format, columns: tuple[Floats, ...]) -> Iterator[Case]:
    """Yield the points that an op takes, given by a column for each input, in cases with a cotangent of 1."""
    whole = Case(single(op), form, columns, np.ones_like(columns[0]))
    columns = whole.only(np.broadcast_to(where_met(whole), whole.batch)).primals
    for start in itertools.count(0, CHUNK):
        primals = tuple(column[start : start + CHUNK] for column in columns)
        if not primals[0].size:
            return
        yield Case(single(op), form, primals, np.ones_like(primals[0]))
