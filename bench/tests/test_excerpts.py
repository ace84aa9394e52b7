"""Tables of the documentation are those that the published results give now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isovi.errors import InputError
from isovi_bench import excerpts, results
from isovi_bench.job import CHANGES, version_of

PAGES = ("quality", "geometry", "placement", "comparison")
BLOCK = "<!-- table: quality, to scVI -->\nstale\n<!-- end -->"


@pytest.mark.parametrize("name", [*PAGES, "bench"])
def test_the_tables_of_a_page_are_those_of_the_published_results(name: str, repository: Path) -> None:
    page = repository / "docs" / f"{name}.md"
    text = page.read_text()
    assert excerpts.fill(text, page.parent / excerpts.PUBLISHED) == text, "run isovi-bench pages docs/*.md"
    assert name not in PAGES or excerpts.unmarked(text) == []


@pytest.fixture
def published(made: pd.DataFrame, tmp_path: Path) -> Path:
    """Results of three of the seven sections under their names, in the folder beside a page."""
    folder = tmp_path / excerpts.PUBLISHED
    folder.mkdir(parents=True)
    named = made.replace(
        {"variant": {"scvi": "scvi-default", "vae": "scvi"}, "dataset": {"starmap": "hippo_1"}}
    )
    results.conform(named).to_parquet(folder / results.FILE)
    return folder


@pytest.mark.usefixtures("published")
def test_a_block_is_written_anew_and_the_rest_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n\n{BLOCK}\n\nAfter.\n")
    assert excerpts.write([page]) == [page] and excerpts.write([page]) == []
    text = page.read_text()
    assert text.startswith("Before.\n\n<!-- table: quality, to scVI -->\n| to scVI |")
    assert text.endswith("<!-- end -->\n\nAfter.\n") and "stale" not in text
    assert f"version {version_of('isoscvi')} of isoVI's results, the present one" in text


def test_a_ratio_is_the_mean_of_paired_changes_over_sections(made: pd.DataFrame) -> None:
    found = results.measured(results.conform(made)).replace({"dataset": {"starmap": "hippo_1"}})
    table = excerpts.ratios(found, "scvi", ("isoscvi",), (excerpts.COORDINATES, excerpts.MORAN))
    errors = found[(found["set"] == "heldout") & (found["metric"] == "coordinate_error") & ~found["shuffled"]]
    wide = errors.pivot_table(index=["dataset", "seed"], columns="variant", values="value")
    mean = (wide["isoscvi"] / wide["scvi"] - 1).groupby("dataset").mean().mean()
    (row,) = table.to_dict("records")
    assert row["coordinate error"] == f"{100 * mean:+.0f}%" and row["sections"] == "3"
    assert row["Moran's I, all spots"] == "-"  # the simulated results have no such set


def test_sections_lack_no_variant_and_have_the_spread_over_seeds(made: pd.DataFrame) -> None:
    found = results.measured(results.conform(made))
    table = excerpts.each(found, ("scvi", "isoscvi, shuffled"), (excerpts.SPEARMAN,), ("her2st_H1", "absent"))
    values = found[
        (found["dataset"] == "her2st_H1")
        & (found["label"] == "scvi")
        & (found["set"] == "heldout")
        & (found["metric"] == "spearman_distance")
    ]["value"]
    assert len(table) == 2 and table["method"][1] == "isoVI, positions shuffled"
    assert table["Spearman of distances"][0] == f"{values.mean():.3f} ({np.std(values, ddof=1):.3f})"


def test_the_sections_that_took_no_part_are_reported_apart(made: pd.DataFrame) -> None:
    found = results.measured(results.conform(made))
    names = {"isoscvi-penalty": "isoscvi-whole", "vae": "scvi-default"}
    found = found.replace({"label": names, "dataset": {"starmap": "starmap_BZ9"}})
    table = excerpts.parts(found)
    assert list(table["sections"].unique()) == ["decided on: 2", "took no part: 1"]
    assert not set(excerpts.SEVEN) & set(results.APART)


def test_a_kept_table_says_which_version_made_it_and_what_came_since(published: Path) -> None:
    latest = version_of("isoscvi")
    first, now = (excerpts.fill(f"<!-- kept: isoscvi {n} -->\n<!-- end -->", published) for n in (1, latest))
    assert f"is {latest} now" in first and all(text in first for text in CHANGES.values())
    assert "the present one" in now
    assert "once" in excerpts.fill("<!-- kept: once -->\n<!-- end -->", published)


@pytest.mark.parametrize("mark", ["table: nothing", "kept: isoscvi 9", "kept: isoscvi"])
def test_a_block_that_names_nothing_is_refused(mark: str, published: Path) -> None:
    with pytest.raises(InputError, match=mark.split(": ")[1]):
        excerpts.fill(f"<!-- {mark} -->\n<!-- end -->", published)


def test_only_tables_of_numbers_without_a_mark_are_named() -> None:
    table = "| head |\n|---|\n| 0.5 |\n"
    assert excerpts.unmarked(f"text\n\n{table}\n") == ["| head |"]
    assert excerpts.unmarked(f"<!-- kept: once -->\n<!-- end -->\n\n{table}\n") == []
    assert excerpts.unmarked(f"<!-- kept: once -->\n<!-- end -->\n\n{table}\n{table}") == ["| head |"]
    timed = f"<!-- epochs: begin -->\n{table}<!-- epochs: end -->\n"
    assert excerpts.unmarked(timed) == [] and excerpts.unmarked(timed + table) == ["| head |"]
    assert excerpts.unmarked("| words |\n|---|\n| yes |\n") == []


def test_jobs_that_are_done_are_listed_by_their_split(made: pd.DataFrame) -> None:
    found = results.measured(results.conform(made))
    (row,) = excerpts.jobs(found).to_dict("records")
    assert row["jobs"] == str(found["job"].nunique()) and "graphpca" in row["methods"]
    assert row["data sets"] == "dlpfc_151673, her2st_H1, starmap"


def test_errors_of_positions_are_of_both_last_steps_and_relative_to_scvi(made: pd.DataFrame) -> None:
    found = results.measured(results.conform(made)).query("~shuffled")
    named = {"vae": "scvi-default"}
    found = found.replace({"variant": named, "label": named})
    errors = found[(found["set"] == "heldout") & (found["metric"] == "coordinate_error")]
    placed = errors[errors["variant"] == "isoscvi"].assign(metric="placed_error")
    table = excerpts.placed(
        pd.concat([found, placed.assign(value=placed["value"] / 2)]), ("her2st_H1", "absent")
    )
    ratio = table.set_index("method")["to scVI"]
    assert ratio["scVI, 10 nearest"] == "1.00" and set(table["sections"]) == {"1"}
    assert list(table.columns) == ["method", "her2st_H1", "to scVI", "sections"]
    trials = errors[errors["dataset"] == "her2st_H1"].pivot_table("value", "seed", "variant")
    assert len(trials) > 1
    paired = (trials["isoscvi"] / trials["scvi-default"]).mean()
    assert float(ratio["isoVI, placed"]) == pytest.approx(paired / 2, abs=0.005)
