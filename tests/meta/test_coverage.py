"""What the catalogue covers of torch's own table of ops is what the page of torch says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings

from reference.case import Case
from reference.catalogue import OPS
from reference.format import FORMATS
from reference.tree import single
from tests.runs.coverage import REASONS, coverage
from tests.subject import binding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reference.op import Op

PAGE = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", (Path(__file__).parents[2] / "docs/torch.md").read_text())
"""The page of torch, its links as plain text."""


@pytest.fixture(scope="module")
def covered() -> Mapping[str, tuple[str, ...]]:
    """Return which entries cover each op of torch's table."""
    # Torch's modules of tests load a profile of Hypothesis when they are imported.
    profile = settings.get_current_profile_name()
    found = coverage()
    settings.load_profile(profile)
    return found


def test_what_is_not_covered_has_a_reason(covered: Mapping[str, tuple[str, ...]]) -> None:
    """An op of torch's table is covered, or is listed with the reason why not, not both."""
    assert {name for name, entries in covered.items() if not entries} == set(REASONS)


def test_page_tells_the_numbers(covered: Mapping[str, tuple[str, ...]]) -> None:
    """The page of torch counts the ops that are covered, those that are not, and the entries."""
    count = sum(map(bool, covered.values()))
    assert f"{count} of {len(covered)} differentiable elementwise ops" in PAGE
    assert f"{len(OPS)} entries" in PAGE


@pytest.mark.parametrize(
    ("op", "alias"),
    [(op, alias) for op in OPS.values() for alias in op.aliases],
    ids=lambda each: getattr(each, "name", each),
)
def test_aliases_are_the_same_function(op: Op, alias: str) -> None:
    """Every other name of an op gives the same value."""
    primals = tuple(
        np.full(3, float(max(op.interval(name).lower, 0)) + 0.375 + n / 4) for n, name in enumerate(op.inputs)
    )
    inputs = binding.leaves(Case(single(op), FORMATS["float32"], primals, np.ones(3)), "cpu")
    first, other = (binding.resolve(path)(*op.leading, *inputs, **op.kwargs) for path in (op.torch, alias))
    assert torch.equal(first, other)
