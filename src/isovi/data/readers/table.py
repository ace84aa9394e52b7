"""Counts in a text or Parquet table: cells by genes, genes by cells, or one line for each count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.filtering import drop_cells
from isovi.data.readers.matrix import make_unique
from isovi.data.readers.positions import Joined, PositionTable
from isovi.data.readers.tabular import CELL_NAMES, INDEX_NAMES, blocks_of, cell_column, columns_of, texts
from isovi.errors import InputError

GENE_NAMES = frozenset(
    ("gene", "genes", "gene_id", "geneid", "gene_name", "gene_names", "feature", "feature_name", "symbol")
)
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


def is_long(columns: list[str]) -> bool:
    """Whether there are, besides row names, a column of cells, one of genes, and one more."""
    named = _named_columns(columns)
    return len(named) == 3 and all(_named(named, names) is not None for names in (GENE_NAMES, CELL_NAMES))


def _named_columns(columns: list[str]) -> list[str]:
    return [column for column in columns if column.lower() not in INDEX_NAMES]


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
    name = cell_column(columns)
    rest = [column for column in columns if column != name]
    names: list[np.ndarray] = []
    counts = list(_dense_blocks(path, name, names))
    _require_rows(counts, path)
    matrix, rows, others = (
        sparse.vstack(counts, format="csr"),
        pd.Index(np.concatenate(names)),
        pd.Index(rest),
    )
    if _rows_are_genes(name, rows, others, positions):
        matrix, rows, others = matrix.T.tocsr(), others, rows
    return AnnData(matrix, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=others))


def _dense_blocks(path: Path, name: str, names: list[np.ndarray]) -> Iterator[sparse.csr_matrix]:
    """Blocks of rows as CSR; the names of the rows are added to ``names``."""
    for block in blocks_of(path):
        block.columns = list(map(str, block.columns))
        if name.lower() not in CELL_NAMES | GENE_NAMES and _all_numbers(block[name]):
            raise _unknown_columns(path, list(block.columns))
        names.append(texts(block[name]).to_numpy())
        yield sparse.csr_matrix(_numbers(block.drop(columns=name), path))


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
