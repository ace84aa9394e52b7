"""Distortion spot by spot."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from isovi import tl
from isovi.geometry.distortion_map import spot_distortion


def grid(n: int = 16) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(float(n)), np.arange(float(n))), axis=-1).reshape(-1, 2)


def as_adata(places: np.ndarray, latent: np.ndarray) -> anndata.AnnData:
    obs = pd.DataFrame(index=[f"spot{i}" for i in range(len(places))])
    return anndata.AnnData(obs=obs, obsm={"spatial": places, "X_isovi": latent})


def test_a_similarity_has_none() -> None:
    found = tl.distortion_map(as_adata(grid() * 40, grid() * 3))
    assert np.abs(found.distortion).max() < 1e-5
    assert found.scale == pytest.approx(3.0)


def test_a_spot_torn_out_and_a_folded_corner_are_found() -> None:
    places, latent = grid(), grid()
    latent[0] = [-60.0, -60.0]
    right = places[:, 0] > 11
    latent[right, 0] = 22 - latent[right, 0]  # folded back over its neighbours
    adata = as_adata(places, latent)
    found = tl.distortion_map(adata)
    assert found.distortion.argmax() == 0
    assert found.stretch[0] > 1
    assert found.stretch[right].mean() < found.stretch[~right].mean()
    assert adata.obs["isovi_distortion"].to_numpy() == pytest.approx(found.distortion)
    assert adata.uns["isovi_distortion"]["scale"] == found.scale


def test_with_all_partners_the_map_averages_to_the_relative_distortion() -> None:
    rng = np.random.default_rng(0)
    places, latent = rng.uniform(0, 9, (60, 2)), rng.normal(size=(60, 3))
    found = spot_distortion(latent, places, np.zeros(60, dtype=int), rng=rng, n_partners=60)
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    off = np.linalg.norm(latent[:, None] - latent, axis=-1) - found.scale * apart
    expected = found.scale * apart.sum(axis=1)
    assert found.distortion == pytest.approx(np.abs(off).sum(axis=1) / expected)
    assert found.stretch == pytest.approx(off.sum(axis=1) / expected)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    places, latent, section = rng.uniform(0, 9, (90, 2)), rng.normal(size=(90, 3)), np.arange(90) % 2
    whole = spot_distortion(latent, places, section, rng=np.random.default_rng(1))
    monkeypatch.setattr("isovi.geometry.distortion_map._CHUNK", 7)
    pieces = spot_distortion(latent, places, section, rng=np.random.default_rng(1))
    assert pieces.distortion == pytest.approx(whole.distortion)


def test_spots_that_take_no_part_and_lonely_ones_get_no_number() -> None:
    adata = as_adata(grid(), grid())
    adata.obs["slide"] = ["alone", *["other"] * 255]
    tl.distortion_map(adata, section_key="slide", cells=np.arange(200))
    missing = adata.obs["isovi_distortion"].isna().to_numpy()
    assert missing[0]
    assert missing[200:].all()
    assert not missing[1:200].any()
