"""Imports go one way: from tests to strategies to the reference, and in tests from runs to verdicts to the subject."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UPWARDS = {
    "reference": {"strategies", "tests", "conftest", "gradassay", "torch", "hypothesis", "pytest"},
    "strategies": {"tests", "conftest", "gradassay", "torch", "pytest"},
    "tests/subject": {"strategies", "conftest", "gradassay", "hypothesis", "tests.verdict", "tests.runs"},
    "tests/verdict": {"strategies", "conftest", "gradassay", "hypothesis", "tests.runs"},
    "tests/runs": {"conftest", "gradassay", "tests.meta"},
}
"""What each room must not import."""


FLOORS = 5
"""The most modules of the reference that import one another in a row: nobody reads deeper."""


def imported(path: Path, *, runs: bool = False) -> set[str]:
    """Return what a module imports, anywhere in it or only where it runs, and the packages that hold that."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if runs and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    parts = [name.split(".") for name in plain | {f"{node.module}.{a.name}" for node in members for a in node.names}]
    return {".".join(part[:length]) for part in parts for length in range(1, len(part) + 1)}


@pytest.mark.parametrize("room", UPWARDS)
def test_layers_do_not_import_upwards(room: str) -> None:
    """No module of a room imports what is above it; only `tests` sees torch."""
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    assert not {str(path): found for path in modules if (found := imported(path) & UPWARDS[room])}


def test_reference_has_few_floors() -> None:
    """What is imported when the reference runs is no more than five modules deep; the catalogue counts as one."""
    rooms = [path for path in (ROOT / "reference").glob("*") if path.suffix == ".py" or path.name == "catalogue"]
    below: dict[str, set[str]] = {}
    for room in rooms:
        paths = [room] if room.is_file() else sorted(room.glob("*.py"))
        names = {name for path in paths for name in imported(path, runs=True)}
        below[f"reference.{room.stem}"] = {n for n in names if n.count(".") == 1} - {f"reference.{room.stem}"}

    def floor(name: str) -> int:
        return 1 + max((floor(other) for other in below[name] & set(below)), default=0)

    assert {name: floor(name) for name in below if floor(name) > FLOORS} == {}
