"""Files of a run as they are on disk: their checksums, and what each of them must hold."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi._records import is_of
from isovi.data import io
from isovi.errors import InputError
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, VALIDATION
from isovi.tl import METRICS

SEALED = ("adata.h5ad", "history.csv", "metrics.json", "model")  # what a fit writes besides run.json
FILES, CHECKSUM = "files", "checksum"  # in run.json: SHA-256 of the other files by name, and of the record
_REMEDY = "Put back the file that the fit wrote, or fit again: `force` replaces the run."
_COUNTS = ("n_obs", "n_train", "n_validation", "n_heldout", "n_genes")
_LONGEST = 300  # characters of a cause in a message


# ---------------------------------------------------------------------------- checksums


def seal(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Write ``run.json`` with the checksums of the files that a fit writes, and one of its own.

    Parameters
    ----------
    folder
        Folder of the run; plots, report and diagnosis in it may be made again, and are not looked at.
    record
        What ``run.json`` holds.

    Returns
    -------
    SHA-256 of each file by its name relative to the folder.
    """
    file = folder / io.RUN_FILE
    files = (path for name in SEALED for path in (folder / name, *(folder / name).rglob("*")))
    found = {path.relative_to(folder).as_posix(): io.sha256(path) for path in sorted(files) if path.is_file()}
    io.write_json(file, {**record, FILES: found})
    written = json.loads(file.read_text(encoding="utf-8"))
    io.write_json(file, {**written, CHECKSUM: _digest(written)})
    return found


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its checksum, however it is laid out."""
    kept = {name: value for name, value in record.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def checksums(record: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Checksums that a record holds, which must be as it was written.

    Raises
    ------
    InputError
        If the record is damaged.
    """
    found = record.get(FILES)
    if not is_of(found, Mapping[str, str]) or not found or record.get(CHECKSUM) != _digest(record):
        raise damaged(file, "it does not have the checksum that was written into it")
    return dict(found)


def require_intact(folder: Path, checksums: Mapping[str, str], *names: str) -> None:
    """Refuse files that are not as the fit wrote them.

    Parameters
    ----------
    folder
        Folder of the run.
    checksums
        SHA-256 by name; files that it does not have are not looked at.
    names
        Files, or folders of files; all of them by default.

    Raises
    ------
    InputError
        For the first file that is missing or has another checksum.
    """
    for name, expected in checksums.items():
        if names and name not in names and name.partition("/")[0] not in names:
            continue
        file = folder / name
        if not file.is_file():
            raise missing(folder, name)
        with readable(file):
            found = io.sha256(file)
        if found != expected:
            raise damaged(file, "its checksum is not the one in run.json, so it has changed or is another")


# ---------------------------------------------------------------------------- errors


def damaged(file: Path, cause: str) -> InputError:
    """The error for a file of a run that is not as it was written."""
    shown = cause if len(cause) <= _LONGEST else f"{cause[:_LONGEST]}..."
    return InputError(f'"{file}" is damaged: {shown}.', "Files of a run stay as they were written.", _REMEDY)


def missing(folder: Path | None, name: str) -> InputError:
    """The error for a folder without one of the files of a run."""
    return InputError(
        f"{folder} holds no {name}.", "It must be a folder written by isovi fit.", "Name such a folder."
    )


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Whatever a library raises on reading a file of a run becomes the error for a damaged file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        first = str(error).strip().splitlines()
        cause = f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
        raise damaged(file, cause) from error


@contextmanager
def usable(file: Path) -> Iterator[None]:
    """What a check refuses of the content of a file of a run is the damage of that file."""
    try:
        yield
    except InputError as error:
        raise damaged(file, error.received.rstrip(".")) from error


# ---------------------------------------------------------------------------- contents


def read_json(file: Path) -> dict[str, Any]:
    """The object of a JSON file of a run.

    Raises
    ------
    InputError
        If it is missing or holds anything else.
    """
    if not file.is_file():
        raise missing(file.parent, file.name)
    with readable(file):
        found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise damaged(file, "it is no object of JSON")
    return found


def require_record(record: Mapping[str, Any], file: Path) -> None:
    """Refuse a ``run.json`` whose parts are not of the types of a run's."""
    parts = {"id": str, "settings": Mapping, "provenance": Mapping, "training": Mapping}
    for name, kind in parts.items():
        if not is_of(record.get(name), kind):
            raise damaged(file, f'"{name}" is missing or of another type; it is not the record of a fit')
    if not isinstance(record["training"].get("summary"), str):
        raise damaged(file, '"training" has no summary')


