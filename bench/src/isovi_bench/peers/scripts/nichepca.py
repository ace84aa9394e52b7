"""NichePCA: principal components of expression that was averaged over neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np


def embed(
    adata: Any,
    *,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    k_neighbors: int = 25,
    n_components: int = 30,
) -> np.ndarray:
    """Normalisation, logarithm, mean over 25 neighbours, components; several sections by Harmony."""
    import nichepca as npc

    del seed, n_domains, max_epochs
    sections = "section" if adata.obs["section"].nunique() > 1 else None
    n_components = min(n_components, *(size - 1 for size in adata.shape))
    npc.wf.nichepca(adata, knn=k_neighbors, n_comps=n_components, sample_key=sections)
    return np.asarray(adata.obsm["X_npca"])
