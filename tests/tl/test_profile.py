"""Distortion profiles of latents in an AnnData."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from isovi import IsoSCVI, Neighbors, SameDomain, tl
from isovi.errors import InputError
from isovi.simulate import simulate
from isovi.spots import spacing


def tissue(n: int = 300, n_sections: int = 2, seed: int = 0) -> anndata.AnnData:
    """Sections in different units on top of each other; the latent is a similarity of each."""
    rng = np.random.default_rng(seed)
    section = np.arange(n) % n_sections
    grid = np.stack(np.meshgrid(np.arange(13.0), np.arange(13.0)), axis=-1).reshape(-1, 2)
    places = np.concatenate([rng.permutation(grid)[: (section == code).sum()] for code in range(n_sections)])
    coordinates = np.empty((n, 2))
    coordinates[np.argsort(section, kind="stable")] = places
    obs = pd.DataFrame({"slide": section.astype(str)}, index=[f"spot{i}" for i in range(n)])
    turned = 2.0 * coordinates @ np.linalg.qr(rng.normal(size=(4, 2)))[0].T
    adata = anndata.AnnData(obs=obs)
    adata.obsm["spatial"] = coordinates * np.where(section == 0, 55.0, 7.0)[:, None]
    adata.obsm["X_isovi"] = turned + 100.0 * section[:, None]
    return adata


def test_a_similarity_within_each_section_has_constant_one() -> None:
    adata = tissue()
    profile = tl.distortion_profile(adata, section_key="slide")
    assert pytest.approx(1.0, abs=1e-5) == profile.for_epsilon(0.0).L
    assert profile.for_epsilon(0.0).scale == pytest.approx(2.0, rel=1e-5)
    for part in profile.bins:
        assert pytest.approx(1.0, abs=1e-5) == part.profile.for_epsilon(0.0).L
    assert tl.distortion_profile(adata).for_epsilon(0.1).L > 2  # sections taken for one


def test_ranges_show_where_geometry_is_lost() -> None:
    """Noise blurs neighbours and leaves far pairs nearly as they were."""
    adata = tissue(n_sections=1, n=160)
    adata.obsm["X_isovi"] = adata.obsm["X_isovi"] + np.random.default_rng(0).normal(size=(160, 4))
    short, middle, far = tl.distortion_profile(adata).bins
    assert (
        short.profile.for_epsilon(0.1).L > middle.profile.for_epsilon(0.1).L > far.profile.for_epsilon(0.1).L
    )
    assert short.low == 0
    assert far.high == pytest.approx(np.hypot(12, 12), rel=0.2)


def test_only_the_chosen_cells_take_part() -> None:
    adata = tissue(n_sections=1, n=160)
    torn = np.arange(160) < 40
    adata.obsm["X_isovi"][torn] = np.random.default_rng(0).normal(size=(40, 4))
    assert pytest.approx(1.0, abs=1e-5) == tl.distortion_profile(adata, cells=~torn).for_epsilon(0.0).L
    assert tl.distortion_profile(adata, cells=np.flatnonzero(torn)).for_epsilon(0.1).L > 2
    assert tl.distortion_profile(adata, cells=~torn).n_pairs == 120 * 119 // 2


def test_pair_weights_count() -> None:
    adata = tissue(n_sections=1, n=160)
    adata.obs["half"] = np.where(adata.obsm["spatial"][:, 0] < 6 * 55, "left", "right")
    adata.obsm["X_isovi"][adata.obs["half"] == "right"] += 500.0
    assert tl.distortion_profile(adata).for_epsilon(0.0).L > 10
    within = tl.distortion_profile(adata, pairs=SameDomain("half"))
    assert pytest.approx(1.0, abs=1e-5) == within.for_epsilon(0.0).L
    near = tl.distortion_profile(adata, pairs=Neighbors(4))
    assert near.n_pairs < 160 * 8
    assert sum(part.profile.n_pairs for part in near.bins) == near.n_pairs


def test_what_is_written_can_be_stored(tmp_path) -> None:
    adata = tissue()
    profile = tl.distortion_profile(adata, section_key="slide", cells=np.arange(100))
    adata.write_h5ad(tmp_path / "a.h5ad")
    stored = anndata.read_h5ad(tmp_path / "a.h5ad").uns["isovi_profile"]
    assert stored["L"] == pytest.approx([point.L for point in profile.curve()])
    assert stored["bins"]["L"].shape == (3, len(stored["epsilon"]))
    assert stored["params"] == {
        "use_rep": "X_isovi",
        "spatial_key": "spatial",
        "section_key": "slide",
        "seed": 0,
    }


def test_posterior_samples_have_the_spread_of_the_posterior() -> None:
    """Over samples of two diagonal Gaussians E d_Z² is the squared distance of means plus all variances."""
    adata = simulate("layers", n_obs=120, n_genes=40, seed=0)
    IsoSCVI.setup_anndata(adata)
    model = IsoSCVI(adata, n_latent=3)
    model.train(3, enable_progress_bar=False)
    mean, variance = model.get_latent_representation(return_dist=True)
    apart = np.linalg.norm(adata.obsm["spatial"][:, None] - adata.obsm["spatial"], axis=-1)
    expected = np.square(mean[:, None] - mean).sum(-1) + (variance[:, None] + variance).sum(-1)
    source, target = np.triu_indices(120, 1)
    wanted = (expected[source, target] / (apart[source, target] / spacing(adata.obsm["spatial"])) ** 2).mean()
    sampled, again = (tl.distortion_profile(adata, model=model, use_rep="none") for _ in range(2))
    assert np.exp(2 * sampled.log_ratio).mean() == pytest.approx(wanted, rel=0.15)
    assert (sampled.log_ratio == again.log_ratio).all()


def test_many_cells_need_no_square_array() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 300, (90_000, 2))
    adata = anndata.AnnData(obsm={"spatial": places, "X_isovi": places + rng.normal(size=places.shape)})
    short, *_, far = tl.distortion_profile(adata, n_pairs=20_000).bins
    assert short.profile.n_pairs > 5_000
    assert short.profile.for_epsilon(0.1).L > far.profile.for_epsilon(0.1).L


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"use_rep": "X_pca"}, 'obsm has no key "X_pca"'),
        ({"cells": np.zeros(300, dtype=bool)}, "selects none of 300 spots"),
        ({"cells": np.array([0, 0])}, "different row numbers"),
        ({"cells": np.array([0, 300])}, "for 300 spots"),
        ({"cells": np.array([0.5])}, "an array of float64"),
        ({"cells": np.array([3]), "section_key": "slide"}, "None of the 0 pairs"),
    ],
)
def test_bad_input_is_refused(keywords: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        tl.distortion_profile(tissue(), **keywords)
