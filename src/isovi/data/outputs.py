"""Where results are put: whole or not at all, by one process at a time, over nothing that is the user's."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from isovi.data import lock
from isovi.data.owner import Owner
from isovi.data.readers.find import ZARR_MARKERS, is_store
from isovi.errors import IsoviError, OutputError

RUN_FILE = "run.json"  # marks a directory as the result of a run
_PLOTS = (
    *("domains", "latent", "history", "shepard", "distortion_profile", "certificate", "distortion_map"),
    *("tissot_spatial", "tissot_latent", "autocorrelation"),
)
RUN_FILES = (  # all that isoVI writes into the folder of a run or a search
    *(RUN_FILE, "adata.h5ad", "metrics.json", "history.csv", "diagnosis.json", "report.html", "report.json"),
    *("tune.csv", "pareto.png", "model/*.pt", "model/*.safetensors", "model/*.json", "model/*.parquet"),
    *(f"figures/{name}.{kind}" for name in _PLOTS for kind in ("png", "svg", "pdf")),
)
_ANNDATA_NOTE = "Error raised while writing key"
_TEMPORARY, _ASIDE = ".tmp", ".old"
_NAME_BYTES, _PATH_BYTES = 255, 4000  # of file systems; of paths, less what is added to make temporary names
_KEPT_BYTES = 180  # of a name that temporary names are made of
_LISTED = 5  # files in a message


# ---------------------------------------------------------------------------- paths


def output_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path of an output, with links resolved.

    Raises
    ------
    OutputError
        If nothing can be written under that name on any file system.
    """
    try:
        final = Path(path).expanduser().resolve()
        n_bytes, n_in_all = len(os.fsencode(final.name)), len(os.fsencode(final))
    except (RuntimeError, ValueError, OSError) as error:  # no such user; a loop of links; characters
        raise OutputError(
            f'"{path}" is no path of an output ({error}).', "It must be one.", "Choose another path."
        ) from error
    if not final.name:
        received = f'"{final}" is the root of the file system.'
        raise OutputError(received, "A result needs a name of its own.", "Choose a path beneath it.")
    if n_bytes > _NAME_BYTES or n_in_all > _PATH_BYTES:
        received = (
            f'The output "{final.name[:40]}..." has a name of {n_bytes} and a path of {n_in_all} bytes.'
        )
        rule = f"File systems allow names of {_NAME_BYTES} and paths of {_PATH_BYTES} bytes."
        raise OutputError(received, rule, "Choose a shorter one.")
    return final


def beside(final: Path, suffix: str) -> Path:
    """A file that belongs to an output, beside it: ``run.partial.ckpt``; long names are cut short."""
    return final.with_name(f"{_stem(final)}{suffix}")


def _stem(final: Path) -> str:
    """The name of an output, or as much of it as leaves room for what is added to it."""
    name = os.fsencode(final.name)
    if len(name) <= _KEPT_BYTES:
        return final.name
    return f"{name[:_KEPT_BYTES].decode(errors='ignore')}-{hashlib.sha256(name).hexdigest()[:8]}"


def _sibling(final: Path, kind: str = _TEMPORARY) -> Path:
    """A temporary name beside an output that says which process it belongs to."""
    return final.with_name(f"{_owned(final)}{uuid.uuid4().hex[:8]}{kind}")


def _owned(final: Path) -> str:
    return f".{_stem(final)}.{Owner.current()}-"


# ---------------------------------------------------------------------------- one process at a time


