"""One side of a comparison: ``python -m tests.runs.speed.worker time|count NAME ...``.

Its arguments name the works, as `gated` and `counted` do. ``time`` answers one line of JSON for each line that asks
for the time of a work; ``count`` is run under valgrind, and leaves a file for each work.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from tests.runs.speed.floor import floor
from tests.runs.speed.formula import NoFloorError
from tests.runs.speed.work import Graph, counted, gated
from tests.subject.device import parsed_with_plugins, synchronized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.runs.speed.work import Work

CALLS = 100
"""How often a backward runs while its instructions are counted."""


def stretched(run: Callable[[], Any], share: float) -> Callable[[], Any]:
    """Return a call that takes longer by a share of its own time: the slowdown that is planted."""

    def slow() -> Any:
        start = perf_counter()
        result = run()
        end = perf_counter()
        until = end + share * (end - start)
        while perf_counter() < until:
            pass
        return result

    return slow


def timed(run: Callable[[], Any], seconds: float) -> float:
    """Return the shortest time, in seconds, that a call took while it was called for so many seconds."""
    best, until = float("inf"), perf_counter() + seconds
    while True:
        start = perf_counter()
        run()
        end = perf_counter()
        best = min(best, end - start)
        if end > until:
            return best


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a build of torch and a device."""

    python: str
    """The interpreter of its environment."""

    device: str = "cpu"
    plant: float = 0.0
    """The share of its time by which each backward is slowed down."""

    plugins: tuple[str, ...] = ()
    """Packages that register the device."""

    def command(self, measure: str, names: Sequence[str]) -> list[str]:
        """Return the command that starts a worker of this side on these works; a measure is ``time`` or ``count``."""
        return [
            self.python,
            "-m",
            "tests.runs.speed.worker",
            measure,
            *names,
            "--device",
            self.device,
            "--plant",
            str(self.plant),
            *(f"-p{plugin}" for plugin in self.plugins),
        ]


def answer(works: Sequence[Work], device: str, plant: float) -> None:
    """Answer questions from the standard input, each with the shortest time.

    A question is [number, whether its floor is meant, seconds].
    """
    runs: list[tuple[Callable[[], Any], Callable[[], Any] | None]] = []
    for work in works:
        graph = Graph(work, device)
        backward = synchronized(graph.backward, device)
        try:
            below = synchronized(floor(work, graph)[0], device)
        except NoFloorError:
            below = None
        runs.append((stretched(backward, plant) if plant else backward, below))
    # Once without a clock, so that what torch sets up at the first call is not timed.
    for pair in runs:
        for run in pair:
            if run:
                run()
    _say([below is not None for _, below in runs])
    for line in sys.stdin:
        number, is_floor, seconds = json.loads(line)
        run = runs[number][is_floor]
        assert run is not None
        _say(timed(run, seconds))


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def count(works: Sequence[Work], plant: float) -> None:
    """Run each backward so often with the collection of events switched on, and dump what was collected."""
    graphs = [Graph(work, "cpu") for work in works]
    gc.collect()
    gc.freeze()  # so that no collection of what is there already is counted
    subprocess.run(["callgrind_control", "-i", "on", str(os.getpid())], check=True, stdout=subprocess.DEVNULL)  # noqa: S607 - valgrind's, from the path
    for graph in graphs:
        for _ in range(5):  # what is set up at the first calls is not counted; the number is arbitrary
            graph.backward()
        torch._C._valgrind_toggle()  # noqa: SLF001 - what torch.utils.benchmark does
        for _ in range(CALLS + round(CALLS * plant)):
            graph.backward()
        torch._C._valgrind_toggle_and_dump_stats()  # noqa: SLF001 - as above


def main() -> None:
    """Build the works and measure them, as the command line says."""
    parser = argparse.ArgumentParser(description="Run backwards, for a comparison.")
    parser.add_argument("measure", choices=["time", "count"])
    parser.add_argument("names", nargs="+", metavar="NAME", help="the works")
    parser.add_argument("--device", default="cpu", metavar="D", help="where they are timed")
    parser.add_argument(
        "--plant", type=float, default=0.0, metavar="SHARE", help="by how much to slow each backward down"
    )
    options = parsed_with_plugins(parser)
    torch.set_num_threads(1)
    gc.disable()
    makers = gated() if options.measure == "time" else counted()
    works = [makers[name]() for name in options.names]
    if options.measure == "time":
        answer(works, options.device, options.plant)
    else:
        count(works, options.plant)


if __name__ == "__main__":
    main()
