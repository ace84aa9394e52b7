"""Values of a saved model as JSON and arrays, and back: a fixed set of types, and no import by name.

What JSON has no form for is an object with the key ``"$"``, which says how to read the rest. Numbers of
arrays are not in the JSON but in a table of tensors beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from isovi._records import as_data, from_data
from isovi.errors import InputError
from isovi.graph import KIND_CLASSES
from isovi.model.objective import Constraint, Penalty
from isovi.model.training import TrainingOutcome

TAG = "$"
Tensors = dict[str, torch.Tensor]

RECORDS = (Constraint, Penalty, TrainingOutcome, *KIND_CLASSES)
CLASSES = {name: getattr(torch.nn, name) for name in torch.nn.modules.activation.__all__}
_EXTENSION = ("string", "str", "boolean", "Int", "UInt", "Float")  # beginnings of names of pandas' types
_NUMERIC = "biuf"  # kinds of numpy's types


# ---------------------------------------------------------------------------- to JSON


def encode(value: Any, tensors: Tensors, where: str = "") -> Any:
    """Plain data of a value; its arrays of numbers are added to ``tensors``.

    Parameters
    ----------
    value
        Numbers, text, lists, mappings, arrays, tables, the records of isoVI, and torch's activations.
    tensors
        Gets the arrays.
    where
        Name of the value, for messages.

    Raises
    ------
    TypeError
        If something in it is of another type; the message says where.
    """
    if value is None or type(value) in (str, bool, int):
        return value
    if isinstance(value, np.generic | str | int):
        return encode(_plain_scalar(value, where), tensors, where)
    for kinds, encoded in _ENCODERS:
        if isinstance(value, kinds):
            return encoded(value, tensors, where)
    raise TypeError(f"{where} is a {type(value).__name__}")


def _plain_scalar(value: Any, where: str) -> Any:
    """A number or text of Python for one of numpy, or of an enumeration."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, np.generic) and value.dtype.kind not in _NUMERIC:
        raise TypeError(f"{where} is a {type(value).__name__}")
    kind = {"b": bool, "f": float}.get(value.dtype.kind, int) if isinstance(value, np.generic) else int
    return kind(value)


def _float(value: float, *_: Any) -> Any:
    return value if math.isfinite(value) else {TAG: "float", "value": str(value)}


