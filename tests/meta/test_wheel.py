"""The wheel gives strangers `assert_gradient`, pytest's plugin and the gate, and needs nothing of the checkout.

The environment is clean: it has the wheel, torch, and what the wheel's metadata asks for, by links to what is installed
here. So what the metadata forgets is missed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET  # S405: the test reads what pytest wrote

import pytest
from packaging.requirements import Requirement

import gradassay
import hatch_build
from tests.verdict import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
SECONDS = 5
"""The most that two calls of `assert_gradient` at 4,096 columns take, with torch imported."""

STRANGER = """
import numpy as np
import torch
from gradassay import assert_gradient

def rms_norm(x, weight):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * weight

def norm(x, weight):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
    return (wide * scale * weight.float()).to(x.dtype)

def faulty(x, weight):
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
    return (wide * scale.detach() * weight.float()).to(x.dtype)

def inputs():
    return torch.randn(4, 4096).bfloat16(), torch.randn(4096).bfloat16()

def test_sound():
    assert_gradient(norm, rms_norm, *inputs())

def test_faulty():
    assert_gradient(faulty, rms_norm, *inputs())
"""


def needed(requirements: Iterable[Requirement], known: set[str], extras: Iterable[str] = ()) -> set[str]:
    """Return the names of the installed distributions that requirements lead to, with those that are known."""
    for requirement in requirements:
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and str(requirement) not in known:
            known.add(str(requirement))
            further = map(Requirement, metadata.requires(requirement.name) or ())
            needed(further, known, requirement.extras)
    return {Requirement(one).name for one in known}


def linked(distribution: metadata.Distribution, packages: Path) -> None:
    """Install a distribution by links to what it has at the top."""
    assert distribution.files is not None
    for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
        if not (packages / top).is_symlink():
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))


def executed(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with nothing in its environment that leads here."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST_", "COV_", "COVERAGE_"))}
    return subprocess.run(command, cwd=folder, env=outer, capture_output=True, text=True, check=False, timeout=300)


def pip(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run pip, without an index."""
    return executed(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, folder=folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, or take the one that `tox -e dist` has built."""
    if "GRADASSAY_DIST" in os.environ:
        (built,) = Path(os.environ["GRADASSAY_DIST"]).glob("*.whl")
        return built
    folder = tmp_path_factory.mktemp("wheel")
    done = pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, folder=folder)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment that has torch and what the wheel needs; returns its programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in needed(map(Requirement, ("torch", *PROJECT["project"]["dependencies"])), set()):
        linked(metadata.distribution(name), packages)
    done = pip("--python", folder / "bin/python", "install", "--no-index", wheel, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a stranger's project: the README's catalogue, and a conftest with options of its own."""
    (tmp_path / "my_ops.py").write_text(README.split("<!-- example: my_ops.py -->\n```python\n")[1].split("```")[0])
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--device', default='mine')\n"
        "    parser.addoption('--profile', action='store_true')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = *_spec.py\naddopts = --strict-markers -W error\n")
    return tmp_path


def test_wheel_has_one_package(wheel: Path) -> None:
    """The wheel has `gradassay` alone, with its types, data, licence and entry points, and no test of the suite."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (folder,) = {name.split("/")[0] for name in names} - {"gradassay"}
        meta = archive.read(f"{folder}/METADATA").decode()
        points = archive.read(f"{folder}/entry_points.txt").decode()
    assert folder == f"gradassay-{PROJECT['project']['version']}.dist-info"
    assert {
        "gradassay/py.typed",
        "gradassay/tests/deviations.toml",
        "gradassay/tests/runs/report/page.html.jinja",
        f"{folder}/licenses/LICENSE",
    } <= set(names)
    assert not [name for name in names if "/meta/" in name or name.endswith(".pyc")]
    assert "Requires-Dist: torch" not in meta
    assert "Provides-Extra: report" in meta
    assert "[pytest11]" in points


def names(text: str) -> list[str]:
    """Return the names and attributes that a module uses, in order."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name | ast.Attribute)]
    return [node.id if isinstance(node, ast.Name) else node.attr for node in nodes]


def test_package_changes_what_imports_name_alone() -> None:
    """A module of the package uses the names that it uses here, and imports no room by itself."""
    naming = hatch_build.rooms(ROOT)
    modules = [path.read_text() for path in hatch_build.sources(ROOT) if path.suffix == ".py"]
    assert modules
    for text in modules:
        done = hatch_build.rewritten(text, naming)
        assert names(done) == names(text)
        assert done.replace("gradassay.", "") == text.replace("gradassay.", "")


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("from reference import op", "from gradassay.reference import op"),
        ("    from tests.verdict.record import Record", "    from gradassay.tests.verdict.record import Record"),
        ("'python -m tests.runs.gate'", "'python -m gradassay.tests.runs.gate'"),
        ("'the tests. And tests/atlas.tsv'", "'the tests. And tests/atlas.tsv'"),
        ("my_tests.runs.gate", "my_tests.runs.gate"),
    ],
)
def test_rooms_are_named_in_the_package(text: str, done: str) -> None:
    """A room is named in the package where a module of it, or an import from it, is meant."""
    assert hatch_build.rewritten(text.strip(), hatch_build.rooms(ROOT)) == done.strip()


@pytest.mark.parametrize("text", ["import reference.oracle", "import tests", "from reference.absent import Op"])
def test_import_that_cannot_be_renamed_is_an_error(text: str) -> None:
    """An import whose name would no longer be bound, or that leads nowhere, stops the build."""
    with pytest.raises(hatch_build.WheelError, match="accepted: from"):
        hatch_build.rewritten(text, hatch_build.rooms(ROOT))


