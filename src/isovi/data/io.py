"""Read any input (through :mod:`isovi.data.readers`), and write results whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import anndata
from anndata import AnnData

from isovi.data.readers.annotated import AnnDataFile
from isovi.data.readers.find import find, is_store
from isovi.data.readers.source import Source, sha256
from isovi.data.readers.spatialdata import SpatialDataStore
from isovi.data.usable import usable
from isovi.errors import IsoviError, OutputError

__all__ = ["Source", "find", "sha256"]  # re-exported

_OWNED = re.compile(r"(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-(?P<started>\d+)-\w{8}\.tmp")
_ANNDATA_NOTE = "Error raised while writing key"
RUN_FILE = "run.json"  # marks a directory as the result of a run


# ---------------------------------------------------------------------------- reading


def read(source: Source | str | os.PathLike[str], *, keep_controls: bool = False) -> AnnData:
    """Read counts, annotation and positions; the input is not changed.

    Parameters
    ----------
    source
        Path of an ``.h5ad`` file, an AnnData or SpatialData ``.zarr`` store, a Visium, Visium HD or Xenium
        folder, a 10x ``.h5`` matrix or a counts table; or a :class:`Source`.
    keep_controls
        Keep control probes and other features that are no genes. Of AnnData and SpatialData all is read
        anyway.

    Returns
    -------
    The data, in memory. For all kinds but AnnData, positions are in ``obsm["spatial"]`` and
    ``uns["isovi_input"]`` says what was read and in which unit.

    Raises
    ------
    InputError
        If the input is missing, of an unknown kind, truncated or damaged; the cause is chained.

    Warns
    -----
    IsoviWarning
        If cells are left out or genes renamed.
    """
    reader = find(source)
    adata = reader.read()
    if keep_controls or isinstance(reader, AnnDataFile | SpatialDataStore):
        return adata
    found = usable(adata)
    found.say()
    return adata if found.is_all else adata[found.spots, found.genes].copy()


@contextmanager
def stored(source: Source | str | os.PathLike[str]) -> Iterator[AnnData]:
    """Open AnnData with its counts and layers left on disk; closed at the end of the block.

    Parameters
    ----------
    source
        As for :func:`read`; it is opened read-only.

    Yields
    ------
    The data: ``X``, ``layers`` and ``raw`` on disk, the rest in memory. Other kinds of input are read
    into memory.

    Raises
    ------
    InputError
        As for :func:`read`.
    """
    with find(source).stored() as adata:
        yield adata


def digest(source: Source | str | os.PathLike[str]) -> str:
    """SHA-256 of the files that are read of an input.

    To read the input as well, hash it through the reader that ``find`` returns: it hashes once.

    Parameters
    ----------
    source
        As for :func:`read`.

    Returns
    -------
    The digest in hexadecimal; see ``Reader.digest``.
    """
    return find(source).digest


# ---------------------------------------------------------------------------- writing


@contextmanager
def output_directory(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Write a directory that appears whole or not at all.

    The block writes into a temporary directory beside ``path``, which takes its name when the block ends.
    Until then its name says which process is writing; see :func:`remove_leftovers`. If the block raises (also
    by Ctrl-C) the temporary directory is removed and what was at ``path`` stays. Missing parents are created.

    Parameters
    ----------
    path
        Where the result belongs.
    force
        Replace an existing directory, if it is empty or a run's result (has a ``run.json``).

    Yields
    ------
    The temporary directory, on the same file system.

    Raises
    ------
    OutputError
        Before the block, if ``path`` exists and may not be replaced, or its parent cannot be written;
        after it, if the result cannot be moved into place. The message then says where it is.
    """
    final = Path(path).expanduser().resolve()
    require_replaceable(final, force)
    temporary = _sibling(final)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _cannot_write(final, error) from error
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        require_replaceable(final, force)  # again: somebody may have put something there meanwhile
    except OutputError as error:
        raise _stranded(temporary, final, error) from error
    _move(temporary, final)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes were writing to ``path``: their temporary directories and files beside it.

    Only those are removed whose process is known to have ended. Those of a living process, of another
    machine or container, or of a process that cannot be looked up (on Windows) are kept.
    """
    final = Path(path).expanduser().resolve()
    for temporary in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        owner = _OWNED.fullmatch(temporary.name.removeprefix(f".{final.name}."))
        if owner and _has_ended(owner["machine"], int(owner["process"]), int(owner["started"])):
            _remove(temporary)


def scratch_directory(path: str | os.PathLike[str]) -> tempfile.TemporaryDirectory[str]:
    """A directory beside ``path`` for files that are needed as long as the object that is returned.

    If the process is killed :func:`remove_leftovers` removes it.
    """
    final = Path(path).expanduser().resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=final.parent, prefix=_owned(final), suffix=".tmp")


def write_atomic(adata: AnnData, path: str | os.PathLike[str], *, force: bool = True) -> None:
    """Write ``.h5ad`` (compressed) or ``.zarr`` so that the file is whole or absent.

    Parameters
    ----------
    adata
        What to write; not changed (anndata alone would turn strings into categories in place). A backed
        object is read into memory.
    path
        Where to write it; an existing file or zarr store is replaced at the end.
    force
        Whether an existing file or store may be replaced.

    Raises
    ------
    OutputError
        If the suffix is another, the path is taken, or writing fails; nothing is left behind.
    """
    final = Path(path).expanduser().resolve()
    if final.suffix not in (".h5ad", ".zarr"):
        rule = "Data is written as .h5ad or .zarr."
        raise OutputError(
            f'"{final}" has the suffix "{final.suffix}".', rule, "Choose one of these suffixes."
        )
    if os.path.exists(final) and not force:
        rule = "Existing files are kept by default."
        raise OutputError(f'"{final}" exists.', rule, "Pass force=True, or choose another name.")
    with replacing(final, store=final.suffix == ".zarr") as temporary:
        _write(_private(adata), temporary, final.suffix)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write JSON (UTF-8, indented) so that the file is whole or absent.

    Parameters
    ----------
    path
        Where to write it; an existing file is replaced.
    obj
        May hold mappings, sequences, sets, arrays, numpy scalars, paths, strings, numbers; NaN and infinite
        numbers become null.

    Raises
    ------
    TypeError
        If it holds anything else.
    OutputError
        If the file cannot be written.
    """
    text = json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(Path(path).expanduser().resolve()) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write(adata: AnnData, path: Path, suffix: str) -> None:
    # the functions, not AnnData's methods: those point a backed object to the new file
    if suffix == ".zarr":
        anndata.io.write_zarr(path, adata)
    else:
        anndata.io.write_h5ad(path, adata, compression="gzip")


