"""Errors of predicted positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from isovi.errors import InputError
from isovi.geometry.align import aligned_stress, similarity
from isovi.tl.metrics import spearman_distance

N_CONTACTS = 6  # nearest neighbours of a spot in the tissue


def placement_error(
    placed: ArrayLike,
    truth: ArrayLike,
    *,
    radius: ArrayLike | None = None,
    unit: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of placed positions against true positions.

    Parameters
    ----------
    placed, truth
        Positions in the same unit, shape ``(cell, axis)``.
    radius
        Radii of the regions in the same unit, shape ``(cell,)``.
    unit
        Length by which errors are divided, such as the spacing of the spots.
    seed
        Random seed that draws the pairs of the rank correlation.

    Returns
    -------
    ``median_error``, ``mean_error`` and ``aligned_median_error`` (after alignment with the best-fitting
    similarity, if frames differ), in units; ``spearman_distance`` of pairwise distances; ``contact_f1`` of
    the 6 nearest neighbours of each cell among the placed cells; ``aligned_stress``, the share of variance
    that remains after alignment; with radii also ``coverage`` and ``median_radius``.

    Raises
    ------
    InputError
        If the shapes differ, or fewer than three cells have a true position.
    """
    found, true = (np.asarray(points, dtype=np.float64) for points in (placed, truth))
    known = np.isfinite(true).all(axis=-1)
    if found.shape != true.shape or known.sum() < 3:
        raise InputError(
            f"placed has shape {found.shape}, truth has shape {true.shape}, {int(known.sum())} of them with "
            "a true position.",
            "Both must contain the same cells, at least three.",
            "Subset both in the same way.",
        )
    found, true = found[known], true[known]
    errors = np.linalg.norm(found - true, axis=1) / unit
    aligned = np.linalg.norm(similarity(found, true).apply(found) - true, axis=1) / unit
    metrics = {
        "n_cells": len(errors),
        "median_error": float(np.median(errors)),
        "mean_error": float(errors.mean()),
        "aligned_median_error": float(np.median(aligned)),
        "aligned_stress": aligned_stress(found, true),
        "spearman_distance": spearman_distance(
            found, true, np.zeros(len(found), dtype=np.int64), rng=np.random.default_rng(seed)
        ),
        "contact_f1": contact_f1(found, true),
    }
    if radius is not None:
        radii = np.asarray(radius, dtype=np.float64)[known] / unit
        metrics |= {"coverage": float((errors <= radii).mean()), "median_radius": float(np.median(radii))}
    return metrics


def contact_f1(placed: ArrayLike, truth: ArrayLike, k: int = N_CONTACTS) -> float:
    """F1 score of placed contacts. Each cell is in contact with its ``k`` nearest, in either direction.

    Parameters
    ----------
    placed, truth
        Positions, shape ``(cell, axis)``.
    k
        Number of neighbours of a cell.
    """
    found, true = (_contacts(np.asarray(points, dtype=np.float64), k) for points in (placed, truth))
    return 2 * len(np.intersect1d(found, true)) / max(len(found) + len(true), 1)


def _contacts(points: NDArray, k: int) -> NDArray[np.int64]:
    """Unordered pairs, each encoded as one number."""
    n = len(points)
    near = np.atleast_2d(cKDTree(points).query(points, k=min(k + 1, n))[1])
    ends = np.stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()])
    ends = np.sort(ends[:, ends[0] != ends[1]], axis=0)
    return np.unique(ends[0] * n + ends[1])
