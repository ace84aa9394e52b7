"""Counts in a text or Parquet table: cells by genes, genes by cells, or one line for each count."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.columns import apart, describes_cells, plain, texts
from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.matrix import make_unique
from isovi.data.readers.positions import Joined, PositionTable, axis_of, columns_of_positions
from isovi.data.readers.source import POSITIONS_KEY
from isovi.data.readers.tabular import (
    CELL_NAMES,
    INDEX_NAMES,
    ROW_NUMBER,
    blocks_of,
    cell_column,
    columns_of,
    names_of,
)
from isovi.data.usable import drop_cells
from isovi.errors import InputError, IsoviWarning

GENE_NAMES = frozenset(
    ("gene", "genes", "gene_id", "geneid", "gene_name", "gene_names", "feature", "feature_name", "symbol")
)
_MOLECULES = frozenset({plain(name) for name in GENE_NAMES} | {"target", "decodedgenes"})
_NUMBERING = frozenset({"cellid", "fov", "slideid", "slideidnumeric"})  # how CosMx numbers cells
_BETWEEN = r"0_.+|c_\d+_\d+_0"  # names of CosMx's cell 0 of a field of view
_AXES = re.compile(
    r"[xyz][-_]?(coords?|pos|position|centroid|c)|[xyz][-_](um|px|mm)|(coord|pos)_?[xyz]|[xy]", re.IGNORECASE
)
_AMONG_OTHERS = frozenset({"row", "col", "rep", "bin"})  # alone they are genes of the fruit fly
_FEW = 4  # genes for each column of text, and for each with decimals, at least
_LONG = "one line for each count: cell, gene, count"


@dataclass(frozen=True)
class CountTable(Joined):
    """A table of counts, with or without a table of positions.

    Attributes
    ----------
    path
        Dense (cells by genes, or genes by cells) or long (cell, gene, count).
    coordinates
        Table of positions, if any.
    """

    kind = "counts table"

    def read(self) -> AnnData:
        """Counts as CSR, in the cells that have a position."""
        return self.sign(drop_cells(self.joined(read_counts(self.path, self.positions))))


def read_counts(path: Path, positions: PositionTable | None = None) -> AnnData:
    """Read a table of counts block by block; it is never dense in memory as a whole.

    Parameters
    ----------
    path
        Text or Parquet. With a column of cells and one of genes the table is long, and repeated counts are
        added up. Otherwise row names are in the column named for cells or genes, or in the first.
    positions
        Positions of the cells. If the header of a dense table names these cells, its rows are genes; so they
        are if the first column is called ``gene``.

    Raises
    ------
    InputError
        If the columns with names and counts cannot be identified, or counts are not numbers.
    """
    columns = columns_of(path)
    adata = _read_long(path, columns) if is_long(columns) else _read_dense(path, columns, positions)
    canonical_counts(adata)
    make_unique(adata)
    return adata


def require_no_molecules(path: Path, columns: list[str]) -> None:
    """Refuse a table with a line for each molecule, as instruments and segmentation programs write it.

    Raises
    ------
    InputError
        If there is a column of genes beside one of x and one of y.
    """
    gene = next((name for name in columns if plain(name) in _MOLECULES), None)
    axes = {axis: name for name in columns if (axis := axis_of(name)[0])}
    if gene is not None and {"x", "y"} <= set(axes):
        raise InputError(
            f'"{path}" has a line for each molecule: {gene!r} and position ({axes["x"]}, {axes["y"]}).',
            "Counts are read by cell, or of Stereo-seq's GEM (geneID, x, y, MIDCount) by bin.",
            "Give the table of cells by genes that comes with it, or count molecules by cell or bin.",
        )


def is_long(columns: list[str]) -> bool:
    """Whether there are, besides row names, a column of cells, one of genes, and one more."""
    named = _named_columns(columns)
    return len(named) == 3 and all(_named(named, names) is not None for names in (GENE_NAMES, CELL_NAMES))


def _named_columns(columns: list[str]) -> list[str]:
    return [column for column in columns if column.lower() not in INDEX_NAMES | {ROW_NUMBER}]


def _named(columns: list[str], names: frozenset[str]) -> str | None:
    return next((column for column in columns if column.lower() in names), None)


@dataclass
class _Codes:
    """Codes of names, in the order of their appearance."""

    known: dict[str, int] = field(default_factory=dict)

    def of(self, names: pd.Series) -> np.ndarray:
        codes, found = pd.factorize(texts(names))
        known = [self.known.setdefault(name, len(self.known)) for name in found]
        return np.array(known, dtype=np.int32)[codes]

    def index(self) -> pd.Index:
        return pd.Index(list(self.known), dtype=str)


def _read_long(path: Path, columns: list[str]) -> AnnData:
    columns = _named_columns(columns)
    cell, gene = str(_named(columns, CELL_NAMES)), str(_named(columns, GENE_NAMES))
    count = next(name for name in columns if name not in (cell, gene))
    cells, genes, parts = _Codes(), _Codes(), []
    for block in blocks_of(path):
        block.columns = list(map(str, block.columns))
        values = _numbers(block[[count]], path)[:, 0]
        parts.append((cells.of(block[cell]), genes.of(block[gene]), values))
    _require_rows(parts, path)
    row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
    shape = (len(cells.known), len(genes.known))
    counts = sparse.coo_matrix((value, (row, column)), shape=shape).tocsr()
    return AnnData(counts, obs=pd.DataFrame(index=cells.index()), var=pd.DataFrame(index=genes.index()))


def _read_dense(path: Path, columns: list[str], positions: PositionTable | None) -> AnnData:
    name = _names(columns)
    rest = [column for column in columns if column != name and column != ROW_NUMBER]
    is_transposed = name.lower() in GENE_NAMES or (
        positions is not None and bool(pd.Index(rest).isin(positions.table.index).any())
    )
    names: list[pd.DataFrame] = []
    annotation: list[pd.DataFrame] = []
    counts = []
    for block in _named_blocks(path, name, names):
        if not annotation:
            left = [] if is_transposed else _no_counts(block, path, positions)
        annotation.append(block[left])
        counts.append(sparse.csr_matrix(_numbers(block.drop(columns=left), path)))
    _require_rows(counts, path)
    rows = pd.Index(names_of(pd.concat(names), name).to_numpy())
    others = pd.Index([one for one in rest if one not in left])
    matrix = sparse.vstack(counts, format="csr")
    if _rows_are_genes(name, rows, others, positions):
        matrix, rows, others = matrix.T.tocsr(), others, rows
    adata = AnnData(matrix, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=others))
    if left:
        adata = _annotated(adata, pd.concat(annotation), path, positions)
    return _without_background(adata) if "fov" in map(plain, rest) else adata


def _names(columns: list[str]) -> str:
    """The column of the row names: that of cells, or that of genes."""
    of_cells = cell_column(columns)
    of_genes = next((name for name in columns if name.lower() in GENE_NAMES), of_cells)
    return of_genes if of_cells.lower() not in CELL_NAMES else of_cells


def _named_blocks(path: Path, name: str, names: list[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Blocks of rows without their names; the columns with these are added to ``names``."""
    for block in blocks_of(path):
        block.columns = list(map(str, block.columns))
        if name.lower() not in CELL_NAMES | GENE_NAMES and _all_numbers(block[name]):
            raise _unknown_columns(path, list(block.columns))
        names.append(block[[one for one in block if one == name or plain(one) in _NUMBERING]])
        yield block.drop(columns=[name, ROW_NUMBER], errors="ignore")


