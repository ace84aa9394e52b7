"""The distortion profile: exact on maps of known constant, and the same as brute force."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from isovi.errors import InputError
from isovi.geometry.profile import (
    EPSILONS,
    DistortionProfile,
    _check,
    distortion_profile,
    range_edges,
    split_by_range,
)

positive = st.floats(1e-3, 1e3)


def all_pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n, 1)


def distances(points: np.ndarray) -> np.ndarray:
    source, target = all_pairs(len(points))
    return np.linalg.norm(points[source] - points[target], axis=1)


def rotation(seed: int, n_axes: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n_axes, n_axes)))[0]


def points_of(seed: int, n: int, n_axes: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-5, 5, size=(n, n_axes))


def brute_force(ratio: np.ndarray, weight: np.ndarray, epsilon: float) -> float:
    """Smallest ratio of two of the ratios between which a share 1 - ε of the weight lies."""
    best = math.inf
    for low in ratio:
        for high in ratio[ratio >= low]:
            held = weight[(ratio >= low) & (ratio <= high)].sum()
            if held >= (1 - epsilon) * weight.sum() * (1 - 1e-12):
                best = min(best, high / low)
    return best


@given(st.integers(0, 10**6), st.integers(3, 30), st.integers(2, 3), positive)
def test_a_similarity_has_constant_one_and_its_own_scale(
    seed: int, n: int, n_axes: int, factor: float
) -> None:
    tissue = points_of(seed, n, n_axes)
    latent = factor * tissue @ rotation(seed, n_axes) + 7.0
    profile = distortion_profile(distances(latent), distances(tissue))
    for point in profile.curve((0.0, 0.1, 0.5)):
        assert pytest.approx(1.0, abs=1e-6) == point.L
        assert point.scale == pytest.approx(factor, rel=1e-6)


@given(st.integers(0, 10**6), st.floats(1.0, 20.0))
def test_a_map_of_known_constant_has_that_constant(seed: int, stretch: float) -> None:
    """An axis stretched by c has bi-Lipschitz constant c, attained by pairs along the axes of a grid."""
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    moved = np.random.default_rng(seed).permutation(grid) @ np.diag([1.0, stretch]) @ rotation(seed, 2) * 3.0
    tissue = np.random.default_rng(seed).permutation(grid)
    point = distortion_profile(distances(moved), distances(tissue)).for_epsilon(0.0)
    assert pytest.approx(stretch, abs=1e-6 * stretch) == point.L
    assert point.scale == pytest.approx(3.0, rel=1e-6)


@given(st.integers(0, 10**6), positive, positive, st.sampled_from(EPSILONS))
def test_profiles_do_not_change_under_similarities_and_permutations(
    seed: int, of_latent: float, of_tissue: float, epsilon: float
) -> None:
    tissue, latent = points_of(seed, 20, 2), points_of(seed + 1, 20, 4)
    before = distortion_profile(distances(latent), distances(tissue)).for_epsilon(epsilon)
    order = np.random.default_rng(seed).permutation(20)
    moved = of_latent * latent[order] @ rotation(seed, 4) - 3.0
    placed = of_tissue * tissue[order] @ rotation(seed + 2, 2) + 1.0
    after = distortion_profile(distances(moved), distances(placed)).for_epsilon(epsilon)
    assert pytest.approx(before.L, rel=1e-6) == after.L
    assert after.scale == pytest.approx(before.scale * of_latent / of_tissue, rel=1e-6)


@given(
    arrays(float, st.shared(st.integers(1, 12), key="n"), elements=st.floats(0.1, 10)),
    arrays(float, st.shared(st.integers(1, 12), key="n"), elements=st.floats(0.1, 10)),
    st.floats(0, 0.9),
)
def test_the_sliding_window_agrees_with_brute_force(
    ratio: np.ndarray, weight: np.ndarray, epsilon: float
) -> None:
    found = distortion_profile(ratio, np.ones(len(ratio)), weight).for_epsilon(epsilon)
    assert pytest.approx(brute_force(ratio, weight, epsilon), rel=1e-6) == found.L


@given(st.integers(0, 10**6), st.integers(2, 60), st.floats(0, 0.95))
def test_the_interval_holds_its_share(seed: int, n: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    tissue, weight = rng.uniform(1, 5, n), rng.uniform(0, 1, n)
    latent = tissue * rng.lognormal(size=n)
    found = distortion_profile(latent, tissue, weight).for_epsilon(epsilon)
    bounds = found.scale * tissue
    kept = (latent >= bounds * (1 - 1e-9)) & (latent <= found.L * bounds * (1 + 1e-9))
    assert weight[kept].sum() >= (1 - epsilon - 1e-8) * weight.sum()


def test_whole_weights_count_like_repeated_pairs() -> None:
    rng = np.random.default_rng(0)
    latent, tissue, times = rng.uniform(1, 9, 40), rng.uniform(1, 9, 40), rng.integers(0, 4, 40)
    weighted = distortion_profile(latent, tissue, times.astype(float)).curve()
    repeated = distortion_profile(np.repeat(latent, times), np.repeat(tissue, times)).curve()
    assert [point.L for point in weighted] == pytest.approx([point.L for point in repeated])


def test_more_broken_pairs_never_need_a_larger_constant() -> None:
    rng = np.random.default_rng(1)
    curve = distortion_profile(rng.uniform(1, 9, 500), rng.uniform(1, 9, 500)).curve()
    found = [point.L for point in curve]
    assert found == sorted(found, reverse=True)
    assert found[-1] >= 1


def test_pairs_at_one_place_break_every_bound_unless_they_are_few_enough() -> None:
    latent, tissue = np.array([0.0, 1.0, 1.1, 1.0]), np.ones(4)
    assert math.inf == distortion_profile(latent, tissue).for_epsilon(0.2).L
    assert pytest.approx(1.1) == distortion_profile(latent, tissue).for_epsilon(0.25).L
    torn = distortion_profile(np.ones(4), np.array([0.0, 1.0, 1.0, 1.0]))
    assert math.inf == torn.for_epsilon(0.0).L
    assert math.inf == distortion_profile(np.zeros(3), np.ones(3)).for_epsilon(0.5).L


def test_pairs_that_coincide_in_both_spaces_keep_every_bound() -> None:
    profile = distortion_profile(np.array([0.0, 0.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert pytest.approx(1.0) == profile.for_epsilon(0.25).L
    assert pytest.approx(2.0) == profile.for_epsilon(0.0).L


def test_bins_are_the_profiles_of_their_pairs() -> None:
    rng = np.random.default_rng(2)
    tissue = rng.uniform(0.1, 27, 400)
    latent = tissue * rng.lognormal(size=400)
    edges = range_edges(27.0)
    profile = distortion_profile(latent, tissue, edges=edges)
    assert edges == pytest.approx((0, 3, 9, 27))
    assert sum(part.profile.n_pairs for part in profile.bins) == 400
    for part in profile.bins:
        inside = (tissue >= part.low) & (tissue < part.high)
        alone: DistortionProfile = distortion_profile(latent[inside], tissue[inside])
        assert part.profile.for_epsilon(0.1) == alone.for_epsilon(0.1)


def test_the_longest_pair_is_in_the_last_range_and_longer_ones_in_none() -> None:
    masks = [mask for *_, mask in split_by_range(np.array([0.5, 8.0, 9.0]), (0.0, 2.0, 8.0))]
    assert [list(mask) for mask in masks] == [[True, False, False], [False, True, False]]
    assert range_edges(0.5) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("latent", "tissue", "weight", "said"),
    [
        ([1.0], [1.0, 2.0], None, "1 latent distances, 2 tissue distances"),
        ([-1.0, 1.0], [1.0, 1.0], None, "1 of 2 pairs have a negative or non-finite latent distance"),
        ([1.0, 1.0], [1.0, np.nan], None, "tissue distance"),
        ([1.0], [1.0], [np.inf], "1 of 1 pairs have a negative or non-finite weight"),
        ([1.0], [1.0], [0.0], "None of the 1 pairs has a positive weight"),
        ([], [], None, "None of the 0 pairs has a positive weight"),
    ],
)
def test_what_is_no_set_of_pairs_is_refused(
    latent: list, tissue: list, weight: list | None, said: str
) -> None:
    weights = np.ones(len(latent)) if weight is None else np.array(weight)
    with pytest.raises(InputError, match=said):  # past the run-time checks of shapes
        _check(np.array(latent, dtype=float), np.array(tissue, dtype=float), weights)


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, math.nan])
def test_epsilon_is_a_share(epsilon: float) -> None:
    profile = distortion_profile(np.ones(2), np.ones(2))
    with pytest.raises(InputError, match="0 <= epsilon < 1"):
        profile.for_epsilon(epsilon)


def test_brute_force_itself_is_right() -> None:
    """Three ratios 1, 2, 4: without one of them the best is 2, without two 1."""
    ratio = np.array([1.0, 2.0, 4.0])
    assert [brute_force(ratio, np.ones(3), e) for e in (0.0, 0.34, 0.67)] == [4.0, 2.0, 1.0]
    assert min(b / a for a, b in combinations(ratio, 2)) == 2.0
