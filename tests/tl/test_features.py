from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from isovi.tl._features import ExpressionFeatures


@pytest.fixture
def counts() -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(0, 1, (3, 60)))[rng.integers(3, size=200)]
    return sparse.csr_matrix(rng.poisson(mean).astype(np.float32))


def dense(counts: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, PCA]:
    """Log-normalised expression, its scores and its components, made the plain way."""
    totals = np.asarray(counts.sum(axis=1))
    expression = np.log1p(counts.toarray() / totals * np.median(totals))
    pca = PCA(20, svd_solver="full").fit(expression)
    return expression, pca.transform(expression), pca


def test_features_are_the_directions_of_the_scores(counts: sparse.csr_matrix) -> None:
    found = ExpressionFeatures().fit(counts).transform(counts)
    scores = dense(counts)[1]
    expected = scores / np.linalg.norm(scores, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)  # signs are free


def test_strangeness_is_one_minus_a_cosine(counts: sparse.csr_matrix) -> None:
    expression, scores, pca = dense(counts)
    made = pca.inverse_transform(scores)
    cosine = (
        (expression * made).sum(axis=1) / np.linalg.norm(expression, axis=1) / np.linalg.norm(made, axis=1)
    )
    np.testing.assert_allclose(ExpressionFeatures().fit(counts).strangeness(counts), 1 - cosine, atol=1e-3)


def test_missing_genes_move_a_cell_less_than_empty_ones(counts: sparse.csr_matrix) -> None:
    features = ExpressionFeatures().fit(counts)
    present = np.arange(60) >= 15
    empty = sparse.csr_matrix(counts.multiply(present))
    whole = features.transform(counts)
    known, unknown = (features.transform(empty, given) for given in (present, None))
    assert np.linalg.norm(known - whole, axis=1).mean() < 0.8 * np.linalg.norm(unknown - whole, axis=1).mean()
