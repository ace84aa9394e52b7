"""The input as the user names it, and the interface of its readers."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from anndata import AnnData

from isovi.errors import InputError

INPUT_KEY = "isovi_input"  # in uns: kind, unit and what was chosen, where the format has them
POSITIONS_KEY = "spatial"  # in obsm
PIXELS = "pixels of the full-resolution image"
MICROMETRES = "micrometres"
UNKNOWN = "not given by the format"
KINDS = (
    "an .h5ad file, an AnnData or SpatialData .zarr store, "
    "a Visium folder (filtered_feature_bc_matrix.h5 and spatial/tissue_positions.csv), "
    "a Visium HD folder (binned_outputs/square_008um), "
    "a Xenium folder (cell_feature_matrix.h5 and cells.parquet or cells.csv.gz), "
    "a 10x .h5 matrix, or a counts table (.csv, .tsv, .parquet)"
)


@dataclass(frozen=True)
class Source:
    """Input to read.

    Attributes
    ----------
    path
        File, store or folder; its kind is recognised from its content.
    table
        Table of a SpatialData store; needed only if there are several.
    coordinate_system
        Coordinate system of a SpatialData store; needed only if several are possible.
    coordinates
        Table of positions, joined by cell name, for counts without positions.
    """

    path: Path
    table: str | None = None
    coordinate_system: str | None = None
    coordinates: Path | None = None

    @classmethod
    def of(cls, given: Source | str | os.PathLike[str]) -> Source:
        """The source itself, or the source of a path."""
        return given if isinstance(given, Source) else cls(Path(given))

    @property
    def options(self) -> dict[str, str]:
        """What was given besides the path, as text by name."""
        given = {name: value for name, value in asdict(self).items() if name != "path"}
        return {name: str(value) for name, value in given.items() if value is not None}


class Reader(ABC):
    """Reader of one kind of input.

    Attributes
    ----------
    kind
        Its name, for messages.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Files and stores that are read."""

    @property
    def unit(self) -> str:
        """Unit of the positions, if the format gives it."""
        return UNKNOWN

    @property
    def about(self) -> dict[str, str]:
        """What was chosen among several possibilities."""
        return {}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files, computed once, on first access.

        For a single file or store it is its :func:`sha256`; otherwise that of all names and digests.
        """
        if len(self.files) == 1:
            return sha256(self.files[0])
        whole = hashlib.sha256()
        for file in self.files:
            whole.update(file.name.encode() + b"\0" + bytes.fromhex(sha256(file)))
        return whole.hexdigest()

    @abstractmethod
    def read(self) -> AnnData:
        """Counts and annotation in memory, positions (if any) in ``obsm["spatial"]``."""

    @contextmanager
    def stored(self) -> Iterator[AnnData]:
        """The data, with counts on disk if possible; closed at the end of the block."""
        yield self.read()

    def sign(self, adata: AnnData) -> AnnData:
        """Record in ``uns`` where the data comes from."""
        adata.uns[INPUT_KEY] = {"kind": self.kind, "unit": self.unit, **self.about}
        return adata


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
    whole = hashlib.sha256()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name in sorted(files):
        whole.update(name.encode() + b"\0" + _file_digest(files[name]).digest())
    return whole.hexdigest()


def _file_digest(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


@contextmanager
def readable(path: Path, expected: str, remedy: str = "Copy, download or export it again.") -> Iterator[None]:
    """Translate the exception of a library that cannot read a file into plain words.

    Parameters
    ----------
    path
        The file.
    expected
        What it should be: ``"a 10x matrix"``.
    remedy
        What the user can do.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f'"{path}" does not fit into memory.',
            "Counts and annotation are read into memory.",
            "Use a machine with more memory, or pack it with isovi pack: its counts then stay on disk.",
        ) from error
    except Exception as error:
        what = f'"{path}" could not be read: {_reason(error, expected)}.'
        raise InputError(what, f"It must be {expected}, and complete.", remedy) from error


def _reason(error: Exception, expected: str) -> str:
    """What a library's exception means, in plain words."""
    text = str(error)
    if isinstance(error, PermissionError):
        return "permission denied"
    if "truncated file" in text:
        return "it is truncated (a copy or download that did not finish)"
    if "file signature not found" in text:
        return "it is not an HDF5 file"
    first_line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"it is damaged or not {expected} ({type(error).__name__}: {first_line})"


def need_extra(package: str, what: str) -> InputError:
    """The error for an optional package that is not installed."""
    return InputError(
        f"{what} cannot be read: {package} is not installed.",
        f"This kind of input is read through {package}.",
        'Install it: pip install "isovi[readers]".',
    )
