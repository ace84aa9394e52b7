"""A task as the harness makes them, of simulated spots."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scvi
from anndata import AnnData
from isovi.workflow.prepare import split_spots

from isovi.data.fields import normalise
from isovi.simulate import simulate
from isovi.spots import HELDOUT, SPLIT_KEY, TRAIN
from isovi.tl.evaluate import Placement
from isovi_bench.task import Task


def task_of(adata: AnnData, max_epochs: int | None = 2, seed: int = 0) -> Task:
    """A quarter of the spots held out."""
    split = split_spots(adata.n_obs, 0.25, rng=np.random.default_rng(seed))
    rows = np.flatnonzero(split != HELDOUT)
    spots = AnnData(adata.X.copy(), obs=adata.obs[["section"]].copy(), var=adata.var[[]].copy())
    seen = spots[rows].copy()
    seen.obsm["spatial"] = adata.obsm["spatial"][rows] / 100.0
    seen.obs[SPLIT_KEY] = split[rows]
    return Task(seen, spots, rows, seed, max_epochs=max_epochs)


def place(adata: AnnData, task: Task) -> Placement:
    """Where the spots of a task truly are."""
    codes = adata.obs["section"].cat.codes.to_numpy().astype(np.int64)
    split = np.full(adata.n_obs, HELDOUT, dtype="<U10")
    split[task.rows] = task.seen.obs[SPLIT_KEY]
    names = list(adata.obs["section"].cat.categories)
    return Placement(normalise(adata.obsm["spatial"], codes, names, {})[0], codes, split)


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
def placement(tissue: AnnData, make_task: Callable[..., Task]) -> Placement:
    """Where the spots of a task truly are."""
    return place(tissue, make_task())


@pytest.fixture(scope="session")
def train_rows(make_task: Callable[..., Task]) -> np.ndarray:
    """Rows of the training spots in ``Task.spots``."""
    made = make_task()
    return made.rows[made.seen.obs[SPLIT_KEY].to_numpy() == TRAIN]
