"""Takes measurements, and writes the page of them: ``python -m tests.runs.measurements [NAME ...]``."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from tests.runs.measurements.figures import UnreadableError
from tests.runs.measurements.measurement import MEASUREMENTS
from tests.runs.measurements.store import FILE, ROOT, Taken, page, read, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.runs.measurements.measurement import Measurement

COLUMNS = 200
"""The width of the tables that commands print, so that no cell is folded."""


@dataclass(frozen=True)
class Output:
    """What a command printed, and how long it took, where that is known."""

    printed: str
    seconds: float | None = None
    """Wall-clock time."""

    processor_seconds: float | None = None
    """The time of all processors together, in user and system mode."""


class FailedError(RuntimeError):
    """A measurement could not be taken; the message says why."""


def git(*arguments: str) -> str:
    """Return what git prints about this checkout; raises CalledProcessError."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def changed() -> list[str]:
    """Return the files that no commit has as they are, but for the two that measuring writes."""
    own = (f":!docs/{FILE.name}", f":!docs/{FILE.with_suffix('.md').name}")
    return git("status", "--porcelain", "--", ".", *own).splitlines()


def cpu() -> str:
    """Name the processor, and say how many cores there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {next(iter(models), platform.processor() or platform.machine())}"


def ran(measurement: Measurement) -> Output:
    """Run the command of a measurement. Raises FailedError where it fails."""
    if measurement.reads and measurement.reads.startswith("assay/"):  # git ignores what runs leave there
        # a file of an earlier run would be read if the command left none
        (ROOT / measurement.reads).unlink(missing_ok=True)
        (ROOT / measurement.reads).parent.mkdir(exist_ok=True)
    # commands name `python` and `pytest`, which must be those of this environment
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start, before = perf_counter(), os.times()
    done = subprocess.run(  # noqa: S602 - the commands are the table's own, for a shell
        measurement.command,
        shell=True,
        cwd=ROOT,
        env=os.environ | {"PATH": path, "COLUMNS": str(COLUMNS)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    after = os.times()
    if done.returncode and not measurement.may_fail:
        message = f"exit status {done.returncode} of: {measurement.command}\n{done.stdout[-2000:]}"
        raise FailedError(message)
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return Output(done.stdout, round(perf_counter() - start, 1), round(worked, 1))


def taken(measurement: Measurement, output: Output, commit: str) -> Taken:
    """Take the figures out of what a command left. Raises FailedError where there are none."""
    try:
        text = output.printed if measurement.reads is None else (ROOT / measurement.reads).read_text(encoding="utf-8")
        return _of(measurement, text, output, commit)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}"
        raise FailedError(message) from None


def _of(measurement: Measurement, text: str, output: Output, commit: str) -> Taken:
    """Return the figures in a text, with the commit, the day and the machine that they are of. Raises FailedError."""
    try:
        figures = measurement.figures(text)
    except (LookupError, ValueError) as error:  # a text of another kind
        message = f"the output {error if isinstance(error, UnreadableError) else f'is of another kind: {error!r}'}"
        raise FailedError(message) from error
    if not figures:
        message = f"the output has none of its figures; accepted: what `{measurement.command}` leaves"
        raise FailedError(message)
    return Taken(
        commit=git("rev-parse", "--short=7", f"{commit}^{{commit}}"),
        date=datetime.now(UTC).date().isoformat(),
        torch=metadata.version("torch").partition("+")[0],
        cpu=cpu(),
        seconds=output.seconds,
        processor_seconds=output.processor_seconds,
        figures=figures,
    )


def keep(name: str, found: Taken) -> None:
    """Put the figures of a measurement on file, in the place of those that there are."""
    FILE.write_text(written({**read(), name: found}), encoding="utf-8")


def take(names: Sequence[str]) -> list[str]:
    """Take measurements, and keep each as soon as it is taken; return the names of those that failed."""
    commands: dict[str, list[str]] = {}  # several measurements read one command, which runs once
    for name in names:
        commands.setdefault(MEASUREMENTS[name].command, []).append(name)
    failed = []
    for number, some in enumerate(commands.values(), 1):
        say(f"{number} of {len(commands)}: {', '.join(some)}")
        try:
            output = ran(MEASUREMENTS[some[0]])
            for name in some:
                keep(name, taken(MEASUREMENTS[name], output, "HEAD"))
            say(f"  took {output.seconds} s")
        except FailedError as error:
            say(f"  failed: {error}")
            failed += some
    return failed


def say(line: str) -> None:
    """Write a line of progress to stderr, since stdout has what is asked for."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def options(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line; what is not valid is a usage error."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.runs.measurements", description="Take measurements, and write the page of them."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="the measurements to take, by their anchors on the page"
    )
    parser.add_argument("--all", action="store_true", help="take each that has no figures of this commit yet")
    parser.add_argument("--missing", action="store_true", help="list those that have no figures at all")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="take the figures of one out of what its command left"
    )
    parser.add_argument("--commit", default="HEAD", help="with --from: the commit that the file is of")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="write the page of what is on file")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in MEASUREMENTS]:
        parser.error(f"{', '.join(unknown)}: no such measurement; accepted: {', '.join(MEASUREMENTS)}")
    if given.source and len(given.names) != 1:
        parser.error("--from: takes the figures of one measurement; accepted: one NAME")
    if not (given.names or given.all or given.missing or given.page):
        parser.error("nothing to do; accepted: NAME ..., --all, --missing or --page FILE.md")
    return parser, given


def main(arguments: Iterable[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status, which is 1 where a measurement failed."""
    parser, given = options(None if arguments is None else list(arguments))
    names = given.names
    if given.all:
        here = git("rev-parse", "--short=7", "HEAD")
        names = [name for name in MEASUREMENTS if name not in read() or read()[name].commit != here]
    if names and (files := changed()):
        said = f"a figure is of a commit, and these files are of none: {', '.join(files)}"
        parser.error(f"{said}; accepted: a clean tree")
    failed: list[str] = []
    try:
        if given.source:
            text = given.source.read_text(encoding="utf-8")
            keep(names[0], _of(MEASUREMENTS[names[0]], text, Output(text), given.commit))
        else:
            failed = take(names)
        if given.page:
            given.page.write_text(page(read()), encoding="utf-8")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except subprocess.CalledProcessError as error:
        parser.error(error.stderr.strip())
    except FailedError as error:
        parser.error(str(error))
    if given.missing:
        sys.stdout.write("".join(f"{name}\n" for name in MEASUREMENTS if name not in read()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
