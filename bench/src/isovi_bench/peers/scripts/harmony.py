"""Harmony (Korsunsky et al. 2019): principal components whose sections are pulled together."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc


def embed(
    adata: Any, *, seed: int, n_domains: int, max_epochs: int | None, n_components: int = 50
) -> np.ndarray:
    """Logarithms of counts per 10,000, 50 components; without a second section these are left as they are."""
    import harmonypy

    del n_domains, max_epochs
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=min(n_components, *(size - 1 for size in adata.shape)), random_state=seed)
    components = np.asarray(adata.obsm["X_pca"], dtype=np.float64)
    if adata.obs["section"].nunique() < 2:
        return components
    found = np.asarray(harmonypy.run_harmony(components, adata.obs, "section", random_state=seed).Z_corr)
    return found if found.shape == components.shape else found.T
