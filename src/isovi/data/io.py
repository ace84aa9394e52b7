"""Read any input (through :mod:`isovi.data.readers`), and write results whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
from anndata import AnnData
from scipy import sparse

from isovi.data import hdf5
from isovi.data.outputs import (
    RUN_FILE,
    beside,
    exclusive,
    output_directory,
    output_path,
    remove,
    remove_leftovers,
    replacing,
    require_replaceable,
    require_room,
    revised_directory,
    scratch_directory,
)
from isovi.data.readers.annotated import AnnDataFile
from isovi.data.readers.find import find
from isovi.data.readers.source import Source, sha256
from isovi.data.readers.spatialdata import SpatialDataStore
from isovi.data.usable import Usable, usable
from isovi.data.writable import plain_strings, writable
from isovi.errors import IsoviWarning, OutputError

__all__ = [  # re-exported
    "RUN_FILE",
    "Source",
    "beside",
    "exclusive",
    "find",
    "output_directory",
    "output_path",
    "remove",
    "remove_leftovers",
    "replacing",
    "require_replaceable",
    "require_room",
    "revised_directory",
    "scratch_directory",
    "sha256",
]

_BLOCK = 5_000  # rows at once
_COMPRESSED = 8  # times smaller than in memory that counts are on disk, at best


# ---------------------------------------------------------------------------- reading


def read(source: Source | str | os.PathLike[str], *, keep_controls: bool = False) -> AnnData:
    """Read counts, annotation and positions; the input is not changed.

    Parameters
    ----------
    source
        Path of an ``.h5ad`` file, an AnnData or SpatialData ``.zarr`` store, a folder of Visium,
        Visium HD, Xenium, MERSCOPE or CosMx, a 10x matrix or a counts table; or a :class:`Source`.
    keep_controls
        Keep control probes and other features that are no genes. Of AnnData and SpatialData all is read
        anyway.

    Returns
    -------
    The data, in memory. For all kinds but AnnData, positions are in ``obsm["spatial"]`` and
    ``uns["isovi_input"]`` says what was read and in which unit.

    Raises
    ------
    InputError
        If the input is missing, of an unknown kind, truncated or damaged; the cause is chained.

    Warns
    -----
    IsoviWarning
        If cells are left out or genes renamed.
    """
    reader = find(source)
    adata = reader.read()
    if keep_controls or isinstance(reader, AnnDataFile | SpatialDataStore):
        return adata
    found = usable(adata)
    found.say()
    return adata if found.is_all else _taken(adata, found)


def _taken(adata: AnnData, found: Usable) -> AnnData:
    """The spots and genes that take part; counts are not copied as copying a view would, three times."""
    counts = adata.X
    adata.X = None
    adata = adata[found.spots, found.genes].copy()
    if not found.spots.all():
        counts = counts[found.spots]
    adata.X = counts if found.genes.all() else _of_genes(counts, found.genes)
    return adata


def _of_genes(counts: Any, genes: np.ndarray) -> Any:
    """Counts of some genes, in the memory of the matrix that is given, which is used up."""
    if not sparse.issparse(counts) or counts.format != "csr":
        return counts[:, genes]
    number, n = (np.cumsum(genes) - 1).astype(counts.indices.dtype), 0
    pointers = np.zeros_like(counts.indptr)
    for start in range(0, counts.shape[0], _BLOCK):
        ends = counts.indptr[start : start + _BLOCK + 1]
        here = slice(ends[0], ends[-1])
        kept = genes[counts.indices[here]]
        data, indices = counts.data[here][kept], number[counts.indices[here][kept]]
        counts.data[n : n + len(data)], counts.indices[n : n + len(data)] = data, indices
        pointers[start + 1 : start + len(ends)] = n + np.append(0, np.cumsum(kept))[ends[1:] - ends[0]]
        n += len(data)
    shape = (counts.shape[0], int(genes.sum()))
    return sparse.csr_matrix((counts.data[:n], counts.indices[:n], pointers), shape=shape)


@contextmanager
def stored(source: Source | str | os.PathLike[str]) -> Iterator[AnnData]:
    """Open AnnData with its counts and layers left on disk; closed at the end of the block.

    Parameters
    ----------
    source
        As for :func:`read`; it is opened read-only.

    Yields
    ------
    The data: ``X``, ``layers`` and ``raw`` on disk, the rest in memory. Other kinds of input are read
    into memory.

    Raises
    ------
    InputError
        As for :func:`read`.
    """
    with find(source).stored() as adata:
        yield adata


def digest(source: Source | str | os.PathLike[str]) -> str:
    """SHA-256 of the files that are read of an input.

    To read the input as well, hash it through the reader that ``find`` returns: it hashes once.

    Parameters
    ----------
    source
        As for :func:`read`.

    Returns
    -------
    The digest in hexadecimal; see ``Reader.digest``.
    """
    return find(source).digest


# ---------------------------------------------------------------------------- writing


def write_atomic(
    adata: AnnData, path: str | os.PathLike[str], *, force: bool = True, ours: str | None = None
) -> None:
    """Write ``.h5ad`` (compressed) or ``.zarr`` so that the file is whole or absent.

    Parameters
    ----------
    adata
        What to write; not changed (anndata alone would turn strings into categories in place). A backed
        object is read into memory. What anndata cannot write is converted; see
        ``isovi.data.writable``.
    path
        Where to write it; an existing file or zarr store is replaced at the end.
    force
        Whether an existing file or store may be replaced.
    ours
        An element such as ``"obsm/X_placed"``: only a file that has it may be replaced.

    Raises
    ------
    OutputError
        If the suffix is another, the path is taken, or writing fails; nothing is left behind.

    Warns
    -----
    IsoviWarning
        If something is converted, renamed or left out.
    """
    final = require_writable(path, force=force, ours=ours)
    found = writable(adata)
    for note in found.notes:
        warnings.warn(note, IsoviWarning, stacklevel=2)
    with replacing(final, store=final.suffix == ".zarr") as temporary, plain_strings():
        _write(found.adata, temporary, final.suffix)


def require_writable(path: str | os.PathLike[str], *, force: bool, ours: str | None = None) -> Path:
    """The absolute path of a file or store to write, if :func:`write_atomic` may write it.

    Raises
    ------
    OutputError
        If the suffix is another, or something is there that is not replaced.
    """
    final = output_path(path)
    if final.suffix not in (".h5ad", ".zarr"):
        rule = "Data is written as .h5ad or .zarr."
        raise OutputError(
            f'"{final}" has the suffix "{final.suffix}".', rule, "Choose one of these suffixes."
        )
    if os.path.exists(final) and not force:
        rule = "Existing files are kept by default."
        raise OutputError(f'"{final}" exists.', rule, "Pass force=True, or choose another name.")
    if os.path.exists(final) and ours is not None and not _has(final, ours):
        raise OutputError(
            f'"{final}" exists and has no {ours}: it is no earlier result of this command.',
            "Only such results are replaced.",
            "Choose another name, or remove it yourself.",
        )
    return final


def _has(path: Path, element: str) -> bool:
    """Whether a file or store has an element."""
    if path.is_dir():
        return (path / element).is_dir()
    try:
        with h5py.File(path) as file:
            return element in file
    except (OSError, KeyError):
        return False


def write_obs(adata: AnnData, path: Path) -> None:
    """Replace ``obs`` and ``uns`` of an ``.h5ad`` file; the rest of it is not written again.

    Raises
    ------
    OutputError
        If it cannot be written; the file is as it was.
    """
    found = writable(AnnData(obs=adata.obs, uns=adata.uns)).adata
    found.strings_to_categoricals()
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        with hdf5.written(temporary, "r+") as file, plain_strings():
            anndata.io.write_elem(file, "obs", found.obs)
            anndata.io.write_elem(file, "uns", dict(found.uns))


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON (UTF-8, indented) so that the file is whole or absent.

    Parameters
    ----------
    path
        Where to write it; an existing file is replaced.
    obj
        May hold mappings, sequences, sets, arrays, numpy scalars, paths, strings, numbers; NaN and infinite
        numbers become null.

    Raises
    ------
    TypeError
        If it holds anything else.
    OutputError
        If the file cannot be written.
    """
    text = json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # paths may hold any bytes


