"""10x' HDF5 matrices, read block by block: nothing but the counts themselves is ever whole in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

GENES = "Gene Expression"  # type of the features that are genes
_COLUMNS = {"id": "gene_ids", "feature_type": "feature_types"}  # as scanpy calls them
_BLOCK = 2**19  # entries read together


def read_h5(path: Path, *, only_genes: bool = True) -> AnnData:
    """Counts of a 10x matrix as CSR, with 32-bit floats and indices.

    Parameters
    ----------
    path
        ``.h5`` of Cell Ranger 3 or later, Space Ranger, Xenium; of Cell Ranger 2 it is left to scanpy.
    only_genes
        Leave out features of other types.

    Returns
    -------
    Names of the features as ``var_names``, not made unique; their other columns under scanpy's names.
    """
    with h5py.File(path, "r") as file:
        if "matrix" in file:
            group = file["matrix"]
            var = _features(group["features"])
            kept = np.ones(len(var), dtype=bool)
            if only_genes and "feature_types" in var:
                kept = (var["feature_types"] == GENES).to_numpy()
            obs = pd.DataFrame(index=pd.Index(_texts(group["barcodes"])))
            return AnnData(_counts(group, kept), obs=obs, var=var[kept])
    import scanpy as sc  # takes seconds, and only old files need it

    return sc.read_10x_h5(path, gex_only=only_genes)


def _features(group: Any) -> pd.DataFrame:
    n_features = len(group["id"])
    names = [
        name for name in group if isinstance(group[name], h5py.Dataset) and group[name].shape == (n_features,)
    ]
    columns = {_COLUMNS.get(name, name): _texts(group[name]) for name in names if name != "name"}
    return pd.DataFrame(columns, index=pd.Index(_texts(group["name"])))


def _texts(data: Any) -> np.ndarray:
    values = data[:]
    if values.dtype.kind in "SO":
        return np.array([one.decode() if isinstance(one, bytes) else one for one in values], dtype=object)
    return values


def _counts(group: Any, kept: np.ndarray) -> sparse.csr_matrix:
    """The columns of a mask, of a matrix that is stored by cells."""
    n_features, n_cells = (int(number) for number in group["shape"][:])
    starts, place = group["indptr"][:].astype(np.int64), np.cumsum(kept, dtype=np.int32) - 1
    if len(starts) != n_cells + 1 or n_features != len(kept) or starts[-1] != len(group["data"]):
        raise ValueError("its parts are of different lengths")
    data, indices = np.empty(starts[-1], dtype=np.float32), np.empty(starts[-1], dtype=np.int32)
    ends, n_stored = np.zeros(n_cells + 1, dtype=np.int64), 0
    for first, last in _blocks(starts):
        span = slice(int(starts[first]), int(starts[last]))
        feature = group["indices"][span].astype(np.int32, copy=False)
        use = kept[feature]
        before = np.concatenate([[0], np.cumsum(use)])
        ends[first + 1 : last + 1] = n_stored + before[starts[first + 1 : last + 1] - span.start]
        n_new = int(before[-1])
        data[n_stored : n_stored + n_new] = group["data"][span][use]
        indices[n_stored : n_stored + n_new] = place[feature[use]]
        n_stored += n_new
    return sparse.csr_matrix((data[:n_stored], indices[:n_stored], ends), shape=(n_cells, int(kept.sum())))


def _blocks(starts: np.ndarray) -> list[tuple[int, int]]:
    """Runs of cells with about so many entries."""
    cuts = np.searchsorted(starts, np.arange(_BLOCK, starts[-1], _BLOCK))
    cuts = np.unique([0, *cuts, len(starts) - 1])
    return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
