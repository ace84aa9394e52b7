"""The published results are of the grids as they are now, and the pages are what they give."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from isovi.data import io
from isovi_bench.datasets import DataSet, Facts, examine
from isovi_bench.grid import jobs_of, make_known, read_grid
from isovi_bench.job import Job, version_of
from isovi_bench.page import BEFORE, RUN, render
from isovi_bench.results import FILE, JOB_COLUMNS, PLAN, outdated, read
from isovi_bench.runner import missing
from isovi_bench.store import Store, named

DIGESTS = {  # SHA-256 of the files that the published jobs were run on
    "dlpfc_151673": "4401be4ad4f3a12deacfb13cdc60c57001214e920de1a159be028109fd401bf9",
    "dlpfc_151674": "ca61a1df3b6311af8daabe6b364f7a86b0855940c4dca5524d24f3ebfcdbc24a",
    "her2st_H1": "527b38e79d6d88dd944f5b94bb6ab430e6c4bd3c69f3d61522bf39472d545237",
    "her2st_G2": "c0cbe0d16b2975fa5dd00d1ddfa13c27ec7631e4a9a07b3eae9763ce4750a414",
    "her2st_D1": "0328ce5b23600dfcac3b17a43e2d0f2127b2cecfb86d37db744ddd096067a3a9",
    "her2st_D2": "42f6dc010e13739e921f015e16b53141ca07325b3b083bd88b50b5c7feec41ea",
    "her2st_D3": "8fb3895abf00ce992e2fa9d29b66758b55ec88a4121b93060dde1c17ca7d2122",
    "osmfish_ssp_cortex": "39fb263c9269953a0f8c93e47b3d3b3606432541a437c98ed0d2c7cd9fd063ca",
    "seqfish_embryo_embryo1_z2": "9dffd767b57fe010708e046d67200e440e0586d40068d5355322c69050a1b60b",
    "seqfish_embryo_embryo1_z5": "d6222d553708c2ee587c44a5a8ffedb8d9d4871fa8761ab4ef596b32fd4b18e1",
    "st2k_mouse_hippo_Hippo1": "a2fcfa28d60a5af15e4353bbceb648dc88911d1694e235056a51af623707bdc9",
    "st2k_mouse_hippo_Hippo3": "038ee1e43418324a47cd3f7d5abed30208569c043ec660c027448aee6bd41ded",
    "starmap_mpfc_BZ5": "8fef74cea14b70b17a1a6e7f92ca686902f89e918570e960c6c97eb91c8609b1",
    "starmap_mpfc_BZ9": "ead5b61ebe1af53fe0c54ff9ea995c5724852c87609588f60616368e2636873b",
    "xenium_mouse_brain_tiny_36k": "58894d85b357c6e2d73aa1c43a01ab7148f97fbda676d1122710e1cf172760ff",
}


@pytest.fixture(scope="module")
def published(repository: Path) -> Path:
    """The table of results that the page on benchmarks links to."""
    return repository / "docs" / "_static" / "benchmarks" / FILE


@pytest.fixture(scope="module")
def jobs(repository: Path, published: Path) -> list[Job]:
    """The jobs that the grids make now, each once, without reading data."""
    n_obs = pd.read_parquet(published).groupby("dataset")["n_obs"].first()
    found: dict[str, Job] = {}
    for path in sorted((repository / "bench" / "grids" / "rerun").glob("*.yaml")):
        grid = read_grid(path)
        facts = {
            dataset.name: facts_of(dataset, int(n_obs.get(dataset.name, 0))) for dataset in grid.datasets
        }
        found |= {job.key: job for job in jobs_of(grid, facts, make_known(grid.adapters))[0]}
    return list(found.values())


def as_published(jobs: Iterable[Job], published: Path) -> dict[str, Job]:
    """Jobs by the key that they have with the versions of methods that were published."""
    versions = pd.read_parquet(published).groupby("method")["version"].max().to_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isovi_bench.job.METHOD_VERSIONS", versions)
        return {replace(job).key: job for job in jobs}


def facts_of(dataset: DataSet, n_obs: int) -> Facts:
    """What :func:`isovi_bench.datasets.examine` finds out, from the digests above."""
    if dataset.path is None:
        return examine(dataset, {})
    files = tuple(Path(path).stem for path in dataset.path)
    return Facts("+".join(DIGESTS[name] for name in files), n_obs, files if len(files) > 1 else (), ())


def planned(jobs: Iterable[Job], published: Path) -> pd.DataFrame:
    """The table of the jobs, done or to come."""
    return pd.DataFrame([named(job) | {"job": key} for key, job in as_published(jobs, published).items()])


def test_the_published_jobs_are_jobs_of_the_grids(jobs: list[Job], published: Path) -> None:
    table = pd.read_parquet(published)[list(JOB_COLUMNS)].drop_duplicates().set_index("job")
    plan = planned(jobs, published).set_index("job")
    assert set(table.index) <= set(plan.index)
    pd.testing.assert_frame_equal(plan.loc[table.index], table)


def test_only_methods_that_changed_are_run_again_in_a_folder_of_the_published_results(
    jobs: list[Job], published: Path, tmp_path: Path
) -> None:
    shutil.copyfile(published, tmp_path / FILE)
    store, then = Store(tmp_path), pd.read_parquet(published).groupby("method")["version"].max()
    changed = {name for name, version in then.items() if version < version_of(str(name))}
    done = set(pd.read_parquet(published)["job"])
    again = [job for job in jobs if job.method in changed or job.key not in done]
    assert missing(jobs, store.statuses(), retry_failed=False) == again
    assert store.merge(jobs) == len(jobs) - len(again)
    kept = read(tmp_path)
    assert outdated(kept).empty and not set(kept["method"]) & changed
    assert len(store.statuses()) == len(done)  # files of jobs of earlier versions stay


@pytest.mark.parametrize("file", DIGESTS)
def test_the_data_is_that_of_the_published_results(file: str, shared_data: Callable[[str], Path]) -> None:
    assert io.sha256(str(shared_data(file))) == DIGESTS[file]


def test_the_pages_are_what_the_published_results_give(
    repository: Path, published: Path, jobs: list[Job], tmp_path: Path
) -> None:
    text = (repository / "docs" / "benchmarks.md").read_text()
    (command,) = re.findall(
        r"```console\n(.*)\nisovi-bench table rerun --page docs/benchmarks.md\n", text, re.DOTALL
    )
    plots = re.findall(r"\]\(_static/benchmarks/(.+\.png)\)", text)
    assert plots and all((published.parent / name).is_file() for name in plots)
    (tmp_path / "rerun").mkdir()
    shutil.copyfile(published, tmp_path / "rerun" / FILE)
    planned(jobs, published).to_parquet(tmp_path / "rerun" / PLAN)
    (tmp_path / "rerun" / RUN).write_text(json.dumps({"command": command}))
    pages = render(tmp_path / "rerun", Path("docs", "benchmarks.md"), plots, published.with_name(BEFORE))
    assert len(pages) > 1
    for path, made in pages.items():
        assert made == (repository / path).read_text(), path
