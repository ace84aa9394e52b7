from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from isovi.simulate import simulate
from isovi_bench.timings import cells, memory


def test_counts_are_written_by_chunks_as_they_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "CHUNK", 40)
    where = cells.positions(100, np.random.default_rng(0))
    cells.write(tmp_path / "a.h5ad", where, 7, seed=3)
    adata = anndata.read_h5ad(tmp_path / "a.h5ad")
    drawn = sparse.vstack(list(cells.counts(where, 7, 3)))
    assert adata.shape == (100, 7) and (drawn != adata.X).nnz == 0
    assert np.array_equal(adata.obsm["spatial"], where)
    assert 0.05 < (adata.X.toarray() > 0).mean() < 0.3 and (where.max(axis=0) <= 10).all()


@pytest.mark.slow
def test_fits_are_measured_once_in_each_mode(tmp_path: Path) -> None:
    section = tmp_path / "mine.h5ad"
    simulate("layers", n_obs=200, n_genes=5, seed=0).write_h5ad(section)
    out = tmp_path / "out"
    rows = memory.measure(out, (), section, steps=2)
    assert [(row["data"], row["mode"]) for row in rows] == [
        ("positions of mine", mode) for mode in memory.MODES
    ]
    assert all(
        row["finite"] and row["peak_mb"] >= row["reading_mb"] >= row["imports_mb"] > 50 for row in rows
    )
    assert [row["n_obs"] for row in rows] == [200, 200]
    assert memory.measure(out, (), section, steps=2) == rows
    assert memory.table(out).count("\n") == 1 + len(rows)
    memory.draw(out, out / "memory.png")
    assert (out / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_medians_are_over_repeats(tmp_path: Path) -> None:
    numbers = ("n_obs", "imports_mb", "reading_mb", "peak_mb", "cells_per_second", "cells_per_cpu_second")
    rows = [
        {"data": "a", "pairs": "all", "mode": "memory", "seconds": value, **dict.fromkeys(numbers, value)}
        for value in (1, 2, 9)
    ]
    (tmp_path / memory.RESULTS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert memory.table(tmp_path).splitlines()[-1] == "| a | all | memory | 2 | 2 | 2 | 2 | 2 | 2 | 2 |"
