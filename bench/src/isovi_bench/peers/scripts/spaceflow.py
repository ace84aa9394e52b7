"""SpaceFlow (Ren et al. 2022): deep graph infomax with a penalty on distances in the latent."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import networkx
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
    k_neighbors: int = 10,
    strength: float = 0.1,
    n_latent: int = 50,
) -> np.ndarray:
    """Logarithms of counts per 10,000; an alpha complex scaled to ten neighbours."""
    from SpaceFlow import SpaceFlow

    del n_domains
    torch.set_num_threads(1)
    networkx.to_scipy_sparse_matrix = networkx.to_scipy_sparse_array  # its name until networkx 3
    flow = SpaceFlow.SpaceFlow(adata=adata)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    flow.adata_preprocessed = adata  # as its preprocessing_data, without another choice of genes
    flow.spatial_graph = flow.graph_alpha(adata.obsm["spatial"], n_neighbors=k_neighbors)
    epochs = min(EPOCHS, max_epochs or EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        return np.asarray(
            flow.train(
                str(Path(folder) / "embedding.tsv"),
                spatial_regularization_strength=strength,
                z_dim=n_latent,
                epochs=epochs,
                random_seed=seed,
            )
        )
