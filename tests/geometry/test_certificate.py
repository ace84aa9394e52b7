"""Certificates: wrong no more often than they say, not vacuous, and refused where they would not hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from isovi.errors import InputError
from isovi.geometry.certificate import PointCertificate, cells_needed, certify_curve, certify_point
from isovi.geometry.pairs import disjoint_pairs
from isovi.geometry.profile import ProfilePoint, distortion_profile, range_edges

REPETITIONS = 2000
DELTA = 0.05


def most_failures(n: int) -> float:
    """More failures than this happen to a certificate of the stated confidence once in a thousand runs."""
    return float(binom.ppf(0.999, n, DELTA))


def numbered(n_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n_pairs), np.arange(n_pairs) + n_pairs


def smooth_map(coordinates: np.ndarray) -> np.ndarray:
    """A gently bent sheet with a little noise: a smooth test map."""
    x, y = coordinates.T
    bent = np.stack([x + 0.3 * np.sin(y / 3), y, 0.3 * np.cos(x / 3)], axis=1)
    return bent + 0.2 * np.random.default_rng(0).normal(size=bent.shape)


def ratios(n: int, rng: np.random.Generator) -> np.ndarray:
    """Ratios d_Z / d_S of a known law, skewed as those of fitted latents are: two lognormals, four to one."""
    return np.where(rng.random(n) < 0.8, rng.lognormal(0, 0.4, n), rng.lognormal(0.8, 0.6, n))


def below(ratio: float) -> float:
    """True share of pairs whose ratio is below."""
    log = math.log(ratio) if ratio > 0 else -math.inf
    return float(0.8 * ndtr(log / 0.4) + 0.2 * ndtr((log - 0.8) / 0.6))


def outside(point: ProfilePoint | PointCertificate) -> float:
    """True share of pairs that break the bounds."""
    return below(point.scale) + 1 - below(point.scale * point.L)


def test_the_curve_is_wrong_no_more_often_than_it_says() -> None:
    """A failure is any ε at which the certified interval holds less than 1 - ε of all pairs."""
    n_pairs, failures = 150, 0
    for seed in range(REPETITIONS):
        drawn = ratios(n_pairs, np.random.default_rng(seed))
        found = certify_curve(drawn, np.ones(n_pairs), *numbered(n_pairs), delta=DELTA)
        points = found.curve((0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5))
        failures += any(outside(point) > point.epsilon for point in points)
    assert failures <= most_failures(REPETITIONS)


@pytest.mark.parametrize("middle", [None, 0.4])
@pytest.mark.parametrize(("n_pairs", "epsilon"), [(60, 0.1), (200, 0.05), (500, 0.2)])
def test_the_point_is_wrong_as_often_as_it_says_and_not_much_less(
    n_pairs: int, epsilon: float, middle: float | None
) -> None:
    failures = 0
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        drawn = ratios(n_pairs, rng)
        asked = {"rng": rng, "epsilon": epsilon, "delta": DELTA, "middle": middle}
        failures += outside(certify_point(drawn, np.ones(n_pairs), *numbered(n_pairs), **asked)) > epsilon
    assert failures <= most_failures(REPETITIONS)
    assert failures >= 0.2 * DELTA * REPETITIONS  # exact, up to the steps of the binomial: not slack


def test_with_a_thousand_pairs_the_certified_constant_is_near_the_true_one() -> None:
    coordinates = np.random.default_rng(1).uniform(0, 30, (2000, 2))
    everyone = np.random.default_rng(2).uniform(0, 30, (4000, 2))
    source, target = numbered(1000)
    true = distortion_profile(*distances(everyone, *numbered(2000))).for_epsilon(0.1).L
    rng = np.random.default_rng(3)
    found = certify_point(*distances(coordinates, source, target), source, target, rng=rng)
    assert true > 1.05
    assert true * 0.99 <= found.L <= 1.25 * true


def distances(
    coordinates: np.ndarray, source: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    latent = smooth_map(coordinates)
    return (
        np.linalg.norm(latent[source] - latent[target], axis=1),
        np.linalg.norm(coordinates[source] - coordinates[target], axis=1),
    )


def test_coverage_holds_for_cells_matched_by_range() -> None:
    """The whole way: positions, matching, noise in the latent; truth from fresh noise on the same pairs."""
    failures, repetitions = 0, 400
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        coordinates = rng.uniform(0, 12, (160, 2))
        pairs = disjoint_pairs(coordinates, np.zeros(160, dtype=int), range_edges(17.0), rng)
        tissue = np.linalg.norm(coordinates[pairs[0]] - coordinates[pairs[1]], axis=1)
        found = certify_point(noisy(coordinates, pairs, rng), tissue, *pairs, rng=rng, delta=DELTA)
        fresh = np.concatenate([noisy(coordinates, pairs, rng) / tissue for _ in range(50)])
        broken = (fresh < found.scale) | (fresh > found.L * found.scale)
        failures += broken.mean() > found.epsilon
    assert failures <= binom.ppf(0.999, repetitions, DELTA)


def noisy(
    coordinates: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    latent = coordinates + rng.normal(size=coordinates.shape)
    return np.linalg.norm(latent[pairs[0]] - latent[pairs[1]], axis=1)


def test_the_curve_moves_epsilon_by_two_eta() -> None:
    drawn = ratios(1000, np.random.default_rng(0))
    found = certify_curve(drawn, np.ones(1000), *numbered(1000))
    assert found.eta == pytest.approx(math.sqrt(math.log(40) / 2000))
    measured = found.profile.for_epsilon(0.1)
    assert pytest.approx(measured.L) == found.for_epsilon(0.1 + 2 * found.eta).L
    assert found.curve((0.1,))[0].epsilon == pytest.approx(0.1 + 2 * found.eta)
    assert math.inf == found.for_epsilon(1.9 * found.eta).L
    assert all(point.epsilon < 1 for point in found.curve())


def test_the_point_is_tighter_than_the_curve() -> None:
    rng = np.random.default_rng(0)
    pairs = (ratios(2000, rng), np.ones(2000), *numbered(2000))
    point, curve = certify_point(*pairs, rng=rng), certify_curve(*pairs)
    assert curve.profile.for_epsilon(0.1).L < point.L < curve.for_epsilon(0.1).L


def test_coinciding_latents_certify_nothing() -> None:
    latent = np.where(np.arange(200) < 60, 0.0, 1.0)
    found = certify_point(latent, np.ones(200), *numbered(200), rng=np.random.default_rng(0))
    assert math.inf == found.L


def test_pairs_that_coincide_in_both_spaces_count_as_kept() -> None:
    ends = np.where(np.arange(200) < 60, 0.0, 1.0)
    found = certify_point(ends, ends, *numbered(200), rng=np.random.default_rng(0))
    assert pytest.approx(1.0) == found.L


def test_pairs_that_share_a_cell_are_refused() -> None:
    source, target = np.array([0, 1, 2]), np.array([3, 4, 0])
    for certify in (certify_curve, lambda *a: certify_point(*a, rng=np.random.default_rng(0))):
        with pytest.raises(InputError, match="3 pairs share 1 cells"):
            certify(np.ones(3), np.ones(3), source, target)


def test_cells_that_were_trained_on_are_refused() -> None:
    source, target = numbered(3)
    trained = np.array([False, False, False, True, True, False])
    with pytest.raises(InputError, match="2 of the 6 cells in pairs are training cells"):
        certify_curve(np.ones(3), np.ones(3), source, target, trained=trained)
    with pytest.raises(InputError, match="are training cells"):
        certify_point(np.ones(3), np.ones(3), source, target, rng=np.random.default_rng(0), trained=trained)


def test_too_few_cells_are_refused_with_the_number_it_takes() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"114 held-out cells in pairs are needed.* ε of at least 0\.26"):
        certify_point(np.ones(20), np.ones(20), *numbered(20), rng=rng)


@pytest.mark.parametrize("epsilon", [0.03, 0.1, 0.26, 0.5, 0.9])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.3])
def test_as_many_cells_as_it_takes_are_enough_and_fewer_are_not(epsilon: float, delta: float) -> None:
    for middle in (None, 0.0):
        n_pairs = cells_needed(epsilon, delta, halves=middle is None) // 2
        asked = {"rng": np.random.default_rng(0), "epsilon": epsilon, "delta": delta, "middle": middle}
        certify_point(np.ones(n_pairs), np.ones(n_pairs), *numbered(n_pairs), **asked)
        fewer = n_pairs - 1
        with pytest.raises(InputError, match="are needed"):
            certify_point(np.ones(fewer), np.ones(fewer), *numbered(fewer), **asked)


def test_a_curve_of_the_wished_width_takes_as_many_cells() -> None:
    n_pairs = cells_needed(0.1, curve=True) // 2
    widths = [2 * certify_curve(np.ones(n), np.ones(n), *numbered(n)).eta for n in (n_pairs - 1, n_pairs)]
    assert widths[1] <= 0.1 < widths[0]


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1])
def test_delta_is_a_chance(delta: float) -> None:
    with pytest.raises(InputError, match="delta"):
        certify_curve(np.ones(2), np.ones(2), *numbered(2), delta=delta)
