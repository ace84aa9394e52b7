from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isovi_bench.datasets import DataSet
from isovi_bench.job import Job, canonical
from isovi_bench.process import FreshProcess, reason, run

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


@pytest.mark.slow
def test_an_error_becomes_a_failed_outcome(tmp_path: Path) -> None:
    pool = FreshProcess()
    failed = pool.run(job("fails", unless=str(tmp_path / "nothing")))
    assert failed.status == "failed" and failed.message == "ValueError: the last says it"
    assert "unknown" in pool.run(job("positions", unknown=1)).message
    assert "the process of the job died" in pool.run(job("dies")).message


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


PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
time.sleep(600)
"""
CHILD = """
import os, sys, time
from pathlib import Path
from isovi_bench import process
process.GRACE = 0.2
process._end_with(os.getppid())
folder = Path(sys.argv[1])
(folder / "ready").write_text(str(os.getpid()))
try:
    time.sleep(600)
except KeyboardInterrupt:
    (folder / "interrupted").touch()
    while sys.argv[2] == "stubborn":
        time.sleep(1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("method", ["gives in", "stubborn"])
def test_a_process_whose_parent_is_killed_is_interrupted_and_ends(tmp_path: Path, method: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(tmp_path), method])
    try:
        wait_until((tmp_path / "ready").exists)
    finally:
        parent.kill()
        parent.wait()
    child = int((tmp_path / "ready").read_text())
    wait_until(lambda: not is_running(child))
    assert (tmp_path / "interrupted").exists()


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.1)


def is_running(number: int) -> bool:
    """Whether a process is there and no zombie."""
    status = Path(f"/proc/{number}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