def _no_counts(block: pd.DataFrame, path: Path, positions: PositionTable | None) -> list[str]:
    """Columns beside the genes that describe the cells: by their names, or since they hold no counts."""
    text = [name for name in block if block[name].dtype.kind not in "biuf"]
    numbers = [name for name in block if block[name].dtype.kind in "biuf"]
    lower = {name.lower() for name in block}
    known = apart(filter(describes_cells, block)) | set(filter(_AXES.fullmatch, block))
    known |= {name for name in block if block[name].dtype.kind == "b"} | _pairs(list(block))
    known |= {name for name in block if name.lower() in _AMONG_OTHERS} if known else set()
    shared = set() if positions is None else set(block) & set(positions.table)
    known |= shared if 2 * len(shared) < block.shape[1] else set()  # else it is the same table
    axes = {name for name in block if name.lower() in ("x", "y", "z")}
    known = known | axes if {"x", "y"} <= lower else known - axes  # else genes of the fruit fly
    decimal = [name for name in numbers if name not in known and not _may_be_counts(block[name])]
    if _FEW * len(decimal) <= len(numbers):  # else all are: a table of normalised values
        known |= set(decimal)
    genes = [name for name in numbers if name not in known]
    unknown = [name for name in text if name not in known]
    spoiled = [name for name in unknown if pd.to_numeric(block[name], errors="coerce").notna().mean() > 0.5]
    if spoiled or (unknown and _FEW * len(unknown) > len(genes)) or not genes:
        raise _unknown_columns(path, spoiled or unknown or list(block))
    return [name for name in block if name in known or name in unknown]


