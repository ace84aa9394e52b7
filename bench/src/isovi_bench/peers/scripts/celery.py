"""CeLEry (Zhang et al. 2023): a network from expression to position."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import torch


def embed(
    adata: Any, *, unseen: Any, seed: int, n_domains: int, max_epochs: int | None
) -> dict[str, np.ndarray]:
    """Logarithms, each gene standardised; hidden layers of 30, 25 and 15, as its tutorial has."""
    import CeLEry

    del n_domains
    torch.set_num_threads(1)
    low, span = adata.obsm["spatial"].min(axis=0), np.ptp(adata.obsm["spatial"], axis=0)
    for part in (adata, unseen):
        sc.pp.normalize_total(part)
        sc.pp.log1p(part)
        part.X = part.X.toarray()
    mean, spread = adata.X.mean(axis=0), adata.X.std(axis=0) + 1e-9
    for part in (adata, unseen):
        part.X = (part.X - mean) / spread
    where = pd.DataFrame((adata.obsm["spatial"] - low) / span, columns=["x", "y"], index=adata.obs_names)
    with tempfile.TemporaryDirectory() as folder:
        shared = {"path": folder, "filename": "model"}
        epochs = min(500, max_epochs or 500)
        CeLEry.Fit_cord(adata, location_data=where, num_epochs_max=epochs, seednum=seed, **shared)
        found = CeLEry.Predict_cord(unseen, **shared)
    return {"positions": np.asarray(found) * span + low}
