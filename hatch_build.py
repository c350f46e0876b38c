"""The wheel: one package, `gradassay`, of the rooms that lie side by side here.

Every module that names a room names it in the package instead: ``from reference.op import Op`` becomes
``from gradassay.reference.op import Op``. What tests the suite itself stays here.
"""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "gradassay"
ROOMS = ("reference", "strategies", "tests")
"""The folders of modules that the package takes in, which have names of their own in a checkout."""

LEFT_OUT = (
    "tests/meta",
    "tests/kernels",
    "tests/mutation",
    "tests/wall",
    "tests/sensitivity.py",
    "tests/runs/coverage.py",
    "tests/runs/measurements",
    "tests/runs/report/lessons.py",
)
"""What the package does not need: tests of the suite itself, and what writes the project's own pages."""

RENAMED = {"gradassay.py": "__init__.py"}
"""Files that have another name in the package."""


class WheelError(Exception):
    """The wheel cannot be built; the message says why, and what to do."""


class PackageHook(BuildHookInterface[Any]):
    """Hatchling's hook that puts the package into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the package to a temporary folder, and have the wheel take it from there.

        Raises WheelError for an editable install, and where a module cannot be rewritten.
        """
        if version == "editable":
            message = (
                "there is no editable install, since modules get their names as the wheel is built; accepted: "
                "`pip install .`, or in the checkout nothing at all: `from gradassay import ...` works with its pytest"
            )
            raise WheelError(message)
        self._folder = Path(tempfile.mkdtemp())
        write(Path(self.root), self._folder)
        build_data["force_include"][str(self._folder)] = PACKAGE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - as hatchling calls it
        """Remove the temporary folder."""
        shutil.rmtree(self._folder)


def write(root: Path, folder: Path) -> None:
    """Write the package of a checkout to a folder. Raises WheelError where a module cannot be rewritten."""
    (folder / "py.typed").touch()
    for path in sources(root):
        name = path.relative_to(root).as_posix()
        target = folder / RENAMED.get(name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        target.write_text(rewritten(text, rooms(root)) if path.suffix == ".py" else text, encoding="utf-8")


def sources(root: Path) -> list[Path]:
    """Return the files of a checkout that the package has: all in the rooms but caches and what is left out."""
    within = [path for room in ROOMS for path in (root / room).rglob("*") if path.is_file()]

    def is_left_out(path: Path) -> bool:
        return path.suffix == ".pyc" or any(path.is_relative_to(root / name) for name in LEFT_OUT)

    return sorted([path for path in within if not is_left_out(path)] + [root / "gradassay.py", root / "conftest.py"])


def rooms(root: Path) -> re.Pattern[str]:
    """Return a pattern that matches, with no width, where a module names a room: the package's name belongs there.

    That is before ``reference.op``, in code and in strings, and in ``from reference import op``; it is not within a
    longer name or a path.
    """
    modules = {path.stem for room in ROOMS for path in (root / room).iterdir() if path.suffix in {".py", ""}}
    return re.compile(rf"(?<![\w./])(?=(?:{'|'.join(ROOMS)})(?:\.(?:{'|'.join(sorted(modules))})\b| import ))")


def rewritten(text: str, naming: re.Pattern[str]) -> str:
    """Return a module as it is in the package. Raises WheelError where a room would still be imported by itself."""
    done = naming.sub(f"{PACKAGE}.", text)
    for node in ast.walk(ast.parse(done)):
        match node:
            case ast.ImportFrom():
                is_refused = (node.module or "").split(".")[0] in ROOMS
            case ast.Import():  # of gradassay.tests.x too: code below an `import tests.x` would still say tests.x
                names = [alias.name for alias in node.names]
                is_refused = any(n.split(".")[0] in ROOMS or n.startswith(f"{PACKAGE}.") for n in names)
            case _:
                continue
        if is_refused:
            message = f"line {node.lineno}: {ast.unparse(node)}; accepted: from ROOM.MODULE import NAME"
            raise WheelError(message)
    return done
