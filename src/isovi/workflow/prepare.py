"""Which spots are held out, and which genes are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from isovi.data import check
from isovi.data.pack import take_rows
from isovi.errors import InputError
from isovi.spots import HELDOUT, TRAIN, VALIDATION

VALIDATION_SHARE = 0.1  # of the spots that are not held out
MIN_SPOTS = 5  # training spots in which a gene must be seen
GENE_SPOTS = 50_000  # training spots on which genes are chosen, at most
CHUNK_ENTRIES = 20_000_000  # entries of a dense chunk of genes


def split_spots(n_obs: int, holdout: float | np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Deal spots to training, validation and held-out.

    Parameters
    ----------
    n_obs
        Number of spots.
    holdout
        Share of spots to hold out at random, or a mask of the spots to hold out.
    rng
        The caller's random generator.

    Returns
    -------
    ``"train"``, ``"validation"`` or ``"heldout"`` for each spot. Of the spots that are not held out a
    tenth are for validation, which stops the training; the held-out take no part in it.
    """
    names = np.full(n_obs, TRAIN, dtype="<U10")
    order = rng.permutation(n_obs)
    if isinstance(holdout, np.ndarray):
        rest = order[~holdout[order]]
        names[holdout] = HELDOUT
    else:
        n_heldout = round(holdout * n_obs)
        rest = order[n_heldout:]
        names[order[:n_heldout]] = HELDOUT
    names[rest[: round(VALIDATION_SHARE * len(rest))]] = VALIDATION
    return names


def holdout_of(adata: AnnData, holdout: str, section_key: str | None) -> float | np.ndarray:
    """Read what to hold out as the command line writes it.

    Parameters
    ----------
    adata
        The data.
    holdout
        A share such as ``"0.25"``, or ``"section:NAME"``.
    section_key
        Key of the sections in ``obs``.

    Raises
    ------
    InputError
        If it is neither, or leaves nothing to train on or no such section.
    """
    kind, _, name = holdout.partition(":")
    if kind == "section" and name:
        return _section_mask(adata, name, section_key)
    try:
        share = float(holdout)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 0.9:
        raise InputError(
            f"--holdout {holdout} was asked for.",
            "It is a share of spots between 0 and 0.9, or section:NAME.",
            "Give for example 0.25.",
        )
    return share


def _section_mask(adata: AnnData, name: str, section_key: str | None) -> np.ndarray:
    codes, names = check.sections(adata, section_key)
    if section_key is None or name not in names:
        raise InputError(
            f"--holdout section:{name} was asked for.",
            f"The sections are {names if section_key else 'not told: --section-key is missing'}.",
            "Name one of them and the obs column they stand in with --section-key.",
        )
    mask = codes == names.index(name)
    if mask.all():
        raise InputError(
            f"--holdout section:{name} holds out every spot.",
            "At least one section must remain to train on.",
            "Hold out a share of spots instead.",
        )
    return mask


def gene_spots(train: np.ndarray, seed: int = 0) -> np.ndarray:
    """Training spots that genes are chosen on: all, or 50,000 of them at random.

    Parameters
    ----------
    train
        Mask of the training spots, shape ``(cell,)``.
    seed
        Draws them.

    Returns
    -------
    Ascending indices.
    """
    return some(np.flatnonzero(train), GENE_SPOTS, seed)


def some(spots: np.ndarray, at_most: int, seed: int) -> np.ndarray:
    """These spots, or so many of them at random, in ascending order."""
    if len(spots) <= at_most:
        return spots
    return np.sort(np.random.default_rng(seed).choice(spots, at_most, replace=False))


def select_genes(
    adata: AnnData, train: np.ndarray, *, n_top_genes: int, layer: str | None = None, seed: int = 0
) -> np.ndarray:
    """Highly variable genes, chosen on the training spots only, on 50,000 of them if there are more.

    Genes seen in fewer than five of these spots are dropped; of the rest those with the largest
    variance of Pearson residuals are kept (Lause, Berens & Kobak 2021, through scanpy).

    Parameters
    ----------
    adata
        Data with raw counts.
    train
        Mask of the training spots, shape ``(cell,)``.
    n_top_genes
        How many to keep; zero or less keeps all that are seen often enough.
    layer
        Layer of the counts; ``X`` by default.
    seed
        Draws the spots.

    Returns
    -------
    Mask over ``adata.var``, shape ``(gene,)``.
    """
    counts = take_rows(adata.X if layer is None else adata.layers[layer], gene_spots(train, seed))
    seen = np.asarray((counts > 0).sum(axis=0)).ravel() >= MIN_SPOTS
    if not seen.any():
        raise InputError(
            f"No gene is seen in {MIN_SPOTS} of the {int(train.sum())} training spots.",
            "The model needs genes that occur.",
            "Check that the counts are in the right layer, or hold out fewer spots.",
        )
    if n_top_genes <= 0 or seen.sum() <= n_top_genes:
        return seen
    keep = seen.copy()
    keep[seen] = _most_variable(counts[:, np.flatnonzero(seen)], n_top_genes)
    return keep


def _most_variable(counts: Any, n_top_genes: int) -> np.ndarray:
    filled = AnnData(sparse.csr_matrix(counts))
    filled = filled[np.asarray(filled.X.sum(axis=1)).ravel() > 0].copy()
    sc.experimental.pp.highly_variable_genes(
        filled,
        flavor="pearson_residuals",
        n_top_genes=n_top_genes,
        chunksize=max(CHUNK_ENTRIES // filled.n_obs, 1),
        check_values=False,
    )
    return filled.var["highly_variable"].to_numpy()


def count_empty(counts: Any, genes: np.ndarray) -> int:
    """Number of spots without any count in the given genes.

    Parameters
    ----------
    counts
        In memory or on disk, which is read block by block.
    genes
        Mask, shape ``(gene,)``.
    """
    totals = np.zeros(counts.shape[0])
    for block in check.blocks(counts):
        kept = np.flatnonzero(genes[block.columns])
        totals[block.rows] += np.asarray(block.values[:, kept].sum(axis=1)).ravel()
    return int((totals == 0).sum())
