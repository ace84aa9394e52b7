"""The continuous k-nearest-neighbour graph."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.neighbors import kneighbors_graph

from isovi._shapes import LatentArray


def continuous_neighbors(points: LatentArray, k: int = 10) -> sparse.csr_matrix:
    """Connect the points that are near on the scale of where they lie.

    x and y are joined where ``d(x, y)² < d_k(x) d_k(y)``, with d_k the distance to the k-th nearest
    point: a fixed number of neighbours where points are evenly dense, fewer long edges out of dense places
    (Berry & Sauer 2019, *Consistent manifold representation for topological data analysis*, with their
    δ = 1). Both ends of an edge being strictly less than the larger of the two d_k apart, one is among the
    k nearest of the other: no other pairs need be looked at.

    Parameters
    ----------
    points
        Shape ``(cell, dimension)``.
    k
        Which neighbour sets the scale; the last one where there are fewer.

    Returns
    -------
    Symmetric ones, shape ``(cell, cell)``, at most 2 k of them a row on average.
    """
    k = min(k, len(points) - 1)
    if k < 1:
        return sparse.csr_matrix((len(points),) * 2, dtype=np.float32)
    near = kneighbors_graph(points, k, mode="distance")
    scale = near.max(axis=1).toarray().ravel()
    both = near.maximum(near.T).tocoo()
    joined = both.data**2 < scale[both.row] * scale[both.col]
    ends = (both.row[joined], both.col[joined])
    return sparse.csr_matrix((np.ones(joined.sum(), dtype=np.float32), ends), shape=both.shape)
