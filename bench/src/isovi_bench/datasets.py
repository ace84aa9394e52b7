"""The data sets of a grid: files, public Visium sections by name, simulated tissues."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import scanpy as sc
from anndata import AnnData
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from isovi.data import check, io
from isovi.errors import InputError
from isovi.simulate import simulate

PAPER = (
    "V1_Mouse_Brain_Sagittal_Anterior",
    "V1_Mouse_Brain_Sagittal_Anterior_Section_2",
    "V1_Mouse_Brain_Sagittal_Posterior",
    "V1_Mouse_Brain_Sagittal_Posterior_Section_2",
)
"""The sections of the paper's experiment, as 10x Genomics names them."""

FILE_KEY = "file"  # column of obs with the file of each spot, where a data set is several files


class DataSet(BaseModel):
    """A data set as a grid describes it: from ``path``, ``visium`` or ``simulate``.

    Attributes
    ----------
    name
        In tables and plots.
    path
        An AnnData file with raw counts; or several, joined on the genes that they share.
    visium
        Name of a public Visium section of 10x Genomics, such as those in :data:`PAPER`.
    simulate
        Arguments of :func:`isovi.simulate.simulate`.
    label_key, section_key, donor_key
        Columns of ``obs``. Sections of several files are the files, unless ``section_key`` is given.
    layer
        Layer of the raw counts; ``X`` by default.
    spatial_key
        Key of the positions in ``obsm``.
    n_obs
        Spots of each file, drawn at random, the same ones each time; all if there are fewer, or if not given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    path: tuple[str, ...] | None = None
    visium: str | None = None
    simulate: dict[str, Any] | None = None
    label_key: str | None = None
    section_key: str | None = None
    donor_key: str | None = None
    layer: str | None = None
    spatial_key: str = "spatial"
    n_obs: PositiveInt | None = None

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _from_one_source(self) -> DataSet:
        if sum(source is not None for source in (self.path, self.visium, self.simulate)) != 1:
            raise ValueError("a data set has exactly one of path, visium and simulate")
        if self.simulate is not None and self.n_obs is not None:
            raise ValueError("n_obs draws spots of files; simulate has an n_obs of its own")
        return self

    @property
    def sections(self) -> str | None:
        """Column of ``obs`` with the sections, if there are any."""
        several = self.path is not None and len(self.path) > 1
        return self.section_key or (FILE_KEY if several else None)

    @property
    def keys(self) -> dict[str, Any]:
        """What of the description, besides its source, changes results."""
        found = self.model_dump(exclude={"name", "path", "visium", "simulate"})
        if self.n_obs is None:
            del found["n_obs"]  # jobs that take all spots have the key that they always had
        return found

    def placed(self, folder: Path, cache: Path) -> DataSet:
        """The same with absolute paths, downloaded if need be.

        Parameters
        ----------
        folder
            What paths are relative to.
        cache
            Where downloads are kept.

        Raises
        ------
        InputError
            If a section is not in the cache and cannot be downloaded.
        """
        if self.visium is not None:
            path = (str(visium(self.visium, cache)),)
            return self.model_copy(update={"path": path, "visium": None})
        if self.path is None:
            return self
        return self.model_copy(update={"path": tuple(str((folder / path).resolve()) for path in self.path)})


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before any job.

    Attributes
    ----------
    digest
        Of its content: the same data has the same digest wherever it lies and whatever it is called.
    n_obs
        Number of spots.
    sections, donors
        Their names; empty if the data set has none.
    """

    digest: str
    n_obs: int
    sections: tuple[str, ...]
    donors: tuple[str, ...]


def load(dataset: DataSet) -> AnnData:
    """The data of a placed data set.

    Raises
    ------
    InputError
        If a file cannot be read or an argument of the simulation is wrong.
    """
    if dataset.simulate is not None:
        return _simulated(dataset)
    parts = {Path(path).stem: _drawn(io.read(path), dataset.n_obs) for path in dataset.path or ()}
    if len(parts) == 1:
        return next(iter(parts.values()))
    return anndata.concat(parts, label=FILE_KEY, join="inner", index_unique="-")


def _drawn(adata: AnnData, n_obs: int | None) -> AnnData:
    if n_obs is None or adata.n_obs <= n_obs:
        return adata
    rows = np.random.default_rng(0).choice(adata.n_obs, n_obs, replace=False)
    return adata[np.sort(rows)].copy()


def _simulated(dataset: DataSet) -> AnnData:
    try:
        return simulate(**dataset.simulate)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(
            f"The simulation of the data set {dataset.name} was given {dataset.simulate}.",
            "Its keys are the arguments of isovi.simulate.simulate.",
            f"Correct them: {error}.",
        ) from None


def examine(dataset: DataSet, digests: Mapping[str, str]) -> Facts:
    """Read what jobs are made from, and refuse keys that the data does not have.

    Parameters
    ----------
    dataset
        Placed.
    digests
        Digest of the content of each of its files.

    Raises
    ------
    InputError
        If a file cannot be read, or a key is missing.
    """
    if dataset.path is None:
        described = json.dumps(dataset.simulate, sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()
        return _facts(dataset, _simulated(dataset), digest)
    digest = "+".join(digests[path] for path in dataset.path)
    if len(dataset.path) > 1 or dataset.n_obs is not None:
        return _facts(dataset, load(dataset), digest)
    with io.stored(dataset.path[0]) as adata:
        return _facts(dataset, adata, digest)


def _facts(dataset: DataSet, adata: AnnData, digest: str) -> Facts:
    check.coordinates(adata, dataset.spatial_key)
    if dataset.label_key is not None:
        check.categories(adata, dataset.label_key, role="label", allow_missing=True)
    sections, donors = (
        () if key is None else tuple(check.sections(adata, key)[1])
        for key in (dataset.sections, dataset.donor_key)
    )
    return Facts(digest, adata.n_obs, sections, donors)


def visium(name: str, cache: Path) -> Path:
    """A public Visium section as a file, downloaded by scanpy the first time.

    Parameters
    ----------
    name
        As 10x Genomics calls it.
    cache
        Folder that keeps it.

    Raises
    ------
    InputError
        If it cannot be downloaded.
    """
    file = cache / f"{name}.h5ad"
    if file.is_file():
        return file
    adata = _download(name, cache)
    adata.var_names_make_unique()
    adata.uns.clear()  # plots of the tissue
    io.write_atomic(adata, file)
    return file


def _download(name: str, cache: Path) -> AnnData:
    folder = cache / "visium"
    folder.mkdir(parents=True, exist_ok=True)  # scanpy makes no parents
    before, sc.settings.datasetdir = sc.settings.datasetdir, folder
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about duplicate names, and that the function has moved
            return sc.datasets.visium_sge(name)
    except Exception as error:
        raise InputError(
            f"The Visium section {name} could not be downloaded ({type(error).__name__}: {error}).",
            "It comes from 10x Genomics through scanpy the first time, which takes a network.",
            f"Run the command where there is one, or put the section as AnnData at {cache / name}.h5ad.",
        ) from error
    finally:
        sc.settings.datasetdir = before
