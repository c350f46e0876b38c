"""What the README and the pages show is what happens."""

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import gradassay
from reference import domain, op, trace
from reference.catalogue import OPS
from tests.meta.kernels import entry
from tests.meta.picture import drawn
from tests.meta.prose import pages, sentences
from tests.meta.test_explanation import first
from tests.runs.known import page
from tests.runs.report.lessons import drawn as lessons
from tests.subject.device import passing, probed
from tests.subject.mode import MODES
from tests.verdict.choice import PROFILES, chosen
from tests.verdict.comparison import UNSUPPORTED, VERDICTS
from tests.verdict.deviation import FILE, read
from tests.verdict.explanation import explained
from tests.verdict.record import Record

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
EVERYTHING = "\n".join([README, (ROOT / "CONTRIBUTING.md").read_text(), *PAGES.values()])

MOST_WORDS = 700
"""The most words of the README, code included."""

MEDIAN, LONG = 16, 32
"""The most words of half of all sentences, and of 19 in 20."""

SOUND = """
import torch


def rms_norm(x, weight):
    return x * (x.pow(2).mean(-1, keepdim=True) + 2.0**-16).rsqrt() * weight
"""
"""The kernel that the README's test imports."""


def shown(pattern: str, text: str) -> str:
    """Return the part that a pattern has in parentheses."""
    found = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return str(found[1])


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Write the catalogue that the README shows."""
    path = tmp_path / "my_ops.py"
    path.write_text(shown(r"<!-- example: my_ops.py -->\n```python\n(.*?)```", README))
    return path


def test_example_is_a_catalogue(example: Path) -> None:
    """The example of an own op is read as one."""
    read = chosen(
        ops=["my_swish"],
        modes=(),
        dtypes=(),
        devices=(),
        profile="quick",
        catalogue=str(example),
        deviations=None,
        inside=None,
    )
    assert list(read.ops) == ["my_swish"]


def test_example_of_an_own_test_passes(tmp_path: Path) -> None:
    """The ten lines that the README shows run as they are, beside a sound kernel."""
    (tmp_path / "my_kernels.py").write_text(SOUND)
    (tmp_path / "test_norm.py").write_text(shown(r"<!-- example: test_norm.py -->\n```python\n(.*?)```", README))
    command: list[str | Path] = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, tmp_path, tmp_path], env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout


def test_names_of_entries_are_public() -> None:
    """What entries on the pages are written in, beside numpy and sympy, is imported from `gradassay`."""
    code = re.findall(r"```python\n(.*?)```", EVERYTHING, re.DOTALL) + re.findall(r"`([^`\n]+)`", PAGES["kernel.md"])
    called = {name for piece in code for name in re.findall(r"(?<![.\w])[A-Za-z]\w*(?=\()", piece)}
    rooms = {module.__name__: vars(module) for module in (domain, op, trace)}
    ours = {name for room in rooms.values() for name in room if getattr(room[name], "__module__", "") in rooms}
    assert {"Interval", "Op", "Stated", "Variant", "detached", "shift"} <= called & ours <= {*gradassay.__all__}


def test_failure_can_be_pasted(example: Path) -> None:
    """The snippet of the failure that the page of kernels shows prints what it says came."""
    failure = shown(r"```\n(d my_swish.*?)```", PAGES["kernel.md"])
    got = shown(r"^got (\S+),", failure)
    code = failure[failure.index("import my_ops") :]
    path = os.pathsep.join(map(str, (ROOT, example.parent)))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"['{got}']"
    assert failure.startswith(shown(r"```\n(d my_swish.*?)```", README))


def test_failure_of_a_tensor_op_is_real() -> None:
    """The failure that the page of kernels shows of one with a fault is what is said of it."""
    failure = shown(r"```\n(d tail.*?)```", PAGES["kernel.md"])
    assert explained(first(entry("tail", faulty=True)), MODES["backward"], "cpu").startswith(failure)


def test_picture_is_in_step() -> None:
    """The README's picture is what is said of that kernel: python -m tests.meta.picture docs/failure.svg."""
    assert (ROOT / "docs/failure.svg").read_text() == drawn()


