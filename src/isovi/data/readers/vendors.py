"""Folders of MERSCOPE and CosMx: a table of counts and one of cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi.data.readers.filtering import drop_cells
from isovi.data.readers.table import CountTable, read_counts
from isovi.data.readers.tabular import is_table
from isovi.errors import InputError

FIELD = "fov"  # column of CosMx with the field of view, of which cells are numbered anew


@dataclass(frozen=True)
class Merscope(CountTable):
    """Cells of a MERSCOPE region: ``cell_by_gene`` and ``cell_metadata``."""

    kind = "Vizgen MERSCOPE"


@dataclass(frozen=True)
class CosMx(CountTable):
    """Cells of a CosMx slide: ``exprMat`` and ``metadata``, named by field of view and number."""

    kind = "NanoString CosMx"

    def read(self) -> AnnData:
        """Counts as CSR; cells are called by ``cell_ID``, an underscore and ``fov``, as in squidpy."""
        adata = by_field(read_counts(self.path, self.positions))
        return self.sign(drop_cells(self.joined(adata)))


def by_field(adata: AnnData) -> AnnData:
    """Cells under the names of their number and field of view, if the field was read among the genes."""
    if FIELD not in adata.var_names:
        return adata
    column = adata.var_names.get_loc(FIELD)
    field = np.asarray(adata.X[:, [column]].todense()).ravel().astype(int).astype(str)
    adata = adata[:, adata.var_names != FIELD].copy()
    adata.obs_names = pd.Index(adata.obs_names.to_numpy(dtype=object) + "_" + field.astype(object))
    return adata


def find_vendor(folder: Path) -> CountTable | None:
    """The tables of MERSCOPE or CosMx in a folder, if they are there.

    Raises
    ------
    InputError
        If there are several tables of counts or of cells.
    """
    tables = sorted(path for path in folder.iterdir() if path.is_file() and is_table(path))
    for kind, counts, cells in ((Merscope, "cell_by_gene", "cell_metadata"), (CosMx, "exprmat", "metadata")):
        found = [[path for path in tables if word in path.name.lower()] for word in (counts, cells)]
        if not all(found):
            continue
        if max(map(len, found)) > 1:
            names = ", ".join(path.name for paths in found for path in paths)
            raise InputError(
                f'"{folder}" has several tables of {kind.kind}: {names}.',
                "Counts and cells of one slide are read.",
                "Move those of each slide to a folder of its own, or name both: coordinates=FILE.",
            )
        return kind(found[0][0], found[1][0])
    return None
