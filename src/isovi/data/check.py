"""Validate the input before any long work; errors say what was received, the rule and the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi._shapes import CellIndexArray, CoordinateArray
from isovi.data import decimals
from isovi.data.columns import some
from isovi.data.readers.source import readable
from isovi.errors import InputError, IsoviWarning
from isovi.spots import SPLIT_KEY, Spots, spacing

MIN_SECTION_SPOTS = 3
LARGEST_COUNT = 2**31  # sums and likelihoods are computed with 32-bit floats
_FARTHEST = 1e100  # its square, too, is a number
_REACH = 2**24  # spacings; farther from its centre 32-bit floats do not tell neighbours apart
_WORDS = {
    decimals.NORMALISED: "normalised values",
    decimals.LOGARITHMS: "logarithms",
    decimals.INTENSITIES: "intensities or scores, which rounding would change for the most part",
}
_DAMAGED = "Copy, download or export it again; if isovi pack wrote it, pack the input again."
_BLOCK_VALUES = 2**20  # values checked together: about 8 MB of float64


@dataclass(frozen=True, eq=False)
class Checked:
    """What :func:`dataset` has checked; it holds until the data is changed.

    Attributes
    ----------
    positions
        In the units of the input, float64 of shape ``(cell, axis)``; a copy.
    section
        Section of each cell, indices into ``section_names``, shape ``(cell,)``.
    section_names
        Names of the sections; ``["all"]`` without a section key.
    counts
        The matrix of raw counts as it is stored, shape ``(cell, gene)``; not a copy. Every cell has at least
        one count, which need not hold for a selection of genes.
    """

    positions: CoordinateArray
    section: CellIndexArray
    section_names: list[str]
    counts: Any


def dataset(
    adata: AnnData,
    *,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    layer: str | None = None,
    allow_empty_genes: bool = False,
) -> Checked:
    """Check everything that a fit needs from its input, cheap checks first.

    Parameters
    ----------
    adata
        The data, in memory or backed; nothing in it is changed.
    spatial_key
        Key in ``obsm`` of the positions.
    section_key, batch_key
        Columns of ``obs`` with the tissue section and the batch; no value may be missing.
    label_key
        Column of ``obs`` with known labels; values may be missing.
    layer
        Layer with the raw counts; ``None`` is ``adata.X``.
    allow_empty_genes
        Whether genes without any count are accepted (by a caller that selects genes later).

    Returns
    -------
    What was checked, so that later steps need not check it again.

    Raises
    ------
    InputError
        For the first problem found.

    Warns
    -----
    IsoviWarning
        If several spots of a section share one position.
    """
    size(adata)
    names(adata)
    codes, section_names = sections(adata, section_key)
    positions = coordinates(adata, spatial_key)
    section_coordinates(positions, codes, section_names)
    if batch_key is not None:
        categories(adata, batch_key, role="batch")
        if adata.obs[batch_key].dtype == np.float16:
            raise InputError(
                f'adata.obs["{batch_key}"] holds numbers of half precision.',
                "Batches are categories, and scvi-tools makes none of those.",
                f'Convert them: adata.obs["{batch_key}"] = adata.obs["{batch_key}"].astype(str).',
            )
    if label_key is not None:
        categories(adata, label_key, role="label", allow_missing=True)
    matrix = counts(adata, layer, allow_empty_genes=allow_empty_genes)
    return Checked(positions, codes, section_names, matrix)


def size(adata: AnnData) -> None:
    """Check that there are spots and genes.

    Raises
    ------
    InputError
        If there are no spots or no genes.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise InputError(
            f"adata has {adata.n_obs} spots and {adata.n_vars} genes.",
            "At least one of each is needed.",
            "Check the filters that were applied to it, and the file that it was read from.",
        )


