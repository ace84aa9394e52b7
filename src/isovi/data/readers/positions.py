"""Tables of positions: which columns they are, in which unit, and how they come to the counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi.data.columns import TISSUE, plain, some, texts, truth, words
from isovi.data.readers.source import MICROMETRES, PIXELS, POSITIONS_KEY, UNKNOWN, Reader
from isovi.data.readers.tabular import blocks_of, cell_column, n_without_header, names_of, numbered_cells
from isovi.errors import InputError, IsoviWarning

VISIUM_COLUMNS = [
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
]
LATTICE = "distances between neighbouring spots of the array"
_KNOWN = (  # a format's columns, in lower case with _ between parts, and their unit; the first is taken
    (("pxl_col_in_fullres", "pxl_row_in_fullres"), PIXELS),  # Space Ranger
    (("imagecol", "imagerow"), UNKNOWN),  # BayesSpace; Seurat scales them
    (("x_centroid", "y_centroid"), MICROMETRES),  # Xenium
    (("cell_centroid_x", "cell_centroid_y"), MICROMETRES),  # Xenium, cells.zarr.zip
    (("center_x", "center_y"), MICROMETRES),  # MERSCOPE
    (("centerx_global_px", "centery_global_px"), "pixels"),  # CosMx
    (("x_um", "y_um", "z_um"), MICROMETRES),
    (("x_um", "y_um"), MICROMETRES),
    (("x_px", "y_px"), "pixels"),
    (("x", "y", "z"), UNKNOWN),
    (("x", "y"), UNKNOWN),
    (("xcoord", "ycoord"), UNKNOWN),  # Slide-seq
    (("coord_x", "coord_y"), UNKNOWN),
    (("sdimx", "sdimy"), UNKNOWN),  # Giotto
    (("centroid_1", "centroid_0"), "pixels"),  # scikit-image: row, column
    (("spatial_1", "spatial_2"), UNKNOWN),  # what R and pandas make of obsm["spatial"]
    (("spatial1", "spatial2"), UNKNOWN),
    (("spatial_0", "spatial_1"), UNKNOWN),
    (("coord_1", "coord_2"), UNKNOWN),
    (("coord1", "coord2"), UNKNOWN),
)
ARRAY = ("array_row", "array_col")  # of Space Ranger
_ARRAYS = (  # the others are BayesSpace's and Seurat's; plain names
    *(("arrayrow", "arraycol"), ("arrayrow", "arraycolumn"), ("row", "col"), ("row", "column")),
    ("spotrow", "spotcol"),
)
_BIN_NAME = r"s_\d+um_.*"  # of Visium HD, whose bins are a square array
_LOCAL = frozenset({"local", "fov"})  # positions that begin anew in each field of view
_NO_POSITION = frozenset(
    {
        *("min", "max", "std", "sd", "var", "err", "umap", "tsne", "pca", "pc", "mds", "phate", "fa", "lda"),
        *("embedding", "latent", "graph", "draw", "vel", "velocity", "grad", "gradient", "diff", "delta"),
        *("bbox", "bb", "width", "height", "size", "length", "shift", "offset", "scale", "dist", "distance"),
        *("start", "end", "direction", "tile"),
    }
)
_AXIS = re.compile(
    r"(?P<a>[xyz])(?:c|coords?|coordinates?|pos|position|loc|location|cent\w*|um|px|pixels?|microns?|mm)?"
    r"|(?:coords?|coordinates?|pos|position|loc|location|cent\w*)(?P<b>[xyz])"
)
_UNITS = {
    "um": MICROMETRES,
    "micron": MICROMETRES,
    "microns": MICROMETRES,
    "mm": "millimetres",
} | dict.fromkeys(("px", "pixel", "pixels", "pxl"), "pixels")
_UNNAMED = {6: VISIUM_COLUMNS, 3: ["cell", "x", "y"], 4: ["cell", "x", "y", "z"]}  # of a table without header
_EMPTY = "have an empty position in {}"  # why cells are left out
_FEW_ROWS = 10  # of which nothing can be said
_MAX_PLANES = 50  # values of a third column that may be planes


@dataclass(frozen=True)
class PositionTable:
    """A table of positions.

    Attributes
    ----------
    path
        Where it was read from.
    table
        A row for each cell that has a position, by name.
    columns
        The two or three columns with the position.
    unit
        Their unit, as far as their names tell it.
    left_out
        Names of cells without a usable position, by the reason.
    """

    path: Path
    table: pd.DataFrame
    columns: tuple[str, ...]
    unit: str
    left_out: dict[str, pd.Index] = field(default_factory=dict)


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
        return (self.path,) if self.coordinates is None else (self.path, self.coordinates.expanduser())

    @property
    def unit(self) -> str:
        """As the names of the columns tell it."""
        return UNKNOWN if self.positions is None else self.positions.unit

    def joined(self, adata: AnnData) -> AnnData:
        """The cells that have a position, or all if there is no table."""
        return adata if self.positions is None else join(adata, self.positions, self.path)


# ---------------------------------------------------------------------------- reading


def read_positions(path: Path) -> PositionTable:
    """Read a table of positions.

    Parameters
    ----------
    path
        Text or Parquet. Cell names are in a column that is called so (``cell``, ``barcode``, ...), in
        ``fov`` and ``cell_ID`` together, or in the first; for positions see :func:`position_columns`. Without
        a header columns are cell, x, y (and z), or as in Visium's ``tissue_positions_list.csv``.

    Returns
    -------
    The table, without the spots outside of the tissue and cells whose position is empty.

    Raises
    ------
    InputError
        If there is no such file, or no such columns, or a cell comes twice.

    Warns
    -----
    IsoviWarning
        If positions are those of an array, or local to fields of view, or a third column is not used.
    """
    if not path.is_file():
        raise InputError(f'There is no file "{path}".', "Positions are read from it.", "Check the path.")
    n_columns = n_without_header(path)
    blocks = list(blocks_of(path, _UNNAMED.get(n_columns) if n_columns else None))
    table = pd.concat(blocks, copy=False)
    del blocks
    table.columns = list(map(str, table.columns))
    return position_table(table, path, has_header=not n_columns)


def position_table(table: pd.DataFrame, path: Path, *, has_header: bool = True) -> PositionTable:
    """Positions from a table that was read; see :func:`read_positions`.

    Parameters
    ----------
    table
        Names of the cells, positions and whatever else, as columns.
    path
        Where it was read from.
    has_header
        Whether the names of its columns were read as well.
    """
    table = _by_cell(table)
    left_out = {}
    inside = _in_tissue(table, path)
    left_out["lie outside of the tissue"] = table.index[~inside]
    table = table if inside.all() else table[inside]
    _require_once(table.index, path)
    table, columns, unit = position_columns(table, path, named=has_header)
    known = np.isfinite(table[list(columns)].to_numpy(dtype=np.float64)).all(axis=1)
    left_out[_EMPTY] = table.index[~known]
    return PositionTable(path, table if known.all() else table[known], columns, unit, left_out)


def _by_cell(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the names of the cells as its index."""
    name = cell_column(list(table))
    by_cell = table.set_index(names_of(table, name).rename(None))
    return by_cell if numbered_cells(table) is not None else by_cell.drop(columns=name)


