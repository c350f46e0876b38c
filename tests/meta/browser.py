"""Open a report in Chromium: ``python -m tests.meta.browser PAGE.html [--screenshots FOLDER]``.

It says how large the page is and how soon it is there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

SCREENS = {400: 800, 1600: 900}
"""The width of a telephone and that of a desk, in pixels, and their heights."""

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
TIMES = 3
"""How often each page is timed."""

MATRIX = "[data-spec=matrix] canvas"
"""What the matrix of verdicts is drawn on."""

PICTURES = ("new", "verdicts", "ops", "findings", "speed", "notebook", "op-tanh", "op-layer_norm")
"""The parts that are photographed, beside the top."""

LOADED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
"""Seconds after which a page has loaded, and shows text."""


def chromium() -> str | None:
    """Return the path of Chromium or Chrome, or None where neither is installed."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened(
    path: Path, width: int, scheme: Literal["light", "dark"] = "light", *, scripts: bool = True
) -> Iterator[Page]:
    """Open a page offline; asserts in the end that nothing was requested and nothing went wrong."""
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(
            viewport={"width": width, "height": SCREENS[width]},
            offline=True,
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else faults.append(request.url))
        page.goto(path.resolve().as_uri())
        yield page
        browser.close()
    assert faults == []


def show_matrix(page: Page) -> None:
    """Scroll to the matrix and wait until it is drawn."""
    page.locator("#verdicts").evaluate("heading => heading.scrollIntoView()")
    page.wait_for_selector(MATRIX)


def main() -> None:
    """Open the page at each width, print how soon it is there, and take pictures where they are asked for."""
    parser = argparse.ArgumentParser(description="Open a report in Chromium, offline.")
    parser.add_argument("page", type=Path, help="what tests.runs.report wrote")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="where to put pictures of its parts")
    options = parser.parse_args()
    if not options.page.exists():
        parser.error(f"{options.page}: no such file")
    if chromium() is None:
        parser.error("there is no Chromium; on Debian: apt install chromium")
    sys.stdout.write(f"{options.page}: {options.page.stat().st_size / 1e6:.1f} MB\n")
    for width, scheme in product(SCREENS, SCHEMES):
        with opened(options.page, width, scheme) as page:
            if options.screenshots:
                _photograph(page, options.screenshots, f"{width}-{scheme}")
    for width in SCREENS:
        with opened(options.page, width) as page:
            for _ in range(TIMES):
                page.goto(options.page.resolve().as_uri())
                loaded, painted = page.evaluate(LOADED), page.evaluate(PAINTED)
                start = perf_counter()
                show_matrix(page)
                sys.stdout.write(
                    f"{width} pixels wide: text after {painted:.1f} s, loaded after {loaded:.1f} s, "
                    f"and the matrix {perf_counter() - start:.1f} s after it is scrolled to\n"
                )


def _photograph(page: Page, folder: Path, name: str) -> None:
    """Take pictures of the parts of a page, each as soon as it is drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"top-{name}.png")
    show_matrix(page)
    for part in PICTURES:
        page.evaluate(f"location.hash = '{part}'")
        page.wait_for_timeout(500)  # milliseconds, in which what is scrolled to is drawn: an arbitrary number
        page.screenshot(path=folder / f"{part}-{name}.png")


if __name__ == "__main__":
    main()
