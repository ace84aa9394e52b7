from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from isovi.reconstruct import kernel
from isovi.reconstruct.kernel import KernelRegression


@pytest.fixture
def smooth() -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(0).uniform(-1, 1, (400, 2))
    return features, np.column_stack([np.sin(2 * features[:, 0]), features.prod(axis=1)])


def test_a_smooth_map_is_learned(smooth: tuple[np.ndarray, np.ndarray]) -> None:
    features, positions = smooth
    found = KernelRegression().fit(features[:300], positions[:300]).predict(features[300:])
    assert np.abs(found - positions[300:]).max() < 0.05


def test_without_signal_it_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    features, positions = rng.normal(size=(300, 3)), rng.normal(size=(300, 2))
    found = KernelRegression().fit(features, positions).predict(rng.normal(size=(100, 3)))
    assert np.abs(found - positions.mean(axis=0)).max() < 0.5


def test_units_and_shifts_of_positions_carry_over(smooth: tuple[np.ndarray, np.ndarray]) -> None:
    features, positions = smooth
    one, other = KernelRegression(), KernelRegression()
    first = one.fit(features[:200], positions[:200]).predict(features[200:])
    second = other.fit(features[:200], 1000 * positions[:200] + 7).predict(features[200:])
    np.testing.assert_allclose(second, 1000 * first + 7, rtol=1e-4, atol=1e-2)


def test_a_subset_comes_close_to_all_cells(
    smooth: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, positions = smooth
    whole = KernelRegression().fit(features[:300], positions[:300]).predict(features[300:])
    monkeypatch.setattr(kernel, "N_COMPONENTS", 100)
    part = KernelRegression().fit(features[:300], positions[:300]).predict(features[300:])
    assert np.abs(part - whole).max() < 0.02


def test_it_is_ridge_regression_whatever_the_chunks(
    smooth: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, positions = smooth
    monkeypatch.setattr(kernel, "N_COMPONENTS", 60)
    monkeypatch.setattr(kernel, "CHUNK", 33)
    found = KernelRegression().fit(features, positions)
    standard = (positions - positions.mean(axis=0)) / positions.std()
    basis, noise = KernelRegression()._basis(features, standard)
    expected = make_pipeline(basis, Ridge(noise, fit_intercept=False)).fit(features, standard)
    np.testing.assert_allclose(
        found.predict(features),
        expected.predict(features) * positions.std() + positions.mean(axis=0),
        atol=1e-8,
    )
