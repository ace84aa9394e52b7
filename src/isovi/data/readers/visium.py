"""Output of Space Ranger: Visium and Visium HD."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from anndata import AnnData

from isovi.data.readers.filtering import drop_cells
from isovi.data.readers.matrix import find_matrix, read_matrix
from isovi.data.readers.positions import join, read_positions
from isovi.data.readers.source import PIXELS, Reader

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
        """Matrix and positions; nothing else of the folder is needed."""
        return self.matrix, self.positions

    @property
    def unit(self) -> str:
        """Pixels, and how large they are where the folder says so."""
        scale = self.positions.with_name("scalefactors_json.json")
        if not scale.is_file():
            return PIXELS
        microns = json.loads(scale.read_text(encoding="utf-8")).get("microns_per_pixel")
        return f"{PIXELS}, {microns:.4g} micrometres each" if microns else PIXELS

    def read(self) -> AnnData:
        """Counts and positions (x, y) of the spots in tissue."""
        adata = join(read_matrix(self.matrix), read_positions(self.positions), self.matrix)
        return self.sign(drop_cells(adata))


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
        """Which size of bins is read."""
        return {"bin": self.matrix.parent.name}


def find_visium(folder: Path) -> Visium | None:
    """Visium or Visium HD output in a folder, if there; of Visium HD the bins of 8 µm, or the largest."""
    bins = _bins(folder if folder.name == BINS else folder / BINS)
    if not bins:
        return _find_spots(folder)
    return _find_spots(next((path for path in bins if path.name == BIN), bins[-1]))


def _bins(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("square_*") if path.is_dir())


def _find_spots(folder: Path) -> Visium | None:
    matrix = find_matrix(folder, *MATRICES)
    positions = next((p for name in POSITIONS if (p := folder / "spatial" / name).is_file()), None)
    if matrix is None or positions is None:
        return None
    if not folder.name.startswith("square_"):
        return Visium(matrix, positions)
    return VisiumHD(matrix, positions, tuple(path.name for path in _bins(folder.parent)))
