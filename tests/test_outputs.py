"""A trained model is kept whatever happens after, and outputs replace nothing that is the user's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from forked import Forked
from isovi import InputError, OutputError, diagnose, files, pipeline
from isovi.errors import IsoviWarning
from isovi.files import Attempt
from isovi.report.write import report
from isovi.run import Run, Settings

no_slashes = pytest.mark.skipif(
    tuple(map(int, anndata.__version__.split(".")[:2])) >= (0, 13),
    reason="anndata 0.13 and later write no names with slashes",
)

SETTINGS = Settings(max_epochs=1, n_latent=3, holdout=0.25, section_key="section", label_key="domain")
PLOTS = {f"figures/{name}.png" for name in ("domains", "latent", "history", "shepard")}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails the test: what is refused must be refused before it."""
    monkeypatch.setattr("isovi.pipeline.train", lambda *_: pytest.fail("training was reached"))


def fails(*_: Any, **__: Any) -> Any:
    raise ValueError("a reason")


def fit_noted(file: Path, out: Path, settings: Settings = SETTINGS) -> tuple[Run, list[str]]:
    """A run, and what was warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", IsoviWarning)
        run = files.fit(file, out, settings)
    assert run is not None
    return run, [str(one.message) for one in said if "(ValueError: a reason)" in str(one.message)]


# ---------------------------------------------------------------------------- what comes after training


@pytest.fixture(scope="module")
def whole(tissue_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which nothing fails."""
    out = tmp_path_factory.mktemp("whole") / "run"
    files.fit(tissue_file, out, SETTINGS)
    return out


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("isovi.tl.domains", "Domains could not be computed"),
        ("isovi.tl.evaluate_fit", "Metrics could not be computed"),
        ("isovi.pipeline.certified", "The certificate could not be computed"),
        ("isovi.pl.domains", "domains.png was not drawn"),
    ],
)
def test_a_step_that_fails_after_training_costs_that_step_only(
    broken: str, words: str, tissue_file: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 2: a plot that failed lost the run; so did anything else between training and the end."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(broken, fails)
        run, said = fit_noted(tissue_file, out)
    (note,) = [one for one in said if words in one]
    assert note.endswith(f"try isovi diagnose {out}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    read = Run.read(out)
    np.testing.assert_array_equal(read.adata.obsm["X_isovi"], Run.read(whole).adata.obsm["X_isovi"])
    assert read.model.is_trained and read.id == run.id
    diagnose.diagnose(out)  # makes what is missing
    assert Run.read(out).metrics == json.loads((whole / "metrics.json").read_text())
    pd.testing.assert_frame_equal(Run.read(out).adata.obs, Run.read(whole).adata.obs)
    assert tree(out).keys() >= PLOTS


@pytest.mark.filterwarnings("ignore:Metrics could not:isovi.errors.IsoviWarning")
def test_a_run_without_metrics_says_how_to_make_them(
    tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("isovi.tl.evaluate_fit", fails)
        fit_noted(tissue_file, out)
        for use in (report, diagnose.diagnose, lambda folder: Run.read(folder).heldout):
            with pytest.raises(InputError, match=rf"metrics lack all.*isovi diagnose {out}"):
                use(out)
    resumed = files.fit(tissue_file, out, SETTINGS, resume=True)
    assert resumed is not None and resumed.is_complete and Run.read(out).is_complete
    report(out)


def test_a_run_in_memory_is_kept_as_well(
    tissue: AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("isovi.tl.domains", fails)
        with pytest.warns(IsoviWarning, match=r"Domains could not .*isovi\.diagnose\.diagnose\(run\)"):
            run = pipeline.fit(tissue, max_epochs=1, n_latent=3, progress=False)
    run.write(tmp_path / "run")
    assert run.model.is_trained and "X_isovi" in Run.read(tmp_path / "run").adata.obsm


KILLED = """
import os, signal, sys
from isovi import files, pipeline
from isovi.run import Settings

def stop(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

module, name = sys.argv[3].rsplit(".", 1)
setattr(sys.modules[module], name, stop)
files.fit(sys.argv[1], sys.argv[2], Settings.from_data(__import__("json").loads(sys.argv[4])))
"""


def killed(file: Path, out: Path, at: str) -> int | None:
    """Exit status of a fit that is killed when it comes to a function."""
    process = Forked(str(file), str(out), at, json.dumps(SETTINGS.as_data()), code=KILLED)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("at", ["isovi.pipeline.complete", "isovi.files.draw"])
def test_a_run_that_is_killed_after_training_is_there_and_resumes(
    at: str, tissue_file: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"
    assert killed(tissue_file, out, at) == -signal.SIGKILL
    assert "X_isovi" in Run.read(out).adata.obsm
    complete = Run.read(out).is_complete
    assert complete == (at == "isovi.files.draw")
    assert (tmp_path / "run.partial.ckpt").exists() != complete, "no complete run has a checkpoint beside it"
    files.fit(tissue_file, out, SETTINGS, resume=True)
    assert Run.read(out).metrics == json.loads((whole / "metrics.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_diagnosis_of_a_killed_run_removes_its_checkpoint(
    tissue_file: Path, tmp_path: Path, whole: Path
) -> None:
    """Fault 21: a finished run with ``run.partial.ckpt`` beside it."""
    out, at = tmp_path / "run", "isovi.pipeline.complete"
    assert killed(tissue_file, out, at) == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run.partial.ckpt", ".run.lock"}
    diagnose.diagnose(out)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert Run.read(out).metrics == json.loads((whole / "metrics.json").read_text())


# ---------------------------------------------------------------------------- names and annotation


def odd(tissue: AnnData, names: list[str]) -> AnnData:
    """The tissue with these names of sections, domains, batches and genes, and annotation that fails."""
    for key in ("section", "domain", "batch"):
        known = tissue.obs[key].astype(str).unique()
        tissue.obs[key] = tissue.obs[key].astype(str).map(dict(zip(known, names, strict=False))).to_numpy()
    tissue.var_names = [*names, *tissue.var_names[len(names) :]]
    tissue.raw = tissue.copy()
    tissue.raw.var["_index"] = "x"
    tissue.obs["mixed"] = [1, "a", None, 2.5] * 30
    tissue.obs["nullable"] = pd.array(["a", None] * 60, dtype="string")
    tissue.obs["T/NK"] = 1
    tissue.uns["tuple"] = (1, "a")
    return tissue


@pytest.mark.parametrize(
    "names",
    [
        ["$\\frac{1$", "x" * 5000, "__class__"],
        ["", "אבג", "../../etc"],
        ["a/b\nc", "[bold]<script>", "$x$"],
    ],
)
def test_names_of_any_kind_go_through_a_whole_fit(names: list[str], tissue: AnnData, tmp_path: Path) -> None:
    adata = odd(tissue, names)
    before = adata.obs.copy()
    run = pipeline.fit(
        adata, max_epochs=1, n_latent=3, progress=False, section_key="section", label_key="domain",
        batch_key="batch", holdout=0.25,
    )  # fmt: skip
    pd.testing.assert_frame_equal(adata.obs, before)
    with pytest.warns(IsoviWarning, match="_index_column"):
        run.write(tmp_path / "run")
    found = Run.read(tmp_path / "run")
    assert set(found.adata.obs["section"].astype(str)) == set(names[:2])
    assert list(found.adata.var_names[:3]) == names
    with warnings.catch_warnings():
        warnings.simplefilter("error", IsoviWarning)
        diagnose.diagnose(tmp_path / "run")
    assert tree(tmp_path / "run").keys() >= PLOTS
    report(tmp_path / "run")


def test_a_model_that_cannot_be_saved_costs_the_model_only(
    tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 1: an error of saving the model came when all was trained, and nothing was written."""
    monkeypatch.setattr("isovi.model.model.IsoSCVI.save", fails)
    run, said = fit_noted(tissue_file, tmp_path / "run")
    assert any(one.startswith("The model was not written") for one in said)
    found = Run.read(tmp_path / "run")
    assert found.is_complete and found.id == run.id and "X_isovi" in found.adata.obsm
    assert (tmp_path / "run.partial.ckpt").exists(), "the training is kept"


@no_slashes
def test_what_is_converted_is_said_before_training_and_recorded(
    tissue: AnnData, tmp_path: Path, fit: Callable[..., Any]
) -> None:
    """Wild, "lost": ``_index`` in ``raw.var`` failed when the training was over."""
    tissue.raw = tissue.copy()
    tissue.obs["seen"] = pd.array(["a", None] * 60, dtype="string")
    tissue.obs["T/NK"] = 1
    with anndata.settings.override(allow_write_nullable_strings=True):
        tissue.write_h5ad(tmp_path / "in.h5ad", convert_strings_to_categoricals=False)
    with_reserved_column(tmp_path / "in.h5ad")
    run = fit(tmp_path / "in.h5ad", tmp_path / "run", max_epochs=1)
    note = 'raw.var["_index"] is written as raw.var["_index_column"].'
    assert run.said.index(f"Note: {note}") < run.said.index("epoch 1/1")
    assert note in run.json("run.json")["provenance"]["notes"] and note in Run.read(run.out).provenance.notes
    assert run.adata().raw.var["_index_column"].tolist() == ["x"] * tissue.n_vars


def with_reserved_column(file: Path) -> None:
    """Write a column ``_index`` into ``raw.var``, as SeuratDisk does."""
    import h5py

    with h5py.File(file, "r+") as opened:
        table = opened["raw/var"]
        index = table.attrs["_index"]
        table.move(index, "names")
        table.attrs["_index"] = "names"
        anndata.io.write_elem(table, "_index", np.array(["x"] * len(table["names"]), dtype=object))
        table.attrs["column-order"] = np.array([*table.attrs["column-order"], "_index"], dtype=object)


@no_slashes
@pytest.mark.usefixtures("untrained")
def test_a_key_that_cannot_be_kept_is_refused_before_training(tissue: AnnData, tmp_path: Path) -> None:
    tissue.obs["T/NK"] = tissue.obs["section"]
    tissue.write_h5ad(tmp_path / "in.h5ad")
    with pytest.raises(InputError, match=r"section_key='T/NK' was given.*rename\(columns="):
        files.fit(tmp_path / "in.h5ad", tmp_path / "run", Settings(section_key="T/NK"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5ad"]


# ---------------------------------------------------------------------------- what is never touched


@pytest.mark.usefixtures("untrained")
def test_force_does_not_delete_the_input(tissue_file: Path, tmp_path: Path) -> None:
    """Fault 4: ``isovi fit w/in.h5ad --out w --force`` in a folder with a ``run.json``."""
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "in.h5ad").write_bytes(tissue_file.read_bytes())
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="contains the input"):
        files.fit(folder / "in.h5ad", folder, SETTINGS, force=True)
    with pytest.raises(OutputError, match=r"no run\.json of a run"):
        files.fit(tissue_file, folder, SETTINGS, force=True)
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("untrained")
def test_what_force_cannot_replace_keeps_its_checkpoint(tissue_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out).mkdir()
    (out / "mine.txt").write_text("mine")
    (tmp_path / "run.partial.ckpt").write_text("hours")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="holds files but no"):
        files.fit(tissue_file, out, SETTINGS, force=True)
    assert tree(tmp_path) == before


@pytest.fixture
def query(run: Any, tmp_path: Path) -> Path:
    adata = run.adata()
    adata[adata.obs["isovi_split"] == "heldout"].copy().write_h5ad(tmp_path / "query.h5ad")
    return tmp_path / "query.h5ad"


def test_place_touches_neither_query_nor_run(run: Any, query: Path, tmp_path: Path) -> None:
    """Fault 10."""
    os.link(query, tmp_path / "link.h5ad")
    (tmp_path / "mine.h5ad").write_bytes(query.read_bytes())
    before = tree(tmp_path) | tree(run.out)
    for out, words in (
        (query, "no earlier result|is the input"), (tmp_path / "link.h5ad", "no earlier result|is the input"),
        (tmp_path / "mine.h5ad", "no earlier result"), (run.out / "adata.h5ad", "part of the run|no earlier"),
        (Path("/"), "root of the file system"), (Path("~no-such-user/x.h5ad"), "no path of an output"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=words):
            files.place(run.out, query, out, force=True)
    assert tree(tmp_path) | tree(run.out) == before
    name = "ü" * 122 + ".h5ad"
    files.place(run.out, query, tmp_path / name)
    with pytest.raises(OutputError, match="is the input"):
        files.place(run.out, tmp_path / name, tmp_path / name, force=True)
    files.place(run.out, query, tmp_path / name, force=True)
    assert tree(tmp_path).keys() - before.keys() == {name}


@pytest.mark.parametrize("out", ["/", "~no-such-user/x", "x" * 256])
@pytest.mark.usefixtures("untrained")
def test_a_fit_to_a_path_that_cannot_be_is_refused(out: str, tissue_file: Path) -> None:
    with pytest.raises(OutputError):
        files.fit(tissue_file, out, SETTINGS)


# ---------------------------------------------------------------------------- one process at a time


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A run that another process is writing."""
    code = "import sys, time; from isovi.data import io\n"
    code += "with io.exclusive(sys.argv[1]): print(flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield tmp_path / "run"
        process.kill()


@pytest.mark.usefixtures("untrained")
def test_resuming_a_live_fit_is_refused(held: Path, tissue_file: Path) -> None:
    """Fault 9: ``--resume`` removed the folder of a living process, and both wrote one checkpoint."""
    (held.parent / "run.partial.ckpt").write_text("hours")
    before = tree(held.parent)
    for options in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(OutputError, match="is being written by process"):
            files.fit(tissue_file, held, SETTINGS, **options)
    assert tree(held.parent) == before


def test_an_attempt_with_a_long_name_has_a_checkpoint_that_fits(tmp_path: Path) -> None:
    attempt = Attempt.of(tmp_path / ("x" * 250))
    attempt.checkpoint.write_text("")
    assert attempt.checkpoint.name.endswith(".partial.ckpt")
