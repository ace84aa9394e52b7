"""From a data set, a split and a seed to what a method sees, and to what it is measured against."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from isovi.workflow.prepare import count_empty, holdout_of, select_genes, split_spots
from scipy import sparse

from isovi.data import check
from isovi.data.fields import normalise
from isovi.errors import InputError, IsoviWarning
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN
from isovi.tl.evaluate import Placement
from isovi.tl.metrics import is_labelled
from isovi_bench.datasets import load
from isovi_bench.job import ALL, Job
from isovi_bench.task import Task

SECTION_KEY = "section"  # in Task.seen and Task.spots, whatever its name in the data
N_DOMAINS = 7  # passed to methods where the data set has no labels
MIN_TRAIN = 10


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
    """

    task: Task
    placement: Placement
    labels: np.ndarray | None
    shuffled: bool = False

    def as_given(self) -> Placement:
        """Positions as the method saw them, of the others the true ones."""
        coordinates = self.placement.coordinates.copy()
        coordinates[self.task.rows] = self.task.seen.obsm["spatial"]
        return Placement(coordinates, self.placement.section, self.placement.split)


def prepare(job: Job) -> Prepared:
    """Read the data of a job and split it.

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
    codes, names = check.sections(adata, job.dataset.sections)
    split = split_of(adata, job)
    genes = select_genes(
        adata, split == TRAIN, n_top_genes=job.n_top_genes, layer=job.dataset.layer, seed=job.seed
    )
    _require_counts(adata, genes, job)
    raw = check.coordinates(adata, job.dataset.spatial_key)
    spots = _spots(adata, genes, np.array(names)[codes], job.dataset.layer)
    rows = np.flatnonzero(split != HELDOUT)
    labels = _labels(adata, job.dataset.label_key)
    task = Task(
        seen=_seen(spots, raw, split, rows, job),
        spots=spots,
        rows=rows,
        seed=job.seed,
        n_domains=N_DOMAINS if labels is None else len(set(labels[is_labelled(labels)])),
        max_epochs=job.max_epochs,
    )
    coordinates, _ = normalise(raw, codes, names, {})
    return Prepared(task, Placement(coordinates, codes, split), labels, job.shuffled)


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


def split_of(adata: AnnData, job: Job) -> np.ndarray:
    """The split, as ``isovi fit`` makes it.

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
    holdout: float | np.ndarray = 0.0
    if kind == "donor":
        holdout = holdout_of(adata, f"section:{name}", job.dataset.donor_key)
    elif kind != ALL:
        holdout = holdout_of(adata, job.split, job.dataset.sections)
    split = split_spots(adata.n_obs, holdout, rng=np.random.default_rng(job.seed))
    if (split == TRAIN).sum() < MIN_TRAIN:
        raise InputError(
            f"The split {job.split} leaves {(split == TRAIN).sum()} of {adata.n_obs} spots for training.",
            f"At least {MIN_TRAIN} are needed.",
            "Hold out fewer spots.",
        )
    return split


def _require_counts(adata: AnnData, genes: np.ndarray, job: Job) -> None:
    layer = job.dataset.layer
    empty = count_empty(adata.X if layer is None else adata.layers[layer], genes)
    if empty:
        raise InputError(
            f"{empty} spots have no count in the {int(genes.sum())} genes chosen.",
            "Every spot needs a count.",
            "Raise n_top_genes, or drop spots of few counts from the data.",
        )


def _spots(adata: AnnData, genes: np.ndarray, section: np.ndarray, layer: str | None) -> AnnData:
    """Counts of the chosen genes and sections: nothing else of the data."""
    counts = adata.X if layer is None else adata.layers[layer]
    return AnnData(
        sparse.csr_matrix(counts[:, np.flatnonzero(genes)], dtype=np.float32),
        obs=pd.DataFrame({SECTION_KEY: pd.Categorical(section)}, index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names[genes]),
    )


def _seen(spots: AnnData, raw: np.ndarray, split: np.ndarray, rows: np.ndarray, job: Job) -> AnnData:
    """Training and validation spots; their positions are scaled by themselves, without the held-out."""
    seen = spots[rows].copy()
    seen.obs[SECTION_KEY] = seen.obs[SECTION_KEY].cat.remove_unused_categories()
    section = seen.obs[SECTION_KEY].cat
    codes = section.codes.to_numpy(dtype=np.int64)
    positions, _ = normalise(raw[rows], codes, list(section.categories), {})
    order = shuffled_within(codes, job.seed) if job.shuffled else slice(None)
    seen.obsm["spatial"] = positions[order]
    seen.obs[SPLIT_KEY] = pd.Categorical(split[rows])
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