def _in_tissue(table: pd.DataFrame, path: Path) -> np.ndarray:
    """Mask of the spots in tissue, however it is written; a missing value is outside."""
    for name in (name for name in table if plain(name) in TISSUE | {"tissue"}):
        said = truth(table[name])
        if said is None:
            if plain(name) == "tissue":  # which may be the name of an organ as well
                continue
            other = next(one for one in texts(table[name]) if truth(pd.Series([one])) is None)
            raise InputError(
                f'"{path}" has {other!r} in column {name!r}.',
                "It says with 1 or 0, TRUE or FALSE, which spots are in tissue.",
                "Correct it, or remove the column.",
            )
        if not (said == 1).any():
            raise InputError(
                f'Column {name!r} of "{path}" says of no spot that it is in tissue.',
                "Spots outside of the tissue are left out.",
                "Correct it, or remove the column.",
            )
        return said == 1
    return np.ones(len(table), dtype=bool)


# ---------------------------------------------------------------------------- columns


def position_columns(
    table: pd.DataFrame, path: Path, *, named: bool = True
) -> tuple[pd.DataFrame, tuple[str, ...], str]:
    """Which columns have the position, and their unit.

    Names of the usual formats are looked for first, then any two that differ in x and y only, such as
    ``pos_x`` and ``pos_y``, then row and column of an array, which become its lattice: neighbouring spots
    are at distance 1. A third column is the one called alike with z, unless it is empty; of a table without
    header it has to hold a few planes.

    Parameters
    ----------
    table
        A row for each cell.
    path
        Where it was read from, for messages.
    named
        Whether the names of the columns are the file's.

    Returns
    -------
    The table, with text of numbers as numbers; the two or three columns; their unit.

    Raises
    ------
    InputError
        If there are no such columns, or several that could be meant.
    """
    numeric = {name: values for name in table if (values := _as_numbers(table[name])) is not None}
    found = columns_of_positions(numeric, path)
    if found is not None:
        columns, unit = found
        columns = _with_planes(columns, numeric, path, named)
        return table.assign(**{name: numeric[name] for name in columns}), columns, unit
    if (array := _array(numeric)) is not None:
        return _on_lattice(table, numeric, array, path)
    raise InputError(
        f'"{path}" has the columns {", ".join(map(repr, table.columns)) or "of one kind only"}.',
        "Positions are read from numeric columns x and y (and z), or as the instruments call them.",
        "Rename the columns with the positions to x and y.",
    )


