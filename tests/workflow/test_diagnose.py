"""Diagnosis of a finished run: held-out first, with what is certified, and nothing else touched."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from isovi.workflow import diagnose, guarantee
from isovi.workflow.finished import read
from rich.console import Console

from isovi import tl
from isovi.errors import InputError
from isovi.geometry.certificate import least_epsilon


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, diagnosed."""
    copy = tmp_path_factory.mktemp("diagnosed") / "run"
    shutil.copytree(run.out, copy)
    diagnose.diagnose(copy)
    return copy


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "diagnosis.json").read_text())


def test_profiles_are_those_of_the_parts_with_held_out_first(folder: Path, found: dict[str, Any]) -> None:
    adata = anndata.io.read_h5ad(folder / "adata.h5ad")
    assert list(found["profile"])[:2] == ["heldout", "train"]
    for part in ("heldout", "train"):
        cells = (adata.obs["isovi_split"] == part).to_numpy()
        profile = tl.distortion_profile(adata, cells=cells, section_key="section")
        told = {point["epsilon"]: point["L"] for point in found["profile"][part]}
        assert told[0.1] == pytest.approx(profile.for_epsilon(0.1).L)
    first = found["profile"]["bins"][0]
    assert first["low"] == 0
    assert [point["epsilon"] for point in first["curve"]] == [p["epsilon"] for p in found["profile"]["train"]]
    assert found["profile"]["posterior"] != found["profile"]["heldout"]


def test_certificates_are_of_disjoint_held_out_pairs(found: dict[str, Any], run) -> None:
    for name in ("certificate", "certificate_random_pairs"):
        one = found[name]
        assert one["n_pairs"] <= run.metrics["n_heldout"] // 2
        assert one["eta"] == pytest.approx(np.sqrt(np.log(2 / one["delta"]) / (2 * one["n_pairs"])))
        assert one["curve"][0]["epsilon"] == pytest.approx(one["measured"][0]["epsilon"] + 2 * one["eta"])
        assert one["curve"][0]["L"] == pytest.approx(one["measured"][0]["L"])
        assert one["point"]["epsilon"] == least_epsilon(one["n_pairs"]) > 0.1  # 30 spots are too few for that


def test_quantiles_ascend_and_name_their_part(found: dict[str, Any]) -> None:
    for name in ("anisotropy", "area", "distortion_map"):
        assert next(iter(found[name])) == "heldout"
        for quantiles in found[name].values():
            values = list(quantiles.values())
            assert values == sorted(values)
            assert list(quantiles) == ["0.05", "0.25", "0.5", "0.75", "0.95"]
    assert min(found["anisotropy"]["all"].values()) >= 1


def test_pictures_are_drawn_and_the_rest_is_as_it_was(folder: Path, run) -> None:
    names = {Path(path).stem for path in diagnose.pictures(folder)}
    drawn = {"distortion_profile", "certificate", "distortion_map", "autocorrelation"}
    assert names == drawn | {"tissot_spatial", "tissot_latent"}
    for name in ("adata.h5ad", "metrics.json", "run.json", "model/model.pt"):
        assert (folder / name).read_bytes() == (run.out / name).read_bytes()


def test_what_is_printed_says_which_spots_it_is_about(found: dict[str, Any]) -> None:
    console = Console(file=StringIO(), width=120)
    console.print(diagnose.table(found))
    text = console.file.getvalue()
    assert text.index("held out") < text.index("training, largely memorised")
    assert f"{found['profile']['heldout'][3]['L']:.3g}" in text
    random, matched = diagnose.certified(found)
    assert "with 95% confidence: L(" in random
    assert "matched by range" in matched


def test_without_held_out_spots_training_figures_are_called_that(
    tissue_file: Path, tmp_path: Path, fit
) -> None:
    run = fit(tissue_file, tmp_path / "run", holdout="0")
    assert run.metrics["guarantee"] == {}
    assert "Held-out" not in run.said
    found = diagnose.diagnose(run.out)
    assert found["profile"]["heldout"] is None
    assert "certificate" not in found
    assert "nothing is certified" in diagnose.certified(found)[0]
    console = Console(file=StringIO(), width=120)
    console.print(diagnose.table(found))
    assert "held out" not in console.file.getvalue()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, tissue_file: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run"):
        read(tmp_path)
    shutil.copy(tissue_file, tmp_path / "adata.h5ad")
    with pytest.raises(InputError, match="written by isovi fit"):
        diagnose.diagnose(tmp_path)


# ---------------------------------------------------------------------------- the end of a fit


def test_a_fit_ends_with_what_is_known_of_held_out_distances(run) -> None:
    last = run.said.strip().splitlines()[-2]
    told = run.metrics["heldout"]
    distortion, constant = told["relative_distortion"], told["distortion_constant"]
    assert last.startswith(
        f"Held-out geometry: relative distortion {distortion:.3f}; L(0.1) = {constant:.2f};"
    )
    assert f"confidence: L({run.metrics['guarantee']['epsilon']}) <= " in last
    assert "(114 held-out spots would do for 0.1)" in last
    adata = run.adata()
    cells = (adata.obs["isovi_split"] == "heldout").to_numpy()
    profile = tl.distortion_profile(adata, cells=cells, section_key="section")
    assert constant == pytest.approx(profile.for_epsilon(0.1).L)


def test_with_enough_held_out_spots_the_constant_is_certified(run) -> None:
    adata, rng = run.adata(), np.random.default_rng(0)
    more = anndata.AnnData(
        obs={"isovi_split": ["heldout"] * 400},
        obsm={"spatial": rng.uniform(0, 20, (400, 2)), "X_isovi": rng.normal(size=(400, 3))},
    )
    told = guarantee.headline(more, {**adata.uns["isovi"], "section_key": None})
    measured = tl.distortion_profile(more).for_epsilon(0.1).L
    assert told["L"] > measured > 1
    assert told["n_pairs"] == 200
    said = guarantee.tell(told, {"relative_distortion": 0.5, "distortion_constant": measured})
    assert said.endswith(f"L(0.1) = {measured:.2f}; certified with 95% confidence: L(0.1) <= {told['L']:.2f}")


def test_a_single_pair_certifies_nothing() -> None:
    one = {"point": None, "n_pairs": 1, "delta": 0.05, "curve": []}
    said = diagnose.certified({"certificate": one, "certificate_random_pairs": one})
    assert said[0] == "Nothing is certified for random pairs: 1 disjoint ones are too few"
    few = anndata.AnnData(
        obs={"isovi_split": ["heldout", "heldout", "train"]},
        obsm={"spatial": np.eye(3, 2), "X_isovi": np.eye(3)},
    )
    assert guarantee.headline(few, {"spatial_key": "spatial", "section_key": None, "seed": 0}) == {}


def test_held_out_spots_that_form_no_pair_end_no_fit() -> None:
    alone = anndata.AnnData(
        obs={"isovi_split": ["heldout", "heldout", "train"], "slide": ["a", "b", "b"]},
        obsm={"spatial": np.eye(3, 2), "X_isovi": np.eye(3)},
    )
    asked = {"spatial_key": "spatial", "section_key": "slide", "seed": 0}
    assert guarantee.headline(alone, asked) == {}
