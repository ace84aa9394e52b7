from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isovi_bench.datasets import DataSet
from isovi_bench.job import Job
from isovi_bench.store import PLAN_SCHEMA, SCHEMA, Outcome, Store
from isovi_bench.task import Method

JOB = Job(DataSet(name="a", path=("/a",)), "d", 10, "m", "m", "{}", 0, "0.25", False)
METHOD = Method("m", lambda task: task, decoder="counts", smooths=True)
DONE = Outcome({"train": {"x": 1.0, "y": 2.0}, "": {"seconds": 3.0}}, arrays={"latent": np.ones((10, 2))})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def results(store: Store) -> pd.DataFrame:
    return pd.read_parquet(store.folder / "results.parquet")


def test_a_job_is_a_row_for_each_figure(store: Store) -> None:
    store.write(JOB, METHOD, DONE)
    assert store.merge([JOB]) == 1
    found = results(store)
    assert list(found) == SCHEMA.names
    rows = zip(found["set"], found["metric"], found["value"], strict=True)
    assert list(rows) == [("train", "x", 1), ("train", "y", 2), ("", "seconds", 3)]
    assert set(found["status"]) == {"done"} and set(found["decoder"]) == {"counts"} and found["smooths"].all()
    assert np.load(store.latents / f"{JOB.key}.npz")["latent"].shape == (10, 2)


def test_a_failed_job_is_one_row_that_says_why(store: Store) -> None:
    store.write(JOB, METHOD, Outcome(message="no memory"))
    store.merge([JOB])
    (row,) = results(store).to_dict("records")
    assert (row["metric"], row["set"], row["status"], row["message"]) == ("", "", "failed", "no memory")
    assert np.isnan(row["value"])
    assert store.statuses() == {JOB.key: "failed"}
    store.write(JOB, METHOD, DONE)  # tried again
    assert store.statuses() == {JOB.key: "done"}


def test_rows_have_the_names_of_the_grid_that_runs(store: Store) -> None:
    other = replace(JOB, seed=1)
    for job in (JOB, other):
        store.write(job, METHOD, DONE)
    renamed = replace(JOB, variant="new", dataset=DataSet(name="b", path=("/b",)))
    store.merge([renamed])
    found = results(store).drop_duplicates("job").set_index("seed")
    assert tuple(found.loc[0, ["dataset", "variant"]]) == ("b", "new")
    assert tuple(found.loc[1, ["dataset", "variant"]]) == ("a", "m")


def test_the_plan_has_jobs_that_did_not_run_yet_and_those_of_other_grids(store: Store) -> None:
    other, coming = replace(JOB, seed=1), replace(JOB, seed=2)
    for job in (JOB, other):
        store.write(job, METHOD, DONE)
    store.merge([JOB, coming])
    plan = pd.read_parquet(store.folder / "plan.parquet")
    assert list(plan) == PLAN_SCHEMA.names
    assert sorted(plan["seed"]) == [0, 1, 2]


def test_a_published_table_is_gone_on_with(store: Store, tmp_path: Path) -> None:
    failed = replace(JOB, seed=1)
    store.write(JOB, METHOD, DONE)
    store.write(failed, METHOD, Outcome(message="no memory"))
    store.merge([JOB, failed])
    published = tmp_path / "published"
    published.mkdir()
    (published / "results.parquet").write_bytes((store.folder / "results.parquet").read_bytes())
    again = Store(published)
    assert again.statuses() == store.statuses() == {JOB.key: "done", failed.key: "failed"}
    again.write(replace(JOB, seed=2), METHOD, DONE)
    assert again.merge([JOB, failed]) == 3
    assert results(again).merge(results(store)).equals(results(store))


def test_results_of_an_earlier_version_are_left_out_and_kept_on_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(JOB, METHOD, DONE)
    store.write(replace(JOB, method="n"), Method("n", lambda task: task), DONE)
    monkeypatch.setattr("isovi_bench.job.METHOD_VERSIONS", {"m": 2})
    now = replace(JOB)
    assert now.key not in store.statuses() and store.outdated() == {"m": 1}
    assert store.merge([now]) == 1 and set(results(store)["method"]) == {"n"}
    store.write(now, METHOD, DONE)
    assert store.merge([now]) == 2 and len(store.statuses()) == 3
    assert set(zip(results(store)["method"], results(store)["version"], strict=True)) == {("m", 2), ("n", 1)}


def test_nothing_done_is_no_results(store: Store) -> None:
    assert store.merge([JOB]) == 0
    assert not (store.folder / "results.parquet").exists()


def test_nothing_is_left_behind(store: Store) -> None:
    store.write(JOB, METHOD, DONE)
    store.merge([JOB])
    assert not [path for path in store.folder.rglob("*") if path.name.startswith(".")]


def test_the_commands_that_made_the_results_are_noted_once(store: Store) -> None:
    for command in ("isovi-bench run a.yaml", "isovi-bench run b.yaml", "isovi-bench run a.yaml"):
        store.note(command)
    noted = json.loads((store.folder / "run.json").read_text())["command"]
    assert noted == "isovi-bench run a.yaml\nisovi-bench run b.yaml"
