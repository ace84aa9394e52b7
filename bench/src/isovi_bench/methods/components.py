"""Principal components, as scanpy's users have them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from isovi import tl
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
    train, model = fitted_components(task, n_components)
    values = log_normalised(task.spots, train)
    latent = model.transform(values)
    return Fitted(latent, expression=lambda: np.expm1(model.inverse_transform(latent)))


@method("coordinates", sees_positions=True, encodes=False)
def coordinates(task: Task, **settings: Any) -> Fitted:
    """The coordinates themselves, and k-means on them: what domains have to be better than."""
    take("coordinates", settings, ())
    latent = np.full((task.spots.n_obs, task.seen.obsm["spatial"].shape[1]), np.nan)
    latent[task.rows] = task.seen.obsm["spatial"]
    tiles = partial(tl.coordinate_domains, task.seen.obsm["spatial"], task.n_domains, task.seed)
    return Fitted(latent, domains=tiles)


@method("mean-profile")
def mean_profile(task: Task, **settings: Any) -> Fitted:
    """The same expression for every spot, the mean: what denoising has to be better than."""
    take("mean-profile", settings, ())
    mean = np.asarray(task.seen.X.sum(axis=0), dtype=np.float64)
    return Fitted(None, expression=lambda: np.repeat(mean.reshape(1, -1), task.spots.n_obs, axis=0))


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
    train, model = fitted_components(task, n_components)
    return model.transform(log_normalised(task.spots, train))


def fitted_components(task: Task, n_components: int) -> tuple[np.ndarray, PCA]:
    """Indices of the training spots, and the components fitted on their log-normalised expression."""
    train = task.rows[task.seen.obs[SPLIT_KEY].to_numpy() == TRAIN]
    expression = log_normalised(task.spots, train)[train]
    n_components = min(n_components, len(train) - 1, expression.shape[1] - 1)
    return train, PCA(n_components, svd_solver="arpack", random_state=task.seed).fit(expression)


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
