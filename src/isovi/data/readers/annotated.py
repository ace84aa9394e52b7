"""AnnData files: ``.h5ad`` and ``.zarr``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
from anndata import AnnData
from scipy import sparse

from isovi.data.readers.checksums import WholeStore, has_checksums, require_checksums
from isovi.data.readers.positions import Joined
from isovi.data.readers.safe import require_safe_hdf5, require_safe_zarr
from isovi.data.readers.source import INPUT_KEY, readable
from isovi.errors import IsoviWarning

_TABLES = ("obs", "var", "uns")
_ARRAYS = ("obsm", "varm", "obsp", "varp", "layers")  # by name
_SPARSE = (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array)
_REMEDY = "Copy or download it again, or write it anew with adata.write_h5ad(...)."


@dataclass(frozen=True)
class AnnDataFile(Joined):
    """An ``.h5ad`` file or an AnnData zarr store.

    Attributes
    ----------
    path
        Where it is.
    coordinates
        Table of positions to join.
    zarr
        Whether it is a zarr store.
    """

    kind = "AnnData"
    zarr: bool = False

    def read(self) -> AnnData:
        """All of the file, in memory."""
        adata = read_anndata(self.path, zarr=self.zarr)
        return adata if self.coordinates is None else self.sign(self.joined(adata))

    @contextmanager
    def stored(self) -> Iterator[AnnData]:
        """The data with counts, layers and ``raw`` on disk; in memory if positions are joined."""
        if self.coordinates is not None:
            yield self.read()
            return
        with ExitStack() as opened:
            with readable(self.path, "AnnData", _REMEDY):
                if self.zarr:
                    require_safe_zarr(self.path, lazy=("X", "layers"))
                    require_chunks(self.path)
                else:
                    require_safe_hdf5(self.path, lazy=("X", "layers"))
                adata = on_disk(
                    zarr_group(self.path) if self.zarr else opened.enter_context(h5py.File(self.path, "r"))
                )
            _drop_odd_note(adata)
            yield adata


def read_anndata(path: Path, *, zarr: bool) -> AnnData:
    """An AnnData file in memory, its counts in canonical form, checked for damage."""
    with readable(path, "AnnData", _REMEDY):
        if zarr:
            require_safe_zarr(path)
            require_chunks(path)
        else:
            require_safe_hdf5(path)
        adata = anndata.io.read_zarr(path) if zarr else _read_h5ad(path)
        _require_whole(adata)
        canonical_counts(adata)
    _drop_odd_note(adata)
    return adata


def _read_h5ad(path: Path) -> AnnData:
    """As anndata reads it, but also with slashes in the names of ``obsm``, ``layers`` and so on."""
    with h5py.File(path, "r") as file:
        named = (name for name in _ARRAYS if name in file and hasattr(file[name], "keys"))
        if any("/" in key for name in named for key, _ in _elements(file[name])):
            return on_disk(file).to_memory()
    return anndata.io.read_h5ad(path)


def _elements(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Names and elements of a group: HDF5 takes a slash in a name for a group within it."""
    for name in group:  # groups of zarr lack items()
        element = group[name]
        if hasattr(element, "keys") and not len(element.attrs):
            yield from _elements(element, f"{above}{name}/")
        else:
            yield f"{above}{name}", element


def read_stored(path: Path, read: Callable[[Path], Any] | None = None) -> Any:
    """The data that was saved with a model, as it was; by another function where it is no AnnData."""
    with readable(path, "the data of a saved model", "Copy it again, or pass the data."):
        require_safe_hdf5(path)
        return (read or anndata.io.read_h5ad)(path)


def on_disk(group: Any) -> AnnData:
    """AnnData backed by an open file: ``X``, ``layers`` and ``raw`` on disk, the rest in memory.

    Parameters
    ----------
    group
        Root group of an HDF5 file or a zarr store, which must stay open.
    """
    parts = {name: anndata.io.read_elem(group[name]) for name in _TABLES if name in group}
    for name in _ARRAYS[:-1]:
        parts[name] = {key: anndata.io.read_elem(one) for key, one in _elements(group.get(name, {}))}
    layers = {key: _matrix(one) for key, one in _elements(group.get("layers", {}))}
    counts = _matrix(group["X"]) if "X" in group else None
    raw = group.get("raw")  # of a file without raw it may be an empty dataset
    raw = raw if hasattr(raw, "keys") and "X" in raw else None
    if raw is not None:
        parts["raw"] = {"X": _matrix(raw["X"]), "var": anndata.io.read_elem(raw["var"])}
    return AnnData(X=counts, layers=layers, **parts)


