"""A small tissue, quick training, and one fitted model for the tests that only read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scvi
from anndata import AnnData

from isovi import Constraint, IsoSCVI
from isovi.simulate import simulate

QUICK = {"max_epochs": 3, "batch_size": 32, "accelerator": "cpu", "enable_progress_bar": False}


def make_tissue(n_obs: int = 150, seed: int = 0) -> AnnData:
    adata = simulate("layers", n_obs=n_obs, n_genes=40, n_sections=2, seed=seed)
    rng = np.random.default_rng(seed)
    adata.obs["batch"] = np.where(rng.uniform(size=n_obs) < 0.5, "a", "b")
    adata.obs["label"] = np.where(rng.uniform(size=n_obs) < 0.3, "unknown", adata.obs["domain"].astype(str))
    adata.obs["age"] = rng.normal(size=n_obs)
    return adata


def train(model: Any, **kwargs: Any) -> Any:
    """Train for a moment; returns the model."""
    model.train(**{**QUICK, **kwargs})
    return model


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Scvi-tools' seed, put back afterwards; the data of a test does not decide its outcome by chance."""
    before = scvi.settings.seed
    scvi.settings.seed = 0
    yield
    scvi.settings._seed = before


@pytest.fixture
def tissue() -> AnnData:
    """150 spots of two sections, 40 genes, with batches, incomplete labels and a covariate."""
    return make_tissue()


@pytest.fixture(scope="session", name="make_tissue")
def _make_tissue() -> Callable[..., AnnData]:
    return make_tissue


@pytest.fixture(scope="session")
def quickly() -> Callable[..., Any]:
    """Trains a model for a moment."""
    return train


@pytest.fixture(scope="module")
def fitted() -> IsoSCVI:
    """A model with one λ a section, for tests that leave it as it is."""
    scvi.settings.seed = 0
    adata = make_tissue()
    IsoSCVI.setup_anndata(adata, section_key="section", batch_key="batch")
    return train(IsoSCVI(adata, n_latent=4, n_hidden=16, distortion=Constraint(0.3, per_section=True)))
