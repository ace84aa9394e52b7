from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from isovi.errors import InputError
from isovi_bench.timings import report

HAS_BROWSER = importlib.util.find_spec("selenium") is not None and shutil.which("chromedriver") is not None


def test_a_page_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'There is no ".*report\.html"'):
        report.measure(tmp_path / "report.html")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BROWSER, reason="no chromedriver or no selenium")
def test_a_page_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "REPEATS", 1)
    page = tmp_path / "report.html"
    page.write_text(
        "<script>let until = performance.now() + 200; while (performance.now() < until);</script>"
    )
    found = report.measure(page)
    assert found.wall >= 0.2 and found.work > 0
    assert found.megabytes == page.stat().st_size / 1e6
