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