def _private(adata: AnnData) -> AnnData:
    """The same data with its own copies of the annotation, which anndata may change."""
    if adata.isbacked:
        return adata.to_memory()
    parts = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "layers", "obsp", "varp", "uns")}
    parts["layers"].pop(None, None)  # anndata 0.13 lists X among the layers
    return AnnData(X=adata.X, obs=adata.obs.copy(), var=adata.var.copy(), raw=adata.raw, **parts)


def _plain(value: Any) -> Any:
    """The value in types that ``json`` can write."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy, pandas, torch
        return _plain(value.tolist())
    if isinstance(value, set | frozenset):
        return [_plain(item) for item in sorted(value)]
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


@contextmanager
def replacing(final: Path, *, store: bool = False) -> Iterator[Path]:
    """A temporary name beside ``final``; what the block writes there, a file or a store, takes its place.

    Parameters
    ----------
    final
        Where the result belongs.
    store
        Whether it is a zarr store rather than a file.

    Raises
    ------
    OutputError
        If something else is in the way; if the operating system refuses to write (:class:`OSError`), or
        anndata a value that its format cannot hold. Any other exception of the block is raised as it is.
    """
    if os.path.exists(final) and not (is_store(final) if store else final.is_file()):
        kind = "a zarr store" if store else "a file"
        raise OutputError(
            f'"{final}" exists but is not {kind}.', "Only the same kind is replaced.", "Choose another name."
        )
    temporary = _sibling(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except BaseException as error:
        _remove(temporary)
        if _is_about_writing(error):
            raise _cannot_write(final, error) from error
        raise
    _move(temporary, final)


def require_replaceable(path: Path, force: bool) -> None:
    """Refuse an output folder that exists and may not be replaced; see :func:`output_directory`."""
    final = path.expanduser().resolve()
    if not os.path.exists(final):
        return
    if not final.is_dir():
        remedy = "Choose another output folder."
        raise OutputError(f'"{final}" is a file.', "Results are written as a folder.", remedy)
    if not force:
        raise OutputError(
            f'The output folder "{final}" exists.',
            "Existing results are kept by default.",
            "Choose another folder, or pass force=True to replace it.",
        )
    if any(final.iterdir()) and not (final / RUN_FILE).is_file():
        raise OutputError(
            f'The output folder "{final}" holds files but no {RUN_FILE}, so they are not results of a run.',
            "Only results of an earlier run are replaced.",
            "Choose another folder, or remove this one yourself.",
        )


def _move(temporary: Path, final: Path) -> None:
    """Put ``temporary`` in place; what was there is deleted last, and put back if this fails."""
    aside = _sibling(final) if final.is_dir() else None
    try:
        if aside:
            final.rename(aside)
        try:
            temporary.replace(final)
        except BaseException:
            if aside:
                aside.rename(final)
            raise
    except OSError as error:
        raise _stranded(temporary, final, error) from error
    if aside:
        shutil.rmtree(aside, ignore_errors=True)


def _stranded(temporary: Path, final: Path, error: Exception) -> OutputError:
    """The error for a finished result whose place was taken in the meantime: the result is kept."""
    return OutputError(
        f'The result could not be moved to "{final}" ({error}).',
        "The path must be free and writable.",
        f'The result is complete, in "{temporary}": move it yourself.',
    )


def _is_about_writing(error: BaseException) -> bool:
    """Whether the system or anndata, which adds a note to what its writers raise, refused to write."""
    if isinstance(error, OSError):
        return not isinstance(error, IsoviError)
    return any(note.startswith(_ANNDATA_NOTE) for note in getattr(error, "__notes__", []))


def _cannot_write(final: Path, error: BaseException) -> OutputError:
    if isinstance(error, OSError):
        rule, remedy = "Its folder must be writable and have room.", "Choose another place, or free space."
        return OutputError(f'"{final}" cannot be written: {error.strerror or error}.', rule, remedy)
    details = "; ".join([str(error), *getattr(error, "__notes__", [])])
    rule, remedy = "Every value must be one that the format can hold.", "Convert or remove that value."
    return OutputError(f'"{final}" cannot be written: {details}.', rule, remedy)


def _sibling(path: Path) -> Path:
    """A temporary name beside ``path`` that says which process it belongs to."""
    return path.with_name(f"{_owned(path)}{uuid.uuid4().hex[:8]}.tmp")


def _owned(path: Path) -> str:
    return f".{path.name}.{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}-"


def _machine() -> str:
    """Where process numbers mean the same: a machine, or a container with processes of its own."""
    namespace = Path("/proc/self/ns/pid")
    processes = os.readlink(namespace) if namespace.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:8]


def _started(process: int) -> int | None:
    """When a process started, in clock ticks since boot; ``None`` if it has ended, or there is no /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *numbers = text[text.rindex(")") + 1 :].split()  # its name may hold anything
    return None if state in "XZ" else int(numbers[18])


def _has_ended(machine: str, process: int, started: int) -> bool:
    """Whether a process has certainly ended; its number may be another's by now."""
    if os.name != "posix" or machine != _machine():
        return False
    try:
        os.kill(process, 0)  # only asks whether it is there
    except ProcessLookupError:
        return True
    except OSError:  # there, and another user's
        return False
    return started != 0 and _started(process) != started


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # the error that led here is the one to report
            path.unlink()
