from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isovi.errors import InputError
from isovi.geometry.conformal import conformal_interval, conformal_quantile, novelty_limit


@given(n=st.integers(9, 200), seed=st.integers(0, 2**32 - 1))
def test_it_is_the_order_statistic_of_the_theorem(n: int, seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(n) + 1.0  # so that a score is its own rank
    assert conformal_quantile(scores, 0.9) == -(-9 * (n + 1) // 10)


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "exponential"])
@pytest.mark.parametrize("n", [9, 46])
def test_new_scores_are_covered_whatever_the_distribution(draw: str, n: int) -> None:
    rng = np.random.default_rng(0)
    scores = getattr(rng, draw)(size=(20_000, n + 1))
    covered = np.mean([row[-1] <= conformal_quantile(row[:-1], 0.9) for row in scores])
    exact = np.ceil((n + 1) * 0.9) / (n + 1)  # of continuous scores
    assert covered == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_an_interval_covers_at_least_its_share() -> None:
    rng = np.random.default_rng(0)
    inside = [
        low <= new <= high
        for *scores, new in rng.exponential(size=(5_000, 41))
        for low, high in [conformal_interval(scores, 0.9)]
    ]
    assert np.mean(inside) >= 0.9 - 4 * np.sqrt(0.09 / 5_000)


def test_too_few_scores_promise_nothing() -> None:
    assert conformal_quantile(np.ones(8), 0.9) == np.inf
    assert conformal_quantile([], 0.9) == np.inf
    assert conformal_interval(np.ones(8), 0.9) == (-np.inf, np.inf)
    assert novelty_limit([]) == np.inf


def test_the_novelty_limit_is_the_largest_of_few_scores() -> None:
    assert novelty_limit(np.arange(50.0)) == 49
    assert novelty_limit(np.arange(1_000.0)) == 990


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0, float("nan")])
def test_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        conformal_quantile([1.0], coverage)


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="1 of 2 scores"):
        conformal_quantile([1.0, np.nan])
