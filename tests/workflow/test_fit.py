from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from isovi.workflow import fit as workflow
from isovi.workflow.fit import FitOptions, check_options, distortion_of
from matplotlib import image
from scipy import sparse

from isovi import Constraint, IsoSCVI, IsoVAE, Neighbors, Penalty
from isovi.errors import InputError, IsoviWarning, OutputError

FIGURES = {
    "anisotropy",
    "distortion_constant",
    "reconstruction",
    "elbo",
    "mse_lognorm",
    "morans_i",
    "gearys_c",
    "relative_distortion",
    "spearman_distance",
}


# ---------------------------------------------------------------------------- one run, from all sides


def test_the_folder_holds_all_that_was_promised(run: Any) -> None:
    files = {str(file.relative_to(run.out)) for file in run.out.rglob("*") if file.is_file()}
    pictures = {f"figures/{name}.png" for name in ("domains", "latent", "history", "shepard")}
    assert files == {"adata.h5ad", "model/model.pt", "metrics.json", "history.csv", "run.json"} | pictures
    assert [file.name for file in run.out.parent.iterdir()] == [run.out.name]


def test_metrics_have_every_key(run: Any) -> None:
    metrics = run.json("metrics.json")
    assert metrics == run.metrics
    assert metrics["n_obs"] == metrics["n_train"] + metrics["n_validation"] + metrics["n_heldout"] == 120
    assert metrics["n_heldout"] == 30
    assert (metrics["backbone"], metrics["distortion"]) == ("scvi", str(Constraint()))
    assert (metrics["seed"], metrics["epochs"]) == (0, 3)
    assert metrics["seconds"] > 0 and metrics["peak_memory_mb"] > 50
    assert metrics["distance_scale"] > 0
    assert set(metrics["train"]) == set(metrics["all"]) == FIGURES
    assert set(metrics["heldout"]) == FIGURES | {"coordinate_error"}
    for part in ("train", "heldout", "all"):
        assert np.isfinite(list(metrics[part].values())).all()


def test_as_many_domains_as_labels_are_compared_with_them(run: Any) -> None:
    metrics, adata = run.json("metrics.json"), run.adata()
    assert metrics["n_domains"] == adata.obs["isovi_domain"].nunique() == adata.obs["domain"].nunique()
    assert -1 <= metrics["ari"] <= 1 and 0 <= metrics["nmi"] <= 1


def test_the_record_tells_what_was_run_on_what(run: Any, tissue_file: Path) -> None:
    record = run.json("run.json")
    assert record["input_sha256"] == hashlib.sha256(tissue_file.read_bytes()).hexdigest()
    assert {"command", "seconds", "peak_memory_mb", "platform"} <= set(record)
    assert record["seed"] == 0 and record["summary"].startswith("Trained 3 epochs")
    assert {"python", "isovi", "scvi-tools", "torch", "anndata"} <= set(record["versions"])
    assert record["arguments"]["input"] == str(tissue_file)
    assert record["arguments"]["distortion"] == str(Constraint())
    assert set(record["arguments"]) == set(FitOptions.__dataclass_fields__)