@contextmanager
def exclusive(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> Iterator[Path]:
    """Hold an output while the block runs, and remove what killed processes were writing to it.

    Parameters
    ----------
    path
        The output; its parents are made.
    inputs
        Files and folders that are read, which the output must be apart from; ``None`` is passed over.

    Yields
    ------
    Its absolute path.

    Raises
    ------
    OutputError
        If another process holds it, its folder cannot be written, or it would be written over an input, into
        one, or over a part of a run.
    """
    final = output_path(path)
    _require_apart(final, inputs)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        holding = lock.held(final.with_name(f".{_stem(final)}.lock"), final, _sibling(final))
        holding.__enter__()
    except OutputError:
        raise
    except OSError as error:
        if not (error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and os.access(final, os.W_OK)):
            raise cannot_write(final, error) from error
        yield final  # a run in a folder that only others may write: its own files can be
        return
    try:
        remove_leftovers(final)
        yield final
    finally:
        holding.__exit__(None, None, None)


def _require_apart(final: Path, inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Refuse an output that is, contains or is inside of an input, is inside of a store, or part of a run."""
    for given in inputs:
        source = None if given is None else Path(given).expanduser().resolve()
        if source is None:
            continue
        same = source == final or (os.path.exists(final) and _same_file(source, final))
        if same or source in final.parents or final in source.parents:
            where = "is" if same else "is inside of" if source in final.parents else "contains"
            raise OutputError(
                f'The output "{final}" {where} the input "{source}".',
                "The input is never changed.",
                "Choose another output, outside of the input.",
            )
    for parent in final.parents:
        if any(os.path.exists(parent / marker) for marker in ZARR_MARKERS):
            rule = "Nothing else is written into a store."
            raise OutputError(f'The output "{final}" is inside of a zarr store.', rule, "Choose another one.")
        if is_run_file(final.relative_to(parent)) and is_run(parent):
            raise OutputError(
                f'The output "{final}" is part of the run in "{parent}".',
                "The files of a run belong together.",
                "Choose another output.",
            )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove temporary files and folders of killed processes that were writing to ``path``, beside and in it.

    Only those are removed whose process is known to have ended. Those of a living process, of another
    machine or container, or of a process that cannot be looked up (on Windows) are kept. An earlier result
    that was moved aside by a process that was killed before the new one was in place is put back.
    """
    final = output_path(path)
    within = [final, *(one for one in final.iterdir() if one.is_dir())] if is_run(final) else []
    for folder in (final.parent, *within):
        stem = _stem(final) if folder == final.parent else None
        for found in folder.iterdir():
            owner = _owner_of(found.name, stem)
            if owner is None or not owner.has_ended():
                continue
            if found.suffix == _ASIDE and not os.path.lexists(final):
                found.rename(final)
            else:
                remove(found)


def _owner_of(name: str, stem: str | None) -> Owner | None:
    """The process that a temporary name belongs to, of one output or of any; ``None`` for other names."""
    if not name.endswith((_TEMPORARY, _ASIDE)):
        return None
    front, _, owner = name.removesuffix(_TEMPORARY).removesuffix(_ASIDE).rpartition(".")
    owner, _, unique = owner.rpartition("-")
    if len(unique) != 8 or (stem is not None and front != f".{stem}"):
        return None
    return Owner.parse(owner)


def scratch_directory(path: str | os.PathLike[str]) -> tempfile.TemporaryDirectory[str]:
    """A directory beside ``path`` for files that are needed as long as the object that is returned.

    If the process is killed :func:`remove_leftovers` removes it.
    """
    final = output_path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=final.parent, prefix=_owned(final), suffix=_TEMPORARY)


# ---------------------------------------------------------------------------- what may be replaced


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run or a search, by the content of its ``run.json``; 0.1.0's as well."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(record, dict):
        return False
    return {"schema", "provenance"} <= record.keys() or {"arguments", "input_sha256"} <= record.keys()


def is_run_file(name: PurePath) -> bool:
    """Whether isoVI writes a file of that name, relative to the folder of a run."""
    return any(len(name.parts) == pattern.count("/") + 1 and name.match(pattern) for pattern in RUN_FILES)


def foreign_files(folder: Path) -> list[str]:
    """Names of the files in the folder of a run that isoVI did not write."""
    found = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*files, *links):
            path = Path(parent, name).relative_to(folder)
            if name in links or not (is_run_file(path) or _owner_of(name, None)):
                found.append(str(path))
    return sorted(found)


def require_replaceable(path: str | os.PathLike[str], force: bool) -> None:
    """Refuse an output folder that exists and may not be replaced; see :func:`output_directory`."""
    final = output_path(path)
    if not os.path.lexists(final):
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
    if not any(final.iterdir()):
        return
    if not is_run(final):
        raise OutputError(
            f'The output folder "{final}" holds files but no {RUN_FILE} of a run, so they are not results.',
            "Only results of an earlier run are replaced.",
            "Choose another folder, or remove this one yourself.",
        )
    if foreign := foreign_files(final):
        listed = ", ".join(foreign[:_LISTED]) + (", ..." if len(foreign) > _LISTED else "")
        raise OutputError(
            f'The output folder "{final}" holds files that isoVI did not write: {listed}.',
            "Only results of isoVI are replaced.",
            "Move them to another folder, or choose another output folder.",
        )


def require_room(path: str | os.PathLike[str], n_bytes: int) -> None:
    """Refuse an output for which the disk has no room, before the work that leads to it.

    Parameters
    ----------
    path
        The output.
    n_bytes
        What will be written there and beside it, temporary files included; an estimate that is rather low.

    Raises
    ------
    OutputError
        If less is free.
    """
    final = output_path(path)
    folder = next(parent for parent in final.parents if parent.exists())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # a file system that does not tell
        return
    if free < n_bytes:
        raise OutputError(
            f'About {_size(n_bytes)} will be written to "{final}" and beside it; {_size(free)} are free.',
            "Result and temporary files need room on that disk.",
            "Free space, or choose an output on another disk.",
        )


