"""Curves over a setting: which jobs lie on them, and where."""

from __future__ import annotations

import json

import pytest

from isovi.model.objective import Constraint
from isovi_bench import results
from isovi_bench.sweeps import complete, curves, swept, tables


@pytest.fixture(scope="module")
def found(make):
    return results.measured(make(datasets=("a", "bb"), seeds=(0, 1)))


def test_each_setting_is_on_the_curve_of_its_method(found):
    levels = swept(found).groupby("curve")["level"].unique().map(sorted)
    assert levels.to_dict() == {
        "isoscvi: α": [1, 10, 100, 300],
        "isoscvi: target": [0.1, Constraint.target, 0.4],
    }


def test_a_method_at_one_setting_has_no_curve(found):
    assert "VAE" not in set(swept(found)["backbone"])


def test_other_settings_make_another_curve(found):
    raw = found[found["variant"].isin(["isoscvi-penalty-1", "isoscvi-penalty-100"])]
    raw = raw.assign(
        settings=[json.dumps(json.loads(text) | {"relative": False}) for text in raw["settings"]]
    )
    both = swept(results.pd.concat([found, raw]))
    assert sorted(both.loc[both["curve"] == "isoscvi: α (relative=False)", "level"].unique()) == [1, 100]


def test_changes_are_from_the_plain_backbone(found):
    cells = curves(found).query("knob == 'penalty' and set == 'heldout' and metric == 'morans_i'")
    rows = found[(found["set"] == "heldout") & (found["metric"] == "morans_i") & ~found["shuffled"]]
    wide = rows.pivot_table(index=["dataset", "seed"], columns="label", values="value")
    by_hand = (wide["isoscvi-penalty-100"] - wide["scvi"]).groupby("dataset").mean()
    assert cells[cells["level"] == 100].set_index("dataset")["change"].to_dict() == pytest.approx(
        by_hand.to_dict()
    )


def test_settings_are_compared_over_the_same_seeds(found):
    swept_once = found["variant"].isin(["isoscvi-target-0.1", "isoscvi-target-0.4"]) & (found["seed"] == 1)
    cells = curves(found[~swept_once])
    assert set(cells.loc[cells["knob"] == "target", "trials"]) == {1}
    assert set(cells.loc[cells["knob"] == "penalty", "trials"]) == {2}
    seed = curves(found[found["seed"] == 0]).query("knob == 'target'")["change"]
    assert cells.query("knob == 'target'")["change"].tolist() == pytest.approx(seed.tolist())


def test_means_are_over_data_sets_with_every_setting(found):
    lost = (found["variant"] == "isoscvi-target-0.1") & (found["dataset"] == "a")
    cells = complete(curves(found[~lost]))
    assert set(cells.loc[cells["knob"] == "target", "dataset"]) == {"bb"}
    assert set(cells.loc[cells["knob"] == "penalty", "dataset"]) == {"a", "bb"}


def test_tables_have_a_row_per_value(found):
    penalty = next(table for table in tables(found, "spots") if "α" in table.title)
    assert penalty.shown["value"].tolist() == ["1", "10", "100", "300"]


def test_without_a_plain_backbone_there_is_nothing_to_hold_curves_against(found):
    assert curves(found[found["label"] != "scvi"]).empty
    assert tables(found[found["label"] != "scvi"], "spots") == []