def _as_numbers(values: pd.Series) -> pd.Series | None:
    """The column as numbers, NaN where it is empty; ``None`` if it holds anything else."""
    if values.dtype.kind in "iuf":
        return values.astype(np.float64, copy=False)
    if values.dtype.kind != "O" or isinstance(values.dtype, pd.CategoricalDtype):
        return None
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    empty = values.isna() | values.astype(str).str.strip().eq("")
    return numbers if (numbers.notna() | empty).all() else None


def columns_of_positions(numeric: dict[str, pd.Series], path: Path) -> tuple[tuple[str, ...], str] | None:
    """The numeric columns that are positions by their names, and their unit; see :func:`position_columns`."""
    return known_positions(numeric) or _alike(numeric, path)


def known_positions(columns: Iterable[str]) -> tuple[tuple[str, ...], str] | None:
    """The columns that a usual format calls positions, and their unit; ``None`` if there are none."""
    lower = {_lower(name): name for name in columns}
    for names, unit in _KNOWN:
        if all(name in lower for name in names):
            return tuple(lower[name] for name in names), unit
    return None


def is_axis(name: str) -> bool:
    """Whether a column of this name may hold positions along an axis."""
    return bool(axis_of(name)[0]) or any(_lower(name) in names for names, _ in _KNOWN)


