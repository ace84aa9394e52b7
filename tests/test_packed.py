from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from isovi import files, pipeline, tl
from isovi.data import check, io, owner, pack
from isovi.data.loading import disk_sampler
from isovi.diagnose import diagnose
from isovi.errors import InputError
from isovi.graph import Neighbors
from isovi.progress import Progress
from isovi.run import Run, Settings
from isovi.spots import HELDOUT, VALIDATION
from isovi.tl import evaluate

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
        patch.setattr(pipeline, "GENE_SPOTS", 50)
        patch.setattr(evaluate, "EVALUATED", 15)
        return fit(store, tmp_path_factory.mktemp("runs") / "run", n_top_genes=20, layer="counts", **KEYS)


def test_a_packed_run_leaves_the_same_files(run_packed: Any) -> None:
    found = {str(file.relative_to(run_packed.out)) for file in run_packed.out.rglob("*") if file.is_file()}
    assert found == {
        "adata.h5ad",
        "model/model.json",
        "model/model.safetensors",
        "metrics.json",
        "history.csv",
        "run.json",
    }


def test_temporary_files_live_as_long_as_the_run(
    store: Path, tmp_path: Path, fit: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were left in the folder of the results, where the run in memory no longer found them."""
    run = fit(store, tmp_path / "out", max_epochs=1).run
    scratch = Path(run.scratch.name)
    assert set(tmp_path.iterdir()) == {tmp_path / "out", scratch}
    with monkeypatch.context() as patch:  # as if this process had been killed
        patch.setattr(owner, "started", lambda _: None)
        io.remove_leftovers(tmp_path / "out")
    assert not scratch.exists() and (tmp_path / "out" / "run.json").is_file()


def test_results_are_in_the_order_of_the_input(run_packed: Any, tissue_file: Path) -> None:
    given, found = anndata.io.read_h5ad(tissue_file), run_packed.adata()
    assert found.obs_names.tolist() == given.obs_names.tolist()
    assert np.array_equal(found.obsm["spatial"], given.obsm["spatial"])
    assert found.obsm["X_isovi"].shape == (given.n_obs, 4)
    assert found.X is None
    assert found.var["isovi_gene"].sum() == 20
    assert pack.ROW_COLUMN not in found.obs


def test_the_latent_representation_is_that_of_the_model_on_each_cell(
    run_packed: Any, tissue_file: Path
) -> None:
    found, given = run_packed.adata(), anndata.io.read_h5ad(tissue_file)
    used = given[:, found.var["isovi_gene"]].copy()
    latent = run_packed.model.get_latent_representation(used)
    assert np.abs(latent - found.obsm["X_isovi"]).max() < 1e-4


def test_the_run_in_memory_still_has_its_counts(run_packed: Any) -> None:
    """They are in a temporary store, which was moved away with the folder of the results."""
    latent = run_packed.model.get_latent_representation()
    assert np.abs(latent - run_packed.run.adata.obsm["X_isovi"]).max() < 1e-4


def test_the_model_of_a_run_on_disk_needs_the_store(run_packed: Any, store: Path) -> None:
    assert Run.read(run_packed.out).model.is_trained
    store.rename(store.with_name("elsewhere.zarr"))
    try:
        with pytest.raises(InputError, match="packed data, whose counts are not in its adata"):
            Run.read(run_packed.out).model  # noqa: B018  # reading it is the point
    finally:
        store.with_name("elsewhere.zarr").rename(store)


def test_placing_reads_the_counts_of_the_cells_that_it_uses(
    run_packed: Any, tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tl.place, "MOST_LEARNED", 20)  # of each section
    run, read, told = Run.read(run_packed.out), [], []
    with monkeypatch.context() as patch:
        counts = pack.counts_in_input_order
        patch.setattr(pack, "counts_in_input_order", lambda *given: read.append(counts(*given)) or read[-1])
        patch.setattr(Progress, "say", lambda _, text: told.append(text))
        files.place(run, tissue_file, tmp_path / "placed.h5ad", progress=Progress())
    [matrix] = read
    n_calibrating = (run.split == VALIDATION).sum()
    assert matrix.shape == (2 * 20 + n_calibrating, 20) and "model" not in vars(run)
    assert f"Placing rests on {matrix.shape[0]} random cells of the 90 of the reference" in told
    whole = Run.read(run_packed.out)  # the same cells are drawn of all that could be
    kept, query = whole.split != HELDOUT, anndata.io.read_h5ad(tissue_file)
    calibration = (whole.split == VALIDATION)[kept]
    placer = tl.SpatialPlacer(whole.model).fit(whole.model_data()[kept].copy(), calibration=calibration)
    placed = anndata.io.read_h5ad(tmp_path / "placed.h5ad").obsm["X_placed"]
    np.testing.assert_allclose(placed, placer.predict(query), rtol=1e-4)


def test_metrics_are_complete_and_finite(run_packed: Any) -> None:
    metrics = run_packed.metrics
    assert metrics["n_obs"] == metrics["n_train"] + metrics["n_validation"] + metrics["n_heldout"] == 120
    for part in ("train", "heldout", "all"):
        assert np.isfinite(list(metrics[part].values())).all()


def test_diagnose_completes_a_run_of_packed_data_from_its_store(
    run_packed: Any, tmp_path: Path, unsealed: Callable[[Path], Path]
) -> None:
    folder = unsealed(Path(shutil.copytree(run_packed.out, tmp_path / "run")))
    metrics = json.loads((folder / "metrics.json").read_text())
    made = {"train", "heldout", "all", "certificate", "n_domains"}
    kept = {name: value for name, value in metrics.items() if name not in made}
    (folder / "metrics.json").write_text(json.dumps(kept))
    diagnose(folder)
    found = Run.read(folder)
    assert found.is_complete and found.metrics["n_domains"] == metrics["n_domains"]
    for name in ("spearman_distance", "morans_i", "anisotropy"):  # others are of samples, in another order
        assert found.metrics["all"][name] == pytest.approx(metrics["all"][name], rel=1e-3)


def test_held_out_cells_take_no_part(run_packed: Any) -> None:
    split = run_packed.model.adata.obs_names[run_packed.model.train_indices]
    heldout = run_packed.adata().obs.query("isovi_split == 'heldout'").index
    assert len(heldout) == 30
    assert not set(split) & set(heldout)


def test_what_genes_were_chosen_on_is_said(run_packed: Any) -> None:
    assert any(line.startswith("Opened 120 spots") for line in run_packed.said)
    assert any(line.endswith("20 genes chosen on 50 of the training spots") for line in run_packed.said)


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


def test_options_of_reading_are_refused_with_a_store(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"min_counts=5 was given .* packed.*isovi pack"):
        files.fit(store, tmp_path / "run", Settings(), min_counts=5)
    assert list(tmp_path.iterdir()) == []
