"""GraphPCA (Yang et al. 2024): principal components with a penalty on differences between neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc

EXACT = 5000  # spots up to which the published closed form is used: it inverts a matrix of spots by spots


def embed(
    adata: Any,
    *,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    n_components: int = 50,
    lambda_: float = 0.5,
    n_neighbors: int = 6,
) -> np.ndarray:
    """Pearson residuals, standardised; six neighbours."""
    from GraphPCA import Run_GPCA

    del n_domains, max_epochs
    sc.experimental.pp.normalize_pearson_residuals(adata)
    sc.pp.scale(adata)
    latent, _ = Run_GPCA(
        adata,
        location=adata.obsm["spatial"],
        n_components=min(n_components, *adata.shape),
        n_neighbors=n_neighbors,
        _lambda=lambda_,
        random_seed=seed,
        mode="exact" if adata.n_obs <= EXACT else "iterative",
    )
    return np.asarray(latent)
