"""Certificates from all matchings: right as often as they say, far tighter than one matching, and refused."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binom

from isovi.errors import InputError
from isovi.geometry.certificate import cells_needed, certify_point
from isovi.geometry.matchings import _log_score, _matchings, approximate_limit, certify_matchings, middle_of
from isovi.geometry.pairs import pair_distances

DELTA = 0.05
POPULATION = 400  # cells, from which those of a repetition are drawn with replacement


class Population:
    """Cells with noise of their own size, and the true share of their pairs outside any interval."""

    def __init__(self, per_cell: float) -> None:
        rng = np.random.default_rng(0)
        self.tissue = rng.uniform(0, 20, (POPULATION, 2))
        size = np.exp(per_cell * rng.normal(size=(POPULATION, 1)))
        self.latent = np.column_stack([self.tissue, np.zeros((POPULATION, 4))])
        self.latent = self.latent + 3 * size * rng.normal(size=self.latent.shape)
        pairs = np.triu_indices(POPULATION, 1)
        self.ratios = np.log(pair_distances(self.latent, *pairs) / pair_distances(self.tissue, *pairs))

    def outside(self, middle: float, half: float) -> float:
        """A pair of a cell with itself keeps its distance, 0."""
        broken = np.abs(self.ratios - middle) > half + 1e-9
        return float(broken.mean()) * (1 - 1 / POPULATION)

    def draw(self, n_cells: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rows = rng.integers(0, POPULATION, n_cells)
        return self.latent[rows], self.tissue[rows]

    def middle(self, rng: np.random.Generator, n_cells: int = 30) -> float:
        pairs = np.triu_indices(n_cells, 1)
        return middle_of(*(pair_distances(values, *pairs) for values in self.draw(n_cells, rng)))


@pytest.mark.parametrize("per_cell", [0.0, 1.0])
def test_it_is_wrong_no_more_often_than_it_says(per_cell: float) -> None:
    population, failures, repetitions = Population(per_cell), 0, 300
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        middle = population.middle(rng)
        drawn, section = population.draw(80, rng), np.zeros(80, dtype=int)
        found = certify_matchings(*drawn, section, middle=middle, rng=rng, epsilon=0.2, n_partitions=5)
        failures += population.outside(middle, math.log(found.L) / 2) > 0.2
    assert failures <= binom.ppf(0.999, repetitions, DELTA)


def test_the_limit_by_a_bootstrap_covers_about_as_often_as_it_says() -> None:
    population, covered, repetitions = Population(0.0), 0, 300
    source, target = np.triu_indices(60, 1)
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        middle = population.middle(rng)
        latent, tissue = (pair_distances(values, source, target) for values in population.draw(60, rng))
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.nan_to_num(np.abs(np.log(latent / tissue) - middle), nan=0.0)
        half = approximate_limit(away, source, target, np.ones(len(away)), rng=rng, epsilon=0.2)
        covered += population.outside(middle, half) <= 0.2
    assert binom.ppf(0.001, repetitions, 0.92) <= covered <= binom.ppf(0.999, repetitions, 0.97)


def test_the_score_is_the_mean_over_all_matchings() -> None:
    """Of six cells, against all orders of them; and of more cells, a product over groups."""
    rng = np.random.default_rng(0)
    source, target = np.triu_indices(6, 1)
    away, epsilon, kappa = rng.random(15), 0.3, 0.7
    outside = np.zeros((6, 6))
    outside[source, target] = outside[target, source] = away > 0.4
    score = np.where(outside, 1 - kappa, 1 + kappa * epsilon / (1 - epsilon))
    orders = np.array(list(permutations(range(6))))
    mean = score[orders[:, ::2], orders[:, 1::2]].prod(axis=1).mean()
    assert math.exp(_log_score([away.reshape(1, 1, 15)], 0.4, epsilon, kappa)) == pytest.approx(mean)
    twice = np.tile(away, (1, 2, 1))
    assert math.exp(_log_score([twice], 0.4, epsilon, kappa)) == pytest.approx(mean**2)


@pytest.mark.parametrize(("n_cells", "n_matchings"), [(2, 1), (4, 3), (6, 15)])
def test_every_cell_is_in_one_pair_of_a_matching(n_cells: int, n_matchings: int) -> None:
    joined = _matchings(n_cells * (n_cells - 1) // 2)
    source, target = np.triu_indices(n_cells, 1)
    assert joined.shape[1] == n_matchings == len(np.unique(joined, axis=1).T)
    for column in joined.T.astype(bool):
        assert sorted([*source[column], *target[column]]) == list(range(n_cells))


def test_it_is_tighter_than_one_matching() -> None:
    population, found = Population(0.0), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        latent, tissue = population.draw(120, rng)
        middle, pairs = population.middle(rng), (np.arange(60), np.arange(60, 120))
        one = (pair_distances(latent, *pairs), pair_distances(tissue, *pairs), *pairs)
        section = np.zeros(120, dtype=int)
        bounds = (
            certify_matchings(latent, tissue, section, middle=middle, rng=rng),
            certify_point(*one, rng=rng, middle=middle),
            certify_point(*one, rng=rng),
        )
        assert [bound.method for bound in bounds] == ["all matchings", "one matching", "halves"]
        found.append([math.log(bound.L) for bound in bounds])
    matchings, one_matching, halves = np.median(found, axis=0)
    assert matchings < 0.9 * one_matching < 0.9 * halves


def test_pairs_are_of_one_section_and_an_odd_cell_is_left_out() -> None:
    """Across sections the latent lies far apart; no pair of the certificate does."""
    rng = np.random.default_rng(0)
    tissue = rng.uniform(0, 10, (81, 2))
    section = np.repeat([0, 1], [40, 41])
    latent = 3 * tissue + 1000 * section[:, None]
    found = certify_matchings(latent, tissue, section, middle=math.log(3), rng=rng)
    assert found.n_pairs == 40
    assert pytest.approx(1.0) == found.L and found.scale == pytest.approx(3.0)


def test_coinciding_latents_certify_nothing_and_cells_at_one_place_are_kept() -> None:
    tissue = np.random.default_rng(0).uniform(0, 10, (80, 2))
    asked = {"section": np.zeros(80, dtype=int), "middle": 0.0, "rng": np.random.default_rng(0)}
    assert math.inf == certify_matchings(np.zeros((80, 2)), tissue, **asked).L
    tissue[:40] = 1.0  # in both spaces
    assert pytest.approx(1.0) == certify_matchings(tissue, tissue, **asked).L


@pytest.mark.parametrize(("epsilon", "delta"), [(0.03, 0.05), (0.1, 0.01), (0.1, 0.05), (0.5, 0.3)])
def test_as_many_cells_as_it_takes_are_enough_and_fewer_are_not(epsilon: float, delta: float) -> None:
    n_cells, rng = cells_needed(epsilon, delta), np.random.default_rng(0)
    tissue = rng.uniform(0, 10, (n_cells, 2))
    asked = {"middle": 0.0, "rng": rng, "epsilon": epsilon, "delta": delta, "n_partitions": 2}
    assert pytest.approx(1.0) == certify_matchings(tissue, tissue, np.zeros(n_cells, dtype=int), **asked).L
    with pytest.raises(InputError, match=f"{n_cells} held-out cells in pairs are needed"):
        certify_matchings(tissue[1:], tissue[1:], np.zeros(n_cells - 1, dtype=int), **asked)


def test_cells_that_were_trained_on_are_refused() -> None:
    trained = np.arange(80) < 3
    with pytest.raises(InputError, match="3 of the 80 cells are training cells"):
        certify_matchings(
            np.ones((80, 2)),
            np.ones((80, 2)),
            np.zeros(80, dtype=int),
            middle=0.0,
            rng=np.random.default_rng(0),
            trained=trained,
        )


def test_the_middle_is_that_of_the_intervals() -> None:
    ratios = np.exp(np.random.default_rng(0).normal(0.7, 0.3, 20_000))
    assert middle_of(ratios, np.ones(20_000)) == pytest.approx(0.7, abs=0.05)
    assert middle_of(np.zeros(4), np.ones(4)) == 0.0  # all coincide in the latent representation
