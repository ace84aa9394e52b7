"""Smoothing by a Gaussian process: it removes noise, and nothing where neighbours do not explain a value."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from isovi.tl import smooth


def grid(side: int, axes: int = 2) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(float(side))] * axes), axis=-1).reshape(-1, axes)


def field(coordinates: np.ndarray) -> np.ndarray:
    """A smooth field with variance of about one."""
    return np.sqrt(2) * np.sin(coordinates[:, 0] / 4) * np.cos(coordinates[:, 1] / 6) * np.sqrt(2)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((found - truth) ** 2))


@pytest.mark.parametrize("axes", [2, 3])
def test_a_smooth_field_is_recovered_from_noise(axes):
    places = grid({2: 25, 3: 9}[axes], axes)
    truth = field(places)
    noisy = truth + truth.std() * np.random.default_rng(0).normal(size=len(truth))
    found = smooth(noisy[:, None], places, np.zeros(len(places)))
    assert error(found.values[:, 0], truth) < 0.3 * error(noisy, truth)
    assert 0.1 <= found.noise[0] <= 0.7  # half of the variance of the spots, less of that of the process


def test_white_noise_is_left_as_it_is():
    places = grid(25)
    noise = np.random.default_rng(1).normal(size=(len(places), 20))
    found = smooth(noise, places, np.zeros(len(places)))
    left = found.noise == 1
    np.testing.assert_array_equal(found.values[:, left], noise[:, left])
    assert left.mean() >= 0.9
    assert (found.length[left] == 0).all()


def test_a_field_without_noise_is_hardly_changed():
    places = grid(25)
    truth = field(places)
    found = smooth(truth[:, None], places, np.zeros(len(places)))
    assert error(found.values[:, 0], truth) < 0.005 * truth.var()


def test_equals_the_dense_process_where_all_spots_are_neighbours():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 6, size=(20, 2))
    values = np.sin(places[:, :1] / 2) + 0.1 * rng.normal(size=(20, 1)) + 5
    found = smooth(values, places, np.zeros(20))
    steps = np.sqrt(3) / found.length[0] * np.linalg.norm(places[:, None] - places, axis=-1)
    signal = (1 - found.noise[0]) * (1 + steps) * np.exp(-steps)
    centred = values - values.mean()
    expected = values.mean() + signal @ np.linalg.solve(signal + found.noise[0] * np.eye(20), centred)
    assert 0 < found.noise[0] < 1
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)


def test_follows_shift_and_scale():
    places = grid(15)
    values = field(places)[:, None] + np.random.default_rng(0).normal(size=(225, 1))
    plain, moved = (smooth(v, places, np.zeros(225)).values for v in (values, 100 - 3 * values))
    np.testing.assert_allclose(moved, 100 - 3 * plain, rtol=1e-9)


def test_sections_that_lie_on_each_other_do_not_mix():
    rng = np.random.default_rng(0)
    places = grid(15) + 0.1 * rng.normal(size=(225, 2))  # without ties among neighbours
    values = field(places)[:, None] + rng.normal(size=(225, 1))
    section = np.repeat(["a", "b"], 225)
    order = rng.permutation(450)  # sections need not be blocks of rows
    both = np.concatenate([values, 7 - values])[order]
    found = np.empty((450, 1))
    found[order] = smooth(both, np.tile(places, (2, 1))[order], section[order]).values
    np.testing.assert_allclose(found[225:], 7 - found[:225], rtol=1e-9)
    assert error(found[:225, 0], field(places)) < 0.5


def test_constant_columns_and_sections_of_one_spot_stay():
    places = np.concatenate([grid(10), [[0.0, 0.0]], [[3.0, 3.0]]])
    section = np.array([0] * 100 + [1, 2])
    values = np.column_stack([np.full(102, 0.1), field(places)])
    found = smooth(values, places, section)
    np.testing.assert_array_equal(found.values[:, 0], values[:, 0])
    np.testing.assert_array_equal(found.values[100:], values[100:])
    assert found.noise[0] == 1


def test_spots_at_one_place_share_their_mean():
    places = np.repeat(grid(8), 30, axis=0)  # more than the neighbours that are looked at
    truth = field(places)
    noisy = truth + np.random.default_rng(0).normal(size=len(truth))
    found = smooth(noisy[:, None], places, np.zeros(len(places))).values
    assert np.isfinite(found).all()
    assert error(found[:, 0], truth) < 0.2


def test_same_seed_same_result():
    rng = np.random.default_rng(0)
    places, values = grid(40), rng.normal(size=(1600, 2))
    values[:, 0] += field(places)
    first, second = (smooth(values, places, np.zeros(1600), seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)


def test_memory_grows_with_spots_not_with_pairs():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 140, size=(20_000, 2))
    truth = field(places)
    noisy = truth + rng.normal(size=20_000)
    tracemalloc.start()
    found = smooth(noisy[:, None], places, np.zeros(20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # pairs would take 3.2 GB
    assert error(found.values[:, 0], truth) < 0.3
