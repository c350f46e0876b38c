"""What a benchmark found, as tables: ``python -m tests.runs.speed.table BENCH.json``."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FROM = {"size": 10_000, "depth": 10}
"""The size and depth from which on times are fitted: below, the constant part of a call is most of it."""

FASTER_GROWTH, ERRORS = 0.1, 3
"""A backward whose exponent is this much above its forward's, and by so many standard errors, is a finding."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a benchmark, with what stands beside it; times are those of the shortest round, in seconds."""

    seconds: float
    name: str = ""
    """The name of the test."""

    work: str = ""
    family: str = ""
    kind: str = ""
    """One of the kinds of run: ``backward``, ``both``, ``double`` or ``forward``."""

    size: int = 0
    """The elements of an input."""

    dtype: str = ""
    device: str = ""
    grows: str | None = None
    """Where the figure is one of a series: ``size`` or ``depth``."""

    depth: int | None = None
    of: str | None = None
    """The name of a series of graphs."""

    floor: float | None = None
    """The time of the analytic floor."""

    bytes: int | None = None
    """What must be read and written."""

    memory: float | None = None
    """The time of a copy that moves as many bytes."""

    by_hand: float | None = None
    """The time by a loop that was written by hand."""

    entries_per_second: int | None = None
    times_gradcheck: float | None = None
    times_torch: float | None = None

    @property
    def series(self) -> str:
        """The name of the series that the figure belongs to."""
        return self.of or self.work

    @property
    def grown(self) -> int:
        """The depth, or else the size."""
        return self.depth or self.size

    @property
    def times_floor(self) -> float | None:
        """How many times as long as the analytic floor it takes."""
        return self.seconds / self.floor if self.floor else None

    @property
    def times_memory(self) -> float | None:
        """How many times as long as a copy that moves as many bytes it takes."""
        return self.seconds / self.memory if self.memory else None


@dataclass(frozen=True)
class Growth:
    """How time grows: as a power of size or depth."""

    of: str
    """What is timed: a work, or a series of graphs."""

    kind: str
    variable: str
    """What grows: ``size`` or ``depth``."""

    exponent: float
    error: float
    """The standard error of the exponent."""


def read(path: Path) -> list[Figure]:
    """Read what pytest-benchmark wrote; raises OSError."""
    return parsed(path.read_text())


def parsed(text: str) -> list[Figure]:
    """Return the figures of what pytest-benchmark wrote."""
    return [
        Figure(name=row["name"], seconds=row["stats"]["min"], **row["extra_info"])
        for row in json.loads(text)["benchmarks"]
    ]


def growths(figures: Iterable[Figure]) -> list[Growth]:
    """Fit time against size and depth on logarithmic scales, for each series of three figures or more."""
    series: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for figure in figures:
        if figure.grows and figure.grown >= FROM[figure.grows]:
            series.setdefault((figure.series, figure.kind, figure.grows), []).append(
                (math.log(figure.grown), math.log(figure.seconds))
            )
    return [Growth(*key, *_fitted(points)) for key, points in series.items() if len(points) > 2]


def _fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    fit = stats.linregress(*zip(*points, strict=True))
    return float(fit.slope), float(fit.stderr)


def growing_faster(found: Sequence[Growth]) -> list[tuple[Growth, Growth]]:
    """Return the backwards that grow faster than their forwards, each with its forward."""
    forwards = {(growth.of, growth.variable): growth for growth in found if growth.kind == "forward"}
    pairs = [
        (growth, forwards[growth.of, growth.variable])
        for growth in found
        if growth.kind == "backward" and (growth.of, growth.variable) in forwards
    ]
    return [(b, f) for b, f in pairs if b.exponent - f.exponent > FASTER_GROWTH + ERRORS * math.hypot(b.error, f.error)]


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    unit, scale = next((u, s) for u, s in (("s", 1), ("ms", 1e-3), ("µs", 1e-6), ("ns", 0)) if seconds >= s)
    return f"{seconds / (scale or 1e-9):.3g} {unit}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2g} ×"


def backwards(figures: Sequence[Figure]) -> Table:
    """Tell of each backward how long it takes, what stands beside it, and its share in a step of training."""
    table = Table(
        "backward of",
        "elements",
        "dtype",
        "device",
        "time",
        "× floor",
        "× bytes",
        "× forward",
        "forward and backward",
        "double",
        title="backwards, the shortest round each",
        box=box.SIMPLE,
        title_justify="left",
    )
    others = {(f.work, f.size, f.dtype, f.device, f.kind): f.seconds for f in figures}
    for f in figures:
        if f.kind == "backward" and not f.grows and not f.by_hand:
            key = (f.work, f.size, f.dtype, f.device)
            forward, both, double = (others.get((*key, kind)) for kind in ("forward", "both", "double"))
            ratio = None if forward is None else f.seconds / forward
            table.add_row(
                f.work,
                f"{f.size:,}",
                f.dtype,
                f.device,
                duration(f.seconds),
                _times(f.times_floor),
                _times(f.times_memory),
                _times(ratio),
                *("" if s is None else duration(s) for s in (both, double)),
            )
    return table


def of_growths(found: Sequence[Growth]) -> Table:
    """Tell how time grows, with the standard error of each exponent."""
    kinds = ("forward", "backward", "double")
    table = Table(
        "", "against", *kinds, title="exponents: time grows as this power", box=box.SIMPLE, title_justify="left"
    )
    rows: dict[tuple[str, str], dict[str, Growth]] = {}
    for growth in found:
        rows.setdefault((growth.of, growth.variable), {})[growth.kind] = growth
    for (of, variable), cells in rows.items():
        table.add_row(
            of,
            variable,
            *(f"{cells[kind].exponent:.2f} ± {cells[kind].error:.2f}" if kind in cells else "" for kind in kinds),
        )
    return table


def of_oracle(figures: Sequence[Figure]) -> Table:
    """Tell how the oracle compares with gradcheck, and with torch itself."""
    table = Table(
        "the oracle",
        "entries a second",
        "× gradcheck",
        "torch's time ×",
        title="the oracle, beside gradcheck in its full mode, and whole arrays beside torch's own float64",
        box=box.SIMPLE,
        title_justify="left",
    )
    for f in figures:
        if f.times_gradcheck is not None or f.times_torch is not None:
            ratios = ("" if ratio is None else str(ratio) for ratio in (f.times_gradcheck, f.times_torch))
            table.add_row(f.name, f"{f.entries_per_second:,}", *ratios)
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Print what a benchmark found.")
    parser.add_argument("bench", type=Path, help="the file that pytest --benchmark-json wrote")
    options = parser.parse_args()
    try:
        figures = read(options.bench)
    except (OSError, ValueError) as error:
        parser.error(f"{options.bench}: {error}")
    console = Console(width=150, markup=False)
    found = growths(figures)
    for table in (backwards(figures), of_growths(found), of_oracle(figures)):
        if table.row_count:
            console.print(table)
    for f in figures:
        if f.by_hand:
            console.print(
                f"the benchmark's own overhead: {f.seconds / f.by_hand - 1:+.1%} of {duration(f.by_hand)}, "
                "the figure of a loop by hand"
            )
    for backward, forward in growing_faster(found):
        console.print(
            f"finding: the backward of {backward.of} grows as {backward.variable}^{backward.exponent:.2f}, "
            f"its forward as {backward.variable}^{forward.exponent:.2f}"
        )


if __name__ == "__main__":
    main()
