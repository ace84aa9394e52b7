"""Measures of quality: known values, invariances and the cases at the edge."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from isovi.errors import InputError
from isovi.tl import metrics


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def grid() -> np.ndarray:
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    return np.column_stack([x.ravel(), y.ravel()])


@pytest.fixture
def one_section(grid: np.ndarray) -> np.ndarray:
    return np.zeros(len(grid), dtype=int)


def rotation(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


class TestSpatialNeighbors:
    def test_finds_the_nearest_by_brute_force(self, rng):
        points = rng.normal(size=(40, 3))
        graph = metrics.spatial_neighbors(points, np.zeros(40), k=5)
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        expected = np.zeros((40, 40))
        np.put_along_axis(expected, np.argsort(distance, axis=1)[:, :5], 1, axis=1)
        np.testing.assert_array_equal(graph.toarray(), expected)

    def test_types(self, grid, one_section):
        graph = metrics.spatial_neighbors(grid, one_section)
        assert sparse.issparse(graph)
        assert graph.format == "csr"
        assert graph.dtype == np.float32
        assert graph.indices.dtype == np.int32
        assert set(np.diff(graph.indptr)) == {6}

    def test_stays_within_sections(self, rng):
        points, sections = np.repeat(rng.normal(size=(30, 2)), 2, axis=0), np.tile([5, 9], 30)
        edges = metrics.spatial_neighbors(points, sections, k=4).tocoo()
        assert edges.nnz == 60 * 4
        np.testing.assert_array_equal(sections[edges.row], sections[edges.col])

    def test_small_sections_connect_to_all_they_have(self):
        graph = metrics.spatial_neighbors(np.arange(6.0)[:, None], [0, 0, 0, 1, 1, 2], k=6)
        np.testing.assert_array_equal(np.diff(graph.indptr), [2, 2, 2, 1, 1, 0])

    def test_many_spots_at_one_place_never_point_to_themselves(self):
        graph = metrics.spatial_neighbors(np.zeros((30, 2)), np.zeros(30), k=6)
        assert graph.diagonal().sum() == 0
        assert set(np.diff(graph.indptr)) == {6}

    @pytest.mark.parametrize("arguments", [(np.zeros((3, 2)), [0, 0]), (np.zeros(3), [0, 0, 0])])
    def test_refuses_arrays_that_do_not_match(self, arguments):
        with pytest.raises(InputError):
            metrics.spatial_neighbors(*arguments)

    def test_refuses_no_neighbours(self):
        with pytest.raises(InputError, match="k must be at least 1"):
            metrics.spatial_neighbors(np.zeros((3, 2)), [0, 0, 0], k=0)


class TestAutocorrelation:
    def test_gradient_is_near_one_and_permutation_near_zero(self, grid, one_section, rng):
        graph = metrics.spatial_neighbors(grid, one_section)
        assert metrics.morans_i(grid, graph) > 0.9
        assert metrics.gearys_c(grid, graph) < 0.1
        shuffled = rng.permutation(grid)
        assert abs(metrics.morans_i(shuffled, graph)) < 0.1
        assert abs(metrics.gearys_c(shuffled, graph) - 1) < 0.1

    def test_equals_the_definition(self, rng):
        points, values = rng.normal(size=(50, 2)), rng.normal(size=(50, 3)) + 2
        graph = metrics.spatial_neighbors(points, np.zeros(50))
        w, z = graph.toarray().astype(float), values - values.mean(axis=0)
        moran = 50 / w.sum() * np.einsum("ij,ik,jk->k", w, z, z) / (z**2).sum(axis=0)
        square = (values[:, None] - values[None]) ** 2
        geary = 49 / (2 * w.sum()) * np.einsum("ij,ijk->k", w, square) / (z**2).sum(axis=0)
        np.testing.assert_allclose(metrics.morans_i_per_dimension(values, graph), moran, rtol=1e-10)
        np.testing.assert_allclose(metrics.gearys_c_per_dimension(values, graph), geary, rtol=1e-10)
        assert metrics.morans_i(values, graph) == pytest.approx(moran.mean())
        assert metrics.gearys_c(values, graph) == pytest.approx(geary.mean())

    def test_constant_dimension_is_left_out_of_the_mean(self, grid, one_section):
        graph = metrics.spatial_neighbors(grid, one_section)
        latent = np.column_stack([grid[:, 0], np.ones(len(grid))])
        per_dimension = metrics.morans_i_per_dimension(latent, graph)
        assert np.isnan(per_dimension[1])
        assert metrics.morans_i(latent, graph) == per_dimension[0]

    @pytest.mark.parametrize("measure", [metrics.morans_i, metrics.gearys_c])
    def test_is_undefined_without_edges_or_variation(self, measure, grid, one_section):
        assert np.isnan(measure(grid, sparse.csr_matrix((400, 400), dtype=np.float32)))
        assert np.isnan(measure(np.ones((400, 2)), metrics.spatial_neighbors(grid, one_section)))

    def test_float32_latent(self, grid, one_section):
        graph = metrics.spatial_neighbors(grid, one_section)
        assert metrics.morans_i(grid.astype(np.float32), graph) == pytest.approx(
            metrics.morans_i(grid, graph)
        )


class TestSpearmanDistance:
    def test_all_pairs_equal_the_full_sum(self, rng):
        latent, points = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
        found = metrics.spearman_distance(latent, points, np.zeros(40, int), rng=rng, n_pairs=10**6)
        assert found == pytest.approx(spearmanr(pdist(latent), pdist(points)).statistic)

    def test_similarity_of_tissue_gives_one(self, grid, one_section, rng):
        padded = np.hstack([grid, np.zeros((len(grid), 3))])
        latent = 7.0 * (padded @ rotation(rng, 5)).round(9) + 3
        assert metrics.spearman_distance(latent, grid, one_section, rng=rng, n_pairs=5000) > 0.9999

    def test_unrelated_latent_gives_zero(self, grid, one_section, rng):
        latent = rng.normal(size=(len(grid), 4))
        assert abs(metrics.spearman_distance(latent, grid, one_section, rng=rng, n_pairs=20_000)) < 0.1

    def test_sections_far_apart_in_the_latent_do_not_matter(self, grid, rng):
        sections = np.repeat(["a", "b"], 200)
        latent = grid + np.where(sections == "a", 0, 1000)[:, None]
        assert metrics.spearman_distance(latent, grid, sections, rng=rng) == pytest.approx(1.0)

    def test_same_generator_same_figure(self, grid, one_section):
        latent = np.random.default_rng(1).normal(size=(400, 2))
        first, second = (
            metrics.spearman_distance(latent, grid, one_section, rng=np.random.default_rng(3), n_pairs=500)
            for _ in range(2)
        )
        assert first == second

    def test_is_undefined_without_pairs_or_variation(self, grid, one_section, rng):
        assert np.isnan(metrics.spearman_distance(grid[:3], grid[:3], [0, 1, 2], rng=rng))
        assert np.isnan(metrics.spearman_distance(np.ones_like(grid), grid, one_section, rng=rng))


class TestCoordinateError:
    @pytest.fixture
    def split(self, grid, rng) -> tuple[np.ndarray, np.ndarray]:
        order = rng.permutation(len(grid))
        return order[:300], order[300:]

    def test_is_below_a_spacing_where_the_latent_is_the_tissue(self, grid, one_section, split):
        assert metrics.coordinate_error(grid, grid, one_section, *split) < 1
        assert metrics.coordinate_error(grid, grid, one_section, *split, k=1) == 1

    def test_training_spots_find_themselves(self, grid, one_section):
        everyone = np.ones(len(grid), dtype=bool)
        assert metrics.coordinate_error(grid, grid, one_section, everyone, everyone, k=1) == 0

    def test_random_latent_is_no_better_than_the_mean_position(self, grid, one_section, split, rng):
        error = metrics.coordinate_error(rng.normal(size=(400, 3)), grid, one_section, *split)
        blind = np.median(np.linalg.norm(grid[split[1]] - grid.mean(axis=0), axis=1))
        assert error > 0.9 * blind

    def test_is_invariant_to_similarity_of_the_latent(self, grid, one_section, split, rng):
        latent = np.hstack([grid, np.zeros((400, 2))]) + rng.normal(size=(400, 4))
        moved = 0.01 * latent @ rotation(rng, 4) + 5
        before = metrics.coordinate_error(latent, grid, one_section, *split)
        assert metrics.coordinate_error(moved, grid, one_section, *split) == pytest.approx(before)

    def test_scales_with_the_coordinates(self, grid, one_section, split):
        before = metrics.coordinate_error(grid, grid, one_section, *split)
        assert metrics.coordinate_error(grid, 3 * grid, one_section, *split) == pytest.approx(3 * before)

    def test_masks_and_indices_agree(self, grid, one_section, split, rng):
        latent = grid + 0.1 * rng.normal(size=grid.shape)
        masks = [np.isin(np.arange(400), part) for part in split]
        by_index = metrics.coordinate_error(latent, grid, one_section, *split)
        assert metrics.coordinate_error(latent, grid, one_section, *masks) == pytest.approx(by_index)

    def test_neighbours_come_from_the_same_section(self, grid):
        points = np.vstack([grid, 1000 - grid])
        sections, latent = np.repeat([0, 1], 400), np.vstack([grid, grid])
        heldout = np.arange(800) % 4 == 0
        assert metrics.coordinate_error(latent, points, sections, ~heldout, heldout) < 1.5

    def test_sections_without_training_spots_are_left_out(self, grid):
        points, sections = np.vstack([grid, grid]), np.repeat(["a", "b"], 400)
        train, heldout = np.arange(0, 400, 2), np.r_[np.arange(1, 400, 2), np.arange(400, 800)]
        latent = np.vstack([grid, 100 * grid])
        both = metrics.coordinate_error(latent, points, sections, train, heldout)
        assert both == metrics.coordinate_error(latent, points, sections, train, heldout[:200])
        assert np.isnan(metrics.coordinate_error(latent, points, sections, train, heldout[200:]))

    def test_fewer_training_spots_than_neighbours(self):
        points = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
        error = metrics.coordinate_error(points, points, [0, 0, 0], [0, 1], [2], k=10)
        assert error == pytest.approx(1.0)

    def test_refuses_a_mask_of_another_length(self, grid, one_section):
        with pytest.raises(InputError, match="must have shape"):
            metrics.coordinate_error(grid, grid, one_section, np.ones(3, bool), [0])


class TestMseLognorm:
    @pytest.fixture
    def counts(self, rng) -> np.ndarray:
        return rng.poisson(2.0, size=(30, 8)) + np.eye(30, 8, dtype=int)

    def test_perfect_prediction_is_zero(self, counts):
        shares = counts / counts.sum(axis=1, keepdims=True)
        assert metrics.mse_lognorm([(counts, shares)]) == pytest.approx(0, abs=1e-20)

    def test_equals_the_definition_and_streams(self, counts, rng):
        shares = rng.dirichlet(np.ones(8), size=30)
        observed = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
        expected = np.mean((observed - np.log1p(shares * 1e4)) ** 2)
        chunks = ((sparse.csr_matrix(counts[i : i + 7]), shares[i : i + 7]) for i in range(0, 30, 7))
        assert metrics.mse_lognorm(chunks) == pytest.approx(expected)
        assert metrics.mse_lognorm([(counts, shares)]) == pytest.approx(expected)

    def test_library_size_does_not_matter(self, counts, rng):
        shares = rng.dirichlet(np.ones(8), size=30)
        deeper = counts * rng.integers(1, 50, size=(30, 1))
        assert metrics.mse_lognorm([(deeper, shares)]) == pytest.approx(
            metrics.mse_lognorm([(counts, shares)])
        )

    def test_empty_spots_and_empty_input(self):
        assert metrics.lognorm_squared_error(np.zeros((2, 3)), np.zeros((2, 3))) == 0
        assert np.isnan(metrics.mse_lognorm([]))

    def test_refuses_other_genes(self, counts):
        with pytest.raises(InputError, match="same spots and genes"):
            metrics.lognorm_squared_error(counts, np.ones((30, 9)))


class TestClusteringAgreement:
    def test_renaming_is_perfect(self):
        found = metrics.clustering_agreement(["2", "2", "0", "1"], ["a", "a", "b", "c"])
        assert found == {"ari": pytest.approx(1.0), "nmi": pytest.approx(1.0)}

    @pytest.mark.parametrize(
        "missing", [None, np.nan, pd.NA, "", " ", "nan", "NaN", "undetermined", "Unknown", "UNLABELLED", "NA"]
    )
    def test_unlabelled_spots_are_ignored(self, missing):
        labels = np.array(["a", "a", "b", "b", missing, missing], dtype=object)
        found = metrics.clustering_agreement([0, 0, 1, 1, 0, 1], labels)
        assert found == {"ari": pytest.approx(1.0), "nmi": pytest.approx(1.0)}

    def test_categoricals_with_missing_values(self):
        labels = pd.Categorical(["a", "a", "b", None])
        assert metrics.is_labelled(labels).tolist() == [True, True, True, False]
        assert metrics.clustering_agreement(pd.Categorical(["0", "0", "1", "0"]), labels)["ari"] == 1

    def test_unrelated_is_near_zero(self, rng):
        found = metrics.clustering_agreement(rng.integers(0, 4, 2000), rng.integers(0, 4, 2000).astype(str))
        assert abs(found["ari"]) < 0.02
        assert found["nmi"] < 0.02

    def test_is_undefined_without_labels(self):
        assert np.isnan(list(metrics.clustering_agreement([0, 1], ["", "nan"]).values())).all()
