"""Output of Xenium Onboard Analysis and Xenium Ranger."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.matrix import find_matrix, make_unique, read_matrix
from isovi.data.readers.positions import PositionTable, join, position_table, read_positions
from isovi.data.readers.source import MICROMETRES, Reader, readable
from isovi.data.readers.tenx import GENES
from isovi.data.usable import drop_cells

MATRIX = "cell_feature_matrix"
ZARR = (".zarr.zip", ".zarr")
CELLS = ("cells.csv.gz", "cells.csv", "cells.parquet")
CELLS_ZARR = ("cells.zarr.zip", "cells.zarr")
GENE = "gene"  # type of the features that are genes, in zarr
_LETTERS = np.frombuffer(b"abcdefghijklmnop", dtype="S1")  # of the digits 0 to f in names of cells


@dataclass(frozen=True)
class Xenium(Reader):
    """Cells of a Xenium slide.

    Attributes
    ----------
    matrix
        Counts of the cells (``.h5``, a Matrix Market folder, ``.zarr.zip``); control probes are left out.
    cells
        Table of the cells, with their centroids.
    """

    kind = "10x Xenium"
    matrix: Path
    cells: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Matrix and cells; nothing else of the folder is needed."""
        return self.matrix, self.cells

    @property
    def unit(self) -> str:
        """Micrometres."""
        return MICROMETRES

    def read(self) -> AnnData:
        """Counts and centroids of the cells."""
        counts = read_zarr_matrix if self.matrix.name.endswith(ZARR) else read_matrix
        cells = read_zarr_cells if self.cells.name.endswith(ZARR) else read_positions
        return self.sign(drop_cells(join(counts(self.matrix), cells(self.cells), self.matrix)))


def find_xenium(folder: Path) -> Xenium | None:
    """Xenium output in a folder, if it is there; Parquet is the quicker table to read if pyarrow is there."""
    matrix = find_matrix(folder, MATRIX)
    zarr = (path for end in ZARR if (path := folder / f"{MATRIX}{end}").exists())
    matrix = next(zarr, None) if matrix is None else matrix
    tables = [table for name in CELLS if (table := _table(folder, name)) is not None]
    stores = [folder / name for name in CELLS_ZARR if (folder / name).exists()]
    if matrix is None or not (tables or stores):
        return None
    if not tables:
        return Xenium(matrix, stores[0])
    return Xenium(matrix, tables[-1 if find_spec("pyarrow") else 0])


def _table(folder: Path, name: str) -> Path | None:
    """A file of this name, or the only one with a prefix, as in GEO."""
    prefixed = sorted(folder.glob(f"*_{name}"))
    if (folder / name).is_file():
        return folder / name
    return prefixed[0] if len(prefixed) == 1 else None


def read_zarr_matrix(path: Path) -> AnnData:
    """Cells and genes of ``cell_feature_matrix.zarr.zip``, whose rows are features.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with readable(path, "a cell-feature matrix of Xenium"):
        group = _open(path)["cell_features"]
        about = dict(group.attrs)
        names, types = np.array(about["feature_keys"], dtype=object), np.array(about["feature_types"])
        shape = (int(about["number_cells"]), int(about["number_features"]))
        parts = (
            group["data"][:].astype(np.float32),
            group["indices"][:].astype(np.int32),
            group["indptr"][:],
        )
        counts = sparse.csc_matrix(parts, shape=shape).tocsr()
        cells = cell_names(group["cell_id"][:])
        var = pd.DataFrame({"gene_ids": about["feature_ids"]}, index=pd.Index(names))
        var["feature_types"] = np.where(types == GENE, GENES, types)
    adata = AnnData(counts, obs=pd.DataFrame(index=cells), var=var)
    canonical_counts(adata)
    make_unique(adata)
    return adata


def read_zarr_cells(path: Path) -> PositionTable:
    """Centroids of the cells of ``cells.zarr.zip``.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with readable(path, "a store of Xenium cells"):
        group = _open(path)
        summary = group["cell_summary"]
        columns = [str(name) for name in summary.attrs["column_names"]]
        table = pd.DataFrame(summary[:], columns=columns)
        table.insert(0, "cell_id", cell_names(group["cell_id"][:]).to_numpy())
    return position_table(table, path)


def cell_names(ids: np.ndarray) -> pd.Index:
    """Names of cells, such as ``ffkpbaba-1``, from prefix and suffix; the first versions had numbers only."""
    if ids.ndim == 1:
        return pd.Index(ids.astype(str))
    shifts = np.arange(28, -4, -4, dtype=np.uint32)
    digits = (ids[:, :1].astype(np.uint32) >> shifts) & np.uint32(15)
    prefix = np.ascontiguousarray(_LETTERS[digits]).view("S8").ravel().astype("U8")
    return pd.Index(np.char.add(np.char.add(prefix, "-"), ids[:, 1].astype(str)).astype(object))


def _open(path: Path) -> Any:
    """Root of a zarr store, which may be in a zip file; opened read-only."""
    import zarr

    store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else str(path)
    return zarr.open_group(store, mode="r")
