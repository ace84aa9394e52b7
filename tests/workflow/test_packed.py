from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from isovi.workflow import evaluate, prepare

from isovi.data import check, pack
from isovi.data.loading import disk_sampler
from isovi.graph import Neighbors

KEYS = {"section_key": "section", "batch_key": "batch", "label_key": "domain"}


@pytest.fixture(scope="module")
def store(tissue_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "tissue.zarr"
    pack.pack(tissue_file, path, section_key="section")
    return path


@pytest.fixture(scope="module")
def run_packed(store: Path, tmp_path_factory: pytest.TempPathFactory, fit: Callable) -> Any:
    """One run on a store, with so little read at a time that there are several buffers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_sampler, "RUN", 8)
        patch.setattr(disk_sampler, "RUNS_PER_BUFFER", 4)
        patch.setattr(prepare, "GENE_SPOTS", 50)
        patch.setattr(evaluate, "EVALUATED", 15)
        return fit(store, tmp_path_factory.mktemp("runs") / "run", n_top_genes=20, layer="counts", **KEYS)


def test_a_packed_run_leaves_the_same_files(run_packed: Any) -> None:
    assert {file.name for file in run_packed.out.iterdir()} >= {
        "adata.h5ad",
        "model",
        "metrics.json",
        "run.json",
    }
    assert not list(run_packed.out.rglob("*.zarr"))


def test_results_are_in_the_order_of_the_input(run_packed: Any, tissue_file: Path) -> None:
    given, found = anndata.io.read_h5ad(tissue_file), run_packed.adata()
    assert found.obs_names.tolist() == given.obs_names.tolist()
    assert np.array_equal(found.obsm["spatial"], given.obsm["spatial"])
    assert found.obsm["X_isovi"].shape == (given.n_obs, 4)
    assert found.X is None
    assert found.var["isovi_gene"].sum() == 20
    assert pack.ROW_COLUMN not in found.obs


def test_the_latent_is_that_of_the_model_on_each_cell(run_packed: Any, tissue_file: Path) -> None:
    found, given = run_packed.adata(), anndata.io.read_h5ad(tissue_file)
    used = given[:, found.var["isovi_gene"]].copy()
    latent = run_packed.model.get_latent_representation(used)
    assert np.abs(latent - found.obsm["X_isovi"]).max() < 1e-4


def test_figures_are_complete_and_finite(run_packed: Any) -> None:
    metrics = run_packed.metrics
    assert metrics["n_obs"] == metrics["n_train"] + metrics["n_validation"] + metrics["n_heldout"] == 120
    for part in ("train", "heldout", "all"):
        assert np.isfinite(list(metrics[part].values())).all()


def test_held_out_cells_take_no_part(run_packed: Any) -> None:
    split = run_packed.model.adata.obs_names[run_packed.model.train_indices]
    heldout = run_packed.adata().obs.query("isovi_split == 'heldout'").index
    assert len(heldout) == 30
    assert not set(split) & set(heldout)


def test_what_genes_were_chosen_on_is_said(run_packed: Any) -> None:
    assert "Opened 120 spots" in run_packed.said
    assert "20 genes chosen on 50 of the training spots" in " ".join(run_packed.said.split())


@pytest.mark.slow
def test_near_pairs_train_on_a_store(store: Path, tmp_path: Path, fit: Callable) -> None:
    run = fit(store, tmp_path / "run", pairs=Neighbors(3), n_top_genes=0, **KEYS)
    assert np.isfinite(run.metrics["heldout"]["relative_distortion"])


def test_counts_are_never_read_whole(
    store: Path, tmp_path: Path, fit: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = []
    cut = check.blocks
    monkeypatch.setattr(check, "_BLOCK_VALUES", 300)
    monkeypatch.setattr(
        type(pack.open_packed(store).X), "to_memory", lambda _: pytest.fail("counts were read whole")
    )
    monkeypatch.setattr(
        check, "blocks", lambda m: (largest.append(b.rows.stop - b.rows.start) or b for b in cut(m))
    )
    fit(store, tmp_path / "run", **KEYS)
    assert 0 < max(largest) <= 60
