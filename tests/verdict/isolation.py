"""A kernel that ends its process, or never answers, costs its own test: ``--isolate``.

Tests then run in workers of pytest-xdist, which replaces one that ends. What has ended cannot say what it was asked, so
each worker notes a question before torch is asked it, and `faulthandler` adds where the process was. Its watchdog also
ends a worker in which torch takes too long: it is a thread of C, which a kernel that holds Python's lock cannot keep
from running. The process that started the workers makes a verdict of what it finds, ``crashed`` or ``hung``.
"""

from __future__ import annotations

import faulthandler
import json
import math
import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from tests.verdict.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from reference.case import Case
    from tests.subject.mode import Mode

    Described: TypeAlias = Callable[[Case, Mode | None, str], "Question"]
    """What describes a question."""

PATIENCE = 300.0
"""Seconds that torch may take over one question: compiling one takes tens of them on a busy machine."""

MOST_RESTARTS = 1000
"""Workers that are replaced before a run gives up: where torch cannot be used at all, each of them ends at once."""

MOST_FRAMES = 10
"""Frames of a stack that are shown, the innermost first."""

DOOR = "tests/subject/"
"""Where this suite calls torch: frames further out are its own."""

TIMED_OUT = "Timeout ("
"""What the watchdog of `faulthandler` writes first."""

# No handler runs where the process is killed from outside, or leaves without Python's knowing.
SILENT = "the process ended without a word: os._exit, or a signal that cannot be caught, as from a limit on memory"


@dataclass(frozen=True)
class Question:
    """What torch is asked: how a failure names it, and plain torch that asks it again."""

    name: str
    """What is asked, where, and in which format, mode and on which device."""

    at: dict[str, str]
    """The inputs as hex floats, by name, where they are few."""

    size: int
    """Elements of the largest input."""

    again: str
    """How to see it again: plain torch, or a command; empty where a value was asked for."""


class Witness:
    """Notes, in a worker, each question before torch is asked it."""

    present: ClassVar[Witness | None] = None
    """The witness of this process, where it is a worker whose tests are isolated: torch is asked in many places."""

    def __init__(self, folder: Path, worker: str, patience: float, described: Described) -> None:
        """Note in two files of `folder`, named as the worker, what torch is asked and where the process was.

        `patience` is how many seconds a question may take, and `described` describes one.
        """
        self.patience = patience
        self._note = folder / f"{worker}.json"
        self._stack = (folder / f"{worker}.txt").open("w", encoding="utf-8")
        self._described = described
        self._record: Callable[[], Record] | None = None
        Witness.present = self

    def pytest_sessionstart(self) -> None:
        """Have a fatal error write the stack to the notes: pytest's own plugin has set up another file just before."""
        faulthandler.enable(self._stack, all_threads=False)

    def pytest_runtest_setup(self) -> None:
        """Forget the test before this one."""
        self._record = None
        self._note.write_text("{}")  # a crash in a test that asks nothing is not blamed on the last question

    def pytest_unconfigure(self) -> None:
        """Close the file of stacks, once no fatal error can be written to it."""
        Witness.present = None
        faulthandler.disable()
        self._stack.close()

    def begins(self, record: Callable[[], Record]) -> None:
        """Take the function that returns the record of a conformance test as it is at any time."""
        self._record = record
        self.note(None)

    def asks(self, case: Case, mode: Mode | None, device: str) -> None:
        """Note a question."""
        self.note(self._described(case, mode, device))

    def note(self, question: Question | None) -> None:
        """Write down the record of the test so far, and the question that is asked now, if any."""
        record = None if self._record is None else asdict(self._record())
        self._note.write_text(json.dumps({"record": record, "question": question and asdict(question)}))

    @contextmanager
    def waits(self) -> Iterator[None]:
        """End this process where what is done inside takes too long."""
        faulthandler.dump_traceback_later(self.patience, exit=True, file=self._stack)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def add_options(group: pytest.OptionGroup) -> None:
    """Add the options `--isolate` and `--patience`."""
    group.addoption(
        "--isolate",
        action="store_true",
        help="test in a worker process, or as many as -n says, so that a kernel that crashes or hangs costs one test",
    )
    group.addoption(
        "--patience",
        metavar="S",
        help=f"how many seconds torch may take over one question before it hangs, with --isolate; {PATIENCE:g} unless "
        "it is said",
    )


def start_workers(option: Any, *, has_xdist: bool) -> None:
    """Have pytest-xdist, which reads its options after this, start one worker at least, and replace each that ends.

    Raises pytest.UsageError where it is not active.
    """
    if not has_xdist:
        message = (
            "--isolate: the plugin pytest-xdist is not active; accepted: --isolate where it is installed and active"
        )
        raise pytest.UsageError(message)
    option.numprocesses = option.numprocesses or 1
    # xdist gives up after four for each worker, unless it is told otherwise
    option.maxworkerrestart = option.maxworkerrestart or str(MOST_RESTARTS)


