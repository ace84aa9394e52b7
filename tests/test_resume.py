from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from safetensors.torch import load_file

from forked import Forked
from isovi import InputError, OutputError, files, pipeline
from isovi.data.io import Source, digest
from isovi.data.pack import pack
from isovi.files import Attempt
from isovi.model import checkpoint
from isovi.progress import Progress
from isovi.run import Run, Settings
from isovi.simulate import simulate

EPOCHS = 12
SETTINGS = Settings(max_epochs=3, n_latent=4, holdout=0.25)
DIE_WHILE_WRITING = """
import os, sys
from isovi.data import io

writing = io.output_directory(sys.argv[1])
writing.__enter__()
os._exit(9)
"""


class Said(Progress):
    """What was reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def interrupt(file: Path, out: Path, error: type[BaseException] = KeyboardInterrupt) -> list[str]:
    """Interrupt a fit of three epochs in its last one; returns what it reported."""

    def stop(_: Any, trainer: Any, *__: Any) -> None:
        if trainer.current_epoch == 2:
            raise error

    said = Said()
    handler = signal.getsignal(signal.SIGINT)  # Lightning turns it off after Ctrl-C
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SHARE", np.inf)
        patch.setattr(pipeline._Epochs, "on_train_epoch_end", stop)
        with pytest.raises((SystemExit, error)):
            files.fit(file, out, SETTINGS, progress=said)
    signal.signal(signal.SIGINT, handler)
    return said.lines


@pytest.fixture(scope="module")
def unfinished(tissue_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[str]]:
    """Checkpoint of an interrupted fit, and what the fit reported."""
    out = tmp_path_factory.mktemp("unfinished") / "out"
    said = interrupt(tissue_file, out)
    assert not out.exists()
    return checkpoint_of(out).read_bytes(), said


@pytest.fixture
def out(unfinished: tuple[bytes, list[str]], tmp_path: Path) -> Path:
    """Where the results of the interrupted fit would be; its checkpoint is beside it."""
    checkpoint_of(tmp_path / "out").write_bytes(unfinished[0])
    return tmp_path / "out"


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails the test: what is refused must be refused before it."""
    monkeypatch.setattr("isovi.pipeline.train", lambda *_: pytest.fail("training was reached"))


def checkpoint_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial.ckpt")


# ---------------------------------------------------------------------------- in this process


def test_an_interrupted_fit_resumes_to_the_same_result(
    out: Path, fit: Callable[..., Any], tissue_file: Path, tmp_path: Path
) -> None:
    whole = fit(tissue_file, tmp_path / "whole", max_epochs=3)
    subprocess.run([sys.executable, "-c", DIE_WHILE_WRITING, str(out)], check=False)
    assert list(tmp_path.glob(".out.*.tmp"))
    run = fit(tissue_file, out, max_epochs=3, resume=True)
    assert run.said[0] == f"Resuming from {checkpoint_of(out)}"
    assert "epoch 3/3" in run.said and "epoch 2/3" not in run.said
    assert run.adata().obsm["X_isovi"].tobytes() == whole.adata().obsm["X_isovi"].tobytes()
    assert run.metrics == whole.metrics
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_clock_that_goes_back_changes_nothing(
    out: Path, fit: Callable[..., Any], tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tissue_file, tmp_path / "whole", max_epochs=3)
    later = shutil.copy(tissue_file, tmp_path / "later.h5ad")
    os.utime(later, (4e9, 4e9))  # written when it is not yet
    reads = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * next(reads))
    run = fit(later, out, max_epochs=3, resume=True)
    assert run.said[0] == f"Resuming from {checkpoint_of(out)}" and next(reads) > 0
    assert run.adata().obsm["X_isovi"].tobytes() == whole.adata().obsm["X_isovi"].tobytes()
    assert Run.read(out).provenance.seconds >= 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later.h5ad", "out", "whole"]


def test_an_interrupted_fit_says_how_to_resume_it(unfinished: tuple[bytes, list[str]]) -> None:
    last = unfinished[1][-1]
    assert last.startswith("Stopped. Pass resume=True to resume the run from ")
    assert last.endswith("out.partial.ckpt")


