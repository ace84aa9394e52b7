"""Plots: what is drawn is what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from isovi_bench import plots, results
from isovi_bench.plots import ellipses, errors, ranking, sensitivity, tradeoff


@pytest.fixture(scope="module")
def frame(make):
    return make(datasets=("a", "bb"), seeds=(0, 1))


@pytest.fixture(scope="module")
def found(frame):
    return results.measured(frame)


def store(frame, folder, names=("scvi", "isoscvi"), lost=()):
    """Latents of the jobs of the first seed: two sections, a third of the spots held out."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(0, 10, (120, 2)).astype(np.float32)
    split = np.where(np.arange(120) % 3 == 0, "heldout", "train")
    rows = frame[(frame["seed"] == 0) & ~frame["shuffled"] & frame["variant"].isin(names)]
    for job, name in rows[["job", "variant"]].drop_duplicates().itertuples(index=False):
        latent = np.column_stack([coordinates, rng.normal(size=(120, 3))]).astype(np.float32)
        if name in lost:
            latent[split == "heldout"] = np.nan
        path = folder / f"{job}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path, latent=latent, coordinates=coordinates, section=np.repeat([0, 1], [90, 30]), split=split
        )


def test_errors_are_ratios_to_the_plain_backbone_with_a_panel_per_decoder(found):
    figure = errors(found)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["VAE", "scVI"]
    drawn = {bars.get_label(): bars for bars in figure.axes[1].containers}["isoscvi"]
    rows = found[(found["metric"] == "mse_lognorm") & (found["set"] == "heldout") & ~found["shuffled"]]
    wide = rows.pivot_table(index=["dataset", "seed"], columns="label", values="value")
    by_hand = (wide["isoscvi"] / wide["scvi"]).groupby("dataset").mean()
    assert drawn.lines[0].get_ydata() == pytest.approx(by_hand.to_numpy())


def test_sensitivity_draws_each_data_set_and_the_mean(found):
    figure = sensitivity(found, "penalty")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0].startswith("isoscvi: α") and len(titles) == 5
    lines = {line.get_linewidth(): line for line in figure.axes[1].get_lines() if len(line.get_xdata()) == 4}
    assert figure.axes[1].get_xscale() == "log" and lines[2].get_xdata()[-1] == 300
    assert lines[2].get_ydata()[-1] == pytest.approx(0.7 * 0.4 * 1.1, abs=0.02)
    assert sensitivity(found, "target").axes[0].get_xscale() == "linear"


def test_tradeoff_has_a_curve_per_method_and_setting(found):
    left, right = tradeoff(found).axes
    labels = {line.get_label() for line in left.get_lines()}
    assert labels == {"isoscvi: α", "isoscvi: target", "isovae", "isovae-penalty", "plain backbone"}
    (curve,) = [line for line in right.get_lines() if line.get_label() == "isoscvi: α"]
    assert len(curve.get_xdata()) == 4 and (np.diff(curve.get_ydata()) > 0).all()


def test_tradeoff_shows_single_points_over_the_data_sets_of_the_curves(found):
    on_curves = found["variant"].str.startswith("isoscvi")
    of_one = tradeoff(found[~on_curves | (found["dataset"] == "a")])
    alone = tradeoff(found[found["dataset"] == "a"])
    of_two = tradeoff(found)
    places = [
        next(
            line.get_xydata().tolist() for line in figure.axes[1].get_lines() if line.get_label() == "isovae"
        )
        for figure in (of_one, alone, of_two)
    ]
    assert places[0] == places[1] != places[2]


def test_ranking_marks_methods_that_average_over_the_graph(found):
    train, held_out = ranking(found).axes
    names = [label.get_text() for label in train.get_yticklabels()]
    assert names[0] == "graphpca †" and not any("shuffled" in name for name in names)
    assert "graphpca †" not in [label.get_text() for label in held_out.get_yticklabels()]


def test_ellipses_are_of_held_out_spots_of_the_largest_section(frame, tmp_path, monkeypatch):
    store(frame, tmp_path / "latents", lost=("isoscvi",))
    seen = {}

    def draw(latents, coordinates):
        seen.update(names=list(latents), n=len(coordinates))
        return tissot_latents(latents, coordinates)

    tissot_latents = plots.pl.tissot_latents
    monkeypatch.setattr(plots.pl, "tissot_latents", draw)
    (path, _) = ellipses(frame, tmp_path / "latents", tmp_path)
    assert path.name == "ellipses_a_scvi.png"
    assert seen == {
        "names": ["scvi"],
        "n": 30,
    }  # of 90 spots a third; a method without held-out ones is left out


def test_without_latents_of_ours_there_are_no_ellipses(make, tmp_path):
    assert ellipses(make(methods=("pca",), datasets=("a",), seeds=(0,)), tmp_path, tmp_path) == []
    assert ellipses(make(methods=("scvi",), datasets=("a",), seeds=(0,)), tmp_path, tmp_path) == []


def test_files_are_written_for_what_there_is(make, tmp_path):
    results.conform(make(methods=("pca", "scvi"), datasets=("a",), seeds=(0,))).to_parquet(
        tmp_path / results.FILE
    )
    paths = plots.write(tmp_path, tmp_path / "plots")
    assert [path.name for path in paths] == ["leaderboard_spots.png"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")


def test_tradeoff_without_a_likelihood_is_not_drawn_and_shows_only_what_was_measured(found):
    points = found[~found["variant"].str.startswith("isoscvi-")]
    assert tradeoff(points[points["metric"] != "reconstruction"]) is None
    (alone,) = tradeoff(points[points["metric"] != "coordinate_error"]).axes
    assert alone.get_ylabel().startswith("Spearman")


@pytest.mark.parametrize("draw", [errors, tradeoff, ranking, lambda rows: sensitivity(rows, "penalty")])
def test_nothing_is_drawn_of_nothing(found, draw):
    assert draw(found[found["metric"] == "seconds"]) is None
