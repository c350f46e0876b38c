"""What a run prints at its end: the counts are right, the gravest come first, and every line fits any terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.text import Text

from reference.catalogue import OPS
from reference.format import FORMATS
from tests.meta import example
from tests.runs import gravest, summary, table
from tests.verdict.choice import TREE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.verdict.record import Record

AGREES = replace(example.AGREES, compared=1000, size=1000, inside="wide", worst_ulp=0.5)
WRONG = replace(AGREES, verdict="inaccurate", got="0x1.8p+0", expected="0x1.0p+0", worst_ulp=1e6, worst_share=9e5)
GRAVEST_FIRST = {
    "crashed": replace(AGREES, op="h", verdict="crashed", worst_ulp=None, worst_share=None),
    "zero_is_due": replace(WRONG, op="g", expected="0x0.0p+0", worst_ulp=None, worst_share=None),
    "wrong": replace(WRONG, op="f"),
    "less_wrong": replace(WRONG, op="e", worst_share=8e5),
    "nan": replace(WRONG, op="d", verdict="lost", got="nan", worst_ulp=None, worst_share=None),
    "zero": replace(WRONG, op="c", verdict="lost", got="0x0.0p+0", worst_ulp=2.0**24),
    "malformed": replace(WRONG, op="b", verdict="malformed", got="no gradient", expected="a gradient", worst_ulp=None),
    "subnormal": replace(WRONG, op="a", got="0x0.0p+0", expected="0x1p-130", worst_ulp=2.0**19),
    "few_ulp": replace(WRONG, op="0", worst_ulp=9.0, worst_share=1.5),
    "convention": replace(WRONG, op="-", verdict="convention"),
}
"""One record of each severity; their names are in the opposite order."""

LONG = replace(
    WRONG,
    op=max(OPS, key=len),
    verdict="malformed",
    device="privateuseone:0",
    dtype="bfloat16",
    at={f"weight{number}": "0x1.23456789abcdep-1000" for number in range(9)},
    got=f"RuntimeError: [a message/of torch] that goes {'on and ' * 40}on_{'without_a_space_' * 20}",
    expected="a gradient",
    worst_share=None,
)
MANY = [
    *(replace(WRONG, op=f"op{number}", known="on file", worst_share=1e9) for number in range(30)),
    *(replace(WRONG, op=name, worst_share=2.0) for name in ("first", "second")),
    replace(WRONG, op="first", mode="grad", worst_share=3.0),
    *([AGREES] * 5),
    LONG,
    replace(LONG, known="on file"),
    replace(AGREES, verdict="unsupported", got="\"sin_cpu\" not implemented for '\N{SNOWMAN}'", compared=0),
]


def text(records: Sequence[Record], path: str | None = None, *, color: bool = False, encoding: str = "utf-8") -> str:
    """Return what a run prints."""
    return table.printed([*table.counts(records), *gravest.digest(records, path)], color=color, encoding=encoding)


def row(printed: str, name: str) -> list[str]:
    """Return the counts of a name, of tables below each other too."""
    lines = printed.partition("NEW")[0].splitlines()
    return [cell for line in lines if line.split()[:1] == [name] for cell in line.split()[1:]]


@pytest.fixture(params=[200, 120, 80, 60], autouse=True)
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the columns of the terminal."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_line_fits(columns: int, encoding: str) -> None:
    """No line is longer than the terminal is wide, in a run or in the summary, and nothing is cut off in a cell."""
    records = [replace(r, dtype=dtype) for r in MANY for dtype in FORMATS]
    whole = table.printed(summary.tables(records, whole=True), color=False, encoding=encoding)
    for printed in (text(records, "assay/records.jsonl", encoding=encoding), whole):
        assert max(map(len, printed.splitlines())) <= columns
        assert "\N{HORIZONTAL ELLIPSIS}" not in printed
        assert "privateuseone:0" in printed
        assert printed.isascii() is (encoding == "ascii")


def test_colours_say_nothing_that_words_do_not() -> None:
    """With colours the words are the same, and without there is no escape."""
    plain, colored = text(MANY), text(MANY, color=True)
    assert "\x1b" not in plain
    assert "\x1b[1;31m" in colored
    stripped = "\n".join(line.rstrip() for line in Text.from_ansi(colored).plain.splitlines())
    assert stripped == plain.rstrip("\n")
    assert "\x1b[1;31m" not in text([AGREES, replace(WRONG, known="on file")], color=True)


def test_counts_are_right() -> None:
    """New and known ones are counted apart, and the new ones by verdict, in each format on each device."""
    printed = text([*MANY, replace(AGREES, dtype="float64", compared=34)])
    assert row(printed, "tests") == ["39", "1", "2"]
    assert row(printed, "entries") == ["38,000", "34", "2,000"]
    assert row(printed, "agrees") == ["5", "1", "0"]
    assert row(printed, "known") == ["30", "0", "1"]
    assert row(printed, "new") == ["3", "0", "1"]
    assert row(printed, "inaccurate") == ["3", "0", "0"]
    assert row(printed, "malformed") == ["0", "0", "1"]
    assert row(printed, "unsupported") == ["1", "0", "0"]
    assert printed.index("float32") < printed.index("float64") < printed.index("bfloat16")


def test_ten_gravest_are_shown_and_the_others_counted() -> None:
    """All new rows come before known ones that are graver; the last lines count each, and say where they are."""
    printed = text(MANY, "some records.jsonl")
    shown = printed[printed.index("NEW") :]
    states = [line.split()[0] for line in shown.splitlines() if line.startswith(("NEW ", "known "))]
    assert states == ["NEW"] * 3 + ["known"] * 7
    said = " ".join(printed.split())
    assert "the 10 gravest of 34 rows that deviate, 3 new and 31 known; all of them:" in said
    assert "python -m tests.runs.summary 'some records.jsonl' --all" in said
    assert "--records FILE.jsonl" in " ".join(text(MANY).split())
    assert "rows that deviate: 1 new and 0 known" in text([WRONG])
    assert "deviate" not in text([AGREES])


def test_more_than_ten_new_ones_are_counted() -> None:
    """New rows beyond the tenth are in the count."""
    said = " ".join(text([replace(WRONG, op=f"op{number}") for number in range(25)]).split())
    assert "the 10 gravest of 25 rows that deviate, 25 new and 0 known" in said


def test_gravest_come_first() -> None:
    """Rows are by what came, then by the share of the allowance, whatever their names are."""
    backwards = list(GRAVEST_FIRST.values())[::-1]
    assert [some[0].op for some in gravest.deviating(backwards)] == [r.op for r in GRAVEST_FIRST.values()]
    known = [replace(r, known="on file") for r in backwards]
    first = gravest.deviating([*known, GRAVEST_FIRST["convention"]])[0]
    assert first == [GRAVEST_FIRST["convention"]]


def test_numbers_differ_as_they_are_written() -> None:
    """What came and what is due have as many digits as tell them apart."""
    printed = text([replace(WRONG, got="0x1.0000200000000p+1", expected="0x1.0000000000000p+1")])
    assert "2.000004" in printed
    assert "2.0000038" not in printed
    assert "1.0000000000000002" in text([replace(WRONG, got="0x1.0000000000001p+0", dtype="float64")])


def test_a_test_that_broke_has_nothing_that_came() -> None:
    """A row of a test without a miss has where it was, and no words about a number that never came."""
    printed = text([replace(AGREES, verdict="error", worst_ulp=None, worst_share=None)])
    assert "x=1\n" in printed
    assert "got" not in printed.partition("x=1")[2]


def test_row_has_the_gravest_test() -> None:
    """Of the tests of a row the gravest is shown, and how many there are."""
    ((first, other),) = gravest.deviating([WRONG, replace(WRONG, mode="grad", worst_share=1e6)])
    assert (first.mode, other.mode) == ("grad", "backward")


def test_all_rows_are_in_the_summary() -> None:
    """The command that a run names shows every row."""
    whole = table.printed(summary.tables(MANY, whole=True), color=False, encoding="utf-8")
    assert all(f"op{number} " in whole for number in range(30))
    assert "op7 " not in table.printed(summary.tables(MANY), color=False, encoding="utf-8")


def test_promises_are_counted_and_those_not_kept_named() -> None:
    """A run counts what tensor ops compute in, and names those that keep less than declared; trees are no ops."""
    assert (OPS["sum"].inside, OPS["prelu"].inside) == ("wide", "saved")
    narrow = replace(AGREES, dtype="bfloat16")
    records = [replace(narrow, op=op) for op in ("sum", "mean", "prelu", TREE)]
    printed = text(records)
    assert "computes in wide 3" in " ".join(printed.split())
    assert "looser" not in printed
    less = replace(narrow, op="sum", inside="saved")
    own = replace(narrow, op="my_own", inside="format")
    said = " ".join(text([*records, less, own, replace(own, op="my_other", inside=None)]).split())
    assert "computes in wide 2 computes in saved 1 computes in format 1 computes in none 1" in said
    assert "looser than declared: sum in bfloat16 on cpu computes in saved, not wide" in said
    assert said.count("looser") == 2
    whole = " ".join(table.printed(summary.tables([*records, less]), color=False, encoding="utf-8").split())
    assert "sum (wide)" in whole
    assert "prelu (saved)" in whole
