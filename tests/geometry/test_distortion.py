from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from isovi.geometry.distortion import (
    all_distances,
    euclidean,
    fitted_scale,
    profile_scale,
    raw_distortion,
    relative_distortion,
    wasserstein_points,
    weighted_median,
)

N_CELLS = 7
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(1e-3, 1e3)


def places(n_axes: int) -> st.SearchStrategy[torch.Tensor]:
    """Different points with whole coordinates, so that no distance is below one."""
    place = st.tuples(*[st.integers(-20, 20)] * n_axes)
    points = st.lists(place, min_size=N_CELLS, max_size=N_CELLS, unique=True)
    return points.map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def weights(n_pairs: int) -> st.SearchStrategy[torch.Tensor]:
    """Non-negative weights, not all of them zero."""
    values = st.lists(st.integers(0, 5), min_size=n_pairs, max_size=n_pairs).filter(any)
    return values.map(lambda row: torch.tensor(row, dtype=torch.float64))


def lengths(n_pairs: int, least: int = 0) -> st.SearchStrategy[torch.Tensor]:
    values = st.lists(st.integers(least, 30), min_size=n_pairs, max_size=n_pairs)
    return values.map(lambda row: torch.tensor(row, dtype=torch.float64))


def moved(points: torch.Tensor, factor: float, seed: int) -> torch.Tensor:
    """The points turned or mirrored, scaled and shifted."""
    rng = np.random.default_rng(seed)
    turn = torch.as_tensor(ortho_group.rvs(points.shape[1], random_state=rng))
    return factor * points @ turn + torch.as_tensor(rng.normal(0, 10, points.shape[1]))


def least_distortion(latent: torch.Tensor, tissue: torch.Tensor, weight: torch.Tensor) -> float:
    pairs = all_distances(latent), all_distances(tissue), weight
    return float(relative_distortion(*pairs, profile_scale(*pairs)))


PAIRS = N_CELLS * (N_CELLS - 1) // 2


# ------------------------------------------------------------------ similarities
@given(tissue=places(2), weight=weights(PAIRS), factor=SCALES, seed=SEEDS)
def test_a_similarity_has_no_distortion_and_its_factor_as_scale(
    tissue: torch.Tensor, weight: torch.Tensor, factor: float, seed: int
) -> None:
    pairs = all_distances(moved(tissue, factor, seed)), all_distances(tissue), weight
    for relative in (True, False):
        scale = profile_scale(*pairs, relative=relative)
        assert float(scale) == pytest.approx(factor, rel=1e-9)
        assert float(relative_distortion(*pairs, scale)) == pytest.approx(0, abs=1e-9)
        assert float(raw_distortion(*pairs, scale)) == pytest.approx(0, abs=1e-8 * factor)


@given(
    latent=places(3), tissue=places(2), weight=weights(PAIRS), factors=st.tuples(SCALES, SCALES), seed=SEEDS
)
def test_relative_distortion_ignores_rotation_translation_and_scale_of_either_space(
    latent: torch.Tensor, tissue: torch.Tensor, weight: torch.Tensor, factors: tuple[float, float], seed: int
) -> None:
    before = least_distortion(latent, tissue, weight)
    after = least_distortion(moved(latent, factors[0], seed), moved(tissue, factors[1], seed + 1), 3 * weight)
    assert after == pytest.approx(before, rel=1e-7, abs=1e-9)


@given(latent=places(3), tissue=places(2), weight=weights(PAIRS), factor=SCALES)
def test_raw_distortion_shrinks_with_the_latent(
    latent: torch.Tensor, tissue: torch.Tensor, weight: torch.Tensor, factor: float
) -> None:
    pairs = all_distances(latent), all_distances(tissue), weight
    whole = raw_distortion(*pairs, torch.tensor(0.7, dtype=torch.float64))
    shrunk = raw_distortion(
        factor * pairs[0], pairs[1], weight, torch.tensor(0.7 * factor, dtype=torch.float64)
    )
    assert float(shrunk) == pytest.approx(factor * float(whole), rel=1e-9)


def test_distortions_by_hand() -> None:
    latent, tissue, weight = (torch.tensor(row) for row in ([1.0, 4.0], [1.0, 1.0], [3.0, 1.0]))
    scale = torch.tensor(2.0)
    assert float(raw_distortion(latent, tissue, weight, scale)) == pytest.approx((3 * 1 + 1 * 2) / 4)
    assert float(relative_distortion(latent, tissue, weight, scale)) == pytest.approx((3 * 1 + 1 * 2) / 8)
    each = torch.tensor([1.0, 4.0])
    assert float(relative_distortion(latent, tissue, weight, each)) == 0


# ------------------------------------------------------------------ the profiled scale
@given(values=lengths(9), weight=weights(9))
def test_weighted_median_is_the_smallest_value_with_half_the_weight(
    values: torch.Tensor, weight: torch.Tensor
) -> None:
    found = float(weighted_median(values, weight))
    half = float(weight.sum()) / 2
    assert found == min(v for v in values.tolist() if float(weight[values <= v].sum()) >= half)
    costs = [float((weight * (values - v).abs()).sum()) for v in values]
    assert float((weight * (values - found).abs()).sum()) == min(costs)


def test_values_without_weight_take_no_part_in_the_median() -> None:
    values = torch.tensor([math.nan, 3.0, math.inf, 1.0, -math.inf, 2.0])
    weights = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    assert float(weighted_median(values, weights)) == 2


