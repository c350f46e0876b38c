"""The page of a run opens in a browser, with no network, and can be filtered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from reference.catalogue import OPS
from reference.format import FORMATS
from tests.meta import browser
from tests.meta.example import AGREES
from tests.meta.multiplied import OPS as MANY
from tests.meta.multiplied import multiplied
from tests.runs.report.along import MOST, stretches
from tests.runs.report.content import Content, gathered
from tests.runs.report.page import OWN, cells, families, page, written
from tests.runs.speed.table import Figure
from tests.runs.table import NONE, kept
from tests.subject.mode import MODES
from tests.verdict.record import Record, Writer, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from reference.case import Case

SMALL = 8_000_000
"""The bytes that a page may have, of however many ops."""

SOON = 2.0
"""The seconds in which it shows text and has loaded."""


def record(
    op: str,
    verdict: str,
    *,
    mode: str = "backward",
    known: str | None = None,
    ulp: float | None = 1.0,
    dtype: str = "float32",
    inside: str | None = "format",
) -> Record:
    """Return a record on the CPU."""
    return replace(AGREES, op=op, verdict=verdict, mode=mode, known=known, worst_ulp=ulp, dtype=dtype, inside=inside)


RECORDS = [
    record("sin", "agrees"),
    record("sin", "agrees", mode="grad"),
    record("tanh", "lost", known="1 - y*y <b>", ulp=None),
    record("softmax", "inaccurate", ulp=900.0),
    record("erfcx", "unsupported"),
    record("norm", "agrees", dtype="bfloat16", inside="wide"),
    record("norm", "agrees", dtype="bfloat16", inside="saved", mode="grad"),
    record("norm", "agrees", dtype="bfloat16", inside="format", mode="forward"),
]
FIGURES = [
    *(
        Figure(
            work="sin", family="elementary", kind=kind, size=10, dtype="float32", device="cpu", floor=1e-6, seconds=2e-6
        )
        for kind in ("forward", "backward")
    ),
    *(
        Figure(work="sin", kind="backward", size=size, grows="size", floor=1e-6, seconds=1e-6 * size)
        for size in (10, 100)
    ),
]


@pytest.fixture(scope="module")
def first_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page of a few records."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(RECORDS, FIGURES))
    return path


def test_page_needs_nothing_else(first_page: Path) -> None:
    """The page is small, escapes what torch said, and says what was found."""
    text = first_page.read_text()
    assert len(text) < SMALL
    assert "1 - y*y <b>" not in text.split("<script", maxsplit=1)[0]
    assert "src=" not in text.split("<script", maxsplit=1)[0]
    assert "8 tests compared 24 entries" in text
    assert "torch 2.13.0: new wrong gradients in 1 op<" in text
    assert all(f'id="op-{op}"' in text for op in ("sin", "tanh", "softmax", "erfcx"))


def test_page_says_what_tensor_ops_compute_in(first_page: Path) -> None:
    """The promise is the sharpest that every test in plain reverse mode kept, beside the declared one that differs."""
    assert kept(RECORDS) == {("norm", "bfloat16", "cpu"): "saved"}
    row = first_page.read_text().split('href="#op-norm">norm</a>', maxsplit=1)[1].split("<tr>", maxsplit=1)[0]
    assert "<td>format<td><b>saved</b>" in row
    broken = record("norm", "inaccurate", dtype="bfloat16", inside=None)
    assert kept([*RECORDS, broken]) == {("norm", "bfloat16", "cpu"): NONE}


def test_errors_of_tensor_ops_show_a_wrong_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each stretch of an axis there is one entry, and the last ones of a gradient whose tail is zero are new."""
    sound = MODES["backward"]

    def gradients(case: Case, device: str) -> list[torch.Tensor | None]:
        x, *others = sound.gradients(case, device)
        assert x is not None
        return [torch.cat([x[..., :-6], torch.zeros_like(x[..., -6:])], dim=-1), *others]

    op, form = OPS["layer_norm"], FORMATS["float32"]
    assert {each.state for each in stretches(op, form, "cpu", [])} == {"agrees"}
    monkeypatch.setattr("tests.runs.report.along.MODES", {"backward": replace(sound, gradients=gradients)})
    found = stretches(op, form, "cpu", [])
    assert {name: sum(each.wrt == name for each in found) for name in op.inputs} == dict.fromkeys(op.inputs, MOST)
    assert [(each.wrt, each.place >= 4090) for each in found if each.state == "new"] == [("x", True)]
    assert all((each.ulp <= each.allowed) is (each.state == "agrees") for each in found)


