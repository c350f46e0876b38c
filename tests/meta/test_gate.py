"""The gate closes for what is worse, and for nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.runs import atlas
from tests.runs.gate import changes, read
from tests.runs.outcome import Outcome
from tests.verdict.record import Record

if TYPE_CHECKING:
    from tests.runs.gate import Row

ROOT = Path(__file__).parents[2]
KEY = ("sin", "float32", "cpu")
SOUND = {
    "op": "sin",
    "dtype": "float32",
    "device": "cpu",
    "torch": "2.13.0",
    "kernels": "AVX2",
    "verdict": "agrees",
    "known": "",
    "worst_ulp": "1.2",
    "at": "x=0x1.0p+0",
}


def judged(**after: str) -> list[tuple[str, bool]]:
    """Return the kinds of change from a sound row, and whether the gate closes."""
    return [(change.kind, change.is_worse) for change in changes({KEY: SOUND}, {KEY: SOUND | after})]


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        ({"verdict": "lost", "known": "no"}, "fails"),
        ({"verdict": "inaccurate", "known": "no"}, "fails"),
        ({"verdict": "error", "known": "no"}, "fails"),
        ({"verdict": "unsupported", "worst_ulp": ""}, "unsupported"),
        ({"worst_ulp": "1.3"}, "less accurate"),
    ],
)
def test_gate_closes_for_what_is_worse(after: Row, kind: str) -> None:
    """A new failure, an op that is unsupported now and a larger worst error each close it."""
    assert judged(**after) == [(kind, True)]


@pytest.mark.parametrize(
    "after",
    [
        {},
        {"worst_ulp": "0.9"},
        {"worst_ulp": "1.2001"},
        {"kernels": "AVX512", "worst_ulp": "2"},
        {"verdict": "lost", "known": "yes", "worst_ulp": ""},
    ],
)
def test_gate_stays_open(after: Row) -> None:
    """What is no worse passes.

    That is the same, a smaller error, one that differs in the last printed digit, one of other kernels, and a miss that
    is on file.
    """
    assert judged(**after) == []


def test_gate_sees_a_new_miss_beside_a_known_one() -> None:
    """A miss that is on file does not hide one that is not; one that the baseline has too is not new."""
    known, new = SOUND | {"verdict": "lost", "known": "yes"}, SOUND | {"verdict": "lost", "known": "no"}
    assert [change.kind for change in changes({KEY: known}, {KEY: new})] == ["fails"]
    assert changes({KEY: new}, {KEY: new}) == []
    assert changes({KEY: known}, {KEY: new | {"torch": "2.14.1"}}) == [], "deviations are of one version of torch"


def test_gate_knows_what_is_gone_and_what_is_mended() -> None:
    """A row that is not there any more closes it; a failure that is mended does not."""
    assert [change.kind for change in changes({KEY: SOUND}, {})] == ["gone"]
    mended = changes({KEY: SOUND | {"verdict": "lost", "known": "yes"}}, {KEY: SOUND})
    assert [(change.kind, change.is_worse) for change in mended] == [("mended", False)]
    assert "| mended" in Outcome("accuracy", ("op", "dtype", "device"), [KEY], mended).shown(markdown=True)


def made(path: Path, verdict: str = "agrees") -> Path:
    """Write a file with one record."""
    path.write_text(
        Record(
            op="sin",
            mode="backward",
            order=1,
            device="cpu",
            dtype="float32",
            compared=1,
            worst_ulp=1.2,
            worst_share=0.3,
            verdict=verdict,
            at={"x": "0x1.0p+0"},
            got=None,
            expected=None,
            known=None,
            torch="2.13.0",
            seed=0,
        ).line()
        + "\n"
    )
    return path


def gate(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "tests.runs.gate", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_says_it_by_its_status(tmp_path: Path) -> None:
    """The command exits with 1 where something is worse, and writes JUnit XML and Markdown.

    It takes the new state for the baseline where it is told to.
    """
    sound, wrong = made(tmp_path / "sound.jsonl"), made(tmp_path / "wrong.jsonl", "lost")
    baseline = tmp_path / "baseline.tsv"
    baseline.write_text("\t".join(atlas.COLUMNS) + "\n")
    assert gate(sound, baseline, "--update").returncode == 0
    assert list(read(baseline.read_text())) == [KEY]
    assert gate(sound, baseline).returncode == 0
    closed = gate(wrong, baseline, "--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "gate.md")
    assert closed.returncode == 1
    assert "closed: of 1 rows 1 are worse" in closed.stdout
    assert ET.parse(tmp_path / "gate.xml").find(".//failure") is not None  # noqa: S314 - written a line above
    assert "| fails | sin | float32 | cpu" in (tmp_path / "gate.md").read_text()


def test_nothing_to_compare_is_a_usage_error(tmp_path: Path) -> None:
    """Records without a line, and a baseline that is not there, are refused."""
    (tmp_path / "empty.jsonl").write_text("")
    assert gate(tmp_path / "empty.jsonl", ROOT / "tests/atlas.tsv").returncode == 2
    assert gate(made(tmp_path / "sound.jsonl"), tmp_path / "absent.tsv").returncode == 2


def test_script_gates_the_ops_of_another_project(tmp_path: Path) -> None:
    """The action and the hook run a gate that an op's own baseline opens.

    An op that loses its gradient closes the gate; its own baseline opens it again.
    """
    readme = (ROOT / "README.md").read_text()
    catalogue, baseline = tmp_path / "my_ops.py", tmp_path / "baseline.tsv"
    catalogue.write_text(readme.split("<!-- example: my_ops.py -->\n```python\n")[1].split("```")[0])

    def script(**environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        command = [
            ROOT / ".ci/gate",
            catalogue,
            "my_swish",
            "--profile",
            "quick",
            "--mode",
            "backward",
            "--dtype",
            "float32",
        ]
        return subprocess.run(
            command,
            env=os.environ | {"PATH": path, "BASELINE": str(baseline)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    closed = script(GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))
    assert closed.returncode == 1, closed.stderr
    assert "| fails | my_swish | float32 | cpu" in (tmp_path / "summary.md").read_text()
    assert script(UPDATE="1").returncode == 0
    assert script().returncode == 0
    assert subprocess.run([ROOT / ".ci/gate"], capture_output=True, check=False).returncode == 2
