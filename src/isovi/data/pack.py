"""Packed data: cells ordered along a space-filling curve, as sharded, compressed CSR read patch by patch.

A packed store is an AnnData zarr store (format 3) like any other. Its rows are ordered so that a patch of
tissue is one contiguous read; ``obs["isovi_row"]`` holds the row of each cell in the input.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.abc import CSRDataset
from scipy import sparse
from zarr.codecs import Crc32cCodec, ZstdCodec

from isovi._shapes import CellIndexArray
from isovi.data import check, decimals, findings, io
from isovi.data.readers.checksums import MARK, PACK_KEY, damaged, write_checksums
from isovi.data.readers.source import Source
from isovi.data.readers.spatialdata import require_known_sections
from isovi.data.usable import enough, is_to_round, usable, without_empty_z
from isovi.data.writable import plain_strings, require_own_names, writable
from isovi.errors import InputError, IsoviWarning, OutputError
from isovi.geometry.hilbert import curve_order

ROW_COLUMN = "isovi_row"  # row of the input that a packed cell comes from
CHUNK_ENTRIES = 2**16  # stored values that are compressed together
SHARD_ENTRIES = 2**22  # stored values of one file
MAX_ROWS = 2**13  # read in one piece, which bounds what is read in vain
BUCKET_BYTES = 2**26  # entries sorted in memory at a time
MAX_BUCKETS = 1024
_ENTRY_BYTES = 12


@dataclass(frozen=True)
class Packed:
    """Size of a packed store.

    Attributes
    ----------
    n_obs, n_vars
        Cells and genes.
    n_sections
        Tissue sections, stored one after the other.
    n_counts
        Values stored in ``X``.
    """

    n_obs: int
    n_vars: int
    n_sections: int
    n_counts: int


def pack(
    source: Source | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    min_counts: int = 0,
    keep_controls: bool = False,
    round_counts: bool = False,
    force: bool = False,
) -> Packed:
    """Write a store from which a model can be trained without the counts in memory.

    Counts and layers of AnnData are streamed, so that memory does not grow with their size. Other kinds of
    input are read into memory first, as sparse matrices. Counts are sorted through temporary files beside
    ``target`` of about 12 bytes for each stored value. Names and annotation that a store cannot hold are
    converted; see ``isovi.data.writable``.

    Parameters
    ----------
    source
        Any input of :func:`isovi.data.io.read`; never changed.
    target
        ``.zarr`` store to write, whole or not at all.
    spatial_key
        Key in ``obsm`` of the positions.
    section_key
        Column of ``obs`` with the tissue section; cells are stored section by section.
    min_counts
        Leave out cells with fewer counts in ``X``.
    keep_controls
        Keep control probes and other features that are no genes.
    round_counts
        Round counts in ``X`` and layers that were corrected for ambient RNA, or estimated. Rounding noise
        always is.
    force
        Replace an earlier packed store at ``target``.

    Returns
    -------
    The size of the store. All of the input but ``raw``, controls and spots outside of the tissue
    (``obs["in_tissue"]``) or without a position is kept, in the new order.

    Raises
    ------
    InputError
        If the input cannot be read, or positions or sections cannot be used, or there are sections that were
        not declared.
    OutputError
        If ``target`` cannot be written, is inside of the input, or is another store than a packed one.

    Warns
    -----
    IsoviWarning
        If something is left out, converted or renamed, and of what ``isovi.data.findings`` finds.
    """
    source = Source.of(source)
    final = _target(target, force)
    with io.exclusive(final, [source.path, source.coordinates]), io.stored(source) as given:
        if given.X is None:
            raise InputError(
                f'"{source.path}" has no X.',
                "Counts are packed from X and the layers.",
                "Store the counts in X.",
            )
        adata = _writable(without_empty_z(given, spatial_key), spatial_key, section_key)
        if section_key is None:
            require_known_sections(adata)
        taken = usable(adata, keep_controls=keep_controls, spatial_key=spatial_key)
        taken.say()
        order, n_sections = _order(adata, taken.spots, spatial_key, section_key)
        if min_counts > 0:
            order = order[enough(adata.X, min_counts)[order]]
        matrices = {"X": adata.X, **{name: adata.layers[name] for name in adata.layers if name is not None}}
        to_round = [name for name, one in matrices.items() if is_to_round(one, round_counts=round_counts)]
        io.require_room(final, _entry_bytes(matrices.values()) * len(order) // adata.n_obs)
        with io.replacing(final, store=True) as temporary:
            settings = {"spatial_key": spatial_key, "section_key": section_key or "", "curve": "hilbert"}
            genes = np.flatnonzero(taken.genes)
            n_counts = write_ordered(adata, temporary, order, settings, genes, to_round=to_round)
    return Packed(len(order), len(genes), n_sections, n_counts)


def _target(target: str | os.PathLike[str], force: bool) -> Path:
    final = io.output_path(target)
    if final.suffix != ".zarr":
        raise OutputError(
            f'"{target}" has the suffix "{final.suffix}".',
            "Packed data is a zarr store.",
            "Use the suffix .zarr.",
        )
    return io.require_writable(final, force=force, ours=f"uns/{PACK_KEY}")


def _writable(adata: AnnData, spatial_key: str, section_key: str | None) -> AnnData:
    """The data with names and annotation that a store can hold, with a note on what is converted."""
    found = writable(adata)
    require_own_names(found, {"spatial_key": ("obsm", spatial_key), "section_key": ("obs", section_key)})
    for note in found.notes:
        warnings.warn(note, IsoviWarning, stacklevel=3)
    return found.adata


def _order(
    adata: AnnData, spots: np.ndarray, spatial_key: str, section_key: str | None
) -> tuple[CellIndexArray, int]:
    """Order of the cells on disk, and the number of sections; positions are looked at as for a fit."""
    check.size(adata)
    rows = np.flatnonzero(spots)
    obsm = {key: _rows(adata.obsm[key], rows) for key in adata.obsm}
    kept = AnnData(obs=adata.obs.iloc[rows], obsm=obsm, uns=dict(adata.uns))
    codes, names = check.sections(kept, section_key)
    positions = check.coordinates(kept, spatial_key)
    check.section_coordinates(positions, codes, names)
    findings.require(findings.find_in(kept, spatial_key, section_key))
    return rows[curve_order(positions, codes)], len(names)


# ---------------------------------------------------------------------------- packed stores


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether the path is a packed store."""
    path = Path(path).expanduser()
    return path.is_dir() and (path / "uns" / PACK_KEY).is_dir()


