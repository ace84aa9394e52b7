from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import isovi
from isovi import AllPairs, Constraint, InputError, IsoSCVI, Neighbors, OutputError, Penalty, tl
from isovi.run import Run, Settings
from isovi.verdict import verdict

LOSSY = Constraint(0.3, distance="wasserstein", per_section=True)  # whose text is "constraint 0.3"


@pytest.fixture(scope="module")
def made() -> Run:
    from isovi.simulate import simulate

    adata = simulate("layers", n_obs=100, n_genes=30, n_sections=2, seed=0)
    keys = {"section_key": "section", "label_key": "domain"}
    short = {"max_epochs": 2, "n_latent": 4, "progress": False}
    return isovi.fit(adata, holdout=0.3, distortion=LOSSY, pairs=AllPairs() | Neighbors(4), **keys, **short)


@pytest.fixture
def folder(made: Run, tmp_path: Path) -> Path:
    made.write(tmp_path / "run")
    return tmp_path / "run"


def test_what_was_written_is_read(made: Run, folder: Path) -> None:
    back = Run.read(folder)
    assert back.settings == made.settings
    assert back.settings.distortion == LOSSY
    assert back.metrics == made.metrics
    assert back.provenance == made.provenance
    assert back.training == made.training and back.training["summary"].startswith("Trained 2 epochs")
    assert back.id == made.id == back.model.run_id_ == back.adata.uns["isovi"]["id"]
    pd.testing.assert_frame_equal(back.history, made.history, check_dtype=False)
    assert np.array_equal(back.split, made.split)
    assert back.spots.units == made.spots.units == back.model.coordinate_units


