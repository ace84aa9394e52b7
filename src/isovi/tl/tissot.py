"""Tissot ellipses of a latent representation in an AnnData: where the map is round, stretched or torn."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from isovi._shapes import CellIndexArray
from isovi.errors import IsoviWarning
from isovi.geometry.tissot import TissotEllipses, tissot_ellipses
from isovi.tl import _inputs

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles at which the distributions of anisotropy and area are reported."""


def tissot(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    n_neighbors: int = 12,
    cells: ArrayLike | None = None,
    key_added: str = "isovi_tissot",
) -> TissotEllipses:
    """Compute the image of a small circle around each spot under the map from tissue to latent space.

    The image is the ellipse of the local linear map, fitted to the nearest spots with weights that fall to
    zero with distance. A distance-preserving latent space has equal circles everywhere. Long ellipses mean
    that the latent representation changes faster in one direction of the tissue than in the other. Noise
    enlarges ellipses in all directions, and the ellipses of pure noise are fairly round, so read them
    together with :func:`distortion_profile`.

    Parameters
    ----------
    adata
        Annotated data matrix; only the keys below are written.
    use_rep
        Key in ``obsm`` of the latent representation, shape ``(n_obs, n_latent)``. By default the part whose
        distances are to follow the tissue, ``"X_isovi_place"``, or ``"X_isovi"`` without parts.
    spatial_key
        Key in ``obsm`` of the positions, shape ``(n_obs, 2)`` or ``(n_obs, 3)``.
    section_key
        Column of ``obs`` with the tissue section; ``None`` if there is only one. Neighbours are computed
        within sections, and the coordinate unit is the section's median distance to the nearest neighbour.
    n_neighbors
        Number of nearest spots to which the linear map is fitted. More neighbours average out more noise and
        describe the map on a larger scale; compare latent representations with the same number.
    cells
        Spots to use, also as neighbours: a boolean mask or row numbers; all by default. Use the held-out
        spots to see the map where the model was not fitted. The unit is always that of all spots.
    key_added
        Prefix of the keys that are written.

    Returns
    -------
    The record, with one ellipse for each spot used. The following is written to ``adata``, with NaN at spots
    without an ellipse:

    - ``obs[f"{key_added}_anisotropy"]``: longest over shortest half axis;
    - ``obs[f"{key_added}_area"]``: product of the half axes, in latent lengths per spacing, squared (3-D:
      cubed);
    - ``obs[f"{key_added}_angle"]``, in 2-D: direction of the longest half axis in the tissue, from the first
      axis to the second, radians from 0 to π;
    - ``obsm[f"{key_added}_jacobian"]``: the linear maps row by row, float32, shape ``(n_obs, n_latent *
      n_axes)``;
    - ``uns[key_added]``: ``n_ellipses``, ``quantiles`` (0.05, 0.25, 0.5, 0.75, 0.95) and the ``anisotropy``
      and ``area`` at these, and the parameters.

    Raises
    ------
    InputError
        If a key is missing, the latent representation or the positions are not finite, `cells` is not a valid
        selection of spots, or there are too few neighbours.

    Warns
    -----
    IsoviWarning
        If spots have no ellipse because their neighbours do not determine the map in all directions.

    Examples
    --------
    >>> from isovi.simulate import simulate
    >>> adata = simulate(n_obs=200, n_genes=20)
    >>> adata.obsm["X_isovi"] = adata.obsm["spatial"] * [2.0, 1.0]
    >>> ellipses = tissot(adata)
    >>> float(adata.obs["isovi_tissot_anisotropy"].median().round(3))
    2.0
    """
    use_rep = _inputs.place_rep(adata, use_rep)
    latent, spots = _inputs.latent_spots(adata, use_rep, spatial_key, section_key, cells)
    ellipses = tissot_ellipses(latent, spots.coordinates, spots.section, n_neighbors)
    _warn_of_missing(ellipses, n_neighbors)
    _write(adata, key_added, ellipses, spots.row)
    asked = {"use_rep": use_rep, "spatial_key": spatial_key, "n_neighbors": n_neighbors}
    section = {} if section_key is None else {"section_key": section_key}
    adata.uns[key_added] = summary(ellipses) | {"params": asked | section}
    return ellipses


def summary(ellipses: TissotEllipses) -> dict[str, Any]:
    """Quantiles of anisotropy and area scale over the spots with an ellipse.

    Returns
    -------
    ``n_ellipses``; ``quantiles``, equal to :data:`QUANTILES`; ``anisotropy`` and ``area`` at these quantiles
    (observed values, from the inverse of the distribution function), NaN if there are no ellipses.
    """
    found = {"anisotropy": _quantiles(ellipses.anisotropy), "area": _quantiles(ellipses.area)}
    return {"n_ellipses": int(ellipses.valid.sum()), "quantiles": np.array(QUANTILES)} | found


def _quantiles(values: NDArray) -> NDArray[np.float64]:
    known = values[~np.isnan(values)]
    if not len(known):
        return np.full(len(QUANTILES), np.nan)
    return np.quantile(known, QUANTILES, method="inverted_cdf")  # avoids means of infinite values


def _warn_of_missing(ellipses: TissotEllipses, n_neighbors: int) -> None:
    if missing := int((~ellipses.valid).sum()):
        warnings.warn(
            f"{missing} of {len(ellipses)} spots have no ellipse: their {n_neighbors} neighbours lie on a "
            "line (in 3-D: in a plane) or coincide, or their section has too few spots.",
            IsoviWarning,
            stacklevel=3,
        )


def _write(adata: AnnData, key: str, ellipses: TissotEllipses, cells: CellIndexArray) -> None:
    columns = {"anisotropy": ellipses.anisotropy, "area": ellipses.area}
    if ellipses.jacobian.shape[2] == 2:
        columns["angle"] = ellipses.angle
    for name, values in columns.items():
        column = np.full(adata.n_obs, np.nan)
        column[cells] = values
        adata.obs[f"{key}_{name}"] = column
    maps = np.full((adata.n_obs, math.prod(ellipses.jacobian.shape[1:])), np.nan, dtype=np.float32)
    maps[cells] = ellipses.jacobian.reshape(len(cells), -1)
    adata.obsm[f"{key}_jacobian"] = maps
