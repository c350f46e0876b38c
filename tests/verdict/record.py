"""Records: one line of JSON for each conformance test, written as soon as it has ended."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one test found; the order of the fields is that of the file."""

    op: str
    """The name of the op, or ``tree`` for drawn ones."""

    mode: str
    order: int
    """How often the mode differentiates."""

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
    """What came in the place of the truth: a hex float, or what is malformed about it, or what torch says it lacks."""

    expected: str | None
    """What was due: a hex float, or words where no number was."""

    known: str | None
    """The reason of the known deviation, where every miss is one."""

    torch: str
    """The version of torch, with its build."""

    seed: int
    """The seed of all draws, as `--hypothesis-seed` takes it."""

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
        self._file.flush()  # a crash of this process must not take the records before it

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Record]:
    """Read the records of a file; a line that was cut off is left out. Raises OSError.

    A run that was killed leaves half a line at its end, and what it found before is of use.
    """
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(Record.parsed(line))
    return records


@contextlib.contextmanager
def usage_errors(parser: argparse.ArgumentParser, *kinds: type[Exception]) -> Iterator[None]:
    """Turn a file that cannot be read or written, and exceptions of some kinds, into usage errors inside the context.

    A usage error is printed below the usage of the command, and ends the process with the status 2.
    """
    try:
        yield
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except kinds as error:
        parser.error(str(error))


def convert(description: str, result: str, write: Callable[[list[Record]], str]) -> None:
    """Run a command that makes another file of a file of records; `result` says what that file is."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("records", type=Path, help="the file that pytest --records wrote")
    parser.add_argument("result", type=Path, help=result)
    options = parser.parse_args()
    with usage_errors(parser):
        options.result.write_text(write(read(options.records)), encoding="utf-8")
