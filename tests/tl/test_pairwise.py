from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isovi import IsoSCVI
from isovi.errors import InputError, IsoviWarning
from isovi.simulate import simulate
from isovi.tl.pairwise import _ruler, pairwise_distance


def isometric(n: int, noise: float, seed: int = 0) -> AnnData:
    """Two groups in a line, 60 micrometres apart, with latents at 0.02 per micrometre."""
    rng = np.random.default_rng(seed)
    positions = rng.normal(0, 4, (n, 2))
    group = np.where(np.arange(n) % 2, "left", "right")
    positions[group == "right", 0] += 60
    latent = 0.02 * np.hstack([positions, np.zeros((n, 1))]) + noise * rng.normal(size=(n, 3))
    obs = pd.DataFrame(
        {"group": group, "isovi_split": np.where(rng.uniform(size=n) < 0.5, "train", "heldout")}
    )
    obs.index = obs.index.astype(str)
    return AnnData(np.ones((n, 1), np.float32), obs=obs, obsm={"spatial": positions, "X_isovi": latent})


def test_an_isometry_tells_distances_in_the_unit_of_the_positions() -> None:
    found = pairwise_distance(isometric(400, 0.0), "group").set_index(["group", "other"])
    across = found.loc[("left", "right")]
    assert across["distance"] == pytest.approx(60, abs=1)
    assert across["low"] == pytest.approx(across["distance"], rel=1e-6)
    assert across["high"] == pytest.approx(across["distance"], rel=1e-6)
    assert found.loc[("left", "left"), "distance"] < 10


def test_positions_of_the_query_are_not_needed() -> None:
    query = isometric(60, 0.0, seed=1)
    del query.obsm["spatial"]
    found = pairwise_distance(query, "group", reference=isometric(400, 0.0))
    assert found.loc[found.group != found.other, "distance"].item() == pytest.approx(60, abs=2)


def covered(ruler: Any, adata: AnnData, one: np.ndarray, other: np.ndarray) -> float:
    """Share of pairs whose distance lies between the limits that their own latent distance gives."""
    true, estimate = (
        np.linalg.norm(adata.obsm[key][one] - adata.obsm[key][other], axis=1)
        for key in ("spatial", "X_isovi")
    )
    ratio = true / (estimate / ruler.scale)
    return float(((ratio >= ruler.low) & (ratio <= ruler.high)).mean())


def test_the_rate_holds_on_average_over_pairs_of_a_section_and_not_for_each_pair_of_groups() -> None:
    reference, new = isometric(4_000, 0.1), isometric(4_000, 0.1, seed=1)
    trained = (reference.obs["isovi_split"] == "train").to_numpy()
    ruler = _ruler(reference, "X_isovi", trained, "spatial", None, 0.9, 0)
    ends = np.random.default_rng(0).permutation(4_000).reshape(2, -1)
    n_calibration = (~trained).sum() // 2
    assert covered(ruler, new, *ends) == pytest.approx(
        0.9, abs=4 * np.sqrt(0.09 * (1 / 2_000 + 1 / n_calibration))
    )
    left, right = (np.flatnonzero(new.obs["group"] == name) for name in ("left", "right"))
    within, across = covered(ruler, new, left[:1_000], left[1_000:]), covered(ruler, new, left, right)
    assert within < 0.85 and across > 0.95


def test_without_cells_to_calibrate_with_it_is_refused() -> None:
    adata = isometric(50, 0.0)
    adata.obs["isovi_split"] = "train"
    with pytest.raises(InputError, match="not trained on"):
        pairwise_distance(adata, "group")


def test_missing_latents_are_refused() -> None:
    adata = isometric(50, 0.0)
    with pytest.raises(InputError, match='no key "X_other"'):
        pairwise_distance(adata, "group", use_rep="X_other")


def test_a_model_tells_which_cells_calibrate_whatever_the_column_says() -> None:
    adata = simulate("layers", n_obs=300, n_genes=30, seed=0)
    IsoSCVI.setup_anndata(adata)
    model = IsoSCVI(adata, n_latent=2)
    model.train(1, train_size=0.5, enable_progress_bar=False)
    adata.obsm["X_isovi"] = model.get_latent_representation()
    trained = np.isin(np.arange(300), model.train_indices)
    adata.obs["isovi_split"] = np.where(trained, "train", "validation")
    expected = pairwise_distance(adata, "domain")
    assert expected.attrs["basis"] == "split column"
    adata.obs["isovi_split"] = np.where(trained, "heldout", "train")  # of another fit
    found = pairwise_distance(adata, "domain", model=model)
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs["basis"] == "model"


def test_a_model_that_was_trained_on_all_cells_cannot_calibrate() -> None:
    adata = simulate("layers", n_obs=60, n_genes=30, seed=0)
    IsoSCVI.setup_anndata(adata)
    model = IsoSCVI(adata, n_latent=2)
    model.train(1, train_size=1.0, enable_progress_bar=False)
    adata.obsm["X_isovi"] = model.get_latent_representation()
    adata.obs["isovi_split"] = "heldout"
    with pytest.raises(InputError, match="According to the model"):
        pairwise_distance(adata, "domain", model=model)


def test_a_model_without_a_record_leaves_it_to_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = simulate("layers", n_obs=120, n_genes=30, seed=0)
    IsoSCVI.setup_anndata(adata)
    model = IsoSCVI(adata, n_latent=2)
    monkeypatch.setattr(model, "seen_cells_", None, raising=False)
    adata.obsm["X_isovi"] = adata.obsm["spatial"]
    adata.obs["isovi_split"] = np.where(np.arange(120) % 2, "train", "heldout")
    with pytest.warns(IsoviWarning, match='rest on obs."isovi_split"'):
        assert pairwise_distance(adata, "domain", model=model).attrs["basis"] == "split column"
