"""Checksums of a packed store: zarr reads zeros where a file is missing, and changed ones as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from isovi.data.readers.source import sha256
from isovi.errors import InputError

PACK_KEY = "isovi_pack"  # in uns: the mark of a packed store
MARK = "checksums"  # in it: that the store has them
ATTRIBUTE = "isovi_checksums"  # of that group
_RECORD = f"uns/{PACK_KEY}/zarr.json"


def write_checksums(store: Path, sharded: Iterable[str]) -> None:
    """Record the SHA-256 of every file of a store, and the size of its shards, among its attributes.

    Parameters
    ----------
    store
        A store that is complete.
    sharded
        Paths of arrays whose chunks have checksums of their own, which are verified where they are read:
        their files may be larger than memory.
    """
    tapes = tuple(f"{name}/c/" for name in sharded)
    files: dict[str, str | int] = {}
    for file in sorted(path for path in store.rglob("*") if path.is_file() and path != store / _RECORD):
        name = file.relative_to(store).as_posix()
        files[name] = file.stat().st_size if name.startswith(tapes) else sha256(file)
    record = json.loads((store / _RECORD).read_text(encoding="utf-8"))
    record["attributes"][ATTRIBUTE] = {"files": files}
    record["attributes"][ATTRIBUTE]["record"] = _digest(record)
    (store / _RECORD).write_text(json.dumps(record), encoding="utf-8")


class WholeStore(LocalStore):
    """A packed store whose counts are read later: a shard that has gone is an error, and not zeros."""

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """The bytes of a key; ``None`` of one that may be missing."""
        found = await super().get(key, *args, **kwargs)
        if found is None and ("/data/c/" in key or "/indices/c/" in key):
            raise FileNotFoundError(f"{key} is missing")
        return found


def has_checksums(store: Path) -> bool:
    """Whether it is a packed store with checksums, which has a file for every shard."""
    return (store / "uns" / PACK_KEY / MARK).exists()


def require_checksums(store: Path) -> None:
    """Refuse a packed store of which a file is missing or has changed.

    Of the shards presence and size are looked at, so that opening takes no longer than reading the rest.
    Stores that were packed before there were checksums are let pass.

    Raises
    ------
    InputError
        For the first such file; the message names its array.
    """
    if not has_checksums(store):
        return
    for name, expected in _files(store).items():
        file = store / name
        if not file.is_file():
            raise damaged(store, _array_of(name), "some of it is missing")
        found = file.stat().st_size if isinstance(expected, int) else sha256(file)
        if found != expected:
            raise damaged(store, _array_of(name), "it is not as it was written")


def damaged(store: str | Path, array: str, cause: str) -> InputError:
    """The error for an array of a packed store."""
    return InputError(
        f'"{array}" of "{store}" is damaged: {cause}.',
        "A packed store stays as isovi pack wrote it.",
        "Pack the input again, with force=True to replace this store.",
    )


def _files(store: Path) -> dict[str, str | int]:
    """SHA-256 or size of each file by its name."""
    try:
        record = json.loads((store / _RECORD).read_text(encoding="utf-8"))
        whole = record["attributes"][ATTRIBUTE].pop("record") == _digest(record)
        files = record["attributes"][ATTRIBUTE]["files"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(store, _array_of(_RECORD), f"it cannot be read ({type(error).__name__})") from error
    if not whole:
        raise damaged(store, _array_of(_RECORD), "it is not as it was written")
    return files


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _array_of(name: str) -> str:
    """Path of the array or group that a file is part of."""
    return name.partition("/c/")[0].removesuffix("/c").removesuffix("/zarr.json")