def names(adata: AnnData) -> None:
    """Check that the names of spots and of genes are unique.

    Raises
    ------
    InputError
        If ``obs_names``, ``var_names`` or the columns of ``obs`` or ``var`` have duplicates.
    """
    for axis, table in (("obs", adata.obs), ("var", adata.var)):
        repeated = table.columns[table.columns.duplicated()].unique()
        if len(repeated):
            raise InputError(
                f"adata.{axis} has {len(repeated)} columns that occur more than once: {some(repeated)}.",
                "Every column must have a name of its own.",
                f"Keep the first: adata.{axis} = adata.{axis}.loc[:, ~adata.{axis}.columns.duplicated()].",
            )
    for axis, index in (("obs", adata.obs_names), ("var", adata.var_names)):
        repeated = index[index.duplicated()].unique()
        if len(repeated):
            raise InputError(
                f"adata.{axis}_names has {len(repeated)} names that occur more than once: {some(repeated)}.",
                "Every name must be unique.",
                f"Call adata.{axis}_names_make_unique() first.",
            )


# ---------------------------------------------------------------------------- positions and sections


def coordinates(
    adata: AnnData, spatial_key: str = "spatial", *, allow_missing: bool = False
) -> CoordinateArray:
    """Positions of the spots, checked one by one; see also :func:`section_coordinates`.

    Parameters
    ----------
    adata
        The data, in memory or backed.
    spatial_key
        Key in ``obsm`` of an array, DataFrame or sparse matrix with 2 or 3 numeric columns.
    allow_missing
        Whether spots may lack a position (rows of NaN).

    Returns
    -------
    A new float64 array of shape (n_obs, 2) or (n_obs, 3), in the units of the input.

    Raises
    ------
    InputError
        If the key is missing, the values are not numbers or not finite, or there are fewer than 2 or
        more than 3 columns.
    """
    positions, where = numeric_positions(adata, spatial_key), f'adata.obsm["{spatial_key}"]'
    missing = np.isnan(positions).all(axis=1) if allow_missing else np.zeros(len(positions), dtype=bool)
    _require_finite(positions[~missing], adata.obs_names[~missing], where)
    return positions


def numeric_positions(adata: AnnData, spatial_key: str) -> CoordinateArray:
    """Positions as :func:`coordinates` gives them, finite or not.

    Raises
    ------
    InputError
        If the key is missing, the values are not numbers, or there are fewer than 2 or more than 3 columns.
    """
    if spatial_key not in adata.obsm:
        raise InputError(
            f'adata.obsm has no "{spatial_key}"; it has: {some(adata.obsm.keys(), limit=20)}.',
            "The position of every spot is needed, as 2 or 3 numeric columns.",
            'Pass the right `spatial_key`, or store the positions in adata.obsm["spatial"].',
        )
    where = f'adata.obsm["{spatial_key}"]'
    return _numeric(_with_columns(adata.obsm[spatial_key], where), where)


def section_coordinates(coordinates: CoordinateArray, codes: CellIndexArray, names: Sequence[str]) -> None:
    """Check that distances within each section can be computed, and look for repeated positions.

    Parameters
    ----------
    coordinates
        Positions, (n_obs, 2) or (n_obs, 3).
    codes, names
        Section of each spot, (n_obs,), indices into the names of the sections.

    Raises
    ------
    InputError
        If a section of two or more spots has all of them at one position, or of three or more at two; if
        positions are so large or so close, or one so far out, that distances cannot be computed.

    Warns
    -----
    IsoviWarning
        With the number of spots at the position of an earlier spot of their section.
    """
    grouped = pd.DataFrame(coordinates).groupby(codes)
    at_one_place = (grouped.min() == grouped.max()).all(axis=1) & (grouped.size() > 1)
    if at_one_place.any():
        first = int(np.flatnonzero(codes == at_one_place.idxmax())[0])
        stuck = [names[code] for code in at_one_place.index[at_one_place]]
        raise InputError(
            f"All spots of {_section_list(stuck)} are at one position, {tuple(coordinates[first].tolist())}.",
            "Distances in tissue need spots at different positions.",
            "Check that the right columns were stored as positions, or choose another `spatial_key`.",
        )
    for code, rows in grouped.indices.items():
        _require_range(coordinates[rows], _section_list([names[code]]))
    _warn_of_duplicates(coordinates, codes)


