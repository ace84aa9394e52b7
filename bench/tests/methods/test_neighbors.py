from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from isovi_bench.methods.neighbors import continuous_neighbors


@given(seed=st.integers(0, 1000), n=st.integers(3, 60), k=st.integers(1, 12), dimension=st.integers(1, 6))
def test_edges_are_those_of_the_definition_over_all_pairs(seed: int, n: int, k: int, dimension: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, dimension)) * rng.lognormal(sigma=2.0, size=(n, 1))
    distance = cdist(points, points)
    scale = np.sort(distance, axis=1)[:, min(k, n - 1)]
    expected = (distance**2 < np.outer(scale, scale) * (1 - 1e-9)) & ~np.eye(n, dtype=bool)
    found = continuous_neighbors(points, k)
    allowed = (distance**2 < np.outer(scale, scale) * (1 + 1e-9)) & ~np.eye(n, dtype=bool)
    assert (found.toarray().astype(bool) >= expected).all()
    assert (found.toarray().astype(bool) <= allowed).all()
    assert set(found.data) <= {1.0}
    assert found.nnz <= 2 * k * n


@given(factor=st.floats(1e-3, 1e3))
def test_the_graph_does_not_change_with_the_unit(factor: float) -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    assert (continuous_neighbors(points, 5) != continuous_neighbors(factor * points, 5)).nnz == 0


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_points_have_no_edges(n: int) -> None:
    found = continuous_neighbors(np.zeros((n, 2)), 5)
    assert found.shape == (n, n) and found.nnz == 0
