"""How well sections, patients or batches mix in a latent representation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2
from sklearn.neighbors import NearestNeighbors

from isovi.data import check
from isovi.errors import InputError
from isovi.tl import _inputs

N_NEAREST = 90  # neighbours of iLISI and kBET, three times the perplexity, as in scib-metrics
N_SHARE = 30  # neighbours of the share
LEVEL = 0.05  # of kBET's test
EVALUATED = 20_000  # cells that are looked at, at most
_HALVINGS = 40  # of the logarithm of a precision
_PRECISIONS = (-30.0, 30.0)  # relative to the mean distance
_CHUNK = 5_000


def mixing(adata: AnnData, key: str, *, use_rep: str | None = None, seed: int = 0) -> dict[str, float]:
    """Measure how well groups of cells, such as sections or patients, mix in the latent representation.

    Parameters
    ----------
    adata
        Annotated data matrix; it is not changed.
    key
        Column of ``obs`` with the group of each cell.
    use_rep
        Key in ``obsm`` of the latent representation, shape ``(n_obs, n_latent)``. By default the part whose
        distances are free, ``"X_isovi_identity"``, or ``"X_isovi"`` without parts.
    seed
        Random seed that draws 20,000 cells if there are more.

    Returns
    -------
    The metrics of :func:`mixing_of`.

    Raises
    ------
    InputError
        If a key is missing, there is one group only, or there are 90 cells or fewer.
    """
    codes = check.categories(adata, key, role="section")
    latent = _inputs.latent(adata, _inputs.identity_rep(adata, use_rep))
    return mixing_of(latent, codes, seed=seed)


def mixing_of(latent: ArrayLike, groups: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """Metrics of mixing: 1 of iLISI and kBET is best, 0 worst.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``, finite.
    groups
        Group of each cell, shape ``(cell,)``.
    seed
        Random seed that draws 20,000 cells if there are more.

    Returns
    -------
    ``ilisi``: scaled median of the local inverse Simpson index among the 90 nearest cells, perplexity 30
    (Korsunsky et al. 2019, scaled as by Luecken et al. 2022). ``kbet``: share of cells whose 90 nearest have
    the groups in the proportions of all cells, by a chi-squared test at 5 % (Büttner et al. 2018).
    ``same_group``: mean share of the 30 nearest cells that are of the cell's own group, and
    ``same_group_mixed``, what it is where groups are mixed.

    Raises
    ------
    InputError
        If there is one group only, or there are 90 cells or fewer.
    """
    values, codes = np.asarray(latent, dtype=np.float64), pd.Categorical(np.asarray(groups)).codes.astype(int)
    if len(values) > EVALUATED:
        drawn = np.sort(np.random.default_rng(seed).choice(len(values), EVALUATED, replace=False))
        values, codes = values[drawn], codes[drawn]
    codes = np.unique(codes, return_inverse=True)[1]
    n_groups = int(codes.max(initial=0)) + 1
    if n_groups < 2 or len(values) <= N_NEAREST:
        raise InputError(
            f"{len(values)} cells of {n_groups} groups were given.",
            f"Mixing is measured among the {N_NEAREST} nearest cells, of two groups or more.",
            "Name a column with several groups, of data with more cells.",
        )
    apart, near = NearestNeighbors(n_neighbors=N_NEAREST + 1).fit(values).kneighbors(values)
    apart, near = _without_self(apart, near)
    shares = np.bincount(codes) / len(codes)
    counts = np.stack([(codes[near] == group).sum(axis=1) for group in range(n_groups)], axis=1)
    expected = N_NEAREST * shares
    statistic = (np.square(counts - expected) / expected).sum(axis=1)
    lisi = np.concatenate([_lisi(apart[part], codes[near[part]], n_groups) for part in _parts(len(values))])
    own = codes[near[:, :N_SHARE]] == codes[:, None]
    return {
        "ilisi": float((np.median(lisi) - 1) / (n_groups - 1)),
        "kbet": float((chi2.sf(statistic, n_groups - 1) >= LEVEL).mean()),
        "same_group": float(own.mean()),
        "same_group_mixed": float(np.square(shares).sum()),
    }


def _parts(n: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, n, _CHUNK)]


def _without_self(apart: NDArray, near: NDArray) -> tuple[NDArray, NDArray]:
    """Neighbours without the cell itself, or without the farthest where doubles have displaced it."""
    own = near == np.arange(len(near))[:, None]
    own[~own.any(axis=1), -1] = True
    shape = (len(near), near.shape[1] - 1)
    return apart[~own].reshape(shape), near[~own].reshape(shape)


def _lisi(apart: NDArray, groups: NDArray, n_groups: int) -> NDArray[np.float64]:
    """Inverse Simpson index of each cell, by weights that fall with distance and have perplexity 30."""
    scaled = apart / np.maximum(apart.mean(axis=1, keepdims=True), np.finfo(float).tiny)
    scaled -= scaled.min(axis=1, keepdims=True)
    low, high = (np.full((len(apart), 1), end) for end in _PRECISIONS)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        broad = _entropy(_weights(scaled, middle)) > np.log(N_NEAREST / 3)
        low, high = np.where(broad, middle, low), np.where(broad, high, middle)
    weights = _weights(scaled, (low + high) / 2)
    shares = [(weights * (groups == group)).sum(axis=1) for group in range(n_groups)]
    return 1 / np.square(shares).sum(axis=0)


def _weights(scaled: NDArray, log_precision: NDArray) -> NDArray[np.float64]:
    weights = np.exp(-np.exp(log_precision) * scaled)
    return weights / weights.sum(axis=1, keepdims=True)


def _entropy(weights: NDArray) -> NDArray[np.float64]:
    return -(weights * np.log(np.maximum(weights, np.finfo(float).tiny))).sum(axis=1, keepdims=True)
