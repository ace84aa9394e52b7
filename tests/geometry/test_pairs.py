from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import chisquare

from isovi.errors import InputError
from isovi.geometry.pairs import (
    PairSet,
    disjoint_pairs,
    pair_distances,
    sample_pairs,
    sample_pairs_in_range,
    tissue_distance,
)
from isovi.geometry.profile import range_edges, split_by_range

SECTIONS = st.lists(st.integers(0, 3), min_size=0, max_size=14).map(np.array)


def possible_pairs(section: np.ndarray) -> set[tuple[int, int]]:
    return {(i, j) for i, j in combinations(range(len(section)), 2) if section[i] == section[j]}


def unordered(source: np.ndarray, target: np.ndarray) -> list[tuple[int, int]]:
    return [(min(pair), max(pair)) for pair in zip(source.tolist(), target.tolist(), strict=True)]


@given(section=SECTIONS)
def test_few_pairs_come_each_exactly_once(section: np.ndarray) -> None:
    section = section.astype(np.int64)
    expected = possible_pairs(section)
    found = unordered(*sample_pairs(section, len(expected), np.random.default_rng(0)))
    assert sorted(found) == sorted(expected)


@given(section=SECTIONS, n_pairs=st.integers(0, 30), seed=st.integers(0, 2**32 - 1))
def test_pairs_are_of_different_spots_of_one_section(section: np.ndarray, n_pairs: int, seed: int) -> None:
    section = section.astype(np.int64)
    source, target = sample_pairs(section, n_pairs, np.random.default_rng(seed))
    assert len(source) == len(target) == min(n_pairs, len(possible_pairs(section)))
    assert (source != target).all()
    assert (section[source] == section[target]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_many_pairs_are_drawn_uniformly(seed: int) -> None:
    section = np.array([0, 2, 0, 1, 2, 0, 2, 2])
    expected = sorted(possible_pairs(section))
    rng = np.random.default_rng(seed)
    drawn = [pair for _ in range(500) for pair in unordered(*sample_pairs(section, 8, rng))]
    counts = [drawn.count(pair) for pair in expected]
    assert sum(counts) == 4000
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("section", [[], [5], [0, 1, 2]])
def test_no_two_spots_of_a_section_give_no_pairs(section: list[int]) -> None:
    source, target = sample_pairs(np.array(section, dtype=np.int64), 10, np.random.default_rng(0))
    assert source.shape == target.shape == (0,)
    assert source.dtype == target.dtype == np.int64


def test_the_caller_owns_the_generator() -> None:
    section = np.zeros(50, dtype=np.int64)
    rng = np.random.default_rng(3)
    first, second = sample_pairs(section, 20, rng), sample_pairs(section, 20, rng)
    again = sample_pairs(section, 20, np.random.default_rng(3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_tissue_distance_is_euclidean(n_axes: int) -> None:
    coordinates = torch.as_tensor(np.random.default_rng(0).normal(size=(6, n_axes)))
    source, target = torch.triu_indices(6, 6, 1)
    expected = torch.pdist(coordinates)
    torch.testing.assert_close(tissue_distance(coordinates, source, target), expected)


def test_pair_distances_are_euclidean_whatever_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    ends, expected = np.triu_indices(9, 1), pdist(values.astype(np.float64))
    for chunk in (1, 5, 36, 100):
        monkeypatch.setattr("isovi.geometry.pairs._CHUNK", chunk)
        np.testing.assert_allclose(pair_distances(values, *ends), expected, rtol=1e-12)
    assert pair_distances(values, ends[0][:0], ends[1][:0]).shape == (0,)
    with pytest.raises(InputError, match=r"shape \(9,\)"):
        pair_distances(values[:, 0], *ends)


def test_a_pair_set_knows_its_length_and_does_not_change() -> None:
    ends, values = torch.arange(3), torch.ones(3)
    pairs = PairSet(ends, ends + 1, values, values)
    assert len(pairs) == 3
    with pytest.raises(AttributeError):
        pairs.weight = values * 2


def scattered(seed: int, n: int, n_axes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Positions at unit density, and two sections on top of each other."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, (n / 2) ** (1 / n_axes), (n, n_axes)), rng.integers(0, 2, n)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 200), n_axes=st.integers(2, 3))
def test_disjoint_pairs_share_no_spot_and_stay_in_their_section(seed: int, n: int, n_axes: int) -> None:
    coordinates, section = scattered(seed, n, n_axes)
    edges = range_edges(float(np.ptp(coordinates, axis=0).max()))
    source, target = disjoint_pairs(coordinates, section, edges, np.random.default_rng(seed))
    assert len(np.unique(np.concatenate([source, target]))) == 2 * len(source)
    assert (section[source] == section[target]).all()
    assert len(source) == sum(np.sum(section == code) // 2 for code in (0, 1))


def test_every_range_is_represented_among_disjoint_pairs() -> None:
    coordinates, section = scattered(0, 3000)
    edges = range_edges(39.0)
    source, target = disjoint_pairs(coordinates, section, edges, np.random.default_rng(0))
    apart = np.linalg.norm(coordinates[source] - coordinates[target], axis=1)
    shares = [mask.mean() for *_, mask in split_by_range(apart, edges)]
    assert min(shares) > 0.2
    at_random = disjoint_pairs(coordinates, section, (0.0, 39.0), np.random.default_rng(0))
    apart = np.linalg.norm(coordinates[at_random[0]] - coordinates[at_random[1]], axis=1)
    assert np.mean(apart < edges[1]) < 0.05


def test_no_spots_make_no_disjoint_pairs() -> None:
    source, target = disjoint_pairs(
        np.empty((0, 2)), np.empty(0, dtype=int), (0.0, 1.0), np.random.default_rng(0)
    )
    assert len(source) == len(target) == 0


@pytest.mark.parametrize("n", [300, 6000])
def test_pairs_in_a_range_stand_for_all_pairs_in_it(n: int) -> None:
    """Few spots: uniform draws; many: near ones are looked up. The weighted mean length is the true one."""
    coordinates, section = scattered(1, n)
    low, high = 0.5, 2.5
    source, target, weight = sample_pairs_in_range(
        coordinates, section, low, high, 4000, np.random.default_rng(0)
    )
    apart = np.linalg.norm(coordinates[source] - coordinates[target], axis=1)
    assert ((apart >= low) & (apart < high)).all()
    assert (section[source] == section[target]).all()
    everyone = np.concatenate([pdist(coordinates[section == code]) for code in (0, 1)])
    true = everyone[(everyone >= low) & (everyone < high)]
    error = np.sqrt(np.average((apart - true.mean()) ** 2, weights=weight) / len(apart))
    assert abs(np.average(apart, weights=weight) - true.mean()) < 4 * error
