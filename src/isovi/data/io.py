"""Reading AnnData files in plain words, and writing results so that they are whole or absent."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
from anndata import AnnData
from scipy import sparse

from isovi.errors import InputError, OutputError

RUN_FILE = "run.json"  # marks a directory as the result of a run
_IN_MEMORY = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")  # however the counts are read
_ZARR_MARKERS = (".zgroup", "zarr.json", ".zmetadata")


# ---------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str]) -> AnnData:
    """Read an AnnData file; the file is opened read-only.

    Parameters
    ----------
    path
        An ``.h5ad`` file or an AnnData ``.zarr`` directory.

    Returns
    -------
    The data, in memory.

    Raises
    ------
    InputError
        If the file is missing, of another kind, truncated or damaged; the cause is chained.
    """
    path = Path(path).expanduser()
    is_zarr = _is_zarr(path)
    try:
        if is_zarr:
            _require_chunks(path)
        adata = anndata.io.read_zarr(path) if is_zarr else anndata.io.read_h5ad(path)
        _require_whole(adata)
        _narrow_indices(adata)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    return adata


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f'"{path}" could not be read: {_reason(error)}.',
        "A whole AnnData file is needed (.h5ad or .zarr).",
        "Copy or download it again, or write it anew with adata.write_h5ad(...).",
    )


@contextmanager
def stored(path: str | os.PathLike[str]) -> Iterator[AnnData]:
    """Open an AnnData file whose counts and layers stay on disk; closed at the end of the block.

    Parameters
    ----------
    path
        An ``.h5ad`` file or an AnnData ``.zarr`` directory; it is opened read-only.

    Yields
    ------
    The data: ``X`` and ``layers`` on disk, the rest in memory. ``raw`` is left out.

    Raises
    ------
    InputError
        As for :func:`read`.
    """
    path = Path(path).expanduser()
    is_zarr = _is_zarr(path)
    with ExitStack() as opened:
        try:
            if is_zarr:
                _require_chunks(path)
            adata = on_disk(_zarr_group(path) if is_zarr else opened.enter_context(h5py.File(path, "r")))
        except MemoryError:
            raise
        except Exception as error:
            raise _unreadable(path, error) from error
        yield adata


def on_disk(group: Any) -> AnnData:
    """AnnData over an open file: ``X`` and ``layers`` on disk, the rest in memory.

    Parameters
    ----------
    group
        Root group of an HDF5 file or a zarr store, which must stay open.
    """
    parts = {name: anndata.io.read_elem(group[name]) for name in _IN_MEMORY if name in group}
    layers = {name: _matrix(group["layers"][name]) for name in group.get("layers", {})}
    counts = _matrix(group["X"]) if "X" in group else None
    return AnnData(X=counts, layers=layers, **parts)


def _matrix(element: Any) -> Any:
    kind = str(element.attrs.get("encoding-type", ""))
    return anndata.io.sparse_dataset(element) if kind in ("csr_matrix", "csc_matrix") else element


def _zarr_group(path: Path) -> Any:
    import zarr  # only where the input is zarr

    return zarr.open_group(str(path), mode="r")


def _is_zarr(path: Path) -> bool:
    """Whether it is zarr (else h5ad), by its name and what is there, before any library opens it."""
    remedy = "Give an .h5ad file or an AnnData .zarr directory; scanpy and squidpy read other formats."
    if not os.path.exists(path):  # unlike Path.exists, never raises
        here = f"Check the path; the working directory is {Path.cwd()}."
        raise InputError(f'There is no "{path}".', "The input must exist.", here)
    if path.is_dir():
        if not _is_store(path):
            raise InputError(f'"{path}" is a directory but not a zarr store.', "AnnData is needed.", remedy)
        return True
    if path.suffix.lower() != ".h5ad":
        rule = "The suffix must be .h5ad or .zarr."
        raise InputError(f'"{path}" has the suffix "{path.suffix}".', rule, remedy)
    return False


def _is_store(path: Path) -> bool:
    return any((path / marker).exists() for marker in _ZARR_MARKERS)


def _reason(error: Exception) -> str:
    """What a library's exception means, in plain words."""
    text = str(error)
    if isinstance(error, PermissionError):
        return "permission denied"
    if "truncated file" in text:
        return "it is truncated (a copy or download that did not finish)"
    if "file signature not found" in text:
        return "it is not an HDF5 file"
    first_line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"it is damaged or not AnnData ({type(error).__name__}: {first_line})"


