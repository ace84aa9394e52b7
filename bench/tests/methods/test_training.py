from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData
from isovi.workflow.fit import FitOptions, fit

from isovi import Penalty
from isovi.spots import HELDOUT, SPLIT_KEY
from isovi_bench.task import Task, find


def test_a_method_is_trained_as_isovi_fit_trains_it(tissue: AnnData, tmp_path: Path) -> None:
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    options = {"section_key": "section", "holdout": "0.25", "max_epochs": 2, "seed": 3}
    fit(FitOptions(tmp_path / "tissue.h5ad", tmp_path / "out", distortion=Penalty(50.0), **options))
    done = anndata.read_h5ad(tmp_path / "out" / "adata.h5ad")
    used = done[:, done.var["isovi_gene"].to_numpy()].copy()
    spots = AnnData(used.X, obs=used.obs[["section"]], var=used.var[[]])
    rows = np.flatnonzero(used.obs[SPLIT_KEY] != HELDOUT)
    seen = spots[rows].copy()
    seen.obsm["spatial"], seen.obs[SPLIT_KEY] = used.obsm["spatial"][rows], used.obs[SPLIT_KEY].iloc[rows]
    task = Task(seen, spots, rows, seed=3, max_epochs=2)
    assert np.array_equal(find("isoscvi").fit(task, penalty=50.0).latent, done.obsm["X_isovi"])
