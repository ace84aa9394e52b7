"""Certificates of latents in an AnnData: on cells that were held out, and on no others."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

import isovi
from isovi import IsoSCVI, tl
from isovi.errors import InputError, IsoviWarning
from isovi.run import Run
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


def test_the_middle_is_of_validation_cells_and_the_limit_is_recorded() -> None:
    adata = run()
    for matched, method in {True: "one matching", False: "all matchings"}.items():
        point = tl.certificate(adata, matched=matched).point
        assert point.method == adata.uns["isovi_certificate"]["point"]["method"] == method
        assert 1 < point.approximate_L < (np.inf if matched else point.L)
        assert point.approximate_L == adata.uns["isovi_certificate"]["point"]["approximate_L"]


def test_without_validation_cells_some_held_out_ones_are_set_aside() -> None:
    adata = run(160)
    adata.obs["isovi_split"] = adata.obs["isovi_split"].astype(str).replace("validation", "train")
    at_random = tl.certificate(adata, matched=False)
    assert at_random.point.method == "all matchings" and at_random.n_pairs == 40
    assert at_random.point.n_pairs == 30 and at_random.least_epsilon == 0.1
    matched = tl.certificate(adata, epsilon=0.2)
    assert matched.point.method == "halves" and matched.least_epsilon == 0.14
    assert np.isnan(matched.point.approximate_L)


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
    with pytest.raises(InputError, match="58 held-out cells in pairs are needed"):
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
    with pytest.raises(InputError, match=r"10 of 70 cells .* were trained on.*training_split"):
        tl.certificate(with_split(adata, half), model=model, epsilon=None)


def test_held_out_cells_with_the_counts_of_training_cells_are_left_out(
    fitted: tuple[Any, anndata.AnnData],
) -> None:
    model, adata = fitted
    doubled = with_split(adata, model.test_indices)
    twins, others = model.test_indices[:4], model.train_indices[:4]
    doubled.X[twins] = doubled.X[others]
    with pytest.warns(IsoviWarning, match=r"4 of 112 held-out cells have the same counts"):
        assert tl.certificate(doubled, model=model, epsilon=None).n_pairs == 54


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


# ---------------------------------------------------------------------------- data of runs


@pytest.fixture(scope="module")
def written() -> Run:
    """A run of two sections, 60 of 200 spots held out."""
    adata = simulate("layers", n_obs=200, n_genes=60, n_sections=2, seed=1)
    return isovi.fit(adata, holdout=0.3, section_key="section", max_epochs=1, n_latent=3, progress=False)


def of_all_cells(run: Run) -> tuple[Any, anndata.AnnData]:
    """A model that was trained on every cell, and the run's data with its latent representation."""
    adata = run.adata.copy()
    used = adata[:, adata.var["isovi_gene"]].copy()
    IsoSCVI.setup_anndata(used, section_key="section")
    model = IsoSCVI(used, n_latent=3)
    model.train(1, train_size=1.0, enable_progress_bar=False)
    adata.obsm["X_isovi"] = model.get_latent_representation()
    return model, adata


ASKED: dict[str, Any] = {"section_key": "section", "epsilon": None}


def test_the_data_of_a_run_knows_its_cells_in_any_order_and_under_any_name(written: Run) -> None:
    adata = written.adata
    assert tl.certificate(adata.copy(), **ASKED).basis == "run"
    part = adata[np.random.default_rng(0).permutation(200)[:150]].copy()
    part.obs_names = [f"cell {number}" for number in range(150)]
    part.obsm["X_isovi"] = part.obsm["X_isovi"].astype(np.float64)
    found = tl.certificate(part, **ASKED)
    assert found.basis == "run"
    assert 0 < found.n_pairs <= (part.obs["isovi_split"] == "heldout").sum() // 2


def test_it_knows_them_after_it_was_written(written: Run, tmp_path) -> None:
    written.write(tmp_path / "run")
    assert Run.read(tmp_path / "run").certificate().basis == written.certificate().basis == "run"


