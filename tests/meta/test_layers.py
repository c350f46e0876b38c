"""Imports go one way: from tests to strategies to the reference, and in tests from runs to verdicts to the subject."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UPWARDS = {
    "reference": {"strategies", "tests", "conftest", "torch", "hypothesis", "pytest"},
    "strategies": {"tests", "conftest", "torch", "pytest"},
    "tests/subject": {"strategies", "conftest", "hypothesis", "tests.verdict", "tests.runs"},
    "tests/verdict": {"strategies", "conftest", "hypothesis", "tests.runs"},
    "tests/runs": {"conftest", "tests.meta"},
}
"""What each room must not import."""


def imported(path: Path) -> set[str]:
    """Return what a module imports, anywhere in it, and the packages that hold that."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
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
