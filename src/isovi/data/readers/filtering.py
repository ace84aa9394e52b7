"""Which cells have counts enough."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from anndata import AnnData

from isovi.data import check
from isovi.errors import InputError, IsoviWarning


def cell_totals(counts: Any) -> np.ndarray:
    """Counts of each cell, of a matrix in memory or on disk, shape ``(cell,)``."""
    totals = np.zeros(counts.shape[0])
    for block in check.blocks(counts):
        totals[block.rows] += np.asarray(block.values.sum(axis=1)).ravel()
    return totals


def enough(counts: Any, min_counts: int) -> np.ndarray:
    """Mask of the cells with at least so many counts, shape ``(cell,)``.

    Raises
    ------
    InputError
        If there is none.

    Warns
    -----
    IsoviWarning
        With the number of cells that have fewer.
    """
    kept = cell_totals(counts) >= min_counts
    if len(kept) and not kept.any():
        raise InputError(
            f"None of {len(kept)} cells has {min_counts} counts.", "At least one is needed.", "Ask for fewer."
        )
    if not kept.all():
        few = "no count" if min_counts == 1 else f"fewer than {min_counts} counts"
        left = f"{int((~kept).sum())} of {len(kept)} cells have {few} and are left out."
        warnings.warn(left, IsoviWarning, stacklevel=3)
    return kept


def drop_cells(adata: AnnData, min_counts: int = 1, layer: str | None = None) -> AnnData:
    """The cells with at least so many counts: the same object if that is all.

    Parameters
    ----------
    adata
        Data in memory; not changed.
    min_counts
        Counts that a cell must have.
    layer
        Layer of the counts; ``X`` by default.

    Raises
    ------
    InputError
        If there is no such cell.
    """
    counts = adata.X if layer is None else adata.layers.get(layer)
    if min_counts <= 0 or counts is None:  # a layer that is missing is told of where the input is checked
        return adata
    kept = enough(counts, min_counts)
    return adata if kept.all() else adata[kept].copy()
