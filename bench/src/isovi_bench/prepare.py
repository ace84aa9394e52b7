"""From a data set, a split and a seed to what a method sees, and to what it is measured against."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data import check
from isovi.errors import IsoviWarning
from isovi.pipeline import choose_genes, split
from isovi.run import Settings
from isovi.spots import HELDOUT, SPLIT_KEY, Spots
from isovi.tl.metrics import is_labelled
from isovi_bench.datasets import load
from isovi_bench.job import ALL, MOLECULES, Job
from isovi_bench.task import Task

SECTION_KEY = "section"  # in Task.seen and Task.spots, whatever its name in the data
N_DOMAINS = 7  # passed to methods where the data set has no labels


@dataclass(frozen=True)
class Prepared:
    """A task, and the truth about it that no method sees.

    Attributes
    ----------
    task
        What the method is given.
    placement
        True positions in spacings, sections and split of every spot.
    labels
        Shape ``(cell,)``; ``None`` if the data set has none.
    shuffled
        Whether the positions of the task were shuffled.
    molecules
        Held-out molecules of every spot, of the genes of the task; ``None`` if none are held out.
    heldout_share
        Share of the molecules that is held out.
    left_out
        Number of spots that are left out, since they have no count in the genes of the task.
    """

    task: Task
    placement: Spots
    labels: np.ndarray | None
    shuffled: bool = False
    molecules: sparse.csr_matrix | None = None
    heldout_share: float = 0.0
    left_out: int = 0

    def as_given(self) -> Spots:
        """Positions as the method saw them, of the others the true ones."""
        coordinates = self.placement.coordinates.copy()
        coordinates[self.task.rows] = self.task.seen.obsm["spatial"]
        return replace(self.placement, coordinates=coordinates)


def prepare(job: Job) -> Prepared:
    """Read the data of a job and split it; spots that have no count in the genes chosen are left out.

    Parameters
    ----------
    job
        Its data set is placed.

    Raises
    ------
    InputError
        If the data cannot be used, or the split leaves too little to train on.
    """
    adata = load(job.dataset)
    _check(adata, job)
    share = held_out_molecules(job.split)
    molecules = thin(adata, job.dataset.layer, share, job.seed) if share else None
    where = placed(adata, job)
    settings = Settings(n_top_genes=job.n_top_genes, layer=job.dataset.layer, seed=job.seed)
    genes = choose_genes(adata, where, settings)
    counted = check.cell_totals(check.counts_of(adata, job.dataset.layer), genes) > 0
    if not counted.all():
        adata, where = adata[counted].copy(), replace(where.take(counted), row=np.arange(counted.sum()))
    spots = _spots(adata, genes, np.array(where.sections)[where.section], job.dataset.layer)
    rows = np.flatnonzero(where.split != HELDOUT)
    labels = _labels(adata, job.dataset.label_key)
    task = Task(
        seen=_seen(spots, adata.obsm[job.dataset.spatial_key][rows], where.take(rows), job),
        spots=spots,
        rows=rows,
        seed=job.seed,
        n_domains=N_DOMAINS if labels is None else len(set(labels[is_labelled(labels)])),
        max_epochs=job.max_epochs,
    )
    if molecules is not None:
        molecules = sparse.csr_matrix(molecules[np.flatnonzero(counted)][:, np.flatnonzero(genes)])
    return Prepared(task, where, labels, job.shuffled, molecules, share, int((~counted).sum()))


def held_out_molecules(split: str) -> float:
    """Share of the molecules that a split holds out; 0 if it holds out spots or nothing."""
    kind, _, share = split.partition(":")
    return float(share) if kind == MOLECULES else 0.0


def thin(adata: AnnData, layer: str | None, share: float, seed: int) -> sparse.csr_matrix:
    """Take molecules out of every spot by binomial thinning: what is left and what is taken are independent.

    Parameters
    ----------
    adata
        Raw counts, which are lowered in place.
    layer
        Of the counts; ``X`` if ``None``.
    share
        Of the molecules that are taken.
    seed
        Of the draw.

    Returns
    -------
    The molecules taken, shape ``(cell, gene)``.
    """
    counts = sparse.csr_matrix(adata.X if layer is None else adata.layers[layer], dtype=np.float32)
    taken = counts.copy()
    taken.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), share).astype(np.float32)
    left = sparse.csr_matrix(counts - taken)
    for matrix in (taken, left):
        matrix.eliminate_zeros()
    if layer is None:
        adata.X = left
    else:
        adata.layers[layer] = left
    return taken


def _check(adata: AnnData, job: Job) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsoviWarning)  # of spots at one position
        check.dataset(
            adata,
            spatial_key=job.dataset.spatial_key,
            section_key=job.dataset.sections,
            label_key=job.dataset.label_key,
            layer=job.dataset.layer,
            allow_empty_genes=True,
        )


def placed(adata: AnnData, job: Job) -> Spots:
    """Where the spots are, split as ``isovi fit`` splits them.

    Parameters
    ----------
    adata
        The data.
    job
        Its ``split`` and ``seed`` are read.

    Raises
    ------
    InputError
        If fewer than 10 spots are left to train on.
    """
    kind, _, name = job.split.partition(":")
    holdout, key = ("0" if kind in (ALL, MOLECULES) else job.split), job.dataset.sections
    if kind == "donor":
        holdout, key = f"section:{name}", job.dataset.donor_key
    spatial_key = job.dataset.spatial_key
    settings = Settings(holdout=holdout, section_key=key, spatial_key=spatial_key, seed=job.seed)
    parts = split(adata, settings).split
    return replace(check.spots(adata, spatial_key, job.dataset.sections), split=parts)


def _spots(adata: AnnData, genes: np.ndarray, section: np.ndarray, layer: str | None) -> AnnData:
    """Counts of the chosen genes and sections: nothing else of the data."""
    counts = adata.X if layer is None else adata.layers[layer]
    return AnnData(
        sparse.csr_matrix(counts[:, np.flatnonzero(genes)], dtype=np.float32),
        obs=pd.DataFrame({SECTION_KEY: pd.Categorical(section)}, index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names[genes]),
    )


def _seen(spots: AnnData, positions: np.ndarray, where: Spots, job: Job) -> AnnData:
    """Training and validation spots; their unit is their own, so that nothing of the held-out is in it."""
    seen = spots[where.row].copy()
    seen.obs[SECTION_KEY] = seen.obs[SECTION_KEY].cat.remove_unused_categories()
    order = shuffled_within(where.section, job.seed) if job.shuffled else slice(None)
    known = Spots.at(positions, where.section, where.sections)
    seen.obsm["spatial"] = known.coordinates[order]
    seen.obs[SPLIT_KEY] = pd.Categorical(where.split.astype(object))
    return seen


def shuffled_within(codes: np.ndarray, seed: int) -> np.ndarray:
    """A random order of the spots of each section among themselves, shape ``(cell,)``.

    Parameters
    ----------
    codes
        Section of each spot.
    seed
        Of the order.
    """
    order, rng = np.arange(len(codes)), np.random.default_rng(seed)
    for code in np.unique(codes):
        of = np.flatnonzero(codes == code)
        order[of] = rng.permutation(of)
    return order


def _labels(adata: AnnData, label_key: str | None) -> np.ndarray | None:
    if label_key is None:
        return None
    labels = adata.obs[label_key].astype(object).to_numpy()
    return labels if is_labelled(labels).any() else None
