"""The time of backwards in two builds, interleaved in the same minute: A B B A, in fresh pairs of processes.

A machine is never quiet, and what disturbs it only ever makes a call longer: of each side of a pair the shortest call
of many short windows counts. Processes differ from each other, so pairs are started anew, and what is judged is the
ratio of each pair. Whatever looks changed in a few pairs is measured again in more, and only these decide.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.runs.speed.worker import Side

WINDOW, TURNS = 0.008, 4
"""The seconds that a side is called at a time, and how many times A B B A is gone through."""

FIRST, AGAIN = 3, 8
"""How many pairs of processes look at everything, and how many at what looked changed."""

SUSPECT = 1.025
"""A ratio this far from 1 is measured again."""

SLOWER = 1.05
"""A ratio above this, whose interval lies above 1, closes the gate."""

CONFIDENCE = 0.99
"""That of the intervals of ratios."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)}
"""One thread; and memory that was freed is kept, since what the kernel takes to hand it out anew is not torch's."""


@dataclass(frozen=True)
class Ratio:
    """How many times as long the second side takes: the median of pairs, and its interval."""

    middle: float
    low: float
    high: float
    pairs: int

    @property
    def is_confirmed(self) -> bool:
        """Whether it comes from fresh pairs, after it had looked changed."""
        return self.pairs > FIRST

    @property
    def is_slower(self) -> bool:
        """Whether the second side is slower by more than chance."""
        return self.is_confirmed and self.middle > SLOWER and self.low > 1

    @property
    def is_faster(self) -> bool:
        """Whether it is faster by more than chance."""
        return self.is_confirmed and self.middle < 1 / SLOWER and self.high < 1

    @property
    def is_undecided(self) -> bool:
        """Whether it looks changed, but could be chance."""
        return max(self.middle, 1 / self.middle) > SLOWER and self.low <= 1 <= self.high

    def __str__(self) -> str:
        """Write the ratio with its interval."""
        return f"{self.middle:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Worker:
    """A process that times the works it was started with, when asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Take over a process that was just started."""
        self._process = process
        self.has_floor: list[bool] = []
        """Of which works there is a floor."""

    def wait(self, turn: int) -> None:
        """Wait until it is ready, and bind it to the core of its turn where the system lets one.

        Both workers of a pair have the same core, since other programs do not disturb all cores alike.
        """
        self.has_floor = self._said()
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self._process.pid, {cores[turn % len(cores)]})

    def _said(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            message = f"{self._process.args!r} ended with {self._process.wait()}"
            raise RuntimeError(message)
        return json.loads(line)

    def seconds(self, number: int, *, floor: bool = False) -> float:
        """Ask for the shortest call of a work, or of its floor, in a window; returns seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([number, floor, WINDOW]) + "\n")
        self._process.stdin.flush()
        return float(self._said())


@contextmanager
def worker(side: Side, names: Sequence[str]) -> Iterator[Worker]:
    """Start a worker of a side."""
    with subprocess.Popen(
        side.command("time", names),
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def interleaved(first: Callable[[], float], second: Callable[[], float]) -> float:
    """Return the logarithm of the ratio of the shortest calls of two sides, asked in turns."""
    # A B B A, so that a machine that slows down slows both sides down.
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(first())
        theirs += [second(), second()]
        ours.append(first())
    return float(np.log(min(theirs) / min(ours)))


def between(before: Side, after: Side, names: Sequence[str], pairs: int) -> Iterator[list[float]]:
    """Yield the logarithms of the ratios of works, in one pair of processes after the other."""
    for turn in range(pairs):
        with ExitStack() as stack:
            a, b = stack.enter_context(worker(before, names)), stack.enter_context(worker(after, names))
            a.wait(turn)
            b.wait(turn)
            yield [interleaved(partial(a.seconds, n), partial(b.seconds, n)) for n in range(len(names))]


def above_floor(side: Side, names: Sequence[str], processes: int) -> Iterator[list[float | None]]:
    """Yield the logarithms of how many times their floor works take, one process after the other.

    A work without a floor has None.
    """
    for turn in range(processes):
        with worker(side, names) as one:
            one.wait(turn)
            yield [
                interleaved(partial(one.seconds, n, floor=True), partial(one.seconds, n)) if one.has_floor[n] else None
                for n in range(len(names))
            ]


def judged(logarithms: Sequence[float]) -> Ratio:
    """Return the median of ratios, and the interval that scipy's bootstrap gives it."""
    sample = np.asarray(logarithms)
    interval = stats.bootstrap(
        (sample,), np.median, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    middle, low, high = (float(np.exp(value)) for value in (np.median(sample), interval.low, interval.high))
    return Ratio(middle, low, high, len(logarithms))


def compared(
    before: Side, after: Side, names: Sequence[str], progress: Callable[[str], None] = lambda _: None
) -> dict[str, Ratio]:
    """Compare two builds of torch.

    Every work is measured in a few pairs of processes, what looks changed in more, and what stays undecided in as many
    again.
    """

    def measured(some: Sequence[str], pairs: int) -> dict[str, list[float]]:
        rows = []
        for number, row in enumerate(between(before, after, some, pairs), 1):
            progress(f"time of {len(some)} works, pair {number} of {pairs}")
            rows.append(row)
        return dict(zip(some, map(list, zip(*rows, strict=True)), strict=True))

    found = {name: judged(logarithms) for name, logarithms in measured(names, FIRST).items()}
    suspects = [name for name, ratio in found.items() if max(ratio.middle, 1 / ratio.middle) > SUSPECT]
    fresh = measured(suspects, AGAIN) if suspects else {}
    undecided = [name for name, logarithms in fresh.items() if judged(logarithms).is_undecided]
    for name, logarithms in (measured(undecided, AGAIN) if undecided else {}).items():
        fresh[name] += logarithms
    return found | {name: judged(logarithms) for name, logarithms in fresh.items()}