def test_public_names_are_there() -> None:
    """Every public name is that of its module, and another is refused with those that there are."""
    assert sorted(gradassay.__all__) == sorted(name for names in gradassay.HOMES.values() for name in names)
    assert all(getattr(gradassay, name).__class__ for name in gradassay.__all__)
    with pytest.raises(AttributeError, match="assert_gradient"):
        gradassay.__getattr__("assert_gradients")


def test_torch_that_is_missing_is_asked_for(environment: Path, project: Path) -> None:
    """Where there is no torch, an import and a run that asks for the battery say so."""
    code = "import sys; sys.modules['torch'] = None; "
    done = executed(environment / "python", "-c", code + "from gradassay import Op", folder=project)
    assert "ImportError: gradassay judges the torch that is installed" in done.stderr
    code += "import pytest; sys.exit(pytest.main(['--catalogue', 'my_ops.py']))"
    done = executed(environment / "python", "-c", code, folder=project)
    assert (done.returncode, "ERROR: gradassay judges the torch" in done.stderr) == (4, True)


def test_editable_install_says_what_to_do(tmp_path: Path) -> None:
    """There is no editable install, and the error says what there is."""
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--prefix", tmp_path)
    done = pip("install", *options, "--editable", ROOT, folder=tmp_path)
    assert done.returncode != 0
    assert "there is no editable install" in done.stdout + done.stderr


def test_strangers_test_passes_and_explains_itself(environment: Path, tmp_path: Path) -> None:
    """A sound kernel of 4,096 columns passes, and a faulty one says what, where, what came and what is due, soon."""
    (tmp_path / "test_norm.py").write_text(STRANGER)
    done = executed(environment / "python", "-m", "pytest", "--junitxml", "norm.xml", folder=tmp_path)
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    said = [line for line in done.stdout.splitlines() if line.startswith("E ")]
    assert "d faulty(x, weight)/dx at [" in said[0]
    assert "[bfloat16, backward, cpu]" in said[0]
    assert "got " in said[1]
    assert "should be " in said[1]
    assert "times the rounding allowance" in said[2]
    assert any("def rms_norm(x, weight):" in line for line in said)
    assert len(said) <= 32, "an explanation has one screen"
    cases = ET.parse(tmp_path / "norm.xml").findall(".//testcase")  # noqa: S314 - written a line above
    assert sum(float(case.attrib["time"]) for case in cases) < SECONDS


def test_plain_run_is_left_alone(environment: Path, project: Path) -> None:
    """A run that asks for nothing of gradassay imports nothing of it, and has no option of it in its way."""
    (project / "plain_spec.py").write_text(
        "import sys\n"
        "from hypothesis import settings\n"
        "def test_plain(request):\n"
        "    assert request.config.getoption('--device') == 'mine'\n"
        "    assert not {'torch', 'sympy', 'flint', 'numpy', 'gradassay.conftest'} & set(sys.modules)\n"
        "    assert settings.get_current_profile_name() in {'default', 'ci'}  # Hypothesis' own, here and in CI\n"
    )
    done = executed(environment / "python", "-m", "pytest", folder=project)
    assert "1 passed" in done.stdout, done.stdout
    assert "gradassay:" not in done.stdout


def pytest_run(environment: Path, project: Path, options: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run pytest in a stranger's project, quick and in one mode and format."""
    chosen = ("--profile", "quick", "--mode", "backward", "--dtype", "float32", "--hypothesis-seed=0")
    return executed(environment / "python", "-m", "pytest", *options, *chosen, folder=project)


def test_catalogue_gets_the_battery(environment: Path, project: Path) -> None:
    """`--catalogue` alone brings the battery, which finds what the README says, and records it."""
    (project / "records.jsonl").touch()
    options = ("--catalogue", "my_ops.py", "--op", "my_swish", "--records", "records.jsonl")
    done = pytest_run(environment, project, options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "d my_swish(x)/dx" in done.stdout
    assert "import my_ops" in done.stdout
    records = record.read(project / "records.jsonl")
    assert {each.op for each in records} == {"my_swish"}
    assert "inaccurate" in {each.verdict for each in records}


def test_suite_runs_from_the_wheel(environment: Path, project: Path) -> None:
    """The suite's own run of an op of torch needs no checkout."""
    done = pytest_run(environment, project, ("--pyargs", "gradassay.tests", "--op", "softplus"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_ops.py" in done.stdout
    assert "verdicts" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--catalogue", "my_ops.py", "--op", "my_swsh"), "no such op; the nearest: my_swish; accepted: square, cube"),
        (("conftest.py", "--catalogue", "my_ops.py"), "conftest.py: the battery runs alone; accepted: no path"),
    ],
    ids=["op", "path"],
)
def test_bad_option_is_a_usage_error(environment: Path, project: Path, options: tuple[str, ...], said: str) -> None:
    """What the plugin does not take is refused with exit status 4, and with what it does take."""
    done = pytest_run(environment, project, options)
    assert done.returncode == 4
    assert said in done.stderr


def test_gate_holds_the_ops_of_another_project(environment: Path, project: Path) -> None:
    """What the action and the hook run closes for an op that is wrong, until its own baseline excuses that."""

    def gate(*options: str) -> int:
        chosen = ("--profile", "quick", "--mode", "backward", "--dtype", "float32")
        program = environment / "gradassay-gate"
        return executed(program, "my_ops.py", "my_swish", *options, *chosen, folder=project).returncode

    assert gate("--markdown", "summary.md") == 1
    assert "| fails | my_swish | float32 | cpu" in (project / "summary.md").read_text()
    assert gate("--baseline", "baseline.tsv", "--update") == 0
    assert gate("--baseline", "baseline.tsv") == 0
