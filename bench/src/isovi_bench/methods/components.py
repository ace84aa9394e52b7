"""Principal components, as scanpy's users have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from isovi._shapes import LatentArray
from isovi.spots import SPLIT_KEY, TRAIN
from isovi_bench.methods.settings import take
from isovi_bench.task import Fitted, Task, method


@method("pca", reference="Pearson 1901; through scanpy's normalisation")
def pca(task: Task, **settings: Any) -> Fitted:
    """Principal components of log-normalised expression, fitted on training spots.

    Parameters
    ----------
    task
        The data.
    **settings
        ``n_latent``, the number of components: 10, or as many as there can be.
    """
    n_components = take("pca", settings, ("n_latent",)).get("n_latent", 10)
    return Fitted(principal_components(task, n_components))


def principal_components(task: Task, n_components: int) -> LatentArray:
    """Principal components of every spot, fitted on training spots.

    Parameters
    ----------
    task
        The data.
    n_components
        How many, or as many as there can be.

    Returns
    -------
    Shape ``(cell, latent)``, over ``Task.spots``.
    """
    train = task.rows[task.seen.obs[SPLIT_KEY].to_numpy() == TRAIN]
    expression = log_normalised(task.spots, train)
    n_components = min(n_components, len(train) - 1, expression.shape[1] - 1)
    model = PCA(n_components, svd_solver="arpack", random_state=task.seed).fit(expression[train])
    return model.transform(expression)


def log_normalised(adata: AnnData, train: np.ndarray) -> sparse.csr_matrix:
    """``log1p`` of counts at the median library size of the training spots.

    Parameters
    ----------
    adata
        Raw counts in ``X``.
    train
        Indices of the training spots.

    Returns
    -------
    Shape ``(cell, gene)``, sparse.
    """
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    scaled = AnnData(sparse.csr_matrix(adata.X, dtype=np.float32, copy=True))
    sc.pp.normalize_total(scaled, target_sum=float(np.median(totals[train])))
    sc.pp.log1p(scaled)
    return scaled.X
