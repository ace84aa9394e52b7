"""Leave out cells with too few counts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from anndata import AnnData

from isovi.data import check
from isovi.errors import InputError, IsoviWarning


def cell_totals(counts: Any, genes: np.ndarray | None = None) -> np.ndarray:
    """Total counts of each cell, shape ``(cell,)``, of all genes or those of a mask; in memory or on disk."""
    totals = np.zeros(counts.shape[0])
    for block in check.blocks(counts):
        values = block.values if genes is None else block.values[:, np.flatnonzero(genes[block.columns])]
        totals[block.rows] += np.asarray(values.sum(axis=1)).ravel()
    return totals


def enough(counts: Any, min_counts: int) -> np.ndarray:
    """Mask of the cells with at least ``min_counts`` counts, shape ``(cell,)``.

    Raises
    ------
    InputError
        If there is no such cell.

    Warns
    -----
    IsoviWarning
        With the number of cells that are left out.
    """
    kept = cell_totals(counts) >= min_counts
    if len(kept) and not kept.any():
        raise InputError(
            f"None of {len(kept)} cells has {min_counts} counts.",
            "At least one cell is needed.",
            "Lower `min_counts`.",
        )
    if not kept.all():
        few = "no count" if min_counts == 1 else f"fewer than {min_counts} counts"
        left = f"{int((~kept).sum())} of {len(kept)} cells have {few} and are left out."
        warnings.warn(left, IsoviWarning, stacklevel=3)
    return kept


def drop_cells(adata: AnnData, min_counts: int = 1, layer: str | None = None) -> AnnData:
    """The cells with at least ``min_counts`` counts; the same object if all have.

    Parameters
    ----------
    adata
        Data in memory; not changed.
    min_counts
        Counts that a cell needs.
    layer
        Layer of the counts; ``X`` by default.

    Raises
    ------
    InputError
        If there is no such cell.
    """
    counts = adata.X if layer is None else adata.layers.get(layer)
    if min_counts <= 0 or counts is None:  # a missing layer is reported by isovi.data.check
        return adata
    kept = enough(counts, min_counts)
    return adata if kept.all() else adata[kept].copy()
