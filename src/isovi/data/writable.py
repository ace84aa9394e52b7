"""Turn an AnnData into one that anndata can write and that its other versions, old and new, can read."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from pandas.api import types
from scipy import sparse
from zarr.storage import MemoryStore

from isovi.errors import InputError, IsoviWarning

_RESERVED = "_index"  # anndata's own column of every table
_NAME_BYTES, _KEPT_BYTES = 200, 160  # of names, which are file names in zarr stores
_NUMBERS = "biufc"  # kinds of numpy's types that every version writes
_LARGEST = {"c": 16}  # bytes of a number, otherwise 8; what is larger differs between machines
_TEXT_OF_ONE_KIND = {"string", "empty"}


@dataclass(frozen=True)
class Writable:
    """Data that can be written, and what was changed to that end.

    Attributes
    ----------
    adata
        The data, with tables of its own; matrices are shared with the data that was given.
    notes
        What is written otherwise than it was given, in sentences.
    renamed
        New names by old ones, for each of ``"obs"``, ``"obsm"``, ``"layers"`` and so on.
    """

    adata: AnnData
    notes: tuple[str, ...]
    renamed: Mapping[str, Mapping[str, str]]


def writable(adata: AnnData) -> Writable:
    """Convert what anndata cannot write, or what only some of its versions can read; nothing fails.

    - Columns and keys that are reserved, or no names in HDF5 and zarr (slashes, empty ones, very long ones),
      get others.
    - Strings of pandas' own types become plain strings or categories, as do times, intervals and values of
      mixed types; numbers that were stored as objects become numbers.
    - In ``uns``, sequences become arrays, or JSON where they have parts of several types. What cannot be
      converted at all is left out.

    Parameters
    ----------
    adata
        Annotated data, which is not changed; one that is backed is read into memory.
    """
    if adata.isbacked:
        adata = adata.to_memory()
    found = _Conversion()
    obs, var = found.table(adata.obs, "obs"), found.table(adata.var, "var")
    parts: dict[str, Any] = {
        name: found.mapping(getattr(adata, name), name, index)
        for name, index in (("obsm", obs.index), ("obsp", None), ("varm", var.index), ("varp", None))
    }
    layers = {name: value for name, value in adata.layers.items() if name is not None}  # X, in anndata 0.13
    parts |= {"layers": found.mapping(layers, "layers"), "uns": found.mapping(adata.uns, "uns")}
    if adata.raw is not None:
        raw_var = found.table(adata.raw.var, "raw.var")
        raw_varm = found.mapping(adata.raw.varm, "raw.varm", raw_var.index)
        parts["raw"] = {"X": adata.raw.X, "var": raw_var, "varm": raw_varm}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are not unique, which reading has said
        result = AnnData(X=adata.X, obs=obs, var=var, **parts)
    return Writable(result, tuple(found.notes), found.renamed)


def plain_strings() -> AbstractContextManager[Any]:
    """While open, anndata writes text as it always did: 0.13 with pandas 3 has a type of its own for it."""
    return anndata.settings.override(allow_write_nullable_strings=False)


def require_own_names(found: Writable, keys: Mapping[str, tuple[str, str | None]]) -> None:
    """Refuse parameters that name a column or key which has to be written under another name.

    Parameters
    ----------
    found
        The data.
    keys
        Part of the data and name in it of each parameter.

    Raises
    ------
    InputError
        If one of them was renamed.
    """
    for parameter, (part, name) in keys.items():
        new = found.renamed.get(part, {}).get(name or "") if name is not None else None
        if new is not None:
            table = f"adata.{part} = adata.{part}.rename(columns={{{name!r}: {new!r}}})"
            key = f"adata.{part}[{new!r}] = adata.{part}.pop({name!r})"
            raise InputError(
                f"{parameter}={name!r} was given.",
                f"That is no name that files can hold in {part}.",
                f"Rename it first: {table if part == 'obs' else key}.",
            )


@dataclass
class _Conversion:
    """Conversions of one AnnData, and what is said of them."""

    notes: list[str] = field(default_factory=list)
    renamed: dict[str, dict[str, str]] = field(default_factory=dict)

    # ------------------------------------------------------------------ names

    def names(self, given: Iterable[Hashable], where: str) -> list[str]:
        """Names that can be written, all different."""
        given = list(given)
        asked = [_name(name) for name in given]
        taken = {new for name, new in zip(given, asked, strict=True) if name == new}
        names: list[str] = []
        for name, new in zip(given, asked, strict=True):
            unique, number = new, 0
            while unique in names or (unique in taken and name != unique):
                number += 1
                unique = f"{new}_{number}"
            names.append(unique)
            if str(name) != unique:
                self.notes.append(f'{where}["{_shown(name)}"] is written as {where}["{_shown(unique)}"].')
                self.renamed.setdefault(where, {})[str(name)] = unique
        return names

    # ------------------------------------------------------------------ tables

    def table(self, frame: pd.DataFrame, where: str, index: pd.Index | None = None) -> pd.DataFrame:
        """A table with plain columns; its rows have the names ``index``, by default its own as plain text."""
        index = self.index(frame.index, where) if index is None else index
        names = self.names(frame.columns, where)
        columns = {
            name: self.column(frame.iloc[:, number], f'{where}["{_shown(name)}"]')
            for number, name in enumerate(names)
        }
        if index.name in columns and not pd.Series(index, index=index).equals(
            pd.Series(columns[index.name], index=index)
        ):
            index = index.rename(None)  # anndata would take the column for the index
        for name, values in columns.items():
            if types.is_object_dtype(values):  # else pandas 3 takes them for strings of its own
                columns[name] = pd.Series(values, index=index, dtype=object)
        return pd.DataFrame(columns, index=index, columns=pd.Index(names, dtype=object))

    def index(self, index: pd.Index, where: str) -> pd.Index:
        """Names of rows as plain text."""
        texts = self.clean([str(value) for value in index], f"{where}_names")
        name = None if index.name is None else _name(index.name)
        return pd.Index(texts, dtype=object, name=None if name in ("", _RESERVED) else name)

    def column(self, column: pd.Series, where: str) -> Any:
        """Values of a column as numbers, plain text or categories."""
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return self.categories(column.cat, where)
        if _is_number(dtype):
            return column.to_numpy()
        if isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS:
            return self.value(column.to_numpy(), where)
        if isinstance(dtype, pd.StringDtype):
            if dtype.na_value is pd.NA:
                self.notes.append(f"{where} holds nullable strings: they are written as plain text.")
            return self.text(column, where)
        if types.is_object_dtype(dtype):
            return self.objects(column, where)
        if types.is_integer_dtype(dtype) or types.is_bool_dtype(dtype) or types.is_float_dtype(dtype):
            return self.numbers(column, where)
        self.notes.append(f"{where} holds values of type {dtype}: they are written as text.")
        return self.text(column, where)

    def numbers(self, column: pd.Series, where: str) -> Any:
        """Numbers of pandas' types: those with a mask stay as they are if anndata has them."""
        if _can_be_written(column.array):
            return column.array
        missing = {"dtype": np.float64, "na_value": np.nan} if column.isna().any() else {}
        plain = np.asarray(column.to_numpy(**missing))
        self.notes.append(f"{where} holds values of type {column.dtype}: they are written as {plain.dtype}.")
        return plain

    def objects(self, column: pd.Series, where: str) -> Any:
        """Objects: all text, all numbers, or a mix."""
        kind = types.infer_dtype(column, skipna=True)
        if kind == "string":
            return self.text(column, where)
        missing = column.isna().to_numpy()
        if kind == "boolean" and not missing.any():
            return column.to_numpy(dtype=bool)
        if kind in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
            plain = pd.to_numeric(column.map(_plain_number), errors="coerce").to_numpy()
            if np.array_equal(pd.isna(plain), missing):
                if kind != "empty":
                    self.notes.append(f"{where} holds numbers as objects: they are written as {plain.dtype}.")
                return plain
        self.notes.append(f"{where} holds values of several types ({kind}): they are written as text.")
        return self.text(column, where)

    def text(self, column: pd.Series, where: str) -> Any:
        """Plain strings where there is one for each row, categories where some are missing."""
        values = column.to_numpy(dtype=object)
        missing = np.array([_is_missing(value) for value in values], dtype=bool)
        texts = np.empty(len(values), dtype=object)
        texts[~missing] = self.clean([_text(value) for value in values[~missing]], where)
        if not missing.any():
            return pd.Series(texts, index=column.index, dtype=object).array
        names = pd.Index(sorted(set(texts[~missing])), dtype=object)
        return pd.Categorical.from_codes(np.where(missing, -1, names.get_indexer(texts)), names)

    def categories(self, column: Any, where: str) -> pd.Categorical:
        """Categories with names that are plain text, numbers or truth values."""
        names, codes = column.categories, column.codes.to_numpy()
        kind = types.infer_dtype(names, skipna=False)
        if isinstance(names.dtype, np.dtype) and names.dtype.kind in "biuf":
            return pd.Categorical.from_codes(codes, names, ordered=column.ordered)
        if kind not in _TEXT_OF_ONE_KIND:
            self.notes.append(f"{where} has categories of type {kind}: they are written as text.")
        texts = pd.Index(self.clean([_text(name) for name in names], where), dtype=object)
        unique = texts.unique()
        codes = np.where(codes < 0, -1, unique.get_indexer(texts)[codes] if len(texts) else -1)
        return pd.Categorical.from_codes(codes, unique, ordered=column.ordered)

    def clean(self, texts: list[str], where: str) -> list[str]:
        """Text that HDF5 can hold: without the character 0 and halves of characters."""
        cleaned = _cleaned("\n".join(texts))
        if cleaned is None:
            return texts
        self.notes.append(f"{where} holds characters that cannot be written: they are replaced by \ufffd.")
        return [_cleaned(text) or text for text in texts]

    # ------------------------------------------------------------------ anything else

    def mapping(self, given: Mapping[Any, Any], where: str, index: pd.Index | None = None) -> dict[str, Any]:
        """Values by names that can be written, without those that cannot."""
        names = self.names(given.keys(), where)
        values = {
            name: self.value(value, f'{where}["{_shown(name)}"]', index)
            for name, value in zip(names, given.values(), strict=True)
        }
        return {name: value for name, value in values.items() if value is not _LEFT_OUT}

    def value(self, value: Any, where: str, index: pd.Index | None = None) -> Any:
        """A value that can be written, or a mark that it is left out."""
        if isinstance(value, pd.DataFrame):
            return self.table(value, where, index)
        if isinstance(value, Mapping):
            return self.mapping(value, where)
        if isinstance(value, str):
            return self.clean([value], where)[0]
        if value is None:  # scanpy has it as the base of logarithms; one makes the whole file unreadable
            self.notes.append(f"{where} is None, which older anndata cannot read, and is left out.")
            return _LEFT_OUT
        if isinstance(value, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
            return self.column(pd.Series(value), where)
        if _is_plain(value) or _can_be_written(value):
            return value
        converted = _converted(value)
        if converted is not None and (_is_plain(converted) or _can_be_written(converted)):
            kind = "JSON" if isinstance(converted, str) else "an array"
            if _is_wide(value):
                self.notes.append(f"{where} of type {value.dtype} is written as {converted.dtype}.")
            elif not isinstance(value, tuple | list | np.ndarray) or kind == "JSON":
                self.notes.append(f"{where} of type {type(value).__name__} is written as {kind}.")
            return converted
        self.notes.append(f"{where} of type {type(value).__name__} cannot be written and is left out.")
        return _LEFT_OUT


_LEFT_OUT = object()


def _name(name: Hashable) -> str:
    """A name that HDF5 and zarr allow, and that is a file name."""
    text = str(name)
    text = (_cleaned(text) or text).replace("/", "_")
    text = text.lstrip("_") and (f"_{text.lstrip('_')}" if text.startswith("__") else text)
    if text == _RESERVED:
        return f"{_RESERVED}_column"
    if not text.strip("."):
        return f"unnamed{text.replace('.', '_')}"
    encoded = text.encode()
    if len(encoded) <= _NAME_BYTES:
        return text
    return f"{encoded[:_KEPT_BYTES].decode(errors='ignore')}_{hashlib.sha256(encoded).hexdigest()[:8]}"


def _shown(name: Any) -> str:
    """A name in a message."""
    text = str(name)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _cleaned(text: str) -> str | None:
    """The text without what HDF5 cannot hold; ``None`` if it holds nothing of the kind."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass").decode(errors="replace").replace("\0", "\ufffd")
    return text.replace("\0", "\ufffd") if "\0" in text else None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or (types.is_scalar(value) and bool(pd.isna(value)))


def _plain_number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _is_number(dtype: Any) -> bool:
    """Whether it is a type of numpy's numbers that every version and format has."""
    return isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS and not _is_wide(np.empty(0, dtype))


def _is_wide(value: Any) -> bool:
    """Whether it holds numbers of more than 64 bits."""
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, np.dtype) and dtype.kind in "fc" and dtype.itemsize > _LARGEST.get(dtype.kind, 8)


