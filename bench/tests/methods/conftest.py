"""A task as the harness makes them, of simulated spots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import scvi
from anndata import AnnData

from isovi.data import check
from isovi.pipeline import split
from isovi.run import Settings
from isovi.simulate import simulate
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN, Spots
from isovi_bench.task import Task


def task_of(adata: AnnData, max_epochs: int | None = 2, seed: int = 0) -> Task:
    """A quarter of the spots held out."""
    parts = split(adata, Settings(holdout=0.25, seed=seed)).split
    rows = np.flatnonzero(parts != HELDOUT)
    spots = AnnData(adata.X.copy(), obs=adata.obs[["section"]].copy(), var=adata.var[[]].copy())
    seen = spots[rows].copy()
    seen.obsm["spatial"] = adata.obsm["spatial"][rows] / 100.0
    seen.obs[SPLIT_KEY] = parts[rows]
    return Task(seen, spots, rows, seed, max_epochs=max_epochs)


def place(adata: AnnData, task: Task) -> Spots:
    """Where the spots of a task truly are."""
    parts = np.full(adata.n_obs, HELDOUT, dtype="<U10")
    parts[task.rows] = task.seen.obs[SPLIT_KEY]
    return replace(check.spots(adata, section_key="section"), split=parts)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Scvi-tools' seed, put back after an adapter has set it."""
    before = scvi.settings.seed
    yield
    scvi.settings._seed = before


@pytest.fixture(scope="session")
def tissue() -> AnnData:
    """120 spots of two sections, 30 genes, of which every spot has many counts."""
    return simulate("layers", n_obs=120, n_genes=30, n_sections=2, seed=0, depth=5.0)


@pytest.fixture(scope="session")
def make_task(tissue: AnnData) -> Callable[..., Task]:
    """Makes a task, of the tissue unless told otherwise."""

    def make(adata: AnnData = tissue, **kwargs: int | None) -> Task:
        return task_of(adata, **kwargs)

    return make


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    """Two epochs on the tissue."""
    return make_task()


@pytest.fixture(scope="session")
def placement(tissue: AnnData, make_task: Callable[..., Task]) -> Spots:
    """Where the spots of a task truly are."""
    return place(tissue, make_task())


@pytest.fixture(scope="session")
def train_rows(make_task: Callable[..., Task]) -> np.ndarray:
    """Rows of the training spots in ``Task.spots``."""
    made = make_task()
    return made.rows[made.seen.obs[SPLIT_KEY].to_numpy() == TRAIN]
