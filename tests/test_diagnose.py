"""Diagnosis of a finished run: held-out first, with what is certified, and nothing else touched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import isovi
from isovi import cli, tl
from isovi.cli import tables
from isovi.diagnose import PLOTS, diagnose
from isovi.errors import InputError, IsoviWarning
from isovi.geometry.certificate import least_epsilon
from isovi.run import Run
from isovi.simulate import simulate

DRAWN = {"distortion_profile", "certificate", "distortion_map", "autocorrelation"}
DRAWN |= {"tissot_spatial", "tissot_latent"}


@pytest.fixture(scope="module")
def folder(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, diagnosed."""
    copy = tmp_path_factory.mktemp("diagnosed") / "run"
    shutil.copytree(run.out, copy)
    diagnose(copy)
    return copy


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "diagnosis.json").read_text())


def shown(found: dict[str, Any]) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(tables.diagnosis(found))
    return console.file.getvalue()


def test_profiles_are_those_of_the_parts_with_held_out_first(folder: Path, found: dict[str, Any]) -> None:
    adata = anndata.io.read_h5ad(folder / "adata.h5ad")
    assert list(found["profile"])[:2] == ["heldout", "train"]
    for part in ("heldout", "train"):
        cells = (adata.obs["isovi_split"] == part).to_numpy()
        profile = tl.distortion_profile(adata, cells=cells, section_key="section")
        constants = {point["epsilon"]: point["L"] for point in found["profile"][part]}
        assert constants[0.1] == pytest.approx(profile.for_epsilon(0.1).L)
    first = found["profile"]["bins"][0]
    assert first["low"] == 0
    assert [point["epsilon"] for point in first["curve"]] == [p["epsilon"] for p in found["profile"]["train"]]
    assert found["profile"]["posterior"] != found["profile"]["heldout"]


def test_the_constant_of_a_fit_is_that_of_its_diagnosis(run: Any, found: dict[str, Any]) -> None:
    constants = {point["epsilon"]: point["L"] for point in found["profile"]["heldout"]}
    assert run.metrics["heldout"]["distortion_constant"] == pytest.approx(constants[0.1])


def test_certificates_are_of_disjoint_held_out_pairs(found: dict[str, Any], run: Any) -> None:
    for name in ("certificate", "certificate_random_pairs"):
        one = found[name]
        assert one["n_pairs"] <= run.metrics["n_heldout"] // 2
        assert one["eta"] == pytest.approx(np.sqrt(np.log(2 / one["delta"]) / (2 * one["n_pairs"])))
        assert one["curve"][0]["epsilon"] == pytest.approx(one["measured"][0]["epsilon"] + 2 * one["eta"])
        assert one["curve"][0]["L"] == pytest.approx(one["measured"][0]["L"])
        assert one["point"]["epsilon"] == least_epsilon(one["n_pairs"]) > 0.1  # 30 spots are too few for that
    of_fit, of_diagnosis = run.metrics["certificate"], found["certificate_random_pairs"]
    assert of_fit["n_pairs"] == of_diagnosis["n_pairs"] and of_fit["L"] == of_diagnosis["point"]["L"]


def test_quantiles_ascend_and_name_their_part(found: dict[str, Any]) -> None:
    for name in ("anisotropy", "area", "distortion_map"):
        assert next(iter(found[name])) == "heldout"
        for quantiles in found[name].values():
            values = list(quantiles.values())
            assert values == sorted(values)
            assert list(quantiles) == ["0.05", "0.25", "0.5", "0.75", "0.95"]
    assert min(found["anisotropy"]["all"].values()) >= 1


def test_plots_are_drawn_and_the_rest_is_as_it_was(folder: Path, run: Any) -> None:
    drawn = {plot.stem for name in PLOTS for plot in (folder / "figures").glob(f"{name}.png")}
    assert drawn == DRAWN
    for name in ("adata.h5ad", "metrics.json", "run.json", "model/model.json", "model/model.safetensors"):
        assert (folder / name).read_bytes() == (run.out / name).read_bytes()


