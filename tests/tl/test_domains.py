"""Spatial domains: planted ones are found again, the same way each time."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from isovi.errors import InputError, IsoviWarning
from isovi.tl import (
    choose_n_domains,
    clustering_agreement,
    coordinate_domains,
    domains,
    ring_means,
    smooth,
    spatial_neighbors,
)


def bands(n: int = 20, noise: float = 2.0, seed: int = 0) -> anndata.AnnData:
    """A grid of n x n spots in four bands whose latents overlap."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(float(n)), np.arange(float(n)))
    truth = (y.ravel() * 4 // n).astype(int)
    centres = 3 * np.eye(4, 5)
    obs = pd.DataFrame({"truth": truth.astype(str)}, index=[f"spot{i}" for i in range(n * n)])
    adata = anndata.AnnData(obs=obs)
    adata.obsm["spatial"] = np.column_stack([x.ravel(), y.ravel()])
    adata.obsm["X_isovi"] = (centres[truth] + noise * rng.normal(size=(n * n, 5))).astype(np.float32)
    return adata


def agreement(adata: anndata.AnnData, key: str = "isovi_domain") -> float:
    return clustering_agreement(adata.obs[key], adata.obs["truth"])["ari"]


@pytest.mark.parametrize("smoothing", ["auto", "rings"])
def test_recovers_planted_bands_where_the_latent_alone_does_not(smoothing):
    adata = bands()
    domains(adata, n_domains=4, smoothing=smoothing)
    domains(adata, n_domains=4, smoothing=None, key_added="latent_only")
    assert agreement(adata) > 0.9
    assert agreement(adata, "latent_only") < 0.7


def test_a_column_of_something_else_is_not_replaced_without_a_word():
    adata = bands()
    adata.obs["isovi_domain"] = "mine"
    with pytest.warns(IsoviWarning, match=r'already has obs\["isovi_domain"\], which the result replaces'):
        domains(adata, n_domains=2, n_rings=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", IsoviWarning)
        domains(adata, n_domains=3, n_rings=0)  # its own, made anew
    assert adata.obs["isovi_domain"].nunique() == 3


def test_a_number_of_rings_chooses_rings():
    adata = bands()
    domains(adata, n_domains=4, n_rings=2)
    domains(adata, n_domains=4, n_rings=2, smoothing="rings", key_added="rings")
    domains(adata, n_domains=4, n_rings=0, key_added="none")
    domains(adata, n_domains=4, smoothing=None, key_added="latent_only")
    assert (adata.obs["isovi_domain"] == adata.obs["rings"]).all()
    assert (adata.obs["none"] == adata.obs["latent_only"]).all()
    assert (adata.obs["rings"] != adata.obs["none"]).any()


def test_what_neighbours_do_not_explain_is_not_smoothed():
    """Cell types that lie anywhere are found; means over rings would hide them."""
    adata = bands(noise=0.3)
    order = np.random.default_rng(1).permutation(adata.n_obs)
    adata.obsm["X_isovi"] = adata.obsm["X_isovi"][order]
    adata.obs["truth"] = adata.obs["truth"].to_numpy()[order]
    domains(adata, n_domains=4)
    assert agreement(adata) > 0.95
    assert (adata.uns["isovi_domain"]["noise"] == 1).all()


def test_what_was_chosen_is_kept():
    adata = bands()
    domains(adata, n_domains=4)
    record = adata.uns["isovi_domain"]
    smoothed = smooth(adata.obsm["X_isovi"], adata.obsm["spatial"], np.zeros(adata.n_obs))
    np.testing.assert_array_equal(record["length"], smoothed.length)
    np.testing.assert_array_equal(record["noise"], smoothed.noise)
    assert (record["noise"][4] == 1) and (record["noise"][:4] < 1).all()  # the fifth column is noise alone
    assert record["candidates"].tolist() == [4] and record["stability"][0] > 0.9


def test_domains_that_are_tiles_are_said_so():
    adata = bands()
    domains(adata, n_domains=4)
    assert adata.uns["isovi_domain"]["coordinates_only"] < 0.6
    adata.obsm["X_isovi"] = 5 * coordinate_tiles(adata)
    domains(adata, n_domains=4)
    assert adata.uns["isovi_domain"]["coordinates_only"] > 0.9


def coordinate_tiles(adata: anndata.AnnData) -> np.ndarray:
    return np.eye(4)[coordinate_domains(adata.obsm["spatial"], 4)]


def test_tiles_of_different_places_that_are_fewer_than_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = coordinate_domains(np.repeat([[0.0, 0.0], [1.0, 5.0]], [3, 4], axis=0), 4)
    assert found.tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_number_of_domains_is_chosen():
    adata = bands()
    domains(adata)
    assert agreement(adata) > 0.9
    record = adata.uns["isovi_domain"]
    assert record["n_domains"] == adata.obs["isovi_domain"].nunique()
    assert len(record["candidates"]) == len(record["bic"]) == len(record["stability"]) == 19


def test_well_separated_clusters_are_counted():
    rng = np.random.default_rng(0)
    features = np.repeat(10 * np.eye(5), 40, axis=0) + rng.normal(size=(200, 5))
    found = choose_n_domains(features)
    assert found["n_domains"] == 5
    assert found["stability"][3] == pytest.approx(1)  # five domains
    assert found["stability"][8:].max() < 0.95  # ten and more
    assert choose_n_domains(features, candidates=[4, 5, 6])["n_domains"] == 5


def test_same_seed_same_domains():
    first, second = bands(), bands()
    for adata in (first, second):
        domains(adata, seed=3, n_domains=4)
    pd.testing.assert_frame_equal(first.obs, second.obs)


def test_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the global generator is what is tested
    domains(bands(), n_domains=3)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002  as above


def test_writes_only_the_documented_keys():
    adata, before = bands(), bands()
    domains(adata, n_domains=4, key_added="region")
    assert set(adata.obs) == {"truth", "region"}
    assert set(adata.uns) == {"region"}
    assert set(adata.obsm) == set(before.obsm)
    assert not adata.obsp.keys()
    np.testing.assert_array_equal(adata.obsm["X_isovi"], before.obsm["X_isovi"])
    settings = {
        "use_rep": "X_isovi",
        "spatial_key": "spatial",
        "smoothing": "auto",
        "seed": 0,
        "n_domains": 4,
    }
    found = {"length", "noise", "candidates", "stability", "coordinates_only"}
    assert adata.uns["region"].keys() == settings.keys() | found
    assert settings.items() <= {k: v for k, v in adata.uns["region"].items() if k not in found}.items()


def test_categories_are_ordered_by_size():
    adata = bands()
    domains(adata, n_domains=4)
    column = adata.obs["isovi_domain"]
    assert list(column.cat.categories) == ["0", "1", "2", "3"]
    sizes = column.value_counts(sort=False).to_numpy()
    assert (np.diff(sizes) <= 0).all()


def test_can_be_written_and_read(tmp_path):
    adata = bands()
    adata.obs["slide"] = np.where(np.arange(adata.n_obs) < 200, "left", "right")
    domains(adata, section_key="slide")
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_series_equal(read.obs["isovi_domain"], adata.obs["isovi_domain"])
    assert read.uns["isovi_domain"]["section_key"] == "slide"


def test_domains_are_shared_by_sections_that_lie_on_each_other():
    left, right = bands(seed=1), bands(seed=2)
    right.obsm["spatial"] = right.obsm["spatial"][:, ::-1] * 1.0
    both = anndata.concat({"left": left, "right": right}, label="slide", index_unique="-")
    domains(both, section_key="slide", n_domains=4)
    assert agreement(both) > 0.9


def test_tiny_sections():
    adata = bands()
    adata.obs["slide"] = ["one"] * 2 + ["two"] + ["three"] * (adata.n_obs - 3)
    domains(adata, section_key="slide", n_domains=4)
    assert adata.obs["isovi_domain"].notna().all()


@pytest.mark.parametrize("width", [5, 60])
def test_fewer_spots_than_features(width):
    adata = bands(n=4)
    adata.obsm["wide"] = np.random.default_rng(0).normal(size=(16, width))
    domains(adata, use_rep="wide", n_domains=16)
    assert adata.obs["isovi_domain"].notna().all()


def test_singular_latent():
    adata = bands()
    adata.obsm["X_isovi"] = np.repeat(adata.obsm["X_isovi"][:, :1], 6, axis=1) * [1, 1, 2, 1e6, 1e-6, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        domains(adata, n_domains=3)
    assert adata.obs["isovi_domain"].nunique() == 3


def test_collapsed_latent_is_said_so():
    adata = bands()
    adata.obsm["X_isovi"] = np.ones((adata.n_obs, 5))
    with pytest.warns(IsoviWarning, match="only 1 found"):
        domains(adata, n_domains=3)
    assert adata.obs["isovi_domain"].nunique() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_domains": 401}, "no more domains than spots"),
        ({"n_domains": 0}, "at least one domain"),
        ({"n_rings": -1}, "must not be negative"),
        ({"smoothing": None, "n_rings": 2}, "n_rings=2"),
        ({"seed": -1}, "seed must be between"),
        ({"use_rep": "X_pca"}, "X_isovi"),
        ({"spatial_key": "nowhere"}, "nowhere"),
        ({"section_key": "nowhere"}, "nowhere"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        domains(bands(), **arguments)


def test_refuses_a_latent_with_nan():
    adata = bands()
    adata.obsm["X_isovi"][3, 1] = np.nan
    with pytest.raises(InputError, match="1 values not finite"):
        domains(adata)


class TestRingMeans:
    def test_constant_stays_constant(self):
        graph = spatial_neighbors(np.random.default_rng(0).normal(size=(50, 2)), np.zeros(50))
        np.testing.assert_allclose(ring_means(np.full((50, 1), 2.5), graph, 3), 2.5)

    def test_equals_graph_distances(self):
        rng = np.random.default_rng(0)
        graph = spatial_neighbors(rng.normal(size=(60, 2)), np.zeros(60), k=3)
        values = rng.normal(size=(60, 2))
        steps = sparse.csgraph.shortest_path(graph, directed=False, unweighted=True)
        found = ring_means(values, graph, 3)
        for ring in (1, 2, 3):
            for spot in range(60):
                expected = values[steps[spot] == ring]
                if len(expected):
                    block = found[spot, 2 * ring : 2 * ring + 2]
                    np.testing.assert_allclose(block, expected.mean(axis=0))

    def test_lonely_spot_repeats_itself(self):
        found = ring_means([[1.0], [5.0]], sparse.csr_matrix((2, 2), dtype=np.float32), 2)
        np.testing.assert_array_equal(found, [[1, 1, 1], [5, 5, 5]])
