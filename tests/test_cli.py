from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import typer
from anndata import AnnData
from scipy import sparse
from typer.testing import CliRunner, Result

from forked import Forked
from isovi import Constraint, Delaunay, Neighbors, Penalty, cli, files, pipeline
from isovi.cli import console
from isovi.data.io import Source
from isovi.errors import InputError, IsoviError
from isovi.run import Settings
from isovi.simulate import simulate

FIT = files.fit


def isovi(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def tissue() -> AnnData:
    return simulate("layers", n_obs=60, n_genes=20, seed=0)


@pytest.fixture
def file(tissue: AnnData, tmp_path: Path) -> Path:
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    return tmp_path / "tissue.h5ad"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a fit was asked to do, instead of doing it: source, folder, settings and other parameters."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(files, "fit", lambda *given, **others: calls.append((*given, others)))
    return calls


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "train", lambda *_: pytest.fail("training was reached"))


# ---------------------------------------------------------------------------- inspect


def test_inspect_prints_what_there_is_and_a_fit_that_can_be_typed(
    tissue: AnnData, tmp_path: Path, asked: list[tuple[Any, ...]]
) -> None:
    tissue.layers["counts"] = tissue.X.copy()
    tissue.X = tissue.X.log1p()
    tissue.obs["sample"] = np.repeat(["a", "b"], 30)
    path = tmp_path / "my slide.h5ad"
    tissue.write_h5ad(path)
    result = isovi("inspect", path)
    assert result.exit_code == 0, result.stderr
    command = f"isovi fit '{path}' --out run --section-key sample --layer counts"
    assert result.stdout.endswith(f"To fit it:\n  {command}\n")
    assert "AnnData" in result.stdout and "60 x 20" in result.stdout and "no raw counts" in result.stdout
    assert isovi(*shlex.split(command)[1:]).exit_code == 0
    source, out, settings, _ = asked[0]
    assert (source, out) == (Source(path), Path("run"))
    assert settings == Settings(section_key="sample", layer="counts")


