from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField

from isovi import InputError, Obsp, SameDomain
from isovi.data import check
from isovi.data.fields import (
    CELL,
    COORDINATES,
    SECTION,
    pair_weights,
    registered_spots,
    spatial_fields,
    units_of,
)
from isovi.spots import spacing


def manager_of(
    adata: AnnData, section_key: str | None = "slice", source: AnnDataManager | None = None, **transfer: bool
) -> AnnDataManager:
    """A manager with a layer and the spatial fields, as the models' ``setup_anndata`` makes it."""
    registry = None if source is None else source.registry
    fields = spatial_fields("spatial", section_key, registry)
    manager = AnnDataManager([LayerField("X", None)], setup_method_args={})
    manager.register_fields(adata, registry, **transfer)
    manager.register_new_fields(fields)
    return manager


def positions(manager: AnnDataManager) -> np.ndarray:
    return np.asarray(manager.get_from_registry(COORDINATES))


def units(manager: AnnDataManager) -> dict[str, float]:
    return units_of(manager.get_state_registry(COORDINATES))


def label(adata: AnnData, sections: list[str]) -> None:
    adata.obs["slice"] = sections


# ------------------------------------------------------------------ units


def test_the_units_are_told_in_the_units_of_the_input(adata: AnnData) -> None:
    adata.obsm["spatial"][adata.obs["slice"] == "s2"] *= 7
    found = units(manager_of(adata))
    for name, unit in found.items():
        assert unit == pytest.approx(spacing(adata.obsm["spatial"][adata.obs["slice"] == name]))
    assert list(found) == ["s1", "s2"]


# ------------------------------------------------------------------ registration


def test_registering_adds_documented_keys_only(adata: AnnData) -> None:
    before = adata.copy()
    manager = manager_of(adata)
    assert set(adata.obsm) - set(before.obsm) == {"_isovi_coordinates"}
    assert set(adata.obs) - set(before.obs) == {"_isovi_cell", "_scvi_isovi_section"}
    assert np.array_equal(adata.obsm["spatial"], before.obsm["spatial"])
    assert positions(manager).dtype == np.float32
    assert manager.get_from_registry(CELL).ravel().tolist() == list(range(adata.n_obs))
    assert manager.get_from_registry(SECTION).ravel().tolist() == [0] * 20 + [1] * 20
    assert manager.summary_stats[f"n_{SECTION}"] == 2


def test_without_a_section_key_there_is_one_section(adata: AnnData) -> None:
    manager = manager_of(adata, None)
    assert not manager.get_from_registry(SECTION).any()
    assert list(units(manager)) == ["all"]


@pytest.mark.parametrize(
    ("section_key", "spoil", "message"),
    [
        ("nowhere", lambda _: None, r'no column "nowhere"; it has:.*"slice".*section'),
        ("label", lambda _: None, r'"label".*8 missing values'),
        ("slice", lambda adata: adata.obsm.pop("spatial"), r'no "spatial"'),
        ("slice", lambda adata: adata.obsm.update(spatial=np.ones((40, 1))), r"\(40, 1\)"),
        ("slice", lambda adata: adata.obsm.update(spatial=np.ones((40, 2))), "at one position"),
        ("slice", lambda adata: adata.obsm["spatial"].fill(np.nan), "NaN"),
        ("slice", lambda adata: label(adata, ["s1"] * 38 + ["s2"] * 2), r"s2 \(2\)"),
    ],
)
def test_bad_positions_and_sections_are_refused(
    adata: AnnData, section_key: str, spoil: object, message: str
) -> None:
    spoil(adata)
    with pytest.raises(InputError, match=message):
        manager_of(adata, section_key)


# ------------------------------------------------------------------ transfer


def test_known_sections_keep_their_unit_and_new_ones_get_their_own(adata: AnnData) -> None:
    reference = manager_of(adata)
    query = adata[10:].copy()
    query.obs["slice"] = query.obs["slice"].astype(str).replace("s1", "new")
    query.obsm["spatial"] = 3 * query.obsm["spatial"]
    found = units(manager_of(query, source=reference))
    assert found["s2"] == units(reference)["s2"]
    assert found["new"] == pytest.approx(spacing(query.obsm["spatial"][:10]))


def test_new_sections_are_added_after_the_known_ones(adata: AnnData) -> None:
    reference = manager_of(adata)
    query = adata.copy()
    query.obs["slice"] = ["a"] * 20 + ["s2"] * 20
    manager = manager_of(query, source=reference)
    assert manager.get_state_registry(SECTION).categorical_mapping.tolist() == ["s1", "s2", "a"]
    assert manager.get_from_registry(SECTION).ravel().tolist() == [2] * 20 + [1] * 20


@pytest.mark.parametrize("through", ["setup", "transfer_fields"])
def test_data_without_positions_has_no_coordinates(adata: AnnData, through: str) -> None:
    reference = manager_of(adata)
    query = adata[5:15].copy()
    del query.obsm["spatial"]
    fresh = through == "setup"
    manager = manager_of(query, source=reference) if fresh else reference.transfer_fields(query)
    assert np.isnan(positions(manager)).all()
    assert positions(manager).shape == (10, 2)
    assert units(manager) == units(reference)


@pytest.mark.parametrize("through", ["setup", "transfer_fields"])
def test_a_few_spots_of_other_data_may_have_positions(adata: AnnData, through: str) -> None:
    reference = manager_of(adata)
    query = adata.copy()
    query.obsm["spatial"][5:15] = np.nan
    manager = manager_of(query, source=reference) if through == "setup" else reference.transfer_fields(query)
    found, kept = positions(manager), np.r_[:5, 15:20]
    assert np.isfinite(found).all(axis=1).tolist() == [True] * 5 + [False] * 10 + [True] * 25
    assert units(manager) == units(reference)
    expected = query.obsm["spatial"][kept] - query.obsm["spatial"][kept].mean(axis=0)
    assert found[kept] == pytest.approx(expected / units(reference)["s1"], abs=1e-5)


def test_a_position_that_is_half_missing_is_refused_on_transfer(adata: AnnData) -> None:
    reference = manager_of(adata)
    query = adata.copy()
    query.obsm["spatial"][3, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite for 1 of 40"):
        reference.transfer_fields(query)


@pytest.mark.parametrize("rows", [[0], [0, 39], [3, 25, 26]])
@pytest.mark.parametrize("section_key", ["slice", None])
def test_a_few_spots_of_known_sections_can_be_transferred(
    adata: AnnData, rows: list[int], section_key: str | None
) -> None:
    reference = manager_of(adata, section_key)
    found = positions(reference.transfer_fields(adata[rows].copy()))
    assert np.isfinite(found).all()


def test_a_new_section_of_one_spot_has_no_unit_and_no_coordinates(adata: AnnData) -> None:
    reference = manager_of(adata)
    query = adata[[0, 30, 31]].copy()
    query.obs["slice"] = ["new", "s2", "s2"]
    assert np.isfinite(positions(manager_of(query, source=reference))).all(axis=1).tolist() == [
        False,
        True,
        True,
    ]


def test_other_axes_are_refused(adata: AnnData) -> None:
    reference = manager_of(adata)
    query = adata.copy()
    query.obsm["spatial"] = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(InputError, match=r"3 columns.*2-D"):
        reference.transfer_fields(query)


def test_a_query_without_its_section_column_is_refused_with_the_columns(adata: AnnData) -> None:
    reference = manager_of(adata)
    query = adata.copy()
    del query.obs["slice"]
    with pytest.raises(InputError, match=r'no column "slice"; it has:.*"donor"'):
        reference.transfer_fields(query)


def test_cells_of_a_query_are_numbered_anew(adata: AnnData) -> None:
    manager = manager_of(adata).transfer_fields(adata[20:].copy())
    assert manager.get_from_registry(CELL).ravel().tolist() == list(range(20))


# ------------------------------------------------------------------ pair weights


def test_registered_spots_are_those_of_the_data(adata: AnnData) -> None:
    manager = manager_of(adata)
    found, expected = registered_spots(manager), check.spots(adata, "spatial", "slice")
    assert np.array_equal(found.coordinates, expected.coordinates.astype(np.float32))
    assert np.array_equal(found.section, expected.section)
    assert found.units == expected.units
    assert found.sections == expected.sections == ("s1", "s2")


def test_a_section_may_have_a_dot_in_its_name(adata: AnnData) -> None:
    adata.obs["slice"] = adata.obs["slice"].astype(str).replace("s1", "a.1")
    assert list(units(manager_of(adata))) == ["a.1", "s2"]


def test_pairs_read_the_columns_and_matrices_of_the_spots_alone(adata: AnnData) -> None:
    adata.obsp["links"] = sparse.random(40, 40, 0.3, format="csr", random_state=0)
    rows = np.arange(5, 40, 2)
    spots = check.spots(adata, "spatial", "slice").take(rows)
    every = np.arange(len(rows))
    pairs = [torch.as_tensor(end) for end in np.meshgrid(every, every)]
    links = pair_weights(adata, spots, Obsp("links"))(*(end.ravel() for end in pairs)).numpy()
    full = adata.obsp["links"].maximum(adata.obsp["links"].T)[rows][:, rows].toarray()
    full *= (spots.section[:, None] == spots.section) * (1 - np.eye(len(rows)))
    assert np.array_equal(np.sort(links), np.sort(full.astype(np.float32).ravel()))
    donors = adata.obs["donor"].to_numpy()[rows]
    same = pair_weights(adata, spots, SameDomain("donor"))(torch.tensor([0, 0]), torch.tensor([1, 2]))
    expected = [donors[0] == donors[n] and spots.section[0] == spots.section[n] for n in (1, 2)]
    assert same.tolist() == expected


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Obsp("links"), r"no 'links'; it has nothing"),
        (SameDomain("nowhere"), r'no column "nowhere"'),
        (SameDomain("label"), "8 missing values"),
    ],
)
def test_what_a_kind_lacks_is_named(adata: AnnData, kind: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pair_weights(adata, check.spots(adata), kind)
