"""The generated page: all of it comes from the results, and none of it from the machine."""

from __future__ import annotations

import json
import re

import pytest

from isovi.errors import InputError
from isovi_bench import page, results


@pytest.fixture(scope="module")
def written(few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "quality"
    folder.mkdir()
    results.conform(few).to_parquet(folder / results.FILE)
    (folder / page.RUN).write_text(json.dumps({"command": "isovi-bench paper --out quality"}))
    docs = folder.parent / "docs"
    docs.mkdir()
    return docs, page.write(folder, docs / "benchmarks.md")


def test_it_says_how_it_was_made_and_of_how_many_jobs(written, few):
    docs, (path, *_) = written
    text = path.read_text()
    assert path == docs / "benchmarks.md"
    assert text.startswith("<!-- Written by `isovi-bench table quality --page docs/benchmarks.md`.")
    assert "\nisovi-bench paper --out quality\n" in text
    assert f"{few['job'].nunique() - 1} of {few['job'].nunique()} jobs are done, 1 failed and 0 are" in text


def test_every_plot_on_it_is_there_and_nothing_else(written):
    docs, (path, *others) = written
    linked = {docs / name for name in re.findall(r"\]\((_static/[^)]+)\)", path.read_text())}
    plots = {other for other in others if other.suffix != ".md"}
    assert linked == plots == set((docs / page.PLOTS).iterdir())


def test_each_task_that_was_run_has_a_page_and_the_first_page_names_it(written):
    docs, (path, *others) = written
    tasks = {other for other in others if other.suffix == ".md"}
    linked = {docs / name for name in re.findall(r"\]\((benchmarks/[^)]+)\)", path.read_text())}
    assert tasks and linked == tasks == set((docs / "benchmarks").iterdir())
    assert "(../_static/benchmarks/results.parquet)" in min(tasks).read_text()


def test_changes_since_the_run_before_are_told_and_its_results_kept(few, tmp_path):
    docs, earlier = tmp_path / "docs", tmp_path / "earlier"
    earlier.mkdir()
    results.conform(few).to_parquet(tmp_path / results.FILE)
    before = results.conform(few)
    before.loc[before["metric"] == "coordinate_error", "value"] /= 2
    before.to_parquet(earlier / results.FILE)
    path, *_ = page.write(tmp_path, docs / "benchmarks.md", earlier)
    told = path.read_text()
    assert "## What has changed since the last run" in told and "+100%" in told
    assert page.write(tmp_path, docs / "benchmarks.md")[0].read_text() == told  # from what was kept


def test_it_holds_tables_findings_and_failures_without_the_folders_of_the_machine(written):
    text = written[1][0].read_text()
    for expected in (
        "## Findings",
        "The paper's Table 1",
        "| graphpca | starmap | 1 | RuntimeError: a.h5ad",
        ":::{dropdown} ",
    ):
        assert expected in text
    assert "## Ellipses" not in text  # there are no latents to draw them from
    assert "/data/run/" not in text and "{{" not in text and "{%" not in text


def test_a_run_before_without_results_is_refused_before_anything_is_written(few, tmp_path):
    results.conform(few).to_parquet(tmp_path / results.FILE)
    with pytest.raises(InputError, match=r"nowhere holds no results\.parquet"):
        page.write(tmp_path, tmp_path / "docs" / "benchmarks.md", tmp_path / "nowhere")
    assert not (tmp_path / "docs").exists()


def test_only_the_first_data_sets_show_their_ellipses(tmp_path):
    paths = [tmp_path / f"ellipses_{name}_{plain}.png" for name in "abcd" for plain in ("vae", "scvi")]
    for path in (*paths, tmp_path / "leaderboard_spots.png"):
        path.touch()
    left = page._few([*paths, tmp_path / "leaderboard_spots.png"])
    assert left == [*paths[:6], tmp_path / "leaderboard_spots.png"]
    assert not paths[6].exists() and paths[5].exists()


def test_without_results_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"holds no results\.parquet"):
        page.write(tmp_path, tmp_path / "docs" / "benchmarks.md")
    assert not (tmp_path / "docs").exists()