def _require_range(positions: CoordinateArray, where: str) -> None:
    """Refuse positions of a section whose distances overflow, vanish or drown in rounding."""
    if len(positions) < 2:
        return
    remedy = "Check that the right columns were stored as positions, and in a sensible unit."
    largest = float(np.abs(positions).max())
    if largest > _FARTHEST:
        raise InputError(
            f"Positions of {where} are as large as {largest:.3g}.",
            f"They must be at most {_FARTHEST:g}, so that distances can be computed.",
            remedy,
        )
    places = np.unique(positions, axis=0)
    if len(places) < min(len(positions), MIN_SECTION_SPOTS):
        raise InputError(
            f"The {len(positions)} spots of {where} are at {len(places)} different positions.",
            f"A section needs {MIN_SECTION_SPOTS} positions: distances are compared within sections.",
            "Check that the positions were not rounded, or choose another `spatial_key`.",
        )
    unit = spacing(places)
    if not unit > 1 / _FARTHEST:
        raise InputError(
            f"Neighbouring spots of {where} are {unit:.3g} apart.",
            f"Distances must be at least {1 / _FARTHEST:g}, so that they can be computed.",
            remedy,
        )
    reach = float(np.abs(positions - positions.mean(axis=0)).max()) / unit
    if reach > _REACH:
        raise InputError(
            f"A spot of {where} is {reach:.3g} times as far out as neighbours are apart ({unit:.3g}).",
            f"Distances are computed up to {_REACH:.3g} spacings; one spot far out sets the scale of all.",
            "Remove the spots that lie outside the tissue, or correct their positions.",
        )


def sections(adata: AnnData, section_key: str | None = None) -> tuple[CellIndexArray, list[str]]:
    """Tissue section of each spot.

    Parameters
    ----------
    adata
        The data.
    section_key
        Column of ``obs``; ``None`` if all spots are one section.

    Returns
    -------
    Codes, int64 of shape (n_obs,), and the names that they index (``["all"]`` without a key).

    Raises
    ------
    InputError
        If the column is missing or has missing values, or a section has fewer than 3 spots.
    """
    codes, section_names = np.zeros(adata.n_obs, dtype=np.int64), ["all"]
    if section_key is not None:
        codes, section_names = _categories(adata, section_key, "section")
    spots = np.bincount(codes, minlength=len(section_names))
    small = [f"{name} ({n})" for name, n in zip(section_names, spots, strict=True) if n < MIN_SECTION_SPOTS]
    if small:
        what = "adata" if section_key is None else f'adata.obs["{section_key}"]'
        raise InputError(
            f"{what} has {len(small)} section(s) with too few spots: {some(small, quote=False)}.",
            f"A section needs at least {MIN_SECTION_SPOTS} spots: distances are compared within sections.",
            "Remove these spots, or choose another column as `section_key`.",
        )
    return codes, section_names


def spots(
    adata: AnnData,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    *,
    split_key: str = SPLIT_KEY,
    units: Mapping[str, float] | None = None,
) -> Spots:
    """Where the spots of an AnnData are.

    Parameters
    ----------
    adata
        The data, in memory, backed or packed: all spots of its sections, so that their unit is the one that
        everything else uses. Take some of them by :meth:`isovi.spots.Spots.take`.
    spatial_key
        Key in ``obsm`` of the positions.
    section_key
        Column of ``obs`` with the tissue section; ``None`` if there is only one.
    split_key
        Column of ``obs`` with the split, where there is one.
    units
        Units of known sections by name, such as those of a model.

    Raises
    ------
    InputError
        If positions or sections are missing or not finite.
    """
    codes, section_names = np.zeros(adata.n_obs, dtype=np.int64), ["all"]
    if section_key is not None:
        codes, section_names = _categories(adata, section_key, "section")
    split = adata.obs[split_key].astype(str).to_numpy() if split_key in adata.obs else None
    return Spots.at(coordinates(adata, spatial_key), codes, section_names, units=units, split=split)


def categories(adata: AnnData, key: str, *, role: str, allow_missing: bool = False) -> CellIndexArray:
    """Codes of a categorical column.

    Parameters
    ----------
    adata
        The data.
    key
        Column of ``obs``.
    role
        Role of the column, for messages: ``"batch"``, ``"label"``, ...
    allow_missing
        Whether some (not all) values may be missing.

    Returns
    -------
    Codes, int64 of shape (n_obs,); -1 where the value is missing.

    Raises
    ------
    InputError
        If the column does not exist, or has missing values that are not allowed.
    """
    return _categories(adata, key, role, allow_missing)[0]