def _write(adata: AnnData, path: Path, suffix: str) -> None:
    """Write as anndata 0.8 and later read it: its own functions write what only their version can read.

    Those are, by version, zarr's format 3, and a mark for a ``raw`` that is not there.
    """
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    parts: dict[str, Any] = {"X": adata.X, "raw": adata.raw, "obs": adata.obs, "var": adata.var}
    for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
        parts[name] = {key: value for key, value in getattr(adata, name).items() if key is not None}
    how = {"compression": "gzip"} if suffix == ".h5ad" else {}
    with (hdf5.written if suffix == ".h5ad" else _store)(path) as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name, part in parts.items():
            if part is not None:
                anndata.io.write_elem(file, name, part, dataset_kwargs=how)


@contextmanager
def _store(path: Path) -> Iterator[Any]:
    """A new zarr store of format 2."""
    import zarr  # only where the output is zarr

    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    yield group
    zarr.consolidate_metadata(group.store, zarr_format=2)


def stored_bytes(adata: AnnData) -> int:
    """Bytes that a file of the data takes at the least: counts are taken to compress well."""
    raw = [] if adata.raw is None else [adata.raw.X]
    counts = [matrix for matrix in (adata.X, *adata.layers.values(), *raw) if matrix is not None]
    tables = [*adata.obsm.values(), *adata.varm.values(), *adata.obsp.values(), *adata.varp.values()]
    return sum(map(_bytes, counts)) // _COMPRESSED + sum(map(_bytes, tables)) // 2


def _bytes(matrix: Any) -> int:
    """Bytes that a matrix or table takes in memory; 0 for one on disk."""
    if sparse.issparse(matrix):
        return int(matrix.data.nbytes + matrix.indices.nbytes)
    return int(getattr(matrix, "nbytes", 0))


def _plain(value: Any) -> Any:
    """The value in types that ``json`` can write."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy, pandas, torch
        return _plain(value.tolist())
    if isinstance(value, set | frozenset):
        return [_plain(item) for item in sorted(value)]
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