def test_data_and_model_are_loaded_when_they_are_used(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    back = Run.read(folder)
    assert back.metrics["n_obs"] == back.adata.n_obs == 100
    with pytest.raises(InputError, match="holds no model"):
        back.model  # noqa: B018  # reading it is the point


def test_the_model_gives_the_latent_of_the_data(folder: Path) -> None:
    back = Run.read(folder)
    np.testing.assert_array_equal(back.model.get_latent_representation(), back.adata.obsm["X_isovi"])
    assert back.model.distance_scale == back.metrics["distance_scale"]


def test_the_folder_is_replaced_only_when_forced(made: Run, folder: Path) -> None:
    with pytest.raises(OutputError, match="force=True"):
        made.write(folder)
    made.write(folder, force=True)
    assert Run.read(folder).id == made.id


def test_data_of_another_run_is_refused(folder: Path, tissue_file: Path, unsealed: Callable) -> None:
    shutil.copy(tissue_file, folder / "adata.h5ad")
    with pytest.raises(InputError, match="its checksum is not the one in run"):
        Run.read(folder).adata  # noqa: B018  # reading it is the point
    unsealed(folder)
    with pytest.raises(InputError, match="is not the data of this run"):
        Run.read(folder).adata  # noqa: B018  # reading it is the point


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_that_holds_no_run_is_refused(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=rf"holds no {name}|is damaged"):
        Run.read(folder)


def test_another_schema_is_refused_with_the_remedy(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(InputError, match=r"schema 99.*with the version of isoVI that wrote it"):
        Run.read(folder)


def test_a_run_shows_its_most_telling_metrics(made: Run, folder: Path) -> None:
    shown = repr(Run.read(folder))
    assert "held-out coordinate error" in shown and str(folder) in shown
    assert f"{made.metrics['heldout']['reconstruction']:.4g}" in shown
    assert f"verdict                                     {verdict(made).headline()}" in shown


def test_in_a_notebook_a_run_says_its_verdict_in_full(made: Run) -> None:
    page = made._repr_html_()
    for one in verdict(made).statements():
        assert f"<b>{escape(one.title)}.</b> {escape(one.text)}</li>" in page
    assert page.count("<li>") == len(verdict(made).statements())
    assert len(page) < 5_000


def test_a_run_shows_itself_without_metrics_or_data(made: Run, folder: Path) -> None:
    part = replace(made, metrics={name: made.metrics[name] for name in ("n_obs", "n_genes")})
    assert f"none yet: {part.retry}" in repr(part) and "<ul>" not in part._repr_html_()
    (folder / "adata.h5ad").unlink()
    back = Run.read(folder)
    assert "held-out coordinate error" in repr(back) and "verdict" not in repr(back)
    assert "<li>" not in back._repr_html_()


def test_metrics_are_those_of_the_table(made: Run) -> None:
    for part in ("train", "heldout", "all"):
        expected = {name for name, metric in tl.METRICS.items() if part in metric.spots}
        assert set(made.metrics[part]) == expected
        assert np.isfinite(list(made.metrics[part].values())).all()


# ---------------------------------------------------------------------------- certificate


def test_with_enough_held_out_spots_the_constant_is_certified(made: Run) -> None:
    rng = np.random.default_rng(0)
    more = AnnData(
        obs={"isovi_split": ["heldout"] * 400},
        obsm={"spatial": rng.uniform(0, 20, (400, 2)), "X_isovi": rng.normal(size=(400, 3))},
    )
    run = with_data(made, more)
    point = run.certificate().point
    assert point.epsilon == 0.1 and point.n_pairs == 150  # a quarter is set aside: none are validation spots
    assert point.L > tl.distortion_profile(more).for_epsilon(0.1).L > 1


@pytest.mark.parametrize("sections", [None, ["a", "b", "b"]])
def test_held_out_spots_that_form_no_pair_certify_nothing(made: Run, sections: list[str] | None) -> None:
    from isovi.pipeline import certified

    few = AnnData(
        obs={"isovi_split": ["heldout", "heldout", "train"]},
        obsm={"spatial": np.eye(3, 2), "X_isovi": np.eye(3)},
    )
    if sections:
        few.obs["slide"] = sections
    assert certified(with_data(made, few, section_key="slide" if sections else None)) == {}


def with_data(run: Run, adata: AnnData, section_key: str | None = None) -> Run:
    parts = {name: getattr(run, name) for name in ("metrics", "provenance", "history", "training")}
    other = Run(settings=Settings(section_key=section_key), **parts)
    other.adata = adata
    return other


# ---------------------------------------------------------------------------- runs of 0.1.0


@pytest.fixture
def legacy(folder: Path) -> Path:
    """The run as 0.1.0 left it: options as text, the model set up without the held-out spots."""
    record, metrics = (json.loads((folder / name).read_text()) for name in ("run.json", "metrics.json"))
    arguments = {
        **{k: v for k, v in record["settings"].items() if k not in ("distortion", "pairs")},
        "holdout": "0.3",
        "input": "tissue.h5ad",
        "out": "run",
        "force": False,
        "resume": False,
        "distortion": "constraint 0.3",
        "pairs": "Union(first=AllPairs(), second=Neighbors(k=4))",
    }
    old = {
        "command": "isovi fit tissue.h5ad --out run",
        "arguments": arguments,
        "seed": 0,
        "input_sha256": "ab",
        "seconds": 1.5,
        "peak_memory_mb": None,
        "summary": "Trained 2 epochs.",
        "versions": {"isovi": "0.1.0"},
        "platform": "Linux",
    }
    (folder / "run.json").write_text(json.dumps(old))
    certificate = metrics.pop("certificate")
    (folder / "metrics.json").write_text(json.dumps({**metrics, "guarantee": certificate, "seed": 0}))
    adata = anndata.io.read_h5ad(folder / "adata.h5ad")
    adata.uns["isovi"] = {"spatial_key": "spatial", "section_key": "section", "seed": 0}
    adata.write_h5ad(folder / "adata.h5ad")
    seen = adata[adata.obs["isovi_split"] != "heldout", adata.var["isovi_gene"]].copy()
    IsoSCVI.setup_anndata(seen, section_key="section")
    model = IsoSCVI(seen, n_latent=4, distortion=Constraint(0.3))
    model.train(1, enable_progress_bar=False)
    model.save(folder / "model", overwrite=True, scvi_format=True)
    return folder


def test_runs_of_0_1_0_are_read(legacy: Path, made: Run) -> None:
    run = Run.read(legacy)
    assert run.settings == Settings(
        holdout=0.3,
        section_key="section",
        label_key="domain",
        distortion=Constraint(0.3),
        pairs=AllPairs() | Neighbors(4),
        n_latent=4,
        max_epochs=2,
    )
    assert run.metrics["certificate"] == made.metrics["certificate"]
    assert run.metrics["heldout"] == made.metrics["heldout"]
    assert run.provenance.call == "isovi fit tissue.h5ad --out run"
    assert np.array_equal(run.split, made.split)


def test_the_model_of_0_1_0_knows_its_own_spots(legacy: Path) -> None:
    run = Run.read(legacy)
    names = run.adata.obs_names[run.split != "heldout"]
    assert run.model.adata.obs_names.tolist() == names.tolist()


@pytest.mark.parametrize(("text", "distortion"), [("none", Penalty(0.0)), ("penalty 2.5", Penalty(2.5))])
def test_other_distortions_of_0_1_0_are_read(legacy: Path, text: str, distortion: Any) -> None:
    record = json.loads((legacy / "run.json").read_text())
    record["arguments"]["distortion"] = text
    (legacy / "run.json").write_text(json.dumps(record))
    assert Run.read(legacy).settings.distortion == distortion


def test_a_run_that_was_fitted_to_a_file_knows_it(
    fit: Callable, tissue_file: Path, tmp_path: Path, digest: Callable[[Path], str]
) -> None:
    run = Run.read(fit(tissue_file, tmp_path / "out", max_epochs=1).out)
    assert run.provenance.source["path"] == str(tissue_file)
    assert run.provenance.sha256 == digest(tissue_file)
    assert {"python", "isovi", "scvi-tools", "torch", "anndata"} <= set(run.provenance.versions)
    assert run.provenance.seconds > 0 and run.provenance.peak_memory_mb > 50
