"""Real signals, to this process at a given stage and to processes of their own."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isovi
from forked import Forked
from isovi import interrupts
from isovi.cli import main
from isovi.interrupts import Handlers, Interrupted
from isovi.simulate import simulate

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
RESUME = "Pass --resume to resume the run from {}.partial.ckpt\n"
COMPLETE = "The run is complete but for its report: isovi report {}\n"
NOTHING = "No result was written: run the command again.\n"
SLURM = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "fit"}
SLURM |= dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
FIT = ["--max-epochs", "2", "--n-latent", "4", "--holdout", "0.25"]


def send_at(stage: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal when it comes to a function, which then does what it always does."""
    module, _, name = stage.partition(":")
    owner = importlib.import_module(module)
    *names, name = name.split(".")
    for one in names:
        owner = getattr(owner, one)
    function = getattr(owner, name)

    def sending(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(number)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, sending)


pytestmark = pytest.mark.usefixtures("not_in_the_background")


@pytest.fixture(params=list(STATUS), ids=lambda number: number.name)
def number(request: pytest.FixtureRequest) -> signal.Signals:
    return request.param


@pytest.fixture
def stopped(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command says after its signal when it comes to a stage, in one line."""

    def run(stage: str, *command: str) -> str:
        send_at(stage, number, monkeypatch)
        monkeypatch.setattr(sys, "argv", ["isovi", *command])
        handlers = [signal.getsignal(one) for one in STATUS]
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == STATUS[number]
        assert [signal.getsignal(one) for one in STATUS] == handlers
        printed = capsys.readouterr()
        assert "NameError" not in printed.out and "Stopped" not in printed.out
        begun, _, said = printed.err.splitlines(keepends=True)[-1].partition(". ")
        assert begun == f"Stopped by {number.name}"
        return said

    return run


@pytest.mark.parametrize(
    ("number", "stage", "said", "kept"),
    [
        (signal.SIGINT, "isovi.files:read", NOTHING, []),
        (signal.SIGTERM, "isovi.pipeline:choose_genes", NOTHING, []),
        (signal.SIGINT, "isovi.model.training:DualAscent.on_train_epoch_end", NOTHING, []),
        (signal.SIGTERM, "isovi.model.training:DualAscent.on_train_epoch_end", NOTHING, []),
        (signal.SIGINT, "isovi.pipeline:evaluate", RESUME, ["out", "out.partial.ckpt"]),
        (
            signal.SIGTERM,
            "isovi.files:draw",
            "The trained run is in {0}: isovi diagnose {0} makes what is missing\n",
            ["out"],
        ),
        (
            signal.SIGTERM,
            "isovi.report.write:html",
            "The run is complete but for its report: isovi report {}\n",
            ["out"],
        ),
    ],
    indirect=["number"],
)
def test_a_fit_says_what_is_kept(
    stage: str, said: str, kept: list[str], stopped: Callable[..., str], tissue_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert stopped(stage, "fit", str(tissue_file), "--out", str(out), *FIT) == said.format(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


@pytest.mark.parametrize(
    ("number", "stage", "command"),
    [
        (signal.SIGINT, "isovi.data.inspect:counts_in", "inspect {file}"),
        (signal.SIGTERM, "isovi.data.pack:_write_matrix", "pack {file} {out}.zarr"),
        (signal.SIGINT, "isovi.data.io:_write", "simulate --out {out}.h5ad"),
        (signal.SIGTERM, "isovi.files:placement_metrics", "place {run} --query {file} --out {out}.h5ad"),
        (signal.SIGINT, "isovi.compare:compare", "compare {run}"),
        (signal.SIGTERM, "isovi.diagnose:_ellipses", "diagnose {run}"),
        (signal.SIGINT, "isovi.report.write:html", "report {run}"),
    ],
    indirect=["number"],
)
def test_every_command_ends_with_the_status_of_its_signal(
    stage: str, command: str, stopped: Callable[..., str], run: Any, tissue_file: Path, tmp_path: Path
) -> None:
    before = sorted(run.out.rglob("*"))
    words = [word.format(file=tissue_file, out=tmp_path / "out", run=run.out) for word in command.split()]
    assert stopped(stage, *words) == NOTHING
    assert not list(tmp_path.iterdir()) and sorted(run.out.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT], indirect=True)
def test_fit_in_python_raises_keyboard_interrupt(
    number: int, tissue: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send_at("isovi.pipeline:_Epochs.on_train_epoch_end", number, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        isovi.fit(tissue, max_epochs=2, progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "NameError" not in "".join(capsys.readouterr())


def test_training_a_model_alone_handles_signals_as_scvi_tools_does(
    tissue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    isovi.IsoSCVI.setup_anndata(tissue, layer="counts")
    send_at("isovi.model.training:DualAscent.on_train_epoch_end", signal.SIGINT, monkeypatch)
    with pytest.raises(SystemExit) as end:
        isovi.IsoSCVI(tissue, n_latent=4).train(max_epochs=2, enable_progress_bar=False)
    assert end.value.code == 1


# ---------------------------------------------------------------------------- the mechanism


def test_a_signal_raised_where_nothing_can_be_raised_is_raised_later() -> None:
    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        one = Finalised()
        del one
        time.sleep(10)

    started = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"), interrupts.raised():
        work()
    assert time.monotonic() - started < 5


def test_a_second_signal_does_not_disturb_cleaning_up() -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)

    with pytest.raises(Interrupted) as stopped, interrupts.raised():
        work()
    assert cleaned and stopped.value.status == 143


@pytest.mark.parametrize("number", list(STATUS), ids=lambda number: number.name)
def test_compiled_code_is_stopped_as_by_the_keyboard_and_the_signal_is_known_after(number: int) -> None:
    def library() -> None:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        raise KeyboardInterrupt  # another one, as Ray does

    outside = (interrupts.raised(), interrupts.kept_at("Kept."))
    with pytest.raises(Interrupted) as stopped, outside[0], outside[1], interrupts.as_keyboard_interrupts():
        library()
    assert stopped.value.status == STATUS[number] and str(stopped.value).endswith(". Kept.")


def test_after_compiled_code_signals_are_raised_as_before() -> None:
    def work() -> None:
        with interrupts.as_keyboard_interrupts():
            pass
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted), interrupts.raised():
        work()


@pytest.mark.parametrize(
    ("within", "expected"), [(interrupts.raised, Interrupted), (contextlib.nullcontext, KeyboardInterrupt)]
)
def test_an_interrupt_by_a_library_is_one_of_the_command_line_if_there_is_one(
    within: Any, expected: type[BaseException]
) -> None:
    with pytest.raises(expected) as stopped, within(), interrupts.as_keyboard_interrupts():
        raise KeyboardInterrupt
    assert getattr(stopped.value, "signal", signal.SIGINT) == signal.SIGINT


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.raised():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_a_batch_job_of_slurm_handlers_of_libraries_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        handlers = Handlers()
        signal.signal(signal.SIGTERM, lambda *_: None)
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        handlers.restore()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
        handlers.restore()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


# ---------------------------------------------------------------------------- processes


@pytest.fixture
def fit(tmp_path: Path) -> list[str]:
    file = tmp_path / "tissue.h5ad"
    simulate("layers", n_obs=300, n_genes=60, seed=0).write_h5ad(file)
    return ["fit", str(file), "--out", str(tmp_path / "out"), "--max-epochs", "2000", "--n-latent", "4"]


def signalled(process: Forked | subprocess.Popen[str], after: str, number: int) -> tuple[str, int | None]:
    """What a process says after it got a signal, when it said something, and its exit status."""
    said = []
    for line in process.stdout:  # type: ignore[union-attr]  # a pipe
        said.append(line)
        if line.startswith(after):
            break
    process.send_signal(number)
    try:
        rest = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail("".join(said))
    return rest if isinstance(rest, str) else rest[0], process.returncode


def started(*words: str) -> subprocess.Popen[str]:
    """A command in an interpreter of its own, for what starts further ones."""
    return subprocess.Popen(
        [sys.executable, "-m", "isovi.cli", *words],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_process_in_training_is_stopped(fit: list[str], tmp_path: Path, number: signal.Signals) -> None:
    said, status = signalled(Forked(*fit), "  epoch", number)
    assert status == STATUS[number]
    assert said.endswith(f"Stopped by {number.name}. {RESUME.format(tmp_path / 'out')}")
    assert "Traceback" not in said and "Error" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM], indirect=True)  # either takes most of a minute
def test_two_processes_are_stopped(fit: list[str], tmp_path: Path, number: signal.Signals) -> None:
    said, status = signalled(started(*fit, "--devices", "2"), "  epoch", number)
    assert status == STATUS[number]
    assert said.endswith(f"Stopped by {number.name}. {RESUME.format(tmp_path / 'out')}")
    assert "Traceback" not in said and "Error" not in said


@pytest.mark.slow
def test_slurm_requeues_a_job_and_the_job_resumes(fit: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text('#!/bin/sh\necho "scontrol $@"\n')
    (folder / "scontrol").chmod(0o755)
    slurm = {**SLURM, "PATH": f"{folder}:{os.environ['PATH']}"}
    said, status = signalled(Forked(*fit, **slurm), "  epoch", signal.SIGUSR1)
    assert status == 128 + signal.SIGUSR1
    assert said.endswith(f"{RESUME.format(tmp_path / 'out')}scontrol requeue 77\n")
    again = Forked(*fit, **slurm, SLURM_RESTART_COUNT="1")
    assert again.stdout.readline() == f"Resuming from {tmp_path / 'out'}.partial.ckpt\n"
    again.kill()
    again.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT], indirect=True)  # either takes most of a minute
def test_a_search_is_stopped(fit: list[str], tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("ray")
    words = ["tune", "--targets", "0.1,0.2,0.3", "--n-latents", "4", "--pairs", "all", "--max-epochs", "8"]
    said, status = signalled(started(words[0], *fit[1:4], *words[1:]), "  trial 1/", number)
    assert status == STATUS[number]
    kept = f"Pass --resume to resume the search from {tmp_path / 'out'}.partial.trials\n"
    assert said.endswith(f"Stopped by {number.name}. {kept}") and "Traceback" not in said
