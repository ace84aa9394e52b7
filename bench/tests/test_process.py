from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isovi_bench import process
from isovi_bench.datasets import DataSet
from isovi_bench.job import Job, canonical
from isovi_bench.process import attempt, reason, run

ADAPTER = str(Path(__file__).with_name("tiny_adapter.py"))


def job(method: str, split: str = "0.25", **settings: Any) -> Job:
    dataset = DataSet(name="t", simulate={"n_obs": 80, "n_genes": 12}, label_key="domain")
    return Job(
        dataset, "d", 80, method, method, canonical(settings), 0, split, False, adapters=(ADAPTER,),
        metrics=("morans_i",),
    )  # fmt: skip


def test_a_job_gives_metrics_and_what_plots_need(tmp_path: Path) -> None:
    outcome = run(job("noted", folder=str(tmp_path)))
    assert set(outcome.metrics) == {"train", "heldout", "all", ""}
    assert set(outcome.metrics["all"]) == {"morans_i"}
    whole = outcome.metrics[""]
    assert whole["epochs"] == 7 and whole["seconds"] > 0 and whole["peak_memory_mb"] > 50
    assert {name: array.shape for name, array in outcome.arrays.items()} == {
        "latent": (80, 3),
        "coordinates": (80, 2),
        "section": (80,),
        "split": (80,),
    }
    assert outcome.arrays["latent"].dtype == np.float32
    assert outcome.status == "done"


def test_a_method_that_does_not_count_epochs_has_none() -> None:
    assert set(run(job("positions")).metrics[""]) == {"seconds", "cpu_seconds", "peak_memory_mb"}


def test_an_error_becomes_a_failed_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_end_with", lambda _: None)  # pytest is no worker
    monkeypatch.setattr(process, "_quiet", lambda: None)
    failed = attempt(job("fails", unless=str(tmp_path / "nothing")))
    assert failed.status == "failed" and failed.message == "ValueError: the last says it"
    assert "unknown" in attempt(job("positions", unknown=1)).message


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a\nb\n"), "ValueError: b"),
        (MemoryError(), "MemoryError: "),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_a_reason_is_a_kind_and_a_line(error: Exception, told: str) -> None:
    assert reason(error) == told


def test_a_process_whose_parent_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []

    class Ended(BaseException):
        pass

    def leave(code: int) -> None:
        ended.append(code)
        raise Ended

    class Now:
        def __init__(self, target: Any, daemon: bool) -> None:
            self.target = target
            assert daemon

        def start(self) -> None:
            with pytest.raises(Ended):
                self.target()

    interrupted: list[bool] = []
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(process.signal, "signal", lambda *_: None)
    monkeypatch.setattr(process._thread, "interrupt_main", lambda: interrupted.append(True))
    monkeypatch.setattr(process, "GRACE", 0.0)
    monkeypatch.setattr(process.threading, "Thread", Now)
    process._end_with(parent=-1)
    assert interrupted == [True] and ended == [1]
