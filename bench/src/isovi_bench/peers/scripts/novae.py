"""Novae (Blampey et al. 2025), trained on the section alone: its weights come from a hub."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def embed(adata: Any, *, seed: int, n_domains: int, max_epochs: int | None) -> dict[str, np.ndarray]:
    """Its own normalisation and Delaunay graph; domains from its prototypes."""
    import novae
    from pytorch_lightning import seed_everything

    torch.set_num_threads(1)
    seed_everything(seed)
    adata.obs["section"] = adata.obs["section"].astype("category")
    novae.spatial_neighbors(adata, slide_key="section")
    model = novae.Novae(adata)
    model.fit(max_epochs=min(20, max_epochs or 20), enable_progress_bar=False)
    model.compute_representations(adata)
    key = model.assign_domains(adata, n_domains=n_domains)
    latent = np.nan_to_num(np.asarray(adata.obsm["novae_latent"]))
    return {"latent": latent, "domains": adata.obs[key].astype(str).to_numpy()}
