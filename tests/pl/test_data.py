"""What plots show: spread, ranges, categories, bins and courses, the same in pl and in the report."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from scipy.spatial import cKDTree

from isovi import pl
from isovi.geometry.tissot import ellipses_of
from isovi.pl import _data
from isovi.pl._palette import CATEGORICAL, MISSING
from isovi.report import plots
from isovi.spots import HELDOUT, TRAIN, Spots


@pytest.fixture
def history() -> pd.DataFrame:
    epochs = pd.Index(range(40), name="epoch")
    decay = 0.8 ** np.arange(40)
    columns = {
        "elbo_train": 500 + 300 * decay,
        "elbo_validation": np.where(np.arange(40) % 2, np.nan, 510 + 300 * decay),
        "relative_distortion_train": 0.3 + 0.5 * decay,
        "multiplier_train": np.arange(40.0),
        "distance_scale_train": np.full(40, 0.1),
    }
    return pd.DataFrame(columns, index=epochs)


class TestCourses:
    def test_axes_target_and_points_are_the_same_in_pl_and_report(self, history):
        found = _data.courses(history, 0.25)
        axes = pl.history(history, target=0.25)
        assert len(axes) == len(found) == 3
        for ax, (key, course) in zip(axes, found.items(), strict=True):
            drawn = plots.course(key, course)
            assert (drawn.x_range.start, drawn.x_range.end) == ax.get_xlim()
            assert (drawn.y_range.start, drawn.y_range.end) == pytest.approx(ax.get_ylim())
            for bokeh, matplotlib in ((drawn.xaxis, ax.xaxis), (drawn.yaxis, ax.yaxis)):
                np.testing.assert_array_equal(bokeh.ticker.ticks, matplotlib.get_majorticklocs())
                assert len(matplotlib.get_majorticklocs()) > 1
            lines = {line.get_label(): line for line in ax.get_lines()}
            labels = [item.label.value for item in drawn.legend[0].items]
            assert labels == list(lines)
            for label, renderer in zip(labels, drawn.renderers, strict=True):
                y = np.unique(renderer.data_source.data["y"])
                np.testing.assert_allclose(y, np.unique(lines[label].get_ydata()))
        assert "target 0.25" in [line.get_label() for line in axes[1].get_lines()]

    def test_epochs_count_from_one_and_what_is_missing_is_left_out(self, history):
        training, validation = _data.courses(history)["elbo"].curves
        assert (training.x[0], training.x[-1]) == (1, 40)
        assert len(validation.x) == 20 and np.isfinite(validation.y).all()
        multiplier = _data.courses(history)["multiplier"].curves[0]
        assert multiplier.x[0] == 2, "its zero has no place on a logarithmic axis"

    def test_the_loss_is_shown_without_its_steep_start(self, history):
        low, high = _data.courses(history)["elbo"].y_range
        assert high < history["elbo_train"].iloc[0] and low < history["elbo_train"].min()

    def test_a_table_for_each_quantity_is_the_same(self, history):
        tables = {name: history[[name]] for name in history}
        ours, theirs = _data.courses(history, 0.2), _data.courses(tables, 0.2)
        assert list(ours) == list(theirs)
        for key, course in ours.items():
            assert course.y_range == theirs[key].y_range

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_few_epochs_have_whole_ticks(self, history, n):
        course = _data.courses(history.iloc[:n])["elbo"]
        assert len(course.x_ticks) >= 1
        assert set(course.x_ticks) <= set(range(1, n + 1))


class TestShepard:
    def test_pairs_of_an_isometry_lie_on_the_diagonal(self):
        tissue = {"held out": np.random.default_rng(0).uniform(0, 10, 20_000)}
        (found,) = _data.densities(tissue, tissue)
        inside = (tissue["held out"] <= found.limit).sum()
        assert found.counts.sum() == np.trace(found.counts) == inside
        assert np.abs(found.median - found.middle).max() < 0.1 * found.limit / 24
        assert (found.low < found.median).all() and (found.median < found.high).all()
        drawn = plots.shepard("shepard", found)
        ax = pl.shepard(tissue, tissue)
        assert (drawn.x_range.start, drawn.x_range.end) == ax.get_xlim()
        np.testing.assert_array_equal(drawn.xaxis.ticker.ticks, ax.get_xticks())

    def test_each_section_is_scaled_by_its_own_lambda(self):
        rng = np.random.default_rng(0)
        section = np.repeat([0, 1], 40)
        coordinates = rng.uniform(0, 9, (80, 2))
        split = np.where(np.arange(80) % 2, TRAIN, HELDOUT)
        spots = Spots(coordinates, section, ("a", "b"), split=split)
        latent = coordinates * np.where(section, 5.0, 2.0)[:, None]
        in_latent, in_tissue = _data.shepard_pairs(latent, spots, {"a": 2.0, "b": 5.0})
        assert list(in_latent) == ["held out", "training"]
        for name, values in in_latent.items():
            assert len(values) == 2 * 20 * 19 / 2
            np.testing.assert_allclose(values, in_tissue[name])

    @pytest.mark.parametrize("unknown", [None, float("nan")])
    def test_a_section_that_was_not_trained_on_has_the_mean_scale(self, unknown):
        spots = Spots(np.zeros((6, 2)), np.repeat([0, 1, 2], 2), ("a", "b", "c"))
        scale = _data.spot_scale({"a": 2.0, "b": 4.0, "c": unknown}, spots, default=9.0)
        np.testing.assert_array_equal(scale, [2, 2, 4, 4, 3, 3])
        np.testing.assert_array_equal(_data.spot_scale({"a": unknown}, spots, default=9.0), np.full(6, 9))
        np.testing.assert_array_equal(_data.spot_scale(0.5, spots, default=9.0), np.full(6, 0.5))

    def test_without_a_lambda_that_of_the_training_pairs_is_fitted(self):
        coordinates = np.random.default_rng(0).uniform(0, 9, (60, 2))
        spots = Spots(coordinates, split=np.full(60, TRAIN))
        in_latent, in_tissue = _data.shepard_pairs(3 * coordinates, spots, None)
        np.testing.assert_allclose(in_latent["training"], in_tissue["training"])


class TestGroups:
    def test_spots_without_a_label_are_grey_and_last(self):
        column = pd.Series(["b", None, "a", "unknown", " NA "], dtype="category")
        found = _data.groups(column)
        assert found.names == ("a", "b", "missing")
        assert found.codes.tolist() == [1, 2, 0, 2, 2]
        assert found.colors == (*CATEGORICAL[:2], MISSING)

    def test_a_category_called_missing_is_no_missing_value(self):
        assert MISSING not in _data.groups(pd.Series(["missing", "x"])).colors

    def test_stored_colours_belong_to_categories_by_name(self):
        """scanpy stores one for each category, those that no spot has included."""
        column = pd.Series(pd.Categorical(["c", "a", "unknown"], categories=["a", "b", "c", "unknown"]))
        found = _data.groups(column, ["#000001", "#000002", "#000003", "#000004"])
        assert found.names == ("a", "c", "missing")
        assert found.colors == ("#000001", "#000003", MISSING)


class TestSpots:
    @given(n=st.integers(1, 400), most=st.integers(2, 300), seed=st.integers(0, 9))
    def test_as_many_as_wanted_are_shown_each_once(self, n: int, most: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = _data.spread(rng.uniform(size=(n, 2)), rng.integers(0, 3, n), most)
        assert len(rows) == min(n, most)
        assert np.array_equal(rows, np.unique(rows))
        assert rows.min() >= 0 and rows.max() < n

    def test_each_section_and_each_part_of_it_has_its_share(self) -> None:
        rng = np.random.default_rng(0)
        section = np.repeat([0, 1], [6000, 2000])
        positions = rng.uniform(size=(8000, 2))
        rows = _data.spread(positions, section, 800)
        assert np.bincount(section[rows]).tolist() == [600, 200]
        quarter = (positions[rows] < 0.5).all(axis=1) & (section[rows] == 0)
        assert quarter.sum() == pytest.approx(150, abs=8)  # 11 is the standard deviation of a random choice

    def test_sections_stand_side_by_side_with_their_shape(self) -> None:
        rng = np.random.default_rng(0)
        spots = Spots.at(rng.uniform(0, 20, (300, 2)), np.arange(300) % 2, ["a", "b"])
        coordinates, titles = _data.side_by_side(spots)
        first, second = (coordinates[spots.section == code] for code in (0, 1))
        for code, moved in enumerate((first, second)):
            shift = moved - spots.coordinates[spots.section == code]
            assert np.ptp(shift, axis=0).max() < 1e-5
        assert cKDTree(first).query(second)[0].min() > 1  # further apart than neighbours are
        assert [name for name, _, _ in titles] == ["a", "b"]

    def test_drawn_ellipses_are_far_apart(self):
        side = np.arange(40.0)
        positions = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        chosen = positions[_data.farthest(positions, 100)]
        assert cKDTree(chosen).query(chosen, 2)[0][:, 1].min() > 2.5  # 100 of them can be 4 apart

    def test_ellipses_are_the_local_maps_up_to_one_factor(self):
        positions = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
        stretch = np.tile(np.diag([3.0, 1.5]), (100, 1, 1))
        stretch[7] = np.nan
        found = _data.ellipse_view(ellipses_of(stretch), positions, positions, "spatial", 50)
        assert len(found.rows) == 50 and 7 not in found.rows
        np.testing.assert_allclose(found.half_axes[:, 0] / found.half_axes[:, 1], 2.0)
        np.testing.assert_allclose(np.sin(found.angle), 0, atol=1e-9)
        apart = cKDTree(positions[found.rows]).query(positions[found.rows], 2)[0][:, 1]
        assert (np.sqrt(np.square(found.half_axes).mean(axis=1)) <= apart.max() / 2).all()


class TestRanges:
    def test_one_extreme_value_does_not_stretch_them(self):
        values = np.r_[np.linspace(-1, 1, 60), 1e9, np.nan]
        assert _data.upwards(values)[1] <= 1
        low, high = _data.around(values)
        assert low + high == pytest.approx(2 * np.nanmedian(values)) and high < 1.1
        assert _data.between(values)[1] <= 1

    @pytest.mark.parametrize("values", [np.full(3, np.nan), np.zeros(5), np.ones(1), np.empty(0)])
    def test_they_are_never_empty(self, values):
        for low, high in (_data.upwards(values), _data.around(values), _data.between(values)):
            assert np.isfinite([low, high]).all() and low < high


def test_an_anisotropy_has_one_colour_in_pl_and_report() -> None:
    from isovi.pl.tissot import _anisotropy_colors

    norm, colors = _anisotropy_colors()
    values = np.linspace(1, 4, 256)
    report = np.array([to_rgba(color) for color in plots.ramp("anisotropy")])
    np.testing.assert_allclose(report, colors(norm(values)), atol=0.03)
