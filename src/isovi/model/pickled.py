"""What can be read of scvi-tools' ``model.pt`` without executing anything that is in it.

A pickle names functions to call. Of those that a usual ``model.pt`` names none is called: ``torch.load`` with
``weights_only=True`` gets stand-ins that only record their arguments, from which arrays and tables are made
afterwards. (The functions of numpy themselves would not do: the state of a dtype decides what is a pointer.)
"""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import torch

from isovi.errors import InputError
from isovi.model.encoding import RECORDS

_NUMERIC = "biuf"


class _Recorded:
    """Stand-in for what a pickle would make: its arguments and its state, and nothing else."""

    def __new__(cls, *args: Any, **_: Any) -> _Recorded:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    args: tuple[Any, ...]
    state: Any

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _stand_in(path: str, base: type = _Recorded) -> type:
    """A class that a pickle finds under the name of another."""
    module, _, name = path.rpartition(".")
    return type(name, (base,), {"__module__": module, "__qualname__": name})


class _Slice(_Recorded):
    pass


class _Array(_Recorded):
    """Made by ``_reconstruct``; its state is ``(version, shape, dtype, fortran, data)``."""

    def value(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        kind = _dtype(dtype)
        if kind == np.dtype(object):
            flat = np.empty(len(data), dtype=object)
            flat[:] = [thawed(item) for item in data]
        else:
            flat = np.frombuffer(_bytes(data), dtype=kind).copy() if data else np.empty(0, dtype=kind)
        return flat.reshape(shape, order="F" if fortran else "C")


class _Scalar(_Recorded):
    def value(self) -> Any:
        dtype, data = self.args
        return np.frombuffer(_bytes(data), dtype=_dtype(dtype))[0]


class _Index(_Recorded):
    """Made by ``_new_Index(cls, {"data": ..., "name": ...})``."""

    def value(self) -> pd.Index:
        kind, parts = self.args
        name = thawed(parts.get("name"))
        if kind.__name__ == "RangeIndex":
            return pd.RangeIndex(*(int(parts[key]) for key in ("start", "stop", "step")), name=name)
        return pd.Index(thawed(parts["data"]), name=name)


class _ArrowArray(_Recorded):
    """Text as pyarrow keeps it: which is there, where each begins, and all of it in one piece."""

    def value(self) -> np.ndarray:
        kind, length, _, start, buffers, *_ = self.args[0]
        width = {"string": "<i4", "large_string": "<i8"}[kind.args[0]]
        there, places, text = (None if one is None else _bytes(one.args[0]) for one in buffers)
        ends = np.frombuffer(places or b"", dtype=width)[start : start + length + 1]
        found = np.empty(length, dtype=object)
        found[:] = [(text or b"")[a:b].decode() for a, b in itertools.pairwise(ends)]
        if there is not None:
            bits = np.unpackbits(np.frombuffer(there, dtype=np.uint8), bitorder="little")
            found[bits[start : start + length] == 0] = np.nan
        return found


class _Strings(_Recorded):
    """An array of pandas around one of pyarrow."""

    def value(self) -> np.ndarray:
        return thawed(self.state["_pa_array"])


class _Block(_Recorded):
    """Made by ``_unpickle_block(values, placement, ndim)``."""


class _Manager(_Recorded):
    """Made of blocks and axes."""


class _Table(_Recorded):
    def value(self) -> Any:
        blocks, axes = self.state["_mgr"].args
        blocks = blocks if isinstance(blocks, tuple | list) else [blocks]
        columns, rows = (thawed(axis) for axis in axes)
        table: dict[int, Any] = {}
        for block in blocks:
            values, placement, _ = block.args
            values = np.atleast_2d(thawed(values))
            table |= dict(zip(_places(placement, len(columns)), values, strict=True))
        made = pd.DataFrame({i: table[i] for i in range(len(columns))}, index=rows)
        made.columns = columns
        return made


class _Record(_Recorded):
    """A frozen record of isoVI, made without a call and filled from its state."""

    def value(self) -> Any:
        kind = {one.__name__: one for one in RECORDS}[type(self).__name__]
        state = {name: thawed(item) for name, item in (self.state or {}).items()}
        return kind(**{**getattr(kind, "BEFORE", {}), **state})


class _Named(_Recorded):
    """A class that is only named, such as the type of an index or of an array."""


def _names() -> dict[str, type]:
    """The stand-in for each name that a pickle of a model may hold."""
    numpy = [f"numpy.{core}.multiarray" for core in ("core", "_core")]
    index = "pandas.core.indexes"
    found: dict[str, type] = {
        **{f"{module}._reconstruct": _Array for module in numpy},
        **{f"{module}.scalar": _Scalar for module in numpy},
        **dict.fromkeys(("numpy.ndarray", "numpy.dtype", f"{index}.base.Index"), _Named),
        f"{index}.range.RangeIndex": _Named,
        f"{index}.base._new_Index": _Index,
        "pandas._libs.internals._unpickle_block": _Block,
        "pandas.core.internals.managers.BlockManager": _Manager,
        **dict.fromkeys(("pandas.core.frame.DataFrame", "pandas.DataFrame"), _Table),
        **{f"pandas.{name}": _Named for name in ("Index", "RangeIndex", "StringDtype")},
        "pandas.arrays.ArrowStringArray": _Strings,
        "pyarrow.lib._restore_array": _ArrowArray,
        **{f"pyarrow.lib.{name}": _Recorded for name in ("type_for_alias", "py_buffer")},
        "builtins.slice": _Slice,
        **{f"builtins.{name}": _Named for name in ("dict", "list")},
        **{f"{one.__module__}.{one.__qualname__}": _Record for one in RECORDS},
    }
    return {name: _stand_in(name, base) for name, base in found.items()}


def _allowed() -> dict[str, Any]:
    """What a pickle may find, by name: stand-ins, and two makers of empty containers."""
    containers = {"collections.defaultdict": dict, "builtins.bytes": bytes}
    return {**_names(), **{name: _empty(name, kind) for name, kind in containers.items()}}


def _empty(path: str, kind: type) -> Callable[..., Any]:
    """A function that a pickle finds under the name of another, and that makes an empty container."""

    def made(*_: Any) -> Any:
        return kind()

    made.__module__, _, made.__qualname__ = path.rpartition(".")
    return made


def read_pickled(file: Path, device: Any = None) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Attributes, names of features and weights of a ``model.pt``; nothing in it is executed.

    Raises
    ------
    InputError
        If it names anything but what a usual model consists of, or is damaged.
    """
    try:
        with torch.serialization.safe_globals(list(_allowed().values())):
            found = torch.load(file, map_location=device or "cpu", weights_only=True)
        names = ("attr_dict", "var_names", "model_state_dict")
        attributes, var_names, state = (thawed(found[name]) for name in names)
    except Exception as error:
        raise _not_read(file, error) from error
    return attributes, var_names, state


class _Plain(pickle.Unpickler):
    """Finds what is allowed alone, which only records its arguments."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.known = {**_allowed(), "_codecs.encode": _encoded, "builtins.bytearray": _encoded}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name."""
        if (found := self.known.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return found


def read_legacy(folder: Path, prefix: str) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Attributes, names of features and weights of a model of scvi-tools before 0.15; nothing is executed.

    Raises
    ------
    InputError
        If a pickle in it names anything but what a usual model consists of, is damaged or missing.
    """
    file = folder / f"{prefix}attr.pkl"
    try:
        with file.open("rb") as stream:
            attributes = thawed(_Plain(stream).load())
        file = folder / f"{prefix}model_params.pt"
        state = torch.load(file, map_location="cpu", weights_only=True)
        file = folder / f"{prefix}var_names.csv"
        var_names = np.atleast_1d(np.genfromtxt(file, delimiter=",", dtype=str))
        if "registry_" not in attributes:
            raise ValueError("it has no registry, as before 0.14")
    except Exception as error:
        raise _not_read(file, error) from error
    return attributes, var_names, dict(state)


def _encoded(data: str | bytes, _: str = "latin1") -> bytes:
    """Bytes as pickles write them; no number, of which ``bytearray`` would make as many bytes."""
    if not isinstance(data, str | bytes):
        raise ValueError(f"bytes of a {type(data).__name__}")
    return _bytes(data)


def _not_read(file: Path, error: Exception) -> InputError:
    """The error for a file that is not read, or not without executing what it names."""
    if isinstance(error, pickle.UnpicklingError):
        return InputError(
            f'"{file}" is a pickle that may execute code as it is read{_what_for(error)}.',
            "Only plain data is read of a pickle.",
            "Pass trust=True if you trust whoever made it; saved again, the model is data.",
        )
    return InputError(
        f'"{file}" could not be read ({type(error).__name__}).',
        "It must be a model that scvi-tools or isoVI saved, and complete.",
        "Copy or save it again; pass trust=True if it is whole and you trust whoever made it.",
    )


def _what_for(error: BaseException) -> str:
    """The name that a pickle was refused for, if torch says it."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f": it names {found[1]}" if found else ""


def thawed(value: Any) -> Any:
    """Arrays, tables and records in place of what was recorded of them."""
    if isinstance(value, _Recorded):
        return value.value()  # type: ignore[attr-defined]  # AttributeError for a mere name
    if isinstance(value, dict):
        return {thawed(key): thawed(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(thawed(item) for item in value)
    return value


def _dtype(recorded: Any) -> np.dtype:
    """A plain numpy type, from the text that names it and its byte order."""
    name, *_ = recorded.args
    order = str(recorded.state[1]) if recorded.state is not None else "|"
    dtype = np.dtype(str(name))
    if dtype.kind not in _NUMERIC + "UO":
        raise ValueError(f"an array of {dtype}")
    return dtype.newbyteorder(">") if order == ">" else dtype


def _bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _places(placement: Any, n: int) -> Any:
    """Columns of a block: a slice or an array of numbers."""
    if isinstance(placement, _Slice):
        return range(*slice(*placement.args).indices(n))
    return np.asarray(thawed(placement)).ravel().tolist()
