"""Benchmarks print their own tables, by ``python -m tests.runs.speed.table``."""

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_group_stats() -> list[object]:
    """Leave out pytest-benchmark's table, which has a row and nine columns for each of hundreds."""
    return []
