"""Every figure that a page gives is measured: it is on file with its command and commit, or a setting of the code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reference.catalogue import OPS
from tests.meta.device_faults import FAULTS as DEVICE_FAULTS
from tests.meta.faults import FAULTS
from tests.meta.prose import pages
from tests.meta.tape_faults import FAULTS as TAPE_FAULTS
from tests.runs.measurements import __main__ as command
from tests.runs.measurements import store
from tests.runs.measurements.figures import UnreadableError, of_gate, of_records, tables
from tests.runs.measurements.measurement import MEASUREMENTS
from tests.runs.speed import bench_backward, bench_oracle, gate, interleaved
from tests.runs.speed.work import counted, gated
from tests.verdict import deviation
from tests.verdict.choice import PROFILES
from tests.verdict.isolation import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.runs.measurements.figures import Rows

ROOT = Path(__file__).parents[2]
MADE = {"findings.md", "kinds.md", "measurements.md", "promises.md", "wall.md"}
"""The pages that commands write."""

NUMBER = r"(?<![\w.-])\d(?:[\d.,]*\d)?(?:\^-?\d+|e[+-]\d+)?"
TIME = r"(?:(?:micro|milli)?seconds?|minutes?|hours?)"
FIGURE = re.compile(
    rf"{NUMBER} ?(?:%|(?:{TIME}|ms|µs|s|min|times|[MG]i?B)\b)|{NUMBER} of (?:the )?{NUMBER}"
    rf"|\b(?:two|three|four|five|six|seven|eight|nine|ten) {TIME}|\b(?:a|an|one|half an?) (?:minute|hour)",
)
"""What a page may have measured: a number with a unit, so many of so many, or a time in words."""

LINK = re.compile(r"\[([^]]*)\]\((?:docs/)?measurements\.md#([\w-]+)\)")


def percent(share: float) -> str:
    """Write a share as the pages do."""
    return f"{share * 100:g} %"


SETTINGS = (
    f"fails above {percent(bench_backward.OVERHEAD)}",
    f"{percent(round(gate.MORE - 1, 6))} more close",
    f"A median above {interleaved.SLOWER} whose {percent(interleaved.CONFIDENCE)} interval",
    f"slows this side's backwards down by {percent(0.1)}",
    f"ends after {PROFILES['quick'].seconds:g} seconds in `quick`",
    f"{PROFILES['default'].seconds:g} in `default` and {PROFILES['thorough'].seconds:g} in the others",
    f"may take torch {PATIENCE:g} seconds unless the patience is said",
    "the last 8 of 17 tiles of 256",
    f"{len(FAULTS)} planted faults must each be caught",
    f"{len(TAPE_FAULTS)} faults of the tape must each be noticed",
    f"plants {len(DEVICE_FAULTS)} faults in them",
    f"Its {sum(each.device == 'vulkan' for each in deviation.read(deviation.FILE, OPS))} known deviations are on file",
    f"*Instructions* of {len(counted())} backwards",
    f"*Time* of {len(gated())} is measured",
    *(f"| {least} |" for least in (bench_oracle.CERTIFIED_FLOOR, bench_oracle.WIDE_FLOOR, bench_oracle.NARROW_FLOOR)),
    *(f"| {least} |" for least in (bench_oracle.TREE_FLOOR, bench_oracle.FIRST_TREE_FLOOR)),
    *(f"| {most} |" for most in bench_oracle.IN_USE.values()),
)
"""What pages say that is no figure but a setting, written with what the code has; the tiles are those of 4,099 rows."""


def prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a page in Markdown, without blocks of code and without settings."""
    plain = re.sub(r"```.*?```|^    .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    settings = re.compile("|".join(map(re.escape, SETTINGS)))
    yield from (settings.sub("", " ".join(paragraph.split())) for paragraph in re.split(r"\n\s*\n", plain))


def unmeasured(text: str) -> list[str]:
    """Return the figures of a page that no measurement has which their paragraph links to, and that are no setting."""
    found = []
    on_file = store.read()
    for paragraph in prose(text):
        links = LINK.findall(paragraph)
        sections = (store.section(MEASUREMENTS[name], on_file.get(name)) for _, name in links)
        held = {number for section in sections for number in re.findall(NUMBER, section)}
        told = [*FIGURE.findall(re.sub(r"`[^`]*`", "", paragraph)), *(words for words, _ in links)]
        found += [figure for figure in told if not is_held(figure, held, is_link=figure in dict(links))]
    return found


def is_held(figure: str, held: set[str], *, is_link: bool) -> bool:
    """Say whether every number of a figure was measured; a time in words is none, and a link need have none."""
    numbers = re.findall(NUMBER, figure)
    return set(numbers) <= held and bool(numbers or is_link)


@pytest.mark.parametrize("path", [p for p in pages() if p.name not in MADE], ids=lambda p: p.name)
def test_figures_of_a_page_are_measured(path: Path) -> None:
    """A page links to the measurement of each figure that it gives, and gives it as it is on file."""
    assert unmeasured(path.read_text(encoding="utf-8")) == []


def test_settings_are_said() -> None:
    """Each setting that is no figure stands in a page as the code has it."""
    everything = " ".join(" ".join(path.read_text(encoding="utf-8").split()) for path in pages())
    assert [setting for setting in SETTINGS if setting not in everything] == []


@pytest.mark.parametrize(
    "text",
    [
        "It takes 3 s.",
        "It takes about a minute.",
        "It took ten minutes.",
        "It is 1.5 times as long.",
        "31 of 32 are caught.",
        "It grew by 4 %.",
        "[31 of 32](measurements.md#rules-of-the-tape) are caught.",
        "See [all 999 of them](measurements.md#rules-of-the-tape).",
    ],
)
def test_figure_that_was_not_measured_is_noticed(text: str) -> None:
    """A figure without a link fails, and so does one that its measurement does not have."""
    assert unmeasured(text)


def test_figure_that_was_measured_is_held() -> None:
    """A figure that stands on file as it is told passes, as does code."""
    (row,) = store.read()["rules-of-the-tape"].figures.values()
    assert not unmeasured(f"[{row['transitions']} rules](measurements.md#rules-of-the-tape).\n\n    sleep 3 s\n")


def test_page_is_of_what_is_on_file() -> None:
    """The page of measurements is written by python -m tests.runs.measurements --page docs/measurements.md."""
    assert (ROOT / "docs/measurements.md").read_text(encoding="utf-8") == store.page(store.read())


def test_file_is_sorted_and_of_measurements_that_are_there() -> None:
    """What is on file is of the table, and written as the command writes it."""
    assert store.read().keys() <= MEASUREMENTS.keys()
    assert store.FILE.read_text(encoding="utf-8") == store.written(store.read())


def test_wrong_gradients_of_the_wall_are_counted() -> None:
    """The page of why has as many wrong gradients as that of the wall, which a command writes."""
    (count,) = re.findall(r"there are (\d+) wrong gradients", (ROOT / "docs/wall.md").read_text(encoding="utf-8"))
    assert f"has {count} wrong gradients" in (ROOT / "docs/why.md").read_text(encoding="utf-8")


def test_missing_is_never_shown_as_taken() -> None:
    """The page says of a measurement without figures that there are none."""
    assert all(f"### {each.name.replace('-', ' ').capitalize()}\n" in store.page({}) for each in MEASUREMENTS.values())
    assert store.page({}).count("Not taken yet.") == len(MEASUREMENTS)
    assert "Taken on" not in store.page({})


BOX = """
┏━━━━━━━━┳━━━━━━━━━┳━━━━━━━┓
┃ mutant ┃ planted ┃ assay ┃
┡━━━━━━━━╇━━━━━━━━━╇━━━━━━━┩
│ sign   │ 1,114   │       │
└────────┴─────────┴───────┘
"""
APART = """
Mutants

  caught      small   as kept   large    as kept
 ────────────────────────────────────────────────
  sign       1 of 2    1 of 2       3          4

2 ops.
"""
MARKDOWN = "|   | project | wrong |\n|---|---------|-------|\n| A | ours    |     1 |\n"


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (BOX, {"sign": {"planted": 1114, "assay": ""}}),
        (APART, {"sign": {"small": "1 of 2", "small, as kept": "1 of 2", "large": 3, "large, as kept": 4}}),
        (MARKDOWN, {"A": {"project": "ours", "wrong": 1}}),
    ],
    ids=["box", "apart", "markdown"],
)
def test_tables_are_read(text: str, row: Rows) -> None:
    """Tables in a box, with blanks between cells and in Markdown are read by row and column."""
    assert tables(text) == [row]


