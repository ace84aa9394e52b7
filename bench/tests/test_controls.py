"""Shuffled positions: the share of a gain that survives is the one that was put in."""

from __future__ import annotations

import pytest

from isovi_bench import results
from isovi_bench.controls import differences, surviving, tables


@pytest.fixture(scope="module")
def found(make):
    names = ("vae", "isovae", "scvi", "isoscvi", "graphpca")
    return results.measured(make(methods=names, datasets=("a", "bb", "ccc"), seeds=(0, 1)))


def test_half_of_the_gain_on_training_spots_was_memorised_and_none_elsewhere(found):
    gains = surviving(found).set_index(["label", "set", "metric"])
    for name in ("isovae", "isoscvi"):
        assert gains.loc[(name, "train", "spearman_distance"), "share"] == pytest.approx(0.5, abs=0.05)
        assert gains.loc[(name, "heldout", "spearman_distance"), "share"] == pytest.approx(0.0, abs=0.05)


def test_differences_are_of_the_same_trials(found):
    rows = found[(found["metric"] == "morans_i") & (found["set"] == "train") & (found["variant"] == "isovae")]
    wide = rows.pivot_table(index=["dataset", "seed"], columns="shuffled", values="value")
    by_hand = (wide[False] - wide[True]).groupby("dataset").mean()
    data = differences(found).query("label == 'isovae' and set == 'train' and metric == 'morans_i'")
    assert data.set_index("dataset")["change"].to_dict() == pytest.approx(by_hand.to_dict())


def test_only_methods_with_a_control_are_in_the_table(found):
    train, held_out = tables(found, "spots")
    assert train.shown["method"].tolist() == held_out.shown["method"].tolist() == ["isovae", "isoscvi"]
    assert train.shown["survives, of Spearman"].str.fullmatch(r"(4[5-9]|5[0-5]) %").all()
    assert "coordinate error" in held_out.shown and "coordinate error" not in train.shown


def test_no_controls_no_table(found):
    assert tables(found[~found["shuffled"]], "spots") == []
    assert surviving(found[~found["shuffled"]]).empty