def _matrix(element: Any) -> Any:
    kind = str(element.attrs.get("encoding-type", ""))
    if kind not in ("csr_matrix", "csc_matrix"):
        return element
    pointers = np.asarray(element["indptr"][...])
    n_rows = int(element.attrs["shape"][int(kind == "csc_matrix")])
    if len(pointers) != n_rows + 1 or pointers[0] != 0 or (pointers[1:] < pointers[:-1]).any():
        raise ValueError(f"the indptr of {element.name} does not ascend from 0 for each of {n_rows} rows")
    if not element["data"].shape == element["indices"].shape == (pointers[-1],):
        raise ValueError(f"{element.name} has parts of different lengths")
    return anndata.io.sparse_dataset(element)


def _drop_odd_note(adata: AnnData) -> None:
    """Leave out a note of isoVI's own that is of another shape than isoVI writes."""
    found = adata.uns.get(INPUT_KEY)
    if found is not None and not (isinstance(found, Mapping) and isinstance(found.get("unit"), str)):
        del adata.uns[INPUT_KEY]
        text = f'uns["{INPUT_KEY}"] is not what isoVI writes there, and is left out.'
        warnings.warn(text, IsoviWarning, stacklevel=2)


def zarr_group(path: Path) -> Any:
    """Root group of a store, opened read-only."""
    import zarr  # only where the input is zarr

    if has_checksums(path):
        return zarr.open_group(WholeStore(path, read_only=True), mode="r")
    return zarr.open_group(str(path), mode="r")


def require_chunks(path: Path) -> None:
    """Refuse a half-copied store: zarr reads zeros where a chunk is missing.

    Sparse matrices, names and positions are looked at. In other dense arrays a missing chunk is usual and
    stands for zeros. Packed stores have checksums, which say more.
    """
    require_checksums(path)
    lost = _lost_chunks(zarr_group(path))
    if lost:
        raise ValueError(f"{lost} lacks some of its chunks")


def _lost_chunks(group: Any) -> str | None:
    """Name of the first array at or below ``group`` that lacks chunks which do not stand for zeros."""
    kind = group.attrs.get("encoding-type")
    if kind in ("csr_matrix", "csc_matrix"):
        # stored values are not zero; with a single gene all indices are, and need not be stored
        one_index = group.attrs["shape"][1 if kind == "csr_matrix" else 0] == 1
        parts = [group[name] for name in (("data",) if one_index else ("data", "indices"))]
        return group.name if any(map(_lacks_chunks, parts)) else None
    stored, looked_at = dict(group.arrays()), []
    if kind == "dataframe":
        names = group.get(group.attrs.get("_index", ""))
        names = names.get("values") if hasattr(names, "keys") else names  # as pandas 3's strings are written
        looked_at = [names] if names is not None and names.shape[0] > 1 else []
    elif group.name.strip("/") == "obsm":
        looked_at = [array for array in stored.values() if array.shape[1:] in ((2,), (3,))]
    lost = next((array.name for array in looked_at if _lacks_chunks(array)), None)
    found = (_lost_chunks(child) for _, child in group.groups())
    return lost or next((name for name in found if name), None)


def _lacks_chunks(array: Any) -> bool:
    return array.nchunks_initialized < array.nchunks


def _require_whole(adata: AnnData) -> None:
    """Check that sparse matrices are consistent: in a damaged file their indices may point anywhere."""
    raw = [] if adata.raw is None else [adata.raw.X]
    for matrix in [adata.X, *raw, *adata.layers.values(), *adata.obsm.values(), *adata.obsp.values()]:
        if isinstance(matrix, _SPARSE):
            if not len(matrix.data) == len(matrix.indices) == matrix.indptr[-1]:
                raise ValueError("a sparse matrix has parts of different lengths")
            matrix.check_format(full_check=True)


def canonical_counts(adata: AnnData) -> None:
    """Bring count matrices that were just read to canonical form, in place.

    Entries at one place are added up and sorted. CSR gets 32-bit indices where they fit: half the memory, and
    scipy would convert all indices for every minibatch of a file that mixes widths.
    """
    for matrix in [adata.X, *adata.layers.values()]:
        if isinstance(matrix, _SPARSE):
            matrix.sum_duplicates()
        if isinstance(matrix, sparse.csr_matrix | sparse.csr_array) and matrix.nnz < np.iinfo(np.int32).max:
            matrix.indptr = matrix.indptr.astype(np.int32, copy=False)
            matrix.indices = matrix.indices.astype(np.int32, copy=False)
