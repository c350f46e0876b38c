"""What pytest loads of gradassay: the options that name files, and the battery where a run asks for it.

Once gradassay is installed, every run of pytest has this plugin. A run asks for the battery by one of these options, or
by its name, `pytest --pyargs gradassay.tests`; then its conftest is read, which has the other options. No other run
imports anything more, or has an option that its own conftest may want to have, such as `--device`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gradassay

if TYPE_CHECKING:
    from collections.abc import Iterable

BATTERY = Path(__file__).parent
"""The folder of the conformance tests."""

ASKED = pytest.StashKey[bool]()
"""Whether a run outside the checkout asked for the battery."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name files: pytest takes a file of an option that it does not know yet for tests."""
    group = parser.getgroup("gradassay", "what is assayed: options repeat or take commas")
    group.addoption(
        "--catalogue",
        metavar="FILE.py",
        help="assay entries of your own, OPS = (Op(...), ...); add --help to see what else chooses",
    )
    group.addoption("--deviations", metavar="FILE.toml", help="known deviations, instead of those that come with it")
    group.addoption("--records", metavar="FILE.jsonl", help="write one line of JSON for each conformance test")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Collect the battery, and read its conftest, where the run asks for it."""
    known = early_config.known_args_namespace  # what pytest has understood so far; it reads `args` again after this
    named = len(known.file_or_dir) > len(_others(known.file_or_dir, pyargs=known.pyargs))
    if not named and known.catalogue is None and known.deviations is None and known.records is None:
        return
    try:
        gradassay.require_torch()
    except ImportError as error:
        raise pytest.UsageError(str(error)) from None
    early_config.stash[ASKED] = True
    if not named:
        args.insert(0, str(BATTERY))
    # The battery's own conftest is wanted, and no other: options of two may have the same name, and a folder above it
    # may be the project's. A project may have another pattern for its files of tests, too.
    known.confcutdir = str(BATTERY.parent)
    known.file_or_dir[:] = [str(BATTERY)]
    early_config.addinivalue_line("python_files", "test_*.py")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a run of the battery together with other tests: what is set for the one would hold for the others.

    Raises pytest.UsageError.
    """
    others = _others(config.args, pyargs=config.option.pyargs)
    if config.stash.get(ASKED, False) and others:
        message = f"{', '.join(others)}: the battery runs alone; accepted: no path, or paths in {__package__}"
        raise pytest.UsageError(message)


def _others(arguments: Iterable[str], *, pyargs: bool) -> list[str]:
    """Return the arguments that name no part of the battery."""
    return [argument for argument in arguments if not _is_battery(argument.split("::")[0], pyargs=pyargs)]


def _is_battery(name: str, *, pyargs: bool) -> bool:
    """Say whether a path, or with `--pyargs` a dotted name, is the battery or a part of it."""
    dotted = pyargs and f"{name}.".startswith(f"{__package__}.")
    # resolved, since an installed package may be reached through a link
    return dotted or Path(name).resolve().is_relative_to(BATTERY.resolve())
