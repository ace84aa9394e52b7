"""Text and Parquet tables, read in blocks."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from isovi.data.readers.source import need_extra, readable

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
INDEX_NAMES = frozenset({"", "index", "unnamed: 0", "__index_level_0__"})  # of row names without a name
CELL_NAMES = frozenset(
    {
        *INDEX_NAMES,
        *("id", "name", "obs_names"),
        *("cell", "cells", "cell_id", "cellid", "cell_name", "cell_names", "barcode", "barcodes"),
        *("spot", "spots", "spot_id", "bead", "beads"),
    }
)
_BLOCK_VALUES = 2**22  # read together
_BLOCK_ARROW = 2**18  # likewise of Parquet, whose library keeps several blocks
_SEPARATORS = (",", "\t", ";")


def is_table(path: Path) -> bool:
    """Whether the name is that of a table, perhaps compressed."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(SUFFIXES)


def is_parquet(path: Path) -> bool:
    """Whether the name is that of a Parquet file."""
    return path.suffix.lower() == ".parquet"


def columns_of(path: Path) -> list[str]:
    """Names of the columns; that of the row names comes first, empty if they have none."""
    with readable(path, "a table"):
        if is_parquet(path):
            return [str(name) for name in _parquet(path).schema_arrow.names]
        first = pd.read_csv(path, sep=_separator(path), nrows=1, index_col=None)
        named = isinstance(first.index, pd.RangeIndex)
        return [*([] if named else [""]), *map(str, first.columns)]


def cell_column(columns: list[str]) -> str:
    """The column with the names of the cells: the first that is called so, or simply the first."""
    return next((name for name in columns if name.lower() in CELL_NAMES), columns[0])


def n_without_header(path: Path) -> int:
    """Number of columns of a text table whose first line holds numbers and so is no header; else zero."""
    if is_parquet(path):
        return 0
    with readable(path, "a table"):
        first = pd.read_csv(path, sep=_separator(path), nrows=1, header=None, index_col=None)
    numbers = pd.to_numeric(first.iloc[0, 1:], errors="coerce")
    return first.shape[1] if numbers.notna().any() else 0


def blocks_of(path: Path, names: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """Rows of a table, a few at a time, row names as the first column.

    Parameters
    ----------
    path
        Text with any of the usual separators, perhaps compressed, or Parquet.
    names
        Names of the columns, for text without a header.
    """
    with readable(path, "a table"):
        if is_parquet(path):
            file = _parquet(path)
            values, batch = min(_BLOCK_VALUES, _BLOCK_ARROW), None
            for batch in file.iter_batches(max(values // max(len(file.schema_arrow.names), 1), 1)):
                yield pd.DataFrame({name: batch.column(name).to_pandas() for name in batch.schema.names})
            del file, batch
            _release()
            return
        columns = columns_of(path) if names is None else names
        text: dict[str, Any] = {"sep": _separator(path), "header": 0 if names is None else None}
        text |= {"names": columns, "dtype": {cell_column(columns): str}, "index_col": False}
        chunk = max(_BLOCK_VALUES // len(columns), 1)
        with pd.read_csv(path, low_memory=False, chunksize=chunk, **text) as reader:
            yield from (block for block in reader if len(block))


def texts(values: pd.Series) -> pd.Series:
    """Names as text: Parquet may hold them as bytes."""
    if values.dtype == object:
        values = values.map(lambda value: value.decode() if isinstance(value, bytes) else value)
    return values.astype(str)


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise need_extra("pyarrow", f'"{path}"') from error
    return parquet.ParquetFile(path)


def _release() -> None:
    """Give back the memory that Arrow keeps for the next file."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()


def _separator(path: Path) -> str:
    """The separator that the first line has most of."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
        line = str(file.readline())
    return max(_SEPARATORS, key=line.count)
