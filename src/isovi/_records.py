"""Frozen records as plain data, and back: what JSON files hold of settings, and what they are read into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import Any

from isovi.errors import InputError

KIND = "kind"


def as_data(value: Any) -> Any:
    """Plain data of a value: a record becomes its fields by name, with the name of its class as ``kind``.

    Examples
    --------
    >>> from isovi import AllPairs, Neighbors
    >>> as_data(AllPairs() | Neighbors(4))
    {'kind': 'Union', 'first': {'kind': 'AllPairs'}, 'second': {'kind': 'Neighbors', 'k': 4}}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {KIND: type(value).__name__} | {f.name: as_data(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping):
        return {str(key): as_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "item"):  # a number of numpy
        return value.item()
    raise TypeError(f"{type(value).__name__} has no plain form")


def from_data(data: Any, kinds: Iterable[type]) -> Any:
    """The value that :func:`as_data` was given.

    Parameters
    ----------
    data
        Plain data.
    kinds
        Classes of records that may occur in it.

    Raises
    ------
    InputError
        If a record is of another kind, or has other fields.
    """
    known = {kind.__name__: kind for kind in kinds}
    if isinstance(data, Mapping) and KIND in data:
        kind = known.get(str(data[KIND]))
        given = {str(name): from_data(item, known.values()) for name, item in data.items() if name != KIND}
        names = {field.name for field in fields(kind)} if kind is not None else set()
        if kind is None or not set(given) <= names:
            raise InputError(
                f"A record of kind {data[KIND]!r} with {', '.join(given) or 'no fields'} was read.",
                f"The kinds are {', '.join(known)}.",
                "Read it with the version of isoVI that wrote it, or write it again.",
            )
        return kind(**given)
    if isinstance(data, Mapping):
        return {str(name): from_data(item, known.values()) for name, item in data.items()}
    return [from_data(item, known.values()) for item in data] if isinstance(data, list) else data