def _size(n_bytes: int | float) -> str:
    """A number of bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


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
        Replace an existing directory, if it is empty or a run's result: its ``run.json`` is one that isoVI
        wrote, and so are all files in it.

    Yields
    ------
    The temporary directory, on the same file system.

    Raises
    ------
    OutputError
        Before the block, if ``path`` exists and may not be replaced, or its parent cannot be written;
        after it, if the system refuses to write, or the result cannot be moved into place. The message then
        says where it is.
    """
    final = output_path(path)
    require_replaceable(final, force)
    temporary = _sibling(final)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(final, error) from error
    with _removed_on_failure(temporary, final):
        yield temporary
    try:
        require_replaceable(final, force)  # again: somebody may have put something there meanwhile
    except OutputError as error:
        raise _stranded(temporary, final, error) from error
    _move(temporary, final)


@contextmanager
def revised_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Change files of a directory so that all changes are seen at once, or none.

    Parameters
    ----------
    path
        A directory.

    Yields
    ------
    A temporary directory with the same files, which takes its place when the block ends. Files in it may be
    replaced, but not written into: they share their content with those of the directory.

    Raises
    ------
    OutputError
        As for :func:`output_directory`.
    """
    final = output_path(path)
    temporary = _sibling(final)
    with _removed_on_failure(temporary, final):
        shutil.copytree(final, temporary, symlinks=True, copy_function=_link_or_copy)
        yield temporary
    _move(temporary, final)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def replacing(path: str | os.PathLike[str], *, store: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path``; what the block writes there, a file or a store, takes its place.

    Parameters
    ----------
    path
        Where the result belongs.
    store
        Whether it is a zarr store rather than a file.

    Raises
    ------
    OutputError
        If something else is in the way; if the operating system refuses to write (:class:`OSError`), or
        anndata a value that its format cannot hold. Any other exception of the block is raised as it is.
    """
    final = output_path(path)
    if os.path.exists(final) and not (is_store(final) if store else final.is_file()):
        kind = "a zarr store" if store else "a file"
        raise OutputError(
            f'"{final}" exists but is not {kind}.', "Only the same kind is replaced.", "Choose another name."
        )
    temporary = _sibling(final)
    with _removed_on_failure(temporary, final):
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        yield temporary
    _move(temporary, final)


@contextmanager
def _removed_on_failure(temporary: Path, final: Path) -> Iterator[None]:
    """Remove what the block wrote if it fails; say in our words that the system or anndata refused."""
    try:
        yield
    except BaseException as error:
        remove(temporary)
        if _is_about_writing(error):
            raise cannot_write(final, error) from error
        raise


def _move(temporary: Path, final: Path) -> None:
    """Put ``temporary`` in place; what was there is deleted last, and put back if this fails."""
    aside = _sibling(final, _ASIDE) if final.is_dir() else None
    try:
        if aside:
            final.rename(aside)
        temporary.replace(final)
    except BaseException as error:
        if aside and aside.exists() and not os.path.lexists(final):
            aside.rename(final)
        if isinstance(error, OSError):
            raise _stranded(temporary, final, error) from error
        raise
    if aside:
        shutil.rmtree(aside, ignore_errors=True)


def _stranded(temporary: Path, final: Path, error: Exception) -> OutputError:
    """The error for a finished result whose place was taken: it gets a name under which it is kept."""
    numbers = ("", *(f"-{number}" for number in range(2, 1000)))
    names = (beside(final, f".result{number}") for number in numbers)
    kept = next((name for name in names if not os.path.lexists(name)), temporary)
    try:
        temporary.rename(kept)
    except OSError:
        kept = temporary
    return OutputError(
        f'The result could not be moved to "{final}" ({error}).',
        "The path must be free and writable.",
        f'The result is complete, in "{kept}": move it yourself.',
    )


def _is_about_writing(error: BaseException) -> bool:
    """Whether the system or anndata, which adds a note to what its writers raise, refused to write."""
    if isinstance(error, OSError):
        return not isinstance(error, IsoviError)
    return any(note.startswith(_ANNDATA_NOTE) for note in getattr(error, "__notes__", []))


def cannot_write(final: Path, error: BaseException) -> OutputError:
    """What the system or anndata refused to write, in our words."""
    if isinstance(error, OSError):
        rule, remedy = "Its folder must be writable and have room.", "Choose another place, or free space."
        return OutputError(f'"{final}" cannot be written: {error.strerror or error}.', rule, remedy)
    details = "; ".join([str(error), *getattr(error, "__notes__", [])])
    rule, remedy = "Every value must be one that the format can hold.", "Convert or remove that value."
    return OutputError(f'"{final}" cannot be written: {details}.', rule, remedy)


def remove(path: Path) -> None:
    """Remove a file or folder; the error that led here is the one to report."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
