"""Open a report in Chromium: ``python -m tests.meta.browser PAGE.html [--screenshots FOLDER]``.

It says how large the page is and how soon it is there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

WIDTHS = (400, 1600)
TIMES = 3
MATRIX = "[data-spec=matrix] canvas"
PICTURES = ("findings", "promises", "speed", "notebook", "op-tanh", "op-layer_norm")
"""The parts that are photographed, beside the top."""


def chromium() -> str | None:
    """Return the path of a browser, where there is one."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened(path: Path, width: int) -> Iterator[Page]:
    """Open a page offline until its matrix is drawn; asserts that nothing was requested and nothing went wrong."""
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": width, "height": 900}, offline=True)
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else faults.append(request.url))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(MATRIX)
        yield page
        browser.close()
    assert faults == []


def main() -> None:
    """Open it at each width, some times over."""
    parser = argparse.ArgumentParser(description="Open a report in Chromium, offline.")
    parser.add_argument("page", type=Path, help="what tests.runs.report wrote")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="where to put pictures of its parts")
    options = parser.parse_args()
    if not options.page.exists():
        parser.error(f"{options.page}: no such file")
    if chromium() is None:
        parser.error("there is no Chromium; on Debian: apt install chromium")
    sys.stdout.write(f"{options.page}: {options.page.stat().st_size / 1e6:.1f} MB\n")
    for width in WIDTHS:
        with opened(options.page, width) as page:
            for part in PICTURES if options.screenshots else ():
                page.evaluate(f"location.hash = '{part}'")
                page.wait_for_timeout(500)
                page.screenshot(path=options.screenshots / f"{part}-{width}.png")
            for _ in range(TIMES):
                start = perf_counter()
                page.goto(options.page.resolve().as_uri())
                page.wait_for_selector(MATRIX)
                seconds = perf_counter() - start
                painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
                sys.stdout.write(f"{width} pixels wide: text after {painted:.1f} s, the matrix after {seconds:.1f} s\n")
            if options.screenshots:
                page.screenshot(path=options.screenshots / f"top-{width}.png")


if __name__ == "__main__":
    main()
