"""What the tools read from an AnnData: a latent, and where its spots lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from isovi._shapes import CellIndexArray, CoordinateArray, LatentArray
from isovi.data import check
from isovi.data.fields import normalise
from isovi.errors import InputError


@dataclass(frozen=True)
class Embedded:
    """Spots that take part, with their latent and their place.

    Attributes
    ----------
    latent
        float64, shape ``(cell, latent)``.
    coordinates
        Centred and in spacings (each section's median distance to the nearest neighbour), shape
        ``(cell, axis)``.
    section
        Section code, shape ``(cell,)``.
    cells
        Rows of the AnnData, shape ``(cell,)``.
    """

    latent: LatentArray
    coordinates: CoordinateArray
    section: CellIndexArray
    cells: CellIndexArray


def embedded(
    adata: AnnData, use_rep: str | None, spatial_key: str, section_key: str | None, cells: ArrayLike | None
) -> Embedded:
    """The spots that take part; all by default. The unit of length is that of all spots of a section.

    Without ``use_rep`` the latent is left empty, shape ``(cell, 0)``.

    Raises
    ------
    InputError
        If a key is missing, latent or positions are not finite, or ``cells`` is no selection of spots.
    """
    coordinates, codes = place(adata, spatial_key, section_key)
    chosen = chosen_cells(cells, adata.n_obs)
    values = np.empty((adata.n_obs, 0)) if use_rep is None else latent(adata, use_rep)
    return Embedded(values[chosen], coordinates[chosen], codes[chosen], chosen)


def samples(model: Any, adata: AnnData, spots: Embedded, n_samples: int, seed: int) -> NDArray[np.float64]:
    """Samples z ~ q(z | y) of the spots that take part, shape ``(n_samples, cell, latent)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = [
            model.get_latent_representation(adata, indices=spots.cells, give_mean=False)
            for _ in range(n_samples)
        ]
    return np.stack(drawn).astype(np.float64)


def parameters(use_rep: str, spatial_key: str, section_key: str | None, seed: int) -> dict[str, Any]:
    """What a tool was asked, as it is kept in ``uns`` beside its result."""
    section = {} if section_key is None else {"section_key": section_key}
    return {"params": {"use_rep": use_rep, "spatial_key": spatial_key, "seed": seed} | section}


def place(
    adata: AnnData, spatial_key: str, section_key: str | None
) -> tuple[CoordinateArray, CellIndexArray]:
    """Coordinates in spacings, and section codes, of all spots."""
    raw = check.coordinates(adata, spatial_key)
    codes = sections(adata, section_key)
    names = [str(code) for code in range(int(codes.max(initial=0)) + 1)]
    coordinates, _ = normalise(raw, codes, names, {})
    return coordinates.astype(np.float64), codes


def latent(adata: AnnData, use_rep: str) -> NDArray[np.float64]:
    """The latent in ``obsm[use_rep]``, shape ``(n_obs, n_latent)``, all finite."""
    if use_rep not in adata.obsm:
        raise InputError(
            f'obsm has no key "{use_rep}" (it has: {", ".join(map(str, adata.obsm)) or "none"}).',
            "A latent representation in obsm is needed.",
            f'Store model.get_latent_representation() in adata.obsm["{use_rep}"] or pass another use_rep.',
        )
    stored = adata.obsm[use_rep]
    values = np.asarray(stored.toarray() if sparse.issparse(stored) else stored, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).sum())
        raise InputError(
            f'obsm["{use_rep}"] has shape {values.shape} and {wrong} values not finite.',
            "It must be a matrix of finite numbers.",
            "Compute the latent again, or drop the spots concerned.",
        )
    return values


def sections(adata: AnnData, section_key: str | None) -> NDArray[np.int64]:
    """Section code of each spot; zero if there is only one section."""
    if section_key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    return check.categories(adata, section_key, role="section")


def chosen_cells(cells: ArrayLike | None, n_obs: int) -> CellIndexArray:
    """Rows of the spots that take part: all, those of a boolean mask, or those given by number."""
    if cells is None:
        return np.arange(n_obs)
    given = np.asarray(cells)
    if given.dtype == bool and given.shape == (n_obs,):
        given = np.flatnonzero(given)
    if not _are_rows(given, n_obs):
        raise InputError(
            f"cells={_shown(cells)} was given for {n_obs} spots.",
            "It is a boolean mask over all spots, or different row numbers, of at least one spot.",
            'Pass for example adata.obs["isovi_split"] == "heldout".',
        )
    return given.astype(np.int64)


def _are_rows(given: NDArray, n_obs: int) -> bool:
    if given.ndim != 1 or not len(given) or not np.issubdtype(given.dtype, np.integer):
        return False
    return bool(given.min() >= 0 and given.max() < n_obs and len(np.unique(given)) == len(given))


def _shown(cells: ArrayLike) -> str:
    given = np.asarray(cells)
    return f"an array of {given.dtype} of shape {given.shape}"
