from __future__ import annotations

from pathlib import Path

import pytest

from isovi_bench.grid import read_grid
from isovi_bench.timings import workers


@pytest.mark.parametrize(("seconds", "methods"), [(2.5, ["sleeper"]), (0.0, list(workers.FITS))])
def test_grids_sleep_or_fit(tmp_path: Path, seconds: float, methods: list[str]) -> None:
    grid = read_grid(workers.write_grid(tmp_path, "grid", 8, seconds))
    assert [entry.name for entry in grid.methods] == methods
    assert len(grid.methods) * len(grid.seeds) == 8
    assert [entry.settings for entry in grid.methods if entry.settings] == [{"seconds": 2.5}] * (seconds > 0)
