"""One failure for one fault: the first failing test of it explains itself, the others say in a line what they saw.

What is told apart is what is printed. Every test that fails fails, and its record has its own miss.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from textwrap import fill
from typing import TYPE_CHECKING

import pytest

from reference.oracle import UncertifiedError
from strategies.cases import UnmetError
from tests.runs.table import width
from tests.verdict.assay import ComparedNothingError
from tests.verdict.comparison import UNSUPPORTED
from tests.verdict.explanation import DisagreementError
from tests.verdict.fault import Fault
from tests.verdict.record import Record

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

DISAGREEMENT = "disagreement"
"""The user property of a report that has what a disagreement is about, in a line what it is, and which faults show."""

PLAIN = (ComparedNothingError, UncertifiedError, UnmetError)
"""Errors that say by themselves what an entry lacks, without a traceback."""

MOST_NAMED = 6
"""Formats, modes or tests that are named; of more there is a count."""

MOST_LINES = 6
"""Tests of an op that say what they saw, beside the one that explains itself."""

PLURALS = {"dtype": "formats", "mode": "modes", "test": "tests", "device": "devices"}


@dataclass
class Outcomes:
    """The conformance tests of one op: what each asked, and whether it failed."""

    explained: list[tuple[str, list[Fault]]] = field(default_factory=list)
    """The ids of those that explain themselves, and the faults that they show."""

    lines: list[str] = field(default_factory=list)
    """What each of the others says."""

    asked: list[tuple[dict[str, str], bool]] = field(default_factory=list)

    def explaining(self, shown: Sequence[Fault]) -> str | None:
        """Return the test that explains the faults which another shows; None where there is none."""
        known = [fault for _, faults in self.explained for fault in faults]
        if not all(any(fault.is_of(other) for other in known) for fault in shown):
            return None
        return next(name for name, faults in self.explained if any(shown[0].is_of(other) for other in faults))

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(failed for _, failed in self.asked)


class Folding:
    """Shortens the failures of a fault but the first, whether they ran here or on a worker of xdist."""

    def __init__(self) -> None:
        """Start without any."""
        self._told: dict[str, Outcomes] = defaultdict(Outcomes)  # by this worker
        self._outcomes: dict[str, Outcomes] = defaultdict(Outcomes)
        self._folded: list[pytest.TestReport] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write what a disagreement explains, and no lines of the suite; in a line where its op is explained."""
        error = None if call.excinfo is None else call.excinfo.value
        if isinstance(error, PLAIN):
            report = yield
            report.longrepr = str(error)
            return report
        if not isinstance(error, DisagreementError):
            return (yield)
        told = self._told[error.about]
        error.is_brief = told.explaining(error.faults) is not None
        if not error.is_brief:
            told.explained.append(("", error.faults))
        report = yield
        again = [note for note in getattr(error, "__notes__", ()) if "@reproduce_failure" in note]
        report.longrepr = "\n".join([str(error), *([] if error.is_brief else again)])
        report.user_properties.append((DISAGREEMENT, json.dumps([error.about, error.line, error.faults])))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a conformance test ended, and fold it where it is not the first to show a fault."""
        properties = dict(report.user_properties)
        if report.when != "call" or "record" not in properties:
            return
        record = Record.parsed(str(properties["record"]))
        outcomes = self._outcomes[record.op]
        if record.verdict != UNSUPPORTED:
            test = report.nodeid.partition("::")[0].rpartition("/")[2]
            asked = {"dtype": record.dtype, "mode": record.mode, "test": test, "device": record.device}
            outcomes.asked.append((asked, report.failed))
        if DISAGREEMENT not in properties:
            return
        about, line, shown = json.loads(str(properties[DISAGREEMENT]))
        known, shown = self._outcomes[about], [Fault(*fault) for fault in shown]
        first = known.explaining(shown)
        if first is None:
            known.explained.append((report.nodeid, shown))
        else:
            report.longrepr = f"{line}; as in {first}"
            known.lines.append(f"{report.nodeid}: {line}")
            self._folded.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep what is folded from being shown among the failures."""
        self._exchange(session.config, shown=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Put it back, and say of each op which of its tests failed."""
        self._exchange(config, shown=True)
        _abridge(terminalreporter)
        failing = {about: each for about, each in self._outcomes.items() if each.failed}
        if failing:
            terminalreporter.section("what fails")
        for about, each in failing.items():
            terminalreporter.write_line(
                _within(f"{about}: {each.failed} of {len(each.asked)} tests {pattern(each.asked)}")
            )
            for line in each.lines[:MOST_LINES]:
                terminalreporter.write_line(_within(f"  {line}"))
            if len(each.lines) > MOST_LINES:
                terminalreporter.write_line(f"  and {len(each.lines) - MOST_LINES} more, named below")

    def _exchange(self, config: pytest.Config, *, shown: bool) -> None:
        """Put the reports that are folded among those that failed, or take them out."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not self._folded:
            return
        folded = {id(report) for report in self._folded}
        rest = [report for report in reporter.stats.get("failed", []) if id(report) not in folded]
        reporter.stats["failed"] = rest + self._folded * shown


def _abridge(reporter: pytest.TerminalReporter) -> None:
    """Leave the first line of what a failure said: in CI pytest's summary has all of it again."""
    for report in reporter.stats.get("failed", []):
        if isinstance(report.longrepr, str):
            report.longrepr = report.longrepr.partition("\n")[0]


def _within(line: str) -> str:
    """Break a line where the terminal ends, and indent what follows."""
    return fill(line, width(), subsequent_indent="    ", break_on_hyphens=False)


def pattern(asked: Sequence[tuple[dict[str, str], bool]]) -> str:
    """Say in which formats, modes, tests and devices those that failed did, and in which none did."""
    parts = []
    for name, plural in PLURALS.items():
        every = list(dict.fromkeys(each[name] for each, _ in asked))
        failing = [value for value in every if any(failed for each, failed in asked if each[name] == value)]
        passing = [value for value in every if value not in failing]
        if passing:
            parts.append(f"in {_named(failing, plural)}, not in {_named(passing, plural)}")
    return f"fail: {'; '.join(parts)}" if parts else "fail, in every format, mode and test"


def _named(values: Iterable[str], plural: str) -> str:
    names = list(values)
    if len(names) > MOST_NAMED:
        return f"{len(names)} {plural}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
