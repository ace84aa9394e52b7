"""BANKSY (Singhal et al. 2024): principal components of own, neighbours' and gradient features."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
from sklearn.decomposition import PCA


def embed(
    adata: Any,
    *,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    lambda_: float = 0.2,
    max_m: int = 1,
    k_geom: int = 15,
    n_components: int = 20,
) -> np.ndarray:
    """Counts at the median library size, not logarithms: every feature is standardised by BANKSY itself."""
    from banksy.embed_banksy import generate_banksy_matrix
    from banksy.main import generate_spatial_weights_fixed_nbrs

    del n_domains, max_epochs
    sc.pp.normalize_total(adata)
    graphs = {
        m: generate_spatial_weights_fixed_nbrs(
            adata.obsm["spatial"],
            m=m,
            num_neighbours=k_geom,
            decay_type="scaled_gaussian",
            verbose=False,
        )[0]
        for m in range(max_m + 1)
    }
    found = {"scaled_gaussian": {"weights": graphs}}
    _, matrix = generate_banksy_matrix(adata, found, [lambda_], max_m, verbose=False)
    values = np.nan_to_num(np.asarray(matrix.X))
    return PCA(min(n_components, *values.shape), random_state=seed).fit_transform(values)
