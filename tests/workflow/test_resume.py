from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from isovi.workflow import fit as workflow
from isovi.workflow import resume
from isovi.workflow.resume import begin, checkpoint_of, describe_attempt, finished, kept

from isovi.errors import InputError, OutputError
from isovi.model import checkpoint
from isovi.simulate import simulate

EPOCHS = 12
DIE_WHILE_WRITING = """
import os, sys
from isovi.data import io

writing = io.output_directory(sys.argv[1])
writing.__enter__()
os._exit(9)
"""


@pytest.fixture
def interrupted(
    fit: Callable[..., Any], tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Leaves a fit that was interrupted in its last epoch, and says where its results would be."""

    def interrupt(error: type[BaseException] = KeyboardInterrupt, **options: Any) -> Path:
        def stop(_: Any, trainer: Any, *__: Any) -> None:
            if trainer.current_epoch == 2:
                raise error

        handler = signal.getsignal(signal.SIGINT)  # Lightning turns it off after Ctrl-C
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "SHARE", np.inf)
            patch.setattr(workflow.EpochProgress, "on_train_epoch_end", stop)
            with pytest.raises((SystemExit, error)):
                fit(tissue_file, tmp_path / "out", max_epochs=3, **options)
        signal.signal(signal.SIGINT, handler)
        return tmp_path / "out"

    return interrupt


# ---------------------------------------------------------------------------- in this process


def test_an_interrupted_fit_goes_on_to_the_same_result(
    interrupted: Callable[..., Path], fit: Callable[..., Any], tissue_file: Path, tmp_path: Path
) -> None:
    whole = fit(tissue_file, tmp_path / "whole", max_epochs=3)
    out = interrupted()
    subprocess.run([sys.executable, "-c", DIE_WHILE_WRITING, str(out)], check=False)
    assert list(tmp_path.glob(".out.*.tmp"))
    assert checkpoint_of(out).exists() and not out.exists()
    run = fit(tissue_file, out, max_epochs=3, resume=True)
    assert f"Going on from {checkpoint_of(out)}" in run.said
    assert "epoch 3/3" in run.said and "epoch 2/3" not in run.said
    assert run.adata().obsm["X_isovi"].tobytes() == whole.adata().obsm["X_isovi"].tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_an_interrupted_fit_says_how_to_go_on(
    interrupted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(workflow, "say", lambda _, text: said.append(text))
    out = interrupted()
    assert said[-1] == f"Stopped. The same command with --resume goes on from {checkpoint_of(out)}"


def test_it_is_not_thrown_away_unasked(
    interrupted: Callable[..., Path], fit: Callable[..., Any], tissue_file: Path
) -> None:
    out = interrupted(error=RuntimeError)
    with pytest.raises(OutputError, match=r"An unfinished run .* --resume, or start anew by --force"):
        fit(tissue_file, out, max_epochs=3)
    run = fit(tissue_file, out, max_epochs=3, force=True)
    assert "epoch 1/3" in run.said and not checkpoint_of(out).exists()


def test_another_fit_is_refused(
    interrupted: Callable[..., Path], fit: Callable[..., Any], tissue_file: Path
) -> None:
    out = interrupted()
    with pytest.raises(InputError, match=r"another one: max_epochs was 3, is 4; seed was 0, is 1\."):
        fit(tissue_file, out, max_epochs=4, seed=1, resume=True)
    other = tissue_file.with_name("other.h5ad")
    simulate("layers", n_obs=120, n_genes=40, seed=3).write_h5ad(other)
    with pytest.raises(InputError, match="input_sha256 was"):
        fit(other, out, max_epochs=3, resume=True)
    assert checkpoint_of(out).exists()


def test_other_packages_are_refused(
    interrupted: Callable[..., Path],
    fit: Callable[..., Any],
    tissue_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = interrupted()
    monkeypatch.setattr(resume, "version", lambda _: "99")
    with pytest.raises(InputError, match=r"scvi-tools was \d\S*, is 99; torch was \d\S*, is 99"):
        fit(tissue_file, out, max_epochs=3, resume=True)


def test_with_nothing_to_go_on_with_it_starts_and_when_finished_it_says_so(
    fit: Callable[..., Any], tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fit(tissue_file, tmp_path / "out", resume=True)
    assert "There is no unfinished run to go on with: starting from the beginning" in run.said
    said: list[str] = []
    monkeypatch.setattr(workflow, "say", lambda _, text: said.append(text))
    monkeypatch.setattr(workflow, "train", lambda *_: pytest.fail("trained again"))
    assert workflow.fit(run.options) == run.json("metrics.json")
    assert said == [f"{tmp_path}/out is finished: there is nothing to go on with"]


def test_only_the_same_run_is_taken_for_finished(tmp_path: Path) -> None:
    file, out = tmp_path / "x.h5ad", tmp_path / "out"
    file.write_text("data")
    out.mkdir()
    options = {"seed": 0, "input": "elsewhere", "resume": True}
    (out / "metrics.json").write_text('{"n_obs": 7}')
    record = {"arguments": {"seed": 0, "input": "x"}, "input_sha256": resume.io.sha256(file)}
    (out / "run.json").write_text(json.dumps(record))
    assert finished(out, options, file) == {"n_obs": 7}
    assert finished(out, {**options, "seed": 1}, file) is None
    assert finished(out, options, tmp_path / "missing") is None
    assert finished(tmp_path / "none", options, file) is None
    file.write_text("other")
    assert finished(out, options, file) is None


def test_what_does_not_change_the_result_may_differ() -> None:
    first = describe_attempt({"seed": 0, "out": "a", "input": "b", "force": True, "resume": False}, "abc")
    second = describe_attempt({"seed": 0, "out": "c", "input": "d", "force": False, "resume": True}, "abc")
    assert first == second
    assert {"seed", "input_sha256", "isovi", "torch", "scvi-tools"} == set(first)


def test_without_a_checkpoint_there_is_nothing_to_say(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError), kept(tmp_path / "x.ckpt", said.append):
        raise RuntimeError
    assert said == []
    assert not begin(tmp_path / "out", {}, resume=True).resumes


def test_starting_anew_throws_the_earlier_attempt_away(tmp_path: Path) -> None:
    checkpoint_of(tmp_path / "out").touch()
    assert not begin(tmp_path / "out", {}, resume=False).resumes
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- other processes


def test_other_processes_than_the_first_only_train(
    tissue_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(workflow, "is_first_process", lambda: False)
    monkeypatch.setattr(workflow, "train", lambda used, *rest: asked.append((used.n_obs, rest[-1].resumes)))
    options = workflow.FitOptions(tissue_file, tmp_path / "out", devices=2, resume=True)
    assert workflow.fit(options) == {}
    checkpoint_of(tmp_path / "out").touch()
    assert workflow.fit(options) == {}
    assert asked == [(120, False), (120, True)]
    assert not (tmp_path / "out").exists()


def test_devices_and_machines_reach_the_training(tissue_file: Path, tmp_path: Path) -> None:
    options = workflow.FitOptions(tissue_file, tmp_path / "out", devices=2, nodes=3)
    assert workflow.several(options) == {"devices": 2, "num_nodes": 3}
    assert workflow.several(workflow.FitOptions(tissue_file, tmp_path / "out")) == {}
    with pytest.raises(InputError, match=r"--devices 0 .* at least 1"):
        workflow.fit(workflow.FitOptions(tissue_file, tmp_path / "out", devices=0))


# ---------------------------------------------------------------------------- killed processes


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["all", "knn:6"])
def test_a_fit_killed_at_random_moments_ends_bit_for_bit_the_same(pairs: str, tmp_path: Path) -> None:
    file = tmp_path / "tissue.h5ad"
    simulate("layers", n_obs=300, n_genes=60, seed=0).write_h5ad(file)
    command = [sys.executable, "-m", "isovi.cli", "fit", str(file), "--holdout", "0.25", "--pairs", pairs]
    command += ["--max-epochs", str(EPOCHS), "--n-latent", "4", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    again = [*command, str(tmp_path / "again"), "--resume"]
    moments = np.random.default_rng(len(pairs))
    for first_epoch in (1, 4, 8):
        kill_after(again, first_epoch, float(moments.uniform(0, 0.1)))
        assert not (tmp_path / "again").exists()
    done = subprocess.run(again, check=True, capture_output=True, text=True)
    assert "Going on from" in done.stdout
    assert_same_results(tmp_path / "whole", tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "whole", "again"}


def kill_after(command: list[str], epoch: int, seconds: float) -> None:
    """SIGKILL a fit some time after it has said that it is past an epoch, or past the last one.

    A quick machine may have trained to the end before an earlier attempt was killed.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            past = line.startswith("  epoch ") and int(line.split()[1].split("/")[0]) >= epoch
            if past or line.startswith("Trained "):
                break
        time.sleep(seconds)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "".join(said)


def assert_same_results(first: Path, second: Path) -> None:
    latents = [anndata.io.read_h5ad(run / "adata.h5ad").obsm["X_isovi"] for run in (first, second)]
    assert latents[0].tobytes() == latents[1].tobytes()
    weights = [
        torch.load(run / "model" / "model.pt", weights_only=False)["model_state_dict"]
        for run in (first, second)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        if isinstance(value, dict):  # Pyro's parameters, of which there are none
            assert value == weights[1][name]
            continue
        np.testing.assert_array_equal(value.numpy(), weights[1][name].numpy(), name)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (first, second)]
    for found in metrics:
        found.pop("seconds"), found.pop("peak_memory_mb")
    assert metrics[0] == metrics[1]