def prepare(config: pytest.Config, described: Described) -> None:
    """Have each worker note what it asks, and the process that started them read the notes of one that ended.

    `described` describes a question. Raises pytest.UsageError.
    """
    option = config.option
    patience = _seconds(option.patience)
    if option.patience is not None and not option.isolate:
        message = f"--patience {option.patience}: nothing is isolated; accepted: --isolate --patience S"
        raise pytest.UsageError(message)
    if not option.isolate:
        return
    if hasattr(config, "workerinput"):  # which xdist gives to workers alone
        folder, worker = Path(config.workerinput["notes"]), config.workerinput["workerid"]
        config.pluginmanager.register(Witness(folder, worker, patience, described), "witness")
    else:
        notes = TemporaryDirectory(prefix="gradassay-")
        config.add_cleanup(notes.cleanup)
        config.pluginmanager.register(Warden(Path(notes.name)), "warden")


def _seconds(given: str | None) -> float:
    """Return the patience that an option asks for, in seconds. Raises pytest.UsageError."""
    try:
        seconds = PATIENCE if given is None else float(given)
    except ValueError:
        seconds = math.nan
    if 0 < seconds < math.inf:
        return seconds
    message = f"--patience {given}; accepted: a number of seconds above 0"
    raise pytest.UsageError(message)


def begin(record: Callable[[], Record]) -> None:
    """Begin a conformance test with the function that returns its record, where tests are isolated."""
    if Witness.present is not None:
        Witness.present.begins(record)


@contextmanager
def asking(case: Case, mode: Mode | None, device: str) -> Iterator[None]:
    """Let torch be asked inside for the derivative of a case, or without a mode for its value.

    Where tests are isolated, the question is noted first, and the answer may take no longer than the patience.
    """
    if Witness.present is not None:
        Witness.present.asks(case, mode, device)
    with waiting():
        yield


@contextmanager
def waiting() -> Iterator[None]:
    """Let what torch was asked last be waited for inside; where tests are isolated, not longer than the patience."""
    if Witness.present is None:
        yield
        return
    with Witness.present.waits():
        yield


class Warden:
    """Makes a verdict of the notes that a worker leaves when it ends, in the process that started the workers."""

    def __init__(self, folder: Path) -> None:
        """Take an empty folder, which the workers write their notes to."""
        self._folder = folder

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where its notes go."""
        node.workerinput["notes"] = str(self._folder)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Write the failure, and the record, of the test in which a worker ended."""
        worker = report.node.gateway.id
        verdict, stack, record, question = self.found(worker)
        report.when = "call"  # xdist's own report is of no phase, and records are those of calls
        report.location = (report.location[0], None, report.nodeid.partition("::")[2])  # what a failure is headed by
        report.longrepr = told(report.nodeid, verdict, stack, question)
        if record is not None:
            report.user_properties.append(("record", record_of_end(record, verdict, stack[0], question).line()))

    def found(self, worker: str) -> tuple[str, list[str], Record | None, Question | None]:
        """Return the verdict, lines that say how it ended, and what is noted of the test and the question."""
        noted = json.loads(_read(self._folder / f"{worker}.json") or "{}")
        stack = _read(self._folder / f"{worker}.txt")
        record, question = noted.get("record"), noted.get("question")
        return (
            "hung" if stack.startswith(TIMED_OUT) else "crashed",
            stack_lines(stack),
            record and Record(**record),
            question and Question(**question),
        )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def stack_lines(stack: str) -> list[str]:
    """Return the lines of use in what `faulthandler` wrote: what ended the process, and the frames inside torch.

    Frames of this suite are left out, and so are threads in which xdist waits.
    """
    if not stack:
        return [SILENT]
    # the list of extension modules at the end fills a screen
    first, *threads = re.split(r"\n\n?(?=Current thread|Thread|Stack)", stack.partition("\nExtension modules")[0])
    frames = []
    for thread in threads:
        inner = [line for line in thread.splitlines() if line.startswith("  File ")]
        # the innermost call comes first, so that what is before the door is not this suite's
        own = next((n for n, line in enumerate(inner) if DOOR in line), None)
        if own is not None or "execnet" not in thread:
            frames += inner[:own]
    return [first.strip(), *frames[:MOST_FRAMES]]


def told(test: str, verdict: str, stack: list[str], question: Question | None) -> str:
    """Write the failure of a test in which a worker ended."""
    if question is None:
        return "\n".join([f"{test} {verdict}, before torch was asked for a gradient:", *stack])
    head = f"{question.name} {verdict}; it is what was asked last:"
    return "\n".join([head, *stack, "", question.again])


def record_of_end(record: Record, verdict: str, said: str, question: Question | None) -> Record:
    """Return the record of a test in which a worker ended: as it was noted, with no answer to the last question.

    `said` is how the worker ended, in a line.
    """
    return replace(
        record,
        verdict=verdict,
        inside=None,
        worst_ulp=None,
        worst_share=None,
        got=said,
        expected="a gradient",
        known=None,
        at=question.at if question else {},
        size=max(record.size, question.size if question else 0),
    )
