"""What is being asked is seen in a terminal that somebody watches, and nowhere else."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

pty = pytest.importorskip("pty", reason="there are no pseudo terminals here")

ROOT = Path(__file__).parents[2]

CONFTEST = """
from tests.runs import progress

def pytest_sessionstart(session):
    progress.show(session.config)
"""
TESTS = """
import pytest

@pytest.mark.parametrize("x", [pytest.param(1, id="sin-backward-float32-cpu"), pytest.param(2, id="tanh-é")])
def test_op(x):
    assert x == 1

def test_skipped():
    pytest.skip("for want of a kernel")
"""


def watched(folder: Path, *options: str, columns: int = 80, environment: Mapping[str, str] | None = None) -> str:
    """Return what pytest writes in a pseudo terminal."""
    import fcntl  # noqa: PLC0415 - there is none where there is no pty
    import termios  # noqa: PLC0415 - as above

    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(TESTS)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "COLUMNS"))}
    settings = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    settings |= environment or {}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)]
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=outer | settings
    )
    os.close(follower)
    written = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # so ends a terminal that nobody writes to
            break
        if not part:
            break
        written += part
    os.close(leader)
    assert process.wait() == 1
    return written.decode()


@pytest.mark.parametrize(
    "options", [(), ("-p", "xdist", "-n", "1"), ("--color=no",)], ids=["plain", "xdist", "no color"]
)
@pytest.mark.parametrize("columns", [80, 60])
def test_what_is_asked_is_seen(options: tuple[str, ...], columns: int, tmp_path: Path) -> None:
    """The id of a test is there while it runs, with the share done; at last there are pytest's own words alone."""
    written = watched(tmp_path, *options, columns=columns)
    assert "  0%  0 of 3" in written
    assert "left  sin-backward-float32-cpu" in written
    assert "67%  2 of 3" in written
    assert "left  1 failed  test_skipped" in written
    assert max(map(len, re.findall(r" *\d+%  \d of 3[^\r\n\x1b]*", written))) <= columns
    ending = written.rpartition("\x1b[2K")[2]
    assert " of 3" not in ending
    assert re.search(r"FAILED\S* (\S*::)?\S*test_op\S*\[tanh-", ending)
    assert ("\x1b[31m" in written) is ("--color=no" not in options)


@pytest.mark.parametrize(
    "options", [("-v",), ("-q",), ("-s",), ("-p", "no:gradassay-progress"), ("-p", "no:terminal")], ids=" ".join
)
def test_who_asks_for_other_lines_has_them(options: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing of it is written where more is asked for, or less, or what tests print, or pytest's own."""
    assert " of 3" not in watched(tmp_path, *options)


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii", "LANG": "C"}], ids=["dumb", "ascii"]
)
def test_a_poor_terminal_is_no_error(environment: dict[str, str], tmp_path: Path) -> None:
    """A terminal that cannot move its cursor has pytest's own lines; one of ASCII has the line in ASCII."""
    written = watched(tmp_path, environment=environment)
    assert "Error" not in written.replace("AssertionError", "")
    assert ("left  sin-backward" in written) is ("TERM" not in environment)


def test_what_is_said_of_a_worker_has_its_own_line(tmp_path: Path) -> None:
    """The line makes room for what xdist says of a worker that went, and comes back."""
    (tmp_path / "test_dying.py").write_text("import os\n\ndef test_dying():\n    os._exit(3)\n")
    before, said, after = watched(tmp_path, "-p", "xdist", "-n", "1").partition("[gw0] node down")
    assert said
    assert before.endswith("\x1b[2K")
    assert "left  1 failed  " in after


def test_a_log_has_nothing_of_it(tmp_path: Path) -> None:
    """Where there is no terminal, there are pytest's dots alone, and no escapes."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "test_it.py .Fs" in done.stdout
    assert "\x1b" not in done.stdout
