"""Imports go one way: tests know the strategies, which know the reference, which knows neither torch nor them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UPWARDS = {
    "reference": {"strategies", "tests", "conftest", "torch", "hypothesis", "pytest"},
    "strategies": {"tests", "conftest", "torch", "pytest"},
    "tests/subject": {"strategies", "conftest", "hypothesis"},
}
"""What each room must not import."""


def imported(path: Path) -> set[str]:
    """Return the packages that a module imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}}


@pytest.mark.parametrize("room", UPWARDS)
def test_layers_do_not_import_upwards(room: str) -> None:
    """No module of a room imports what is above it; only `tests` sees torch."""
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    assert not {str(path): found for path in modules if (found := imported(path) & UPWARDS[room])}
