"""How far placed cells are from where they were."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from isovi.errors import InputError
from isovi.geometry.align import aligned_stress, similarity
from isovi.tl.metrics import spearman_distance

N_CONTACTS = 6  # nearest neighbours of a spot in tissue


def placement_error(
    placed: ArrayLike,
    truth: ArrayLike,
    *,
    radius: ArrayLike | None = None,
    unit: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of placed positions against true ones.

    Parameters
    ----------
    placed, truth
        Positions in one unit, shape ``(cell, axis)``. Cells whose truth is not finite are left out.
    radius
        Radii of the regions, same unit, shape ``(cell,)``.
    unit
        Length by which errors are divided, such as the spacing of the spots.
    seed
        Draws the pairs of the rank correlation.

    Returns
    -------
    ``n_cells``, those with a true position; ``median_error``, ``mean_error`` and ``aligned_median_error``
    (after the similarity that fits best, for frames that need not agree), in units; ``spearman_distance`` of
    pairwise distances; ``contact_f1`` of the 6 nearest neighbours of each cell among the placed;
    ``aligned_stress``, the share of variance left after alignment; with radii ``coverage`` and
    ``median_radius``.

    Raises
    ------
    InputError
        If the shapes differ, or fewer than three cells have a true position.
    """
    found, true = (np.asarray(points, dtype=np.float64) for points in (placed, truth))
    known = np.isfinite(true).all(axis=-1)
    if found.shape != true.shape or known.sum() < 3:
        raise InputError(
            f"Positions of shapes {found.shape} and {true.shape} were to be compared, {known.sum()} of them "
            "with a true position.",
            "Both must hold the same cells, three at least with a true position.",
            "Subset both in the same way.",
        )
    found, true = found[known], true[known]
    errors = np.linalg.norm(found - true, axis=1) / unit
    aligned = np.linalg.norm(similarity(found, true).apply(found) - true, axis=1) / unit
    figures = {
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
        figures |= {"coverage": float((errors <= radii).mean()), "median_radius": float(np.median(radii))}
    return figures


def contact_f1(placed: ArrayLike, truth: ArrayLike, k: int = N_CONTACTS) -> float:
    """F1 score of placed contacts, each cell being in contact with its ``k`` nearest, joined both ways.

    Parameters
    ----------
    placed, truth
        Positions, shape ``(cell, axis)``.
    k
        Neighbours of a cell.
    """
    found, true = (_contacts(np.asarray(points, dtype=np.float64), k) for points in (placed, truth))
    return 2 * len(np.intersect1d(found, true)) / max(len(found) + len(true), 1)


def _contacts(points: NDArray, k: int) -> NDArray[np.int64]:
    """Unordered pairs, each as one number."""
    n = len(points)
    near = np.atleast_2d(cKDTree(points).query(points, k=min(k + 1, n))[1])
    ends = np.stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()])
    ends = np.sort(ends[:, ends[0] != ends[1]], axis=0)
    return np.unique(ends[0] * n + ends[1])