def _is_plain(value: Any) -> bool:
    """Whether all versions of anndata are known to write it; for large matrices, which are not tried."""
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype) and getattr(value, "shape", None) is not None:  # in memory or on disk
        return _is_number(dtype) and getattr(value, "format", "csr") in ("csr", "csc")
    return isinstance(value, bool | float)


def _can_be_written(value: Any) -> bool:
    """Try it, in memory and in every format."""
    if isinstance(value, pd.arrays.StringArray) or _is_wide(value):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with h5py.File("trial", "w", driver="core", backing_store=False) as file:
                anndata.io.write_elem(file, "value", value)
            for version in (2, 3):
                store = zarr.open_group(MemoryStore(), mode="w", zarr_format=version)
                anndata.io.write_elem(store, "value", value)
        except Exception:  # noqa: BLE001  # whatever it is, the value has to be converted
            return False
    return True


def _converted(value: Any) -> Any:
    """An array of the value's parts, or its JSON; ``None`` if it has neither."""
    if _is_wide(value):
        value = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
        return value if _is_plain(value) else _converted(value)
    if isinstance(value, h5py.Empty):
        return np.empty(0, dtype=value.dtype)
    if sparse.issparse(value):
        return sparse.csr_matrix(value)
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, np.ndarray | Sequence) and not isinstance(value, bytes):
        parts = value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)
        if all(isinstance(part, str) for part in parts):
            return np.array(parts, dtype=object).reshape(np.shape(value))
        if all(isinstance(part, bool | int | float | np.number | np.bool_) for part in parts):
            return np.array(parts).reshape(np.shape(value) if isinstance(value, np.ndarray) else len(parts))
    try:
        return json.dumps(value, default=_for_json, ensure_ascii=True)
    except (TypeError, ValueError):
        return None


def _for_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if type(value).__module__ in ("datetime", "pathlib", "uuid", "decimal", "pandas"):
        return str(value)
    raise TypeError


def say_replaced(adata: AnnData, **keys: tuple[str, ...]) -> None:
    """Warn of what a result replaces, before it does.

    Parameters
    ----------
    adata
        Data that the result is added to.
    **keys
        Keys that are written, by attribute: ``obs=("isovi_domain",)``.

    Warns
    -----
    IsoviWarning
        If some of them exist.
    """
    found = [f'{name}["{key}"]' for name, of in keys.items() for key in of if key in getattr(adata, name)]
    if found:
        said = f"The data already has {', '.join(found)}, which the result replaces."
        warnings.warn(said, IsoviWarning, stacklevel=3)
