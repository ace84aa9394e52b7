"""SpaGCN (Hu et al. 2021): one graph convolution, trained to sharpen clusters."""

from __future__ import annotations

import random
from functools import partialmethod
from typing import Any

import numpy as np
import scanpy as sc
import torch

EPOCHS = 200


def embed(
    adata: Any,
    *,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    neighbourhood: float = 0.5,
    n_components: int = 50,
) -> dict[str, np.ndarray]:
    """Logarithms at the median library size; neighbours hold half as much as a spot itself; no histology.

    Domains are the clusters that training sharpens, without the vote of neighbours that may follow it.
    """
    import SpaGCN

    torch.set_num_threads(1)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()  # SpaGCN asks sparse matrices for ``.A``, which SciPy no longer has
    x, y = np.asarray(adata.obsm["spatial"])[:, :2].T
    distance = SpaGCN.calculate_adj_matrix(x=x, y=y, histology=False)
    scale = SpaGCN.search_l(neighbourhood, distance)
    # The search for a resolution trains as well, without a word on the number of components.
    SpaGCN.SpaGCN.train = partialmethod(SpaGCN.SpaGCN.train, num_pcs=min(n_components, *adata.shape))
    seeds = {"r_seed": seed, "t_seed": seed, "n_seed": seed}
    resolution = SpaGCN.search_res(
        adata, distance, scale, n_domains, start=0.7, step=0.1, tol=5e-3, lr=0.05, max_epochs=20, **seeds
    )
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    model = SpaGCN.SpaGCN()
    model.set_l(scale)
    model.train(
        adata,
        distance,
        init_spa=True,
        init="louvain",
        res=resolution,
        tol=5e-3,
        lr=0.05,
        max_epochs=min(EPOCHS, max_epochs or EPOCHS),
    )
    latent, shares = model.model.predict(model.embed, model.adj_exp)
    return {"latent": latent.detach().numpy(), "domains": shares.argmax(dim=1).numpy().astype(str)}