@pytest.mark.parametrize(("relative", "cost"), [(True, relative_distortion), (False, raw_distortion)])
@given(latent=lengths(9), tissue=lengths(9), weight=weights(9))
def test_the_profiled_scale_is_the_minimiser(
    relative: bool, cost: Callable, latent: torch.Tensor, tissue: torch.Tensor, weight: torch.Tensor
) -> None:
    """The distortion is piecewise monotone in 1/λ or λ: its minimum is at a ratio of a pair."""
    scale = profile_scale(latent, tissue, weight, relative=relative)
    assume(0 < float(scale) < float("inf"))
    least = float(cost(latent, tissue, weight, scale))
    ratios = (latent / tissue)[(latent > 0) & (tissue > 0)]
    grid = torch.logspace(-3, 3, 61, dtype=torch.float64) * scale
    others = [float(cost(latent, tissue, weight, other)) for other in [*ratios, *grid]]
    assert least <= min(others) + 1e-12 * (1 + least)


@pytest.mark.parametrize("relative", [True, False])
def test_the_two_scales_differ_where_the_distortions_do(relative: bool) -> None:
    latent, tissue = torch.tensor([1.0, 2.0, 9.0]), torch.ones(3)
    assert float(profile_scale(latent, tissue, torch.ones(3), relative=relative)) == (9 if relative else 2)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("zero", ["latent", "tissue", "weight"])
def test_without_any_length_there_is_no_scale(zero: str, relative: bool) -> None:
    pairs = {"latent": torch.ones(4), "tissue": torch.ones(4), "weight": torch.ones(4)}
    pairs[zero] = torch.zeros(4)
    scale = float(profile_scale(**pairs, relative=relative))
    assert not 0 < scale < float("inf")


# ------------------------------------------------------------------ distances
@given(points=places(3))
def test_all_distances_are_those_of_the_upper_triangle(points: torch.Tensor) -> None:
    source, target = torch.triu_indices(N_CELLS, N_CELLS, 1)
    torch.testing.assert_close(all_distances(points), euclidean(points, source, target))


def test_devices_without_pdist_get_the_same_pairs() -> None:
    assert all_distances(torch.empty(5, 3, device="meta")).shape == (10,)


@pytest.mark.parametrize("n_cells", [0, 1])
def test_fewer_than_two_cells_have_no_distances(n_cells: int) -> None:
    assert all_distances(torch.zeros(n_cells, 3)).shape == (0,)


@pytest.fixture
def points() -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(0).normal(size=(5, 3))).requires_grad_()


def test_gradients_of_distances_agree_with_finite_differences(points: torch.Tensor) -> None:
    source, target = torch.triu_indices(5, 5, 1)
    assert torch.autograd.gradcheck(all_distances, points)
    assert torch.autograd.gradcheck(lambda p: euclidean(p, source, target), points)


@pytest.mark.parametrize("cost", [raw_distortion, relative_distortion])
def test_gradients_of_distortions_agree_with_finite_differences(points: torch.Tensor, cost: Callable) -> None:
    rng = np.random.default_rng(1)
    tissue, weight = (torch.as_tensor(rng.uniform(0.5, 2, 10)) for _ in range(2))
    scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, s: cost(all_distances(p), tissue, weight, s), (points, scale))


def test_gradients_are_finite_where_cells_coincide() -> None:
    points = torch.zeros(4, 2, requires_grad=True)
    source, target = torch.triu_indices(4, 4, 1)
    for distances in (all_distances(points), euclidean(points, source, target)):
        (gradient,) = torch.autograd.grad(distances.sum(), points)
        assert torch.isfinite(gradient).all()
        assert (distances < 1e-5).all()


@given(seed=SEEDS)
def test_wasserstein_points_give_the_closed_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loc, sd = rng.normal(size=(2, 3)), rng.uniform(0.1, 2, (2, 3))
    (found,) = all_distances(wasserstein_points(torch.as_tensor(loc), torch.as_tensor(sd)))
    first, second = (np.diag(row**2) for row in sd)
    root = sqrtm(first)
    cross = np.trace(first + second - 2 * sqrtm(root @ second @ root).real)
    assert float(found) == pytest.approx(np.sqrt(np.sum((loc[0] - loc[1]) ** 2) + cross), rel=1e-8)


def test_the_scale_of_a_representation_is_fitted_within_sections() -> None:
    rng = np.random.default_rng(0)
    coordinates, section = rng.normal(size=(60, 2)), np.repeat([0, 1], 30)
    latent = 0.25 * coordinates @ ortho_group.rvs(2, random_state=1)
    latent[section == 1] += 50.0  # distances between sections say nothing
    assert fitted_scale(latent, coordinates, section, rng) == pytest.approx(0.25)
    noisy = latent + 0.1 * rng.normal(size=latent.shape)
    pairs = [(i, j) for i in range(60) for j in range(i) if section[i] == section[j]]
    z, s = (
        torch.tensor([np.linalg.norm(rows[i] - rows[j]) for i, j in pairs]) for rows in (noisy, coordinates)
    )
    assert fitted_scale(noisy, coordinates, section, rng) == pytest.approx(
        float(profile_scale(z, s, torch.ones_like(z)))
    )


@pytest.mark.parametrize(("weight", "scale"), [(0.0, 1.0), (1.0, 0.0)], ids=["no weight", "collapsed"])
def test_nothing_to_compare_with_is_no_distortion_of_zero(weight: float, scale: float) -> None:
    latent = torch.zeros(3, requires_grad=True)
    found = relative_distortion(latent, torch.ones(3), torch.full((3,), weight), torch.tensor(scale))
    assert torch.isnan(found)
    torch.where(torch.isfinite(found), found, 0.0).backward()
    assert torch.equal(latent.grad, torch.zeros(3))
