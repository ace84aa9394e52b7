from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from isovi_bench.datasets import DataSet
from isovi_bench.job import Job, canonical, version_of

JOB = Job(
    dataset=DataSet(name="a", path=("/here/a.h5ad",), label_key="label"),
    digest="d",
    n_obs=10,
    method="pca",
    variant="pca",
    settings=canonical({"n_latent": 3, "b": 1}),
    seed=0,
    split="0.25",
    shuffled=False,
)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "e"},
        {"dataset": DataSet(name="a", path=("/here/a.h5ad",))},
        {"dataset": DataSet(name="a", path=("/here/a.h5ad",), label_key="label", layer="raw")},
        {"dataset": DataSet(name="a", path=("/here/a.h5ad",), label_key="label", n_obs=5)},
        {"method": "vae"},
        {"settings": canonical({"n_latent": 4, "b": 1})},
        {"seed": 1},
        {"split": "all"},
        {"shuffled": True},
        {"n_top_genes": 100},
        {"max_epochs": 5},
        {"metrics": ("morans_i",)},
        {"adapter_digest": "x"},
    ],
)
def test_what_decides_the_result_is_in_the_key(change: dict) -> None:
    assert replace(JOB, **change).key != JOB.key


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": DataSet(name="b", path=("/elsewhere/b.h5ad",), label_key="label")},
        {"variant": "components"},
        {"settings": canonical({"b": 1, "n_latent": 3})},
        {"adapters": ("/here/adapter.py",)},
    ],
)
def test_names_and_places_are_not(change: dict) -> None:
    assert replace(JOB, **change).key == JOB.key


def test_the_version_of_results_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isovi_bench.job.RESULTS_VERSION", -1)
    assert replace(JOB).key != JOB.key


def test_the_version_of_a_method_is_in_the_key_of_its_jobs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(JOB, method="vae").key
    monkeypatch.setattr("isovi_bench.job.METHOD_VERSIONS", {"pca": 7})
    assert replace(JOB).key != JOB.key and replace(JOB, method="vae").key == other
    monkeypatch.setattr("isovi_bench.job.RESULTS_VERSION", 8)
    assert version_of("pca") == version_of("vae") == 8


def test_a_job_travels_to_a_worker_as_it_is() -> None:
    sent = pickle.loads(pickle.dumps(JOB))
    assert sent == JOB and sent.key == JOB.key
    assert sent.parameters == {"n_latent": 3, "b": 1}


def test_a_job_is_told_of_in_one_line() -> None:
    assert replace(JOB, shuffled=True, variant="v").label == "v on a, split 0.25, seed 0, shuffled"
