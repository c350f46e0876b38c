"""The gate closes for what is worse, and for nothing else."""

from __future__ import annotations

import itertools
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.meta.example import AGREES, ROOT, run
from tests.runs import atlas, hook, summary
from tests.runs.gate import changes, read
from tests.runs.outcome import Outcome
from tests.runs.table import GRAVITY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runs.gate import Row
    from tests.verdict.record import Record

gate = partial(run, "tests.runs.gate")
KEY = ("sin", "float32", "cpu")
SOUND = {
    "op": "sin",
    "dtype": "float32",
    "device": "cpu",
    "torch": "2.13.0",
    "kernels": "AVX2",
    "verdict": "agrees",
    "known": "",
    "inside": "",
    "worst_ulp": "1.2",
    "at": "x=0x1.0p+0",
}


def judged(**after: str) -> list[tuple[str, bool]]:
    """Return the kinds of change from a sound row, and whether the gate closes."""
    return [(change.kind, change.is_worse) for change in changes({KEY: SOUND}, {KEY: SOUND | after})]


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("wide", "saved", ["less sharp"]),
        ("saved", "format", ["less sharp"]),
        ("wide", "format", ["less sharp"]),
        ("format", "wide", []),
        ("wide", "wide", []),
        ("", "format", []),
        ("wide", "", []),
    ],
)
def test_gate_closes_for_a_looser_promise(before: str, after: str, kinds: list[str]) -> None:
    """A looser promise than before closes the gate; a sharper one does not, nor one where there was none."""
    found = changes({KEY: SOUND | {"inside": before}}, {KEY: SOUND | {"inside": after}})
    assert [(change.kind, change.is_worse) for change in found] == [(kind, True) for kind in kinds]


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
    assert "| mended" in Outcome("accuracy", ("op", "dtype", "device"), [KEY], mended).text(markdown=True)


EXPECTED = {
    #                       agrees  on file   not on file  broken unsupported
    "agrees":              "  <     . . . .     F F F F     F F F        U",
    "inaccurate, on file": "  M     < < < <     V F F F     F F F        U",
    "lost, on file":       "  M     < < < <     V V F F     F F F        U",
    "convention, on file": "  M     < < < <     V V V F     F F F        U",
    "malformed, on file":  "  M     < < < <     V V V V     F F F        U",
    "inaccurate":          "  M     < < < <     < F F F     F F F        U",
    "lost":                "  M     < < < <     < < F F     F F F        U",
    "convention":          "  M     < < < <     < < < F     F F F        U",
    "malformed":           "  M     < < < <     < < < <     F F F        U",
    "hung":                "  M     . . . .     F F F F     F F F        U",
    "crashed":             "  M     . . . .     F F F F     F F F        U",
    "error":               "  M     . . . .     F F F F     F F F        U",
    "unsupported":         "  S     . . . .     F F F F     F F F        .",
}  # fmt: skip
"""What the gate says of a row, by what it was; the columns are what it is now, in the same order.

Of < something is said only where the worst error has grown between the same kernels. V is F where torch is the same,
and as < where it is another.
"""

SAID = {
    "F": [("fails", True)],
    "U": [("unsupported", True)],
    "<": [("less accurate", True)],
    "M": [("mended", False)],
    "S": [("supported", False)],
    ".": [],
}
"""The kind of change of each letter, and whether the gate closes."""

STATES = list(itertools.product(GRAVITY, ("yes", "no", "")))
"""Each verdict with each entry of the column `known`, which means something of a miss only."""


def standing(verdict: str, known: str) -> str:
    """Return the name that the table has for a verdict."""
    is_miss = verdict not in {"agrees", "hung", "crashed", "error", "unsupported"}
    return f"{verdict}, on file" if is_miss and known == "yes" else verdict


@pytest.mark.parametrize("other_torch", [False, True], ids=["same torch", "other torch"])
@pytest.mark.parametrize("other_kernels", [False, True], ids=["same kernels", "other kernels"])
@pytest.mark.parametrize("grown", [False, True], ids=["same error", "larger error"])
@pytest.mark.parametrize("after", STATES, ids="-".join)
@pytest.mark.parametrize("before", STATES, ids="-".join)
def test_every_pair_of_verdicts(
    before: tuple[str, str], after: tuple[str, str], *, grown: bool, other_kernels: bool, other_torch: bool
) -> None:
    """The gate says of every pair of rows what the table says."""
    letter = EXPECTED[standing(*before)].split()[list(EXPECTED).index(standing(*after))]
    if letter == "V":
        letter = "<" if other_torch else "F"
    if letter == "<" and (other_kernels or not grown):
        letter = "."
    was = SOUND | {"verdict": before[0], "known": before[1]}
    now = SOUND | {
        "verdict": after[0],
        "known": after[1],
        "torch": "2.14.1" if other_torch else SOUND["torch"],
        "kernels": "AVX512" if other_kernels else SOUND["kernels"],
        "worst_ulp": "1.3" if grown else SOUND["worst_ulp"],
    }
    assert [(change.kind, change.is_worse) for change in changes({KEY: was}, {KEY: now})] == SAID[letter]


