"""Tests over data sets: exact where all assignments of signs can be counted, and right under the null."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from isovi_bench import results
from isovi_bench.significance import CLAIMS, claimed, compare, holm, interval, sign_flip, tables


def enumerated(differences: np.ndarray) -> float:
    """Share of assignments of signs whose mean is at least as far on the side of the observed, doubled."""
    signs = np.array(list(product([-1, 1], repeat=len(differences))))
    means = (signs * differences).mean(axis=1)
    one_sided = min(
        (means >= differences.mean() - 1e-12).mean(), (means <= differences.mean() + 1e-12).mean()
    )
    return min(1.0, 2 * one_sided)


@settings(max_examples=25)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=8))
def test_p_is_that_of_all_assignments_of_signs(values):
    differences = np.array(values, dtype=np.float64)
    assert sign_flip(differences) == pytest.approx(enumerated(differences) if differences.any() else 1.0)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_differences_of_one_sign_have_the_least_p_there_is(n):
    assert sign_flip(-np.arange(1.0, n + 1)) == pytest.approx(2 / 2**n)


def test_one_data_set_tells_nothing():
    assert sign_flip(np.array([5.0])) == 1.0
    assert all(np.isnan(interval(np.array([5.0]))))


def test_under_the_null_p_is_not_too_often_small():
    """Of an exact test P(p <= α) <= α; 400 draws, bound from the binomial at 1e-4."""
    rng = np.random.default_rng(0)
    p = np.array([sign_flip(rng.normal(size=6)) for _ in range(400)])
    for level in (0.05, 0.1, 0.25, 0.5):
        assert (p <= level).sum() <= stats.binom.isf(1e-4, 400, level)
    assert 0.4 < p.mean() < 0.7  # nor is everything called insignificant


def test_many_data_sets_use_ranks():
    differences = np.random.default_rng(0).normal(0.5, 1, size=30)
    assert sign_flip(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_the_interval_is_students():
    differences = np.array([0.1, 0.3, 0.2, 0.6])
    half = stats.t.ppf(0.975, 3) * differences.std(ddof=1) / 2
    assert interval(differences) == pytest.approx((0.3 - half, 0.3 + half))
    assert interval(np.full(3, 0.2)) == (0.2, 0.2)


def test_holm_steps_down_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(values):
    p = np.array(values)
    adjusted = np.array(holm(values))
    assert (adjusted >= p).all() and (adjusted <= np.minimum(len(p) * p, 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.fixture(scope="module")
def found(make):
    names = ("vae", "isovae", "scvi", "isoscvi", "graphpca")
    return results.measured(make(methods=names, datasets=("a", "bb", "ccc", "dddd", "eeeee"), seeds=(0, 1)))


def test_a_known_gain_is_found_on_every_data_set(found):
    by_key = {(row.set, row.metric): row for row in compare(found, "isoscvi", "scvi")}
    gain = by_key["heldout", "spearman_distance"]
    assert (gain.datasets, gain.better, gain.worse) == (5, 5, 0)
    assert gain.low < 0.7 * 0.4 < gain.high and gain.p == pytest.approx(2 / 2**5)
    assert by_key["heldout", "coordinate_error"].change == pytest.approx(-0.7 * 0.25, abs=0.02)


def test_expression_is_compared_within_one_decoder_only(found):
    across = {row.metric for row in compare(found, "isoscvi", "vae")}
    within = {row.metric for row in compare(found, "isoscvi", "scvi")}
    assert within - across == {"reconstruction", "elbo", "mse_lognorm"}


def test_sets_that_one_of_the_two_lacks_are_not_compared(found):
    assert {row.set for row in compare(found, "graphpca", "isoscvi")} == {"train"}


def test_only_the_claims_are_tested_and_adjusted_together(found):
    data = claimed(found, [("isovae", "vae"), ("isoscvi", "scvi")])
    for _, rows in data.groupby("method"):
        assert set(zip(rows["set"], rows["metric"], strict=True)) == set(CLAIMS)
        assert rows["holm"].tolist() == pytest.approx(holm(rows["p"].tolist()))


def test_tables_name_each_comparison(found):
    short, *each = tables(found, "spots")
    assert short.name == "claims_spots" and list(short.shown) == ["spots", "metric", "isovae", "isoscvi"]
    assert [table.name for table in each] == ["significance_isovae_spots", "significance_isoscvi_spots"]
    assert each[0].shown["better on"].iloc[0] == "5 of 5"
    assert tables(found[found["label"] == "scvi"], "spots") == []