def _sequence(value: Any, tensors: Tensors, where: str) -> Any:
    items = [encode(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, list):
        return items
    return {TAG: "tuple" if isinstance(value, tuple) else "set", "items": items}


def _mapping(value: Mapping[Any, Any], tensors: Tensors, where: str) -> Any:
    items = {key: encode(item, tensors, f"{where}[{key!r}]") for key, item in value.items()}
    if TAG not in items and all(type(key) is str for key in items):
        return items
    return {TAG: "dict", "items": [[encode(key, tensors, where), item] for key, item in items.items()]}


def _tensor(value: torch.Tensor, tensors: Tensors, _: str) -> Any:
    return {TAG: "tensor", "name": _kept(value.detach().cpu(), tensors)}


def _array(value: np.ndarray, tensors: Tensors, where: str) -> Any:
    if value.dtype.kind in _NUMERIC and value.dtype.itemsize <= 8:
        native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        return {TAG: "array", "name": _kept(torch.from_numpy(native), tensors)}
    if value.dtype.kind not in "OU":
        raise TypeError(f"{where} is an array of {value.dtype}")
    values = [encode(item, tensors, f"{where}[{i}]") for i, item in enumerate(value.ravel())]
    return {TAG: "list", "dtype": value.dtype.kind, "shape": list(value.shape), "values": values}


def _kept(tensor: torch.Tensor, tensors: Tensors) -> str:
    name = f"array/{len(tensors)}"
    tensors[name] = tensor.contiguous()
    return name


def _index(value: pd.Index, tensors: Tensors, where: str) -> Any:
    if isinstance(value, pd.MultiIndex):
        raise TypeError(f"{where} has several levels")
    named = {TAG: "index", "label": encode(value.name, tensors, where)}
    if isinstance(value, pd.RangeIndex):
        return {**named, "range": [value.start, value.stop, value.step]}
    return {**named, "values": _column(value.array, tensors, where)}


def _column(value: Any, tensors: Tensors, where: str) -> Any:
    """Values of a table's column or of an index."""
    if isinstance(value, pd.Categorical):
        parts = {"codes": np.asarray(value.codes), "categories": value.categories, "ordered": value.ordered}
        return {TAG: "categories", **{n: encode(part, tensors, where) for n, part in parts.items()}}
    if type(value) is pd.arrays.NumpyExtensionArray:  # not StringArray, derived from it
        return encode(value.to_numpy(), tensors, where)
    name = str(value.dtype)
    if not name.startswith(_EXTENSION):
        raise TypeError(f"{where} is a column of {name}")
    values = [None if pd.isna(item) else item for item in value]
    return {TAG: "column", "dtype": name, "values": encode(values, tensors, where)}


def _table(value: pd.DataFrame, tensors: Tensors, where: str) -> Any:
    columns = [_column(value.iloc[:, i].array, tensors, f"{where}[:, {i}]") for i in range(value.shape[1])]
    index, names = (encode(part, tensors, where) for part in (value.index, value.columns))
    return {TAG: "table", "index": index, "columns": names, "values": columns}


def _series(value: pd.Series, tensors: Tensors, where: str) -> Any:
    return {TAG: "series", "table": _table(value.to_frame(), tensors, where), "named": value.name is not None}


def _record(value: Any, tensors: Tensors, where: str) -> Any:
    try:
        data = as_data(value)
        from_data(data, RECORDS)
    except InputError as error:  # a record of the user's own, perhaps within one of ours
        raise TypeError(f"{where} is {value!r}") from error
    return {TAG: "record", "value": encode(data, tensors, where)}


def _class(value: type, _: Tensors, where: str) -> Any:
    if CLASSES.get(value.__name__) is not value:
        raise TypeError(f"{where} is the class {value.__name__}")
    return {TAG: "class", "name": value.__name__}


_ENCODERS: tuple[tuple[Any, Callable[[Any, Tensors, str], Any]], ...] = (
    (float, _float),
    (list | tuple | set | frozenset, _sequence),
    (Mapping, _mapping),
    (torch.Tensor, _tensor),
    (np.ndarray, _array),
    (pd.Index, _index),
    (pd.DataFrame, _table),
    (pd.Series, _series),
    (pd.api.extensions.ExtensionArray, _column),
    (RECORDS, _record),
    (type, _class),
)


# ---------------------------------------------------------------------------- from JSON


def decode(data: Any, tensors: Tensors) -> Any:
    """The value that :func:`encode` was given.

    Parameters
    ----------
    data
        Plain data, from anywhere.
    tensors
        The arrays.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is not what :func:`encode` makes.
    """
    if isinstance(data, list):
        return [decode(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    if TAG not in data:
        return {key: decode(item, tensors) for key, item in data.items()}
    return _DECODERS[data[TAG]](data, tensors)


def _from_dict(data: dict[str, Any], tensors: Tensors) -> Any:
    return {decode(key, tensors): decode(item, tensors) for key, item in data["items"]}


def _from_array(data: dict[str, Any], tensors: Tensors) -> Any:
    return tensors[data["name"]].numpy()


def _from_list(data: dict[str, Any], tensors: Tensors) -> Any:
    values = decode(data["values"], tensors)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return (array.astype(str) if data["dtype"] == "U" else array).reshape(data["shape"])


def _from_index(data: dict[str, Any], tensors: Tensors) -> Any:
    label = decode(data["label"], tensors)
    if "range" in data:
        return pd.RangeIndex(*data["range"], name=label)
    values = decode(data["values"], tensors)
    return pd.Index(values, dtype=values.dtype, name=label)


def _from_categories(data: dict[str, Any], tensors: Tensors) -> Any:
    codes, categories = (decode(data[name], tensors) for name in ("codes", "categories"))
    return pd.Categorical.from_codes(codes, categories, ordered=bool(data["ordered"]))


def _from_column(data: dict[str, Any], tensors: Tensors) -> Any:
    if not str(data["dtype"]).startswith(_EXTENSION):
        raise ValueError(f"there is no column of {data['dtype']}")
    return pd.array(decode(data["values"], tensors), dtype=data["dtype"])


def _from_table(data: dict[str, Any], tensors: Tensors) -> Any:
    index = decode(data["index"], tensors)
    columns = [decode(values, tensors) for values in data["values"]]
    series = {i: pd.Series(values, index=index, dtype=values.dtype) for i, values in enumerate(columns)}
    table = pd.DataFrame(series, index=index)
    table.columns = decode(data["columns"], tensors)
    return table


def _from_series(data: dict[str, Any], tensors: Tensors) -> Any:
    series = _from_table(data["table"], tensors).iloc[:, 0]
    return series if data["named"] else series.rename(None)


_DECODERS: dict[str, Callable[[dict[str, Any], Tensors], Any]] = {
    "float": lambda data, _: float(data["value"]),
    "tuple": lambda data, tensors: tuple(decode(data["items"], tensors)),
    "set": lambda data, tensors: set(decode(data["items"], tensors)),
    "dict": _from_dict,
    "tensor": lambda data, tensors: tensors[data["name"]],
    "array": _from_array,
    "list": _from_list,
    "index": _from_index,
    "categories": _from_categories,
    "column": _from_column,
    "table": _from_table,
    "series": _from_series,
    "record": lambda data, tensors: from_data(decode(data["value"], tensors), RECORDS),
    "class": lambda data, _: CLASSES[data["name"]],
}
