"""Matrix Market files of 10x Genomics' layout, read block by block: counts in one, names in two others."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.readers.source import readable
from isovi.errors import InputError

_PART = re.compile(
    r"(?P<prefix>.*?)(?P<part>matrix\.mtx|barcodes\.[tc]sv|(?:features|genes)\.[tc]sv)(?:\.gz)?",
    re.IGNORECASE,
)
_USUAL = re.compile(r"%%MatrixMarket\s+matrix\s+coordinate\s+(integer|real)\s+general\s*", re.IGNORECASE)
_BLOCK = 2**19  # lines read together
_HEADERS = frozenset({"barcode", "barcodes", "gene_id", "gene_ids", "x", "feature"})


def parts_of(folder: Path) -> dict[str, dict[str, Path]]:
    """Whole matrices of a folder by their prefix: files of the matrix, barcodes, features as m, b, f."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := _PART.fullmatch(path.name)):
            kind = match["part"].lower()[:1].replace("g", "f")  # genes.tsv was the name before features.tsv
            found.setdefault(match["prefix"], {})[kind] = path
    return {prefix: parts for prefix, parts in found.items() if set(parts) == set("mbf")}


def read_market(matrix: Path, barcodes: Path, features: Path) -> AnnData:
    """Cells and features of a Matrix Market file with the names in two others, compressed or not.

    Returns
    -------
    Counts as CSR with 32-bit floats; names of the features as ``var_names``, not made unique.

    Raises
    ------
    InputError
        If one cannot be read, or their lengths do not fit.
    """
    with readable(matrix, "a Matrix Market file"):
        counts = _counts(matrix)
    cells, names = (_lines(path) for path in (barcodes, features))
    if counts.shape == (len(names), len(cells)) != (len(cells), len(names)):
        counts = sparse.csr_matrix(counts.T)
    if counts.shape != (len(cells), len(names)):
        raise InputError(
            f'"{matrix}" has {counts.shape[1]} rows and {counts.shape[0]} columns, "{features.name}" '
            f'{len(names)} lines and "{barcodes.name}" {len(cells)}.',
            "Each row is a feature and each column a cell.",
            "Check that the files belong together.",
        )
    var = pd.DataFrame(index=pd.Index(names[1 if names.shape[1] > 1 else 0].astype(str).to_numpy()))
    if names.shape[1] > 1:
        var["gene_ids"] = names[0].astype(str).to_numpy()
    if names.shape[1] > 2:
        var["feature_types"] = names[2].astype(str).to_numpy()
    return AnnData(counts, obs=pd.DataFrame(index=pd.Index(cells[0].astype(str).to_numpy())), var=var)


def _counts(path: Path) -> sparse.csr_matrix:
    """The matrix with its columns as rows; nothing but its entries is ever whole in memory."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        if not _USUAL.fullmatch(file.readline()):
            from scipy.io import mmread

            return sparse.csr_matrix(mmread(path).T, dtype=np.float32)
        line = next((line for line in file if not line.startswith("%")), "")
        n_rows, n_columns, n_stored = map(int, line.split())
        row, column, value = (np.empty(n_stored, dtype) for dtype in (np.int32, np.int32, np.float32))
        types, start = {0: np.int32, 1: np.int32, 2: np.float32}, 0
        for block in pd.read_csv(file, sep=r"\s+", header=None, dtype=types, chunksize=_BLOCK):
            stop = start + len(block)
            for whole, part in zip((row, column, value), block, strict=True):
                whole[start:stop] = block[part]
            start = stop
    if start != n_stored or (n_stored and min(row.min(), column.min()) < 1):
        raise ValueError(f"it has {start} entries where it says {n_stored}, or one outside of the matrix")
    row -= 1
    column -= 1
    if n_stored and (row.max() >= n_rows or column.max() >= n_columns):
        raise ValueError("it has an entry outside of the matrix")
    if (column[1:] < column[:-1]).any():
        return sparse.coo_matrix((value, (column, row)), shape=(n_columns, n_rows)).tocsr()
    starts = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=n_columns))])
    return sparse.csr_matrix((value, row, starts), shape=(n_columns, n_rows))


def _lines(path: Path) -> pd.DataFrame:
    """The lines of a table of names, without a header where it has one."""
    with readable(path, "a table of names"):
        name = path.name.lower().removesuffix(".gz")
        table = pd.read_csv(path, sep="," if name.endswith(".csv") else "\t", header=None, dtype=str)
    is_header = str(table.iloc[0, 0]).lower() in _HEADERS
    return table.iloc[1:].reset_index(drop=True) if is_header else table
