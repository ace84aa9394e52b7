"""Metrics of a latent representation of a tissue. They take arrays and need no model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from isovi.data.lognorm import TARGET_SUM, log_normalise
from isovi.errors import InputError
from isovi.geometry.pairs import pair_distances, sample_pairs
from isovi.graph import nearest

UNLABELLED = frozenset(
    {"", "nan", "na", "n/a", "none", "<na>", "undetermined", "unknown", "unlabelled", "unlabeled"}
)
"""Label values that mean "no label", compared in lower case and without surrounding blanks."""

Graph: TypeAlias = sparse.csr_matrix | sparse.csr_array
Counts: TypeAlias = ArrayLike | sparse.spmatrix | sparse.sparray


# ---------------------------------------------------------------------------- graph


def spatial_neighbors(coordinates: ArrayLike, sections: ArrayLike, k: int = 6) -> sparse.csr_matrix:
    """Connect each spot to its `k` nearest spots of the same section.

    Parameters
    ----------
    coordinates
        Positions, shape ``(n, d)``, in any isotropic unit.
    sections
        Section of each spot, shape ``(n,)``.
    k
        Number of neighbours. A section with `k` spots or fewer connects each spot to all others.

    Returns
    -------
    Directed binary connectivities, shape ``(n, n)``: ``float32`` ones, ``int32`` indices, empty diagonal.

    Raises
    ------
    InputError
        If `k` is not positive or the arrays have different numbers of rows.

    Examples
    --------
    >>> spatial_neighbors([[0.0], [1.0], [3.0]], [0, 0, 0], k=1).indices
    array([1, 0, 1], dtype=int32)
    """
    positions, codes = _matrix(coordinates, "coordinates"), np.asarray(sections)
    _same_rows(coordinates=positions, sections=codes)
    if k < 1:
        raise InputError(f"k={k}.", "k must be at least 1.", "Use for example k=6.")
    edges = [_nearest_in(positions, np.flatnonzero(codes == code), k) for code in np.unique(codes)]
    source, target = np.concatenate(edges, axis=1) if edges else np.empty((2, 0), np.int32)
    return sparse.csr_matrix((np.ones(len(source), np.float32), (source, target)), shape=(len(codes),) * 2)


def _nearest_in(positions: NDArray, members: NDArray, k: int) -> NDArray[np.int32]:
    """Edges (2, e) from each member to its k nearest other members."""
    k = min(k, len(members) - 1)
    if k < 1:
        return np.empty((2, 0), np.int32)
    found = nearest(positions[members], k + 1)
    keep = found != np.arange(len(members))[:, None]
    keep[keep.all(axis=1), -1] = False  # many coinciding spots: the spot itself is not among its nearest
    source = np.repeat(members, k)
    return np.stack([source, members[found[keep]]]).astype(np.int32)


# ---------------------------------------------------------------------------- autocorrelation


def morans_i_per_dimension(latent: ArrayLike, graph: Graph) -> NDArray[np.float64]:
    """Moran's I of each latent dimension: 1 is smooth in the tissue, 0 is random.

    Parameters
    ----------
    latent
        Shape ``(n, n_latent)``.
    graph
        Spatial connectivities, shape ``(n, n)``, e.g. from :func:`spatial_neighbors`.

    Returns
    -------
    Shape ``(n_latent,)``; NaN for constant dimensions, and for all dimensions if the graph has no edges.

    References
    ----------
    Zhou and Du (2024), Table 1.
    """
    return _autocorrelation(latent, graph)[0]


def gearys_c_per_dimension(latent: ArrayLike, graph: Graph) -> NDArray[np.float64]:
    """Geary's C of each latent dimension: 0 is smooth in the tissue, 1 is random.

    For parameters, result and reference see :func:`morans_i_per_dimension`.
    """
    return _autocorrelation(latent, graph)[1]


def morans_i(latent: ArrayLike, graph: Graph) -> float:
    """Mean of Moran's I over the latent dimensions that are not constant.

    See :func:`morans_i_per_dimension`; NaN if no dimension varies.
    """
    return _mean(morans_i_per_dimension(latent, graph))


def gearys_c(latent: ArrayLike, graph: Graph) -> float:
    """Mean of Geary's C over the latent dimensions that are not constant.

    See :func:`gearys_c_per_dimension`; NaN if no dimension varies.
    """
    return _mean(gearys_c_per_dimension(latent, graph))


def pair_sums(values: NDArray, weights: sparse.csr_matrix) -> NDArray[np.float64]:
    """Sums (2, d) over pairs of w_ij y_i y_j and of w_ij (y_i - y_j)², for each column y of (n, d)."""
    products = np.einsum("ij,ij->j", values, weights @ values)
    degrees = np.asarray(weights.sum(axis=0) + weights.sum(axis=1).T).ravel()
    return np.stack([products, degrees @ values**2 - 2 * products])


def autocorrelation_factors(values: NDArray, total: float) -> NDArray[np.float64]:
    """What turns :func:`pair_sums` of centred values (n, d) into Moran's I and Geary's C, (2, d).

    NaN for columns that are constant, and for all if the weights add to zero.
    """
    n, squares = len(values), (values**2).sum(axis=0)
    varies = (np.ptp(values, axis=0) > 0) & (total > 0) if n else np.zeros(values.shape[1], dtype=bool)
    scale = np.divide(1.0, total * squares, out=np.full_like(squares, np.nan), where=varies)
    return np.stack([n * scale, (n - 1) / 2 * scale])


def _autocorrelation(latent: ArrayLike, graph: Graph) -> NDArray[np.float64]:
    """Moran's I and Geary's C (2, d)."""
    values = _matrix(latent, "latent")
    _same_rows(latent=values, graph=graph)
    weights = sparse.csr_matrix(graph, dtype=np.float64)
    values = values - values.mean(axis=0) if len(values) else values
    return autocorrelation_factors(values, weights.sum()) * pair_sums(values, weights)


def _mean(values: NDArray) -> float:
    return float(np.mean(values, where=np.isfinite(values))) if np.isfinite(values).any() else float("nan")


# ---------------------------------------------------------------------------- geometry


def spearman_distance(
    latent: ArrayLike,
    coordinates: ArrayLike,
    sections: ArrayLike,
    *,
    rng: np.random.Generator,
    n_pairs: int = 200_000,
) -> float:
    """Spearman correlation of latent and tissue distances over pairs of spots of the same section.

    Parameters
    ----------
    latent, coordinates
        Shapes ``(n, n_latent)`` and ``(n, d)``, in any isotropic unit: only the order of distances is used.
    sections
        Section of each spot, shape ``(n,)``.
    rng
        Random generator that draws the pairs.
    n_pairs
        Number of pairs. If there are no more than this, all pairs are used once.

    Returns
    -------
    Between -1 and 1; NaN if no section has two spots or one of the distances does not vary.
    """
    codes = np.unique(np.asarray(sections), return_inverse=True)[1].reshape(-1)
    values, positions = _matrix(latent, "latent"), _matrix(coordinates, "coordinates")
    _same_rows(latent=values, coordinates=positions, sections=codes)
    source, target = sample_pairs(codes, n_pairs, rng)
    if not len(source):
        return float("nan")
    distances = [pair_distances(points, source, target) for points in (values, positions)]
    varied = all(np.ptp(one) > 0 for one in distances)
    return float(spearmanr(*distances).statistic) if varied else float("nan")


def coordinate_error(
    latent: ArrayLike,
    coordinates: ArrayLike,
    sections: ArrayLike,
    train: ArrayLike,
    heldout: ArrayLike,
    k: int = 10,
) -> float:
    """Median error of held-out positions predicted by nearest-neighbour regression in the latent space.

    The predicted position of a held-out spot is the mean position of its `k` nearest training spots in the
    latent space. Only spots of the same section are used, since positions of different sections are not
    comparable.

    Parameters
    ----------
    latent
        Shape ``(n, n_latent)``.
    coordinates
        Shape ``(n, d)``, in nearest-neighbour spacings; the result is in the same unit.
    sections
        Section of each spot, shape ``(n,)``.
    train, heldout
        Training spots and held-out spots: boolean masks of shape ``(n,)`` or indices.
    k
        Number of neighbours; in a section with fewer training spots, all of them.

    Returns
    -------
    Median over the held-out spots in sections with training spots; NaN if there are none.
    """
    values, positions = _matrix(latent, "latent"), _matrix(coordinates, "coordinates")
    codes = np.asarray(sections)
    _same_rows(latent=values, coordinates=positions, sections=codes)
    learn, ask = _indices(train, len(values)), _indices(heldout, len(values))
    errors = [np.empty(0)]
    for code in np.unique(codes[ask]):
        here, there = learn[codes[learn] == code], ask[codes[ask] == code]
        if len(here):
            predicted = _knn_positions(values[here], positions[here], values[there], k)
            errors.append(np.linalg.norm(predicted - positions[there], axis=1))
    joined = np.concatenate(errors)
    return float(np.median(joined)) if len(joined) else float("nan")


def _knn_positions(train_latent: NDArray, train_positions: NDArray, latent: NDArray, k: int) -> NDArray:
    index = NearestNeighbors(n_neighbors=min(k, len(train_latent))).fit(train_latent)
    return train_positions[index.kneighbors(latent, return_distance=False)].mean(axis=1)


# ---------------------------------------------------------------------------- expression


def lognorm(counts: Counts, target_sum: float = TARGET_SUM) -> NDArray[np.float64]:
    """Log-normalised expression as an array, shape ``(n, n_genes)``; see :func:`log_normalise`."""
    found = log_normalise(counts, target_sum)
    return found.toarray() if sparse.issparse(found) else found


def lognorm_squared_error(counts: Counts, expected: ArrayLike, target_sum: float = TARGET_SUM) -> float:
    """Sum of squared differences of log-normalised expression over one chunk of spots.

    Parameters
    ----------
    counts
        Observed counts, shape ``(n, n_genes)``, dense or sparse. They are converted to a dense array, so pass
        them in chunks.
    expected
        Normalised expression of the model, shape ``(n, n_genes)``: shares that sum to one over the genes.
    target_sum
        Counts per spot after normalisation.

    Returns
    -------
    The sum over spots and genes of ``(log1p(normalised counts) - log1p(target_sum * expected))**2``. Divided
    by the number of entries it gives the mean (Zhou and Du 2024, Fig. 5), see :func:`mse_lognorm`.
    """
    observed, shares = lognorm(counts, target_sum), _matrix(expected, "expected")
    if observed.shape != shares.shape:
        raise InputError(
            f"Counts have shape {observed.shape} but expected expression has shape {shares.shape}.",
            "Both must be for the same spots and genes.",
            "Pass the same chunk of both.",
        )
    return float(np.square(observed - np.log1p(target_sum * shares)).sum())


def mse_lognorm(chunks: Iterable[tuple[Counts, ArrayLike]], target_sum: float = TARGET_SUM) -> float:
    """Mean squared error of log-normalised expression, streamed over chunks of spots.

    Parameters
    ----------
    chunks
        Pairs ``(counts, expected)`` as in :func:`lognorm_squared_error`, of shape ``(n_chunk, n_genes)``.
    target_sum
        Counts per spot after normalisation.

    Returns
    -------
    Mean over all spots and genes (Zhou and Du 2024, Fig. 5); NaN if there are none.
    """
    total, entries = 0.0, 0
    for counts, expected in chunks:
        total += lognorm_squared_error(counts, expected, target_sum)
        entries += int(np.prod(np.shape(expected)))
    return total / entries if entries else float("nan")


# ---------------------------------------------------------------------------- labels


def is_labelled(labels: ArrayLike) -> NDArray[np.bool_]:
    """Whether each spot has a label, shape ``(n,)``: not missing and not in ``UNLABELLED``."""
    values = pd.Series(np.asarray(labels, dtype=object))
    named = ~values.astype(str).str.strip().str.lower().isin(UNLABELLED)
    return (values.notna() & named).to_numpy()


def clustering_agreement(domains: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Agreement of domains with reference labels over the labelled spots.

    Parameters
    ----------
    domains
        Domain of each spot, shape ``(n,)``.
    labels
        Reference label of each spot, shape ``(n,)``; spots that :func:`is_labelled` excludes are ignored.

    Returns
    -------
    ``ari`` (adjusted Rand index) and ``nmi`` (normalised mutual information, arithmetic mean); NaN if no spot
    is labelled.
    """
    found, reference = np.asarray(domains, dtype=object), np.asarray(labels, dtype=object)
    _same_rows(domains=found, labels=reference)
    known = is_labelled(reference)
    if not known.any():
        return {"ari": float("nan"), "nmi": float("nan")}
    found, reference = found[known].astype(str), reference[known].astype(str)
    return {
        "ari": float(adjusted_rand_score(reference, found)),
        "nmi": float(normalized_mutual_info_score(reference, found)),
    }


# ---------------------------------------------------------------------------- checks


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise InputError(
            f"{name} has shape {array.shape}.",
            "It must have two axes.",
            f"Pass {name} with one row per spot.",
        )
    return array


def _same_rows(**arrays: NDArray | Graph) -> None:
    rows = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise InputError(
            f"The arrays have different numbers of rows: {rows}.",
            "Each must have one row per spot.",
            "Subset them in the same way.",
        )


def _indices(which: ArrayLike, n: int) -> NDArray[np.intp]:
    chosen = np.asarray(which)
    if chosen.dtype == bool and chosen.shape != (n,):
        raise InputError(
            f"A boolean mask has shape {chosen.shape}.",
            f"It must have shape ({n},).",
            "Pass indices or a full mask.",
        )
    return np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.intp)