def test_outputs_of_another_kind_are_told() -> None:
    """What has no records is no run."""
    with pytest.raises(UnreadableError, match="accepted: what `pytest --records` wrote"):
        of_records("")


def test_gate_is_read() -> None:
    """Each row that is worse is told, beside how many were compared."""
    failed = '<testcase name="sin"><failure message="slower: 1, now 1.1"/></testcase><testcase name="cos"/>'
    found = of_gate(f"<testsuites><testsuite name='gate'>{failed}</testsuite></testsuites>")
    assert found == {"all": {"": "2 rows, of which 1 are worse"}, "sin": {"": "slower: 1, now 1.1"}}


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have a file of figures and two commands of its own, of which the second fails, in a clean tree."""
    model = MEASUREMENTS["rules-of-the-tape"]
    here = {
        "sound": replace(model, name="sound", command="echo 3 transitions and 2 invariants"),
        "fails": replace(model, name="fails", command="exit 3"),
        "tells-nothing": replace(model, name="tells-nothing", command="echo nothing"),
    }
    for module in (command, store):
        monkeypatch.setattr(module, "MEASUREMENTS", here)
        monkeypatch.setattr(module, "FILE", tmp_path / "measurements.json")
    (tmp_path / "measurements.json").write_text("{}")
    monkeypatch.setattr(store.read, "__defaults__", (tmp_path / "measurements.json",))
    monkeypatch.setattr(command, "changed", list)
    return tmp_path / "measurements.json"


def test_figures_are_kept_with_where_they_are_of(measuring: Path) -> None:
    """What was taken is on file with commit, day, torch, processor and time, though the next command failed."""
    assert command.main(["sound", "fails", "tells-nothing"]) == 1
    (kept,) = json.loads(measuring.read_text()).values()
    assert kept["figures"] == {"all": {"transitions": 3, "invariants": 2}}
    assert kept["commit"] == command.git("rev-parse", "--short=7", "HEAD")
    assert kept["seconds"] >= 0
    assert re.fullmatch(r"\d+ cores of .+", kept["cpu"])


def test_all_goes_on_where_it_was_interrupted(measuring: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What this commit has is not taken again, and what has no figures is listed."""
    command.main(["sound"])
    before = measuring.read_text()
    command.main(["--all", "--missing"])
    assert measuring.read_text() == before
    assert capsys.readouterr().out.split() == ["fails", "tells-nothing"]


