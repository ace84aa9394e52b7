"""CellCharter (Varrone et al. 2024): scVI's latent beside its means over rings of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def embed(
    adata: Any, *, seed: int, n_domains: int, max_epochs: int | None, n_layers: int = 3, n_latent: int = 10
) -> np.ndarray:
    """The latent of scVI, sections as batches; Delaunay neighbours without the longest links."""
    import cellcharter
    import scvi
    import squidpy

    del n_domains
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    adata.obs["section"] = adata.obs["section"].astype("category")
    scvi.model.SCVI.setup_anndata(adata, batch_key="section")
    model = scvi.model.SCVI(adata, n_latent=n_latent)
    model.train(max_epochs, early_stopping=True, accelerator="cpu", enable_progress_bar=False)
    adata.obsm["X_scVI"] = model.get_latent_representation(adata).astype(np.float32)
    squidpy.gr.spatial_neighbors(adata, library_key="section", coord_type="generic", delaunay=True)
    cellcharter.gr.remove_long_links(adata)
    cellcharter.gr.aggregate_neighbors(adata, n_layers=n_layers, use_rep="X_scVI", sample_key="section")
    return adata.obsm["X_cellcharter"]
