"""10x' HDF5 matrices, read block by block: nothing but the counts themselves is ever whole in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.readers.safe import require_safe_hdf5
from isovi.errors import InputError

GENES = "Gene Expression"  # type of the features that are genes
_COLUMNS = {"id": "gene_ids", "feature_type": "feature_types"}  # as scanpy calls them
_BLOCK = 2**19  # entries read together


def read_h5(path: Path) -> AnnData:
    """Counts of a 10x matrix as CSR, with 32-bit floats and indices.

    Parameters
    ----------
    path
        ``.h5`` of Cell Ranger 3 or later, Space Ranger, Xenium; of Cell Ranger 2 it is left to scanpy.

    Returns
    -------
    Names of the features as ``var_names``, not made unique; their other columns under scanpy's names.
    """
    require_safe_hdf5(path)
    with h5py.File(path, "r") as file:
        if "matrix" in file:
            group = file["matrix"]
            var = _features(group["features"])
            obs = pd.DataFrame(index=pd.Index(_texts(group["barcodes"])))
            return AnnData(_counts(group, len(var)), obs=obs, var=var)
        _require_genomes(path, file)
    import scanpy as sc  # takes seconds, and only old files need it

    return sc.read_10x_h5(path, gex_only=False)


def _require_genomes(path: Path, file: h5py.File) -> None:
    """Refuse files of 10x pipelines that are no matrices; of Cell Ranger 2 each genome has one."""
    groups = [group for group in file.values() if isinstance(group, h5py.Group)]
    if not groups or any("indptr" not in group for group in groups):
        raise InputError(
            f'"{path}" holds {", ".join(file) or "nothing"}, and no matrix of counts.',
            "Of the .h5 files of 10x only matrices of features and cells are read.",
            "Name the folder of the output, or filtered_feature_bc_matrix.h5 or cell_feature_matrix.h5.",
        )


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


def _counts(group: Any, n_names: int) -> sparse.csr_matrix:
    """A matrix that is stored by cells."""
    n_features, n_cells = (int(number) for number in group["shape"][:])
    starts = group["indptr"][:].astype(np.int64)
    if len(starts) != n_cells + 1 or n_features != n_names or starts[-1] != len(group["data"]):
        raise ValueError("its parts are of different lengths")
    data, indices = np.empty(starts[-1], dtype=np.float32), np.empty(starts[-1], dtype=np.int32)
    for first in range(0, int(starts[-1]), _BLOCK):
        block = slice(first, first + _BLOCK)
        data[block], indices[block] = group["data"][block], group["indices"][block]
    return sparse.csr_matrix((data, indices, starts), shape=(n_cells, n_features))
