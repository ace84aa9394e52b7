from __future__ import annotations

from pathlib import Path

import pytest

from isovi.simulate import simulate
from isovi_bench.rows import Rows
from isovi_bench.timings import whole


@pytest.mark.slow
def test_a_whole_fit_is_timed_beside_scvi_on_the_same_spots(tmp_path: Path) -> None:
    simulate("layers", n_obs=150, n_genes=40, seed=0).write_h5ad(tmp_path / "mine.h5ad")
    kept = Rows(tmp_path / "rows")
    rows = whole.measure(tmp_path / "mine.h5ad", max_epochs=3, rows=kept)
    assert whole.measure(tmp_path / "mine.h5ad", max_epochs=3, rows=kept) == rows  # not measured again
    assert [(row["data"], row["fit"], row["epochs"]) for row in rows] == [
        ("mine", whole.OURS, 3),
        ("mine", whole.SCVI, 3),
    ]
    assert all(row["cpu_seconds"] > 0 and row["wall_seconds"] > 0 for row in rows)
    losses = [row["reconstruction"] for row in rows]
    assert losses[0] != losses[1] and abs(losses[0] / losses[1] - 1) < 0.5  # of the same spots and genes


def test_a_table_has_medians_and_their_ratio() -> None:
    about = {"data": "mine", "n_obs": 9, "n_genes": 4, "epochs": 7}
    fits = {whole.OURS: ([1.0, 2.0, 9.0], 10.0), whole.SCVI: ([4.0, 8.0, 9.0], 11.0)}
    rows = [
        {**about, "fit": fit, "cpu_seconds": second, "wall_seconds": 2 * second, "reconstruction": loss}
        for fit, (seconds, loss) in fits.items()
        for second in seconds
    ]
    written = whole.table(rows)
    assert "| 2 / 8 | 0.25 | 4 / 16 | 0.25 | 10.0 / 11.0 | 7 / 7 |" in written
    assert written.endswith("fits of each: 3")
