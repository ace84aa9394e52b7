from __future__ import annotations

import numpy as np
import pytest

from isovi.reconstruct.anchored import Anchors, among_neighbors, neighbor_distance, trilaterate


@pytest.fixture
def tissue() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 20, (500, 2))


def isometric(positions: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Latents in five dimensions whose distances are the scale times those of the positions."""
    frame = np.linalg.qr(rng.normal(size=(5, 5)))[0][: positions.shape[1]]
    return scale * positions @ frame + rng.normal(size=5)


def test_the_scale_of_an_isometry_is_found(tissue: np.ndarray) -> None:
    latent = isometric(tissue, 0.3, np.random.default_rng(1))
    assert Anchors.fit(latent, tissue).scale == pytest.approx(0.3)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_trilateration_inverts_an_isometry(n_axes: int) -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 20, (300, n_axes))
    latent = isometric(positions, 0.3, rng)
    anchors = Anchors.fit(latent[:250], positions[:250])
    start = positions[250:] + rng.normal(0, 2, (50, n_axes))
    assert np.abs(trilaterate(anchors, latent[250:], start) - positions[250:]).max() < 0.01


def test_trilateration_bears_some_wrong_anchors(tissue: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    latent = isometric(tissue, 0.3, rng)
    wrong = latent[:400].copy()
    wrong[rng.permutation(400)[:60]] += rng.normal(0, 6, (60, 5))
    anchors = Anchors(wrong, tissue[:400], 0.3)
    start = among_neighbors(anchors, latent[400:]).positions
    found = trilaterate(anchors, latent[400:], start)
    assert np.median(np.linalg.norm(found - tissue[400:], axis=1)) < 0.05


def test_neighbors_of_an_isometry_are_those_of_the_tissue(tissue: np.ndarray) -> None:
    latent = isometric(tissue, 0.3, np.random.default_rng(1))
    found = among_neighbors(Anchors(latent, tissue, 0.3), latent[:50], k=1)
    np.testing.assert_allclose(found.positions, tissue[:50])
    np.testing.assert_array_equal(found.spread, 0)


def test_a_trusted_guess_rules_and_a_distrusted_one_does_not(tissue: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    anchors, noise = Anchors(rng.normal(size=(500, 5)), tissue, 1.0), rng.normal(size=(40, 5))
    guess = rng.uniform(5, 15, (40, 2))
    ruled = among_neighbors(anchors, noise, guess, trust=1e6).positions
    assert np.linalg.norm(ruled - guess, axis=1).max() < 2
    ignored = among_neighbors(anchors, noise, guess, trust=1e-12).positions
    np.testing.assert_allclose(ignored, among_neighbors(anchors, noise).positions)


def test_few_anchors_are_all_used() -> None:
    anchors = Anchors(np.zeros((3, 2)), np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]), 1.0)
    np.testing.assert_allclose(among_neighbors(anchors, np.ones((1, 2)), k=10).positions, [[1, 1]])


def test_neighbor_distance_is_a_mean() -> None:
    known = np.array([[0.0], [1.0], [10.0]])
    np.testing.assert_allclose(neighbor_distance(known, np.array([[0.0]]), k=2), [0.5])
