"""The spots of a report: none hidden, none moved, and colours that say what they mean."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isovi.workflow.finished import read
from scipy.spatial import cKDTree

from isovi.report import spots
from isovi.report.record import Channel, Report
from isovi.tl.metrics import lognorm, morans_i_per_dimension, spatial_neighbors


def channels(written: Report) -> dict[str, Channel]:
    return {channel.label: channel for channel in written.spots.channels}


@given(n=st.integers(1, 400), most=st.integers(2, 300), seed=st.integers(0, 9))
def test_as_many_as_asked_for_are_shown_each_once(n: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = spots.spread(rng.uniform(size=(n, 2)), rng.integers(0, 3, n), most)
    assert len(rows) == min(n, most)
    assert np.array_equal(rows, np.unique(rows))
    assert rows.min() >= 0 and rows.max() < n


def test_each_section_and_each_part_of_it_has_its_share() -> None:
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1], [6000, 2000])
    positions = rng.uniform(size=(8000, 2))
    rows = spots.spread(positions, section, 800)
    assert np.bincount(section[rows]).tolist() == [600, 200]
    quarter = (positions[rows] < 0.5).all(axis=1) & (section[rows] == 0)
    assert quarter.sum() == pytest.approx(150, abs=8)  # 11 is the standard deviation of a random choice


def test_sections_stand_side_by_side_with_their_shape(folder: Path) -> None:
    run = read(folder)
    place = spots.placement(run)
    positions, titles = spots.side_by_side(place, run)
    first, second = (positions[place.section == code] for code in (0, 1))
    for code, moved in enumerate((first, second)):
        shift = moved - place.coordinates[place.section == code]
        assert np.ptp(shift, axis=0).max() < 1e-5
    assert cKDTree(first).query(second)[0].min() > 1  # further apart than neighbours are
    assert [name for name, _, _ in titles] == list(run.adata.obs["section"].cat.categories)


def test_values_are_those_of_the_run(written: Report, folder: Path) -> None:
    adata = anndata.io.read_h5ad(folder / "adata.h5ad")
    found = channels(written)
    assert written.spots.names.tolist() == adata.obs_names.tolist()
    domain = found["domain"]
    names = np.array(domain.categories)[domain.values]
    assert names.tolist() == adata.obs["isovi_domain"].astype(str).tolist()
    assert set(found["split"].categories) == {"held out", "training", "validation"}
    assert np.allclose(found["latent 2"].values, adata.obsm["X_isovi"][:, 1])
    assert {"label (domain)", "section (section)", "relative distortion", "stretch", "anisotropy"} <= set(
        found
    )


def test_genes_on_offer_are_the_smoothest_in_tissue(written: Report, folder: Path) -> None:
    run = read(folder)
    place = spots.placement(run)
    expression = lognorm(run.adata.X)
    graph = spatial_neighbors(place.coordinates, place.section)
    smooth = morans_i_per_dimension(expression, graph)
    used = run.adata.var["isovi_gene"].to_numpy()
    smoothest = run.adata.var_names[used][np.argsort(-smooth[used])[: spots.N_GENES]]
    genes = [channel for channel in written.spots.channels if channel.group.startswith("Genes")]
    assert [gene.label for gene in genes] == smoothest.tolist()
    assert np.allclose(genes[0].values, expression[:, run.adata.var_names.get_loc(genes[0].label)], rtol=1e-4)


def test_gene_symbols_are_told_where_the_file_has_them() -> None:
    genes = pd.DataFrame({"symbol": ["MOBP", "", "X"]}, index=["ENSG1", "ENSG2", "X"])
    assert spots._gene_names(genes) == ["MOBP (ENSG1)", "ENSG2", "X"]
    assert spots._gene_names(genes[[]]) == ["ENSG1", "ENSG2", "X"]


def test_missing_labels_are_a_category_of_their_own(folder: Path) -> None:
    run = read(folder)
    run.adata.obs["label"] = run.adata.obs["domain"].where(np.arange(run.adata.n_obs) > 10)
    channel = spots._category("label", run.adata.obs["label"], "")
    assert channel.categories[-1] == "missing"
    assert (channel.values[:11] == len(channel.categories) - 1).all()
    assert channel.values.dtype == np.uint8


def test_of_many_spots_some_are_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spots, "N_SHOWN", 100)
    run = read(folder)
    for name in ("isovi_distortion", "isovi_distortion_stretch", "isovi_tissot_anisotropy"):
        run.adata.obs[name] = np.arange(run.adata.n_obs, dtype=float)
    shown, _ = spots.spots_of(run, spots.placement(run), None)
    assert len(shown.names) == len(shown.tissue) == len(shown.latent) == 100
    rows = run.adata.obs_names.get_indexer(shown.names)
    assert {channel.values.shape for channel in shown.channels} == {(100,)}
    values = {channel.label: channel.values for channel in shown.channels}
    assert np.array_equal(values["anisotropy"], rows.astype(np.float32))


def test_a_run_whose_counts_stayed_elsewhere_offers_no_genes(folder: Path) -> None:
    run = read(folder)
    run.adata.X = None
    assert spots._expression(run, np.arange(5)) is None
