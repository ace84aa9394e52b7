"""Certificates of latents in an AnnData: on cells that were held out, and on no others."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from isovi import IsoSCVI, tl
from isovi.errors import InputError, IsoviWarning
from isovi.simulate import simulate
from isovi.spots import spacing


def run(n: int = 600, noise: float = 0.5) -> anndata.AnnData:
    """A noisy copy of the tissue as a latent; every other spot held out."""
    rng = np.random.default_rng(0)
    places = rng.uniform(0, n**0.5, (n, 2))
    split = np.where(np.arange(n) % 2, "heldout", np.where(np.arange(n) % 4, "train", "validation"))
    obs = pd.DataFrame({"isovi_split": pd.Categorical(split)}, index=[f"spot{i}" for i in range(n)])
    latent = places + noise * rng.normal(size=places.shape)
    return anndata.AnnData(obs=obs, obsm={"spatial": places, "X_isovi": latent})


def test_held_out_cells_are_joined_to_disjoint_pairs() -> None:
    found = tl.certificate(run())
    assert found.n_pairs == 150
    assert found.matched
    assert all(part.profile.n_pairs >= 30 for part in found.curve.profile.bins)
    assert found.for_epsilon(0.1).L == found.point.L
    assert found.for_epsilon(0.4).L == found.curve.for_epsilon(0.4).L


def test_random_pairs_are_about_the_pairs_of_the_profile() -> None:
    adata = run()
    at_random, matched = tl.certificate(adata, matched=False), tl.certificate(adata)
    measured = tl.distortion_profile(adata, cells=adata.obs["isovi_split"] == "heldout").for_epsilon(0.1).L
    assert measured < at_random.point.L < matched.point.L
    assert pytest.approx(measured, rel=0.3) == at_random.curve.profile.for_epsilon(0.1).L


@pytest.mark.parametrize("matched", [True, False])
def test_every_pair_is_in_one_range(matched: bool) -> None:
    """The longest pairs lie across the tissue: longer than it is along any axis."""
    adata = run(1600)
    found = tl.certificate(adata, matched=matched)
    bins = found.curve.profile.bins
    assert sum(part.profile.n_pairs for part in bins) == found.n_pairs == 400
    assert bins[-1].high > np.ptp(adata.obsm["spatial"], axis=0).max() / spacing(adata.obsm["spatial"])


def test_an_isometry_is_certified_as_one() -> None:
    adata = run(noise=0.0)
    assert pytest.approx(1.0, abs=1e-5) == tl.certificate(adata).point.L


def test_what_is_written_can_be_stored(tmp_path) -> None:
    adata = run()
    found = tl.certificate(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    stored = anndata.read_h5ad(tmp_path / "a.h5ad").uns["isovi_certificate"]
    assert stored["n_pairs"] == found.n_pairs
    assert stored["point"]["L"] == pytest.approx([found.point.L])
    assert stored["epsilon"][0] == pytest.approx(0.01 + 2 * found.eta)


def test_cells_that_were_seen_are_refused() -> None:
    with pytest.raises(InputError, match="300 of 600 cells were trained on"):
        tl.certificate(run(), cells=np.ones(600, dtype=bool))


def test_without_a_split_the_cells_have_to_be_named() -> None:
    adata = run()
    held_out = np.flatnonzero(adata.obs.pop("isovi_split") == "heldout")
    with pytest.raises(InputError, match="not known which those are"):
        tl.certificate(adata)
    assert tl.certificate(adata, cells=held_out).n_pairs == 150


def test_too_few_cells_say_how_many_it_takes() -> None:
    adata = run(60)
    with pytest.raises(InputError, match="114 held-out cells in pairs are needed"):
        tl.certificate(adata)
    assert tl.certificate(adata, epsilon=None).point is None
    with pytest.raises(InputError, match="1 held-out cells make 0 pairs"):
        tl.certificate(adata, cells=np.array([1]))


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, anndata.AnnData]:
    """A model that saw 48 of 160 cells."""
    adata = simulate("layers", n_obs=160, n_genes=60, seed=0)
    assert len(np.unique(adata.X.toarray(), axis=0)) == 160  # cells with the same counts are seen together
    IsoSCVI.setup_anndata(adata)
    model = IsoSCVI(adata, n_latent=2)
    model.train(1, train_size=0.2, validation_size=0.1, enable_progress_bar=False)
    return model, adata.copy()


def with_split(adata: anndata.AnnData, heldout: np.ndarray) -> anndata.AnnData:
    found = adata.copy()
    found.obs["isovi_split"] = "train"
    found.obs.iloc[heldout, found.obs.columns.get_loc("isovi_split")] = "heldout"
    return found


def test_a_model_tells_which_cells_it_saw(fitted: tuple[Any, anndata.AnnData]) -> None:
    model, adata = fitted
    found = tl.certificate(adata, model=model, epsilon=0.3)
    assert found.n_pairs == len(model.test_indices) // 2
    assert found.basis == adata.uns["isovi_certificate"]["basis"] == "model"
    with pytest.raises(InputError, match="trained on"):
        tl.certificate(adata, model=model, cells=np.sort(model.validation_indices), epsilon=None)


def test_an_old_split_column_does_not_make_cells_unseen(fitted: tuple[Any, anndata.AnnData]) -> None:
    model, adata = fitted
    seen = np.concatenate([model.train_indices, model.validation_indices])
    with pytest.raises(InputError, match=r'48 of 48 cells that obs.*calls "heldout" were trained on'):
        tl.certificate(with_split(adata, seen), model=model, epsilon=None)
    half = np.concatenate([seen[:10], model.test_indices[:60]])
    with pytest.warns(IsoviWarning, match=r"10 of 70 cells .* They are left out"):
        assert tl.certificate(with_split(adata, half), model=model, epsilon=None).n_pairs == 30


def test_cells_that_a_query_model_was_fine_tuned_on_are_refused(fitted: tuple[Any, anndata.AnnData]) -> None:
    model, adata = fitted
    query = IsoSCVI.load_query_data(adata[model.test_indices].copy(), model)
    query.train(1, train_size=0.9, enable_progress_bar=False)
    with pytest.raises(InputError, match=r"112 of 112 cells .* were trained on"):
        tl.certificate(with_split(adata, model.test_indices), model=query, epsilon=None)


def test_all_cells_trained_on_leave_none_to_certify_on() -> None:
    adata = simulate("layers", n_obs=60, n_genes=30, seed=0)
    IsoSCVI.setup_anndata(adata)
    model = IsoSCVI(adata, n_latent=2)
    model.train(1, train_size=1.0, enable_progress_bar=False)
    with pytest.raises(InputError, match="0 held-out cells make 0 pairs"):
        tl.certificate(adata, model=model)


def test_a_model_without_a_record_leaves_it_to_the_split_column(
    fitted: tuple[Any, anndata.AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adata = fitted
    monkeypatch.setattr(model, "seen_cells_", None)
    with pytest.warns(IsoviWarning, match=r'not known which .* rests on obs."isovi_split"'):
        found = tl.certificate(with_split(adata, np.arange(100)), model=model, epsilon=None)
    assert found.basis == "split column" and found.n_pairs == 50


def test_what_it_rests_on_is_recorded() -> None:
    adata = run()
    held_out = np.flatnonzero(adata.obs["isovi_split"] == "heldout")
    assert tl.certificate(adata).basis == adata.uns["isovi_certificate"]["basis"] == "split column"
    del adata.obs["isovi_split"]
    assert tl.certificate(adata, cells=held_out).basis == adata.uns["isovi_certificate"]["basis"] == "caller"