def open_packed(path: str | os.PathLike[str]) -> AnnData:
    """Open a packed store; counts and layers stay on disk, so do not move it while it is in use.

    Parameters
    ----------
    path
        Store written by :func:`pack`.

    Returns
    -------
    AnnData in the order of the store, to set up and train models with.

    Raises
    ------
    InputError
        If it is not a packed store, or damaged.
    """
    if not is_packed(path):
        raise InputError(
            f'"{path}" is not a packed store.',
            "Packed stores are written by isovi pack.",
            "Run isovi pack first.",
        )
    with io.stored(path) as adata:  # zarr has nothing to close
        return adata


def is_on_disk(matrix: Any) -> bool:
    """Whether a matrix is CSR on disk, to be read block by block."""
    return isinstance(matrix, CSRDataset)


def take_genes(adata: AnnData, genes: np.ndarray, path: Path) -> AnnData:
    """Select genes to train on: a copy in memory, or another store.

    Parameters
    ----------
    adata
        In memory, or from :func:`open_packed`.
    genes
        Mask over ``var``, shape ``(gene,)``.
    path
        Store to write, if the data is packed.

    Raises
    ------
    OutputError
        If there is no room for that store.
    """
    if not is_on_disk(adata.X):
        return adata[:, genes].copy()
    io.require_room(path, int(genes.mean() * _entry_bytes([adata.X])))
    write_ordered(adata, path, np.arange(adata.n_obs), dict(adata.uns[PACK_KEY]), np.flatnonzero(genes))
    return open_packed(path)


def _entry_bytes(matrices: Iterable[Any]) -> int:
    """Bytes of the entries of the largest of these matrices as they are sorted on disk."""
    return max(check.n_stored(one) * (8 + np.dtype(one.dtype).itemsize) for one in matrices)


def take_cells(adata: AnnData, rows: CellIndexArray) -> AnnData:
    """Select cells into memory, with everything but ``obsp``, ``varm`` and ``uns``.

    Parameters
    ----------
    adata
        In memory, or from :func:`open_packed`.
    rows
        Ascending row numbers without repeats.
    """
    return AnnData(
        X=take_rows(adata.X, rows),
        layers={name: take_rows(adata.layers[name], rows) for name in adata.layers if name is not None},
        obs=adata.obs.iloc[rows].copy(),
        var=adata.var.copy(),
        obsm={key: _rows(value, rows) for key, value in adata.obsm.items()},
    )