def metrics_of(data: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Metrics of a run from ``metrics.json``, in which NaN and infinite numbers are null.

    A metric that is null becomes NaN, and an L that no number bounds infinite. Domains, metrics by part and
    certificate may be missing: they are made when the trained model is on disk.

    Raises
    ------
    InputError
        If one is missing or of another type.
    """
    for name in (*_COUNTS, *({"n_domains"} & data.keys())):
        if not is_of(data.get(name), int):
            raise damaged(file, f'"{name}" is {data.get(name)!r}, no whole number')
    if not is_of(data.get("distance_scale"), float | Mapping[str, float | None] | None):
        raise damaged(file, '"distance_scale" is neither a number nor numbers by section')
    found = dict(data)
    parts = (TRAIN, *((HELDOUT,) if data["n_heldout"] else ()), "all")
    if data.keys() & {TRAIN, HELDOUT, "all"}:
        found |= {part: _numbers(data.get(part), file, part) for part in parts}
    certificate = data.get("certificate", {})
    if certificate != {}:
        found["certificate"] = _certificate(certificate, file)
        if math.isnan(found["certificate"]["L"]):
            found["certificate"]["L"] = math.inf
    return found


def _certificate(data: Any, file: Path) -> dict[str, Any]:
    """Numbers of a certificate, and how it was tested where that is recorded."""
    needed = ("delta", "epsilon", "L", "n_pairs")
    method = data.get("method", "") if isinstance(data, Mapping) else ""
    if not isinstance(method, str):
        raise damaged(file, f'"method" of "certificate" is {method!r}, no text')
    if not isinstance(data, Mapping) or not method:
        return _numbers(data, file, "certificate", needed)
    numbers = {name: value for name, value in data.items() if name != "method"}
    return {**_numbers(numbers, file, "certificate", needed), "method": method}


def _numbers(data: Any, file: Path, part: str, names: tuple[str, ...] = ()) -> dict[str, float]:
    """Numbers by name, of which those of a part of the spots are needed."""
    if not is_of(data, Mapping[str, float | None]):
        raise damaged(file, f'"{part}" does not hold numbers by name')
    needed = names or tuple(name for name, metric in METRICS.items() if part in metric.spots)
    lacking = [name for name in needed if name not in data]
    if lacking:
        raise damaged(file, f'"{part}" lacks {", ".join(lacking)}')
    return {name: math.nan if value is None else value for name, value in data.items()}


def read_history(file: Path) -> pd.DataFrame:
    """Rows of the training by epoch.

    Raises
    ------
    InputError
        If the file cannot be read or holds anything but numbers.
    """
    with readable(file):
        found = pd.read_csv(file, index_col=0)
    if not len(found) or not all(
        pd.api.types.is_numeric_dtype(kind) for kind in (found.index, *found.dtypes)
    ):
        raise damaged(file, "it does not hold numbers by epoch")
    return found


def require_data(
    adata: AnnData, file: Path, shape: tuple[int, int], *, latent: str, columns: tuple[str, ...], genes: str
) -> None:
    """Refuse data that lacks what every run's data has.

    Parameters
    ----------
    adata, file, shape
        What was read of ``adata.h5ad``, its path, and the numbers of spots and of latent dimensions.
    latent, columns, genes
        Key in ``obsm`` of the latent representation, columns of ``obs``, and column of ``var`` with a mask of
        the model's genes.

    Raises
    ------
    InputError
        For the first thing that is missing or of another kind.
    """
    lacking = [f'obs["{name}"]' for name in columns if name not in adata.obs]
    lacking += [f'obsm["{latent}"]'] if latent not in adata.obsm else []
    if lacking:
        raise damaged(file, f"it has no {', '.join(lacking)}")
    values = np.asarray(adata.obsm[latent])
    if values.shape != shape or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise damaged(file, f'obsm["{latent}"] is no matrix of {shape[0]} x {shape[1]} finite numbers')
    if not set(adata.obs[SPLIT_KEY].astype(str)) <= {TRAIN, VALIDATION, HELDOUT}:
        raise damaged(file, f'obs["{SPLIT_KEY}"] holds other values than a split')
    if genes not in adata.var or adata.var[genes].dtype != bool or not adata.var[genes].any():
        raise damaged(file, f'var["{genes}"] does not say which genes the model has')