@pytest.mark.usefixtures("measuring")
def test_file_that_is_given_has_no_time(tmp_path: Path) -> None:
    """Figures are taken out of an existing output, of which nobody knows how long it took."""
    (tmp_path / "said.txt").write_text("36 transitions and 9 invariants\n")
    assert command.main(["sound", "--from", str(tmp_path / "said.txt"), "--commit", "HEAD"]) == 0
    assert store.read()["sound"].seconds is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "accepted: NAME ..., --all, --missing or --page FILE.md"),
        (["nonesuch"], "nonesuch: no such measurement; accepted: sound, fails, tells-nothing"),
        (["sound", "--from", "nonesuch.txt"], "nonesuch.txt: No such file or directory"),
        (["--from", "nonesuch.txt"], "accepted: one NAME"),
        (["sound", "--from", __file__, "--commit", "nonesuch"], "Needed a single revision"),
    ],
)
@pytest.mark.usefixtures("measuring")
def test_bad_input_is_a_usage_error(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be done is said in a line, with what can."""
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("measuring")
def test_tree_that_was_changed_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure is of a commit, so files that no commit has as they are stop it."""
    monkeypatch.setattr(command, "changed", lambda: [" M tests/tape/model.py"])
    with pytest.raises(SystemExit, match="2"):
        command.main(["sound"])
    assert "tests/tape/model.py; accepted: a clean tree" in capsys.readouterr().err
    assert not store.read()
