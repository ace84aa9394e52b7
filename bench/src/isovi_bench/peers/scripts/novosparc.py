"""novoSpaRc (Nitzan et al. 2019): optimal transport of cells to spots of an atlas."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc


def embed(
    adata: Any,
    *,
    unseen: Any,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    weight: float = 0.8,
    n_neighbors: int = 5,
    epsilon: float = 5e-3,
) -> dict[str, np.ndarray]:
    """All genes as markers; the mean position of a cell's spots."""
    import novosparc

    del seed, n_domains, max_epochs
    where = np.asarray(adata.obsm["spatial"])
    for part in (adata, unseen):
        sc.pp.normalize_total(part)
        sc.pp.log1p(part)
        part.X = part.X.toarray()
    tissue = novosparc.cm.Tissue(dataset=unseen, locations=where)
    tissue.setup_reconstruction(
        markers_to_use=np.arange(unseen.n_vars),
        atlas_matrix=adata.X,
        num_neighbors_s=n_neighbors,
        num_neighbors_t=n_neighbors,
    )
    tissue.reconstruct(alpha_linear=weight, epsilon=epsilon, verbose=False)
    plan = np.asarray(tissue.gw)
    mass = np.maximum(plan.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return {"positions": plan @ where / mass}