def input_order(adata: AnnData) -> CellIndexArray:
    """Rank of each cell in the order of the input, a permutation of shape ``(cell,)``.

    What is drawn for the cells in the order of the input is brought to the order of a packed store by it:
    ``split[input_order(adata)]``. Data that was not packed is in the order of the input already.

    Parameters
    ----------
    adata
        Data of any kind, also some of the cells of a packed store.
    """
    if ROW_COLUMN not in adata.obs:
        return np.arange(adata.n_obs)
    ranks = np.empty(adata.n_obs, dtype=np.int64)
    ranks[np.argsort(adata.obs[ROW_COLUMN].to_numpy(), kind="stable")] = np.arange(adata.n_obs)
    return ranks


def in_input_order(adata: AnnData) -> AnnData:
    """Annotation of packed cells, without counts and layers, in the order of the input."""
    order = np.argsort(input_order(adata))
    annotation = _annotation(adata, order, np.arange(adata.n_vars), {})
    del annotation.obs[ROW_COLUMN], annotation.uns[PACK_KEY]
    return annotation


def counts_in_input_order(
    matrix: Any, adata: AnnData, genes: np.ndarray, cells: np.ndarray | None = None
) -> sparse.csr_matrix:
    """Counts of some genes, a mask, of packed cells in the order of the input, in memory.

    All cells, or those of a mask that is in that order as well.
    """
    columns, ranks = np.flatnonzero(genes), input_order(adata)
    kept = np.ones(len(ranks), dtype=bool) if cells is None else cells[ranks]
    parts = [sparse.csr_matrix(block.values)[kept[block.rows]][:, columns] for block in check.blocks(matrix)]
    return sparse.vstack(parts, format="csr")[np.argsort(ranks[kept])]


