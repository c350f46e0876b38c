"""Known deviations: what the assayed torch gets wrong, where, and since when that is known."""

from __future__ import annotations

import itertools
import math
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import simpleeval
import torch
from packaging.specifiers import SpecifierSet

from tests.subject.comparison import VERDICTS

if TYPE_CHECKING:
    from tests.subject.comparison import Miss

FILE = Path(__file__).parents[1] / "deviations.toml"


@dataclass(frozen=True)
class Deviation:
    """One wrong gradient of torch, on one dtype, in a region of inputs."""

    op: str
    dtype: str
    verdicts: tuple[str, ...]
    region: str
    """A predicate in the names of the inputs, such as ``abs(x) > 256``."""

    pinned: dict[str, float]
    """An input that must still show it."""

    cotangent: float
    """The cotangent that shows it there: some overflows need one below 1."""

    torch: str
    """The versions of torch concerned, as a version specifier."""

    reason: str
    link: str
    """An upstream report, or why there is none yet, with the date it was found."""

    def covers(self, miss: Miss, op: str) -> bool:
        """Say whether a miss of an op is this deviation."""
        same = (op, miss.case.form.name) == (self.op, self.dtype) and miss.verdict in self.verdicts
        return same and any(self.holds(dict(zip(OPS_INPUTS, point, strict=False))) for point in _points(miss))

    def holds(self, point: dict[str, float]) -> bool:
        """Say whether a point lies in the region."""
        return bool(simpleeval.simple_eval(self.region, names=point, functions={"abs": abs, "log": math.log}))


OPS_INPUTS = ("x", "y", "z")
"""The names that regions use: those of elementwise inputs."""


def _points(miss: Miss) -> itertools.product[tuple[float, ...]]:
    """Return every point that may have contributed: a gradient that was broadcast sums over many."""
    return itertools.product(*(primal.ravel().tolist() for primal in miss.case.primals))


def read(path: Path) -> list[Deviation]:
    """Read the deviations of the installed torch; raises ValueError for an invalid entry."""
    table = tomllib.loads(path.read_text())
    entries = [_entry(entry, dtype, where) for entry in table["deviation"] for dtype, where in entry["dtypes"].items()]
    return [d for d in entries if SpecifierSet(d.torch).contains(torch.__version__.split("+")[0])]


def _entry(entry: dict[str, Any], dtype: str, where: dict[str, Any]) -> Deviation:
    verdicts = tuple(entry["verdicts"])
    if not set(verdicts) <= set(VERDICTS[1:]):
        message = f"deviation of {entry['op']}: verdicts={verdicts}; accepted: {', '.join(VERDICTS[1:])}"
        raise ValueError(message)
    pinned = {name: float.fromhex(v) for name, v in where["pinned"].items()}
    return Deviation(entry["op"], dtype, verdicts, where["region"], pinned, where.get("cotangent", 1.0), entry["torch"], entry["reason"], entry["link"])


@lru_cache(maxsize=1)
def known() -> tuple[Deviation, ...]:
    """Return the deviations of the installed torch."""
    return tuple(read(FILE))


def unexplained(misses: list[Miss], op: str) -> list[Miss]:
    """Return the misses that no known deviation covers."""
    return [miss for miss in misses if not any(d.covers(miss, op) for d in known())]
