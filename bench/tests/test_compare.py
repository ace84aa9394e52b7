"""Changes from a base method: paired by trial, relative or absolute as the metric says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from isovi_bench.compare import base_of, by_dataset, changes


def figures(values: dict[tuple[str, str, int, str], float]) -> pd.DataFrame:
    """Measured metrics from (label, data set, seed, metric): value."""
    rows = [
        {"label": label, "dataset": dataset, "seed": seed, "metric": metric, "value": value}
        for (label, dataset, seed, metric), value in values.items()
    ]
    return pd.DataFrame(rows).assign(
        kind="spots", split="0.25", set="heldout", decoder="counts", shuffled=False
    )


def test_changes_are_relative_for_sizes_and_absolute_for_scores():
    found = figures(
        {
            ("a", "d", 0, "coordinate_error"): 3.0,
            ("b", "d", 0, "coordinate_error"): 4.0,
            ("a", "d", 0, "morans_i"): 0.5,
            ("b", "d", 0, "morans_i"): -0.1,
            ("a", "d", 0, "reconstruction"): -110.0,
            ("b", "d", 0, "reconstruction"): -100.0,
        }
    )
    found = changes(found, "b").query("label == 'a'").set_index("metric")["change"]
    assert found["coordinate_error"] == pytest.approx(-0.25)
    assert found["morans_i"] == pytest.approx(0.6)
    assert found["reconstruction"] == pytest.approx(-0.1)  # lower, so better, though both are negative


def test_only_trials_that_the_base_has_too_count():
    found = figures(
        {
            ("a", "d", 0, "coordinate_error"): 3.0,
            ("a", "d", 1, "coordinate_error"): 100.0,
            ("b", "d", 0, "coordinate_error"): 4.0,
            ("b", "d", 2, "coordinate_error"): 1.0,
        }
    )
    (row,) = by_dataset(changes(found, "b")).query("label == 'a'").to_dict("records")
    assert (row["change"], row["trials"], row["better"]) == (-0.25, 1, True)
    assert not row["clear"]  # one trial tells no spread


@pytest.mark.parametrize("change", [-0.2, 0.0, 0.3])
def test_a_change_is_clear_where_its_interval_leaves_zero_out(change):
    spread = np.array([-0.01, 0.0, 0.01])
    found = figures(
        {("a", "d", seed, "morans_i"): 0.4 + change + spread[seed] for seed in range(3)}
        | {("b", "d", seed, "morans_i"): 0.4 for seed in range(3)}
    )
    (row,) = by_dataset(changes(found, "b")).query("label == 'a'").to_dict("records")
    assert row["clear"] == (change != 0)
    assert (row["better"], row["worse"]) == (change > 0, change < 0) or change == 0


def test_unknown_metrics_and_a_base_of_zero_are_left_out():
    found = figures({(name, "d", 0, metric): 0.0 for name in "ab" for metric in ("anisotropy", "own")})
    assert changes(found, "b").empty


def test_the_base_is_the_plain_backbone_of_the_decoder_that_is_there():
    both = pd.DataFrame({"label": ["vae", "scvi", "isovae"]})
    assert [base_of(both, kind) for kind in ("", "counts", "gaussian")] == ["scvi", "scvi", "vae"]
    assert base_of(both[both["label"] == "vae"]) == "vae"
    assert base_of(both[both["label"] == "isovae"]) is None
