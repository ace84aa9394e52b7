from __future__ import annotations

import hashlib
import io
import re
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import image

from isovi import InputError, Neighbors, OutputError, files, tl
from isovi.data import check
from isovi.data.io import Source
from isovi.pipeline import WHOLE
from isovi.run import Run, Settings

# ---------------------------------------------------------------------------- one run, from all sides


def test_the_folder_holds_all_that_was_promised(run: Any) -> None:
    found = {str(file.relative_to(run.out)) for file in run.out.rglob("*") if file.is_file()}
    plots = {f"figures/{name}.png" for name in ("domains", "latent", "history", "shepard")}
    assert (
        found
        == {
            "adata.h5ad",
            "model/model.json",
            "model/model.safetensors",
            "metrics.json",
            "history.csv",
            "run.json",
        }
        | plots
    )
    assert [file.name for file in run.out.parent.iterdir()] == [run.out.name]


def test_metrics_are_whole(run: Any) -> None:
    metrics = run.json("metrics.json")
    assert metrics == run.metrics
    assert metrics["n_obs"] == metrics["n_train"] + metrics["n_validation"] + metrics["n_heldout"] == 120
    assert metrics["n_heldout"] == 30 and metrics["epochs"] == 3 and metrics["distance_scale"] > 0
    assert "coordinate_error" in metrics["heldout"] and "coordinate_error" not in metrics["all"]


def test_as_many_domains_as_labels_are_compared_with_them(run: Any) -> None:
    metrics, adata = run.json("metrics.json"), run.adata()
    assert metrics["n_domains"] == adata.obs["isovi_domain"].nunique() == adata.obs["domain"].nunique()
    assert -1 <= metrics["ari"] <= 1 and 0 <= metrics["nmi"] <= 1
    seed = adata.uns["isovi_domain"]["seed"]
    coordinates = check.spots(adata, **run.run.settings.keys).coordinates
    tiles = tl.coordinate_domains(coordinates, adata.obs["domain"].nunique(), seed)
    for name, value in tl.clustering_agreement(tiles, adata.obs["domain"]).items():
        assert metrics[f"domain_{name}_coordinates_only"] == pytest.approx(value)
    between = tl.clustering_agreement(adata.obs["isovi_domain"], tiles)["ari"]
    assert metrics["domain_agreement_coordinates_only"] == pytest.approx(between)


def test_the_record_says_what_was_run_on_what(run: Any, tissue_file: Path) -> None:
    record = run.json("run.json")
    assert record["schema"] == 2 and record["id"] == run.run.id
    assert record["provenance"]["sha256"] == hashlib.sha256(tissue_file.read_bytes()).hexdigest()
    assert record["provenance"]["source"] == {"path": str(tissue_file)}
    assert record["settings"]["distortion"]["kind"] == "Constraint"
    assert record["training"]["summary"].startswith("Trained 3 epochs")
    assert record["provenance"]["seconds"] > 0 and record["provenance"]["peak_memory_mb"] > 50
    assert {"python", "isovi", "scvi-tools", "torch", "anndata"} <= set(record["provenance"]["versions"])


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
    assert set(after.obs) == {*before.obs, "isovi_domain", "isovi_split"}


def test_plots_are_drawn(run: Any) -> None:
    for file in (run.out / "figures").iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")
        pixels = image.imread(file)
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 0.02  # something is drawn


def test_each_stage_says_one_line(run: Any) -> None:
    starts = ["There is no", "Read 120 spots", "Split into 81 train, 9 validation, 30 heldout spots"]
    starts += ["epoch 1/3", "epoch 2/3", "epoch 3/3", "Trained 3 epochs", "Held-out spots: ", WHOLE]
    starts += ["Held-out geometry: ", "Verdict: ", "Wrote "]
    assert [line.startswith(start) for line, start in zip(run.said, starts[1:], strict=True)] == [True] * 11


def test_a_fit_ends_with_what_is_known_of_held_out_distances(run: Any) -> None:
    last, held_out = run.said[-3], run.metrics["heldout"]
    distortion, constant = held_out["relative_distortion"], held_out["distortion_constant"]
    assert last.startswith(
        f"Held-out geometry: relative distortion {distortion:.3f}; L(0.1) = {constant:.2f};"
    )
    assert f"confidence: L({run.metrics['certificate']['epsilon']:g}) <= " in last
    assert "(0.1 takes 58 held-out spots)" in last


def test_a_zarr_store_is_read(fit: Callable, tissue: AnnData, tmp_path: Path) -> None:
    tissue.write_zarr(tmp_path / "tissue.zarr")
    run = fit(tmp_path / "tissue.zarr", tmp_path / "out", holdout=0.0, pairs=Neighbors(6))
    assert len(run.json("run.json")["provenance"]["sha256"]) == 64
    assert run.json("run.json")["settings"]["pairs"] == {"kind": "Neighbors", "k": 6}
    assert any(line.startswith("All spots: ") for line in run.said)


