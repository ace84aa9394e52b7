from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isovi.errors import InputError
from isovi.geometry.align import aligned_stress, similarity


def orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


@given(seed=st.integers(0, 2**32 - 1), n_axes=st.sampled_from([2, 3]), scale=st.floats(0.01, 100))
def test_a_similarity_is_undone(seed: int, n_axes: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(20, n_axes))
    source = scale * target @ orthogonal(n_axes, rng) + rng.normal(size=n_axes)
    found = similarity(source, target)
    np.testing.assert_allclose(found.apply(source), target, atol=1e-8)
    assert found.scale == pytest.approx(1 / scale)
    assert aligned_stress(source, target) < 1e-12


def test_no_other_rotation_or_scale_is_closer() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 30, 2))
    best = np.square(similarity(source, target).apply(source) - target).sum()
    centred = source - source.mean(axis=0)
    for _ in range(200):
        other = rng.uniform(0, 1) * centred @ orthogonal(2, rng) + target.mean(axis=0)
        assert np.square(other - target).sum() >= best


def test_a_mirror_image_needs_a_reflection() -> None:
    target = np.random.default_rng(0).normal(size=(10, 2))
    mirrored = target * [1, -1]
    assert np.linalg.det(similarity(mirrored, target).rotation) == pytest.approx(-1)
    rigid = similarity(mirrored, target, reflection=False)
    assert np.linalg.det(rigid.rotation) == pytest.approx(1)
    assert np.abs(rigid.apply(mirrored) - target).max() > 0.1


def test_without_scaling_lengths_stay() -> None:
    points = np.random.default_rng(0).normal(size=(10, 2))
    assert similarity(points, 3 * points, scaling=False).scale == 1.0


def test_unrelated_points_keep_all_their_stress() -> None:
    source, target = np.random.default_rng(0).normal(size=(2, 5000, 2))
    assert aligned_stress(source, target) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("source", "target"),
    [(np.zeros((3, 2)), np.ones((4, 2))), (np.zeros((3, 2)), np.ones((3, 2))), (np.zeros(3), np.zeros(3))],
)
def test_points_that_cannot_be_aligned_are_refused(source: np.ndarray, target: np.ndarray) -> None:
    with pytest.raises(InputError, match="points to align"):
        similarity(source, target)