class StoredRows:
    """Rows of a CSR matrix on disk, read in as few pieces as possible.

    Parameters
    ----------
    matrix
        Sparse rows on disk; see :func:`is_on_disk`.
    gap
        Up to so many unwanted rows between two wanted ones are read and dropped rather than skipped.
    """

    def __init__(self, matrix: Any, gap: int = 64) -> None:
        group = matrix.group  # anndata's own slicing takes ten times as long as the reading
        self.data, self.indices = group["data"], group["indices"]
        self.pointers = np.asarray(group["indptr"][...])
        self.n_vars, self.gap = matrix.shape[1], gap

    def take(self, rows: CellIndexArray) -> sparse.csr_matrix:
        """The given rows, ascending and without repeats, shape ``(len(rows), gene)``.

        Entries at one place are added up, as by :func:`isovi.data.check.blocks`.
        """
        lengths = np.diff(self.pointers)[rows]
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        data = np.empty(pointers[-1], dtype=self.data.dtype)
        indices = np.empty(pointers[-1], dtype=self.indices.dtype)
        done = 0
        far = (np.diff(rows) > self.gap) | (np.diff(rows // MAX_ROWS) > 0)
        for run in np.split(rows, np.flatnonzero(far) + 1):
            if len(run):
                where, wanted = self._extent(run)
                here = slice(done, done := done + int(wanted.sum()))
                data[here] = _read(self.data, where)[wanted]
                indices[here] = _read(self.indices, where)[wanted]
        found = sparse.csr_matrix((data, indices, pointers), shape=(len(rows), self.n_vars))
        found.sum_duplicates()
        return found

    def _extent(self, run: np.ndarray) -> tuple[slice, np.ndarray]:
        """Extent of the values of a run of rows, and a mask of the wanted ones."""
        first, last = int(run[0]), int(run[-1]) + 1
        kept = np.zeros(last - first, dtype=bool)
        kept[run - first] = True
        pointers = self.pointers[first : last + 1]
        return slice(int(pointers[0]), int(pointers[-1])), np.repeat(kept, np.diff(pointers))


def _read(array: Any, where: slice) -> np.ndarray:
    """A part of an array on disk, whose chunks are verified by their checksums."""
    try:
        return array[where]
    except Exception as error:  # of whatever codec finds the damage
        where_to = str(getattr(array, "store", "")).removeprefix("file://")
        cause = f"some of it cannot be read ({type(error).__name__}: {error!s:.100})"
        raise damaged(where_to, str(array.name).strip("/"), cause) from error


def take_rows(matrix: Any, rows: CellIndexArray) -> sparse.csr_matrix:
    """Rows of a matrix in memory or on disk as CSR, shape ``(len(rows), gene)``.

    ``rows`` ascend without repeats. Entries at one place are added up.
    """
    if is_on_disk(matrix):
        return StoredRows(matrix).take(rows)
    return check.added_up(sparse.csr_matrix(matrix[rows]))


# ---------------------------------------------------------------------------- writing


def write_ordered(
    adata: AnnData,
    path: Path,
    order: CellIndexArray,
    settings: dict[str, Any],
    genes: np.ndarray | None = None,
    to_round: Collection[str] = (),
) -> int:
    """Write a store with the cells in a given order.

    Parameters
    ----------
    adata
        Counts and layers in memory or on disk.
    path
        Store to write.
    order
        Row of ``adata`` of each stored cell; rows that are not in it are left out.
    settings
        Arguments of the packing, kept in ``uns``.
    genes
        Columns to keep; all by default.
    to_round
        Names of the matrices (``"X"`` and layers) whose values are rounded.

    Returns
    -------
    Number of values stored in ``X``.
    """
    genes = np.arange(adata.n_vars) if genes is None else genes
    with warnings.catch_warnings(), plain_strings():
        warnings.filterwarnings("ignore", message=".*autosharding.*")  # annotation is small
        group = zarr.open_group(str(path), mode="w", zarr_format=3)
        anndata.io.write_elem(group, "/", _annotation(adata, order, genes, settings))
        layers = group.require_group("layers")
        names = [str(name) for name in adata.layers if name is not None]  # anndata 0.13 lists X there
        for name in names:
            _write_matrix(adata.layers[name], layers, name, order, genes, path, name in to_round)
        n_counts = _write_matrix(adata.X, group, "X", order, genes, path, "X" in to_round)
    matrices = ["X", *(f"layers/{name}" for name in names)]
    write_checksums(path, [f"{name}/{part}" for name in matrices for part in ("data", "indices")])
    return n_counts


def _annotation(
    adata: AnnData, order: CellIndexArray, genes: np.ndarray, settings: dict[str, Any]
) -> AnnData:
    """All but counts and layers, in the new order."""
    obs = adata.obs.iloc[order].copy()
    if ROW_COLUMN not in obs:
        obs[ROW_COLUMN] = order
    return AnnData(
        obs=obs,
        var=adata.var.iloc[genes].copy(),
        obsm={key: _rows(value, order) for key, value in adata.obsm.items()},
        varm={key: _rows(value, genes) for key, value in adata.varm.items()},
        obsp={key: _square(value, order) for key, value in adata.obsp.items()},
        varp={key: _square(value, genes) for key, value in adata.varp.items()},
        uns={**adata.uns, PACK_KEY: {**settings, MARK: True}},
    )


def _rows(value: Any, order: np.ndarray) -> Any:
    return value.iloc[order] if isinstance(value, pd.DataFrame) else value[order]


def _square(value: Any, order: np.ndarray) -> Any:
    return value[order][:, order]


def _write_matrix(
    matrix: Any,
    group: zarr.Group,
    name: str,
    order: CellIndexArray,
    genes: np.ndarray,
    folder: Path,
    to_round: bool = False,
) -> int:
    """Write one matrix as sharded CSR, sorted through buckets of rows on disk; returns the values stored."""
    shape = (len(order), len(genes))
    with tempfile.TemporaryDirectory(dir=folder, prefix="isovi-pack-") as scratch:
        buckets = _Buckets(Path(scratch), matrix, shape, order, genes, to_round)
        stored = group.create_group(name)
        stored.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)}
        )
        pointers = np.concatenate([[0], np.cumsum(buckets.row_counts)])
        n_stored = int(pointers[-1])
        index_type = np.int32 if n_stored < 2**31 else np.int64
        stored.create_array("indptr", data=pointers.astype(index_type))
        data, indices = (
            _Tape(stored, part, n_stored, kind)
            for part, kind in (("data", _stored_type(matrix)), ("indices", np.dtype(np.int32)))
        )
        for rows in buckets:
            data.append(rows.data)
            indices.append(rows.indices)
        data.close()
        indices.close()
    return n_stored


