"""Records: one line of JSON for each conformance test, written as soon as it has ended."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one test found; the order of the fields is that of the file."""

    op: str
    mode: str
    order: int
    device: str
    dtype: str
    compared: int
    """Entries of gradients that were judged."""

    size: int
    """Elements of the largest input that was asked."""

    inside: str | None
    """The sharpest promise that held of what the op computes in; None where none did."""

    worst_ulp: float | None
    """The largest distance from the truth, in ulps; None where what came was not finite."""

    worst_share: float | None
    """The largest distance as a share of the allowance; None as above."""

    verdict: str
    """That of the new miss, else of the first known one, else ``agrees``; ``error`` where the test itself broke."""

    at: dict[str, str]
    """The inputs of that miss, or of the worst error, as hex floats."""

    got: str | None
    expected: str | None
    known: str | None
    """The reason of the known deviation, where every miss is one."""

    torch: str
    seed: int

    def line(self) -> str:
        """Write the record as one line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def parsed(cls, line: str) -> Record:
        """Read a record from its line; raises ValueError for a line that was cut off."""
        fields: dict[str, Any] = json.loads(line)
        return cls(**fields)


class Writer:
    """Appends records to a file, each on the disk before the next test starts."""

    def __init__(self, path: Path) -> None:
        """Open the file anew; raises OSError where it cannot be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Append one record."""
        self._file.write(record.line() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Record]:
    """Read the records of a file; a line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(Record.parsed(line))
    return records


def convert(description: str, result: str, write: Callable[[list[Record]], str]) -> None:
    """Run a command that makes a file of records into another; `result` says what that is."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("records", type=Path, help="the file that pytest --records wrote")
    parser.add_argument("result", type=Path, help=result)
    options = parser.parse_args()
    try:
        options.result.write_text(write(read(options.records)), encoding="utf-8")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
