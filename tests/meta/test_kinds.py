"""Each kind of fault that people reported is seen in kernels of several ops, and their sound twins pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from reference.format import FORMATS
from strategies import fixed_cases, manner_cases
from tests.meta.kernels import KERNELS
from tests.meta.kinds.checks import checks, misses, seen_by
from tests.meta.kinds.page import page
from tests.meta.kinds.table import KINDS, PLANTED, planted
from tests.verdict.comparison import UnsupportedError

PAGE = (Path(__file__).parents[2] / "docs/kinds.md").read_text(encoding="utf-8")
FIELDS = 8
"""The most fields that an entry has, its name and its callable among them."""

EAGER = [(kind, name) for kind, name in PLANTED if KINDS[kind].mode == "backward"]
COMPILED = [each for each in PLANTED if each not in EAGER]


def test_each_kind_is_planted_in_several_ops() -> None:
    """A kind has at least three kernels, no two of one formula, and each kernel has one kind."""
    for kind in KINDS.values():
        assert len({id(fields["formula"]) for _, _, fields in kind.kernels.values()}) >= 3
    names = [name for _, name in PLANTED]
    assert len(set(names)) == len(names)
    assert set(KERNELS) <= set(names)


@pytest.mark.parametrize(("kind", "name"), PLANTED)
def test_entry_is_short(kind: str, name: str) -> None:
    """What has to be said of a kernel, for all that is asked of it, are a few fields."""
    _, _, fields = KINDS[kind].kernels[name]
    assert len({"name", "torch", *fields}) <= FIELDS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "name"), EAGER)
def test_sound_kernel_passes(kind: str, name: str, dtype: str) -> None:
    """A sound kernel agrees in whatever manner it is asked, or says that it does not take the format."""
    op = planted(kind, name, faulty=False)
    if not op.takes(FORMATS[dtype]):
        with pytest.raises(UnsupportedError):
            misses(fixed_cases(op, FORMATS[dtype])[0], "backward")
        return
    assert not list(seen_by(kind, name, faulty=False, dtype=dtype))


@pytest.mark.parametrize(("kind", "name"), COMPILED)
def test_sound_function_passes_compiled(kind: str, name: str) -> None:
    """What a compiler makes of a sound function agrees."""
    assert not list(seen_by(kind, name, faulty=False))


def test_faulty_kernel_is_rejected_by_the_check_that_the_page_says() -> None:
    """Each kernel with its fault is rejected, first by the check that the page names, which a command wrote."""
    assert page() == PAGE
    assert "nothing" not in PAGE


def test_checks_are_what_the_quick_profile_asks() -> None:
    """No fixed case of an op is left out of the checks, and none is added."""
    op, form = planted("rank", "rank", faulty=False), FORMATS["float32"]
    asked = [case for cases in checks(op, form).values() for case in cases]
    assert {id(case) for case in asked} == {id(case) for case in (*fixed_cases(op, form), *manner_cases(op, form))}
