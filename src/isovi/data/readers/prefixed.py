"""Matrix Market files with a prefix, in one folder, as GEO offers them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.images import add_images, pixels_of
from isovi.data.readers.matrix import make_unique
from isovi.data.readers.positions import Joined
from isovi.data.readers.source import readable
from isovi.data.readers.visium import find_positions
from isovi.data.usable import drop_cells
from isovi.errors import InputError

_PART = re.compile(
    r"(?P<prefix>.*?)(?P<part>matrix\.mtx|barcodes\.[tc]sv|(?:features|genes)\.[tc]sv)(?:\.gz)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class PrefixedMatrix(Joined):
    """Counts in three files whose names begin alike, with or without a table of positions.

    Attributes
    ----------
    path
        The matrix.
    coordinates
        Table of positions, if any.
    barcodes, features
        Names of cells and features.
    prefix
        What the names of the files begin with.
    """

    kind = "10x matrix"
    barcodes: Path = Path()
    features: Path = Path()
    prefix: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """The three files, and the table of positions."""
        return self.path, self.barcodes, self.features, *super().files[1:]

    @property
    def unit(self) -> str:
        """That of the table; pixels may have a size."""
        if self.coordinates is None or "tissue_positions" not in self.coordinates.name:
            return super().unit
        return pixels_of(self.coordinates.parent, self.coordinates.name.partition("tissue_positions")[0])

    @property
    def about(self) -> dict[str, str]:
        """The prefix."""
        return {"prefix": self.prefix} if self.prefix else {}

    def read(self) -> AnnData:
        """Counts of the genes in the cells that have a position."""
        adata = drop_cells(self.joined(read_parts(self.path, self.barcodes, self.features)))
        if self.coordinates is not None:
            prefix = self.coordinates.name.partition("tissue_positions")[0]
            add_images(
                adata, self.path.parent / self.prefix.rstrip("_.-") / "x", self.coordinates.parent, prefix
            )
        return self.sign(adata)


def find_prefixed(folder: Path, coordinates: Path | None = None) -> PrefixedMatrix | None:
    """The three files of a matrix in a folder, if they are there once.

    Raises
    ------
    InputError
        If there are several matrices.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := _PART.fullmatch(path.name)):
            kind = match["part"].lower()[:1].replace("g", "f")  # genes.tsv was the name before features.tsv
            found.setdefault(match["prefix"], {})[kind] = path
    whole = {prefix: parts for prefix, parts in found.items() if set(parts) == set("mbf")}
    if len(whole) > 1:
        listed = ", ".join(f'"{prefix}"' for prefix in whole)
        raise InputError(
            f'"{folder}" has {len(whole)} matrices, whose names begin with {listed}.',
            "Counts are read from one matrix; each is a sample of its own.",
            "Move the files of each sample to a folder of its own.",
        )
    for prefix, parts in whole.items():
        if coordinates is None:
            coordinates = find_positions(folder, prefix)
        return PrefixedMatrix(parts["m"], coordinates, parts["b"], parts["f"], prefix)
    return None


def read_parts(matrix: Path, barcodes: Path, features: Path) -> AnnData:
    """Cells and genes of a Matrix Market file with the names in two others, compressed or not.

    Raises
    ------
    InputError
        If one cannot be read, or their lengths do not fit.
    """
    from scipy.io import mmread

    with readable(matrix, "a Matrix Market file"):
        counts = sparse.csr_matrix(mmread(matrix).T, dtype="float32")
    cells, names = (_lines(path) for path in (barcodes, features))
    if counts.shape == (len(names), len(cells)) != (len(cells), len(names)):
        counts = sparse.csr_matrix(counts.T)
    if counts.shape != (len(cells), len(names)):
        raise InputError(
            f'"{matrix}" has {counts.shape[1]} rows and {counts.shape[0]} columns, "{features.name}" '
            f'{len(names)} lines and "{barcodes.name}" {len(cells)}.',
            "Each row is a feature and each column a cell.",
            "Check that the files belong together.",
        )
    var = pd.DataFrame(index=pd.Index(names[1 if names.shape[1] > 1 else 0].astype(str).to_numpy()))
    if names.shape[1] > 1:
        var["gene_ids"] = names[0].astype(str).to_numpy()
    if names.shape[1] > 2:
        var["feature_types"] = names[2].astype(str).to_numpy()
    adata = AnnData(counts, obs=pd.DataFrame(index=pd.Index(cells[0].astype(str).to_numpy())), var=var)
    canonical_counts(adata)
    make_unique(adata)
    return adata


def _lines(path: Path) -> pd.DataFrame:
    """The lines of a table of names, without a header where it has one."""
    with readable(path, "a table of names"):
        name = path.name.lower().removesuffix(".gz")
        table = pd.read_csv(path, sep="," if name.endswith(".csv") else "\t", header=None, dtype=str)
    is_header = str(table.iloc[0, 0]).lower() in {
        "barcode",
        "barcodes",
        "gene_id",
        "gene_ids",
        "x",
        "feature",
    }
    return table.iloc[1:].reset_index(drop=True) if is_header else table
