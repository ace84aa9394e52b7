"""scVIVA (Levy et al. 2025): scVI that predicts the niche of a cell as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
import torch


def embed(
    adata: Any, *, seed: int, n_domains: int, max_epochs: int | None, k_neighbors: int = 20
) -> dict[str, np.ndarray]:
    """Cell types, which it needs, are Leiden clusters of scVI's latent; 20 neighbours, as in its tutorial."""
    import scvi

    del n_domains
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    adata.obs["section"] = adata.obs["section"].astype("category")
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": True}
    scvi.model.SCVI.setup_anndata(adata, batch_key="section")
    backbone = scvi.model.SCVI(adata)
    backbone.train(max_epochs, **quiet)
    adata.obsm["X_scVI"] = backbone.get_latent_representation()
    sc.pp.neighbors(adata, use_rep="X_scVI", random_state=seed)
    sc.tl.leiden(adata, key_added="cell_type", flavor="igraph", n_iterations=2, random_state=seed)
    keys = {
        "sample_key": "section",
        "labels_key": "cell_type",
        "cell_coordinates_key": "spatial",
        "expression_embedding_key": "X_scVI",
    }
    scvi.external.SCVIVA.preprocessing_anndata(adata, k_nn=min(k_neighbors, adata.n_obs - 1), **keys)
    scvi.external.SCVIVA.setup_anndata(adata, batch_key="section", **keys)
    model = scvi.external.SCVIVA(adata)
    model.train(max_epochs, **quiet)
    shares = model.get_normalized_expression(library_size=1.0, return_numpy=True)
    return {"latent": model.get_latent_representation(), "expression": shares}