def test_of_a_run_in_memory_nothing_is_written(run: Any, found: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    in_memory = Run.read(tmp_path / "run")
    in_memory.model, in_memory.folder = in_memory.model, None
    before = sorted(tmp_path.rglob("*"))
    again = diagnose(in_memory)
    assert sorted(tmp_path.rglob("*")) == before
    assert list(again) == list(found)
    assert again["profile"]["heldout"] == found["profile"]["heldout"]
    assert again["certificate"]["point"] == found["certificate"]["point"]


def test_what_is_printed_says_which_spots_it_is_about(found: dict[str, Any]) -> None:
    text = shown(found)
    assert text.index("held out") < text.index("training, largely memorised")
    for epsilon in tables.SHOWN:
        constant = next(p["L"] for p in found["profile"]["heldout"] if p["epsilon"] == epsilon)
        line = next(line for line in text.splitlines() if f"L({epsilon:g})  " in line)
        assert f"{constant:.3g}" in line
    random, matched = tables.certified(found)
    assert "with 95% confidence: L(" in random and "random pairs" in random
    assert "matched by range" in matched


def test_without_held_out_spots_training_is_named_and_nothing_certified(
    tissue_file: Path, tmp_path: Path, fit: Callable
) -> None:
    run = fit(tissue_file, tmp_path / "run", holdout=0.0)
    assert run.metrics["certificate"] == {}
    assert not any("Held-out" in line for line in run.said)
    found = diagnose(run.out)
    assert found["profile"]["heldout"] is None
    assert "certificate" not in found
    assert "nothing is certified" in tables.certified(found)[0]
    assert "held out" not in shown(found)
    assert not (run.out / "figures" / "certificate.png").exists()


def test_too_few_pairs_certify_nothing() -> None:
    one = {"point": None, "n_pairs": 1, "delta": 0.05, "curve": []}
    measured = {"profile": {"heldout": []}}
    said = tables.certified({"certificate": one, "certificate_random_pairs": one} | measured)
    assert said[0] == "Nothing is certified for random pairs: 1 disjoint ones are too few"


@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_where_too_few_are_held_out_to_certify_the_rest_is_measured() -> None:
    adata = simulate("layers", n_obs=40, n_genes=40, seed=0)
    adata.obs["core"] = np.repeat([f"core {i}" for i in range(10)], 4)
    run = isovi.fit(adata, section_key="core", holdout=0.25, max_epochs=1, n_latent=2, progress=False)
    with pytest.warns(IsoviWarning, match="Nothing is certified .matched by range.; the rest is measured"):
        found = diagnose(run)
    assert "certificate" not in found and found["distortion_map"]["heldout"]
    assert all(line.startswith("Nothing is certified for") for line in tables.certified(found))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, tissue_file: Path) -> None:
    shutil.copy(tissue_file, tmp_path / "adata.h5ad")
    with pytest.raises(InputError, match=r"holds no run\.json.*written by isovi fit"):
        diagnose(tmp_path)


def test_the_command_line_prints_table_certificates_and_plots(run: Any, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    result = CliRunner().invoke(cli.app, ["diagnose", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "Certified for random pairs" in result.output
    assert lines[-1] == str(tmp_path / "run" / "diagnosis.json")
    assert {Path(line).stem for line in lines if line.endswith(".png")} == DRAWN


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_plots_are_written_for_print(folder: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(folder, tmp_path / "run")
    result = CliRunner().invoke(cli.app, ["diagnose", str(tmp_path / "run"), "--format", kind])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.endswith(f".{kind}")]
    assert {Path(line).stem for line in lines} == DRAWN
    drawn = {plot.stem for plot in (tmp_path / "run" / "figures").glob(f"*.{kind}")}
    assert drawn == DRAWN | {"domains", "latent", "history", "shepard"}


def test_another_format_is_refused_before_anything_is_measured(folder: Path) -> None:
    with pytest.raises(InputError, match=r'format="gif".*png, svg, pdf'):
        diagnose(folder, format="gif")


@pytest.mark.filterwarnings("ignore:.*(tissue widths away|leaves no pair):isovi.errors.IsoviWarning")
def test_of_many_sections_those_with_most_spots_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plots of thousands of sections of three spots took longer than all else."""
    monkeypatch.setattr("isovi.diagnose.MOST_SECTIONS", 3)
    names = [f"core {i:02}" for i in (*range(8), *range(6, 8))]  # there are six spots of the last two
    adata = simulate("layers", n_obs=3 * len(names), n_genes=40, seed=0)
    adata.obs["core"] = np.repeat(names, 3)
    run = isovi.fit(adata, section_key="core", holdout=0.0, max_epochs=1, n_latent=2, progress=False)
    run.write(tmp_path / "run")
    diagnose(tmp_path / "run", format="svg")
    for name in ("domains", "latent", "distortion_map", "tissot_spatial"):
        drawn = set(re.findall(r"core \d\d", (tmp_path / "run" / "figures" / f"{name}.svg").read_text()))
        assert len(drawn) == 3 and drawn > set(names[-2:]), name
