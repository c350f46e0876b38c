"""The notes of a release, taken from CHANGELOG.md: ``python -m tests.meta.release v0.1.0``."""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADING = re.compile(r"^## (?:(?P<version>\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d|Unreleased)$", re.MULTILINE)
"""What stands above the changes of a version, or above those that no version has yet."""


class ReleaseError(Exception):
    """The tag, the version and the changelog are not about one release; the message says what is accepted."""


def notes(tag: str, version: str, changelog: str) -> str:
    """Return what a changelog says of the version that a tag names. Raises ReleaseError."""
    if tag != f"v{version}":
        message = f"{tag}: accepted: v{version}, since pyproject.toml has version = {version!r}"
        raise ReleaseError(message)
    sections = changes(changelog)
    if not sections.get(version):
        known = ", ".join(filter(None, sections)) or "none"
        message = f"{tag}: accepted: the tag of a version that CHANGELOG.md has changes of, which are {known}"
        raise ReleaseError(message)
    return sections[version] + "\n"


def changes(changelog: str) -> dict[str | None, str]:
    """Return what a changelog says of each version, the newest first; of None, what no version has yet."""
    found = list(HEADING.finditer(changelog))
    ends = [*(heading.start() for heading in found[1:]), len(changelog)]
    return {h["version"]: changelog[h.end() : end].strip() for h, end in zip(found, ends, strict=True)}


def version() -> str:
    """Return the version that pyproject.toml has."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def main() -> None:
    """Print the notes; exits with 2 where there are none."""
    parser = argparse.ArgumentParser(prog="python -m tests.meta.release", description=__doc__)
    parser.add_argument("tag", help="the tag of the release, such as v0.1.0")
    tag = parser.parse_args().tag
    try:
        sys.stdout.write(notes(tag, version(), (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    except ReleaseError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
