"""Frozen records as plain data, and back: what JSON files hold of settings, and what they are read into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from os import PathLike, fspath
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
        Classes of records that may occur in it. A class may have ``BEFORE``: values of fields that were added
        later, and that records of earlier versions lack.

    Raises
    ------
    InputError
        If a record is of another kind, or has other fields or values of other types.
    """
    known = {kind.__name__: kind for kind in kinds}
    if isinstance(data, Mapping) and KIND in data:
        kind = known.get(str(data[KIND]))
        given = {str(name): from_data(item, known.values()) for name, item in data.items() if name != KIND}
        given = {**getattr(kind, "BEFORE", {}), **given}
        names, needed = _names(kind)
        if kind is None or not needed <= set(given) <= names:
            raise InputError(
                f"A record of kind {data[KIND]!r} with {', '.join(given) or 'no fields'} was read.",
                f"The kinds are {', '.join(known)}.",
                "Read it with the version of isoVI that wrote it, or write it again.",
            )
        require_types(kind, given)
        return kind(**given)
    if isinstance(data, Mapping):
        return {str(name): from_data(item, known.values()) for name, item in data.items()}
    return [from_data(item, known.values()) for item in data] if isinstance(data, list) else data


def _names(kind: Any) -> tuple[set[str], set[str]]:
    """Names of a record's fields, and of those without a default."""
    found = () if kind is None else fields(kind)
    needed = {one.name for one in found if one.default is MISSING and one.default_factory is MISSING}
    return {one.name for one in found}, needed


def require_types(kind: type, given: Mapping[str, Any]) -> None:
    """Refuse values that are not of the types of a record's fields.

    Parameters
    ----------
    kind
        Class of the record.
    given
        Values by the names of its fields.

    Raises
    ------
    InputError
        For the first value of another type.
    """
    hints = get_type_hints(kind)
    for name, value in given.items():
        if not is_of(value, hints[name]):
            wanted = getattr(hints[name], "__name__", str(hints[name]))
            raise InputError(
                f"{name}={value!r:.80} was read for a {kind.__name__}.",
                f"Its type is {wanted}.",
                "Write the record again.",
            )


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; a whole number is a ``float`` too, ``True`` is no number.

    Examples
    --------
    >>> is_of(1, float), is_of(True, int), is_of({"a": 1}, Mapping[str, str]), is_of(None, str | None)
    (True, False, False, True)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(is_of(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if isinstance(value, bool):
        return hint is bool
    if arguments and isinstance(value, Mapping) and issubclass(origin, Mapping):
        return all(is_of(key, arguments[0]) and is_of(item, arguments[1]) for key, item in value.items())
    return isinstance(value, int | float if hint is float else origin or hint)
