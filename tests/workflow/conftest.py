"""A small tissue in a file, and one short run of which many things are asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from anndata import AnnData
from isovi.workflow import fit as workflow
from rich.console import Console
from scipy import sparse

from isovi.simulate import simulate

N_OBS, N_GENES = 120, 40


def make_tissue() -> AnnData:
    """Two sections with batches, a layer of counts, links between spots, and a gene that no spot has."""
    adata = simulate("layers", n_obs=N_OBS, n_genes=N_GENES, n_sections=2, seed=0)
    counts = adata.X.toarray()
    counts[:, 0] = 0
    counts[:, 1] += 1  # no spot becomes empty
    adata.X = sparse.csr_matrix(counts)
    adata.layers["counts"] = adata.X.copy()
    adata.obs["batch"] = np.where(np.arange(N_OBS) % 2, "a", "b")
    return adata


@dataclass
class Run:
    """What one call of ``fit`` was given, said and left behind."""

    options: workflow.FitOptions
    metrics: dict[str, Any]
    said: str
    model: Any

    @property
    def out(self) -> Path:
        return self.options.out

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.out / name).read_text())

    def adata(self) -> AnnData:
        return anndata.io.read_h5ad(self.out / "adata.h5ad")


def run_fit(file: Path, out: Path, *, pictures: bool = False, **options: Any) -> Run:
    """Fit for two epochs; the pictures, which cost more than that, only where they are asked for."""
    asked = workflow.FitOptions(file, out, **{"max_epochs": 2, "n_latent": 4, "holdout": "0.25", **options})
    console, models = Console(file=StringIO(), width=80), []
    with pytest.MonkeyPatch.context() as patch:
        train = workflow.train
        patch.setattr(workflow, "train", lambda *args: models.append(train(*args)) or models[-1])
        if not pictures:
            patch.setattr(workflow, "draw", lambda *_: None)
        metrics = workflow.fit(asked, console)
    return Run(asked, metrics, console.file.getvalue(), models[0])


@pytest.fixture
def tissue() -> AnnData:
    return make_tissue()


@pytest.fixture(scope="session")
def tissue_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "tissue.h5ad"
    make_tissue().write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def fit() -> Callable[..., Run]:
    return run_fit


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], str]:
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def run(tissue_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run with all that there is; tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return run_fit(
        tissue_file,
        out,
        pictures=True,
        max_epochs=3,
        section_key="section",
        batch_key="batch",
        label_key="domain",
        layer="counts",
    )