def occurring(column: pd.Series) -> pd.Categorical:
    """A column as the categories that occur; pandas makes none of numbers of half precision."""
    single = column.astype(np.float32) if column.dtype == np.float16 else column
    return pd.Categorical(single).remove_unused_categories()


def _categories(
    adata: AnnData, key: str, role: str, allow_missing: bool = False
) -> tuple[CellIndexArray, list[str]]:
    """Codes, and the names of the categories that occur."""
    if key not in adata.obs:
        raise InputError(
            f'adata.obs has no column "{key}"; it has: {some(adata.obs.columns, limit=20)}.',
            f"The {role} of every spot is read from that column.",
            f"Name one of these columns as the {role}, or leave it out.",
        )
    values = occurring(adata.obs[key])
    codes = values.codes.astype(np.int64)
    missing = np.flatnonzero(codes < 0)
    if len(missing) and (not allow_missing or len(missing) == adata.n_obs):
        raise InputError(
            f'adata.obs["{key}"] has {len(missing)} missing values of {adata.n_obs}: '
            f"{some(adata.obs_names[missing])}.",
            f"Every spot needs a {role}." if not allow_missing else f"Some spots need a {role}.",
            f'Fill them in, or keep the others: adata = adata[adata.obs["{key}"].notna()].copy().',
        )
    return codes, [str(name) for name in values.categories]


def _with_columns(values: Any, where: str) -> Any:
    """The values, if they have 2 or 3 columns; checked before they are made dense."""
    shape = tuple(np.shape(values))
    if len(shape) != 2 or shape[1] not in (2, 3):
        raise InputError(
            f"{where} has shape {shape}.",
            "Positions need 2 or 3 columns (x, y or x, y, z), one row per spot.",
            f"Store just these columns ({where} = ...), or pass the key that holds them as `spatial_key`.",
        )
    return values


def _numeric(values: Any, where: str) -> CoordinateArray:
    """The values as a new float64 array; missing values become NaN."""
    if sparse.issparse(values):
        values = values.toarray()
    frame = values if isinstance(values, pd.DataFrame) else pd.DataFrame(np.asarray(values))
    columns = [_numeric_column(column, name, where) for name, column in frame.items()]
    return np.stack(columns, axis=1)


def _numeric_column(column: pd.Series, name: Any, where: str) -> np.ndarray:
    if column.dtype.kind in "iuf":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = [np.nan if value is None or value is pd.NA else value for value in column]
    for value in values:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise InputError(
                f'{where} holds {value!r} in column "{name}".',
                "Positions must be numbers.",
                f"Convert them, e.g. {where} = {where}.astype(float), or store only the numeric columns.",
            )
    return np.array(values, dtype=np.float64)


def _require_finite(positions: CoordinateArray, obs_names: pd.Index, where: str) -> None:
    bad = ~np.isfinite(positions).all(axis=1)
    if bad.any():
        raise InputError(
            f"{where} is NaN or infinite for {int(bad.sum())} of {len(bad)} spots: {some(obs_names[bad])}.",
            "Every spot needs a finite position.",
            f"Fill them in, or keep the others: adata = adata[np.isfinite({where}).all(axis=1)].copy().",
        )


def _warn_of_duplicates(coordinates: CoordinateArray, codes: CellIndexArray) -> None:
    repeated = int(pd.DataFrame(coordinates).assign(section=codes).duplicated().sum())
    if repeated:
        warnings.warn(
            f"{repeated} of {len(codes)} spots are at exactly the position of an earlier spot. "
            "Such pairs are at distance zero in the tissue and carry no information for the model. "
            "If the spots come from several tissue sections, pass `section_key`.",
            IsoviWarning,
            stacklevel=2,
        )


def _section_list(stuck: list[str]) -> str:
    return "adata" if stuck == ["all"] else f"section(s) {some(stuck)}"


# ---------------------------------------------------------------------------- genes and counts


def pair_matrix(adata: AnnData, key: str) -> Any:
    """The matrix of pair weights in ``obsp[key]``, or an error that lists the keys."""
    if key not in adata.obsp:
        raise InputError(
            f"obsp has no {key!r}; it has {sorted(adata.obsp) or 'nothing'}.",
            "Pairs by obsp need a matrix of weights.",
            "Name an existing key, or compute one, for example with squidpy.gr.spatial_neighbors_knn.",
        )
    return adata.obsp[key]