def _stored_type(matrix: Any) -> np.dtype:
    """Type of the stored values: scipy has no 16-bit floats."""
    return np.dtype(np.float32) if matrix.dtype == np.float16 else np.dtype(matrix.dtype)


class _Buckets:
    """Entries of a matrix, sorted on disk by their new row; iterating yields CSR rows in the new order."""

    def __init__(
        self,
        scratch: Path,
        matrix: Any,
        shape: tuple[int, int],
        order: CellIndexArray,
        genes: np.ndarray,
        to_round: bool = False,
    ) -> None:
        self.scratch, self.shape, self.dtype = scratch, shape, _stored_type(matrix)
        self.record = np.dtype([("row", "<u4"), ("column", "<u4"), ("value", self.dtype)])
        n_buckets = min(max(check.n_stored(matrix) * _ENTRY_BYTES // BUCKET_BYTES, 1), MAX_BUCKETS, shape[0])
        self.n_rows = -(-shape[0] // n_buckets)  # of a bucket
        self.row_counts = np.zeros(shape[0], dtype=np.int64)
        place = np.full(matrix.shape[0], -1, dtype=np.int64)
        place[order] = np.arange(len(order))
        column = np.full(matrix.shape[1], -1, dtype=np.int64)
        column[genes] = np.arange(len(genes))
        for block in check.blocks(matrix):
            values = decimals.rounded(block.values) if to_round else block.values
            self._sort(*_entries(check.Block(block.rows, block.columns, values), place, column))

    def _sort(self, row: np.ndarray, column: np.ndarray, value: np.ndarray) -> None:
        np.add.at(self.row_counts, row, 1)
        bucket = row // self.n_rows
        order = np.argsort(bucket, kind="stable")
        entries = np.empty(len(row), dtype=self.record)
        entries["row"], entries["column"], entries["value"] = row % self.n_rows, column, value
        edges = np.flatnonzero(np.diff(bucket[order])) + 1
        for members in np.split(order, edges):
            if len(members):
                with (self.scratch / str(bucket[members[0]])).open("ab") as file:
                    entries[members].tofile(file)

    def __iter__(self) -> Iterator[sparse.csr_matrix]:
        for number, start in enumerate(range(0, self.shape[0], self.n_rows)):
            file = self.scratch / str(number)
            if file.exists():
                n_rows = min(self.n_rows, self.shape[0] - start)
                found = np.fromfile(file, dtype=self.record)
                file.unlink()
                places = (found["row"].astype(np.int32), found["column"].astype(np.int32))
                yield sparse.coo_matrix((found["value"], places), shape=(n_rows, self.shape[1])).tocsr()


def _entries(
    block: check.Block, place: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """New row, new column and value of the entries to keep of a block: at most one for each place."""
    found = sparse.coo_matrix(block.values)
    new_row, new_column = place[found.row + block.rows.start], column[found.col + block.columns.start]
    kept = (new_row >= 0) & (new_column >= 0) & (found.data != 0)
    return new_row[kept], new_column[kept], found.data[kept]


class _Tape:
    """A sharded, compressed zarr array of known length, written front to back in whole shards."""

    def __init__(self, group: zarr.Group, name: str, length: int, dtype: np.dtype) -> None:
        chunk = min(CHUNK_ENTRIES, max(length, 1))
        shard = chunk * min(SHARD_ENTRIES // CHUNK_ENTRIES, max(-(-length // chunk), 1))
        # Shards of zeros (column 0) are written too: a missing shard counts as damage.
        self.array = group.create_array(
            name,
            shape=(length,),
            dtype=dtype,
            chunks=(chunk,),
            shards=(shard,),
            compressors=(ZstdCodec(), Crc32cCodec()),
            config={"write_empty_chunks": True},
        )
        self.shard, self.written = shard, 0
        self.waiting = np.empty(0, dtype=dtype)

    def append(self, values: np.ndarray) -> None:
        """Write the whole shards; the rest waits."""
        self.waiting = np.concatenate([self.waiting, values.astype(self.waiting.dtype, copy=False)])
        self._write(len(self.waiting) // self.shard * self.shard)

    def close(self) -> None:
        """Write the rest."""
        self._write(len(self.waiting))

    def _write(self, n: int) -> None:
        for start in range(0, n, self.shard):
            stop = min(start + self.shard, n)
            self.array[self.written + start : self.written + stop] = self.waiting[start:stop]
        self.written, self.waiting = self.written + n, self.waiting[n:].copy()
