"""Output of Xenium Onboard Analysis."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from anndata import AnnData

from isovi.data.readers.filtering import drop_cells
from isovi.data.readers.matrix import find_matrix, read_matrix
from isovi.data.readers.positions import join, read_positions
from isovi.data.readers.source import MICROMETRES, Reader

CELLS = ("cells.csv.gz", "cells.csv", "cells.parquet")


@dataclass(frozen=True)
class Xenium(Reader):
    """Cells of a Xenium slide.

    Attributes
    ----------
    matrix
        Counts of the cells; control probes are left out.
    cells
        Table of the cells, with their centroids.
    """

    kind = "10x Xenium"
    matrix: Path
    cells: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Matrix and cells; nothing else of the folder is needed."""
        return self.matrix, self.cells

    @property
    def unit(self) -> str:
        """Micrometres."""
        return MICROMETRES

    def read(self) -> AnnData:
        """Counts and centroids of the cells."""
        return self.sign(drop_cells(join(read_matrix(self.matrix), read_positions(self.cells), self.matrix)))


def find_xenium(folder: Path) -> Xenium | None:
    """Xenium output in a folder, if it is there; Parquet is the quicker table to read if pyarrow is there."""
    matrix = find_matrix(folder, "cell_feature_matrix")
    tables = [folder / name for name in CELLS if (folder / name).is_file()]
    if matrix is None or not tables:
        return None
    return Xenium(matrix, tables[-1 if find_spec("pyarrow") else 0])
