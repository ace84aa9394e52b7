from __future__ import annotations

import pytest

from isovi_bench.timings import geometry


@pytest.mark.slow
def test_every_case_is_timed_in_a_process_of_its_own() -> None:
    rows = list(geometry.measure([500]))
    assert [row["what"] for row in rows] == list(geometry.CASES)
    assert all(row["n"] == 500 and row["cpu_s"] >= 0 and row["peak_mb"] > 20 for row in rows)
    assert geometry.table(rows).count("\n") == 1 + len(rows)


def test_a_row_is_shown_in_gigabytes() -> None:
    row = {"what": "x", "n": 1_000_000, "wall_s": 1.234, "cpu_s": 0.5, "peak_mb": 2000.0}
    assert geometry.table([row]).splitlines()[-1] == "| x | 1,000,000 | 1.23 | 0.50 | 2.10 |"