def _require_chunks(path: Path) -> None:
    """Find the files that a half-copied store lacks in its sparse matrices: zarr reads zeros for them.

    In dense arrays a missing chunk is usual: it stands for zeros.
    """
    lost = _lost_chunks(_zarr_group(path))
    if lost:
        raise ValueError(f"{lost} lacks some of its chunks")


def _lost_chunks(group: Any) -> str | None:
    """Name of the first sparse matrix at or below ``group`` without all of its chunks."""
    kind = group.attrs.get("encoding-type")
    if kind in ("csr_matrix", "csc_matrix"):
        # stored values are not zero; all indices are, and then rightly not stored, if there is one gene
        one_index = group.attrs["shape"][1 if kind == "csr_matrix" else 0] == 1
        parts = [group[name] for name in (("data",) if one_index else ("data", "indices"))]
        return group.name if any(part.nchunks_initialized < part.nchunks for part in parts) else None
    found = (_lost_chunks(child) for _, child in group.groups())
    return next((name for name in found if name), None)


def _require_whole(adata: AnnData) -> None:
    """Check that sparse matrices are consistent: their indices may point anywhere in a damaged file."""
    raw = [] if adata.raw is None else [adata.raw.X]
    for matrix in [adata.X, *raw, *adata.layers.values(), *adata.obsm.values(), *adata.obsp.values()]:
        if isinstance(matrix, sparse.csr_matrix | sparse.csc_matrix | sparse.csr_array | sparse.csc_array):
            if not len(matrix.data) == len(matrix.indices) == matrix.indptr[-1]:
                raise ValueError("a sparse matrix has parts of different lengths")
            matrix.check_format(full_check=True)


def _narrow_indices(adata: AnnData) -> None:
    """Give count matrices 32-bit indices where they fit: half the memory.

    Files may mix widths, and then scipy converts all indices of one array for every minibatch.
    """
    for matrix in [adata.X, *adata.layers.values()]:
        if isinstance(matrix, sparse.csr_matrix | sparse.csr_array) and matrix.nnz < np.iinfo(np.int32).max:
            matrix.indptr = matrix.indptr.astype(np.int32, copy=False)
            matrix.indices = matrix.indices.astype(np.int32, copy=False)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, or of a directory's files in the order of their relative names.

    Parameters
    ----------
    path
        A file, or a directory such as a zarr store: then names and contents count, dates do not.

    Returns
    -------
    The digest in hexadecimal.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return _file_digest(path).hexdigest()
    digest = hashlib.sha256()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + _file_digest(files[name]).digest())
    return digest.hexdigest()