def test_the_input_is_in_the_result_unchanged(run: Any, tissue_file: Path) -> None:
    before, after = anndata.io.read_h5ad(tissue_file), run.adata()
    assert (before.X != after.X).nnz == 0
    assert (before.layers["counts"] != after.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    pd.testing.assert_frame_equal(after.var[before.var.columns], before.var)
    for key, values in before.obsm.items():
        np.testing.assert_array_equal(after.obsm[key], values)
    np.testing.assert_array_equal(after.varm["true_loadings"], before.varm["true_loadings"])
    assert set(before.uns) < set(after.uns)


def test_the_result_has_latent_domains_split_and_parameters(run: Any) -> None:
    adata = run.adata()
    assert adata.obsm["X_isovi"].shape == (120, 4)
    assert set(adata.obs) == {"section", "domain", "true_size", "batch", "isovi_domain", "isovi_split"}
    counted = adata.obs["isovi_split"].value_counts().to_dict()
    metrics = run.metrics
    assert counted == {part: metrics[f"n_{part}"] for part in ("train", "validation", "heldout")}
    assert adata.var["isovi_gene"].sum() == metrics["n_genes"] < 40
    assert adata.uns["isovi"]["n_latent"] == 4
    assert adata.uns["isovi"]["section_key"] == "section"


def test_held_out_spots_take_no_part_in_training_or_stopping(run: Any) -> None:
    split = run.adata().obs["isovi_split"]
    for part, indices in (("train", run.model.train_indices), ("validation", run.model.validation_indices)):
        assert set(run.model.adata.obs_names[indices]) == set(split.index[split == part])
    assert not set(run.model.adata.obs_names) & set(split.index[split == "heldout"])


def test_the_saved_model_gives_the_same_latent(run: Any) -> None:
    adata = run.adata()
    model = IsoSCVI.load(run.out / "model", adata[:, adata.var["isovi_gene"]].copy(), accelerator="cpu")
    np.testing.assert_array_equal(model.get_latent_representation(), adata.obsm["X_isovi"])
    assert model.distance_scale == run.metrics["distance_scale"]


def test_pictures_are_pictures(run: Any) -> None:
    for file in (run.out / "figures").iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")
        pixels = image.imread(file)
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 0.02  # something is drawn


def test_each_stage_says_one_line(run: Any) -> None:
    lines = run.said.splitlines()
    starts = ["Read 120 spots", "Split into 81 train, 9 validation, 30 heldout spots", "  epoch 1/3"]
    starts += ["  epoch 2/3", "  epoch 3/3", "Trained 3 epochs", "Held-out spots: "]
    starts += ["Held-out geometry: ", "Wrote "]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


# ---------------------------------------------------------------------------- other ways to run it


@pytest.fixture
def fitted(fit: Callable[..., Any], tissue_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Fit the tissue with other options, without pictures."""
    return lambda **options: fit(options.pop("file", tissue_file), tmp_path / "out", **options)


def test_a_whole_section_is_held_out(fit: Callable[..., Any], tissue_file: Path, tmp_path: Path) -> None:
    run = fit(
        tissue_file,
        tmp_path / "out",
        pictures=True,
        section_key="section",
        holdout="section:section_1",
        distortion=Constraint(0.3, per_section=True),
    )
    obs = run.adata().obs
    np.testing.assert_array_equal(obs["isovi_split"] == "heldout", obs["section"] == "section_1")
    assert set(run.metrics["distance_scale"]) == {"section_0"}
    assert (run.out / "figures/shepard.png").is_file()


def test_plain_is_the_same_network_without_pressure(fitted: Callable[..., Any]) -> None:
    run = fitted(distortion=distortion_of(None, None, True), label_key="domain")
    assert run.metrics["distortion"] == "none"
    assert "relative_distortion_train" in run.model.history_  # measured all the same
    assert run.model.module.n_latent == 4


def test_vae_with_a_penalty_from_zarr(fitted: Callable[..., Any], tissue: AnnData, tmp_path: Path) -> None:
    tissue.write_zarr(tmp_path / "tissue.zarr")
    run = fitted(file=tmp_path / "tissue.zarr", backbone="vae", distortion=Penalty(5.0), holdout="0")
    assert isinstance(run.model, IsoVAE)
    assert (run.metrics["backbone"], run.metrics["distortion"]) == ("vae", "penalty 5")
    assert run.metrics["n_heldout"] == 0
    assert "heldout" not in run.metrics
    assert len(run.json("run.json")["input_sha256"]) == 64
    assert "All spots: " in run.said


def test_near_pairs_few_genes_and_warnings_once(
    fitted: Callable[..., Any], tissue: AnnData, tmp_path: Path
) -> None:
    tissue.obsm["spatial"][1] = tissue.obsm["spatial"][0]
    tissue.write_h5ad(tmp_path / "twice.h5ad")
    with pytest.warns(IsoviWarning) as caught:
        run = fitted(file=tmp_path / "twice.h5ad", pairs=Neighbors(6), n_top_genes=10, section_key="section")
    assert sum("exactly the position" in str(warning.message) for warning in caught) == 1
    assert run.metrics["n_genes"] == 10
    assert run.json("run.json")["arguments"]["pairs"] == str(Neighbors(6))


# ---------------------------------------------------------------------------- the folder: whole or not at all


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails the test: what is refused must be refused before it."""
    monkeypatch.setattr(workflow, "train", lambda *_: pytest.fail("training was reached"))


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tissue_file: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="output folder"):
        workflow.fit(FitOptions(tissue_file, tmp_path / "out", force=force))
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "thesis.txt"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_an_earlier_run_is_replaced_only_when_forced(
    fit: Callable[..., Any], tissue_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("run.json", "old.txt"):
        (out / name).write_text("{}")
    with pytest.raises(OutputError, match="exists"):
        fit(tissue_file, out)
    assert (out / "old.txt").is_file()
    fit(tissue_file, out, force=True, max_epochs=1)
    assert not (out / "old.txt").exists()
    assert (out / "metrics.json").is_file()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crash_in_the_middle_leaves_nothing_behind(
    tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def crash(folder: Path, *_: object) -> None:
        (folder / "half.txt").write_text("half")
        raise error

    monkeypatch.setattr(workflow, "train", lambda used, *_: crash(next(tmp_path.glob(".out*")), used))
    with pytest.raises(error):
        workflow.fit(FitOptions(tissue_file, tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- refused before training


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_latent": 0}, "--n-latent 0 .* at least 1"),
        ({"max_epochs": 0}, "--max-epochs 0 .* at least 1"),
        ({"seed": -1}, "--seed -1 .* at least 0"),
        ({"backbone": "gan"}, "--backbone gan .* scvi, vae"),
        ({"holdout": "0.9", "input": "small.h5ad"}, "of 60 spots are left for training"),
        ({"holdout": "section:section_1", "section_key": "section", "batch_key": "section"}, "never saw"),
        ({"spatial_key": "xy"}, 'no "xy"'),
        ({"section_key": "slide"}, 'no column "slide"'),
        ({"batch_key": "donor"}, 'no column "donor"'),
        ({"label_key": "truth"}, 'no column "truth"'),
        ({"layer": "raw"}, 'no "raw"'),
    ],
)
def test_options_that_cannot_be_met(
    tissue_file: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    file = tissue_file
    if "input" in options:
        file = tissue_file.with_name(options["input"])
        anndata.io.read_h5ad(tissue_file)[:60].copy().write_h5ad(file)
    with pytest.raises(InputError, match=message):
        workflow.fit(FitOptions(**{**options, "input": file, "out": tmp_path / "out"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("untrained")
def test_a_spot_without_counts_in_the_chosen_genes(tissue: AnnData, tmp_path: Path) -> None:
    counts = tissue.X.toarray()
    rare = np.flatnonzero(tissue.X.getnnz(axis=0) == 0)[0]
    counts[5], counts[5, rare] = 0, 1  # its only gene is dropped: no other spot has it
    tissue.X = sparse.csr_matrix(counts)
    tissue.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(InputError, match="1 spots have no count in the"):
        workflow.fit(FitOptions(tmp_path / "x.h5ad", tmp_path / "out", n_top_genes=0))


def test_the_options_that_state_what_is_asked_of_distances() -> None:
    assert distortion_of(None, None, False) == Constraint()
    assert distortion_of(0.3, None, False) == Constraint(0.3)
    assert distortion_of(None, 2.0, False) == Penalty(2.0)
    assert distortion_of(None, None, True) == Penalty(0.0)
    assert distortion_of(None, 0.0, False) == Penalty(0.0)


@pytest.mark.parametrize("given", [(0.3, 1.0, False), (0.3, None, True), (None, 0.0, True), (0.3, 1.0, True)])
def test_they_exclude_each_other(given: tuple[float | None, float | None, bool]) -> None:
    with pytest.raises(InputError, match="exclude each other"):
        distortion_of(*given)


def test_good_options_pass(tmp_path: Path) -> None:
    check_options(FitOptions(tmp_path / "x.h5ad", tmp_path / "out", max_epochs=1, n_latent=1))
