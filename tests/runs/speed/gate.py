"""The gate of speed: ``python -m tests.runs.speed.gate [--against PYTHON] [NAME ...]``.

Compares the backward of this build of torch with that of another, which has an interpreter of its own; or, without one,
with a committed baseline of this kind of machine. Each measure sees what the other cannot: instructions are exact, and
the same however busy the machine is; time is what people wait for, and sees caches and memory as well.
"""

from __future__ import annotations

import argparse
import csv
import platform
import shutil
import sys
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from tests.runs import outcome
from tests.runs.outcome import Change, Outcome
from tests.runs.speed import instructions, interleaved
from tests.runs.speed.instructions import ValgrindError
from tests.runs.speed.work import counted, gated
from tests.runs.speed.worker import Side
from tests.subject.device import parsed_with_plugins, passing, probed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.runs.speed.interleaved import Ratio

    Baseline = dict[tuple[str, str, str], float]
    """By kind of machine, work and measure."""

BASELINE = Path(__file__).parent / "baseline.tsv"
COLUMNS = ("machine", "work", "measure", "figure", "torch")
INSTRUCTIONS, FLOOR = "instructions", "times its floor"
MEASURES = ("instructions", "time")

MORE = 1.02
"""More than so many times the instructions close the gate; runs of the same build differ by 0.2 % at most."""

FARTHER = 1.3
"""How many times as far from its floor as in the baseline a backward may be, by the near end of its interval.

The baseline is of another machine of the same kind, so that this is much more than a comparison in one minute allows.
"""

PROCESSES = 5
"""In how many processes a backward is timed beside its floor."""


def machine(device: str = "cpu") -> str:
    """Name the kind of this machine: instructions are the same on others of the kind."""
    python = platform.python_version().rpartition(".")[0]
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} Python {python}"
    if device == "cpu":
        return kind
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return f"{kind}, {name(device) if name else device}"


def read(path: Path) -> tuple[Baseline, list[dict[str, str]]]:
    """Read a baseline; raises OSError."""
    with path.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {(row["machine"], row["work"], row["measure"]): float(row["figure"]) for row in rows}, rows


def written(rows: Sequence[dict[str, str]], here: str, found: Mapping[str, Mapping[str, float]]) -> str:
    """Write a baseline with what was found on this kind of machine.

    Rows of others, and of works that were not asked, stay as they are.
    """
    table = {(row["machine"], row["work"], row["measure"]): row for row in rows}
    for measure, figures in found.items():
        table |= {
            (here, work, measure): dict(
                zip(COLUMNS, (here, work, measure, f"{figure:.6g}", torch.__version__.split("+")[0]), strict=True)
            )
            for work, figure in figures.items()
        }
    lines = [COLUMNS, *sorted(map(itemgetter(*COLUMNS), table.values()))]
    return "".join("\t".join(line) + "\n" for line in lines)


def of_counts(before: Mapping[str, float], after: Mapping[str, float]) -> list[Change]:
    """Judge instructions: works that take more of them, or fewer, by more than a run differs from itself."""
    found = []
    for work in before.keys() & after.keys():
        ratio = after[work] / before[work]
        if max(ratio, 1 / ratio) > MORE:
            kind = "more instructions" if ratio > 1 else "fewer instructions"
            found.append(
                Change(kind, (work, INSTRUCTIONS), f"{before[work]:,.0f}", f"{after[work]:,.0f}", f"{ratio:.3f}")
            )
    return _ranked(found)


def of_times(ratios: Mapping[str, Ratio]) -> list[Change]:
    """Judge ratios of times: works that are slower or faster by more than chance."""
    changed = {work: ratio for work, ratio in ratios.items() if ratio.is_slower or ratio.is_faster}
    return _ranked(
        [
            Change("slower" if ratio.is_slower else "faster", (work, "time"), "1", f"{ratio.middle:.3f}", str(ratio))
            for work, ratio in changed.items()
        ]
    )


def of_floors(before: Mapping[str, float], after: Mapping[str, Ratio]) -> list[Change]:
    """Judge how far above their floors works are."""
    found = []
    for work in before.keys() & after.keys():
        if after[work].low > FARTHER * before[work]:
            found.append(
                Change("slower", (work, FLOOR), f"{before[work]:.2f}", f"{after[work].middle:.2f}", str(after[work]))
            )
        elif after[work].high * FARTHER < before[work]:
            found.append(
                Change("faster", (work, FLOOR), f"{before[work]:.2f}", f"{after[work].middle:.2f}", str(after[work]))
            )
    return _ranked(found)