REFUSED = SOUND | {"verdict": "unsupported", "worst_ulp": "", "at": ""}


def told(before: Row, after: Row) -> list[tuple[str, bool]]:
    """Return the kinds of change from one row to a sound one that is changed, and whether the gate closes."""
    return [(change.kind, change.is_worse) for change in changes({KEY: before}, {KEY: SOUND | after})]


@pytest.mark.parametrize("verdict", ["inaccurate", "lost", "convention", "malformed", "hung", "crashed", "error"])
@pytest.mark.parametrize("before", [SOUND, REFUSED, SOUND | {"verdict": "error", "known": "no"}])
@pytest.mark.parametrize("torch", ["2.13.0", "2.15.0"])
def test_failure_that_is_not_on_file_closes_it(before: Row, verdict: str, torch: str) -> None:
    """A row that agreed, was not supported or had broken excuses no failure, whatever torch it is of."""
    assert told(before, {"verdict": verdict, "known": "no", "torch": torch, "worst_ulp": ""}) == [("fails", True)]


def test_support_that_is_new() -> None:
    """What torch newly supports is better where it agrees, and no one's business where its misses are on file."""
    assert told(REFUSED, {"torch": "2.15.0"}) == [("supported", False)]
    assert told(REFUSED, {"verdict": "inaccurate", "known": "yes", "worst_ulp": "900", "torch": "2.15.0"}) == []


def test_deviation_is_of_one_torch() -> None:
    """A miss on file is one where there was none before; the same miss off file is new, but for another torch."""
    known = SOUND | {"verdict": "lost", "known": "yes"}
    assert told(SOUND, known | {"torch": "2.15.0"}) == []
    assert told(known, {"verdict": "lost", "known": "no"}) == [("fails", True)]
    assert told(known, {"verdict": "lost", "known": "no", "torch": "2.15.0"}) == []
    assert told(known, {"verdict": "convention", "known": "no", "torch": "2.15.0"}) == [("fails", True)]


@pytest.mark.parametrize("known", ["yes", "no", ""])
@pytest.mark.parametrize("before", GRAVITY)
def test_error_always_closes_it(before: str, known: str) -> None:
    """A test that broke closes it, also where it had found a miss that is on file, and where it had broken before."""
    assert told(SOUND | {"verdict": before, "known": "yes"}, {"verdict": "error", "known": known}) == [("fails", True)]
    assert [change.kind for change in changes({}, {KEY: SOUND | {"verdict": "error", "known": known}})] == ["fails"]


@pytest.mark.parametrize(
    ("before", "after", "closes"),
    [("5", "5", False), ("5", "5.2", True), ("5", "", True), ("", "", False), ("", "5", False), ("5", "4", False)],
)
@pytest.mark.parametrize("verdict", ["inaccurate", "lost"])
def test_error_of_a_miss_may_not_grow(verdict: str, before: str, after: str, *, closes: bool) -> None:
    """A miss that is not on file closes it where it is further off than it was; no number is an infinite error."""
    was, now = {"verdict": "lost", "known": "no", "worst_ulp": before}, {"verdict": verdict, "known": "no"}
    assert told(SOUND | was, now | {"worst_ulp": after}) == [("less accurate", True)] * closes


def test_growth_is_a_choice() -> None:
    """A worst error counts where it is more than so many times as large."""
    grown = {KEY: SOUND | {"worst_ulp": "2.3"}}
    assert [change.kind for change in changes({KEY: SOUND}, grown, growth=1.9)] == ["less accurate"]
    assert changes({KEY: SOUND}, grown, growth=2) == []


def recorded(
    verdict: str = "agrees",
    *,
    known: str | None = None,
    ulp: float | None = 1.2,
    mode: str = "backward",
    device: str = "cpu",
) -> Record:
    """Return the record of a test of sin in float32."""
    return replace(AGREES, verdict=verdict, known=known, worst_ulp=ulp, mode=mode, device=device)


