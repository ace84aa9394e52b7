"""Tables of positions: which columns they are, in which unit, and how they come to the counts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi.data.readers.source import MICROMETRES, PIXELS, POSITIONS_KEY, UNKNOWN, Reader
from isovi.data.readers.tabular import blocks_of, cell_column, n_without_header, texts
from isovi.errors import InputError, IsoviWarning

TISSUE_COLUMN = "in_tissue"  # of Visium: spots outside are left out
VISIUM_COLUMNS = [
    "barcode",
    TISSUE_COLUMN,
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
]
_KNOWN = (  # names, in lower case, that a format or custom gives the columns, and their unit
    (("pxl_col_in_fullres", "pxl_row_in_fullres"), PIXELS),  # Space Ranger
    (("x_centroid", "y_centroid"), MICROMETRES),  # Xenium
    (("center_x", "center_y"), MICROMETRES),  # MERSCOPE
    (("centerx_global_px", "centery_global_px"), "pixels"),  # CosMx
    (("x_um", "y_um", "z_um"), MICROMETRES),
    (("x_um", "y_um"), MICROMETRES),
    (("x_px", "y_px"), "pixels"),
    (("x", "y", "z"), UNKNOWN),
    (("x", "y"), UNKNOWN),
    (("xcoord", "ycoord"), UNKNOWN),  # Slide-seq
    (("coord_x", "coord_y"), UNKNOWN),
)
_UNNAMED = {6: VISIUM_COLUMNS, 3: ["cell", "x", "y"], 4: ["cell", "x", "y", "z"]}  # of a table without header


@dataclass(frozen=True)
class PositionTable:
    """A table of positions.

    Attributes
    ----------
    path
        Where it was read from.
    table
        A row for each cell, by name.
    columns
        The two or three columns with the position.
    unit
        Their unit, as far as their names tell it.
    """

    path: Path
    table: pd.DataFrame
    columns: tuple[str, ...]
    unit: str


@dataclass(frozen=True)
class Joined(Reader):
    """Counts that may come with positions in a table of their own.

    Attributes
    ----------
    path
        The counts.
    coordinates
        Table of positions, if any.
    """

    path: Path
    coordinates: Path | None = None

    @cached_property
    def positions(self) -> PositionTable | None:
        """The table, read once."""
        return None if self.coordinates is None else read_positions(self.coordinates.expanduser())

    @property
    def files(self) -> tuple[Path, ...]:
        """The counts, and the table of positions."""
        return (self.path,) if self.positions is None else (self.path, self.positions.path)

    @property
    def unit(self) -> str:
        """As the names of the columns tell it."""
        return UNKNOWN if self.positions is None else self.positions.unit

    def joined(self, adata: AnnData) -> AnnData:
        """The cells that have a position, or all if there is no table."""
        return adata if self.positions is None else join(adata, self.positions, self.path)


def read_positions(path: Path) -> PositionTable:
    """Read a table of positions.

    Parameters
    ----------
    path
        Text or Parquet. Cell names are in a column that is called so (``cell``, ``barcode``, ...) or in
        the first; positions in columns with one of the usual names, or in all columns if there are two
        or three, all numbers. Without a header they are cell, x, y (and z), or as in Visium's
        ``tissue_positions_list.csv``.

    Returns
    -------
    The table, without the spots that Visium finds outside of the tissue.

    Raises
    ------
    InputError
        If there is no such file, or no such columns, or a cell comes twice.
    """
    if not path.is_file():
        raise InputError(f'There is no "{path}".', "Positions are read from it.", "Check the path.")
    n_columns = n_without_header(path)
    table = pd.concat(blocks_of(path, _UNNAMED.get(n_columns) if n_columns else None))
    name = cell_column(list(map(str, table.columns)))
    table.columns = list(map(str, table.columns))
    table = table.set_index(texts(table[name]).rename(None)).drop(columns=name)
    if TISSUE_COLUMN in table:
        table = table[table[TISSUE_COLUMN] == 1]
    _require_once(table.index, path)
    columns, unit = position_columns(table, path)
    return PositionTable(path, table, columns, unit)


def position_columns(table: pd.DataFrame, path: Path) -> tuple[tuple[str, ...], str]:
    """Which columns have the position, and their unit."""
    numeric = {name.lower(): name for name in table if table[name].dtype.kind in "iuf"}
    for known, unit in _KNOWN:
        if all(name in numeric for name in known):
            return tuple(numeric[name] for name in known), unit
    if len(numeric) == table.shape[1] and len(numeric) in (2, 3):
        return tuple(numeric.values()), UNKNOWN
    raise InputError(
        f'"{path}" has the columns {", ".join(map(repr, table.columns)) or "of one kind only"}.',
        "Positions are read from numeric columns x and y (and z), or as the instruments call them.",
        "Rename the columns with the positions to x and y.",
    )


def join(adata: AnnData, positions: PositionTable, counts: Path) -> AnnData:
    """Give each cell its position, by name.

    Parameters
    ----------
    adata
        Counts.
    positions
        Of at least some of the cells.
    counts
        Where the counts are from, for messages.

    Returns
    -------
    The cells that have a position, in the order of the counts, with the positions in ``obsm["spatial"]`` and
    the other columns of the table in ``obs``, unless there already.

    Raises
    ------
    InputError
        If no cell has a position.

    Warns
    -----
    IsoviWarning
        With the number of cells that are left out.
    """
    found = adata.obs_names.isin(positions.table.index)
    if not found.any():
        raise InputError(
            f'No cell of "{counts}" ({_some(adata.obs_names)}) is in "{positions.path}" '
            f"({_some(positions.table.index)}).",
            "Positions are joined by the names of the cells.",
            "Name the cells alike in both.",
        )
    if not found.all():
        warnings.warn(
            f"{int((~found).sum())} of {len(found)} cells have no position in "
            f'"{positions.path.name}" and are left out.',
            IsoviWarning,
            stacklevel=2,
        )
        adata = adata[found].copy()
    rows = positions.table.loc[adata.obs_names]
    adata.obsm[POSITIONS_KEY] = rows[list(positions.columns)].to_numpy(dtype=np.float64)
    for name in rows.columns.difference([*positions.columns, *adata.obs.columns], sort=False):
        adata.obs[name] = rows[name].to_numpy()
    return adata


def _require_once(names: pd.Index, path: Path) -> None:
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        raise InputError(
            f'"{path}" has {len(repeated)} cells more than once: {_some(repeated)}.',
            "Each cell has one position.",
            "Keep one row of each cell, or make the names of the cells unique across sections.",
        )


def _some(names: pd.Index) -> str:
    return ", ".join(f'"{name}"' for name in names[:3]) + (", ..." if len(names) > 3 else "")
