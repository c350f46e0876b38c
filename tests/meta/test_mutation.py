"""Mutants of tensor ops are what they say, and are caught where the allowance has room for none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from reference.case import PROMISES
from reference.catalogue import OPS
from reference.format import FORMATS
from strategies.cases import fixed_cases, long_case
from tests.mutation import plants
from tests.mutation.plants import ROWS, along, sound, with_last_twice, without_last
from tests.mutation.tensor import fates, gradchecked, missed, passes, table

if TYPE_CHECKING:
    from collections.abc import Iterator

LINEAR, FORM = OPS["linear"], FORMATS["float32"]


@pytest.fixture(autouse=True)
def _on_one_thread() -> Iterator[None]:
    """Have torch use one thread, since others only cost time where tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_last_term_is_dropped_or_counted_twice() -> None:
    """The gradient of a weight lacks the last row's part, or has it twice; that of the input is as it was."""
    case = long_case(LINEAR, FORM, 9)
    x, weight, bias = sound(case)
    part = np.outer(case.cotangent[-1], case.primals[0][-1])
    for chosen, sign in ((without_last, -1), (with_last_twice, 1)):
        mutated = along(ROWS, chosen, case, sound(case))
        assert mutated is not None
        assert torch.equal(mutated[0], x)
        assert torch.allclose(mutated[1], weight + sign * torch.tensor(part, dtype=torch.float32), atol=1e-5)
        assert torch.allclose(
            mutated[2], bias + sign * torch.tensor(case.cotangent[-1], dtype=torch.float32), atol=1e-5
        )


def test_targets_are_those_of_the_rows_that_are_left() -> None:
    """An op with a target keeps the others' targets where a row is left out, and has classes that there are."""
    (case, *_) = fixed_cases(OPS["cross_entropy_sum"], FORM, whole=True)
    mutated = along("m", without_last, case, sound(case))
    assert mutated is not None
    assert torch.allclose(mutated[0], sound(case)[0])
    assert along("n", without_last, case, sound(case)) is not None


@pytest.mark.parametrize("name", ["rms_norm", "softmax", "dot"])
def test_sound_gradients_agree_and_mutants_do_not(name: str) -> None:
    """In bfloat16, where an op promises more than the format, only a factor next to 1 gets away."""
    found = list(fates(OPS[name], "bfloat16"))
    assert {each.plant.kind for each in found if not each.is_caught} <= {"times 1 + 2^-7"}
    assert all(each.share < 1 for each in found)
    case = long_case(OPS[name], FORMATS["bfloat16"], 33)
    assert passes(case, sound(case))
    assert table(found, [], "bfloat16").row_count == len({each.plant.kind for each in found}) + 1 + len(PROMISES)
    assert missed(found).row_count == any(not each.is_caught for each in found)


def test_gradcheck_is_asked_about_the_same_kinds() -> None:
    """At small shapes gradcheck catches each kind that is no small factor; rounding in the format has none there."""
    caught = {each.kind for each in gradchecked(OPS["dot"]) if each.is_caught}
    kinds = {plant.kind for plant in plants.plants(OPS["dot"], "float64")}
    assert caught == kinds - {plants.DROPPED, plants.DOUBLED, plants.AXIS, "times 1 + 2^-12", "times 1 + 2^-16"}
