"""Kinds of balls on arrays as parameters of tests: those of long doubles where these have more bits than float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reference.balls import HAS_LONG

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from _pytest.mark.structures import ParameterSet

    from reference.balls import Balls

NEEDS_LONG = pytest.mark.skipif(not HAS_LONG, reason="long doubles have no more bits here")


def kinds_of(*kinds: type[Balls]) -> list[ParameterSet]:
    """Return kinds of balls as parameters."""
    return [pytest.param(kind, id=kind.__name__, marks=_marks(kind)) for kind in kinds]


def functions_of(names: Iterable[str], *kinds: type[Balls]) -> list[ParameterSet]:
    """Return the names of functions, each with the kinds of balls that have it, as parameters."""
    return [
        pytest.param(name, kind, id=f"{name}-{kind.__name__}", marks=_marks(kind))
        for name in names
        for kind in kinds
        if name not in kind.lacks
    ]


def _marks(kind: type[Balls]) -> Sequence[pytest.MarkDecorator]:
    return [NEEDS_LONG] if kind.kind is np.longdouble else []
