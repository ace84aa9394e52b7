"""Seconds until a report is open in headless Chromium, which needs Chromium, its driver and selenium."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from isovi.errors import InputError

REPEATS = 5
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
SETTLED = 3.0  # seconds without work after which all is drawn
TIMEOUT = 120.0  # seconds that a page may take to load
LOADED = "return performance.getEntriesByType('navigation')[0].loadEventEnd"  # milliseconds; 0 before it


@dataclass(frozen=True)
class Opening:
    """How long a page takes to open.

    Attributes
    ----------
    wall
        Seconds until its load event.
    work
        Processor seconds of the page's thread until all is drawn.
    megabytes
        Its size.
    """

    wall: float
    work: float
    megabytes: float


def measure(page: Path) -> Opening:
    """Open a page several times.

    Parameters
    ----------
    page
        An HTML file.

    Returns
    -------
    Medians.

    Raises
    ------
    InputError
        If there is no such file, or no selenium.
    """
    if not page.is_file():
        raise InputError(f'There is no "{page}".', "A report is an HTML file.", "Pass RUN/report.html.")
    walls, works = zip(*(opened(page) for _ in range(REPEATS)), strict=True)
    return Opening(median(walls), median(works), page.stat().st_size / 1e6)


def opened(page: Path) -> tuple[float, float]:
    """Wall seconds to the load event, and all processor seconds of the page's thread."""
    try:
        from selenium import webdriver
        from selenium.webdriver.support.wait import WebDriverWait
    except ImportError as error:
        raise InputError(
            "selenium is not installed.", "It drives the browser.", "Install it: pip install selenium."
        ) from error
    options = webdriver.ChromeOptions()
    for argument in QUIET:
        options.add_argument(argument)
    driver = webdriver.ChromeService(shutil.which("chromedriver"))  # none: selenium looks for one
    with webdriver.Chrome(options=options, service=driver) as browser:
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.get(page.resolve().as_uri())
        # The page's own clock: `get` may return before the page is loaded.
        wall = WebDriverWait(browser, TIMEOUT).until(lambda page: page.execute_script(LOADED)) / 1000
        time.sleep(SETTLED)
        found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return wall, next(one["value"] for one in found if one["name"] == "TaskDuration")