def genes_in_common(adata_var_names: Iterable[str], model_var_names: Iterable[str]) -> np.ndarray:
    """Genes that the data and a fitted model have in common.

    Parameters
    ----------
    adata_var_names, model_var_names
        Names of the genes.

    Returns
    -------
    Their names, in the model's order.

    Raises
    ------
    InputError
        If there is none.
    """
    data, model = pd.Index(adata_var_names), pd.Index(model_var_names)
    common = model[model.isin(data)]
    if common.empty:
        raise InputError(
            f"None of the data's {len(data)} genes ({some(data, limit=3)}) "
            f"is among the model's {len(model)} ({some(model, limit=3)}).",
            "Genes are matched by name: symbol or Ensembl id, in the same letter case.",
            'Rename the genes, e.g. adata.var_names = adata.var["gene_ids"], or check the species.',
        )
    return common.to_numpy()


def counts(
    adata: AnnData,
    layer: str | None = None,
    *,
    allow_empty_genes: bool = False,
    allow_empty_spots: bool = False,
) -> Any:
    """The matrix of raw counts, checked block by block: never made dense, nor read whole if backed.

    Parameters
    ----------
    adata
        The data, in memory or backed.
    layer
        Layer with the raw counts; ``None`` is ``adata.X``.
    allow_empty_genes, allow_empty_spots
        Whether genes and spots without any count are accepted.

    Returns
    -------
    The matrix as it is stored (sparse, dense or backed), shape (n_obs, n_vars); not a copy.

    Raises
    ------
    InputError
        If the layer is missing; if a value is NaN, infinite, negative or not a whole number; if a
        spot or a gene, unless allowed, has no count at all.
    """
    matrix, where = _matrix(adata, layer)
    spot_totals, gene_totals = np.zeros(adata.n_obs), np.zeros(adata.n_vars)
    for block in blocks(matrix):
        _require_counts(block, adata, layer)
        spot_totals[block.rows] += np.asarray(block.values.sum(axis=1, dtype=np.float64)).ravel()
        gene_totals[block.columns] += np.asarray(block.values.sum(axis=0, dtype=np.float64)).ravel()
    if not allow_empty_spots:
        _require_filled(spot_totals, adata.obs_names, layer, where, "spot")
    if not allow_empty_genes:
        _require_filled(gene_totals, adata.var_names, layer, where, "gene")
    return matrix


@dataclass(frozen=True)
class Block:
    """A few rows or columns of a matrix.

    Attributes
    ----------
    rows, columns
        Which of the whole matrix.
    values
        In memory, sparse or dense as they are stored; a sparse one has a single entry for each place.
    """

    rows: slice
    columns: slice
    values: Any

    @property
    def stored(self) -> np.ndarray:
        """The values that are stored, one after the other."""
        return self.values.data if sparse.issparse(self.values) else self.values.ravel()

    def of(self, genes: np.ndarray | None) -> Any:
        """The values of the genes of a mask over the whole matrix; all if there is none."""
        return self.values if genes is None else self.values[:, np.flatnonzero(genes[self.columns])]

    def index(self, position: int) -> tuple[int, int]:
        """Row and column in the whole matrix of a stored value."""
        if sparse.issparse(self.values):
            entries = self.values.tocoo()
            row, column = entries.row[position], entries.col[position]
        else:
            row, column = np.unravel_index(position, self.values.shape)
        return self.rows.start + int(row), self.columns.start + int(column)


