"""What the project says in two places agrees, and what it promises never to do it does not do."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import hatch_build
from tests.meta import release

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
GROUPS: dict[str, list[Any]] = PYPROJECT["dependency-groups"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini")
ACTION = (ROOT / ".github/actions/gate/action.yml").read_text()

KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""What Keep a Changelog sorts changes by."""

CONNECTS = {"aiohttp", "ftplib", "http", "httpx", "requests", "smtplib", "socket", "socketserver", "urllib", "urllib3"}
UNPICKLES = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "torch.load", "torch.save"}
EVALUATES = {"__import__", "compile", "eval", "exec", "sympify", "parse_expr"}
"""Calls that make a program of a string, as `sympify` does unless it is strict."""

WRITTEN_HERE = {"reference/compiler.py", "tests/tape/runner.py"}
"""The modules that compile text which they wrote themselves."""

FEW = ("--mode", "backward", "--dtype", "float32", "--profile", "quick", "--hypothesis-seed=0")
"""What a short run asks of an op."""

WATCHED = """
import sys
import pytest

def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.bind", "pickle.find_class"}:
        seen.append((event, *map(str, arguments)))

seen = []
sys.addaudithook(watch)
status = pytest.main(sys.argv[1:])
print("events:", seen)
sys.exit(status)
"""
"""A run of pytest that says what it connected to and what it unpickled."""

BLOCKED = """
import sys
import pytest

sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
status = pytest.main(["tests/test_enumeration.py", "--collect-only", "-q", "--profile", "exhaustive", "--op", "exp"])
import tests.runs.gate
import tests.runs.hook

sys.exit(status)
"""
"""What `tox -e gate` imports, without some modules."""


def requirements(group: str) -> list[str]:
    """Return what a group asks for, with what the groups that it includes ask for."""
    parts = [[part] if isinstance(part, str) else requirements(part["include-group"]) for part in GROUPS[group]]
    return [each for part in parts for each in part]


def modules(group: str) -> set[str]:
    """Return the modules that the distributions of a group have at the top."""
    names = {Requirement(each).name.lower() for each in requirements(group)}
    return {module for module, of in metadata.packages_distributions().items() if names & {n.lower() for n in of}}


