"""Matrix Market files with a prefix, in one folder, as GEO offers them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anndata import AnnData

from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.images import add_images, pixels_of
from isovi.data.readers.market import parts_of, read_market
from isovi.data.readers.matrix import make_unique
from isovi.data.readers.positions import Joined
from isovi.data.readers.visium import find_positions
from isovi.data.readers.xenium import CELLS
from isovi.data.usable import drop_cells
from isovi.errors import InputError


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
        adata = read_market(self.path, self.barcodes, self.features)
        canonical_counts(adata)
        make_unique(adata)
        adata = drop_cells(self.joined(adata))
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
    whole = parts_of(folder)
    if len(whole) > 1:
        listed = ", ".join(f'"{prefix}"' for prefix in whole)
        raise InputError(
            f'"{folder}" has {len(whole)} matrices, whose names begin with {listed}.',
            "Counts are read from one matrix; each is a sample of its own.",
            "Move the files of each sample to a folder of its own.",
        )
    for prefix, parts in whole.items():
        if coordinates is None:
            coordinates = find_positions(folder, prefix)  # of Visium, else of Xenium
        if coordinates is None and prefix:
            coordinates = next(
                (path for name in CELLS if (path := folder / f"{prefix}{name}").is_file()), None
            )
        return PrefixedMatrix(parts["m"], coordinates, parts["b"], parts["f"], prefix)
    return None
