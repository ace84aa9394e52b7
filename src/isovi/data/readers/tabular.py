"""Text and Parquet tables, read in blocks."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from isovi.data.columns import plain, texts
from isovi.data.readers.source import need_extra, readable
from isovi.errors import InputError, IsoviWarning

SUFFIXES = (".csv", ".tsv", ".txt", ".gem", ".parquet")
INDEX_NAMES = frozenset({"", "index", "unnamed: 0", "__index_level_0__"})  # of row names without a name
ROW_NUMBER = "row number"  # the name of an index that counts the rows where another column names them
CELL_NAMES = frozenset(
    {
        *INDEX_NAMES,
        *("id", "name", "obs_names", "entityid", "cell_label"),
        *("cell", "cells", "cell_id", "cellid", "cell_name", "cell_names", "barcode", "barcodes"),
        *("spot", "spots", "spot_id", "bead", "beads"),
    }
)
_BLOCK_VALUES = 2**22  # read together
_BLOCK_ARROW = 2**18  # likewise of Parquet, whose library keeps several blocks
_SEPARATORS = ("\t", ";", ",")
_BLANKS = r"\s+"
_SAMPLE = 100  # lines that are looked at
_DECIMAL_COMMA, _DECIMAL_POINT = re.compile(r"[-+]?\d*,\d+(e[-+]?\d+)?"), re.compile(r"[-+]?\d*\.\d+.*")
_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?|nan|na|", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")


@dataclass(frozen=True)
class _Text:
    """How a text table is written.

    Attributes
    ----------
    separator
        Between columns; a pattern for blanks.
    encoding
        Of the characters.
    decimal
        ``"."`` or ``","``.
    skipped
        Lines of comments before the header.
    renamed
        Other names for columns by their place, if the first counts the rows, as pandas' index does, and so
        does not name them.
    """

    separator: str
    encoding: str
    decimal: str
    skipped: int
    renamed: dict[int, str]

    @property
    def arguments(self) -> dict[str, Any]:
        """As pandas takes them."""
        return {
            "sep": self.separator,
            "encoding": self.encoding,
            "decimal": self.decimal,
            "skiprows": self.skipped,
        }


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
        first = pd.read_csv(path, nrows=1, index_col=None, **_text(path).arguments)
        named = isinstance(first.index, pd.RangeIndex)
        columns = [*([] if named else [""]), *map(str, first.columns)]
    renamed = _text(path).renamed if columns[0].lower() in INDEX_NAMES else {}
    return [renamed.get(place, name) for place, name in enumerate(columns)]


def cell_column(columns: list[str]) -> str:
    """The column with the names of the cells: the first that is called so, or simply the first."""
    return next((name for name in columns if name.lower() in CELL_NAMES), columns[0])


def numbered_cells(table: pd.DataFrame) -> list[pd.Series] | None:
    """Number, field of view and slide of CosMx's cells, as text; ``None`` if the table has no such columns.

    Each field of view numbers its cells anew. Where there is only one slide, or none is named, it is ``"1"``.
    """
    known = {plain(name): name for name in reversed(list(table))}
    number = next((name for name in table if plain(name) == "cellid" and _are_whole(table[name])), None)
    if number is None or "fov" not in known:
        return None
    slide = next((known[name] for name in ("slideidnumeric", "slideid") if name in known), None)
    parts = [texts(table[name]).str.replace(r"\.0$", "", regex=True) for name in (number, known["fov"])]
    several = slide is not None and table[slide].nunique() > 1
    return [*parts, texts(table[slide]) if several else pd.Series("1", index=table.index)]


def names_of(table: pd.DataFrame, name: str) -> pd.Series:
    """Names of the cells from the column that is called so; CosMx's ``cell_ID`` with field and slide."""
    numbered = numbered_cells(table) if plain(name) == "cellid" else None
    if numbered is None:
        return texts(table[name])
    number, field, slide = numbered
    return number + "_" + field + ("_" + slide if slide.nunique() > 1 else "")


def _are_whole(values: pd.Series) -> bool:
    return bool(texts(values).str.fullmatch(r"\d+(\.0)?").all())


def n_without_header(path: Path) -> int:
    """Number of columns of a text table whose first line holds numbers and so is no header; else zero."""
    if is_parquet(path):
        return 0
    with readable(path, "a table"):
        first = pd.read_csv(path, nrows=1, header=None, index_col=None, **_text(path).arguments)
    numbers = pd.to_numeric(first.iloc[0, 1:], errors="coerce")
    return first.shape[1] if numbers.notna().any() else 0


