"""STAGATE (Dong & Zhang 2022): a graph attention autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
import torch

EPOCHS = 1000


def embed(
    adata: Any,
    *,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    k_neighbors: int = 6,
    hidden: int = 512,
    n_latent: int = 30,
) -> np.ndarray:
    """Logarithms of counts per 10,000; six neighbours, as the tutorial's radius gives on Visium."""
    from STAGATE_pyG import Cal_Spatial_Net, train_STAGATE

    del n_domains
    torch.set_num_threads(1)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    Cal_Spatial_Net(adata, k_cutoff=k_neighbors, model="KNN", verbose=False)
    train_STAGATE(
        adata,
        hidden_dims=[hidden, n_latent],
        n_epochs=min(EPOCHS, max_epochs or EPOCHS),
        random_seed=seed,
        verbose=False,
        device="cpu",
    )
    return adata.obsm["STAGATE"]
