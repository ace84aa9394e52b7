"""All tables of a run: their numbers are those of the results."""

from __future__ import annotations

import pandas as pd
import pytest

from isovi.errors import InputError
from isovi_bench import results
from isovi_bench.tables import every, summary, table_one, write


@pytest.fixture(scope="module")
def found(make):
    return results.measured(make(datasets=("her2st_H1", "b"), seeds=(0, 1, 2)))


def test_table_one_has_mean_and_sd_over_trials_of_each_backbone(found):
    train, held_out = table_one(found, "spots")
    assert train.name == "table1_spots_train" and held_out.name == "table1_spots_heldout"
    assert list(train.shown)[2:] == ["vae", "isovae-penalty", "isovae", "scvi", "isoscvi-penalty", "isoscvi"]
    cells = train.shown.set_index(["metric", "data set"])
    values = found.query(
        "set == 'train' and metric == 'gearys_c' and label == 'isoscvi' and dataset == 'her2st_H1'"
    )["value"]
    assert cells.loc[("Geary's C", "her2st_H1"), "isoscvi"] == f"{values.mean():.3f} ({values.std():.3f})"
    assert r"her2st\_H1" in train.latex
    data = train.data.set_index(["metric", "dataset", "label"])
    assert data.loc[("gearys_c", "her2st_H1", "isoscvi"), "mean"] == pytest.approx(values.mean())


def test_cells_with_fewer_trials_are_told(found):
    lost = (found["label"] == "isovae") & (found["seed"] > 0)
    train, _ = table_one(found[~lost], "spots")
    assert train.notes == ("3 trials; fewer for: isovae 1.",)
    assert train.shown["isovae"].str.endswith("(-)").all()


def test_summary_counts_trials(found):
    row = summary(found).query(
        "label == 'pca' and metric == 'anisotropy' and dataset == 'b' and set == 'train'"
    )
    assert row["n"].tolist() == [3]


def test_every_table_is_written_three_times(few, tmp_path):
    results.conform(few).to_parquet(tmp_path / results.FILE)
    paths = write(tmp_path, tmp_path / "tables")
    names = {path.stem for path in paths if path.suffix == ".md"}
    assert {path.suffix for path in paths} == {".md", ".csv", ".tex"}
    assert len(paths) == 3 * len(names) + 1 and all(path.stat().st_size for path in paths)
    assert {
        "table1_spots_train",
        "claims_spots",
        "controls_spots_heldout",
        "costs",
        "jobs",
        "failures",
    } <= names
    means = pd.read_csv(tmp_path / "tables" / "means.csv")
    assert set(means["metric"]) == set(few["metric"]) - {""}


def test_a_method_to_compare_with_must_be_there(few, tmp_path):
    results.conform(few).to_parquet(tmp_path / results.FILE)
    with pytest.raises(InputError, match=r"against=pca\. The methods of .* are graphpca, isoscvi"):
        write(tmp_path, tmp_path / "tables", "pca")
    write(tmp_path, tmp_path / "tables", "isoscvi")
    assert (
        "change from isoscvi;" in (tmp_path / "tables" / "leaderboard_distances_spots_train.md").read_text()
    )


def test_splits_of_different_kinds_are_never_mixed(make):
    frame = pd.concat(
        [
            make(methods=("scvi", "isoscvi"), datasets=("a", "bb"), seeds=(0,), split=split)
            for split in ("0.25", "section:x")
        ]
    )
    tables = every(frame, results.jobs_in(frame))
    for kind in ("spots", "section"):
        (table,) = [table for table in tables if table.name == f"table1_{kind}_train"]
        assert (table.data["n"] == 1).all() and (table.data["kind"] == kind).all()


@pytest.mark.parametrize("methods", [("graphpca",), ("isoscvi",)])
def test_whatever_was_run_has_tables(make, methods):
    frame = make(methods=methods, datasets=("a",), seeds=(0,))
    names = {table.name for table in every(frame, results.jobs_in(frame))}
    assert {"jobs", "costs", "methods", "leaderboard_smoothness_spots_train"} <= names


def test_results_of_failed_jobs_only_have_their_reasons(make):
    frame = make(methods=("pca",), datasets=("a",), seeds=(0,)).head(1)
    frame = frame.assign(set="", metric="", value=float("nan"), status="failed", message="ValueError: no")
    assert [table.name for table in every(frame, results.jobs_in(frame))] == [
        "tasks",
        "methods",
        "jobs",
        "failures",
    ]