def _matrix(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """The counts as they are stored, and their name for messages."""
    if layer is not None and layer not in adata.layers:
        raise InputError(
            f'adata.layers has no "{layer}"; it has: {_layers(adata)}.',
            "The raw counts are read from that layer.",
            "Name one of these as `layer`, or leave it out if adata.X holds the counts.",
        )
    where = "adata.X" if layer is None else f'adata.layers["{layer}"]'
    matrix = counts_of(adata, layer)
    if matrix is None or matrix.dtype.kind not in "biuf":
        found = "no values" if matrix is None else f"values of type {matrix.dtype}"
        raise InputError(
            f"{where} has {found}.", "Raw counts are needed, as numbers.", _find_counts(adata, layer)
        )
    return matrix, where


def blocks(matrix: Any) -> Iterator[Block]:
    """Cut a matrix, in memory or on disk, along the axis in which it is stored.

    Entries that a sparse matrix has at one place are added up, as scipy reads them.

    Raises
    ------
    InputError
        If the file of a matrix on disk is damaged.
    """
    n_obs, n_vars = matrix.shape
    by_column = getattr(matrix, "format", None) == "csc"
    file = _file_of(matrix)
    with nullcontext() if file is None else readable(file, "AnnData", _DAMAGED):
        edges = _edges(matrix, n_vars if by_column else n_obs)
    for start, stop in pairwise(edges):
        part = slice(start, stop)
        rows, columns = (slice(0, n_obs), part) if by_column else (part, slice(0, n_vars))
        with nullcontext() if file is None else readable(file, "AnnData", _DAMAGED):
            values = matrix[(rows, columns) if by_column else rows]
            if file is not None and sparse.issparse(values):
                values.check_format(full_check=True)  # in a damaged file indices may point anywhere
            values = added_up(values) if sparse.issparse(values) else _summable(values)
        yield Block(rows, columns, values)


def _file_of(matrix: Any) -> Path | None:
    """The file or store of a matrix on disk."""
    stored = getattr(matrix, "group", matrix)  # of sparse data on disk
    file = getattr(getattr(stored, "file", None), "filename", None)  # HDF5
    file = getattr(stored, "store_path", None) if file is None else file  # zarr
    return None if file is None else Path(str(file).removeprefix("file://"))


def _summable(values: Any) -> np.ndarray:
    """Dense values in a type that holds their sums, and that scipy knows."""
    values = np.asarray(values)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def added_up(matrix: Any) -> Any:
    """CSR or CSC in canonical form: the matrix itself if it is so already, else a copy.

    A sparse matrix may hold several entries at one place. They mean their sum, in scipy as in isoVI.
    """
    if matrix.has_canonical_format:
        return matrix
    matrix = matrix.copy()
    matrix.sum_duplicates()
    return matrix


def _edges(matrix: Any, length: int) -> list[int]:
    """Edges of blocks that store at most ``_BLOCK_VALUES`` values, or are a single row or column."""
    group = getattr(matrix, "group", None)  # of sparse data on disk
    pointers = getattr(matrix, "indptr", None) if group is None else np.asarray(group["indptr"][...])
    if pointers is None:
        step = max(1, _BLOCK_VALUES * length // max(1, int(np.prod(matrix.shape))))
        return [*range(0, length, step), length]
    edges = [0]
    while edges[-1] < length:
        reach = np.searchsorted(pointers, pointers[edges[-1]] + _BLOCK_VALUES, side="right") - 1
        edges.append(max(int(reach), edges[-1] + 1))
    return edges


def counts_of(adata: AnnData, layer: str | None = None) -> Any:
    """``X`` or a layer of the data; ``None`` if there is no such layer."""
    return adata.X if layer is None else adata.layers.get(layer)


def cell_totals(counts: Any, genes: np.ndarray | None = None) -> np.ndarray:
    """Total counts of each cell, shape ``(cell,)``, of all genes or those of a mask; in memory or on disk."""
    totals = np.zeros(counts.shape[0])
    for block in blocks(counts):
        totals[block.rows] += np.asarray(block.of(genes).sum(axis=1)).ravel()
    return totals


def n_stored(matrix: Any) -> int:
    """Number of entries that a matrix, in memory or on disk, stores; one place may have several."""
    if sparse.issparse(matrix):
        return int(matrix.nnz)
    group = getattr(matrix, "group", None)  # of sparse data on disk
    return int(np.prod(matrix.shape)) if group is None else int(group["data"].shape[0])


def _require_counts(block: Block, adata: AnnData, layer: str | None) -> None:
    values, (matrix, where) = block.stored, _matrix(adata, layer)
    if values.dtype.kind == "b":
        return
    rules = [
        (values < 0, "Counts cannot be negative; these look like scaled or corrected values."),
        (values > LARGEST_COUNT, f"Counts are at most {LARGEST_COUNT}; this looks like a missing value."),
    ]
    if values.dtype.kind == "f":
        rules.insert(0, (~np.isfinite(values), "Counts must be finite."))
    for wrong, rule in rules:
        if wrong.any():
            position = int(np.argmax(wrong))
            row, column = block.index(position)
            place = f'spot "{adata.obs_names[row]}", gene "{adata.var_names[column]}"'
            raise InputError(
                f"{where} holds {values[position]:g} ({place}).", rule, _find_counts(adata, layer)
            )
    if values.dtype.kind == "f" and not decimals.is_whole(values).all():
        off = np.abs(values - np.rint(values))
        position = int(np.argmax(off))
        row, column = block.index(position)
        place = f'spot "{adata.obs_names[row]}", gene "{adata.var_names[column]}"'
        received = f"{where} holds {values[position]:.9g} ({place})."
        raise InputError(received, *_about_decimals(values, matrix, adata, layer))


def _about_decimals(values: np.ndarray, matrix: Any, adata: AnnData, layer: str | None) -> tuple[str, str]:
    """Rule and remedy for values that are no whole numbers."""
    find, isovi_fit = _find_counts(adata, layer), "isovi.fit and isovi pack round them"
    if decimals.is_noise(values):
        rule = "Raw counts are whole numbers; these are but for rounding."
        return rule, f"{isovi_fit}; elsewhere round them: numpy.rint."
    kind = decimals.kind_of(matrix[: decimals.SAMPLE])
    if kind == decimals.CORRECTED:
        rule = (
            "Raw counts are whole numbers; these look like counts that were corrected for ambient RNA "
            "(SoupX, CellBender, decontX) or estimated."
        )
        return rule, f"{find} Or round them: round_counts=True."
    return f"Raw counts are whole numbers; these look like {_WORDS[kind]}.", find


def _layers(adata: AnnData) -> str:
    """Names of the layers; anndata 0.13 lists ``X`` among them, as ``None``."""
    return some((name for name in adata.layers.keys() if name is not None), limit=20)  # noqa: SIM118


def _find_counts(adata: AnnData, layer: str | None) -> str:
    """Where whole numbers are: in layers, ``X`` or ``raw``."""
    others = {name: adata.layers[name] for name in adata.layers if name not in (None, layer)}
    where = [f'layer="{name}"' for name, matrix in others.items() if _looks_whole(matrix)]
    if layer is not None and adata.X is not None and _looks_whole(adata.X):
        where.append("adata.X")
    found = [f"{', '.join(where)} holds whole numbers"] if where else []
    if adata.raw is not None and _looks_whole(adata.raw.X):
        remedy = 'adata.layers["counts"] = adata.raw[:, adata.var_names].X'
        found.append(f'adata.raw holds whole numbers: pass layer="raw", or store them: {remedy}')
    have = f"adata.layers has: {_layers(adata)}"
    return f"Name the layer with the raw counts as `layer`; {'; '.join([have, *found])}."


def _looks_whole(matrix: Any) -> bool:
    """Whether some rows hold whole numbers that are not negative."""
    if matrix.dtype.kind not in "biuf":
        return False
    rows = matrix[: decimals.SAMPLE]
    values = rows.data if sparse.issparse(rows) else np.asarray(rows)
    return bool((values >= 0).all() and (values.dtype.kind != "f" or decimals.is_whole(values).all()))


def _require_filled(totals: np.ndarray, names: pd.Index, layer: str | None, where: str, what: str) -> None:
    empty = np.flatnonzero(totals == 0)
    if len(empty):
        keep = {
            "spot": f"adata = adata[np.asarray({where}.sum(axis=1)).ravel() > 0].copy()",
            "gene": f"adata = adata[:, np.asarray({where}.sum(axis=0)).ravel() > 0].copy()",
        }
        scanpy = {
            "spot": "sc.pp.filter_cells(adata, min_counts=1)",
            "gene": "sc.pp.filter_genes(adata, min_cells=1)",
        }
        by_scanpy = layer is None  # scanpy filters by X only
        fit = "; or leave them out with min_counts=1" if what == "spot" else ""
        raise InputError(
            f"{where} has {len(empty)} {what}s without any count: {some(names[empty])}.",
            f"Every {what} needs at least one count.",
            f"Remove them first: {(scanpy if by_scanpy else keep)[what]}{fit}.",
        )
