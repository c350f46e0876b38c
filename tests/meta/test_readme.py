"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.kernels import entry
from tests.meta.test_explanation import first
from tests.subject.mode import MODES
from tests.verdict.choice import PROFILES, chosen
from tests.verdict.explanation import explained

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def shown(pattern: str, text: str = README) -> str:
    """Return the part that a pattern has in parentheses."""
    found = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return str(found[1])


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Write the catalogue that the README shows."""
    path = tmp_path / "my_ops.py"
    path.write_text(shown(r"<!-- example: my_ops.py -->\n```python\n(.*?)```"))
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


def test_failure_can_be_pasted(example: Path) -> None:
    """The snippet of the failure that the README shows prints what it says came."""
    failure = shown(r"```\n(d my_swish.*?)```")
    got = shown(r"^got (\S+),", failure)
    code = failure[failure.index("import my_ops") :]
    path = os.pathsep.join(map(str, (ROOT, example.parent)))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"['{got}']"


def test_failure_of_a_tensor_op_is_real() -> None:
    """The failure that the README shows of a kernel with a fault is what is said of it."""
    failure = shown(r"```\n(d tail.*?)```")
    assert explained(first(entry("tail", faulty=True)), MODES["backward"], "cpu").startswith(failure)


def test_profiles_are_named() -> None:
    """The README names every profile, as the command line does."""
    assert "|".join(PROFILES) in README


def test_environments_exist() -> None:
    """Every tox environment that the README names is there."""
    named = set(re.findall(r"tox -e ([\w-]+)", README))
    assert {"assay", "bench", "sensitivity"} <= named
    assert named <= set(re.findall(r"\[testenv:([\w-]+)\]", (ROOT / "tox.ini").read_text()))
