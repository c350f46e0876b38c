"""The atlas: how accurate each op's gradient is in each format, in a file that diffs well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reference.format import FORMATS
from tests.subject import record
from tests.subject.comparison import UNSUPPORTED, VERDICTS
from tests.subject.table import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.subject.record import Record

COLUMNS = ("op", "dtype", "device", "torch", "inputs", "verdict", "worst_ulp", "worst_share", "at", "got", "should_be")


def rows(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """Return a row for each op, format and device: inputs judged, and the worst that was found among them."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for each in records:
        groups.setdefault((each.op, each.dtype, each.device, each.torch.split("+")[0]), []).append(each)
    order = list(FORMATS)
    found = sorted(groups.items(), key=lambda item: (item[0][0], order.index(item[0][1]), item[0][2]))
    return [(*key, *_worst(some)) for key, some in found]


def _worst(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the columns of what agrees least: a miss before any agreement, then the most ulps."""
    worst = max(records, key=lambda r: (r.verdict not in {VERDICTS[0], UNSUPPORTED}, float("inf") if r.worst_ulp is None else r.worst_ulp))
    inputs = str(sum(r.compared for r in records))
    numbers = tuple("" if n is None else f"{n:.3g}" for n in (worst.worst_ulp, worst.worst_share))
    at = ", ".join(f"{name}={value}" for name, value in worst.at.items())
    if worst.verdict == UNSUPPORTED:
        return (inputs, worst.verdict, "", "", "", "", "")
    return (inputs, worst.verdict, *numbers, at, short(worst.got), short(worst.expected))


def written(records: Iterable[Record]) -> str:
    """Write the atlas of records, with tabs between columns."""
    return "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows(records)))


if __name__ == "__main__":
    record.convert("Write the atlas of a run.", "the table to write, with tabs between columns", written)