def test_pictures_of_the_notebook_are_in_step() -> None:
    """The notebook has the pictures that are drawn of it: python -m tests.runs.report.lessons docs/notebook."""
    shown_there = re.findall(r"^!\[[^]]+\]\(notebook/([^)]+)\)", PAGES["notebook.md"], re.MULTILINE)
    assert {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/notebook").iterdir()} == lessons()
    assert sorted(shown_there) == sorted(lessons())


def test_words_for_pictures_say_what_they_show() -> None:
    """Who does not see a picture of the notebook is told the numbers that stand in it."""
    told = re.findall(r"^!\[([^]]+)\]\(notebook/([^)]+)\)", PAGES["notebook.md"], re.MULTILINE)
    numbers = [(number, name) for words, name in told for number in re.findall(r"-?\d+\.\d{4}", words)]
    assert numbers
    assert [number for number, name in numbers if f"{number}<" not in lessons()[name]] == []


def test_findings_are_those_on_file() -> None:
    """The page of what torch gets wrong is made of the file: python -m tests.runs.known docs/findings.md."""
    assert PAGES["findings.md"] == page(list(read(FILE, OPS)))


def test_readme_is_short() -> None:
    """The README can be read in a few minutes."""
    assert len(README.split()) <= MOST_WORDS


def test_sentences_are_short() -> None:
    """Of all pages together, half of the sentences are short, and few are long: python -m tests.meta.prose."""
    lengths = [len(each.split()) for path in pages() for each in sentences(path.read_text(encoding="utf-8"))]
    assert np.median(lengths) <= MEDIAN
    assert np.percentile(lengths, 95) <= LONG


def test_sentences_are_told_apart() -> None:
    """Code is a word, tables and headings are none, and a label is no sentence."""
    text = "# A page\n\nIt has `a b c` here. `x` starts one, too:\n\n    code of no sentence\n\n| a | b |\n\nSee it."
    assert list(sentences(text)) == ["It has Code here.", "Code starts one, too:"]


def test_links_of_the_readme_lead_somewhere() -> None:
    """Each page that the README or CONTRIBUTING names by a link is there; those of the pages the docs' build holds."""
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert linked
    assert all((ROOT / path).exists() for path in linked)


def test_profiles_are_named() -> None:
    """The page of options names every profile, as the command line does."""
    assert "|".join(PROFILES) in PAGES["torch.md"]


def test_modes_are_named() -> None:
    """The page of options has every mode in its table."""
    rows = re.findall(r"^\| ([\w, ]+) \| ", PAGES["torch.md"], re.MULTILINE)
    assert {name for row in rows for name in row.split(", ")} >= set(MODES)


def test_verdicts_are_named() -> None:
    """The reference has every verdict that a record may have in its table."""
    rows = set(re.findall(r"^\| (\w+) \| ", PAGES["reference.md"], re.MULTILINE))
    assert rows >= {*VERDICTS, UNSUPPORTED, "error", "crashed", "hung"}


def test_fields_of_records_are_named() -> None:
    """The reference says of every field of a record what it has."""
    section = PAGES["reference.md"].partition("## Records")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) == {each.name for each in fields(Record)}


def test_environments_exist() -> None:
    """Every tox environment that a page names is there."""
    named = set(re.findall(r"tox -e ([\w-]+)", EVERYTHING))
    assert {"assay", "bench", "sensitivity"} <= named
    assert named <= set(re.findall(r"\[testenv:([\w-]+)\]", (ROOT / "tox.ini").read_text()))


def test_modules_exist() -> None:
    """Every module that a page has a command with is there."""
    named = set(re.findall(r"python -m (tests[\w.]*)", EVERYTHING))
    assert named
    assert all(find_spec(name) for name in named)


@pytest.mark.parametrize("device", passing(probed()))
def test_notebook_prints_what_it_says(device: str) -> None:
    """Every block of the notebook, run in order, prints what stands in its comments, on every device."""
    blocks = re.findall(r"```python\n(.*?)```", PAGES["notebook.md"], re.DOTALL)
    said = [line.partition("  # ")[2] for block in blocks for line in block.splitlines() if "print(" in line]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), torch.device(device):
        exec("\n".join(blocks), {})  # noqa: S102 - the page is the suite's own
    assert len(said) > 10
    assert output.getvalue().splitlines() == said
