"""SpatialVAE of Smoother (Su et al. 2023): scVI with a spatial loss on its latent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

EPOCHS = 800


def embed(
    adata: Any,
    *,
    unseen: Any,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    weight: float = 0.01,
    k_neighbors: int = 6,
    rho: float = 0.99,
) -> dict[str, np.ndarray]:
    """An intrinsic conditional autoregressive prior on six neighbours; all spots are one minibatch."""
    import scvi
    from smoother import SpatialLoss, SpatialWeightMatrix
    from smoother.models.reduction import SpatialVAE

    del n_domains
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    scvi.settings.batch_size = adata.n_obs  # its loss is of all spots; scvi-tools takes 128 otherwise
    weights = SpatialWeightMatrix()
    weights.calc_weights_knn(adata.obsm["spatial"], k=k_neighbors, verbose=False)
    loss = SpatialLoss("icar", weights, rho=rho)
    SpatialVAE.setup_anndata(adata)
    model = SpatialVAE(adata, spatial_loss=loss, lambda_spatial_loss=weight)
    model.train(max_epochs=min(EPOCHS, max_epochs or EPOCHS), accelerator="cpu", enable_progress_bar=False)
    found = {
        "latent": model.get_latent_representation(),
        "expression": model.get_normalized_expression(library_size=1.0, return_numpy=True),
    }
    return found | ({"latent_unseen": model.get_latent_representation(unseen)} if unseen.n_obs else {})