def _file_digest(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


# ---------------------------------------------------------------------------- writing


@contextmanager
def output_directory(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Write a directory that appears whole, or not at all.

    The block writes into a temporary directory beside ``path``, which takes its name when the block
    ends. If the block raises (also by Ctrl-C) the temporary directory is removed and what was at
    ``path`` stays. Missing parents are created.

    Parameters
    ----------
    path
        Where the result belongs.
    force
        Replace an existing directory, if it is empty or a run's result (has a ``run.json``).

    Yields
    ------
    The temporary directory, on the same file system.

    Raises
    ------
    OutputError
        Before the block: if ``path`` exists and may not be replaced, or its parent cannot be written.
        After it: if the result cannot be moved into place; the message says where it is.
    """
    final = Path(path).expanduser().resolve()
    _require_replaceable(final, force)
    temporary = _sibling(final)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _cannot_write(final, error) from error
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        _require_replaceable(final, force)  # again: somebody may have put something there meanwhile
    except OutputError as error:
        raise _stranded(temporary, final, error) from error
    _move(temporary, final)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary directories that killed runs left beside ``path``."""
    final = Path(path).expanduser().resolve()
    for temporary in final.parent.glob(_sibling_name(glob.escape(final.name), "?" * 8)):
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomic(adata: AnnData, path: str | os.PathLike[str], *, force: bool = True) -> None:
    """Write ``.h5ad`` (compressed) or ``.zarr`` so that the file is whole or absent.

    Parameters
    ----------
    adata
        What to write; not changed (anndata itself turns strings into categories in place). A backed
        object is read into memory.
    path
        Where to; a file, or a zarr store, that is there is replaced at the end.
    force
        Whether something that exists may be replaced.

    Raises
    ------
    OutputError
        If the suffix is neither, something is in the way, or writing fails; nothing is left behind.
    """
    final = Path(path).expanduser().resolve()
    if final.suffix not in (".h5ad", ".zarr"):
        raise OutputError(f'"{final}" has another suffix.', "We write .h5ad and .zarr.", "Name the file so.")
    if os.path.exists(final) and not force:
        rule = "Files are not overwritten unasked."
        raise OutputError(f'"{final}" exists.', rule, "Pass force=True, or choose another name.")
    with replacing(final, store=final.suffix == ".zarr") as temporary:
        _write(_private(adata), temporary, final.suffix)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON (UTF-8, indented) so that the file is whole or absent.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    obj
        Mappings, sequences, sets, arrays, numpy scalars, paths, strings, numbers; NaN and infinite
        numbers become null.

    Raises
    ------
    TypeError
        If there is something else in it.
    OutputError
        If the file cannot be written.
    """
    text = json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(Path(path).expanduser().resolve()) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write(adata: AnnData, path: Path, suffix: str) -> None:
    # the functions, not AnnData's methods: those point a backed object to the new file
    if suffix == ".zarr":
        anndata.io.write_zarr(path, adata)
    else:
        anndata.io.write_h5ad(path, adata, compression="gzip")


def _private(adata: AnnData) -> AnnData:
    """The same data under annotation tables of its own, which anndata may then change."""
    if adata.isbacked:
        return adata.to_memory()
    parts = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "layers", "obsp", "varp", "uns")}
    parts["layers"].pop(None, None)  # anndata 0.13 lists X among the layers
    return AnnData(X=adata.X, obs=adata.obs.copy(), var=adata.var.copy(), raw=adata.raw, **parts)


def _plain(value: Any) -> Any:
    """What ``json`` can write."""
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


@contextmanager
def replacing(final: Path, *, store: bool = False) -> Iterator[Path]:
    """A temporary name beside ``final``; what the block writes there, a file or a store, takes its place."""
    if os.path.exists(final) and not (_is_store(final) if store else final.is_file()):
        kind = "a zarr store" if store else "a file"
        raise OutputError(f'"{final}" exists but is not {kind}.', "It is kept.", "Choose another name.")
    temporary = _sibling(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, Exception):
            raise _cannot_write(final, error) from error
        raise
    _move(temporary, final)


def _require_replaceable(final: Path, force: bool) -> None:
    if not os.path.exists(final):
        return
    if not final.is_dir():
        remedy = "Choose another output folder."
        raise OutputError(f'"{final}" is a file.', "The results are a directory.", remedy)
    if not force:
        raise OutputError(
            f'The output folder "{final}" exists.',
            "Results are not overwritten unasked.",
            "Choose another folder, or pass force=True (--force) to replace it.",
        )
    if any(final.iterdir()) and not (final / RUN_FILE).is_file():
        raise OutputError(
            f'The output folder "{final}" holds files but no {RUN_FILE}: they are no results of a run.',
            "Only the results of an earlier run are replaced.",
            "Choose another folder, or remove this one yourself.",
        )


def _move(temporary: Path, final: Path) -> None:
    """Put ``temporary`` in place; what was there is deleted last, and comes back if this fails."""
    aside = _sibling(final) if final.is_dir() else None
    try:
        if aside:
            final.rename(aside)
        try:
            temporary.replace(final)
        except BaseException:
            if aside:
                aside.rename(final)
            raise
    except OSError as error:
        raise _stranded(temporary, final, error) from error
    if aside:
        shutil.rmtree(aside, ignore_errors=True)


def _stranded(temporary: Path, final: Path, error: Exception) -> OutputError:
    """Hours of work are not thrown away because the place was taken meanwhile."""
    return OutputError(
        f'The result could not be moved to "{final}" ({error}).',
        "That place must be free and writable.",
        f'The result is whole, in "{temporary}": move it yourself.',
    )


def _cannot_write(final: Path, error: Exception) -> OutputError:
    if isinstance(error, OSError):
        rule, remedy = "Its folder must be writable and have room.", "Choose another place, or free space."
        return OutputError(f'"{final}" cannot be written: {error.strerror or error}.', rule, remedy)
    details = "; ".join([str(error), *getattr(error, "__notes__", [])])
    rule, remedy = "Every value must be one that the format can hold.", "Convert or remove that value."
    return OutputError(f'"{final}" cannot be written: {details}.', rule, remedy)


def _sibling(path: Path) -> Path:
    return path.with_name(_sibling_name(path.name, uuid.uuid4().hex[:8]))


def _sibling_name(name: str, unique: str) -> str:
    return f".{name}.{unique}.tmp"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # the error that led here is the one to tell
            path.unlink()
