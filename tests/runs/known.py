"""What torch gets wrong, by family, as it is on file: ``python -m tests.runs.known docs/findings.md``."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from reference.catalogue import FAMILIES, OPS
from reference.format import FORMATS
from tests.runs.table import markdown
from tests.subject.mode import MODES
from tests.verdict import deviation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.verdict.deviation import Deviation

HEAD = """\
# What torch gets wrong

{count} wrong gradients of torch {versions} are on file, in `tests/deviations.toml`, of {ops} ops. Each has a pinned
input that still shows it, or its test fails. This page is made of that file:

    python -m tests.runs.known docs/findings.md

With plain torch to paste for each, and how many bits are right at the pinned input, the worst first:

    python -m tests.runs.findings [OP ...]

An op may have several rows: torch goes wrong there for several reasons. *Where* is the region of the widest format of
those listed, in the inputs and the cotangent g. Of a tensor op it speaks of its inputs' sizes and values.
"""


@dataclass(frozen=True)
class Cause:
    """Why gradients of an op are wrong on a device: a row of the page."""

    op: str
    device: str
    reason: str
    link: str
    modes: tuple[str, ...]


def grouped(known: Iterable[Deviation]) -> dict[Cause, list[Deviation]]:
    """Group deviations by their cause: those of a group differ in format, region and pinned input."""
    found: dict[Cause, list[Deviation]] = {}
    for each in known:
        found.setdefault(Cause(each.op, each.device, each.reason, each.link, each.modes), []).append(each)
    return found


def page(known: list[Deviation]) -> str:
    """Write the page in Markdown, with a table for each family of ops."""
    versions = ", ".join(sorted({each.torch.removeprefix("==") for each in known}))
    parts = [HEAD.format(count=f"{len(known):,}", versions=versions, ops=len({each.op for each in known}))]
    causes = grouped(known)
    for family, ops in FAMILIES.items():
        names = {entry.name for op in ops for entry in op.entries}
        chosen = {cause: group for cause, group in causes.items() if cause.op in names}
        if chosen:
            parts += [f"## {family.capitalize()}\n", _table(chosen)]
    return "\n".join(parts)


def _table(causes: dict[Cause, list[Deviation]]) -> str:
    table = Table("op", "what", "where", "verdict", "formats", "modes", "device", "report", box=box.MARKDOWN)
    for cause, group in sorted(causes.items(), key=lambda pair: (pair[0].device, pair[0].op)):
        formats = sorted({each.dtype for each in group}, key=lambda name: FORMATS[name].precision)
        widest = next(each for each in group if each.dtype == formats[-1])
        verdicts = dict.fromkeys(verdict for each in group for verdict in each.verdicts)
        cells = (
            cause.op,
            cause.reason.replace("*", "\\*"),
            f"`{widest.region}`",
            ", ".join(verdicts),
            ", ".join(formats),
            _orders(cause.modes),
            cause.device,
            _linked(cause.link),
        )
        table.add_row(*map(Text, cells))  # as they are: brackets are no markup of rich's
    # Without the blanks that align columns: one long cell would change every line of the file.
    return re.sub(r" {2,}", " ", re.sub(r"-{4,}", "---", markdown(table))) + "\n"


def _orders(modes: tuple[str, ...]) -> str:
    """Name modes: by their order where they are all of that order, else one by one."""
    orders = {"first order": 1, "second order": 2, "third order": 3}
    for name, order in orders.items():
        if set(modes) >= {mode.name for mode in MODES.values() if mode.order == order and not mode.eager}:
            return name
    return ", ".join(modes)


def _linked(link: str) -> str:
    """Write a link to an upstream report by its number."""
    return f"[#{link.rsplit('/', 1)[1]}]({link})" if link.startswith("http") else link


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write what torch gets wrong, as it is on file, in Markdown.")
    parser.add_argument("path", type=Path, help="the page to write")
    parser.parse_args().path.write_text(page(list(deviation.read(deviation.FILE, OPS))), encoding="utf-8")


if __name__ == "__main__":
    main()
