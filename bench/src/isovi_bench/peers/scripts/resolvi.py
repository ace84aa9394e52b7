"""resolVI (Ergen & Yosef 2025): scVI that corrects counts of neighbours and background."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def embed(adata: Any, *, seed: int, n_domains: int, max_epochs: int | None) -> dict[str, np.ndarray]:
    """Counts; sections are batches; 50 epochs, as its ``train`` has by default."""
    import scvi

    del n_domains
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    adata.obsm["X_spatial"] = adata.obsm["spatial"]
    adata.obs["section"] = adata.obs["section"].astype("category")
    scvi.external.RESOLVI.setup_anndata(adata, batch_key="section")
    model = scvi.external.RESOLVI(adata, semisupervised=False)
    model.train(max_epochs=min(50, max_epochs or 50), accelerator="cpu", enable_progress_bar=False)
    shares = model.get_normalized_expression(library_size=1.0, return_numpy=True)
    return {"latent": model.get_latent_representation(), "expression": shares}
