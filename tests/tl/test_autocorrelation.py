"""Spatial autocorrelation: moments are those of all permutations, and p-values are probabilities."""

from __future__ import annotations

import itertools
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse, stats

from isovi.errors import InputError
from isovi.tl import gearys_c_per_dimension, morans_i_per_dimension, spatial_neighbors
from isovi.tl.autocorrelation import STATISTICS, autocorrelation_table, spatial_autocorrelation

P_VALUES = [f"{name}_p" for name in STATISTICS]


def tissue(n: int = 300, seed: int = 0) -> anndata.AnnData:
    """Spots with two smooth dimensions, one of noise, and one that is constant."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, 10, (n, 2))
    adata = anndata.AnnData(obs=pd.DataFrame(index=[f"spot{i}" for i in range(n)]))
    adata.obsm["spatial"] = positions
    smooth = np.sin(positions) + rng.normal(size=(n, 2))
    adata.obsm["X_isovi"] = np.c_[smooth, rng.normal(size=n), np.ones(n)].astype(np.float32)
    return adata


def offset(adata: anndata.AnnData, by: float) -> anndata.AnnData:
    """Two sections that lie on each other and differ by a constant."""
    adata.obs["slide"] = np.where(np.arange(adata.n_obs) % 2, "right", "left")
    adata.obsm["X_isovi"] = adata.obsm["X_isovi"] + by * (np.arange(adata.n_obs) % 2)[:, None]
    return adata


def scanpys(values: np.ndarray, graph: sparse.csr_matrix) -> np.ndarray:
    """Both statistics, in the order of the table."""
    return np.stack([morans_i_per_dimension(values, graph), gearys_c_per_dimension(values, graph)])


class TestStatistics:
    @settings(max_examples=30)
    @given(
        values=arrays(np.float64, (25, 2), elements=st.floats(-5, 5, width=16)),
        k=st.integers(1, 6),
        n_left=st.integers(0, 25),
    )
    def test_equal_scanpys(self, values, k, n_left):
        sections = np.arange(25) < n_left
        graph = spatial_neighbors(np.random.default_rng(k).normal(size=(25, 2)), sections, k)
        found = autocorrelation_table(values, graph, sections)[list(STATISTICS)].to_numpy().T
        np.testing.assert_allclose(found, scanpys(values, graph), rtol=0, atol=1e-6)

    def test_equal_scanpys_on_weighted_and_row_standardised_graphs(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(200, 3))
        graph = spatial_neighbors(rng.normal(size=(200, 2)), np.zeros(200))
        weighted = sparse.csr_matrix(graph.multiply(rng.uniform(size=(200, 1))), dtype=np.float32)
        found = autocorrelation_table(values, weighted, np.zeros(200))[list(STATISTICS)].to_numpy().T
        np.testing.assert_allclose(found, scanpys(values, weighted), rtol=0, atol=1e-6)
        rows = sparse.csr_matrix(graph / 6)
        pd.testing.assert_frame_equal(
            autocorrelation_table(values, rows, np.zeros(200)),
            autocorrelation_table(values, graph, np.zeros(200)),
        )


class TestMoments:
    @pytest.mark.parametrize("sizes", [(6,), (4, 4), (3, 4, 2, 1)])
    @pytest.mark.parametrize("shift", [0.0, 30.0])
    def test_are_those_of_all_permutations(self, sizes, shift):
        rng = np.random.default_rng(len(sizes))
        sections = np.repeat(np.arange(len(sizes)), sizes)
        graph = spatial_neighbors(rng.normal(size=(len(sections), 2)), sections, k=2)
        values = rng.exponential(size=(len(sections), 2)) + shift * sections[:, None]
        spots = [np.flatnonzero(sections == code) for code in range(len(sizes))]
        orders = itertools.product(*(itertools.permutations(part) for part in spots))
        permuted = np.stack([values[np.concatenate(order)] for order in orders], axis=1)
        every = scanpys(permuted.reshape(len(values), -1), graph).reshape(2, -1, 2)
        table = autocorrelation_table(values, graph, sections)
        for i, name in enumerate(STATISTICS):
            mean, deviation = every[i].mean(axis=0), every[i].std(axis=0)
            np.testing.assert_allclose(table[f"{name}_expected"], mean, rtol=1e-6)
            np.testing.assert_allclose(table[f"{name}_z"], (table[name] - mean) / deviation, atol=1e-3)

    def test_expected_values_of_one_section(self):
        rng = np.random.default_rng(0)
        graph = spatial_neighbors(rng.normal(size=(80, 2)), np.zeros(80))
        table = autocorrelation_table(rng.normal(size=(80, 3)), graph, np.zeros(80))
        np.testing.assert_allclose(table["morans_i_expected"], -1 / 79)
        np.testing.assert_allclose(table["gearys_c_expected"], 1.0)

    def test_do_not_change_with_location_and_scale(self):
        adata = tissue()
        before = spatial_autocorrelation(adata)
        adata.obsm["X_isovi"] = 100.0 - 3.0 * adata.obsm["X_isovi"].astype(np.float64)
        pd.testing.assert_frame_equal(spatial_autocorrelation(adata), before, rtol=1e-4)

    def test_survive_sections_that_differ_greatly(self):
        apart = spatial_autocorrelation(offset(tissue(), 1000.0), section_key="slide")
        assert apart["gearys_c_z"].iloc[:3].to_numpy() == pytest.approx(
            spatial_autocorrelation(offset(tissue(), 0.0), section_key="slide")["gearys_c_z"].iloc[:3],
            rel=1e-3,
        )


def null_p_values(n_perms: int | None, by: float) -> np.ndarray:
    """p-values (300, 2) of noise on two small sections: 20 dimensions on each of 15 graphs."""
    rng = np.random.default_rng(0)
    sections = np.repeat([0, 1], 30)
    found = []
    for seed in range(15):
        graph = spatial_neighbors(rng.normal(size=(60, 2)), sections)
        values = rng.normal(size=(60, 20)) + by * sections[:, None]
        found.append(autocorrelation_table(values, graph, sections, n_perms=n_perms, seed=seed)[P_VALUES])
    return np.concatenate(found)


class TestPValues:
    @pytest.mark.parametrize("n_perms", [None, 199])
    @pytest.mark.parametrize("by", [0.0, 5.0])
    def test_are_uniform_for_noise_whatever_lies_between_sections(self, n_perms, by):
        for p in null_p_values(n_perms, by).T:
            assert stats.kstest(p, "uniform").pvalue > 0.01
            assert np.mean(p < 0.05) < 0.1

    @pytest.mark.parametrize("n_perms", [None, 999])
    def test_are_small_for_what_is_smooth_only(self, n_perms):
        table = spatial_autocorrelation(tissue(), n_perms=n_perms)
        assert (table.loc[["Z1", "Z2"], P_VALUES] <= 1e-3).all(axis=None)
        assert (table.loc["Z3", P_VALUES] > 0.05).all()

    def test_are_large_for_what_alternates(self):
        positions = np.arange(50.0)[:, None]
        values = (-1.0) ** np.arange(50)[:, None]
        graph = spatial_neighbors(positions, np.zeros(50), k=2)
        assert (autocorrelation_table(values, graph, np.zeros(50))[P_VALUES] > 0.99).all(axis=None)

    def test_of_both_kinds_agree_on_many_spots(self):
        rng = np.random.default_rng(0)
        graph = spatial_neighbors(rng.normal(size=(3000, 2)), np.zeros(3000))
        values = rng.normal(size=(3000, 12))
        analytic = autocorrelation_table(values, graph, np.zeros(3000))
        permuted = autocorrelation_table(values, graph, np.zeros(3000), n_perms=999)
        error = 3.5 * np.sqrt(0.25 / 999)  # that many standard errors of a share, at most
        np.testing.assert_allclose(permuted[P_VALUES], analytic[P_VALUES], atol=error)

    def test_permutations_count_the_data_themselves_and_ties(self):
        graph = sparse.csr_matrix([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]])
        smooth = autocorrelation_table([[1.0], [1.0], [0.0]], graph, np.zeros(3), n_perms=4000)
        assert smooth["morans_i_p"].item() == pytest.approx(1 / 3, abs=0.03)
        assert spatial_autocorrelation(tissue(), n_perms=9)["morans_i_p"].min() == pytest.approx(0.1)

    def test_are_adjusted_over_the_dimensions_that_vary(self):
        table = spatial_autocorrelation(tissue())
        for name in STATISTICS:
            p = table[f"{name}_p"].iloc[:3]
            np.testing.assert_allclose(table[f"{name}_p_adjusted"].iloc[:3], stats.false_discovery_control(p))


class TestSections:
    def test_do_not_leak(self):
        adata = offset(tissue(), 0.0)
        halves = [spatial_autocorrelation(adata, cells=adata.obs["slide"] == s) for s in ("left", "right")]
        moved = adata.copy()
        moved.obsm["spatial"][adata.obs["slide"] == "right"] += 1e4
        joint = spatial_autocorrelation(adata, section_key="slide")
        pd.testing.assert_frame_equal(joint, spatial_autocorrelation(moved, section_key="slide"))
        assert joint["morans_i_z"].iloc[2] == pytest.approx(
            sum(half["morans_i_z"].iloc[2] for half in halves) / np.sqrt(2), abs=0.1
        )

    def test_an_offset_alone_is_expected(self):
        adata = offset(tissue(), 5.0)
        within = spatial_autocorrelation(adata, section_key="slide").loc["Z3"]
        assert within["morans_i"] > 0.8 and within["morans_i_expected"] > 0.8
        assert abs(within["morans_i_z"]) < 3 and abs(within["gearys_c_z"]) < 3
        graph = spatial_neighbors(adata.obsm["spatial"], adata.obs["slide"])
        across = autocorrelation_table(adata.obsm["X_isovi"], graph, np.zeros(300)).loc["Z3"]
        assert across["morans_i_z"] > 20 and across["gearys_c_z"] < -20


class TestWhatCannotVary:
    def test_constant_dimension(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # no division by zero
            for n_perms in (None, 9):
                assert spatial_autocorrelation(tissue(), n_perms=n_perms).loc["Z4"].isna().all()

    @pytest.mark.parametrize("n_perms", [None, 9])
    @pytest.mark.parametrize("n", [2, 3, 7])
    def test_all_spots_are_neighbours(self, n, n_perms):
        rng = np.random.default_rng(0)
        graph = spatial_neighbors(rng.normal(size=(n, 2)), np.zeros(n))
        table = autocorrelation_table(rng.normal(size=(n, 3)), graph, np.zeros(n), n_perms=n_perms)
        np.testing.assert_allclose(table["morans_i"], -1 / (n - 1))
        assert table[["morans_i_z", "gearys_c_z", *P_VALUES]].isna().all(axis=None)

    def test_no_spot_has_a_neighbour(self):
        assert (
            autocorrelation_table(np.ones((4, 2)), sparse.csr_matrix((4, 4)), np.arange(4))
            .isna()
            .all(axis=None)
        )

    def test_lonely_spots_among_others(self):
        adata = tissue()
        adata.obs["slide"] = ["one", "two", *["rest"] * 298]
        assert spatial_autocorrelation(adata, section_key="slide").iloc[:3].notna().all(axis=None)


class TestOnAnnData:
    def test_seed_decides_the_permutations(self):
        first, again, other = (spatial_autocorrelation(tissue(), n_perms=99, seed=s) for s in (1, 1, 2))
        pd.testing.assert_frame_equal(first, again)
        assert not first[P_VALUES].equals(other[P_VALUES])

    def test_leaves_the_global_generator_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002  the global generator is what is tested
        spatial_autocorrelation(tissue(), n_perms=5)
        np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002  as above

    def test_cells_alone_take_part(self):
        adata = tissue()
        mask = np.arange(300) % 3 == 0
        expected = spatial_autocorrelation(adata[mask].copy())
        adata.obsm["X_isovi"][~mask] += 100
        pd.testing.assert_frame_equal(spatial_autocorrelation(adata, cells=mask), expected)
        pd.testing.assert_frame_equal(spatial_autocorrelation(adata, cells=np.flatnonzero(mask)), expected)
        assert adata.uns["isovi_autocorrelation_params"]["n_spots"] == 100

    def test_writes_only_the_documented_keys(self):
        adata, before = tissue(), tissue()
        table = spatial_autocorrelation(adata, key_added="smooth")
        assert set(adata.uns) == {"smooth", "smooth_params"}
        assert adata.obs.empty and not adata.obsp.keys()
        np.testing.assert_array_equal(adata.obsm["X_isovi"], before.obsm["X_isovi"])
        pd.testing.assert_frame_equal(adata.uns["smooth"], table)
        assert adata.uns["smooth_params"] == {
            "use_rep": "X_isovi",
            "spatial_key": "spatial",
            "n_neighbors": 6,
            "n_spots": 300,
        }

    def test_can_be_written_and_read(self, tmp_path):
        adata = offset(tissue(), 1.0)
        table = spatial_autocorrelation(adata, section_key="slide", n_perms=9, seed=3)
        adata.write_h5ad(tmp_path / "a.h5ad")
        read = anndata.read_h5ad(tmp_path / "a.h5ad")
        stored = read.uns["isovi_autocorrelation"]
        pd.testing.assert_frame_equal(stored, table, check_index_type=False)
        assert read.uns["isovi_autocorrelation_params"] == adata.uns["isovi_autocorrelation_params"]
        assert read.uns["isovi_autocorrelation_params"]["section_key"] == "slide"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"use_rep": "X_pca"}, "X_isovi"),
            ({"spatial_key": "nowhere"}, "nowhere"),
            ({"section_key": "nowhere"}, "nowhere"),
            ({"n_neighbors": 0}, "at least 1"),
            ({"n_perms": 0}, "at least one permutation"),
            ({"seed": -1}, "must not be negative"),
            ({"cells": np.zeros(300, dtype=bool)}, "selects none of 300 spots"),
        ],
    )
    def test_refuses(self, arguments, message):
        adata = tissue()
        with pytest.raises(InputError, match=message):
            spatial_autocorrelation(adata, **arguments)
        assert not adata.uns

    def test_refuses_a_graph_across_sections_or_with_loops(self):
        values, ring = (
            np.random.default_rng(0).normal(size=(4, 1)),
            sparse.csr_matrix(np.roll(np.eye(4), 1, 0)),
        )
        with pytest.raises(InputError, match="2 connections between sections"):
            autocorrelation_table(values, ring, [0, 0, 1, 1])
        with pytest.raises(InputError, match="4 of a spot with itself"):
            autocorrelation_table(values, sparse.csr_matrix(np.eye(4)), np.zeros(4))

    def test_refuses_other_spots(self):
        with pytest.raises(InputError, match="different numbers of rows"):
            autocorrelation_table(np.ones((4, 1)), sparse.csr_matrix((4, 4)), np.zeros(3))
