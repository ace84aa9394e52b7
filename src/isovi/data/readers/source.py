"""The input as the user names it, and the interface of its readers."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from anndata import AnnData

from isovi.errors import InputError, IsoviWarning

INPUT_KEY = "isovi_input"  # in uns: kind, unit and what was chosen, where the format has them
POSITIONS_KEY = "spatial"  # in obsm
_ENDS = "_.-"  # of a prefix
_STEMS = re.compile(  # of names of counts and positions, which follow the prefix
    r"(?:filtered|raw)_feature_|cell_feature_|tissue_positions|cells\.|(?:\w+_annotated_)?(?:cell|nucleus)_segmentations"
    r"|cell_by_gene|cell_metadata|exprmat|metadata",
    re.IGNORECASE,
)
PIXELS = "pixels of the full-resolution image"
MICROMETRES = "micrometres"
UNKNOWN = "not given by the format"
KINDS = (
    "an .h5ad file, an AnnData or SpatialData .zarr store, "
    "a Visium folder (filtered_feature_bc_matrix.h5 and spatial/tissue_positions.csv), "
    "a Visium HD folder (binned_outputs/square_008um, or segmented_outputs), "
    "a Xenium folder (cell_feature_matrix as .h5, folder or .zarr.zip, and cells.parquet, cells.csv.gz or "
    "cells.zarr.zip), a MERSCOPE folder (cell_by_gene.csv and cell_metadata.csv), "
    "a CosMx folder (tables of exprMat and metadata), a 10x .h5 matrix, "
    "a folder with matrix.mtx, barcodes.tsv and features.tsv, perhaps with a prefix, "
    "or a counts table (.csv, .tsv, .parquet)"
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


def named(folder: Path, *names: str) -> Path | None:
    """The first of these names in a folder: as it is, or with a prefix, as in GEO, if there is one such."""
    for name in names:
        if (folder / name).exists():
            return folder / name
        prefixed = [path for end in _ENDS for path in folder.glob(f"*{end}{name}")]
        if len(prefixed) == 1:
            return prefixed[0]
    return None


def require_one_sample(counts: Path, positions: Path) -> None:
    """Refuse two files with the prefixes of two samples, and warn of prefixes that only begin alike.

    Names of cells do not tell it: each slide of Visium has the same barcodes.
    """
    stems = [_STEMS.split(path.name, maxsplit=1)[0].rstrip(_ENDS).lower() for path in (counts, positions)]
    if all(stems) and not (stems[0].startswith(stems[1]) or stems[1].startswith(stems[0])):
        found = f'Counts are in "{counts.name}" and positions in "{positions.name}"'
        if len({re.split(f"[{_ENDS}]", stem)[0] for stem in stems}) > 1:
            raise InputError(
                f"{found}.",
                "Files of one sample have names that begin alike.",
                "Put the files of the sample into a folder of its own, or name both: coordinates=FILE.",
            )
        warnings.warn(f"{found}: check that both are of one sample.", IsoviWarning, stacklevel=3)


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
        reason = str(error).strip().split("\n")[0] or "the system has no more"
        raise InputError(
            f'"{path}" does not fit into memory ({reason}).',
            "All of it is read, but for the counts of packed data.",
            "Check that the file is whole; of large counts, make a packed store with isovi pack.",
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