def _lower(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _alike(numeric: dict[str, pd.Series], path: Path) -> tuple[tuple[str, ...], str] | None:
    """The columns whose names differ in x, y (and z) only, and the unit that these name."""
    axes: dict[tuple[str, ...], dict[str, str]] = {}
    for name in numeric:
        axis, rest = axis_of(name)
        if axis and not _NO_POSITION & set(rest):
            axes.setdefault(rest, {})[axis] = name
    pairs = {rest: names for rest, names in axes.items() if {"x", "y"} <= set(names)}
    pairs = {rest: names for rest, names in pairs.items() if not _LOCAL & set(rest)} or pairs
    if len(pairs) > 1:
        listed = "; ".join(f"{names['x']}, {names['y']}" for names in pairs.values())
        raise InputError(
            f'"{path}" has several columns that may be positions: {listed}.',
            "Each cell has one position.",
            "Keep the columns with the positions, or rename them to x and y.",
        )
    for rest, names in pairs.items():
        if _LOCAL & set(rest):
            _say(
                f'Positions in "{path.name}" are local to each field of view. If there are several fields, '
                'pass section_key="fov", or a table with global positions.'
            )
        unit = next((_UNITS[word] for word in rest if word in _UNITS), UNKNOWN)
        _say(f'Positions in "{path.name}" are read from {", ".join(names[axis] for axis in sorted(names))}.')
        return tuple(names[axis] for axis in "xyz" if axis in names), unit
    return None


def axis_of(name: str) -> tuple[str, tuple[str, ...]]:
    """The axis that a name such as ``CenterX_global_px`` has, or none, and the other words in it."""
    parts = words(name)
    found = [(place, match) for place, word in enumerate(parts) if (match := _AXIS.fullmatch(word))]
    if len(found) != 1:
        return "", ()
    place, match = found[0]
    axis = match["a"] or match["b"]
    start = match.start("a" if match["a"] else "b")
    word = f"{match.string[:start]}*{match.string[start + 1 :]}"
    return axis, (*parts[:place], word, *parts[place + 1 :])


def _with_planes(
    columns: tuple[str, ...], numeric: dict[str, pd.Series], path: Path, named: bool
) -> tuple[str, ...]:
    """The columns, without a third one that is empty or is no z."""
    if len(columns) < 3:
        return columns
    values = numeric[columns[2]]
    if not named:
        _require_places(numeric, columns[:2], path)
    if values.isna().all():
        _say(f'Column {columns[2]!r} of "{path.name}" is empty and is not used: positions are (x, y).')
        return columns[:2]
    n_planes = values.nunique()
    if named or n_planes <= min(_MAX_PLANES, max(len(values) // 3, 1)):
        return columns
    _say(
        f'The third number in "{path.name}" has {n_planes} values for {len(values)} cells: '
        "it is not taken as z. If it is z, give the table a header with x, y, z."
    )
    return columns[:2]


def _require_places(numeric: dict[str, pd.Series], columns: tuple[str, ...], path: Path) -> None:
    """Refuse four columns without a header of which the second or third says something else than a place."""
    n_values = [numeric[name].nunique() for name in (*columns, "z")]
    few = min(_MAX_PLANES, max(len(numeric["z"]) // 3, 1))
    if len(numeric["z"]) > _FEW_ROWS and min(n_values[:2]) <= (2 if n_values[2] <= few else few):
        raise InputError(
            f'"{path}" has no header, and one of columns 2 and 3 has {min(n_values[:2])} values only.',
            "Without a header they are cell, x, y, z.",
            "Give it a header that names the columns x and y.",
        )


def _array(numeric: dict[str, pd.Series]) -> tuple[str, str] | None:
    names = {plain(name): name for name in numeric}
    return next(((names[row], names[col]) for row, col in _ARRAYS if row in names and col in names), None)


def _on_lattice(
    table: pd.DataFrame, numeric: dict[str, pd.Series], array: tuple[str, str], path: Path
) -> tuple[pd.DataFrame, tuple[str, str], str]:
    """The table with x and y on the array's lattice: hexagonal if only every second place occurs; and a unit.

    Raises
    ------
    InputError
        If the columns are called as Visium's are, and hold other places than Visium has.
    """
    row, column = (numeric[name] for name in array)
    places = np.stack([row, column], axis=1)
    hexagonal = is_hexagonal(places)
    of_visium = plain(array[0]) == plain(ARRAY[0])
    if not hexagonal and of_visium and not table.index.str.fullmatch(_BIN_NAME).all():
        raise InputError(
            f'"{path}" has no positions but {array[0]} and {array[1]}, and these hold neighbours in a row.',
            "On an array of Visium, which is hexagonal, every second place of a row is empty.",
            "Give a table with positions; of a square array, call the columns x and y.",
        )
    if not hexagonal and not _is_lattice(places, ((0, 1), (1, 0))):
        _say(f'Positions in "{path.name}" are read from {array[1]}, {array[0]}.')
        return table.assign(array_x=column, array_y=row), ("array_x", "array_y"), UNKNOWN
    x, y = (column / 2, row * (np.sqrt(3) / 2)) if hexagonal else (column, row)
    kind = "hexagonal array (x = column / 2, y = row x 0.866)" if hexagonal else "square array"
    _say(
        f'"{path.name}" has no positions but {array[0]} and {array[1]}: they are taken as places on a '
        f"{kind}, on which neighbouring spots are at distance 1."
    )
    return table.assign(array_x=x, array_y=y), ("array_x", "array_y"), LATTICE


def is_hexagonal(places: np.ndarray) -> bool:
    """Whether whole numbers are places on Visium's array, of which every second one is empty.

    Parameters
    ----------
    places
        Row and column of the spots, in any order, shape ``(cell, 2)``; NaN where unknown.
    """
    places = places[np.isfinite(places).all(axis=1)]
    return _is_lattice(places, ((1, 1), (1, -1))) and len(np.unique(places.sum(axis=1) % 2)) == 1


def _is_lattice(places: np.ndarray, steps: tuple[tuple[int, int], ...]) -> bool:
    """Whether whole numbers, shape ``(cell, 2)``, have neighbours by these steps, more than half of them."""
    places = places[np.isfinite(places).all(axis=1)]
    if not len(places) or (places != np.rint(places)).any():
        return False
    known = {(int(row), int(column)) for row, column in places}
    return 2 * sum(any((row + r, column + c) in known for r, c in steps) for row, column in known) > len(
        known
    )


def _say(text: str) -> None:
    warnings.warn(text, IsoviWarning, stacklevel=4)


# ---------------------------------------------------------------------------- joining


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
        If no cell has a position, or more cells have an empty one, or cells are counted from 0 and from 1.

    Warns
    -----
    IsoviWarning
        With the number of cells that are left out, for each reason.
    """
    table = _named_as(adata.obs_names, positions.table)
    _require_one_count(adata.obs_names, table.index, counts, positions.path)
    place = table.index.get_indexer(adata.obs_names)
    found = place >= 0
    empty = adata.obs_names.isin(positions.left_out.get(_EMPTY, ()))
    if empty.sum() > found.sum():
        raise InputError(
            f'The position in "{positions.path}" is empty for {int(empty.sum())} of {len(found)} cells: '
            f"{some(adata.obs_names[empty])}.",
            "Cells without a position are left out, but not if they outnumber the others.",
            "Check its columns, fill the positions in, or remove these cells from the counts.",
        )
    if not found.any():
        raise InputError(
            f'No cell of "{counts}" ({some(adata.obs_names)}) is in "{positions.path}" '
            f"({some(table.index)}).",
            "Positions are joined by the names of the cells.",
            "Name the cells alike in both.",
        )
    if not found.all():
        _report_left_out(adata.obs_names[~found], len(found), positions)
        adata = adata[found].copy()
    rows = table.iloc[place[found]]
    adata.obsm[POSITIONS_KEY] = rows[list(positions.columns)].to_numpy(dtype=np.float64)
    for name in rows.columns.difference([*positions.columns, *adata.obs.columns], sort=False):
        adata.obs[name] = rows[name].to_numpy()
    return adata


def _require_one_count(names: pd.Index, others: pd.Index, counts: Path, positions: Path) -> None:
    """Refuse cells that are counted from 0 in one table and from 1 in the other: all would be moved."""
    n, from_0 = len(names), (names == "0").any()
    if n != len(others) or from_0 == (others == "0").any():
        return
    ranges = [set(map(str, range(first, first + n))) for first in ((0, 1) if from_0 else (1, 0))]
    if [set(names), set(others)] == ranges:
        raise InputError(
            f'"{counts}" counts its {n} cells from {int(not from_0)}, "{positions}" from {int(from_0)}.',
            "Cells and positions are joined by name, so each would get the position of another cell.",
            "Number the cells alike in both.",
        )


def _named_as(names: pd.Index, table: pd.DataFrame) -> pd.DataFrame:
    """The table by whichever names of its cells the counts have: those of CosMx are written in many ways."""
    numbered = numbered_cells(table)
    if numbered is None:
        whole = table.index.str.replace(r"^(\d+)\.0$", r"\1", regex=True)  # pandas makes floats of some ids
        better = not names.isin(table.index).any() and names.isin(whole).any() and whole.is_unique
        return table.set_axis(whole, axis=0) if better else table
    number, field, slide = numbered
    ways = [
        number + "_" + field,
        number + "_" + field + "_" + slide,
        field + "_" + number,
        "c_" + slide + "_" + field + "_" + number,
        number,
    ]
    ways += [texts(table[name]) for name in table if str(name).lower() in ("cell", "cell_id")]
    known = [way for way in (table.index, *map(pd.Index, ways)) if way.is_unique]
    best = max(known, key=lambda way: int(names.isin(way).sum()))
    return table if best is table.index else table.set_axis(best, axis=0)


def _report_left_out(names: pd.Index, n_cells: int, positions: PositionTable) -> None:
    """Say how many cells are left out, and why."""
    name = f'"{positions.path.name}"'
    rest = np.ones(len(names), dtype=bool)
    for reason, known in positions.left_out.items():
        of = names.isin(known)
        rest &= ~of
        if of.any():
            _say(f"{int(of.sum())} of {n_cells} cells {reason.format(name)} and are left out.")
    if rest.any():
        most = 2 * rest.sum() > n_cells
        check = " That is most of them: check that counts and positions are of one sample." if most else ""
        _say(f"{int(rest.sum())} of {n_cells} cells have no position in {name} and are left out.{check}")


def _require_once(names: pd.Index, path: Path) -> None:
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        raise InputError(
            f'"{path}" has {len(repeated)} cells more than once: {some(repeated)}.',
            "Each cell has one position.",
            "Keep one row of each cell, or make the names of the cells unique across sections.",
        )