def test_the_split_of_an_older_run_is_refused(written: Run) -> None:
    model, adata = of_all_cells(written)
    with pytest.raises(InputError, match=r"60 of 60 cells .* another latent representation .* model="):
        tl.certificate(adata, **ASKED)
    with pytest.raises(InputError, match=r"60 of 60 cells .* were trained on"):
        tl.certificate(adata, model=model, **ASKED)
    part = adata[::-1][:100].copy()
    part.obs_names = [f"cell {number}" for number in range(100)]
    n_heldout = int((part.obs["isovi_split"] == "heldout").sum())
    for given in ({}, {"model": model}):
        with pytest.raises(InputError, match=f"{n_heldout} of {n_heldout} cells"):
            tl.certificate(part, **given, **ASKED)


def test_a_split_that_was_changed_is_refused(written: Run) -> None:
    adata = written.adata.copy()
    adata.obs["isovi_split"] = "heldout"
    with pytest.raises(InputError, match="140 of 200 cells"):
        tl.certificate(adata, **ASKED)


def test_a_query_model_that_saw_held_out_cells_is_refused(written: Run) -> None:
    adata = written.adata.copy()
    used = adata[:, adata.var["isovi_gene"]].copy()
    query = IsoSCVI.load_query_data(used[used.obs["isovi_split"] == "heldout"].copy(), written.model)
    query.train(1, train_size=1.0, enable_progress_bar=False)
    adata.obsm["X_isovi"] = query.get_latent_representation(used)
    with pytest.raises(InputError, match=r"60 of 60 cells .* were trained on"):
        tl.certificate(adata, model=query, **ASKED)
    with pytest.raises(InputError, match="60 of 60 cells"):
        tl.certificate(adata, **ASKED)


def test_sections_that_were_put_together_rest_on_their_columns(written: Run) -> None:
    """Nothing is known of which run wrote what, or too much is said of one of them."""
    model, other = of_all_cells(written)
    put = {"join": "outer", "index_unique": "-", "keys": ["a", "b"], "label": "slide"}
    nothing = anndata.concat([written.adata, other], **put)
    asked = {"section_key": "slide", "epsilon": None}
    assert tl.certificate(nothing, **asked).basis == "split column"
    with pytest.raises(InputError, match=r"120 of 120 cells .* were trained on"):
        tl.certificate(nothing, model=model, **asked)
    with pytest.raises(InputError, match=r"60 of 120 cells .* another latent representation"):
        tl.certificate(anndata.concat([written.adata, other], uns_merge="first", **put), **asked)


def test_the_split_of_another_run_than_the_model_is_refused(
    written: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the model itself does not know which cells it saw."""
    model, adata = of_all_cells(written)
    adata = adata[:, adata.var["isovi_gene"]].copy()
    monkeypatch.setattr(model, "seen_cells_", None)
    monkeypatch.setattr(model, "run_id_", "another", raising=False)
    with pytest.raises(InputError, match=rf"60 cells are held out .* {written.id}; the model is of the run"):
        tl.certificate(adata, model=model, **ASKED)
    monkeypatch.setattr(model, "run_id_", written.id)
    with pytest.warns(IsoviWarning, match=r'rests on obs."isovi_split"'):
        assert tl.certificate(adata, model=model, **ASKED).basis == "split column"


def test_intervals_are_not_calibrated_with_the_split_of_an_older_run(written: Run) -> None:
    _, adata = of_all_cells(written)
    known = tl.pairwise_distance(written.adata, "section", section_key="section")
    assert known.attrs["basis"] == "run"
    with pytest.raises(InputError, match=r"74 of 74 cells .* validation or heldout"):
        tl.pairwise_distance(adata, "section", section_key="section")


def test_a_placer_never_calibrates_with_cells_of_a_later_training(written: Run) -> None:
    model, adata = of_all_cells(written)
    used = adata[:, adata.var["isovi_gene"]].copy()
    validation = (used.obs["isovi_split"] == "validation").to_numpy()
    with pytest.raises(InputError, match="trained on 14 of the 14 cells"):
        tl.SpatialPlacer(model).fit(used, calibration=validation)