def test_an_unfinished_run_is_removed_only_when_forced(
    fit: Callable[..., Any], tissue_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    interrupt(tissue_file, out, error=RuntimeError)
    kept = checkpoint_of(out).read_bytes()
    with pytest.raises(OutputError, match=r"An unfinished run .* resume=True, or start anew by force=True"):
        fit(tissue_file, out, max_epochs=3)
    assert checkpoint_of(out).read_bytes() == kept
    run = fit(tissue_file, out, max_epochs=3, force=True)
    assert "epoch 1/3" in run.said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("untrained")
def test_another_fit_is_not_resumed(out: Path, fit: Callable[..., Any], tissue_file: Path) -> None:
    with pytest.raises(InputError, match=r"another one: max_epochs was 3, is 4; seed was 0, is 1\."):
        fit(tissue_file, out, max_epochs=4, seed=1, resume=True)
    with pytest.raises(InputError, match=r"another one: min_counts was 0, is 5\."):
        files.fit(tissue_file, out, SETTINGS, min_counts=5, resume=True)
    other = out.with_name("other.h5ad")
    simulate("layers", n_obs=120, n_genes=40, seed=3).write_h5ad(other)
    with pytest.raises(InputError, match="another one: input_sha256 was"):
        fit(other, out, max_epochs=3, resume=True)
    assert checkpoint_of(out).exists()


def _with_a_note(adata: anndata.AnnData) -> None:
    adata.obs["note"] = "a column that could not be written"


def _without_annotation(adata: anndata.AnnData) -> None:
    adata.uns.clear()
    adata.var["symbol"] = "what a reader of tables lacked"


def _with_another_layer(adata: anndata.AnnData) -> None:
    adata.layers["logarithms"] = adata.X.log1p()


@pytest.mark.parametrize("name", ["mended.h5ad", "mended.zarr"])
@pytest.mark.parametrize("mend", [_with_a_note, _without_annotation, _with_another_layer])
def test_training_resumes_on_a_file_whose_other_part_was_mended(
    mend: Callable[[anndata.AnnData], None], name: str, out: Path, tissue_file: Path, tmp_path: Path
) -> None:
    mended, said = anndata.read_h5ad(tissue_file), Said()
    mend(mended)
    (mended.write_zarr if name.endswith("zarr") else mended.write_h5ad)(tmp_path / name)
    files.fit(tmp_path / name, out, SETTINGS, resume=True, progress=said)
    assert any("The input is another file" in line for line in said.lines)
    assert f"Resuming from {checkpoint_of(out)}" in said.lines
    right = files.fit(tissue_file, tmp_path / "whole", SETTINGS, progress=Said())
    np.testing.assert_array_equal(Run.read(out).adata.obsm["X_isovi"], right.adata.obsm["X_isovi"])
    assert set(mended.obs) <= set(Run.read(out).adata.obs) and set(mended.var) <= set(Run.read(out).adata.var)


def test_training_does_not_resume_on_other_counts(out: Path, tissue_file: Path, tmp_path: Path) -> None:
    other = anndata.read_h5ad(tissue_file)
    other.X[0, 0] += 1
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(InputError, match="another one: input_sha256 was"):
        files.fit(tmp_path / "other.h5ad", out, SETTINGS, resume=True, progress=Said())
    assert checkpoint_of(out).exists()


@pytest.mark.usefixtures("untrained")
def test_other_packages_do_not_resume(
    out: Path, fit: Callable[..., Any], tissue_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "version", lambda _: "99")
    with pytest.raises(InputError, match=r"scvi-tools was \d\S*, is 99; torch was \d\S*, is 99"):
        fit(tissue_file, out, max_epochs=3, resume=True)


def test_with_nothing_to_resume_it_starts_and_a_finished_run_is_read(
    fit: Callable[..., Any], tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit(tissue_file, tmp_path / "out", resume=True)
    assert first.said[0] == "There is no unfinished run to resume: starting from the beginning"
    monkeypatch.setattr("isovi.pipeline.train", lambda *_: pytest.fail("training was reached"))
    again = fit(tissue_file, tmp_path / "out", resume=True)
    assert again.said == [f"{tmp_path}/out is finished: there is nothing to resume"]
    assert again.run.id == first.run.id and again.metrics == first.metrics


def test_force_fits_again_what_is_finished(
    fit: Callable[..., Any], tissue_file: Path, tmp_path: Path
) -> None:
    ids = [
        fit(tissue_file, tmp_path / "out", max_epochs=1, resume=True, force=force).run.id
        for force in (False, True)
    ]
    assert ids[0] != ids[1] == Run.read(tmp_path / "out").id


# ---------------------------------------------------------------------------- one attempt


def test_only_the_same_run_is_taken_for_finished(
    run: Any, tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sha256 = run.run.settings, digest(Source(tissue_file))
    attempt, about = Attempt.of(run.out), files.describe(settings, sha256, min_counts=0)
    found = attempt.found(about)
    assert found is not None and found.is_complete
    assert not Attempt.of(tmp_path / "none").found(about)
    assert not attempt.found(files.describe(SETTINGS, sha256, min_counts=0))
    assert not attempt.found(files.describe(settings, sha256, min_counts=5))
    other = tmp_path / "other.h5ad"
    simulate("layers", n_obs=60, n_genes=20, seed=3).write_h5ad(other)
    assert not attempt.found(files.describe(settings, digest(Source(other)), min_counts=0))
    monkeypatch.setattr(files, "version", lambda _: "99")
    assert not attempt.found(files.describe(settings, sha256, min_counts=0))


def about_of(source: Source) -> dict[str, str]:
    return files.describe(SETTINGS, digest(source), min_counts=0, **source.options)


def test_paths_do_not_tell_attempts_apart(tissue_file: Path, tmp_path: Path) -> None:
    sources = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "tissue.h5ad").write_bytes(tissue_file.read_bytes())
        (folder / "positions.csv").write_text("barcode,x,y\none,1,2\n")
        sources.append(Source(folder / "tissue.h5ad", coordinates=folder / "positions.csv"))
    first, second = (about_of(source) for source in sources)
    assert first == second
    assert Attempt.of(tmp_path / "a" / "out").checkpoint == tmp_path / "a" / "out.partial.ckpt"
    (tmp_path / "b" / "positions.csv").write_text("barcode,x,y\none,1,1\n")
    changed = about_of(sources[1])
    assert {name for name in changed if changed[name] != first[name]} == {"input_sha256"}


def test_settings_input_and_packages_tell_attempts_apart() -> None:
    about = files.describe(SETTINGS, "abc", min_counts=5)
    assert {*SETTINGS.as_data(), "min_counts", "input_sha256", "isovi", "torch", "scvi-tools"} == set(about)
    assert (about["min_counts"], about["input_sha256"], about["n_latent"]) == ("5", "abc", "4")
    assert json.loads(about["distortion"])["kind"] == "Constraint"


def test_without_a_checkpoint_there_is_nothing_to_say(tmp_path: Path) -> None:
    attempt, said = Attempt(tmp_path / "out", tmp_path / "x.ckpt"), Said()
    with pytest.raises(RuntimeError), attempt.kept(said):
        raise RuntimeError
    assert said.lines == []


def test_of_an_input_that_is_refused_the_checkpoint_is_not_advertised(tmp_path: Path) -> None:
    attempt, said = Attempt(tmp_path / "out", tmp_path / "x.ckpt"), Said()
    attempt.checkpoint.touch()
    with pytest.raises(InputError), attempt.kept(said):
        raise InputError("x", "y", "z")
    assert said.lines == [] and attempt.checkpoint.exists()
    with pytest.raises(RuntimeError), attempt.kept(said):
        raise RuntimeError
    assert len(said.lines) == 1 and attempt.checkpoint.exists()
    checkpoint.temporary_of(attempt.checkpoint).touch()
    attempt.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["half", "one bit of a weight", "compressed"])
def test_a_damaged_checkpoint_is_refused_with_the_remedy(damage: str, out: Path, tissue_file: Path) -> None:
    file = checkpoint_of(out)
    if damage == "half":
        file.write_bytes(b"half a checkpoint")
    elif damage == "compressed":  # may claim any size
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as parts:
            parts.writestr("archive/more", bytes(1000))
    else:
        with zipfile.ZipFile(file) as parts:
            largest = max(parts.infolist(), key=lambda part: part.file_size)
        content = bytearray(file.read_bytes())
        content[largest.header_offset + largest.file_size // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(InputError, match="Remove it to start from the beginning"):
        files.fit(tissue_file, out, SETTINGS, resume=True)


# ---------------------------------------------------------------------------- several processes

DECIDE = """
import json, sys
from pathlib import Path
from isovi import files
from isovi.errors import IsoviError
from isovi.run import Settings

class Trains(Exception):
    pass

def train(used, spots, settings, progress, checkpoint):
    raise Trains(f"resumes: {checkpoint.path.exists()}")

files.run_pipeline.__globals__["train"] = train
decisions = []
for file, out, settings, options in json.loads(sys.argv[1]):
    try:
        found = files.fit(file, Path(out), Settings.from_data(settings), **options)
        decisions.append("returns")
    except (IsoviError, Trains) as error:
        decisions.append(f"{type(error).__name__}: {error}")
print(json.dumps(decisions))
"""


def decisions(cases: list[Any]) -> list[list[str]]:
    """What each process, of two on two machines, decides in each case."""
    said = finish([Forked(json.dumps(cases), code=DECIDE, NODE_RANK=str(rank)) for rank in (0, 1)])
    return [json.loads(text.splitlines()[-1]) for text in said]


def test_every_process_decides_as_the_first(run: Any, out: Path, tissue_file: Path, tmp_path: Path) -> None:
    """Bug 9: processes other than the first decided otherwise, and waited for it for ever."""
    asked = {
        "finished, resume": (run.out, run.run.settings, {"resume": True}),
        "finished": (run.out, run.run.settings, {}),
        "another one is finished, resume": (run.out, SETTINGS, {"resume": True}),
        "unfinished": (out, SETTINGS, {}),
        "unfinished, other settings": (out, Settings(max_epochs=4), {"resume": True}),
        "unfinished, resume": (out, SETTINGS, {"resume": True}),
        "nothing": (tmp_path / "new", SETTINGS, {}),
        "nothing, resume": (tmp_path / "new", SETTINGS, {"resume": True}),
    }
    cases = [
        (str(tissue_file), str(where), settings.as_data(), options)
        for where, settings, options in asked.values()
    ]
    first, second = (dict(zip(asked, decided, strict=True)) for decided in decisions(cases))
    assert first == second
    assert second["finished, resume"] == "returns"
    assert second["finished"].startswith("OutputError") and "exists" in second["finished"]
    assert second["another one is finished, resume"].startswith("OutputError")
    assert second["unfinished"].startswith("OutputError: An unfinished run is kept")
    assert second["unfinished, other settings"].startswith("InputError: The unfinished run")
    assert second["unfinished, resume"] == "Trains: resumes: True"
    assert second["nothing"] == second["nothing, resume"] == "Trains: resumes: False"


def test_other_processes_than_the_first_only_train(
    tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setattr("isovi.pipeline.train", lambda used, *_: asked.append(used.n_obs))
    said = Said()
    assert files.fit(tissue_file, tmp_path / "out", Settings(nodes=2), progress=said) is None
    assert asked == [120] and said.lines == [] and list(tmp_path.iterdir()) == []


def test_devices_and_machines_reach_the_training(tissue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        pass

    def train(_: Any, *__: Any, **arguments: Any) -> None:
        found.append({name: arguments.get(name) for name in ("devices", "num_nodes")})
        raise Reached

    found: list[dict[str, Any]] = []
    monkeypatch.setattr("isovi.model.model.IsoSCVI.train", train)
    for settings in (Settings(devices=2, nodes=3), Settings()):
        with pytest.raises(Reached):
            pipeline.train(tissue, pipeline.split(tissue, settings), settings, Said())
    assert found == [{"devices": 2, "num_nodes": 3}, {"devices": None, "num_nodes": None}]


# ---------------------------------------------------------------------------- killed processes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    simulate("layers", n_obs=300, n_genes=60, seed=0).write_h5ad(tmp_path / "tissue.h5ad")
    return tmp_path / "tissue.h5ad"


def words(file: Path, *options: str) -> list[str]:
    asked = ["--holdout", "0.25", "--max-epochs", str(EPOCHS), "--n-latent", "4"]
    return ["fit", str(file), *asked, *options, "--out"]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["all", "knn:6"])
def test_a_fit_killed_at_random_moments_ends_bit_for_bit_the_same(
    pairs: str, file: Path, tmp_path: Path
) -> None:
    asked = words(file, "--pairs", pairs)
    finish([Forked(*asked, str(tmp_path / "whole"))])
    again = [*asked, str(tmp_path / "again"), "--resume"]
    moments = np.random.default_rng(len(pairs))
    for first_epoch in (1, 4, 8):
        kill_after(again, first_epoch, float(moments.uniform(0, 0.1)))
        assert not (tmp_path / "again").exists()
    assert "Resuming from" in finish([Forked(*again)])[0]
    assert_same_results(tmp_path / "whole", tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "whole", "again"}


def kill_after(words: list[str], epoch: int, seconds: float) -> None:
    """SIGKILL a fit some time after it has said that it is past an epoch, or past the last one.

    A quick machine may have trained to the end before an earlier attempt was killed.
    """
    process = Forked(*words)
    said = read_until(process, epoch)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "".join(said)


def read_until(process: Forked | subprocess.Popen[str], epoch: int) -> list[str]:
    """What a fit says until it is past an epoch, or past the last one."""
    said = []
    for line in process.stdout:
        said.append(line)
        past = line.startswith("  epoch ") and int(line.split()[1].split("/")[0]) >= epoch
        if past or line.startswith("Trained "):
            break
    return said


@pytest.mark.slow
def test_two_processes_resume_together_to_the_same_result(file: Path, tmp_path: Path) -> None:
    """Bug 9, as on two machines: both are launched by hand, and the second reports nothing."""
    pack(file, tmp_path / "packed.zarr")
    file = tmp_path / "packed.zarr"
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert "epoch 12/12" in finish(launch(file, whole))[0]
    both = launch(file, again)
    said = read_until(both[0], 4)
    both[1].kill()
    last = [process.communicate(timeout=60)[0] for process in both]
    assert all(process.returncode for process in both), last
    assert "Error: Another process of the training has ended" in last[0] and "Traceback" not in last[0]
    assert checkpoint_of(again).exists() and not again.exists(), said
    first, second = finish(launch(file, again, "--resume"))
    assert "Resuming from" in first and "epoch 1/12" not in first and "epoch" not in second
    assert_same_results(whole, again)
    finished = finish(launch(file, again, "--resume"))
    assert "there is nothing to resume" in finished[0]
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "tissue.h5ad", "whole", "again"}


def launch(file: Path, out: Path, *options: str) -> list[subprocess.Popen[str]]:
    """Launch a fit as on two machines of one device, here on the loopback of this one.

    Each is an interpreter of its own: threads of Gloo do not survive a fork.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    asked = [sys.executable, "-m", "isovi.cli", *words(file, "--nodes", "2", *options), str(out)]
    return [subprocess.Popen(asked, env={**shared, "NODE_RANK": str(rank)}, **piped) for rank in (0, 1)]


def finish(processes: Sequence[Forked | subprocess.Popen[str]]) -> list[str]:
    """What each process said, once all have ended well."""
    try:
        ended = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = [one if isinstance(one, str) else one[0] for one in ended]
    assert not any(process.returncode for process in processes), said
    return said


def assert_same_results(first: Path, second: Path) -> None:
    latents = [anndata.io.read_h5ad(run / "adata.h5ad").obsm["X_isovi"] for run in (first, second)]
    assert latents[0].tobytes() == latents[1].tobytes()
    weights = [load_file(run / "model" / "model.safetensors") for run in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value.numpy(), weights[1][name].numpy(), name)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (first, second)]
    assert metrics[0] == metrics[1]
    histories = [(run / "history.csv").read_text() for run in (first, second)]
    assert histories[0] == histories[1]
