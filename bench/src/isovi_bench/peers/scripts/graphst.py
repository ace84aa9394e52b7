"""GraphST (Long et al. 2023): a graph convolutional autoencoder with contrastive learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
import torch
from sklearn.decomposition import PCA

EPOCHS = 600


def embed(
    adata: Any,
    *,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    n_components: int = 20,
    datatype: str = "10X",
) -> np.ndarray:
    """The authors' preprocessing, with all given genes; the components that they cluster on."""
    from GraphST.GraphST import GraphST

    del n_domains
    torch.set_num_threads(1)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.scale(adata, zero_center=False, max_value=10)
    adata.var["highly_variable"] = True
    model = GraphST(
        adata,
        device=torch.device("cpu"),
        epochs=min(EPOCHS, max_epochs or EPOCHS),
        random_seed=seed,
        datatype=datatype,
    )
    model.adj = model.adj.to_sparse()  # the same product, without its zeros: fifty times faster
    reconstruction = model.train().obsm["emb"]
    return PCA(min(n_components, *reconstruction.shape), random_state=seed).fit_transform(reconstruction)