def test_inspect_loads_no_model(file: Path) -> None:
    """Which takes longer than all the rest of it."""
    code = f"""
import sys
from isovi.cli import app
app(["inspect", {str(file)!r}], standalone_mode=False)
assert not {{"scvi", "lightning", "ray"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_inspect_prints_what_is_missing(tissue: AnnData, tmp_path: Path) -> None:
    del tissue.obsm["spatial"]
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    result = isovi("inspect", tmp_path / "tissue.h5ad")
    assert result.exit_code == 0
    assert "Missing:\n- Positions" in result.stdout and "isovi fit" not in result.stdout
    assert isovi("inspect", tmp_path).exit_code == 2


# ---------------------------------------------------------------------------- pack


def test_pack_writes_a_store_and_says_so(file: Path, tmp_path: Path) -> None:
    result = isovi("pack", file, tmp_path / "tissue.zarr")
    assert result.exit_code == 0
    assert "Packed 60 cells x 20 genes in 1 section(s)" in result.stdout
    assert anndata.io.read_zarr(tmp_path / "tissue.zarr").shape == (60, 20)


def test_pack_refuses_in_one_paragraph(file: Path, tmp_path: Path) -> None:
    result = isovi("pack", file, tmp_path / "tissue.zarr", "--section-key", "nothing")
    assert result.exit_code == 2
    assert 'no column "nothing"' in result.stderr
    assert not (tmp_path / "tissue.zarr").exists()


def test_positions_in_a_table_are_packed_along(tissue: AnnData, tmp_path: Path) -> None:
    counts, positions = tmp_path / "counts.csv", tmp_path / "xy.csv"
    tissue.to_df().astype(int).to_csv(counts)
    names = pd.Index(tissue.obs_names, name="cell")
    pd.DataFrame(tissue.obsm["spatial"], index=names, columns=["x", "y"]).to_csv(positions)
    result = isovi("pack", counts, tmp_path / "p.zarr", "--coordinates", positions)
    assert result.exit_code == 0, result.stderr
    assert anndata.io.read_zarr(tmp_path / "p.zarr").shape == (60, 20)


# ---------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    "verb", ["fit", "compare", "diagnose", "inspect", "pack", "place", "simulate", "tune"]
)
def test_help_names_every_verb_and_says_what_it_does(verb: str) -> None:
    assert verb in isovi("--help").stdout
    result = isovi(verb, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout and "Example" in result.stdout


def test_help_shows_the_default_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = re.sub(r"\s+", " ", isovi("fit", "--help").stdout)
    assert f"distortion. [default: {Constraint().target:g}]" in shown


@pytest.mark.parametrize("text", ["", "fit", "fit x.h5ad", "fit x.h5ad --out run --backbone gan", "paint"])
def test_wrong_usage_ends_with_two(text: str) -> None:
    assert isovi(*text.split()).exit_code == 2


# ---------------------------------------------------------------------------- what fit is asked


def test_defaults_are_those_of_the_function(asked: list[tuple[Any, ...]]) -> None:
    assert isovi("fit", "x.h5ad", "--out", "run").exit_code == 0
    source, out, settings, others = asked[0]
    assert (source, out, settings) == (Source(Path("x.h5ad")), Path("run"), Settings())
    del others["call"], others["progress"]
    defaults = inspect.signature(FIT).parameters
    assert others == {name: defaults[name].default for name in ("min_counts", "force", "resume")}


def test_every_option_arrives(asked: list[tuple[Any, ...]]) -> None:
    text = (
        "fit x.zarr --out run --backbone vae --distortion-target 0.3 --pairs knn:6 --spatial-key xy "
        "--section-key slide --batch-key donor --label-key layer --layer raw --n-top-genes 7 --n-latent 3 "
        "--holdout section:A --max-epochs 5 --seed 9 --force --resume --devices 2 --nodes 3 "
        "--table t --coordinate-system c --coordinates xy.csv --min-counts 9 --keep-controls --round-counts"
    )
    assert isovi(*text.split()).exit_code == 0
    source, out, settings, others = asked[0]
    assert (source, out) == (Source(Path("x.zarr"), "t", "c", Path("xy.csv")), Path("run"))
    assert (others["min_counts"], others["force"], others["resume"]) == (9, True, True)
    assert settings == Settings(
        backbone="vae",
        distortion=Constraint(0.3),
        pairs=Neighbors(6),
        spatial_key="xy",
        section_key="slide",
        batch_key="donor",
        label_key="layer",
        layer="raw",
        n_top_genes=7,
        n_latent=3,
        holdout="section:A",
        max_epochs=5,
        seed=9,
        devices=2,
        nodes=3,
        keep_controls=True,
        round_counts=True,
    )
    assert len(settings.changed()) == len(fields(Settings))  # none was left out above
    assert type(settings.backbone) is str


def test_penalty_plain_and_pairs_are_read(asked: list[tuple[Any, ...]]) -> None:
    assert isovi("fit", "x.h5ad", "--out", "run", "--penalty", 3, "--pairs", "delaunay").exit_code == 0
    assert isovi("fit", "x.h5ad", "--out", "run", "--plain").exit_code == 0
    settings = [call[2] for call in asked]
    assert [one.distortion for one in settings] == [Penalty(3.0), Penalty(0.0)]
    assert settings[0].pairs == Delaunay()


def test_options_of_place_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(files, "place", lambda *given, **others: asked.append((*given, others)) or {})
    text = "place run --query q --out p.h5ad --table t --coordinate-system c --seed 3 --force"
    assert isovi(*text.split()).exit_code == 0
    run, query, out, others = asked[0]
    assert (run, query, out) == (Path("run"), Source(Path("q"), "t", "c"), Path("p.h5ad"))
    assert (others["seed"], others["force"]) == (3, True)


# ---------------------------------------------------------------------------- bad input


def without_positions(tissue: AnnData) -> None:
    del tissue.obsm["spatial"]


def with_nan_positions(tissue: AnnData) -> None:
    """More than half: a few would be left out."""
    tissue.obsm["spatial"][: tissue.n_obs // 2 + 1, 0] = np.nan


def with_normalised_counts(tissue: AnnData) -> None:
    tissue.X = sparse.csr_matrix(np.log1p(tissue.X.toarray()))


def with_an_empty_spot(tissue: AnnData) -> None:
    counts = tissue.X.toarray()
    counts[2] = 0
    tissue.X = sparse.csr_matrix(counts)


def assert_one_paragraph(result: Result, words: str) -> None:
    """Exit code 2, and one paragraph without traceback on stderr."""
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr), result.stderr
    assert words in result.stderr


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_positions, 'adata.obsm has no "spatial"; it has: "X_truth".'),
        (with_nan_positions, "adata = adata[np.isfinite("),
        (with_normalised_counts, "Raw counts are whole numbers"),
        (with_an_empty_spot, "1 spots without any count"),
    ],
)
def test_data_that_cannot_be_used(
    tissue: AnnData, tmp_path: Path, spoil: Callable[[AnnData], None], words: str
) -> None:
    spoil(tissue)
    tissue.write_h5ad(tmp_path / "bad.h5ad")
    assert_one_paragraph(isovi("fit", tmp_path / "bad.h5ad", "--out", tmp_path / "run"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.h5ad"]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pairs", "nearest:6"], "nearest"),
        (["--plain", "--penalty", "1"], "They exclude each other."),
        (["--distortion-target", "2"], "between 0 and 1"),
        (["--penalty", "-1"], "zero or more"),
        (["--holdout", "most"], "--holdout most was given."),
        (["--holdout", "section:A"], "section_key is not given"),
        (["--n-latent", "0"], "--n-latent 0"),
        (["--label-key", "truth"], 'no column "truth"'),
    ],
)
def test_options_that_cannot_be_met(file: Path, tmp_path: Path, options: list[str], words: str) -> None:
    assert_one_paragraph(isovi("fit", file, "--out", tmp_path / "run", *options), words)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


# ---------------------------------------------------------------------------- parameters read as options


def with_two_small_sections(tissue: AnnData) -> None:
    tissue.obs["slide"] = ["A"] * 58 + ["B", "C"]


def with_positions_elsewhere(tissue: AnnData) -> None:
    tissue.obsm["xy"] = tissue.obsm.pop("spatial")


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (with_normalised_counts, "", "Name the layer with the raw counts as --layer; adata.layers has"),
        (with_normalised_counts, "--layer raw", "Name one of these as --layer, or leave it out"),
        (
            with_an_empty_spot,
            "",
            "sc.pp.filter_cells(adata, min_counts=1); or leave them out with --min-counts 1.",
        ),
        (with_two_small_sections, "--section-key slide", "or choose another column as --section-key."),
        (with_positions_elsewhere, "", "Pass the right --spatial-key, or store"),
        (None, "--table t", '--table was given with "'),
        (None, "--coordinate-system c", '--coordinate-system was given with "'),
    ],
)
def test_errors_name_options(
    tissue: AnnData, tmp_path: Path, spoil: Callable[[AnnData], None] | None, options: str, words: str
) -> None:
    if spoil is not None:
        spoil(tissue)
    tissue.write_h5ad(tmp_path / "bad.h5ad")
    result = isovi("fit", tmp_path / "bad.h5ad", "--out", tmp_path / "run", *options.split())
    assert_one_paragraph(result, words)
    assert "`" not in result.stderr


@pytest.mark.parametrize("verb", ["pack", "simulate", "fit"])
def test_what_is_in_the_way_is_replaced_by_an_option(file: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "out.zarr").mkdir()
    out = tmp_path / "out.zarr"
    arguments = {"pack": [file, out], "fit": [file, "--out", out], "simulate": ["--out", out]}
    result = isovi(verb, *arguments[verb])
    assert_one_paragraph(result, "ass --force")
    assert "force=True" not in result.stderr and "(--force)" not in result.stderr


def test_warnings_name_options(tissue: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    tissue.obsm["spatial"][1] = tissue.obsm["spatial"][0]
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    with warnings.catch_warnings():
        result = isovi("pack", tmp_path / "tissue.h5ad", tmp_path / "out.zarr")
    assert result.exit_code == 0
    assert re.search(r"Note: 1 of 60 spots .* several tissue sections, pass --section-key\.\n", result.stderr)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Pass min_counts=50.", "Pass --min-counts 50."),
        ("Raise n_top_genes=, or `holdout`.", "Raise --n-top-genes, or --holdout."),
        ("holdout=0.95 was given.", "--holdout 0.95 was given."),
        ("holdout='section:A' or holdout=\"section:B 2\"", "--holdout section:A or --holdout 'section:B 2'"),
        ("devices=-1; resume=True; resume=False", "--devices -1; --resume; no --resume"),
        ("Pass coordinates=FILE.", "Pass --coordinates FILE."),
        ("distortion=Constraint(0.2)", "--distortion-target 0.2"),
        ("distortion=Constraint(target=0.2)", "--distortion-target 0.2"),
        ("distortion=Penalty(60)", "--penalty 60"),
        ("distortion=Penalty(0), distortion=Penalty(0.0), distortion=None", "--plain, --plain, --plain"),
        ("`distortion`", "--distortion-target, --penalty or --plain"),
        ("distortion=Constraint(0.2, per_section=True)", "distortion=Constraint(0.2, per_section=True)"),
        ("pairs=Neighbors(6).", "--pairs knn:6."),
        ("pairs=AllPairs() | Neighbors(k=6) here", "--pairs all+knn:6 here"),
        ('pairs=SameDomain("my layer")', "--pairs 'domain:my layer'"),
        ("table_name='cells'", "--table cells"),
        ("isovi.fit(adata, holdout=f(0.2))", "isovi.fit(adata, holdout=f(0.2))"),
        ('"seed=1/`out`.h5ad" has theta=2 in `obs`.', '"seed=1/`out`.h5ad" has theta=2 in `obs`.'),
    ],
)
def test_parameters_are_written_as_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, shown: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InputError(said, "Rule.", "Remedy.")

    monkeypatch.setattr(files, "fit", refuse)
    result = isovi("fit", "x.h5ad", "--out", tmp_path / "run")
    assert_one_paragraph(result, "Rule. Remedy.")
    assert result.stderr == f"Error: {shown} Rule. Remedy.\n"


def test_every_option_has_its_name_in_messages() -> None:
    for name, option in console._options(typer.main.get_command(cli.app)):
        assert console.as_options(f"Pass `{name}`.") == f"Pass {option}."


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = isovi("fit", tmp_path / "nowhere[bold].h5ad", "--out", tmp_path / "run")
    assert_one_paragraph(result, f'There is no "{tmp_path}/nowhere[bold].h5ad".')  # not read as markup


def test_a_truncated_file(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert_one_paragraph(isovi("fit", file, "--out", tmp_path / "run"), "truncated")


def test_a_folder_that_exists(file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert_one_paragraph(isovi("fit", file, "--out", tmp_path / "run"), "--force")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = isovi("fit", tmp_path / "nowhere.h5ad", "--out", tmp_path / "run", "--debug")
    assert isinstance(result.exception, IsoviError)
    assert result.exit_code == 1


def test_the_entry_point_ends_with_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["isovi", "compare", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2


def test_warnings_are_notes_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.note(UserWarning("3 spots of adata[mask] share a position. " * 5))
    shown = capsys.readouterr().err
    assert shown.startswith("Note: 3 spots of adata[mask]")
    assert shown.count("\n") == 1


# ---------------------------------------------------------------------------- the other verbs


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_simulate_writes_a_tissue(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"ring{suffix}"
    sizes = ["--n-obs", 50, "--n-genes", 9, "--n-sections", 2, "--seed", 4]
    result = isovi("simulate", "--kind", "ring", *sizes, "--out", out)
    assert result.exit_code == 0
    assert result.stdout == f"Wrote 50 spots x 9 genes to {out}\n"
    found = anndata.io.read_h5ad(out) if suffix == ".h5ad" else anndata.io.read_zarr(out)
    expected = simulate("ring", 50, 9, 2, seed=4)
    assert (found.X != expected.X).nnz == 0
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])


def test_the_defaults_of_simulate_are_those_of_the_function() -> None:
    command, function = (inspect.signature(one).parameters for one in (cli.files.simulate, simulate))
    shared = command.keys() & function.keys()
    assert shared == {"kind", "n_obs", "n_genes", "n_sections", "seed"}
    assert {name: command[name].default for name in shared} == {
        name: function[name].default for name in shared
    }


def test_simulate_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    out = tmp_path / "x.h5ad"
    assert_one_paragraph(isovi("simulate", "--n-obs", 3, "--out", out), "at least 10")
    assert not out.exists()
    out.write_text("mine")
    assert_one_paragraph(isovi("simulate", "--n-obs", 20, "--n-genes", 5, "--out", out), "exists")
    assert out.read_text() == "mine"


@pytest.fixture
def runs(file: Path, tmp_path: Path) -> list[Path]:
    """Two runs, one of them plain."""
    folders = []
    for name, more in (("run", []), ("plain", ["--plain"])):
        options = ["--holdout", 0.4, "--max-epochs", 2, "--n-latent", 3]
        result = isovi("fit", file, "--out", tmp_path / name, *options, *more)
        assert result.exit_code == 0, result.output
        folders.append(tmp_path / name)
    return folders


@pytest.mark.slow
def test_compare_and_diagnose_print_metrics_and_where_the_plots_are(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    result = isovi("compare", *runs)
    assert result.exit_code == 0, result.output
    shown = [json.loads((run / "metrics.json").read_text())["heldout"]["reconstruction"] for run in runs]
    assert re.search(r"reconstruction \(nats per spot\).*{:.4g}.*{:.4g}".format(*shown), result.stdout)
    assert f"{runs[1]}/figures/domains.png\n" in result.stdout
    result = isovi("diagnose", runs[0])
    assert result.exit_code == 0, result.output
    assert result.stdout.index("held out") < result.stdout.index("training")
    found = json.loads((runs[0] / "diagnosis.json").read_text())
    assert found["certificate"]["n_pairs"] == 12
    for name in ("distortion_profile.png", "tissot_spatial.png", "diagnosis.json"):
        (path,) = [line for line in result.stdout.splitlines() if line.endswith(name)]
        assert Path(path).is_file()


def test_diagnose_refuses_other_folders(tmp_path: Path) -> None:
    assert_one_paragraph(isovi("diagnose", tmp_path), "holds no run.json")


def test_compare_refuses_other_folders(tmp_path: Path) -> None:
    assert_one_paragraph(isovi("compare", tmp_path), "holds no run.json")


# ---------------------------------------------------------------------------- what has moved


@pytest.mark.parametrize("rest", ["", "run grid.yaml --out results --workers 2", "--help", "quick --help"])
def test_the_benchmark_says_where_it_went(rest: str) -> None:
    result = isovi("bench", *rest.split())
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr == "isovi bench is now isovi-bench: pip install isovi-bench\n"
    assert "bench" not in isovi("--help").stdout


# ---------------------------------------------------------------------------- separate processes


@pytest.mark.slow
def test_the_same_seed_gives_the_same_latent_bit_for_bit(file: Path, tmp_path: Path) -> None:
    asked = ["fit", str(file), "--max-epochs", "3", "--holdout", "0.25", "--seed", "5", "--out"]
    command = [sys.executable, "-m", "isovi.cli", *asked, str(tmp_path / "first")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    forked = Forked(*asked, str(tmp_path / "second"))  # hashes other than in the first
    said = forked.communicate()
    assert forked.returncode == 0 and "Traceback" not in said, said
    latents = [anndata.io.read_h5ad(tmp_path / name / "adata.h5ad") for name in ("first", "second")]
    assert latents[0].obsm["X_isovi"].tobytes() == latents[1].obsm["X_isovi"].tobytes()
