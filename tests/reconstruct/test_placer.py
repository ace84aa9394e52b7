from __future__ import annotations

import numpy as np
import pytest

from isovi.reconstruct.placer import Method, SectionPlacer

Data = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(n: int, rng: np.random.Generator) -> Data:
    """Latents and features that tell positions with noise of their own."""
    positions = rng.uniform(0, 20, (n, 2))
    latent = np.hstack([0.3 * positions, np.zeros((n, 2))]) + rng.normal(0, 0.3, (n, 4))
    features = np.column_stack([np.sin(positions / 10), np.cos(positions / 10)]) + rng.normal(0, 0.1, (n, 4))
    return latent, features, positions


@pytest.fixture
def data() -> Data:
    return draw(900, np.random.default_rng(0))


def placed(method: Method, data: Data) -> tuple[SectionPlacer, np.ndarray]:
    latent, features, positions = data
    calibration = np.arange(600) < 100
    placer = SectionPlacer(method).fit(latent[:600], features[:600], positions[:600], calibration)
    found = placer.place(latent[600:], features[600:]).positions
    return placer, np.linalg.norm(found - positions[600:], axis=1)


@pytest.mark.parametrize("method", ["joint", "latent", "expression", "trilateration"])
def test_every_method_finds_places(method: Method, data: Data) -> None:
    _, errors = placed(method, data)
    assert np.median(errors) < 2  # of 20


def test_joining_latent_and_expression_beats_either(data: Data) -> None:
    errors = {method: np.mean(placed(method, data)[1]) for method in ("joint", "latent", "expression")}
    assert errors["joint"] < min(errors["latent"], errors["expression"])


def test_useless_features_are_not_trusted(data: Data) -> None:
    latent, features, positions = data
    noise = np.random.default_rng(1).normal(size=features.shape)
    placer, errors = placed("joint", (latent, noise, positions))
    assert placer.trust_ < 0.05
    assert np.mean(errors) < 1.1 * np.mean(placed("latent", data)[1])


@pytest.mark.parametrize("method", ["joint", "latent"])
def test_regions_cover_at_their_rate(method: Method) -> None:
    covered = []
    for seed in range(12):
        latent, features, positions = draw(500, np.random.default_rng(seed))
        calibration = np.arange(300) < 100
        placer = SectionPlacer(method).fit(latent[:300], features[:300], positions[:300], calibration)
        found = placer.place(latent[300:], features[300:])
        covered.append(np.mean(np.linalg.norm(found.positions - positions[300:], axis=1) <= found.radius))
    sd = np.sqrt(0.09 * (1 / 200 + 1 / 100) / 12)  # of new cells, and of the quantile by 100 cells
    assert np.mean(covered) == pytest.approx(0.9, abs=4 * sd)


def test_strange_cells_are_flagged_and_others_are_not(data: Data) -> None:
    latent, features, _ = data
    placer, _ = placed("joint", data)
    assert placer.place(latent[600:], features[600:]).flagged.mean() < 0.05
    assert placer.place(latent[600:] + 30, features[600:]).flagged.all()
    assert placer.place(latent[600:], features[600:] + 30).flagged.all()


def test_without_calibration_nothing_is_promised(data: Data) -> None:
    latent, features, positions = data
    placer = SectionPlacer().fit(latent, features, positions, np.zeros(900, dtype=bool))
    found = placer.place(latent[:5], features[:5])
    assert np.isinf(found.radius).all() and not found.flagged.any()
