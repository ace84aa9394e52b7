"""Distortion of each spot: where the latent space tears the tissue apart or folds it onto itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from isovi._repr import ReprMixin
from isovi._shapes import CellFloatArray, CellIndexArray, CoordinateArray, LatentArray
from isovi.geometry.distortion import fitted_scale

N_PARTNERS = 200
"""Number of spots of the same section with which each spot is compared."""

_CHUNK = 4096  # spots whose distances to all partners are held at once


@dataclass(frozen=True, repr=False)
class DistortionMap(ReprMixin):
    """How well the distances of each spot to the rest of its section are preserved.

    Attributes
    ----------
    distortion
        Relative distortion Σ|d_Z - λ d_S| / Σ λ d_S over the spot's pairs; NaN for a spot that is alone in
        its section. Shape ``(cell,)``.
    stretch
        The same without the absolute value: positive if the spot is too far from the rest in the latent
        space (a tear), negative if it is too near (a fold). Shape ``(cell,)``.
    scale
        λ, latent length per coordinate unit, fitted to all spots in the map.
    """

    distortion: CellFloatArray
    stretch: CellFloatArray
    scale: float


def spot_distortion(
    latent: LatentArray,
    coordinates: CoordinateArray,
    section: CellIndexArray,
    *,
    rng: np.random.Generator,
    n_partners: int = N_PARTNERS,
) -> DistortionMap:
    """Relative distortion of each spot's distances to random spots of its section.

    Takes O(cells x partners) time, and memory for one chunk of cells.

    Parameters
    ----------
    latent, coordinates, section
        Shapes ``(cell, latent)`` and ``(cell, axis)``, and the section code of each spot.
    rng
        Random generator that draws the partners, the same for all spots of a section.
    n_partners
        Number of partners; in smaller sections all spots.
    """
    scale = fitted_scale(latent, coordinates, section, rng)
    error, excess, expected = (np.zeros(len(section)) for _ in range(3))
    for code in np.unique(section):
        members = np.flatnonzero(section == code)
        partners = rng.choice(members, min(n_partners, len(members)), replace=False)
        for start in range(0, len(members), _CHUNK):
            spots = members[start : start + _CHUNK]
            wanted = scale * cdist(coordinates[spots], coordinates[partners])
            off = cdist(latent[spots], latent[partners]) - wanted
            error[spots], excess[spots] = np.abs(off).sum(axis=1), off.sum(axis=1)
            expected[spots] = wanted.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return DistortionMap(error / expected, excess / expected, scale)
