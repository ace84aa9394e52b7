"""What is checked of an HDF5 file or zarr store before it is read: that it is whole in itself, and no bomb.

Files of these formats may refer to others, claim arrays that no memory holds, and name a pickle as the way in
which an array is stored.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SMALL = 2**30  # bytes; arrays below are not looked at
COMPRESSED = 20_000  # times that an array may be larger than what is stored of it: deflate reaches 1,032


def require_safe_hdf5(path: Path, lazy: tuple[str, ...] = ()) -> None:
    """Refuse an HDF5 file that refers to other files, or claims arrays that cannot be.

    Parameters
    ----------
    path
        The file.
    lazy
        Groups whose arrays may be larger than memory, since they are read in parts.

    Raises
    ------
    ValueError
        That says what was found.
    """
    with h5py.File(path, "r") as file:
        links: list[tuple[bytes, int]] = []
        file.id.links.visit(lambda name, info: links.append((name, info.type)), info=True)
        for name, kind in links:
            if kind == h5py.h5l.TYPE_EXTERNAL:
                raise ValueError(f'"{name.decode(errors="replace")}" is a link to another file')
        for found in (file[name] for name, kind in links if kind == h5py.h5l.TYPE_HARD):
            if isinstance(found, h5py.Dataset):
                _require_own_storage(found)
                in_parts = found.name.split("/")[1] in lazy
                claimed = _bytes(found.shape, found.dtype)
                _require_possible(found.name, claimed, found.id.get_storage_size(), in_parts)


def _require_own_storage(found: h5py.Dataset) -> None:
    if found.external or (found.is_virtual and any(one.file_name != "." for one in found.virtual_sources())):
        raise ValueError(f'the numbers of "{found.name}" are in another file')


def require_safe_zarr(path: Path, lazy: tuple[str, ...] = ()) -> None:
    """Refuse a zarr store with pickles or links to elsewhere, or with arrays that cannot be.

    Parameters
    ----------
    path
        The store.
    lazy
        Groups whose arrays may be larger than memory, since they are read in parts.

    Raises
    ------
    ValueError
        That says what was found.
    """
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            child = Path(folder) / name
            if child.is_symlink() and not child.resolve().is_relative_to(path.resolve()):
                raise ValueError(f'"{child.relative_to(path)}" is a link to another place')
        for name in {".zarray", ".zmetadata", "zarr.json"} & set(files):
            described = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
            for inner, array in _arrays(described):
                place = Path(folder) / inner
                _require_safe_array(array, place, place.relative_to(path), lazy)


def _arrays(described: Any) -> Iterator[tuple[str, Any]]:
    """Descriptions in a file of metadata by path: its own, and what it repeats of the whole store."""
    yield "", described
    consolidated = described.get("consolidated_metadata") or described
    for name, inner in (consolidated.get("metadata") or {}).items():
        if not name.endswith((".zattrs", ".zgroup")):  # with .zarray in format 2, the array alone in 3
            yield name.removesuffix(".zarray"), inner


def _require_safe_array(described: dict[str, Any], folder: Path, name: Path, lazy: tuple[str, ...]) -> None:
    if "shape" not in described:  # a group
        return
    if any("pickle" in codec.lower() for codec in _codecs(described)):
        raise ValueError(f'"{name}" is stored as pickles, which may execute code as they are read')
    dtype = described.get("dtype", described.get("data_type"))
    grid = described.get("chunk_grid", {}).get("configuration", {})
    chunks = described.get("chunks", grid.get("chunk_shape"))
    in_parts = name.parts[:1] in [(part,) for part in lazy]
    for shape, is_lazy in ((described["shape"], in_parts), (chunks, False)):
        if (claimed := _bytes(shape, dtype)) > SMALL:
            stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            _require_possible(str(name), claimed, stored, is_lazy)


def _codecs(described: Any) -> Iterator[str]:
    """Names of all codecs in the description of an array, wherever they are."""
    if isinstance(described, dict):
        yield from (str(described[key]) for key in ("id", "name") if key in described)
        for key, part in described.items():
            if key != "attributes":
                yield from _codecs(part)
    elif isinstance(described, list):
        for part in described:
            yield from _codecs(part)


def _bytes(shape: Any, dtype: Any) -> int:
    try:
        size = np.dtype(dtype).itemsize
    except TypeError:  # a type of zarr's own, such as "string"
        size = 8
    return math.prod(int(length) for length in shape or ()) * max(size, 1)


def _require_possible(name: str, claimed: int, stored: int, lazy: bool) -> None:
    """Refuse an array that is far larger than what is stored of it, or than memory."""
    if claimed <= SMALL:
        return
    memory = math.inf if lazy else _memory()
    if claimed > COMPRESSED * stored or claimed > memory:
        gigabytes = f"{claimed / 2**30:,.0f} GiB"
        raise ValueError(f'"{name}" claims {gigabytes}, of which {stored:,} bytes are stored')


def _memory() -> float:
    """Bytes of the machine's memory, where the system says it."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf
