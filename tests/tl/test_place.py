from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.exceptions import NotFittedError

from isovi import IsoSCVI
from isovi.errors import InputError, IsoviWarning
from isovi.simulate import simulate
from isovi.spots import spacing
from isovi.tl.place import PlacedCells, SpatialPlacer, _not_trained_on


@pytest.fixture(scope="module")
def tissue() -> tuple[AnnData, AnnData]:
    """Spots that the model is trained on, and others of the same tissue."""
    logging.getLogger("scvi").setLevel(logging.WARNING)
    adata = simulate("layers", n_obs=500, n_genes=120, seed=0)
    order = np.random.default_rng(0).permutation(500)
    return adata[order[:380]].copy(), adata[order[380:]].copy()


@pytest.fixture(scope="module")
def model(tissue: tuple[AnnData, AnnData]) -> Any:
    reference = tissue[0].copy()
    IsoSCVI.setup_anndata(reference)
    model = IsoSCVI(reference, n_latent=4)
    model.train(max_epochs=30, train_size=0.75, enable_progress_bar=False)
    return model


@pytest.fixture(scope="module")
def placer(model: Any, tissue: tuple[AnnData, AnnData]) -> SpatialPlacer:
    return SpatialPlacer(model).fit(tissue[0])


@pytest.fixture(scope="module")
def placed(placer: SpatialPlacer, tissue: tuple[AnnData, AnnData]) -> PlacedCells:
    return placer.place(tissue[1])


def errors(placed: PlacedCells, query: AnnData) -> np.ndarray:
    return np.linalg.norm(placed.positions - query.obsm["spatial"], axis=1)


def test_cells_come_nearer_to_their_place_than_to_any(
    placed: PlacedCells, tissue: tuple[AnnData, AnnData]
) -> None:
    centre = tissue[0].obsm["spatial"].mean(axis=0)
    by_chance = np.median(np.linalg.norm(tissue[1].obsm["spatial"] - centre, axis=1))
    assert np.median(errors(placed, tissue[1])) < 0.85 * by_chance


def test_regions_cover_and_few_of_such_cells_are_flagged(
    placed: PlacedCells, tissue: tuple[AnnData, AnnData]
) -> None:
    covered = (errors(placed, tissue[1]) <= placed.radius).mean()
    assert covered > 0.9 - 4 * np.sqrt(0.09 * (1 / 120 + 1 / 95))
    assert placed.flagged.mean() < 0.1
    assert placed.shift == pytest.approx(1, abs=0.3)


def test_predict_is_the_position_and_nothing_is_drawn_anew(
    placer: SpatialPlacer, placed: PlacedCells, tissue: tuple[AnnData, AnnData]
) -> None:
    np.testing.assert_array_equal(placer.predict(tissue[1]), placed.positions)


def test_positions_are_in_the_units_of_the_reference(
    model: Any, tissue: tuple[AnnData, AnnData], placed: PlacedCells
) -> None:
    moved = tissue[0].copy()
    moved.obsm["spatial"] = 1000 * moved.obsm["spatial"] - 7
    found = SpatialPlacer(model).fit(moved).place(tissue[1])
    np.testing.assert_allclose(
        found.positions, 1000 * placed.positions - 7, rtol=1e-3, atol=spacing(moved.obsm["spatial"]) / 100
    )
    np.testing.assert_allclose(found.radius, 1000 * placed.radius, rtol=1e-3)


def test_neither_reference_nor_query_is_changed(model: Any, tissue: tuple[AnnData, AnnData]) -> None:
    before = [adata.copy() for adata in tissue]
    SpatialPlacer(model).fit(tissue[0]).predict(tissue[1])
    for old, new in zip(before, tissue, strict=True):
        assert (
            list(new.obs) == list(old.obs) and set(new.obsm) == set(old.obsm) and set(new.uns) == set(old.uns)
        )
        np.testing.assert_array_equal(new.X.toarray(), old.X.toarray())


def test_genes_of_another_order_make_no_difference(
    placer: SpatialPlacer, placed: PlacedCells, tissue: tuple[AnnData, AnnData]
) -> None:
    turned = tissue[1][:, ::-1].copy()
    np.testing.assert_allclose(placer.predict(turned), placed.positions)


def test_missing_genes_are_told(placer: SpatialPlacer, tissue: tuple[AnnData, AnnData]) -> None:
    with pytest.warns(IsoviWarning, match="25% of the model's genes are missing"):
        found = placer.place(tissue[1][:, 30:].copy())
    assert found.missing == list(tissue[1].var_names[:30])


def test_cells_of_shuffled_genes_are_flagged(placer: SpatialPlacer, tissue: tuple[AnnData, AnnData]) -> None:
    strange = tissue[1].copy()
    order = np.random.default_rng(0).permutation(strange.n_vars)
    strange.X = sparse.csr_matrix(strange.X.toarray()[:, order])
    with pytest.warns(IsoviWarning, match="unlike the reference"):
        found = placer.place(strange)
    assert found.flagged.mean() > 0.3
    assert found.shift > 1


def test_sections_are_told_apart_and_have_their_own_frames() -> None:
    adata = simulate("layers", n_obs=240, n_genes=60, n_sections=2, seed=0)
    second = (adata.obs["section"] == "section_1").to_numpy()
    adata.obsm["spatial"][second] += 1e6
    IsoSCVI.setup_anndata(adata, section_key="section")
    model = IsoSCVI(adata, n_latent=4)
    model.train(max_epochs=3, enable_progress_bar=False)
    found = SpatialPlacer(model, method="latent").fit(adata).place(adata[:, :].copy())
    far = found.positions[:, 0] > 5e5
    np.testing.assert_array_equal(found.section[far], "section_1")
    np.testing.assert_array_equal(found.section[~far], "section_0")
    assert (found.section == adata.obs["section"]).mean() > 0.7


# ---------------------------------------------------------------------------- as scikit-learn's estimators


def test_parameters_are_kept_as_given_and_can_be_set(model: Any) -> None:
    placer = SpatialPlacer(model, method="latent", n_neighbors=5, coverage=0.8, seed=3)
    asked = {"model": model, "method": "latent", "n_neighbors": 5, "coverage": 0.8, "seed": 3}
    assert placer.get_params() == asked
    assert placer.set_params(n_neighbors=7).n_neighbors == 7
    with pytest.raises(ValueError, match="nonsense"):
        placer.set_params(nonsense=1)


def test_fitting_returns_the_placer_and_leaves_its_parameters(
    model: Any, tissue: tuple[AnnData, AnnData]
) -> None:
    placer = SpatialPlacer(model, method="latent")
    assert not [name for name in vars(placer) if name.endswith("_")]
    before = placer.get_params()
    assert placer.fit(tissue[0], None) is placer
    assert placer.get_params() == before


def test_placing_before_fitting_is_refused(model: Any, tissue: tuple[AnnData, AnnData]) -> None:
    with pytest.raises(NotFittedError):
        SpatialPlacer(model).predict(tissue[1])


@pytest.mark.parametrize(
    ("parameter", "value"), [("method", "guess"), ("n_neighbors", 0), ("coverage", 1.0), ("coverage", 0.0)]
)
def test_impossible_parameters_are_refused_on_fitting(
    model: Any, tissue: tuple[AnnData, AnnData], parameter: str, value: Any
) -> None:
    placer = SpatialPlacer(model).set_params(**{parameter: value})
    with pytest.raises(InputError, match=parameter):
        placer.fit(tissue[0])


@pytest.mark.parametrize("mask", [np.ones(380, dtype=bool), np.zeros(3, dtype=bool), np.zeros(380)])
def test_a_mask_that_cannot_calibrate_is_refused(
    model: Any, tissue: tuple[AnnData, AnnData], mask: np.ndarray
) -> None:
    with pytest.raises(InputError, match="calibration has shape"):
        SpatialPlacer(model).fit(tissue[0], calibration=mask)


def test_too_few_cells_to_calibrate_with_are_told(model: Any, tissue: tuple[AnnData, AnnData]) -> None:
    few = np.isin(np.arange(380), model.validation_indices[:5])
    with pytest.warns(IsoviWarning, match="too few cells to calibrate with"):
        placer = SpatialPlacer(model, method="latent").fit(tissue[0], calibration=few)
    assert np.isinf(placer.place(tissue[1]).radius).all()


def test_a_reference_that_the_model_never_saw_serves(model: Any, tissue: tuple[AnnData, AnnData]) -> None:
    found = SpatialPlacer(model, method="latent").fit(tissue[1]).place(tissue[0])
    assert np.isfinite(found.radius).all()


def changed(reference: AnnData, how: str, first: int) -> AnnData:
    """The reference less a cell, in another order, or with other names."""
    order = np.random.default_rng(1).permutation(380) if how == "reordered" else np.arange(380)
    found = reference[order[order != first] if how == "less one" else order].copy()
    if how == "renamed":
        found.obs_names = [f"renamed{i}" for i in range(380)]
    return found


@pytest.mark.parametrize("how", ["less one", "reordered", "renamed"])
def test_training_cells_never_calibrate_whatever_became_of_them(
    model: Any, tissue: tuple[AnnData, AnnData], how: str
) -> None:
    first = model.train_indices[0]
    placer = SpatialPlacer(model).fit(changed(tissue[0], how, first))
    unit, centre = placer.sections_[0].unit, placer.sections_[0].centre
    anchors = placer.sections_[0].placer.anchors_.positions * unit + centre
    expected = np.setdiff1d(model.train_indices, first) if how == "less one" else np.sort(model.train_indices)
    assert len(anchors) == len(expected)
    apart = cdist(anchors, tissue[0].obsm["spatial"])
    np.testing.assert_array_equal(np.sort(apart.argmin(axis=1)), expected)
    found = placer.place(tissue[1])
    covered = (errors(found, tissue[1]) <= found.radius).mean()
    assert covered > 0.9 - 4 * np.sqrt(0.09 * (1 / 120 + 1 / 95))


def test_of_many_cells_random_ones_are_used(
    model: Any, tissue: tuple[AnnData, AnnData], placed: PlacedCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, most in {"MOST_LEARNED": 200, "MOST_CALIBRATED": 60}.items():
        monkeypatch.setattr(f"isovi.tl.place.{limit}", most)
    monkeypatch.setattr("isovi.reconstruct.placer.N_SAMPLE", 150)
    placer = SpatialPlacer(model).fit(tissue[0])
    assert len(placer.used_) == 260 and np.isin(model.train_indices, placer.used_).sum() == 200
    assert len(placer.sections_[0].placer.anchors_) == 200 and len(placer.sections_[0].placer.sample_) == 150
    assert placer.sections_[0].centre == pytest.approx(tissue[0].obsm["spatial"].mean(axis=0))
    found = placer.place(tissue[1])
    worse = errors(found, tissue[1]) - errors(placed, tissue[1])  # cell by cell
    assert worse.mean() < 4 * worse.std() / np.sqrt(120)
    covered = (errors(found, tissue[1]) <= found.radius).mean()
    assert covered > 0.9 - 4 * np.sqrt(0.09 * (1 / 120 + 1 / 60))
    beyond = (
        1 / 61
    )  # is a cell the largest of 60 others' novelty, in each of three measures: on average, and sd
    assert found.flagged.mean() < 3 * beyond + 4 * np.sqrt(3 * beyond**2 + 3 * beyond / 120)


def test_training_cells_in_the_mask_are_refused(model: Any, tissue: tuple[AnnData, AnnData]) -> None:
    mask = np.isin(np.arange(380), [*model.validation_indices, *model.train_indices[:3]])
    with pytest.raises(InputError, match="trained on 3 of the 98 cells of calibration"):
        SpatialPlacer(model).fit(tissue[0], calibration=mask)


def test_without_a_record_of_the_training_there_are_no_radii_unless_cells_are_given(
    model: Any, tissue: tuple[AnnData, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "seen_cells_", None)  # as after loading what 0.1.0 saved, with other data
    with pytest.warns(IsoviWarning, match="not known which of the cells"):
        placer = SpatialPlacer(model, method="latent").fit(tissue[0])
    assert np.isinf(placer.place(tissue[1]).radius).all()
    mask = np.isin(np.arange(380), model.validation_indices)
    with pytest.warns(IsoviWarning, match="Radii rest on calibration"):
        placer = SpatialPlacer(model, method="latent").fit(tissue[0], calibration=mask)
    assert np.isfinite(placer.place(tissue[1]).radius).all()


@pytest.mark.parametrize(
    ("parts", "calibrating"),
    [
        ({"train": 75, "validation": 25}, {"validation": 25}),
        ({"train": 60, "validation": 10, "heldout": 30}, {"validation": 10, "heldout": 10}),
        ({"train": 70, "validation": 30, "heldout": 0}, {"validation": 30}),
        ({"heldout": 100}, {"heldout": 20}),
        ({"validation": 100}, {"validation": 50}),
        ({"train": 97, "validation": 3}, {"validation": 3}),
        ({"train": 100}, {}),
        ({"": 100}, {}),
    ],
)
def test_validation_cells_calibrate_then_unseen_ones_up_to_a_fifth_of_each_section(
    parts: dict[str, int], calibrating: dict[str, int]
) -> None:
    split = np.random.default_rng(0).permutation(np.repeat(list(parts), list(parts.values())))
    section = np.repeat([0, 1], [100, 30])
    both = np.concatenate([split, np.repeat("train", 30)])
    mask = _not_trained_on(both, section, np.random.default_rng(0))
    assert not mask[100:].any()
    found = dict(zip(*np.unique(both[mask], return_counts=True), strict=True))
    assert found == calibrating


def test_cells_are_placed_alike_in_chunks_and_not_kept(
    model: Any,
    placer: SpatialPlacer,
    placed: PlacedCells,
    tissue: tuple[AnnData, AnnData],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("isovi.tl.place.CHUNK", 50)
    kept = len(model._per_instance_manager_store[model.id])
    np.testing.assert_allclose(placer.predict(tissue[1]), placed.positions)
    assert len(model._per_instance_manager_store[model.id]) == kept
