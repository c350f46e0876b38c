"""What is being asked, and how much is done: a line of an interactive terminal, in the place of pytest's dots."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    Status = tuple[str, str, str | tuple[str, Mapping[str, bool]]]

NAME = "gradassay-progress"
"""The name of the plugin that shows it: ``-p no:gradassay-progress`` leaves it out."""

REST = Column(ratio=1, no_wrap=True, overflow="crop")
"""What takes the rest of the line. It is not cut off by an ellipsis, which a terminal of ASCII lacks."""


class Asking:
    """Shows the id of the test that started last, the share of tests that have ended, and how many failed."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        """Make the line, which is shown once a test starts; `reporter` is pytest's own, whose dots it replaces."""
        self._reporter = reporter
        self._session: pytest.Session | None = None
        self._failed = 0
        self._line = Progress(
            TextColumn("{task.percentage:3.0f}%  {task.completed:,} of {task.total:,}"),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[failed]}{task.description}", markup=False, table_column=REST),
            console=Console(force_terminal=True, color_system=None),  # state is in words, and pytest has the colours
            auto_refresh=False,  # while a test runs, what is written is captured
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            expand=True,
        )
        self._task = self._line.add_task("", failed="")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Leave out pytest's dots while tests run, and take the line away whatever ends them."""
        self._session = session
        self._reporter.showfspath = False
        try:
            return (yield)
        finally:
            self._line.stop()
            self._session = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Show the id of the test that starts."""
        assert self._session is not None
        name = nodeid.rpartition("::")[2]
        asked = name.partition("[")[2].removesuffix("]") or name  # what is parametrised says more than the function
        self._line.update(self._task, total=self._session.testscollected, description=asked)
        if not self._line.live.is_started:  # only now xdist has said what it has to say of its workers
            self._reporter.ensure_newline()
            self._line.start()
        self._line.refresh()

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_testnodedown(self) -> None:
        """Take the line away for what xdist says of a worker that ended; the next test brings it back."""
        self._line.stop()

    def pytest_runtest_logfinish(self) -> None:
        """Count a test that has ended."""
        self._line.advance(self._task)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count failures, and show how many there are from the first on."""
        self._failed += report.failed
        if report.failed:
            self._line.update(self._task, failed=f"{self._failed:,} failed  ")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Status, Status]:
        """Leave out the letter of a test while the line is there; the summaries have the words later."""
        category, letter, word = yield
        return (category, letter, word) if self._session is None else (category, "", "")


def show(config: pytest.Config) -> None:
    """Show what is asked, where a person watches a run in a terminal and has not asked for more lines or fewer.

    Neither is it shown with a debugger, nor where tests write to the terminal, in whose lines it would stand.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty() or os.environ.get("TERM") == "dumb":
        return
    option = config.option
    is_plain = config.get_verbosity(pytest.Config.VERBOSITY_TEST_CASES) == 0 and option.capture != "no"
    if is_plain and not option.usepdb:
        config.pluginmanager.register(Asking(reporter), NAME)