def test_cells_show_the_gravest_of_a_mode() -> None:
    """Of several tests of an op in a mode the new miss is shown, then the known one, then the largest error."""
    rows = cells([record("sin", "agrees"), record("sin", "lost", known="why"), record("sin", "inaccurate", ulp=9.0)])
    assert [(row["state"], row["error"], row["compared"]) for row in rows] == [("new", "9", 9)]
    assert [row["state"] for row in cells([record("sin", "agrees"), record("sin", "lost", known="why")])] == ["known"]
    assert [row["error"] for row in cells([record("sin", "agrees"), record("sin", "agrees", ulp=2.0)])] == ["2"]


def test_page_of_a_run_that_was_interrupted(tmp_path: Path) -> None:
    """A file whose last line was cut off makes a page of the others; one without a record makes an empty page."""
    writer = Writer(tmp_path / "records.jsonl")
    for each in RECORDS[:2]:
        writer.write(each)
    writer.close()
    cut = (tmp_path / "records.jsonl").read_text()[:-30]
    (tmp_path / "records.jsonl").write_text(cut)
    assert "1 tests compared 3 entries" in page(read(tmp_path / "records.jsonl"))
    assert "0 tests compared 0 entries" in page([])


@pytest.fixture(scope="module")
def content() -> Content:
    """Gather a run of some ops in each mode and format, of which two have a known deviation and one a new one."""
    every = [
        record(op, "agrees", mode=mode, dtype=dtype, inside="wide")
        for op in ("sin", "pow", "softmax", "layer_norm", "log_softmax")
        for mode in MODES
        for dtype in FORMATS
    ]
    return gathered([*every, *RECORDS])


