"""Tangram (Biancalani et al. 2021): a probabilistic map of cells to spots."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
import torch


def embed(
    adata: Any, *, unseen: Any, seed: int, n_domains: int, max_epochs: int | None
) -> dict[str, np.ndarray]:
    """Mode ``cells`` with a density of RNA counts, 1,000 epochs; the mean position of a cell's spots."""
    import tangram

    del n_domains
    torch.set_num_threads(1)
    where = np.asarray(adata.obsm["spatial"])
    sc.pp.normalize_total(unseen)
    tangram.pp_adatas(unseen, adata)
    epochs = min(1000, max_epochs or 1000)
    found = tangram.map_cells_to_space(
        unseen, adata, mode="cells", num_epochs=epochs, random_state=seed, verbose=False
    )
    plan = np.asarray(found.X)
    return {"positions": plan @ where / plan.sum(axis=1, keepdims=True)}
