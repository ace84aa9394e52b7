"""One grid that is killed, resumed and run again, in one Ray session."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import yaml
from rich.console import Console

from isovi.errors import InputError
from isovi_bench import runner, task
from isovi_bench.datasets import DataSet
from isovi_bench.job import Job
from isovi_bench.runner import RunOptions, Tally, missing, run
from isovi_bench.store import SCHEMA, Outcome, Store

ADAPTER = Path(__file__).with_name("tiny_adapter.py")
SEEDS = [0, 1, 2]
JOB = Job(DataSet(name="a", path=("/a",)), "d", 10, "m", "m", "{}", 0, "0.25", False)


@dataclass
class Bench:
    """A comparison that was killed after its first job and then resumed."""

    folder: Path
    killed: list[str]
    said: str
    counts: dict[str, int]

    @property
    def options(self) -> RunOptions:
        return RunOptions(self.folder / "grid.yaml", self.folder / "out", workers=1)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()

    def results(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "out" / "results.parquet")

    def again(self, **changes: object) -> str:
        console = Console(file=StringIO(), width=200)
        run(replace(self.options, **changes), console)
        return console.file.getvalue()


def write_grid(folder: Path) -> None:
    methods = [
        {"name": "noted", "settings": {"folder": str(folder)}},
        {"name": "fails", "settings": {"unless": str(folder / "mended")}, "seeds": [0]},
        {"name": "dies", "seeds": [0]},
        {"name": "positions", "seeds": [0]},
    ]
    grid = {
        "datasets": [{"name": "tissue", "simulate": {"n_obs": 60, "n_genes": 12}}],
        "methods": methods,
        "seeds": SEEDS,
        "shuffled": [0],
        "metrics": ["morans_i", "spearman_distance"],
        "adapters": [ADAPTER.name],
    }
    (folder / ADAPTER.name).write_text(ADAPTER.read_text())
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))


def kill_in_the_middle(folder: Path) -> list[str]:
    """Start the command, and kill it when the second trial has begun; the jobs that it left behind."""
    (folder / "closed").touch()
    command = [sys.executable, "-m", "isovi_bench.cli", "run", str(folder / "grid.yaml")]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [*command, "--out", str(folder / "out"), "--workers", "1"], stdout=log, stderr=log
    )
    until = time.monotonic() + 300
    while "1" not in (folder / "calls").read_text().split():
        assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (folder / "closed").unlink()
    return sorted(file.stem for file in (folder / "out" / "jobs").glob("*.parquet"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "calls").touch()
    write_grid(folder)
    killed = kill_in_the_middle(folder)
    console = Console(file=StringIO(), width=200)
    options = RunOptions(folder / "grid.yaml", folder / "out", workers=1)
    with runner.cluster(options):
        counts = run(options, console)
        yield Bench(folder, killed, console.file.getvalue(), counts)


@pytest.mark.slow
def test_killed_and_started_again_it_repeats_no_finished_job(bench: Bench) -> None:
    assert len(bench.killed) == 5  # all of the first trial
    assert bench.calls().count("0") == 1
    assert bench.calls().count("1") == 2  # killed in it
    assert re.search(r"^7 jobs: 3 done, 2 failed before, 2 to run$", bench.said, re.MULTILINE)
    assert bench.counts == {"done": 5, "failed": 2}


@pytest.mark.slow
def test_failed_jobs_are_rows_that_say_why_and_stop_no_others(bench: Bench) -> None:
    found = bench.results()
    failed = found[found["status"] == "failed"].set_index("method")
    assert failed.loc["fails", "message"] == "ValueError: the last says it"
    assert "died" in failed.loc["dies", "message"]
    assert failed["value"].isna().all() and (failed["metric"] == "").all()
    assert set(found.loc[found["status"] == "done", "method"]) == {"noted", "positions"}


@pytest.mark.slow
def test_results_are_one_tidy_table_with_latents_beside(bench: Bench) -> None:
    found = bench.results()
    assert list(found) == SCHEMA.names
    assert not found.duplicated(["job", "set", "metric"]).any()
    done = found[found["status"] == "done"]
    latents = {file.stem for file in (bench.folder / "out" / "latents").glob("*.npz")}
    assert latents == set(done["job"])
    control = done[done["shuffled"] & (done["metric"] == "spearman_distance")].set_index("set")["value"]
    plain = done[
        (done["method"] == "positions") & ~done["shuffled"] & (done["metric"] == "spearman_distance")
    ]
    assert list(plain["set"]) == ["train"] and plain["value"].iloc[0] > 0.999
    assert control["train"] > 0.999  # held against what it was given: memorised


@pytest.mark.slow
def test_peak_memory_is_of_one_job(bench: Bench) -> None:
    found = bench.results()
    peaks = found.loc[found["metric"] == "peak_memory_mb", "value"]
    assert len(peaks) == 5 and np.ptp(peaks) < 0.1 * peaks.max()


@pytest.mark.slow
def test_run_again_it_only_tries_what_failed_and_that_only_when_asked(bench: Bench) -> None:
    before = bench.results()
    assert "7 jobs: 5 done, 2 failed before, 0 to run" in bench.again()
    pd.testing.assert_frame_equal(bench.results(), before)
    (bench.folder / "mended").touch()
    said = bench.again(retry_failed=True)
    assert "2 to run" in said and "6 jobs done, 1 failed" in said
    assert len(bench.calls()) == 4


# ---------------------------------------------------------------------------- without Ray


def test_what_is_missing() -> None:
    jobs = [replace(JOB, seed=seed) for seed in range(3)]
    ended = {jobs[0].key: "done", jobs[1].key: "failed"}
    assert missing(jobs, ended, retry_failed=False) == jobs[2:]
    assert missing(jobs, ended, retry_failed=True) == jobs[1:]


def test_a_digest_is_worked_out_again_only_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache = tmp_path / "a", tmp_path / "digests.json"
    file.write_text("one")
    first = runner._digests([str(file)], cache)
    with monkeypatch.context() as patch:
        patch.setattr(runner.io, "sha256", lambda _: pytest.fail("read again"))
        assert runner._digests([str(file)], cache) == first
    file.write_text("other")
    assert runner._digests([str(file)], cache) != first


def test_a_missing_file_is_refused_before_anything_runs(tmp_path: Path) -> None:
    write_grid(tmp_path)
    grid = yaml.safe_load((tmp_path / "grid.yaml").read_text())
    (tmp_path / "grid.yaml").write_text(
        yaml.safe_dump({**grid, "datasets": [{"name": "a", "path": "a.h5ad"}]})
    )
    with pytest.raises(InputError, match=r'There is no ".*a\.h5ad"'):
        run(RunOptions(tmp_path / "grid.yaml", tmp_path / "out"))


def test_stopped_it_writes_what_there_is_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(todo: list[Job], *rest: Any) -> None:
        (store,) = (each for each in rest if isinstance(each, Store))
        store.write(todo[0], task.find(todo[0].method), Outcome({"train": {"morans_i": 0.5}}))
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_run", stopped)
    monkeypatch.setattr(runner, "cluster", lambda _: nullcontext())
    monkeypatch.setattr(runner, "at_once", lambda _: 1)
    write_grid(tmp_path)
    console = Console(file=StringIO(), width=200)
    with pytest.raises(KeyboardInterrupt):
        run(RunOptions(tmp_path / "grid.yaml", tmp_path / "out"), console)
    assert "Stopped. Run the same command to resume" in console.file.getvalue()
    assert pd.read_parquet(tmp_path / "out" / "results.parquet")["value"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("changes", "words"), [({"workers": 0}, "workers=0"), ({"data": Path("nowhere")}, 'data="nowhere"')]
)
def test_impossible_options_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(replace(RunOptions(tmp_path / "grid.yaml", tmp_path / "out"), **changes))
    assert not list(tmp_path.iterdir())


def test_progress_is_a_line_for_each_job_without_a_terminal() -> None:
    console = Console(file=StringIO(), width=200)
    with Tally([JOB, JOB], console) as tally:
        tally.ends(JOB, Outcome())
        tally.ends(JOB, Outcome(message="KeyError: 'x'"))
    assert console.file.getvalue().splitlines() == [
        "  1/2 done m on a, split 0.25, seed 0",
        "  2/2 failed m on a, split 0.25, seed 0: KeyError: 'x'",
    ]


def test_progress_is_a_bar_on_a_terminal_and_failures_are_told() -> None:
    console = Console(file=StringIO(), width=200, force_terminal=True)
    with Tally([JOB, JOB], console) as tally:
        tally.ends(JOB, Outcome())
        tally.ends(JOB, Outcome(message="KeyError: 'x'"))
    shown = console.file.getvalue()
    assert "2/2" in shown and "failed m on a" in shown and "done m on a" not in shown


def test_what_runs_already_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("started again"))
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("stopped"))
    with runner.cluster(RunOptions(tmp_path, tmp_path)):
        pass


def test_workers_bound_what_a_cluster_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    here = RunOptions(tmp_path, tmp_path)
    assert runner.at_once(here) == 9
    there = replace(here, ray_address="auto")
    assert runner.at_once(there) == 9 and runner.at_once(replace(there, workers=3)) == 3


def test_an_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(address: str, **_: object) -> None:
        raise ConnectionError(f"could not connect to {address}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    options = RunOptions(tmp_path, tmp_path, ray_address="host:6379")
    with pytest.raises(InputError, match=r"No Ray cluster answers at host:6379"), runner.cluster(options):
        pass


def test_a_folder_stands_for_its_grids_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "notes.txt"):
        (tmp_path / name).touch()
    assert runner.grids_of(tmp_path) == [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    assert runner.grids_of(tmp_path / "a.yaml") == [tmp_path / "a.yaml"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no grid"):
        runner.grids_of(tmp_path / "empty")
