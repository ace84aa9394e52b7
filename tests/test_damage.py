"""Whatever was damaged in the folder of a run, every verb says what is wrong and what can be done."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from isovi import cli
from isovi.errors import InputError
from isovi.run import Run

Damage = Callable[[Path], None]

# ---------------------------------------------------------------------------- verbs

OPTIONS = ("--holdout", 0.25, "--n-latent", 4, "--section-key", "section", "--batch-key", "batch")
OPTIONS = (*OPTIONS, "--label-key", "domain", "--layer", "counts", "--max-epochs", 3)
VERBS: dict[str, tuple[Any, ...]] = {
    "place": ("place", "RUN", "--query", "FILE", "--out", "OUT.h5ad"),
    "diagnose": ("diagnose", "RUN"),
    "report": ("report", "RUN"),
    "compare": ("compare", "RUN", "--save", "OUT.png"),
    "resume": ("fit", "FILE", "--out", "RUN", "--resume", *OPTIONS),
}
READS = {  # what a verb reads besides run.json, metrics.json and history.csv
    "place": {"adata.h5ad", "model"},
    "diagnose": {"adata.h5ad", "model"},
    "report": {"adata.h5ad"},
    "compare": {"adata.h5ad"},
    "resume": {"adata.h5ad", "model"},
}


def isovi(verb: str, run: Path, file: Path) -> Result:
    names = {"RUN": run, "FILE": file, "OUT.h5ad": run.parent / "out.h5ad", "OUT.png": run.parent / "out.png"}
    asked = [str(names.get(one, one)) for one in VERBS[verb]]
    return CliRunner().invoke(cli.app, asked, env={"COLUMNS": "500"})


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output and result.stderr.startswith("Error: ")
    for word in words:
        assert word in result.stderr


@pytest.fixture
def folder(run: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.out, tmp_path / "run"))


# ---------------------------------------------------------------------------- damage


def missing(file: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flipped(file: Path) -> None:
    """One bit, of a digit where the file is text: what it holds is still well formed."""
    content = bytearray(file.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    place = digits[len(digits) // 2] if file.suffix in (".json", ".csv") else len(content) // 2
    content[place] ^= 1
    file.write_bytes(bytes(content))


def foreign(file: Path) -> None:
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))


def a_folder(file: Path) -> None:
    missing(file)
    file.mkdir()


@pytest.mark.parametrize("damage", [missing, empty, truncated, flipped, foreign, a_folder])
@pytest.mark.parametrize("name", ["run.json", "metrics.json", "history.csv", "adata.h5ad"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_damaged_file_is_refused(
    folder: Path, tissue_file: Path, verb: str, name: str, damage: Damage
) -> None:
    damage(folder / name)
    before = contents(folder.parent)
    result = isovi(verb, folder, tissue_file)
    words = () if (verb, name) == ("resume", "run.json") else (name,)  # a folder without it is no run
    assert_refused(result, *words)
    assert contents(folder.parent) == before


@pytest.mark.parametrize("damage", [missing, empty, truncated, flipped])
@pytest.mark.parametrize("verb", [verb for verb, read in READS.items() if "model" in read])
def test_a_damaged_model_is_refused(folder: Path, tissue_file: Path, verb: str, damage: Damage) -> None:
    file = max(
        (path for path in (folder / "model").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    damage(file)
    assert_refused(isovi(verb, folder, tissue_file), file.name)


@pytest.mark.parametrize("verb", VERBS)
def test_a_whole_run_is_not_refused(folder: Path, tissue_file: Path, verb: str) -> None:
    before = contents(folder)
    result = isovi(verb, folder, tissue_file)
    assert result.exit_code == 0, (result.output, result.exception)
    after = contents(folder)
    kept = {name for name in before if not name.startswith(("figures", "report", "diagnosis"))}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    Run.read(folder).require_intact()  # what diagnose and report write is no part of what a fit wrote


def test_any_flipped_bit_is_noticed(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("run.json", "metrics.json", "history.csv", "adata.h5ad"):
        whole = (folder / name).read_bytes()
        for _ in range(20):
            content = bytearray(whole)
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            (folder / name).write_bytes(bytes(content))
            if json_of(bytes(content)) != json_of(whole) or not name.endswith(".json"):
                with pytest.raises(InputError):
                    Run.read(folder).adata  # noqa: B018  # reading it is the point
        (folder / name).write_bytes(whole)
    assert Run.read(folder).adata.n_obs == 120


def json_of(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content


# ---------------------------------------------------------------------------- other shapes and types
# In runs of the first schema, which has no checksums: what a file holds has to be looked at.


def at(*path: str, value: Any = None, drop: bool = False) -> Callable[[Any], Any]:
    """Change or drop an entry of nested dictionaries."""

    def change(data: Any) -> Any:
        inner = data
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        if drop:
            del inner[path[-1]]
        return data

    return change


RECORDS = {
    "a list": lambda _: [],
    "null": lambda _: None,
    "empty": lambda _: {"schema": 1},
    "no settings": at("settings", drop=True),
    "settings as text": at("settings", value="default"),
    "a setting of another type": at("settings", "n_latent", value="4"),
    "a setting out of range": at("settings", "n_latent", value=-4),
    "an unknown setting": at("settings", "colour", value="red"),
    "an unknown backbone": at("settings", "backbone", value="other"),
    "an unknown kind": at("settings", "pairs", "kind", value="Friends"),
    "a distortion that is a number": at("settings", "distortion", value=3),
    "a target that is a list": at("settings", "distortion", "target", value=[0.2]),
    "no hash": at("provenance", "sha256", drop=True),
    "a source that is a list": at("provenance", "source", value=[1]),
    "versions that are numbers": at("provenance", "versions", value={"isovi": 1}),
    "time as text": at("provenance", "seconds", value="long"),
    "training as text": at("training", value="good"),
    "no summary": at("training", "summary", drop=True),
    "an id that is a number": at("id", value=1),
    "another schema": at("schema", value="1"),
    "no schema": at("schema", drop=True),
}
METRICS = {
    "a list": lambda _: [],
    "empty": lambda _: {},
    "no parts": at("train", drop=True),
    "parts of another type": at("heldout", value=[1.0]),
    "held-out metrics missing": at("heldout", drop=True),
    "a metric missing": at("all", "elbo", drop=True),
    "a metric as text": at("train", "relative_distortion", value="small"),
    "a metric that is a list": at("heldout", "spearman_distance", value=[0.1]),
    "a count missing": at("n_obs", drop=True),
    "a count that is null": at("n_genes", value=None),
    "a count as text": at("n_train", value="many"),
    "a scale as text": at("distance_scale", value="1"),
    "a certificate as text": at("certificate", value="L(0.1) <= 3"),
    "half a certificate": at("certificate", value={"delta": 0.05}),
    "a method that is no text": at("certificate", "method", value=3),
}
HISTORIES = {
    "words": "epoch,elbo_train\nzero,low\n",
    "ragged": "epoch,elbo_train\n0,1\n1,2,3,4\n",
    "only a header": "epoch,elbo_train\n",
    "no text": "\x00\x01",
}


@pytest.mark.parametrize("change", RECORDS.values(), ids=RECORDS)
def test_a_record_of_another_shape_is_refused(folder: Path, unsealed: Callable, change: Callable) -> None:
    file = unsealed(folder) / "run.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(InputError, match=r"run\.json|schema"):
        Run.read(folder)


@pytest.mark.parametrize("change", METRICS.values(), ids=METRICS)
def test_metrics_of_another_shape_are_refused(folder: Path, unsealed: Callable, change: Callable) -> None:
    file = unsealed(folder) / "metrics.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(InputError, match=r"metrics\.json"):
        Run.read(folder)


@pytest.mark.parametrize("text", HISTORIES.values(), ids=HISTORIES)
def test_a_history_of_another_shape_is_refused(folder: Path, unsealed: Callable, text: str) -> None:
    (unsealed(folder) / "history.csv").write_text(text)
    with pytest.raises(InputError, match=r"history\.csv"):
        Run.read(folder)


def test_metrics_that_are_null_are_not_numbers(folder: Path, tissue_file: Path, unsealed: Callable) -> None:
    """A fit writes NaN as null; the report ended in a traceback of its format."""
    file = unsealed(folder) / "metrics.json"
    metrics = json.loads(file.read_text())
    for part in ("train", "heldout", "all"):
        metrics[part] = dict.fromkeys(metrics[part])
    metrics["certificate"] = {"epsilon": 0.1, "L": None, "scale": None, "delta": 0.05, "n_pairs": 15}
    file.write_text(json.dumps(metrics))
    read = Run.read(folder).metrics
    assert all(math.isnan(value) for value in read["heldout"].values())
    assert read["certificate"]["L"] == math.inf
    for verb in ("report", "compare"):
        result = isovi(verb, folder, tissue_file)
        assert result.exit_code == 0, (result.output, result.exception)


def no_latent(adata: anndata.AnnData) -> None:
    del adata.obsm["X_isovi"]


def narrow_latent(adata: anndata.AnnData) -> None:
    adata.obsm["X_isovi"] = adata.obsm["X_isovi"][:, :2]


def nan_latent(adata: anndata.AnnData) -> None:
    adata.obsm["X_isovi"][3, 0] = np.nan


def no_split(adata: anndata.AnnData) -> None:
    del adata.obs["isovi_split"]


def other_split(adata: anndata.AnnData) -> None:
    adata.obs["isovi_split"] = "yes"


def no_genes(adata: anndata.AnnData) -> None:
    del adata.var["isovi_gene"]


def numbered_genes(adata: anndata.AnnData) -> None:
    adata.var["isovi_gene"] = np.arange(adata.n_vars)


def no_section(adata: anndata.AnnData) -> None:
    del adata.obs["section"]


def no_positions(adata: anndata.AnnData) -> None:
    del adata.obsm["spatial"]


def no_id(adata: anndata.AnnData) -> None:
    del adata.uns["isovi"]


def id_of_another_type(adata: anndata.AnnData) -> None:
    adata.uns["isovi"] = "a run"


@pytest.mark.parametrize(
    "change",
    [no_latent, narrow_latent, nan_latent, no_split, other_split, no_genes, numbered_genes, no_section,
     no_positions, no_id, id_of_another_type],
)  # fmt: skip
def test_data_of_another_shape_are_refused(folder: Path, unsealed: Callable, change: Callable) -> None:
    file = unsealed(folder) / "adata.h5ad"
    adata = anndata.io.read_h5ad(file)
    change(adata)
    adata.write_h5ad(file)
    with pytest.raises(InputError, match=r"adata\.h5ad"):
        Run.read(folder).adata  # noqa: B018  # reading it is the point


def test_fewer_spots_than_the_run_had_are_refused(folder: Path, unsealed: Callable) -> None:
    file = unsealed(folder) / "adata.h5ad"
    anndata.io.read_h5ad(file)[:100].copy().write_h5ad(file)
    with pytest.raises(InputError, match="no matrix of 120 x 4 finite"):
        Run.read(folder).adata  # noqa: B018  # reading it is the point


# ---------------------------------------------------------------------------- other folders


def test_the_result_of_a_search_is_no_run(tmp_path: Path, tissue_file: Path) -> None:
    (tmp_path / "tuned").mkdir()
    record = {"schema": 1, "tried": [], "recommended": {}, "failed": {}, "provenance": {}}
    (tmp_path / "tuned" / "run.json").write_text(json.dumps(record))
    for verb in ("place", "diagnose", "report", "compare"):
        assert_refused(isovi(verb, tmp_path / "tuned", tissue_file), "is the result of a search")


def test_a_run_as_an_input_is_refused(folder: Path, tmp_path: Path) -> None:
    for asked in (["inspect", folder], ["fit", folder, "--out", tmp_path / "new"]):
        result = CliRunner().invoke(cli.app, list(map(str, asked)), env={"COLUMNS": "500"})
        assert_refused(result, "adata.h5ad")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"holdout": 0.25}'])
def test_a_damaged_search_is_not_resumed(tissue_file: Path, tmp_path: Path, text: str) -> None:
    pytest.importorskip("ray")
    (tmp_path / "tuned.partial.trials").mkdir()
    (tmp_path / "tuned.partial.trials" / "about.json").write_text(text)
    asked = ["tune", str(tissue_file), "--out", str(tmp_path / "tuned"), "--holdout", "0.25", "--resume"]
    assert_refused(CliRunner().invoke(cli.app, asked, env={"COLUMNS": "500"}), "tuned.partial.trials")
