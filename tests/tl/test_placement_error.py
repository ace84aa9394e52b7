from __future__ import annotations

import numpy as np
import pytest

from isovi.errors import InputError
from isovi.tl.placement_error import contact_f1, placement_error

TRUTH = np.random.default_rng(0).uniform(0, 10, (300, 2))


def test_the_truth_has_no_error() -> None:
    found = placement_error(TRUTH, TRUTH, radius=np.zeros(300))
    assert found["median_error"] == found["mean_error"] == 0
    assert found["spearman_distance"] == pytest.approx(1) and found["contact_f1"] == 1
    assert found["coverage"] == 1 and found["median_radius"] == 0


def test_a_shift_is_an_error_that_alignment_removes() -> None:
    found = placement_error(TRUTH + np.array([3, 4]), TRUTH, radius=np.full(300, 4.9), unit=2.0)
    assert found["median_error"] == pytest.approx(2.5) and found["coverage"] == 0
    assert found["median_radius"] == pytest.approx(2.45)
    assert found["aligned_median_error"] < 1e-9 and found["aligned_stress"] < 1e-12


def test_shuffled_cells_keep_no_contact_but_by_chance() -> None:
    shuffled = np.random.default_rng(1).permutation(TRUTH)
    assert contact_f1(shuffled, TRUTH) == pytest.approx(7 / 300, abs=0.02)
    assert abs(placement_error(shuffled, TRUTH)["spearman_distance"]) < 0.1


def test_different_cells_are_refused() -> None:
    with pytest.raises(InputError, match="placed has shape"):
        placement_error(TRUTH[:5], TRUTH)


def test_cells_without_a_true_position_are_left_out() -> None:
    rng = np.random.default_rng(2)
    placed, radius = TRUTH + rng.normal(size=TRUTH.shape), rng.uniform(1, 2, 300)
    truth = TRUTH.copy()
    truth[:40], truth[40, 1], truth[41, 0] = np.nan, np.nan, np.inf
    found = placement_error(placed, truth, radius=radius)
    assert found == placement_error(placed[42:], TRUTH[42:], radius=radius[42:])
    assert found["n_cells"] == 258
    with pytest.raises(InputError, match="2 of them with a true position"):
        placement_error(placed[38:44], truth[38:44])