def executed(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program here."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def pinned() -> str:
    """Return what tox installs as torch."""
    found = re.fullmatch(r"\{env:GRADASSAY_TORCH:(torch==[\d.]+)\}", TOX["testenv"]["deps"])
    assert found is not None
    return found[1]


def test_citation_is_of_this_version() -> None:
    """CITATION.cff has the name, the version and the licence of pyproject.toml."""
    said = dict(re.findall(r"^(title|version|license): (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert said == {"title": PROJECT["name"], "version": PROJECT["version"], "license": PROJECT["license"]}


def test_changelog_has_a_form() -> None:
    """The changelog has what is unreleased, then versions from the newest one, which is pyproject.toml's, on."""
    versions = list(release.changes(CHANGELOG))
    assert len(versions) == len(re.findall(r"^## ", CHANGELOG, re.MULTILINE))
    assert versions[0] is None
    released = [Version(each) for each in versions[1:] if each]
    assert released == sorted(released, reverse=True)
    assert released[:1] in ([], [Version(PROJECT["version"])])
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= KINDS


HISTORY = """# Changelog

## Unreleased

### Fixed

- Coming.

## 0.2.0 - 2026-12-01

### Added

- Newer.

## 0.1.0 - 2026-11-30

- Older.
"""


@pytest.mark.parametrize(("version", "said"), [("0.2.0", "### Added\n\n- Newer.\n"), ("0.1.0", "- Older.\n")])
def test_notes_are_those_of_the_version(version: str, said: str) -> None:
    """The notes of a release are what stands under its heading, and nothing else."""
    assert release.notes(f"v{version}", version, HISTORY) == said


@pytest.mark.parametrize(
    ("tag", "version", "said"),
    [
        ("v0.3.0", "0.2.0", "accepted: v0.2.0"),
        ("0.2.0", "0.2.0", "accepted: v0.2.0"),
        ("v0.3.0", "0.3.0", "which are 0.2.0, 0.1.0"),
    ],
)
def test_tag_of_another_version_is_refused(tag: str, version: str, said: str) -> None:
    """A tag that is not of pyproject.toml's version, or of which the changelog knows nothing, makes no release."""
    with pytest.raises(release.ReleaseError, match=re.escape(said)):
        release.notes(tag, version, HISTORY)


def test_actions_are_pinned() -> None:
    """Every action is pinned by a commit, the same one everywhere, and its version stands beside it."""
    paths = [path for path in (ROOT / ".github").rglob("*.yml") if path.name != "dependabot.yml"]
    used = [line for path in paths for line in path.read_text().splitlines() if re.search(r"\buses:", line)]
    pins = [re.search(r"uses: ([\w./-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+$", line) for line in used]
    assert len(pins) > 5
    assert all(pins), used
    found = {pin.groups() for pin in pins if pin}
    assert len(found) == len({action for action, _ in found})


def test_wheel_asks_for_what_groups_have() -> None:
    """What the wheel, its extra and its build ask for is tested here within the same bounds."""
    assert PROJECT["dependencies"] == requirements("package")
    assert set(PROJECT["optional-dependencies"]["report"]) == set(requirements("pages"))
    assert PYPROJECT["build-system"]["requires"] == requirements("build")


def test_groups_list_nothing_twice() -> None:
    """A requirement is typed in one group alone, and every group is used by tox or is for developers."""
    typed = [Requirement(part).name for parts in GROUPS.values() for part in parts if isinstance(part, str)]
    assert len(typed) == len(set(typed))
    within = {part["include-group"] for parts in GROUPS.values() for part in parts if isinstance(part, dict)}
    asked = {name for section in TOX.values() for name in re.split(r",\s*", section.get("dependency_groups", ""))}
    assert asked - {""} <= GROUPS.keys() <= asked | within | {"dev"}


def test_gate_needs_no_page() -> None:
    """The gate of accuracy imports nothing that only the report and the statistics of speed need."""
    absent = modules("pages")
    assert {"altair", "jinja2", "scipy", "vl_convert"} <= absent
    done = executed(BLOCKED, ",".join(absent), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_enumeration.py" in done.stdout


def test_torch_is_pinned_once() -> None:
    """Only tox.ini says which torch is installed; other places have its version for what was looked at with it."""
    kept = [ROOT / name for name in (".github", ".ci", "docs", "reference", "strategies", "tests")]
    paths = [path for folder in kept for path in folder.rglob("*") if path.is_file() and "_build" not in path.parts]
    paths += [path for path in ROOT.iterdir() if path.is_file()]
    having = [path.name for path in paths if path.suffix != ".pyc" and pinned().encode() in path.read_bytes()]
    assert having == ["tox.ini"]


@pytest.mark.parametrize("asked", ["pinned", "", "torch==9.9.9 numpy"])
def test_action_installs_the_torch_that_was_asked_for(asked: str, tmp_path: Path) -> None:
    """The action installs what tox.ini pins, or what its caller names, or no torch."""
    found = re.search(r"run: \|\n(.*?)\n      env:", ACTION, re.DOTALL)
    assert found is not None
    assert re.search(r"torch:\n.*\n    default: pinned\n", ACTION)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "TORCH": asked, "GITHUB_ACTION_PATH": str(ROOT / ".github/actions/gate")}
    said = subprocess.run(
        ["/bin/bash", "-ec", found[1]], env=environment, capture_output=True, text=True, check=True
    ).stdout
    installed = said.splitlines()[-1].split()
    assert Path(installed.pop()).resolve() == ROOT
    assert installed == ["-m", "pip", "install", "--quiet", *(pinned() if asked == "pinned" else asked).split()]


def forbidden(text: str) -> set[str]:
    """Return what a module imports or calls that could connect, unpickle, or run a string."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names):
                found |= {alias.name.split(".")[0] for alias in names} & (CONNECTS | UNPICKLES)
            case ast.ImportFrom(module=str(module)):
                found |= {module.split(".")[0]} & (CONNECTS | UNPICKLES)
            case ast.Call(ast.Name(name)) if name in EVALUATES:
                found.add(name)
            case ast.Call(ast.Attribute(attr="sympify" | "parse_expr" as name), keywords=keywords):
                found |= {name} - {name for each in keywords if each.arg == "strict"}
            case ast.Attribute() if ast.unparse(node) in UNPICKLES:
                found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os, pickle", {"pickle"}),
        ("import urllib.request", {"urllib"}),
        ("def f():\n    from http.client import HTTPConnection", {"http"}),
        ("torch.load('x.pt')", {"torch.load"}),
        ("exec('x = 1')", {"exec"}),
        ("sympy.sympify('x')", {"sympify"}),
        ("sympy.sympify(x, strict=True)", set()),
        ("evaluator.eval(region); re.compile('x')", set()),
    ],
)
def test_what_is_forbidden_is_seen(text: str, said: set[str]) -> None:
    """What connects, unpickles or runs a string is found in a module, and nothing else is."""
    assert forbidden(text) == said


def test_package_connects_and_unpickles_nothing() -> None:
    """No module of the package does what SECURITY.md excludes; two compile what they wrote, and it names them."""
    paths = [path for path in hatch_build.sources(ROOT) if path.suffix == ".py"]
    found = {path.relative_to(ROOT).as_posix(): forbidden(path.read_text()) for path in paths}
    assert {name for name, of in found.items() if of} == WRITTEN_HERE
    assert set().union(*found.values()) == {"compile", "exec"}
    assert all(f"`{name}`" in (ROOT / "SECURITY.md").read_text() for name in WRITTEN_HERE)


def test_run_connects_and_unpickles_nothing() -> None:
    """A run of the battery opens no connection and unpickles nothing."""
    done = executed(WATCHED, "tests", "--ignore=tests/meta", "-q", "--op", "exp", *FEW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("events: []\n")


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("import pickle; pickle.loads(pickle.dumps(slice))", "pickle.find_class"),
        ("import socket; socket.socket().connect_ex(('localhost', 9))", "socket.connect"),
    ],
)
def test_watch_sees_what_a_run_does(line: str, event: str, tmp_path: Path) -> None:
    """A run that unpickles a class or opens a connection is seen to."""
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {line}\n")
    done = executed(WATCHED, "-q", "-c", os.devnull, str(tmp_path))
    assert f"events: [('{event}'" in done.stdout


@pytest.mark.parametrize(("actions", "annotated"), [("true", True), ("", False)])
def test_failures_are_annotated_in_github_actions(actions: str, annotated: bool, tmp_path: Path) -> None:  # noqa: FBT001 - pytest passes it by name
    """A failure is an annotation that says what is wrong at which input, in GitHub Actions and nowhere else."""
    own = re.search(r"<!-- example: my_ops.py -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert own is not None
    (tmp_path / "my_ops.py").write_text(own[1])
    arguments = ["tests/test_manners.py", "--catalogue", str(tmp_path / "my_ops.py"), "--op", "my_swish", *FEW]
    done = executed(WATCHED, *arguments, GITHUB_ACTIONS=actions, GITHUB_WORKSPACE=str(ROOT))
    assert done.returncode == 1, done.stdout + done.stderr
    said = re.search(r"^::error file=tests/test_manners.py,.*d my_swish\(x\)/dx at x=", done.stderr, re.MULTILINE)
    assert bool(said) is annotated
