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
    use_rep: str = "X_isovi",
    spatial_key: str = "spatial",
    section_key: str | None = None,
    cells: ArrayLike | None = None,
    n_partners: int = N_PARTNERS,
    key_added: str = "isovi_distortion",
    seed: int = 0,
) -> DistortionMap:
    """Map where the latent keeps the tissue's distances, and where it tears or folds the tissue.

    Each spot's distances to random spots of its section are compared: distortion is
    Σ|d_Z - λ d_S| / Σ λ d_S, and stretch the same without the absolute value.

    Parameters
    ----------
    adata
        Annotated data; ``obs[key_added]`` (distortion), ``obs[f"{key_added}_stretch"]`` (positive where the
        latent holds a spot too far from the rest, a tear; negative where too near, a fold) and
        ``uns[key_added]`` (``scale`` and the parameters) are written. Spots that take no part get
        not-a-number.
    use_rep, spatial_key, section_key, cells
        As in :func:`distortion_profile`.
    n_partners
        Spots of its section that each spot is compared with.
    key_added
        See ``adata``.
    seed
        Draws them.

    Returns
    -------
    The record, with one value for each spot that takes part.

    Raises
    ------
    InputError
        If a key is missing, or latent or positions are not finite.
    """
    latent, spots = _inputs.latent_spots(adata, use_rep, spatial_key, section_key, cells)
    rng = np.random.default_rng(seed)
    found = spot_distortion(latent, spots.coordinates, spots.section, rng=rng, n_partners=n_partners)
    for name, values in ((key_added, found.distortion), (f"{key_added}_stretch", found.stretch)):
        column = np.full(adata.n_obs, np.nan)
        column[spots.row] = values
        adata.obs[name] = column
    asked = _inputs.parameters(use_rep, spatial_key, section_key, seed)
    adata.uns[key_added] = {"scale": found.scale, "n_partners": n_partners} | asked
    return found
