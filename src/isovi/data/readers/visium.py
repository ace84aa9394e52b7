"""Output of Space Ranger: Visium and Visium HD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anndata import AnnData

from isovi.data.readers.images import add_images, pixels_of
from isovi.data.readers.matrix import find_matrix, read_matrix
from isovi.data.readers.positions import join, read_positions
from isovi.data.readers.source import Reader, require_one_sample
from isovi.data.usable import drop_cells

MATRICES = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")
BINS = "binned_outputs"
BIN = "square_008um"  # that Space Ranger recommends to begin with


@dataclass(frozen=True)
class Visium(Reader):
    """Spots of a Visium slide.

    Attributes
    ----------
    matrix
        Counts of the spots.
    positions
        Table of the spots' positions.
    """

    kind = "10x Visium"
    matrix: Path
    positions: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Matrix and positions; images do not count."""
        return self.matrix, self.positions

    @property
    def prefix(self) -> str:
        """What the names of the files begin with, as in GEO."""
        return self.positions.name.partition("tissue_positions")[0]

    @property
    def unit(self) -> str:
        """Pixels, and how large they are where the folder says so."""
        return pixels_of(self.positions.parent, self.prefix)

    def read(self) -> AnnData:
        """Counts and positions (x, y) of the spots in tissue."""
        adata = drop_cells(join(read_matrix(self.matrix), read_positions(self.positions), self.matrix))
        return self.sign(add_images(adata, self.matrix, self.positions.parent, self.prefix))


@dataclass(frozen=True)
class VisiumHD(Visium):
    """Bins of a Visium HD slide.

    Attributes
    ----------
    bins
        Sizes of bins that there are.
    """

    kind = "10x Visium HD"
    bins: tuple[str, ...] = ()

    @property
    def about(self) -> dict[str, str]:
        """Which size of bins is read, and whether there are segmented cells as well."""
        cells = self.matrix.parent.parent.parent / "segmented_outputs"
        also = {"also there": f"segmented cells, in {cells.name}"} if cells.is_dir() else {}
        return {"bin": self.matrix.parent.name, **also}


def find_visium(folder: Path) -> Visium | None:
    """Visium or Visium HD output in a folder, if there; of Visium HD the bins of 8 µm, or the largest."""
    bins = _bins(folder if folder.name == BINS else folder / BINS)
    if not bins:
        return _find_spots(folder)
    return _find_spots(next((path for path in bins if path.name == BIN), bins[-1]))


def find_positions(folder: Path, prefix: str | None = None) -> Path | None:
    """Table of positions of Space Ranger in a folder or its ``spatial/``, under its name or with a prefix.

    Parameters
    ----------
    folder
        Where the counts are.
    prefix
        That names begin with; any by default, if there is one table only.
    """
    places = (folder / "spatial", folder)
    exact = (path for place in places for name in POSITIONS if (path := place / name).is_file())
    found = next(exact, None)
    start = "*" if prefix is None else prefix.rstrip("_.-") + "*"
    prefixed = [path for place in places for name in POSITIONS for path in place.glob(f"{start}{name}*")]
    prefixed = [path for path in prefixed if path.name.endswith((*POSITIONS, ".gz"))]
    return found or (prefixed[0] if len(prefixed) == 1 else None)


def _bins(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("square_*") if path.is_dir())


def _find_spots(folder: Path) -> Visium | None:
    matrix = find_matrix(folder, *MATRICES)
    positions = None if matrix is None else find_positions(folder)
    if matrix is None or positions is None:
        return None
    require_one_sample(matrix, positions)
    if not folder.name.startswith("square_"):
        return Visium(matrix, positions)
    return VisiumHD(matrix, positions, tuple(path.name for path in _bins(folder.parent)))