def blocks_of(path: Path, names: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """Rows of a table, a few at a time, row names as the first column.

    Parameters
    ----------
    path
        Text with any of the usual separators, encodings and decimal signs, perhaps compressed, or Parquet.
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
        _warn_of_guesses(path)
        columns = columns_of(path) if names is None else names
        text: dict[str, Any] = {"header": 0 if names is None else None, **_text(path).arguments}
        text |= {"names": columns, "dtype": {cell_column(columns): str}, "index_col": False}
        chunk = max(_BLOCK_VALUES // len(columns), 1)
        with pd.read_csv(path, low_memory=False, chunksize=chunk, **text) as reader:
            yield from (block for block in reader if len(block))


def _warn_of_guesses(path: Path) -> None:
    """Say what was guessed of how a text table is written."""
    text, notes = _text(path), []
    if text.renamed:
        notes.append("has a first column that counts its rows: their names are read from another")
    if text.decimal == ",":
        notes.append("has decimal commas")
    if text.encoding == "latin-1":
        notes.append("is not UTF-8: it is read as Latin-1, so check accents and symbols")
    for note in notes:
        warnings.warn(f'"{path.name}" {note}.', IsoviWarning, stacklevel=3)


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


# ---------------------------------------------------------------------------- how text is written


def _text(path: Path) -> _Text:
    stat = path.stat()
    return _look(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=32)
def _look(path: Path, *_: int) -> _Text:
    """Look at the encoding of the whole file, and at its first lines."""
    encoding = _encoding(path)
    with _opened(path) as file:
        lines = list(islice(codecs.getreader(encoding)(file), _SAMPLE))
    skipped = next((i for i, line in enumerate(lines) if not _is_comment(line)), 0)
    lines = [line.rstrip("\r\n") for line in lines[skipped:]]
    separator = _separator(lines[0] if lines else "")
    rows = [_fields(line, separator) for line in lines]
    fields = [field for row in rows for field in row]
    return _Text(separator, encoding, _decimal(fields, separator, path), skipped, _renamed(rows))


def _is_comment(line: str) -> bool:
    """Whether a line comes before the header, as ``#FileFormat=GEMv0.1`` does."""
    return line.startswith("#") and not any(separator in line for separator in _SEPARATORS)


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _encoding(path: Path) -> str:
    """UTF-8 or UTF-16 with their marks, UTF-8 without if all of the file is, and else Latin-1."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(path) as file:
        chunk = file.read(2**20)
        if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        try:
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(2**20)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def _separator(line: str) -> str:
    """The separator that a line has most of; blanks if it has none of the usual ones."""
    best = max(_SEPARATORS, key=line.count)
    return best if line.count(best) or not re.search(r"\S\s+\S", line) else _BLANKS


def _fields(line: str, separator: str) -> list[str]:
    return line.split() if separator == _BLANKS else next(csv.reader([line], delimiter=separator), [])


def _renamed(rows: list[list[str]]) -> dict[int, str]:
    """See :class:`_Text`; a column of different words names the rows then, if no column is called so."""
    header, *rows = rows or [[]]
    if not rows or not all(row and row[0] in (str(i), str(i + 1)) for i, row in enumerate(rows)):
        return {}
    unnamed = len(rows[0]) - len(header)  # R leaves the name of the row names out
    others = list(enumerate(header, start=unnamed))[1 - unnamed :]
    if any(name.lower() in CELL_NAMES for _, name in others):
        return {0: ROW_NUMBER}
    for place, _ in others:
        words = {row[place] for row in rows if place < len(row)}
        if len(words) == len(rows) > 1 and not any(_NUMBER.fullmatch(word) for word in words):
            return {0: ROW_NUMBER, place: "cell"}
    return {}


def _decimal(fields: list[str], separator: str, path: Path) -> str:
    """The decimal sign: a comma if numbers are written with one and none with a point.

    Raises
    ------
    InputError
        If the commas may as well separate thousands.
    """
    commas = [field for field in map(str.strip, fields) if _DECIMAL_COMMA.fullmatch(field)]
    if not commas or any(_DECIMAL_POINT.fullmatch(field.strip()) for field in fields):
        return "."
    if separator != ";" and all(_THOUSANDS.fullmatch(field) for field in commas):
        raise InputError(
            f'"{path}" has numbers such as {commas[0]!r}.',
            "A comma may be a decimal comma or separate thousands.",
            "Write the table with decimal points and without separators of thousands.",
        )
    return ","