@pytest.mark.parametrize(
    ("records", "shown"),
    [
        ([recorded("error", known="why"), recorded("lost", known="why", ulp=None)], ("error", "no")),
        ([recorded("inaccurate", ulp=900), recorded("error", ulp=0)], ("error", "no")),
        ([recorded("inaccurate", ulp=900), recorded("lost")], ("lost", "no")),
        ([recorded("inaccurate"), recorded("lost", known="why", ulp=None)], ("inaccurate", "no")),
        ([recorded(), recorded("lost", known="why", ulp=0)], ("lost", "yes")),
        ([recorded("unsupported", ulp=0), recorded(ulp=0)], ("agrees", "")),
        ([recorded("unsupported", ulp=0), recorded("lost", known="why")], ("lost", "yes")),
        ([recorded("unsupported", ulp=0)], ("unsupported", "")),
    ],
)
def test_row_shows_what_the_gate_must_see(records: list[Record], shown: tuple[str, str]) -> None:
    """Of records of an op its row shows the gravest that is not on file, then what is, and last what was not judged."""
    for order in itertools.permutations(records):
        (row,) = read(atlas.written(order)).values()
        assert (row["verdict"], row["known"]) == shown


def test_row_names_few_inputs() -> None:
    """A row of an op whose inputs have many elements stays readable."""
    at = {f"x{n}": "0x1.0000000000000p+0" for n in range(9)}
    (row,) = read(atlas.written([replace(recorded("lost"), at=at)])).values()
    assert row["at"].endswith("x7=0x1.0000000000000p+0, ...")


def test_what_is_unsupported_hides_no_difference_of_devices() -> None:
    """A mode that torch cannot be asked in is not the gravest of what was found on a device."""
    records = [recorded(), recorded("lost", device="vulkan"), recorded("unsupported", mode="forward", device="vulkan")]
    table = summary.differences(records)
    assert table is not None
    assert [next(iter(column.cells)) for column in table.columns] == ["sin", "float32", "agrees 1.2", "lost 1.2"]


def made(path: Path, verdict: str = "agrees") -> Path:
    """Write a file with one record."""
    path.write_text(recorded(verdict).line() + "\n")
    return path


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
    annotated = gate(wrong, baseline, "--annotate", "my, own.py").stdout.splitlines()[-1]
    assert annotated.startswith("::error file=my%2C own.py,title=gate of accuracy::sin-float32-cpu fails: agrees")
    assert "::" not in gate(sound, baseline, "--annotate", "my_ops.py").stdout


def test_command_sees_wrong_support(tmp_path: Path) -> None:
    """An op that was unsupported closes the gate of the command where it is supported and wrong."""
    baseline = tmp_path / "baseline.tsv"
    baseline.write_text(atlas.written([recorded("unsupported")]))
    closed = gate(made(tmp_path / "wrong.jsonl", "inaccurate"), baseline)
    assert closed.returncode == 1
    assert "closed: of 1 rows 1 are worse and 0 better" in closed.stdout
    opened = gate(made(tmp_path / "sound.jsonl"), baseline)
    assert opened.returncode == 0
    assert "open: of 1 rows 0 are worse and 1 better" in opened.stdout


def test_nothing_to_compare_is_a_usage_error(tmp_path: Path) -> None:
    """Records without a line, and a baseline that is not there, are refused."""
    (tmp_path / "empty.jsonl").write_text("")
    assert gate(tmp_path / "empty.jsonl", ROOT / "tests/atlas.tsv").returncode == 2
    assert gate(made(tmp_path / "sound.jsonl"), tmp_path / "absent.tsv").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: catalogue, ops"),
        (["my_ops.py", "my_swish", "--update"], "accepted: together with --baseline FILE.tsv"),
        (["my_ops.py", "my_swish", "--baseline", "absent.tsv"], "accepted: a table that is there, or --update"),
        (["absent.py", "my_swish"], "has no record"),
    ],
    ids=["none", "update", "baseline", "records"],
)
def test_gate_of_own_ops_says_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """What the gate of one's own ops does not take is a usage error; so is a run that left no record."""
    monkeypatch.setattr(sys, "argv", ["gradassay-gate", *arguments])
    monkeypatch.setattr(hook, "assayed", lambda _catalogue, _ops, records, _further: records.touch() or 0)
    with pytest.raises(SystemExit) as raised:
        hook.main()
    assert raised.value.code == 2
    assert said in capsys.readouterr().err
