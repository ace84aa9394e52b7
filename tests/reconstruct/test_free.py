from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from isovi.errors import InputError
from isovi.geometry.align import aligned_stress, similarity
from isovi.reconstruct.free import Distance, configuration, latent_configuration


def noisy(positions: np.ndarray, noise: float) -> Distance:
    rng = np.random.default_rng(1)

    def distance(source: np.ndarray, target: np.ndarray) -> np.ndarray:
        true = np.linalg.norm(positions[source] - positions[target], axis=1)
        return true * np.abs(1 + noise * rng.normal(size=len(true)))

    return distance


@pytest.mark.parametrize("n_axes", [2, 3])
def test_exact_distances_give_the_tissue_back(n_axes: int) -> None:
    positions = np.random.default_rng(0).uniform(0, 50, (300, n_axes))
    found = configuration(noisy(positions, 0.0), 300, n_axes=n_axes)
    assert aligned_stress(found.positions, positions) < 1e-8
    assert similarity(found.positions, positions).scale == pytest.approx(1, abs=1e-3)
    assert found.stress < 1e-3


def test_noise_of_a_hundredth_moves_no_cell_by_a_fiftieth_of_the_width() -> None:
    positions = np.random.default_rng(0).uniform(0, 1, (3_000, 2)) * [100, 70]
    near = cKDTree(positions).query_pairs(3.0, output_type="ndarray").astype(np.int64).T
    found = configuration(noisy(positions, 0.01), 3_000, (near[0], near[1]))
    back = similarity(found.positions, positions, scaling=False).apply(found.positions)
    assert np.linalg.norm(back - positions, axis=1).max() < 0.02 * 100


def test_near_pairs_sharpen_what_is_near() -> None:
    positions = np.random.default_rng(0).uniform(0, 100, (1_000, 2))
    source, target = cKDTree(positions).query_pairs(6.0, output_type="ndarray").astype(np.int64).T

    def near_error(found: np.ndarray) -> float:
        lengths = [np.linalg.norm(points[source] - points[target], axis=1) for points in (found, positions)]
        return float(np.abs(lengths[0] / lengths[1] - 1).mean())

    without = configuration(noisy(positions, 0.05), 1_000)
    with_near = configuration(noisy(positions, 0.05), 1_000, (source, target))
    assert near_error(with_near.positions) < 0.7 * near_error(without.positions)


def test_a_latent_with_noise_in_other_dimensions_keeps_the_tissue() -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 50, (400, 2))
    latent = np.hstack([0.2 * positions, rng.normal(0, 0.5, (400, 8))])
    found = latent_configuration(latent, 0.2)
    assert aligned_stress(found.positions, positions) < 0.02
    assert similarity(found.positions, positions).scale == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_impossible_distances_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="negative or not finite"):
        configuration(lambda source, _: np.full(len(source), bad), 20)


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(InputError, match="2 cells to place in 2-D"):
        configuration(lambda source, _: np.ones(len(source)), 2)
