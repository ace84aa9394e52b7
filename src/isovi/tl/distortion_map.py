"""Distortion of each spot of an AnnData."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike

from isovi.geometry.distortion_map import N_PARTNERS, DistortionMap, spot_distortion
from isovi.tl import _inputs


def distortion_map(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    cells: ArrayLike | None = None,
    n_partners: int = N_PARTNERS,
    key_added: str = "isovi_distortion",
    seed: int = 0,
) -> DistortionMap:
    """Map where a latent space preserves the tissue's distances, and where it tears or folds the tissue.

    The distances of each spot to random spots of its section are compared: distortion is
    Σ|d_Z - λ d_S| / Σ λ d_S, and stretch is the same without the absolute value.

    Parameters
    ----------
    adata
        Annotated data matrix. Only ``obs[key_added]`` (distortion), ``obs[f"{key_added}_stretch"]`` (positive
        if the spot is too far from the rest in the latent space, a tear; negative if it is too near, a fold)
        and ``uns[key_added]`` (``scale`` and the parameters) are written. Spots that are not used get NaN.
    use_rep, spatial_key, section_key, cells
        As in :func:`distortion_profile`.
    n_partners
        Number of spots of the same section with which each spot is compared.
    key_added
        See ``adata``.
    seed
        Random seed that draws these spots.

    Returns
    -------
    The record, with one value for each spot used.

    Raises
    ------
    InputError
        If a key is missing, or the latent representation or the positions are not finite.
    """
    use_rep = _inputs.place_rep(adata, use_rep)
    latent, spots = _inputs.latent_spots(adata, use_rep, spatial_key, section_key, cells)
    rng = np.random.default_rng(seed)
    found = spot_distortion(latent, spots.coordinates, spots.section, rng=rng, n_partners=n_partners)
    for name, values in ((key_added, found.distortion), (f"{key_added}_stretch", found.stretch)):
        column = np.full(adata.n_obs, np.nan)
        column[spots.row] = values
        adata.obs[name] = column
    parameters = _inputs.parameters(use_rep, spatial_key, section_key, seed)
    adata.uns[key_added] = {"scale": found.scale, "n_partners": n_partners} | parameters
    return found
