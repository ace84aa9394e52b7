"""A finished run: its data, and what it was fitted with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from isovi.data import io
from isovi.errors import InputError
from isovi.model.model import IsoSCVI, IsoVAE
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN

BACKBONES: dict[str, Any] = {"scvi": IsoSCVI, "vae": IsoVAE}
LATENT_KEY = "X_isovi"
GENE_KEY = "isovi_gene"
NAMES = {HELDOUT: "held out", TRAIN: "training, largely memorised"}


@dataclass(frozen=True)
class Run:
    """A finished run, with the keys that it was fitted with.

    Attributes
    ----------
    folder
        Written by :func:`isovi.workflow.fit.fit`.
    adata
        Its data, with latent and split.
    keys
        ``spatial_key`` and ``section_key``.
    seed
        Of the run.
    """

    folder: Path
    adata: AnnData
    keys: dict[str, Any]
    seed: int

    def parts(self) -> dict[str, np.ndarray]:
        """Rows of the held-out and of the training spots, as far as they form pairs."""
        split = self.adata.obs[SPLIT_KEY].to_numpy()
        key = self.keys["section_key"]
        section = np.zeros(len(split)) if key is None else self.adata.obs[key].astype(str).to_numpy()
        rows = {part: np.flatnonzero(split == part) for part in NAMES}
        return {part: cells for part, cells in rows.items() if len(cells) > len(np.unique(section[cells]))}


def read(folder: Path) -> Run:
    """Read a finished run.

    Raises
    ------
    InputError
        If the folder was not written by ``isovi fit``.
    """
    file = Path(folder) / "adata.h5ad"
    adata = io.read(file) if file.is_file() else None
    if (
        adata is None
        or LATENT_KEY not in adata.obsm
        or SPLIT_KEY not in adata.obs
        or "isovi" not in adata.uns
    ):
        raise InputError(
            f"{folder} holds no finished run.",
            "It must be a folder written by isovi fit.",
            "Name such a folder.",
        )
    return run_of(adata, adata.uns["isovi"], Path(folder))


def run_of(adata: AnnData, asked: Any, folder: Path) -> Run:
    """A run from its data and the options that were asked for."""
    section_key = asked.get("section_key")
    keys = {"spatial_key": str(asked["spatial_key"]), "section_key": section_key and str(section_key)}
    return Run(folder, adata, keys, int(asked["seed"]))
