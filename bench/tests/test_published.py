"""The published results are those of the grids as they are now, but for methods that changed since."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from isovi.data import io
from isovi_bench.datasets import Facts
from isovi_bench.grid import jobs_of, make_known, read_grid
from isovi_bench.job import METHOD_VERSIONS, Job
from isovi_bench.page import BEFORE, RUN, render
from isovi_bench.results import FILE, JOB_COLUMNS, outdated, read
from isovi_bench.runner import missing
from isovi_bench.store import Store, named

GRIDS = ("real", "sensitivity")
DIGESTS = {  # SHA-256 of the files that the published jobs were run on
    "dlpfc_151673": "4401be4ad4f3a12deacfb13cdc60c57001214e920de1a159be028109fd401bf9",
    "her2st_H1": "527b38e79d6d88dd944f5b94bb6ab430e6c4bd3c69f3d61522bf39472d545237",
    "her2st_G2": "c0cbe0d16b2975fa5dd00d1ddfa13c27ec7631e4a9a07b3eae9763ce4750a414",
    "her2st_D1": "0328ce5b23600dfcac3b17a43e2d0f2127b2cecfb86d37db744ddd096067a3a9",
    "hippo_1": "a2fcfa28d60a5af15e4353bbceb648dc88911d1694e235056a51af623707bdc9",
    "hippo_2": "9077276aadfd179be3c7d46ed34b9732af1c52f1971c2bb9c4f9d44467ebecfb",
    "starmap_BZ5": "8fef74cea14b70b17a1a6e7f92ca686902f89e918570e960c6c97eb91c8609b1",
    "seqfish_e1z2": "9dffd767b57fe010708e046d67200e440e0586d40068d5355322c69050a1b60b",
    "osmfish": "39fb263c9269953a0f8c93e47b3d3b3606432541a437c98ed0d2c7cd9fd063ca",
}


@pytest.fixture(scope="module")
def published(repository: Path) -> Path:
    """The table of results that the page on benchmarks links to."""
    return repository / "docs" / "_static" / "benchmarks" / FILE


@pytest.fixture(scope="module")
def jobs(repository: Path, published: Path) -> dict[str, Job]:
    """The jobs that the grids make now, by the key that they were published under, without reading data."""
    n_obs = pd.read_parquet(published).groupby("dataset")["n_obs"].first()
    facts = {name: Facts(digest, int(n_obs[name]), (), ()) for name, digest in DIGESTS.items()}
    grids = [read_grid(repository / "bench" / "grids" / f"{name}.yaml") for name in GRIDS]
    found = [job for grid in grids for job in jobs_of(grid, facts, make_known(grid.adapters))[0]]
    return as_published(found)


def as_published(jobs: Iterable[Job]) -> dict[str, Job]:
    """Jobs by the key of their method's first version."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isovi_bench.job.METHOD_VERSIONS", {})
        return {replace(job).key: job for job in jobs}


def test_the_keys_of_the_published_jobs_are_those_computed_now(jobs: dict[str, Job], published: Path) -> None:
    table = pd.read_parquet(published)[list(JOB_COLUMNS)].drop_duplicates().set_index("job")
    assert len(table) == 824
    assert set(jobs) == set(table.index)
    now = pd.DataFrame([named(job) | {"job": key} for key, job in jobs.items()])
    now = now.set_index("job").loc[table.index]
    same = [column for column in JOB_COLUMNS if column not in ("job", "variant")]  # grids may rename variants
    pd.testing.assert_frame_equal(now[same], table[same])


def test_the_jobs_of_the_page_on_quality_are_among_the_published(
    jobs: dict[str, Job], repository: Path
) -> None:
    grid = read_grid(repository / "bench" / "grids" / "quality.yaml")
    n_obs = {job.dataset.name: job.n_obs for job in jobs.values()}
    facts = {name: Facts(digest, n_obs[name], (), ()) for name, digest in DIGESTS.items()}
    keys = set(as_published(jobs_of(grid, facts, make_known(()))[0]))
    assert len(keys) == 7 * (4 * 3 + 1) and keys <= set(jobs)


def test_only_methods_that_changed_are_run_again_in_a_folder_of_the_published_results(
    jobs: dict[str, Job], published: Path, tmp_path: Path
) -> None:
    shutil.copyfile(published, tmp_path / FILE)
    store, now = Store(tmp_path), [replace(job) for job in jobs.values()]
    again = missing(now, store.statuses(), retry_failed=True)
    assert again == [job for job in now if job.method in METHOD_VERSIONS]
    assert store.outdated() == Counter(job.method for job in again)
    assert store.merge(now) == len(now) - len(again)
    kept = read(tmp_path)
    assert outdated(kept).empty and not set(kept["method"]) & set(METHOD_VERSIONS)
    assert len(store.statuses()) == len(now)  # their files stay


@pytest.mark.parametrize("dataset", DIGESTS)
def test_the_data_is_that_of_the_published_results(
    dataset: str, repository: Path, shared_data: Callable[[str], Path]
) -> None:
    grid = read_grid(repository / "bench" / "grids" / "real.yaml")
    (path,) = next(entry.path for entry in grid.datasets if entry.name == dataset)
    assert io.sha256(str(shared_data(Path(path).stem))) == DIGESTS[dataset]


def test_the_pages_are_what_the_published_results_give(
    repository: Path, published: Path, tmp_path: Path
) -> None:
    text = (repository / "docs" / "benchmarks.md").read_text()
    (command,) = re.findall(
        r"```console\n(.*)\nisovi-bench table real --page docs/benchmarks.md\n", text, re.DOTALL
    )
    plots = re.findall(r"\]\(_static/benchmarks/(.+\.png)\)", text)
    assert plots and all((published.parent / name).is_file() for name in plots)
    (tmp_path / "real").mkdir()
    shutil.copyfile(published, tmp_path / "real" / FILE)
    (tmp_path / "real" / RUN).write_text(json.dumps({"command": command}))
    pages = render(tmp_path / "real", Path("docs", "benchmarks.md"), plots, published.with_name(BEFORE))
    assert len(pages) > 1
    for path, made in pages.items():
        assert made == (repository / path).read_text(), path