def _ranked(changes: list[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: (not change.is_worse, change.key))


def above_floor(side: Side, names: Sequence[str], progress: Callable[[str], None]) -> dict[str, Ratio]:
    """Return how many times as long as their floors works take; a work without a floor is left out."""
    columns: dict[str, list[float]] = {}
    for number, row in enumerate(interleaved.above_floor(side, names, PROCESSES), 1):
        progress(f"time of {len(names)} works beside their floors, process {number} of {PROCESSES}")
        for name, value in zip(names, row, strict=True):
            if value is not None:
                columns.setdefault(name, []).append(value)
    return {name: interleaved.judged(column) for name, column in columns.items()}


def main() -> None:
    """Compare, say what differs, and exit with 1 where anything is worse."""
    parser = argparse.ArgumentParser(
        description="Compare the speed of torch's backward with that of another build, or with a baseline."
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="what is compared: ops of the catalogue, chains, networks; all without one",
    )
    parser.add_argument(
        "--against", metavar="PYTHON", help="the interpreter of the other build's environment, which is the one before"
    )
    parser.add_argument("--only", choices=MEASURES, help="one of the measures")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="D",
        help="where backwards are timed; instructions are counted on the CPU alone",
    )
    parser.add_argument(
        "--plant",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="slow every backward of this build down by that share: what the gate would say",
    )
    parser.add_argument(
        "--baseline", type=Path, default=BASELINE, metavar="FILE", help="what is compared with, without --against"
    )
    outcome.add_options(parser)
    options = parsed_with_plugins(parser)
    works = {"instructions": list(counted()), "time": list(gated())}
    accepted = dict.fromkeys(name for names in works.values() for name in names)
    unknown = set(options.names) - set(accepted)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: no such work; accepted: {', '.join(accepted)}")
    if options.against and shutil.which(options.against) is None:
        parser.error(
            f"--against {options.against}: no such program; accepted: the python of an environment with another torch"
        )
    if options.device not in passing(probed()):
        parser.error(
            f"--device {options.device}: {probed().get(options.device) or 'no such device'}; "
            f"accepted: {', '.join(passing(probed()))}"
        )
    asked = {}
    for measure in measures(options.only, options.device):
        if names := [name for name in works[measure] if not options.names or name in options.names]:
            asked[measure] = names
    if not asked:
        parser.error(
            "nothing to compare: instructions are counted of elementwise ops on the CPU, and other works are timed"
        )
    with Console(stderr=True).status("starting") as status:

        def progress(line: str) -> None:
            status.update(line)

        try:
            here = Side(sys.executable, options.device, options.plant, tuple(options.plugins))
            if options.against:
                result = _with_other(asked, replace(here, python=options.against, plant=0.0), here, progress)
            else:
                result = _with_baseline(asked, here, options, progress)
        except (OSError, ValgrindError, BaselineError, RuntimeError) as error:
            parser.error(str(error))
    result.write(options)
    sys.exit(bool(result.worse) and not options.update)


class BaselineError(ValueError):
    """The baseline has nothing to compare with."""


def measures(only: str | None, device: str) -> list[str]:
    """Return what is measured on a device."""
    return [measure for measure in MEASURES if only in {None, measure} and (measure == "time" or device == "cpu")]


def _with_other(asked: Mapping[str, list[str]], other: Side, here: Side, progress: Callable[[str], None]) -> Outcome:
    changes: list[Change] = []
    if names := asked.get("instructions"):
        found = instructions.counts({"before": other, "after": here}, names, progress)
        changes += of_counts(found["before"], found["after"])
    if names := asked.get("time"):
        changes += of_times(interleaved.compared(other, here, names, progress))
    return _outcome(asked, changes)


def _with_baseline(
    asked: Mapping[str, list[str]], side: Side, options: argparse.Namespace, progress: Callable[[str], None]
) -> Outcome:
    table, rows = read(options.baseline) if options.baseline.exists() or not options.update else ({}, [])
    here = machine(side.device)
    known = {machine for machine, _, _ in table}
    if here not in known and not options.update:
        message = (
            f"{options.baseline} has no figures of {here}, only of {', '.join(sorted(known))}; "
            "accepted: one of those, --against PYTHON, or --update to add this one"
        )
        raise BaselineError(message)
    changes: list[Change] = []
    found: dict[str, dict[str, float]] = {}
    if names := asked.get("instructions"):
        counted_here = instructions.counts({"after": side}, names, progress)["after"]
        found[INSTRUCTIONS] = counted_here
        changes += of_counts(
            {name: table[here, name, INSTRUCTIONS] for name in names if (here, name, INSTRUCTIONS) in table},
            counted_here,
        )
    if names := asked.get("time"):
        ratios = above_floor(side, names, progress)
        found[FLOOR] = {name: ratio.middle for name, ratio in ratios.items()}
        changes += of_floors({name: table[here, name, FLOOR] for name in names if (here, name, FLOOR) in table}, ratios)
    if options.update:
        options.baseline.write_text(written(rows, here, found))
    return _outcome(asked, changes, FLOOR)


def _outcome(asked: Mapping[str, list[str]], changes: Sequence[Change], time: str = "time") -> Outcome:
    titles = {"instructions": INSTRUCTIONS, "time": time}
    return Outcome(
        "speed",
        ("work", "measure"),
        [(name, titles[measure]) for measure, names in asked.items() for name in names],
        changes,
        note_column="ratio",
    )


if __name__ == "__main__":
    main()
