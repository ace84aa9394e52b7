from __future__ import annotations

import numpy as np
from anndata import AnnData

import isovi
from isovi import Penalty
from isovi.spots import HELDOUT, SPLIT_KEY
from isovi_bench.task import Task, find


def test_a_method_is_trained_as_isovi_fit_trains_it(tissue: AnnData) -> None:
    settings = {"section_key": "section", "holdout": 0.25, "max_epochs": 2, "seed": 3}
    done = isovi.fit(tissue, distortion=Penalty(50.0, n_place=0), progress=False, **settings).adata
    used = done[:, done.var["isovi_gene"].to_numpy()].copy()
    spots = AnnData(used.X, obs=used.obs[["section"]], var=used.var[[]])
    rows = np.flatnonzero(used.obs[SPLIT_KEY] != HELDOUT)
    seen = spots[rows].copy()
    seen.obsm["spatial"], seen.obs[SPLIT_KEY] = used.obsm["spatial"][rows], used.obs[SPLIT_KEY].iloc[rows]
    task = Task(seen, spots, rows, seed=3, max_epochs=2)
    latent = find("isoscvi").fit(task, penalty=50.0).latent
    # The unit is that of the spots that a method is given. Coordinates differ by a factor, which changes the
    # distortion by rounding only, and Adam enlarges it where gradients are near zero.
    assert np.corrcoef(latent.ravel(), done.obsm["X_isovi"].ravel())[0, 1] > 0.999
