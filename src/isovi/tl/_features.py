"""Principal components of log-normalised expression, made without a dense copy of the counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from isovi.data.lognorm import log_normalise

N_COMPONENTS = 20


class ExpressionFeatures:
    """Direction of a cell's expression from the mean, in principal components, at unit length.

    The length, which follows sequencing depth more than position, is left out: on real sections positions are
    then found better.

    Parameters
    ----------
    seed
        Of the iterative decomposition.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, counts: sparse.csr_matrix) -> ExpressionFeatures:
        """Learn library size, mean and components of counts of shape ``(cell, gene)``."""
        self.target_ = float(np.median(np.asarray(counts.sum(axis=1)).ravel()))
        expression = log_normalise(counts, self.target_)
        n = min(N_COMPONENTS, min(expression.shape) - 1)
        pca = PCA(n, svd_solver="arpack", random_state=self.seed).fit(expression)
        self.mean_, self.components_ = pca.mean_, pca.components_
        return self

    def transform(self, counts: sparse.csr_matrix, present: NDArray[np.bool_] | None = None) -> NDArray:
        """Features, shape ``(cell, feature)``; genes not ``present`` are taken to be at their mean."""
        mean = self.mean_ if present is None else self.mean_ * present
        scores = log_normalise(counts, self.target_) @ self.components_.T - mean @ self.components_.T
        return normalize(np.asarray(scores, dtype=np.float64))

    def strangeness(self, counts: sparse.csr_matrix, present: NDArray[np.bool_] | None = None) -> NDArray:
        """One minus the cosine of expression with what the components make of it, shape ``(cell,)``."""
        kept = np.ones(len(self.mean_)) if present is None else present.astype(float)
        mean, components = self.mean_ * kept, self.components_ * kept
        expression = log_normalise(counts, self.target_)
        scores = expression @ components.T - mean @ components.T
        along = expression @ mean + (scores * (expression @ components.T)).sum(axis=1)
        squared = (
            mean @ mean
            + 2 * scores @ (components @ mean)
            + ((scores @ (components @ components.T)) * scores).sum(axis=1)
        )
        length = np.sqrt(np.asarray(expression.multiply(expression).sum(axis=1)).ravel() * squared)
        return 1 - along / np.maximum(length, 1e-12)
