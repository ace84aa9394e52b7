"""Find out which kind of input a path is from its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from isovi.data.readers.annotated import AnnDataFile
from isovi.data.readers.gem import Gem, gem_columns
from isovi.data.readers.matrix import Matrix, find_matrix
from isovi.data.readers.prefixed import find_prefixed
from isovi.data.readers.segmented import find_segmented
from isovi.data.readers.source import KINDS, Reader, Source
from isovi.data.readers.spatialdata import SpatialDataStore, is_spatialdata
from isovi.data.readers.table import CountTable, require_no_molecules
from isovi.data.readers.tabular import columns_of, is_table
from isovi.data.readers.vendors import find_vendor
from isovi.data.readers.visium import MATRICES, find_visium
from isovi.data.readers.xenium import find_xenium
from isovi.errors import InputError

ZARR_MARKERS = (".zgroup", "zarr.json", ".zmetadata")
_PROSEG = ("expected-counts.", "cell-metadata.")  # tables of its outputs
_ARCHIVES = (".gz", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z")
_LISTED = 12  # names of a folder in a message


def find(source: Source | str | os.PathLike[str]) -> Reader:
    """Find out which kind of input there is.

    Parameters
    ----------
    source
        A path, or a path and what to read of it.

    Returns
    -------
    The reader of that kind.

    Raises
    ------
    InputError
        If the path does not exist or cannot be read, or an attribute of the source does not apply to it.
    """
    source = Source.of(source)
    path = source.path.expanduser()
    if not os.path.exists(path):  # unlike Path.exists, it never raises
        here = f"Check the path; the working directory is {Path.cwd()}."
        raise InputError(f'There is no "{path}".', "The input must exist.", here)
    found = _in_folder(path, source) if path.is_dir() else _in_file(path, source)
    _require_apt(source, found)
    return found


def is_store(path: Path) -> bool:
    """Whether a folder is a zarr store."""
    return any((path / marker).exists() for marker in ZARR_MARKERS)


def _in_file(path: Path, source: Source) -> Reader:
    if path.suffix.lower() == ".h5ad":
        return AnnDataFile(path, source.coordinates)
    if path.suffix.lower() == ".h5":
        return Matrix(path, source.coordinates)
    if is_table(path):
        columns = columns_of(path)
        if gem_columns(columns, path):
            return Gem(path)
        require_no_molecules(path, columns)
        return CountTable(path, source.coordinates)
    is_archive = path.suffix.lower() in _ARCHIVES
    raise InputError(
        f'"{path}" has the suffix "{path.suffix}".',
        f"Supported inputs are {KINDS}.",
        "Unpack it first." if is_archive else "Convert it to .h5ad; scanpy and squidpy read other formats.",
    )


def _in_folder(path: Path, source: Source) -> Reader:
    if is_store(path):
        if is_spatialdata(path):
            return SpatialDataStore(path, source.table, source.coordinate_system)
        return AnnDataFile(path, source.coordinates, zarr=True)
    kinds: tuple[Callable[[Path], Reader | None], ...]
    kinds = (find_xenium, find_visium, find_segmented, find_vendor)
    for folder in (path, path / "outs"):
        for kind in kinds if folder.is_dir() else ():
            if source.coordinates is None and (found := kind(folder)) is not None:
                return found
        matrix = find_matrix(folder, "cell_feature_matrix", *MATRICES)
        if matrix is not None:
            return Matrix(matrix, source.coordinates)
        if folder.is_dir() and (prefixed := find_prefixed(folder, source.coordinates)) is not None:
            return prefixed
    raise _nothing(path)


def _nothing(path: Path) -> InputError:
    if all(any(path.glob(f"*{name}*")) for name in _PROSEG):
        return InputError(
            f'"{path}" holds tables of proseg, whose counts do not name their cells.',
            "Counts and positions are joined by the names of the cells, never by row.",
            "Name the .zarr store that proseg 3 writes beside them, or a SpatialData store made of them.",
        )
    names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in path.iterdir())
    listed = ", ".join(names[:_LISTED]) + (
        f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    )
    return InputError(
        f'"{path}" is a folder, not a zarr store, with {listed or "nothing in it"}.',
        f"Looked for: {KINDS}.",
        "Name the folder with these files, or convert the data to .h5ad or an AnnData .zarr store.",
    )


def _require_apt(source: Source, found: Reader) -> None:
    """Refuse attributes of the source that do not apply to this kind of input."""
    is_elements = isinstance(found, SpatialDataStore)
    given = {"table": source.table, "coordinate_system": source.coordinate_system}
    wrong = [] if is_elements else [name for name, value in given.items() if value is not None]
    wrong += (
        ["coordinates"]
        if isinstance(found, SpatialDataStore | Gem) and source.coordinates is not None
        else []
    )
    if wrong:
        raise InputError(
            f'`{wrong[0]}` was given with "{source.path}", which is {found.kind}.',
            "It applies to counts without positions." if is_elements else "It applies to SpatialData.",
            "Leave it out.",
        )
