"""Sentences: the counts in them are those that were put into the results."""

from __future__ import annotations

import pandas as pd
import pytest

from isovi_bench import results
from isovi_bench.findings import BASIS, claims, exceptions, findings, listed, memorised, rivals, sensitivity
from isovi_bench.sweeps import curves


@pytest.fixture(scope="module")
def found(make):
    return results.measured(make(datasets=("a", "bb", "ccc"), seeds=(0, 1)))


@pytest.fixture(scope="module")
def rivalry(found):
    return results.contenders(found)


def test_claims_count_data_sets(rivalry):
    _, *told = claims(rivalry)
    assert [text.split("**")[1] for text in told] == [
        "VAE with the paper's penalty",
        "VAE with our constraint",
        "scVI with the paper's penalty",
        "scVI with our constraint",
    ]
    assert "(isoscvi against scvi, 2 trials a data set)" in told[3]
    assert "On training spots it raises Moran's I on 3 of 3 (+0.30) and lowers Geary's C on 3 of 3" in told[3]
    assert "lowers coordinate error on 3 of 3 (-1" in told[3]


def test_where_it_does_not_hold_is_told_by_name(rivalry):
    worse = rivalry.copy()
    hit = (worse["label"] == "isoscvi") & (worse["dataset"] == "bb") & (worse["metric"] == "mse_lognorm")
    worse.loc[worse["metric"] == "mse_lognorm", "value"] = 1.0
    worse.loc[hit, "value"] = 1.25
    (told,) = [text for text in exceptions(worse) if text.startswith("**scVI with our constraint")]
    claim = "MSE of log expression of held-out spots (a claim of the paper) is worse on 1 of 3 data sets"
    assert f"{claim}: clearly on bb (+25%)" in told


def test_nothing_worse_is_said_so(rivalry):
    same = rivalry.assign(
        value=rivalry["value"].where(~rivalry["metric"].isin(["reconstruction", "mse_lognorm"]), 1)
    )
    assert all("none of these metrics is worse" in text for text in exceptions(same)[1:])


def test_memorised_gains_stand_beside_true_ones(rivalry):
    (told,) = [text for text in memorised(rivalry) if text.startswith("**scVI with our constraint")]
    assert "on training spots Moran's I +0.30 (+0.15)" in told


def test_sensitivity_names_range_and_best_values(found):
    (told,) = [text for text in sensitivity(curves(found)) if text.startswith("**isoscvi: α**")]
    assert "4 values from 1 to 300, 3 data sets" in told
    assert "Spearman of distances: +0.03 at 1 to +0.31 at 300; the best value is 300 on 3 data sets" in told
    assert "300 for all data sets is on average 0.00 short" in told


def test_rivals_are_told_where_they_lead_and_where_that_is_circular(rivalry):
    told = {text.split("**")[1]: text for text in rivals(rivalry)}
    assert "better than isoscvi at Moran's I (3 of 3, partly circular)" in told["graphpca"]
    assert "mixture ARI (3 of 3)" in told["graphpca"] and "training spots" in told["graphpca"]
    assert "at nothing better than isoscvi" in told["pca"]
    assert not [text for text in rivals(rivalry) if text.startswith("**graphpca**, held-out")]


def test_answers_say_what_is_missing(made, make):
    names = ("scvi", "isoscvi", "graphpca")
    plan = results.jobs_in(make(seeds=(0, 1, 2, 3, 4), methods=names))
    first, *more = findings(made[made["variant"].isin(names)], plan)[BASIS]
    assert first == "23 of 60 jobs are done, on 3 data sets, 1 failed and 36 are still to come."
    lack = "each 6 of 15 jobs done (2 of 5 seeds a data set), 9 to come."
    assert f"scvi; isoscvi; isoscvi, shuffled: {lack}" in more


def test_questions_without_jobs_are_left_open(make):
    told = findings(make(methods=("graphpca", "isoscvi"), datasets=("a",), seeds=(0,)))
    assert told["Does distance preservation help?"] == ["No job that answers this has finished yet."]
    assert len(told["Which methods are better than ours, and at what?"]) == 1
    assert list(findings(make(methods=("pca",), datasets=("a",), seeds=(0,)))) == [BASIS]


def test_kinds_of_split_are_answered_apart(make):
    splits = ("0.25", "section:x")
    frames = [make(methods=("scvi", "isoscvi"), datasets=("a",), seeds=(0,), split=split) for split in splits]
    told = findings(pd.concat(frames))
    for kind in ("spots held out at random", "whole sections held out"):
        assert "1 trial a data set" in told[f"Does distance preservation help? ({kind})"][1]


def test_lists_read_as_people_write_them():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
