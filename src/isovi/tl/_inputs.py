"""What the tools read from an AnnData: a latent representation, and where its spots are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from isovi._shapes import CellIndexArray, LatentArray
from isovi.data import check
from isovi.data.fingerprint import count_unsealed
from isovi.errors import InputError
from isovi.spots import SPLIT_KEY, Spots

LATENT_KEY = "X_isovi"  # in obsm: where a run keeps its latent representation
PLACE_KEY, IDENTITY_KEY = "X_isovi_place", "X_isovi_identity"  # its parts, where it has two
GENE_KEY = "isovi_gene"  # in var: genes of the model
FEW_GENES = 250  # with fewer, the identity part lacks what tells domains apart (docs/quality.md)


def place_rep(adata: AnnData, use_rep: str | None) -> str:
    """Key of the latent representation whose distances count: the place part, or the whole without parts."""
    return use_rep or (PLACE_KEY if PLACE_KEY in adata.obsm else LATENT_KEY)


def identity_rep(adata: AnnData, use_rep: str | None) -> str:
    """Key of the latent representation for cell types: the identity part, or the whole without parts."""
    return use_rep or (IDENTITY_KEY if IDENTITY_KEY in adata.obsm else LATENT_KEY)


def domain_rep(adata: AnnData, use_rep: str | None) -> str:
    """Key of the latent representation for domains: that for cell types, or the whole with few genes."""
    genes = int(adata.var[GENE_KEY].sum()) if GENE_KEY in adata.var else adata.n_vars
    few = 0 < genes < FEW_GENES and LATENT_KEY in adata.obsm
    return use_rep or (LATENT_KEY if few else identity_rep(adata, None))


def latent_spots(
    adata: AnnData, use_rep: str | None, spatial_key: str, section_key: str | None, cells: ArrayLike | None
) -> tuple[LatentArray, Spots]:
    """Latent representation and spots that take part, all by default; the unit is that of all spots.

    Without ``use_rep`` the latent representation is left empty, shape ``(cell, 0)``.

    Raises
    ------
    InputError
        If a key is missing, latent or positions are not finite, or ``cells`` is no selection of spots.
    """
    chosen = chosen_cells(cells, adata.n_obs)
    values = np.empty((adata.n_obs, 0)) if use_rep is None else latent(adata, use_rep)
    return values[chosen], check.spots(adata, spatial_key, section_key).take(chosen)


def samples(model: Any, adata: AnnData, spots: Spots, n_samples: int, seed: int) -> NDArray[np.float64]:
    """Samples z ~ q(z | y) of the spots that take part, of the place part if the model has one.

    Returns
    -------
    Shape ``(n_samples, cell, latent)``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = [
            model.get_latent_representation(adata, indices=spots.row, give_mean=False)
            for _ in range(n_samples)
        ]
    distortion: Any = getattr(model, "distortion", None)
    found = np.stack(drawn).astype(np.float64)
    return found if distortion is None else distortion.part(found, "place")


def parameters(use_rep: str, spatial_key: str, section_key: str | None, seed: int) -> dict[str, Any]:
    """What a tool was asked, as it is kept in ``uns`` beside its result."""
    section = {} if section_key is None else {"section_key": section_key}
    return {"params": {"use_rep": use_rep, "spatial_key": spatial_key, "seed": seed} | section}


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


def basis_of_split(
    adata: AnnData, use_rep: str, split_key: str, cells: CellIndexArray, parts: tuple[str, ...]
) -> str:
    """What it rests on that a split column holds for a latent representation.

    Parameters
    ----------
    adata, use_rep, split_key
        The data, the key in ``obsm`` of the latent representation, and the column of ``obs`` with the split.
    cells, parts
        Rows of the cells that the column says the model was not trained on, and the parts they are of.

    Returns
    -------
    ``"run"`` if one run wrote both; ``"split column"`` if the data does not say which wrote the column, or
    another latent representation than that of the run is asked for.

    Raises
    ------
    InputError
        If the latent representation is not that of the run that wrote the column.
    """
    if use_rep not in (LATENT_KEY, PLACE_KEY) or split_key != SPLIT_KEY:
        return "split column"
    wrong = count_unsealed(adata, _sealed(adata, use_rep)[cells], parts)
    if wrong:
        raise InputError(
            f'{wrong} of {len(cells)} cells that obs["{split_key}"] calls {" or ".join(parts)} have another '
            f'latent representation in obsm["{use_rep}"] than the run that wrote that column.',
            "A split holds for the model of its own run; another one may have been trained on these cells.",
            "Pass the model of the latent representation as model=, or take adata.h5ad of one run as it is.",
        )
    return "split column" if wrong is None else "run"


def _sealed(adata: AnnData, use_rep: str) -> NDArray[np.float64]:
    """The whole latent representation, which seals are of, with the place part that a key has."""
    part = latent(adata, use_rep)
    if use_rep == LATENT_KEY:
        return part
    whole = latent(adata, LATENT_KEY).copy()
    whole[:, : part.shape[1]] = part[:, : whole.shape[1]]  # which breaks the seals of cells that differ
    return whole


def chosen_cells(cells: ArrayLike | None, n_obs: int) -> CellIndexArray:
    """Rows of the spots that take part: all, those of a boolean mask, or those given by number."""
    if cells is None:
        return np.arange(n_obs)
    given = np.asarray(cells)
    if given.dtype == bool and given.shape == (n_obs,):
        given = np.flatnonzero(given)
    if not given.size:
        raise InputError(
            f"`cells` selects none of {n_obs} spots.",
            "At least one is needed.",
            'Check that some were held out: adata.obs["isovi_split"].value_counts().',
        )
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