@pytest.fixture(scope="module")
def large_page(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page of as many ops as are to come."""
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_text(written(multiplied(content)), encoding="utf-8")
    return path


def test_multiplied_has_as_many_ops(content: Content) -> None:
    """Ops under other names keep all that they had, and are own ops of the page."""
    many = multiplied(content, 20)
    names = {r.op for r in many.records}
    assert len(names) == 20
    assert {name for name in names if name not in OPS} == {row.op for row in families(many.records)[OWN]}
    assert [r for r in many.records if r.op in OPS] == list(content.records)
    assert [replace(r, op="softmax") for r in many.records if r.op == "softmax_2"] == [
        r for r in content.records if r.op == "softmax"
    ]
    assert many.pictures["softmax_2"] is content.pictures["softmax"]
    assert "errors-softmax_2" in written(many)


@pytest.fixture
def needs_chromium() -> None:
    """Skip where there is no browser."""
    if browser.chromium() is None:
        pytest.skip("there is no Chromium; on Debian: apt install chromium")


@pytest.fixture
def browser_page(first_page: Path, width: int, needs_chromium: None) -> Iterator[Page]:
    """Open the page in Chromium, offline, at its matrix; fails on a request or an error in the console."""
    del needs_chromium
    with browser.opened(first_page, width) as page:
        browser.show_matrix(page)
        yield page


@pytest.mark.usefixtures("needs_chromium")
@pytest.mark.parametrize("width", browser.SCREENS)
def test_many_ops_open_soon(large_page: Path, width: int) -> None:
    """A page of 450 ops is small, shows text and loads within two seconds, and fits a telephone."""
    assert large_page.stat().st_size < SMALL
    with browser.opened(large_page, width) as page:
        assert page.locator("section.op").count() == MANY
        assert page.evaluate("document.documentElement.scrollWidth") == width
        times = []
        for _ in range(browser.TIMES):  # the best of some: a machine may be busy
            page.reload()
            times.append(max(page.evaluate(browser.LOADED), page.evaluate(browser.PAINTED)))
        assert 0 < min(times) < SOON
        browser.show_matrix(page)
        page.locator("[data-spec=matrix] input[type=search]").fill("SOFTMAX_4")
        assert cell_rows(page) == {
            "softmax_4",
            "log_softmax_4",
            *(f"{n}softmax_4{i}" for n in ("", "log_") for i in range(10)),
        }


@pytest.mark.usefixtures("needs_chromium")
@pytest.mark.parametrize("width", browser.SCREENS)
def test_first_screen_says_what_is_new(content: Content, large_page: Path, width: int) -> None:
    """Without scrolling one reads whether torch is right, what is new, and the worst of what is known, with links."""
    worst = content.findings[0].op
    with browser.opened(large_page, width) as page:
        header = page.locator("header")
        box = header.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= browser.SCREENS[width]
        text = header.inner_text()
        assert text.index("new wrong gradients") < text.index("found something new") < text.index("softmax")
        assert text.index("softmax") < text.index("Known, the worst first") < text.rindex(worst)
        for op in ("softmax", worst):
            header.locator(f"a[href='#op-{op}']").last.click()
            assert page.locator(f"#op-{op}").is_visible()


@pytest.mark.usefixtures("needs_chromium")
def test_page_without_scripts(first_page: Path) -> None:
    """All but the pictures is there without a script: the verdicts in words, and each op's page."""
    with browser.opened(first_page, 400, scripts=False) as page:
        page.locator("#ops ~ details", has_text="normalisers").locator("summary").click()
        page.locator("#ops ~ details a[href='#op-softmax']").click()
        assert "inaccurate, new" in page.locator("#op-softmax").inner_text()


@pytest.mark.usefixtures("needs_chromium")
@pytest.mark.parametrize("width", browser.SCREENS)
@pytest.mark.parametrize("scheme", browser.SCHEMES)
def test_page_is_accessible(first_page: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    """Axe finds nothing: contrasts, names of links and regions, headings and tables, an op's page open among them."""
    with browser.opened(first_page, width, scheme) as page:
        browser.show_matrix(page)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        page.evaluate("location.hash = '#op-tanh'")
        page.wait_for_selector("#op-tanh canvas")
        found = Axe().run(page)
        assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
        assert found.violations_count == 0, found.generate_report()


def cell_rows(opened: Page) -> set[str]:
    """Return the ops that the matrix shows now."""
    opened.wait_for_timeout(200)
    names: list[str] = opened.evaluate("() => document.querySelector('[data-spec=matrix]').view.scale('y').domain()")
    return set(names)


@pytest.mark.parametrize("width", [400, 1600])
def test_page_in_a_browser(browser_page: Page, width: int) -> None:
    """It opens without a request or an error, fits the width, and each filter and link does what it says."""
    assert browser_page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("matrix", "neuron"):
        plot = browser_page.locator(f"[data-spec={name}]")
        plot.scroll_into_view_if_needed()
        plot.locator("canvas").wait_for()
        shown, drawn = plot.evaluate(
            "plot => [plot.querySelector('canvas').getBoundingClientRect().width, "
            "plot.querySelector('canvas').width / devicePixelRatio]"
        )
        assert shown >= drawn  # where it is wider than the page it scrolls, and does not shrink
    assert browser_page.locator("section.op:visible").count() == 0
    browser_page.evaluate("location.hash = '#op-tanh'")
    browser_page.wait_for_selector("#op-tanh [data-spec=errors-tanh] canvas")
    assert browser_page.locator("section.op:visible").count() == 1
    browser_page.evaluate("location.hash = '#op-softmax'")
    browser_page.wait_for_selector("#op-softmax [data-spec=errors-softmax] canvas")
    browser_page.evaluate("location.hash = '#op-tanh'")
    browser_page.locator("#op-tanh details summary").first.click()
    assert "x.grad" in browser_page.locator("#op-tanh details[open] pre").first.inner_text()
    browser_page.locator("#op-tanh details[open] button").first.click()
    assert browser_page.locator("#op-tanh details[open] button").first.inner_text() == "copied"


@pytest.mark.parametrize("width", [1600])
def test_filters_of_the_matrix(browser_page: Page, width: int) -> None:
    """The search, the verdict and the format each leave the ops that have it."""
    del width
    bindings = browser_page.locator("[data-spec=matrix] .vega-bindings")
    assert cell_rows(browser_page) == {"sin", "tanh", "softmax", "erfcx", "norm"}
    bindings.locator("input[type=search]").fill("tan")
    assert cell_rows(browser_page) == {"tanh"}
    bindings.locator("input[type=search]").fill("")
    bindings.locator("select[name=having]").select_option("new")
    assert cell_rows(browser_page) == {"softmax"}
    bindings.locator("select[name=having]").select_option("any")
    bindings.locator("select[name=chosen_family]").select_option("elementary")
    assert cell_rows(browser_page) == {"sin", "tanh"}
    bindings.locator("select[name=chosen_family]").select_option("all")
    bindings.locator("select[name=promise]").select_option("saved")
    assert cell_rows(browser_page) == {"norm"}
    bindings.locator("select[name=promise]").select_option("any")
    bindings.locator("select[name=chosen_dtype]").select_option("float16")
    assert cell_rows(browser_page) == set()


@pytest.mark.parametrize("width", [1600])
def test_order_of_the_matrix(browser_page: Page, width: int) -> None:
    """Its rows are in the order that is chosen."""
    del width
    orders = {}
    for name in ("name", "gravest first", "largest error first"):
        browser_page.locator("[data-spec=matrix] select[name=by]").select_option(name)
        browser_page.wait_for_timeout(200)
        orders[name] = browser_page.evaluate(
            "() => document.querySelector('[data-spec=matrix]').view.scale('y').domain()"
        )
    assert orders == {
        "name": ["erfcx", "norm", "sin", "softmax", "tanh"],
        "gravest first": ["softmax", "tanh", "erfcx", "sin", "norm"],
        "largest error first": ["tanh", "softmax", "sin", "norm", "erfcx"],
    }
