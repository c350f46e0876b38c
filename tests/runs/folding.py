"""One failure for one fault: the first failing test of it explains itself, the others say in a line what they saw.

Folding changes only what is printed. Each test that fails still fails, and its record has its own miss.
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
"""The user property of a report which says, as JSON, what a disagreement is about, its line, and which faults show."""

PLAIN = (ComparedNothingError, UncertifiedError, UnmetError)
"""Errors that say by themselves what an entry lacks, without a traceback."""

MOST_NAMED = 6
"""Formats, modes or tests that are named; of more there is a count. The number is arbitrary."""

MOST_LINES = 6
"""Tests of an op that say what they saw, beside the one that explains itself. The number is arbitrary."""

PLURALS = {"dtype": "formats", "mode": "modes", "test": "tests", "device": "devices"}
"""What tells the tests of an op apart, and what several of each are called."""


@dataclass
class Outcomes:
    """The conformance tests of one op: what each asked, and whether it failed."""

    explained: list[tuple[str, list[Fault]]] = field(default_factory=list)
    """The ids of those that explain themselves, and the faults that they show."""

    lines: list[str] = field(default_factory=list)
    """What each of the others says."""

    asked: list[tuple[dict[str, str], bool]] = field(default_factory=list)
    """Of each test that was judged, its format, mode, file and device, and whether it failed."""

    def explaining(self, faults: Sequence[Fault]) -> str | None:
        """Return the id of the test that explains the first of some faults; None unless all of them are explained."""
        explained = [fault for _, some in self.explained for fault in some]
        if not all(_is_among(fault, explained) for fault in faults):
            return None
        return next(name for name, some in self.explained if _is_among(faults[0], some))

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(failed for _, failed in self.asked)


def _is_among(fault: Fault, others: Iterable[Fault]) -> bool:
    """Say whether a fault may be the same as one of some others, which were found before it."""
    return any(fault.is_of(other) for other in others)


class Folding:
    """Shortens every failure of a fault but the first, whether its test ran here or on a worker of xdist."""

    def __init__(self) -> None:
        """Start without any outcome."""
        # What this process has explained while it tests, so that it need not explain it again. With workers of xdist
        # each may explain a fault once, and the process that started them folds all but the first.
        self._told: dict[str, Outcomes] = defaultdict(Outcomes)
        self._outcomes: dict[str, Outcomes] = defaultdict(Outcomes)
        self._folded: list[pytest.TestReport] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write a disagreement as it explains itself, without a traceback; in a line where its fault was explained."""
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
        # Hypothesis notes the line that draws the same again, beside the arguments, which the explanation has
        again = [note for note in getattr(error, "__notes__", ()) if "@reproduce_failure" in note]
        report.longrepr = "\n".join([str(error), *([] if error.is_brief else again)])
        report.user_properties.append((DISAGREEMENT, json.dumps([error.about, error.line, error.faults])))
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a conformance test ended, and fold its failure where it is not the first to show a fault."""
        properties = dict(report.user_properties)
        if report.when != "call" or "record" not in properties:
            return
        record = Record.parsed(str(properties["record"]))
        outcomes = self._outcomes[record.op]
        if record.verdict != UNSUPPORTED:
            # the file is what says how the op was asked
            test = report.nodeid.partition("::")[0].rpartition("/")[2]
            asked = {"dtype": record.dtype, "mode": record.mode, "test": test, "device": record.device}
            outcomes.asked.append((asked, report.failed))
        if DISAGREEMENT not in properties:
            return
        about, line, listed = json.loads(str(properties[DISAGREEMENT]))
        known, faults = self._outcomes[about], [Fault(*fields) for fields in listed]
        first = known.explaining(faults)
        if first is None:
            known.explained.append((report.nodeid, faults))
        else:
            report.longrepr = f"{line}; as in {first}"
            known.lines.append(f"{report.nodeid}: {line}")
            self._folded.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Take folded failures out before pytest prints the section of failures."""
        self._exchange(session.config, is_folded_in=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Put them back before pytest counts and names what failed, and say of each op which of its tests did."""
        self._exchange(config, is_folded_in=True)
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

    def _exchange(self, config: pytest.Config, *, is_folded_in: bool) -> None:
        """Put the reports that are folded among those that failed, or take them out."""
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not self._folded:
            return
        folded = {id(report) for report in self._folded}
        rest = [report for report in reporter.stats.get("failed", []) if id(report) not in folded]
        # pytest prints what is in here, in this order
        reporter.stats["failed"] = rest + self._folded * is_folded_in


def _abridge(reporter: pytest.TerminalReporter) -> None:
    """Leave the first line of what a failure said: in CI pytest's summary has all of it again."""
    for report in reporter.stats.get("failed", []):
        if isinstance(report.longrepr, str):
            report.longrepr = report.longrepr.partition("\n")[0]


def _within(line: str) -> str:
    """Break a line where the terminal ends, and indent what follows."""
    return fill(line, width(), subsequent_indent="    ", break_on_hyphens=False)


def pattern(asked: Sequence[tuple[dict[str, str], bool]]) -> str:
    """Say in which formats, modes, tests and devices those that failed did, and in which none did.

    `asked` has of each test its value of each, and whether it failed.
    """
    parts = []
    for name, plural in PLURALS.items():
        every = dict.fromkeys(each[name] for each, _ in asked)
        failed = {each[name] for each, has_failed in asked if has_failed}
        failing = [value for value in every if value in failed]
        passing = [value for value in every if value not in failed]
        if passing:
            parts.append(f"in {_named(failing, plural)}, not in {_named(passing, plural)}")
    return f"fail: {'; '.join(parts)}" if parts else "fail, in every format, mode and test"


def _named(values: Iterable[str], plural: str) -> str:
    """Write names as a list in words, or how many there are."""
    names = list(values)
    if len(names) > MOST_NAMED:
        return f"{len(names)} {plural}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
