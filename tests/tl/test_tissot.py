"""Tissot ellipses in AnnData: the right units, sections and spots; only the documented keys."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from isovi.errors import InputError, IsoviWarning
from isovi.spots import spacing as spacing_of
from isovi.tl.tissot import QUANTILES, tissot


def stretched(n_axes: int = 2, unit: float = 55.0, n_sections: int = 1, seed: int = 0) -> anndata.AnnData:
    """Jittered grids in which each latent length is 3 spacings along the first axis, 1 along the others."""
    rng = np.random.default_rng(seed)
    side = {2: 8, 3: 5}[n_axes]
    grid = np.stack(np.meshgrid(*[np.arange(float(side))] * n_axes), axis=-1).reshape(-1, n_axes)
    grid = np.concatenate([grid + rng.uniform(-0.1, 0.1, grid.shape) for _ in range(n_sections)])
    slide = np.repeat([f"slide/{i}" for i in range(n_sections)], side**n_axes)
    adata = anndata.AnnData(obs=pd.DataFrame({"slide": slide}, index=[f"spot{i}" for i in range(len(grid))]))
    adata.obsm["spatial"] = unit * grid + 1e4
    adata.obsm["X_isovi"] = grid * ([3.0] + [1.0] * (n_axes - 1))
    return adata


@pytest.mark.parametrize("n_axes", [2, 3])
def test_writes_only_the_documented_keys(n_axes):
    adata, before = stretched(n_axes), stretched(n_axes)
    found = tissot(adata, key_added="map")
    angle = {"map_angle"} if n_axes == 2 else set()
    assert set(adata.obs) == {"slide", "map_anisotropy", "map_area"} | angle
    assert set(adata.obsm) == {"spatial", "X_isovi", "map_jacobian"}
    assert set(adata.uns) == {"map"}
    assert adata.uns["map"]["params"] == {"use_rep": "X_isovi", "spatial_key": "spatial", "n_neighbors": 12}
    assert adata.uns["map"]["n_ellipses"] == adata.n_obs
    for key in before.obsm:
        np.testing.assert_array_equal(adata.obsm[key], before.obsm[key])
    maps = adata.obsm["map_jacobian"].reshape(found.jacobian.shape)
    np.testing.assert_array_equal(maps, found.jacobian.astype(np.float32))


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 55.0])
def test_lengths_are_per_spacing(n_axes, unit):
    adata = stretched(n_axes, unit)
    tissot(adata)
    spacing = spacing_of(adata.obsm["spatial"]) / unit
    np.testing.assert_allclose(adata.obs["isovi_tissot_anisotropy"], 3.0, rtol=1e-4)
    np.testing.assert_allclose(adata.obs["isovi_tissot_area"], 3.0 * spacing**n_axes, rtol=1e-4)


def test_angle_is_along_the_stretch():
    adata = stretched()
    tissot(adata)
    np.testing.assert_allclose(np.sin(adata.obs["isovi_tissot_angle"]), 0.0, atol=1e-4)


def test_quantiles_are_those_of_the_columns():
    adata = stretched()
    adata.obsm["X_isovi"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    tissot(adata)
    kept = adata.uns["isovi_tissot"]
    np.testing.assert_array_equal(kept["quantiles"], QUANTILES)
    for name in ("anisotropy", "area"):
        column = np.sort(adata.obs[f"isovi_tissot_{name}"].to_numpy())
        assert set(kept[name]) <= set(column)
        share = np.searchsorted(column, kept[name], side="right") / adata.n_obs
        assert (np.abs(share - QUANTILES) <= 1 / adata.n_obs).all()


def test_sections_have_their_own_unit_and_neighbours():
    adata = stretched(n_sections=2)
    second = (adata.obs["slide"] == "slide/1").to_numpy()
    adata.obsm["spatial"][second] *= 10  # another magnification
    both, alone = adata.copy(), adata[second].copy()
    tissot(both, section_key="slide")
    tissot(alone)
    for name in ("anisotropy", "area"):
        column = f"isovi_tissot_{name}"
        np.testing.assert_allclose(both.obs[column][second], alone.obs[column], rtol=1e-4)
    np.testing.assert_allclose(both.obs["isovi_tissot_anisotropy"], 3.0, rtol=1e-4)
    assert both.uns["isovi_tissot"]["params"]["section_key"] == "slide"


@pytest.mark.parametrize("as_mask", [True, False])
def test_chosen_spots_see_only_each_other(as_mask):
    adata, rng = stretched(), np.random.default_rng(0)
    latent = adata.obsm["X_isovi"].copy()
    heldout = rng.uniform(size=adata.n_obs) < 0.5
    adata.obsm["X_isovi"][~heldout] = rng.normal(size=(int((~heldout).sum()), 2)) * 50
    rows = rng.permutation(np.flatnonzero(heldout))
    found = tissot(adata, cells=heldout if as_mask else rows)
    column = adata.obs["isovi_tissot_anisotropy"].to_numpy()
    np.testing.assert_array_equal(np.isnan(column), ~heldout)
    np.testing.assert_array_equal(np.isnan(adata.obsm["isovi_tissot_jacobian"]).any(axis=1), ~heldout)
    assert len(found) == heldout.sum()
    adata.obsm["X_isovi"] = latent
    tissot(adata, key_added="all")  # the same unit: a linear map is the same among few spots and among all
    np.testing.assert_allclose(
        adata.obs["all_area"][heldout], adata.obs["isovi_tissot_area"][heldout], rtol=1e-4
    )


def test_spots_without_an_ellipse_are_reported():
    adata = stretched()
    adata.obs["slide"] = ["tiny"] * 2 + ["large"] * (adata.n_obs - 2)
    with pytest.warns(IsoviWarning, match="2 of 64 spots have no ellipse"):
        tissot(adata, section_key="slide")
    assert adata.obs["isovi_tissot_anisotropy"].isna().sum() == 2
    assert adata.uns["isovi_tissot"]["n_ellipses"] == 62


def test_latent_without_any_shape():
    adata = stretched()
    adata.obsm["X_isovi"] = np.ones((adata.n_obs, 3))
    tissot(adata)
    assert np.isnan(adata.uns["isovi_tissot"]["anisotropy"]).all()
    assert (adata.uns["isovi_tissot"]["area"] == 0).all()
    adata.obsm["X_isovi"] = adata.obsm["spatial"][:, :1]
    tissot(adata)
    assert np.isinf(adata.uns["isovi_tissot"]["anisotropy"]).all()


def test_can_be_written_and_read(tmp_path):
    adata = stretched(n_sections=2)
    tissot(adata, section_key="slide")
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(read.obs.drop(columns="slide"), adata.obs.drop(columns="slide"))
    np.testing.assert_array_equal(read.uns["isovi_tissot"]["area"], adata.uns["isovi_tissot"]["area"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_rep": "no"}, '"no"'),
        ({"spatial_key": "no"}, '"no"'),
        ({"section_key": "no"}, '"no"'),
        ({"cells": [True]}, "cells"),
        ({"n_neighbors": 2}, "n_neighbors=2"),
    ],
)
def test_refuses(arguments, message):
    adata = stretched()
    with pytest.raises(InputError, match=message):
        tissot(adata, **arguments)
    assert set(adata.obs) == {"slide"}
    assert not adata.uns
