from __future__ import annotations

import numpy as np
import pytest

from isovi.errors import InputError
from isovi_bench.studies import neighbors


def torn(coordinates: np.ndarray, variant: str) -> np.ndarray:
    """An isometry, or the same with every other spot moved by less than the distance of neighbours."""
    if variant == "isoscvi":
        return coordinates
    return coordinates + 0.3 * np.random.default_rng(0).normal(size=coordinates.shape)


def test_near_pairs_are_worse_than_all_pairs_where_noise_is_small(ran, tissue) -> None:
    options = ran(torn, datasets=[tissue], methods=["scvi", "isoscvi"], seeds=[0, 1])
    rows = neighbors.measure(options.out).set_index("variant")
    assert rows.loc["isoscvi", neighbors.NEAR] == pytest.approx(0, abs=1e-5)
    assert 0.1 < rows.loc["scvi", neighbors.NEAR] < 0.6
    assert rows.loc["scvi", "coordinate error"] == 1.5  # mean over seeds
    written = neighbors.report(neighbors.measure(options.out))
    assert (
        written.splitlines()[0] == "| dataset | variant | ELBO | coordinate error | distortion, 6 nearest |"
    )


def test_only_pairs_with_a_held_out_spot_count() -> None:
    coordinates = np.stack([np.arange(10.0), np.zeros(10)], axis=1)
    latent = coordinates.copy()
    latent[:4, 1] = [5, -3, 4, 9]  # far from each other, and from no held-out spot's neighbourhood
    split = np.array(["train"] * 9 + ["heldout"])
    section = np.array([0] * 4 + [1] * 6)
    assert neighbors.near_distortion(latent, coordinates, section, split) == pytest.approx(0, abs=1e-6)
    split[0] = "heldout"
    assert neighbors.near_distortion(latent, coordinates, section, split) > 0.1


def test_it_is_not_known_without_held_out_spots_or_their_latents() -> None:
    coordinates = np.random.default_rng(0).uniform(size=(20, 2))
    section, split = np.zeros(20, dtype=np.int64), np.array(["train"] * 20)
    assert np.isnan(neighbors.near_distortion(coordinates, coordinates, section, split))
    split[3] = "heldout"
    latent = np.where(split[:, None] == "heldout", np.nan, coordinates)
    assert np.isnan(neighbors.near_distortion(latent, coordinates, section, split))


def test_results_without_latents_are_refused(ran, tissue) -> None:
    options = ran(torn, keep=False, datasets=[tissue], methods=["scvi"])
    with pytest.raises(InputError, match="has no latents"):
        neighbors.measure(options.out)
