"""Log-normalised expression of counts, dense or sparse; :mod:`isovi.model.gaussian` has it for tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

TARGET_SUM = 1e4
"""Counts of each spot after normalisation, the usual number."""


def log_normalise(counts: Any, target_sum: float = TARGET_SUM) -> Any:
    """``log1p`` of counts scaled to ``target_sum`` for each spot; an empty spot stays zero.

    Parameters
    ----------
    counts
        Shape ``(cell, gene)``, array or sparse matrix.
    target_sum
        Counts of each spot after normalisation.

    Returns
    -------
    Float64 of the same shape: CSR if the counts are sparse, an array otherwise. Not a view.

    Examples
    --------
    >>> log_normalise([[1, 3], [0, 0]], target_sum=4.0).round(3).tolist()
    [[0.693, 1.386], [0.0, 0.0]]
    """
    is_sparse = sparse.issparse(counts)
    values = (sparse.csr_matrix if is_sparse else np.asarray)(counts, dtype=np.float64)
    total = np.asarray(values.sum(axis=1)).ravel()
    factor = target_sum / np.where(total > 0, total, 1.0)
    if is_sparse:
        return sparse.csr_matrix(sparse.diags(factor) @ values).log1p()
    return np.log1p(values * factor[:, None])
