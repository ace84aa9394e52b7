"""Ranks and changes are those that pandas gives by hand; what must not be compared is not."""

from __future__ import annotations

import pytest

from isovi_bench import results
from isovi_bench.leaderboard import CIRCULAR, board, ranks, tables


@pytest.fixture(scope="module")
def found(make):
    return results.measured(make(datasets=("a", "bb", "ccc"), seeds=(0, 1)))


@pytest.fixture(scope="module")
def train(found):
    rows = results.contenders(found)
    return rows[rows["set"] == "train"]


def test_ranks_are_means_over_data_sets_of_those_among_methods(train):
    rows = train[(train["metric"] == "gearys_c") & ~train["shuffled"]]
    table = rows.pivot_table(index="label", columns="dataset", values="value")
    by_hand = table.rank(axis=0).mean(axis=1)
    found = ranks(train).query("metric == 'gearys_c'").set_index("label")["rank"]
    assert found.to_dict() == pytest.approx(by_hand.to_dict())
    assert found["graphpca"] == 1.0


def test_controls_are_shown_but_not_ranked(train):
    data = board(train, "smoothness").set_index(["label", "metric"])
    assert data.loc[("isoscvi, shuffled", "morans_i"), "value"] == pytest.approx(0.55, abs=0.02)
    assert data.loc["isoscvi, shuffled"]["rank"].isna().all()


def test_changes_are_from_the_base_in_the_same_trials(train):
    data = board(train, "distances").set_index(["label", "metric"])["change"]
    wide = train[train["metric"] == "relative_distortion"].pivot_table(
        index=["dataset", "seed"], columns="label", values="value"
    )
    by_hand = (wide["isovae"] / wide["scvi"] - 1).groupby("dataset").mean().mean()
    assert data["isovae", "relative_distortion"] == pytest.approx(by_hand)


def test_expression_is_ranked_and_changed_within_each_decoder(train):
    data = board(train, "expression").set_index(["label", "metric"])
    for plain, kept in (("vae", "isovae"), ("scvi", "isoscvi")):
        assert data.loc[plain]["change"].isna().all()
        assert sorted(data["rank"].loc[[plain, kept, f"{kept}-penalty"]].groupby("label").max()) != []
        wide = train[train["metric"] == "mse_lognorm"].pivot_table(
            index=["dataset", "seed"], columns="label", values="value"
        )
        by_hand = (wide[kept] / wide[plain] - 1).groupby("dataset").mean().mean()
        assert data.loc[(kept, "mse_lognorm"), "change"] == pytest.approx(by_hand)
    assert data["rank"].max() <= 3  # of three methods with one decoder
    assert "pca" not in data.index.get_level_values(0)


def test_methods_that_average_over_the_graph_are_marked(found):
    by_name = {table.name: table for table in tables(found, "spots")}
    smooth = by_name["leaderboard_smoothness_spots_train"]
    marked = smooth.shown.set_index("method")["Moran's I, up"].str.contains(CIRCULAR)
    assert marked.to_dict() == {name: name == "graphpca" for name in marked.index}
    assert any("circular" in note for note in smooth.notes)
    distances = by_name["leaderboard_distances_spots_train"]
    assert not distances.shown.map(lambda cell: CIRCULAR in cell).any(axis=None)


def test_training_and_held_out_spots_are_apart_and_empty_groups_left_out(found):
    by_name = {table.name: table for table in tables(found, "spots")}
    assert "graphpca" in set(by_name["leaderboard_domains_spots_train"].shown["method"])
    assert "graphpca" not in set(by_name["leaderboard_domains_spots_heldout"].shown["method"])
    assert not [name for name in by_name if "mixing" in name]


def test_one_method_without_a_base_still_has_a_row(make):
    alone = results.measured(make(methods=("graphpca",), datasets=("a",), seeds=(0,)))
    first = tables(alone, "spots")[0]
    assert first.shown["method"].tolist() == ["graphpca"] and first.shown["rank"].tolist() == ["1.0"]
    assert "(" not in first.shown["Moran's I, up"].iloc[0]


def test_another_method_may_be_compared_with(found, train):
    wide = train[train["metric"] == "spearman_distance"].pivot_table(
        index=["dataset", "seed"], columns="label", values="value"
    )
    data = board(train, "distances", "pca").set_index(["label", "metric"])["change"]
    by_hand = (wide["isovae"] - wide["pca"]).groupby("dataset").mean().mean()
    assert data["isovae", "spearman_distance"] == pytest.approx(by_hand)
    expression = board(train, "expression", "scvi").set_index(["label", "metric"])["change"]
    assert expression["isovae"].isna().all() and expression["isoscvi"].notna().all()
    by_name = {table.name: table for table in tables(found, "spots", "pca")}
    assert "change from pca;" in by_name["leaderboard_distances_spots_train"].notes[0]
