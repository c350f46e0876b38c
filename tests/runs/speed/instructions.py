"""Instructions of backwards, counted by valgrind's callgrind.

They are the same on every machine of a kind, whatever else it does. The interpreter and the allocator are left out:
their hash tables and free lists are not the same twice.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING

from tests.runs.speed.worker import CALLS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.runs.speed.worker import Side

NOT_COUNTED = ("python", "libpython", "libc.so", "ld-linux", "_")
"""How the files of the interpreter, its modules, the allocator and the loader begin."""

OBJECT = re.compile(r"(c?)ob=\((\d+)\)(?: (.*))?$")
"""A line that names the object (``ob=``), or that of a call (``cob=``), by a number and at first by its path too."""

SWITCHES = ("--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


class ValgrindError(RuntimeError):
    """Valgrind is not there, or its run failed."""


def total(dump: str) -> int:
    """Sum the instructions of a file of callgrind's, but for those of the objects in NOT_COUNTED.

    The format is documented by valgrind, "Callgrind Format Specification": lines of costs follow the object
    (``ob=``) and the function they were spent in; the line after ``calls=`` is the cost of what was called.
    """
    objects: dict[str, str] = {}  # file names by number
    counts, inclusive, spent = False, False, 0
    for line in dump.splitlines():
        if named := OBJECT.match(line):
            called, number, path = named.groups()
            if path is not None:
                objects[number] = Path(path).name
            if not called:
                counts = not objects[number].startswith(NOT_COUNTED)
        elif line.startswith("calls="):
            inclusive = True
        elif line[:1].isdigit() or line[:1] in {"+", "-", "*"}:
            if counts and not inclusive:
                spent += int(line.split()[1])
            inclusive = False
    return spent


class Count:
    """A count of instructions that runs in a process of its own, in the background."""

    def __init__(self, side: Side, names: Sequence[str]) -> None:
        """Start to count the works of a side. Raises ValgrindError where valgrind is not installed."""
        if shutil.which("valgrind") is None:
            message = "valgrind is not installed; on Debian: apt install valgrind"
            raise ValgrindError(message)
        self._names = names
        self._folder = TemporaryDirectory()
        layout = ["setarch", "-R"] if shutil.which("setarch") else []  # the same addresses each time
        command = [
            *layout,
            "valgrind",
            *SWITCHES,
            f"--callgrind-out-file={self._folder.name}/counts",
            *side.command("count", names),
        ]
        self._log = Path(self._folder.name, "log").open("w+")  # noqa: SIM115 - the process writes to it as long as it runs
        self._process = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=self._log, stderr=self._log, text=True
        )

    @property
    def _dumps(self) -> list[Path]:
        return [Path(self._folder.name, f"counts.{number}") for number in range(1, len(self._names) + 1)]

    @property
    def done(self) -> int:
        """How many works have been counted."""
        return sum(dump.exists() for dump in self._dumps)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without having counted."""
        return bool(self._process.poll())

    def result(self) -> dict[str, float]:
        """Wait for its end, and return the instructions of one backward of each work. Raises ValgrindError."""
        with self._folder, self._log, self._process:
            if self._process.wait() or self.done < len(self._names):
                self._log.seek(0)
                message = f"valgrind ended with {self._process.returncode}: {self._log.read()[-500:]}"
                raise ValgrindError(message)
            return {name: total(dump.read_text()) / CALLS for name, dump in zip(self._names, self._dumps, strict=True)}

    def stop(self) -> None:
        """End it, whatever it has done."""
        self._process.kill()


def counts(
    sides: Mapping[str, Side], names: Sequence[str], progress: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Return the instructions of one backward of each work on each side, all sides at the same time, by their names.

    Raises ValgrindError.
    """
    running = {name: Count(side, names) for name, side in sides.items()}
    try:
        while any(count.is_running for count in running.values()) and not any(
            count.has_failed for count in running.values()
        ):
            done = min(count.done for count in running.values())
            progress(
                f"instructions: {done} of {len(names)} works"
                if done
                else "instructions: torch is imported under valgrind"
            )
            sleep(1)
        # That which failed first, so that nobody waits for the others to be told.
        return {
            name: count.result() for name, count in sorted(running.items(), key=lambda pair: not pair[1].has_failed)
        }
    finally:
        for count in running.values():
            count.stop()
