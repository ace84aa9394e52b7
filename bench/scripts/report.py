"""Seconds until a report is open in headless Chromium: ``python bench/scripts/report.py RUN/report.html``.

Needs Chromium, its driver and selenium (``pip install --group test``). Of each page the wall time until its
load event, the processor seconds of the page's thread until all is drawn, and its size.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from selenium import webdriver

REPEATS = 5
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
SETTLED = 3.0  # seconds without work after which all is drawn


def opened(page: Path) -> tuple[float, float]:
    """Wall seconds to the load event, and processor seconds of the page's thread in all."""
    options = webdriver.ChromeOptions()
    for argument in QUIET:
        options.add_argument(argument)
    with webdriver.Chrome(options=options) as browser:
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        started = time.perf_counter()
        browser.get(page.resolve().as_uri())
        wall = time.perf_counter() - started
        time.sleep(SETTLED)
        found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return wall, next(one["value"] for one in found if one["name"] == "TaskDuration")


def main() -> None:
    """Print the medians for each page."""
    for page in map(Path, sys.argv[1:]):
        walls, works = zip(*(opened(page) for _ in range(REPEATS)), strict=True)
        wall, work = sorted(walls)[REPEATS // 2], sorted(works)[REPEATS // 2]
        size = page.stat().st_size / 1e6
        print(f"{page}: open after {wall:.2f} s, {work:.2f} s of processor time, {size:.2f} MB")


if __name__ == "__main__":
    main()
