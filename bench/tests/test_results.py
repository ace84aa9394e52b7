"""The tidy table: what is read is what was written, and parts of it are those that were asked for."""

from __future__ import annotations

import pandas as pd
import pytest

from isovi.errors import InputError
from isovi_bench import results


def test_what_was_written_is_read_with_the_types_of_the_schema(make, tmp_path):
    frame = results.conform(make(methods=("pca",), datasets=("a",), seeds=(0,)))
    frame.assign(more=1).to_parquet(tmp_path / results.FILE)
    read = results.read(tmp_path)
    pd.testing.assert_frame_equal(read, frame)
    assert list(read) == list(results.COLUMNS)
    assert read["shuffled"].dtype == bool and read["seed"].dtype == "int64"


def test_missing_columns_and_missing_results_are_told(make, tmp_path):
    frame = make(methods=("pca",), datasets=("a",), seeds=(0,))
    with pytest.raises(InputError, match="no column value, smooths"):
        results.conform(frame.drop(columns=["value", "smooths"]))
    with pytest.raises(InputError, match=r"holds no results\.parquet"):
        results.read(tmp_path)


@pytest.mark.parametrize(
    ("split", "kind"),
    [("all", "all"), ("0.25", "spots"), ("section:A: left", "section"), ("donor:all", "donor")],
)
def test_kind_of_a_split(split, kind):
    assert results.kind(split) == kind


def test_several_sections_in_one_latent_are_of_another_kind_than_single_ones(make):
    single = make(datasets=("a", "b"), seeds=(0,)).assign(split="all")
    mixed = single[single["dataset"] == "b"].assign(metric=results.MIXED, value=0.5)
    found = results.measured(pd.concat([single, mixed]))
    kinds = found.groupby("dataset")["kind"].unique()
    assert list(kinds["a"]) == ["all"] and list(kinds["b"]) == ["together"]
    assert results.kinds(found) == ["all", "together"]


def test_only_finite_figures_of_finished_jobs_are_measured(made):
    found = results.measured(made)
    assert found["value"].notna().all() and (found["metric"] != "").all()
    assert "graphpca/starmap/0.25/1/False" not in set(found["job"])
    assert set(found.loc[found["shuffled"], "label"]) == {
        f"{name}, shuffled" for name in ("isovae-penalty", "isovae", "isoscvi-penalty", "isoscvi")
    }
    assert results.kinds(found) == ["spots"]


def test_settings_that_were_only_swept_do_not_compete(make):
    found = results.measured(make(datasets=("a",), seeds=(0,)))
    left = set(results.contenders(found)["variant"])
    assert {"isoscvi", "isoscvi-penalty", "graphpca"} <= left
    assert not [name for name in left if name.startswith(("isoscvi-penalty-", "isoscvi-target-"))]
    alone = found[found["variant"].isin(["scvi", "isoscvi-target-0.4"])]
    assert set(results.contenders(alone)["variant"]) == {"scvi", "isoscvi-target-0.4"}


def test_baselines_come_first_and_controls_follow_their_method():
    names = {"zeta", "isoscvi, shuffled", "alpha", "isoscvi", "vae", "pca", "alpha, shuffled"}
    assert results.ordered(names) == [
        *("pca", "vae", "isoscvi", "isoscvi, shuffled", "alpha", "alpha, shuffled", "zeta")
    ]
    swept = ["isovae", "a-0.05", "a-0.3", "a-3", "a-3, shuffled", "a-20", "a-100", "b", "b2"]
    assert results.ordered(set(swept)) == swept


def test_the_plan_is_of_jobs_to_come_too_and_of_those_of_earlier_grids(make, tmp_path):
    frame = make(methods=("pca",), datasets=("a",), seeds=(0, 1))
    assert len(results.read_plan(tmp_path, frame)) == 2
    later = results.jobs_in(make(methods=("pca",), datasets=("a", "bb"), seeds=(1, 2)))
    later.to_parquet(tmp_path / results.PLAN)
    assert set(results.read_plan(tmp_path, frame)["job"]) == set(frame["job"]) | set(later["job"])