# ---------------------------------------------------------------------------- the folder: whole or not at all


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails the test: what is refused must be refused before it."""
    monkeypatch.setattr("isovi.pipeline.train", lambda *_: pytest.fail("training was reached"))


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tissue_file: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="output folder"):
        files.fit(tissue_file, tmp_path / "out", Settings(), force=force)
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "thesis.txt"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_an_earlier_run_is_replaced_only_when_forced(
    fit: Callable, tissue_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = fit(tissue_file, out, max_epochs=1).run.id
    with pytest.raises(OutputError, match="exists"):
        fit(tissue_file, out)
    assert Run.read(out).id == first
    (out / "mine.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"did not write: mine\.txt"):
        fit(tissue_file, out, force=True)
    assert Run.read(out).id == first and (out / "mine.txt").read_text() == "years of work"
    (out / "mine.txt").unlink()
    fit(tissue_file, out, force=True, max_epochs=1)
    assert Run.read(out).id != first
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["pipeline.train", "pipeline.choose_genes"])
def test_a_crash_before_the_training_leaves_nothing_behind(
    tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], where: str
) -> None:
    def crash(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"isovi.{where}", crash)
    with pytest.raises(error):
        files.fit(tissue_file, tmp_path / "out", Settings())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("untrained")
def test_what_cannot_be_read_is_refused_before_training(
    tissue: AnnData, tissue_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="min_counts=-1"):
        files.fit(tissue_file, tmp_path / "out", Settings(), min_counts=-1)
    del tissue.obsm["spatial"], tissue.obsm["X_truth"]
    tissue.write_h5ad(tmp_path / "unplaced.h5ad")
    with pytest.raises(InputError, match=r"has no positions.*coordinates=FILE"):
        files.fit(tmp_path / "unplaced.h5ad", tmp_path / "out", Settings())
    assert [file.name for file in tmp_path.iterdir()] == ["unplaced.h5ad"]


def test_options_of_reading_are_recorded(tissue: AnnData, tmp_path: Path) -> None:
    table = pd.DataFrame(tissue.obsm["spatial"], columns=["x", "y"], index=tissue.obs_names)
    table.rename_axis("barcode").to_csv(tmp_path / "positions.csv")
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    source = Source(tmp_path / "tissue.h5ad", coordinates=tmp_path / "positions.csv")
    settings = Settings(max_epochs=1, n_latent=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "draw", lambda *_: None)
        files.fit(source, tmp_path / "out", settings, min_counts=5, call="isovi fit tissue.h5ad")
    run = Run.read(tmp_path / "out")
    assert run.provenance.source == {
        "path": str(tmp_path / "tissue.h5ad"),
        "coordinates": str(tmp_path / "positions.csv"),
        "min_counts": 5,
    }
    assert run.provenance.call == "isovi fit tissue.h5ad"


# ---------------------------------------------------------------------------- place


@pytest.fixture
def query(run: Any, tmp_path: Path) -> Path:
    """The spots that the run held out."""
    adata = run.adata()
    adata[adata.obs["isovi_split"] == "heldout"].copy().write_h5ad(tmp_path / "query.h5ad")
    return tmp_path / "query.h5ad"


class Said(files.Progress):
    """What was reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_placing_writes_positions_radii_and_flags(
    run: Any, query: Path, tmp_path: Path, digest: Callable[[Path], str]
) -> None:
    before, said = digest(query), Said()
    metrics = files.place(run.out, query, tmp_path / "placed.h5ad", progress=said)
    found, asked = (anndata.io.read_h5ad(path) for path in (tmp_path / "placed.h5ad", query))
    assert digest(query) == before
    assert found.obsm["X_placed"].shape == (30, 2) and np.isfinite(found.obsm["X_placed"]).all()
    assert set(found.obs) - set(asked.obs) == {"placed_radius_90", "placed_flag", "placed_section"}
    assert (found.obs["placed_radius_90"] > 0).all() and found.obs["placed_flag"].dtype == bool
    assert metrics["n_cells"] == 30 and metrics["n_missing_genes"] == 0
    assert sum(errors["n_cells"] for errors in metrics["errors"].values()) <= 30
    assert said.lines[0].startswith("Placed 30 cells") and said.lines[-1].startswith("Wrote")


def test_cells_of_the_query_without_position_have_no_error(run: Any, query: Path, tmp_path: Path) -> None:
    """Bug 11: NaN among the query's own positions raised after all work, before writing."""
    adata = anndata.io.read_h5ad(query)
    adata.obsm["spatial"][:5] = np.nan
    adata.write_h5ad(tmp_path / "some.h5ad")
    metrics = files.place(run.out, tmp_path / "some.h5ad", tmp_path / "placed.h5ad")
    assert sum(errors["n_cells"] for errors in metrics["errors"].values()) <= 25
    assert np.isfinite(anndata.io.read_h5ad(tmp_path / "placed.h5ad").obsm["X_placed"]).all()


def test_a_query_without_positions_has_no_errors(run: Any, query: Path, tmp_path: Path) -> None:
    adata, said = anndata.io.read_h5ad(query), Said()
    del adata.obsm["spatial"]
    adata[:, 5:].copy().write_h5ad(tmp_path / "unplaced.h5ad")
    metrics = files.place(run.out, tmp_path / "unplaced.h5ad", tmp_path / "placed.h5ad", progress=said)
    assert "errors" not in metrics and metrics["n_missing_genes"] > 0
    assert any(line.startswith("Missing: ") for line in said.lines)


def test_a_file_is_not_replaced_unless_forced(run: Any, query: Path, tmp_path: Path) -> None:
    (tmp_path / "placed.h5ad").write_text("mine")
    with pytest.raises(OutputError, match="force=True"):
        files.place(run.out, query, tmp_path / "placed.h5ad")
    assert (tmp_path / "placed.h5ad").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, query: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run\.json"):
        files.place(tmp_path, query, tmp_path / "placed.h5ad")


# ---------------------------------------------------------------------------- words


def test_only_the_command_line_names_its_options(repository: Path) -> None:
    """Messages name parameters, which the command line translates."""
    parts = (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))  # the latter from 3.12 on
    found = []
    for file in (repository / "src" / "isovi").rglob("*.py"):
        source = io.StringIO(file.read_text(encoding="utf-8"))
        for token in () if "cli" in file.parts else tokenize.generate_tokens(source.readline):
            if token.type in parts:
                found += [
                    (file.name, option) for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", token.string)
                ]
    assert found == []