def _pairs(names: list[str]) -> set[str]:
    """Names that differ in x and y only, such as ``Centroid X`` and ``Centroid Y``."""
    of = {name: axis_of(name) for name in names}
    axes = {rest: {axis for axis, other in of.values() if other == rest} for _, rest in of.values()}
    return {name for name, (axis, rest) in of.items() if axis and len(rest) > 1 and {"x", "y"} <= axes[rest]}


def _may_be_counts(values: pd.Series) -> bool:
    numbers = values.dropna().to_numpy(dtype=np.float64)
    return bool(((numbers >= 0) & (np.abs(numbers - np.rint(numbers)) < 1e-5)).all())


def _annotated(
    adata: AnnData, annotation: pd.DataFrame, path: Path, positions: PositionTable | None
) -> AnnData:
    """The counts with the other columns in ``obs``, and with positions if these are among them."""
    annotation.index = adata.obs_names
    adata.obs = annotation.apply(lambda values: texts(values) if values.dtype.kind in "OSU" else values)
    some = ", ".join(annotation.columns[:8]) + (", ..." if annotation.shape[1] > 8 else "")
    note = f'{annotation.shape[1]} columns of "{path.name}" describe cells and are no genes: {some}.'
    numeric = {name: annotation[name] for name in annotation if annotation[name].dtype.kind in "iuf"}
    found = columns_of_positions(numeric, path) if positions is None else None
    if found is not None:
        columns = list(found[0])
        adata.obsm[POSITIONS_KEY] = annotation[columns].to_numpy(dtype=np.float64)
        note += f" Positions are {', '.join(columns)}."
    warnings.warn(note, IsoviWarning, stacklevel=2)
    return adata


def _without_background(adata: AnnData) -> AnnData:
    """CosMx counts of cells; what lies between the cells of a field of view is counted as its cell 0."""
    between = adata.obs_names.str.fullmatch(_BETWEEN)
    if not between.any() or between.all():
        return adata
    note = f"{int(between.sum())} rows are cell 0, the counts between the cells of a field, and are left out."
    warnings.warn(note, IsoviWarning, stacklevel=2)
    return adata[~between].copy()


def _all_numbers(values: pd.Series) -> bool:
    return bool(pd.to_numeric(values, errors="coerce").notna().all())


def _rows_are_genes(name: str, rows: pd.Index, others: pd.Index, positions: PositionTable | None) -> bool:
    if positions is None:
        return name.lower() in GENE_NAMES
    known = positions.table.index
    return int(others.isin(known).sum()) > int(rows.isin(known).sum())


def _numbers(block: pd.DataFrame, path: Path) -> np.ndarray:
    wrong = [str(name) for name in block if block[name].dtype.kind not in "biuf"]
    if wrong:
        raise _unknown_columns(path, wrong)
    if (empty := block.isna()).any(axis=None):
        some = ", ".join(map(repr, block.columns[empty.any()][:3]))
        raise InputError(
            f'"{path}" has empty counts, in the columns {some} and perhaps others.',
            "Counts are whole numbers.",
            "Write 0 where nothing was counted, or remove these rows or columns.",
        )
    return block.to_numpy(dtype=np.float32)


def _unknown_columns(path: Path, columns: list[str]) -> InputError:
    some = ", ".join(map(repr, columns[:5])) + (", ..." if len(columns) > 5 else "")
    return InputError(
        f'In "{path}" the columns {some} cannot be interpreted.',
        f"A counts table is cells by genes with names of the cells in the first column, or {_LONG}.",
        "Call the column of names cell (in a long table the others gene and count), and leave out the rest.",
    )


def _require_rows(parts: list, path: Path) -> None:
    if not parts:
        raise InputError(f'"{path}" has no rows.', "It should hold counts.", "Check how it was written.")
