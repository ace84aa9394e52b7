"""Spatial autocorrelation of latent dimensions, with p-values under permutation within sections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.stats import false_discovery_control, norm

from isovi.errors import InputError
from isovi.tl import _inputs
from isovi.tl.metrics import Graph, _matrix, _same_rows, autocorrelation_factors, pair_sums, spatial_neighbors

STATISTICS = ("morans_i", "gearys_c")
"""Columns of the table with the statistics; the other columns of a statistic begin with its name."""

_ROUNDING = 1e-12  # relative: sums of squares below this are zero, permuted values this close are equal


def spatial_autocorrelation(
    adata: AnnData,
    *,
    use_rep: str = "X_isovi",
    spatial_key: str = "spatial",
    section_key: str | None = None,
    cells: ArrayLike | None = None,
    n_neighbors: int = 6,
    n_perms: int | None = None,
    seed: int = 0,
    key_added: str = "isovi_autocorrelation",
) -> pd.DataFrame:
    """Moran's I and Geary's C of each latent dimension, with p-values for spatial autocorrelation.

    See :func:`autocorrelation_table` for the columns and the null hypothesis.

    Parameters
    ----------
    adata
        Annotated data matrix; only ``uns[key_added]`` and ``uns[key_added + "_params"]`` are written.
    use_rep
        Key in ``obsm`` of the latent representation, shape ``(n_obs, n_latent)``.
    spatial_key
        Key in ``obsm`` of the positions, shape ``(n_obs, 2)`` or ``(n_obs, 3)``.
    section_key
        Column of ``obs`` with the tissue section; ``None`` if there is only one. Neighbours are computed, and
        values permuted, within sections.
    cells
        Spots to use, e.g. the held-out spots: boolean mask of shape ``(n_obs,)`` or row numbers; all by
        default. Only these spots can be neighbours.
    n_neighbors
        Number of neighbours of each spot on the spatial graph, see :func:`spatial_neighbors`.
    n_perms
        Number of random permutations for the p-values; ``None`` uses the normal approximation.
    seed
        Random seed of the permutations.
    key_added
        Key in ``uns`` of the table. The same key with ``"_params"`` contains the parameters and the number of
        spots used.

    Returns
    -------
    The table, one row per dimension: ``"Z1"``, ``"Z2"``, ...

    Raises
    ------
    InputError
        If a key is missing, the latent representation or the positions are not finite, `cells` is not a valid
        selection of spots, or a number is out of range.
    """
    latent, spots = _inputs.latent_spots(adata, use_rep, spatial_key, section_key, cells)
    graph = spatial_neighbors(spots.coordinates, spots.section, n_neighbors)
    table = autocorrelation_table(latent, graph, spots.section, n_perms=n_perms, seed=seed)
    adata.uns[key_added] = table.copy()
    adata.uns[f"{key_added}_params"] = (
        {"use_rep": use_rep, "spatial_key": spatial_key, "n_neighbors": n_neighbors, "n_spots": len(spots)}
        | ({} if section_key is None else {"section_key": section_key})
        | ({} if n_perms is None else {"n_perms": n_perms, "seed": seed})
    )
    return table


def autocorrelation_table(
    latent: ArrayLike,
    graph: Graph,
    sections: ArrayLike,
    *,
    n_perms: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Moran's I and Geary's C of each latent dimension, tested against permutation within sections.

    Under the null hypothesis, values do not depend on the position within a section. A dimension that differs
    only between sections has a high Moran's I, but its expected value is equally high. The alternative is
    one-sided: neighbours are more similar (I above, C below the expected value).

    Parameters
    ----------
    latent
        Shape ``(n, n_latent)``.
    graph
        Spatial connectivities, shape ``(n, n)``, without connections between sections or self-connections.
    sections
        Section of each spot, shape ``(n,)``.
    n_perms
        Number of random permutations; ``None`` uses the normal approximation.
    seed
        Random seed of the permutations.

    Returns
    -------
    One row per dimension, named ``"Z1"``, ``"Z2"``, ..., with these columns for ``morans_i`` and
    ``gearys_c``:

    - the statistic itself, as in :func:`morans_i_per_dimension`;
    - ``*_expected``, ``*_z``: its mean over all permutations, and its distance from there in standard
      deviations, both exact (Mantel 1967; with one section, Cliff and Ord's randomisation moments);
    - ``*_p``: probability of a value at least as extreme; the tail of the normal distribution, or with
      `n_perms` the share ``(1 + k) / (1 + n_perms)``, where k permutations were at least as extreme (Phipson
      and Smyth 2010);
    - ``*_p_adjusted``: adjusted over the dimensions by the method of Benjamini and Hochberg.

    Values are NaN for constant dimensions; z and p are also NaN if no permutation changes the statistic.

    Raises
    ------
    InputError
        If `n_perms` is not positive, `seed` is negative, the arrays have different numbers of rows, or the
        graph connects sections or a spot with itself.

    Examples
    --------
    >>> positions = np.stack(np.divmod(np.arange(100.0), 10), axis=1)
    >>> noise = np.random.default_rng(0).normal(size=100)
    >>> one = np.zeros(100)
    >>> table = autocorrelation_table(np.c_[positions, noise], spatial_neighbors(positions, one), one)
    >>> (table["morans_i_p_adjusted"] < 0.05).to_dict()
    {'Z1': True, 'Z2': True, 'Z3': False}
    """
    _require_numbers(n_perms, seed)
    values, codes = _matrix(latent, "latent"), np.asarray(sections)
    _same_rows(latent=values, graph=graph, sections=codes)
    weights = sparse.csr_matrix(graph, dtype=np.float64)
    _require_within(weights, codes)
    values = values - values.mean(axis=0)
    members = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    factor = autocorrelation_factors(values, weights.sum())
    statistics = factor * pair_sums(values, weights)
    expected, deviation = factor * _moments(values, weights, members)
    z = (statistics - expected) / deviation
    p = np.stack([norm.sf(z[0]), norm.cdf(z[1])])
    if n_perms is not None:
        p = np.where(np.isnan(z), np.nan, _permuted_p(values, weights, members, n_perms, seed))
    return _table(statistics, expected, z, p)


# ---------------------------------------------------------------------------- exact moments


def _moments(values: NDArray, weights: sparse.csr_matrix, members: list[NDArray]) -> NDArray[np.float64]:
    """Means and standard deviations (2, 2, d) of :func:`pair_sums` over all permutations within sections.

    Sections are permuted independently, so means and variances add. Deviations of zero are NaN.
    """
    symmetric = (weights + weights.T) / 2
    parts = []
    for spots in members:
        within = _weight_sums(symmetric[spots][:, spots])
        parts.append([_mantel(within, pairs(values[spots]), len(spots)) for pairs in (_products, _squares)])
    mean, variance = np.sum(parts, axis=0).transpose(1, 0, 2)
    return np.stack([mean, np.sqrt(np.where(variance > 0, variance, np.nan))])


_Sums = tuple[Any, Any, Any]
"""Total, row sums and sum of squares of a symmetric matrix without its diagonal."""


def _weight_sums(weights: sparse.spmatrix | sparse.sparray) -> _Sums:
    rows = np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    return rows.sum(), rows, weights.multiply(weights).sum()


def _products(values: NDArray) -> _Sums:
    """Sums of y_i y_j for each column y of (n, d)."""
    total = values.sum(axis=0)
    rows = values * (total - values)
    return rows.sum(axis=0), rows, (values**2).sum(axis=0) ** 2 - (values**4).sum(axis=0)


def _squares(values: NDArray) -> _Sums:
    """Sums of (y_i - y_j)² for each column y of (n, d)."""
    centred = values - values.mean(axis=0)
    second, fourth = (centred**2).sum(axis=0), (centred**4).sum(axis=0)
    rows = len(values) * centred**2 + second
    return rows.sum(axis=0), rows, 2 * len(values) * fourth + 6 * second**2


def _mantel(a: _Sums, b: _Sums, n: int) -> NDArray[np.float64]:
    """Mean and variance (2, d), over permutations of the n spots, of the sum of a_ij b_ij (Mantel 1967)."""
    (squares_a, rows_a), (squares_b, rows_b) = _centred(a, n), _centred(b, n)
    # Terms by the number of spots that two pairs have in common; empty if there are too few spots.
    two = 2 * squares_a * squares_b / max(n * (n - 1), 1)
    one = 4 * (rows_a - squares_a) * (rows_b - squares_b) / max(n * (n - 1) * (n - 2), 1)
    none = (2 * squares_a - 4 * rows_a) * (2 * squares_b - 4 * rows_b)
    variance = two + one + none / max(n * (n - 1) * (n - 2) * (n - 3), 1)
    return np.stack([a[0] * b[0] / max(n * (n - 1), 1), variance])


def _centred(sums: _Sums, n: int) -> tuple[Any, Any]:
    """Sum of squares, and of squared row sums, after subtracting the mean over all pairs."""
    total, rows, squares = sums
    mean = total / max(n * (n - 1), 1)
    remaining = squares - total * mean
    differ = remaining > _ROUNDING * squares  # otherwise all pairs are equal, and permutations change nothing
    return remaining * differ, ((rows - (n - 1) * mean) ** 2).sum(axis=0) * differ


# ---------------------------------------------------------------------------- permutations


def _permuted_p(
    values: NDArray, weights: sparse.csr_matrix, members: list[NDArray], n_perms: int, seed: int
) -> NDArray[np.float64]:
    """Shares (2, d) of permutations within sections, including the data, that are as extreme as the data."""
    towards = np.array([[1.0], [-1.0]])  # I above, C below
    observed = towards * pair_sums(values, weights)
    limit = observed - _ROUNDING * np.abs(observed)
    rng = np.random.default_rng(seed)
    extreme = np.ones(observed.shape)
    order = np.empty(len(values), dtype=np.intp)
    for _ in range(n_perms):
        for spots in members:
            order[spots] = rng.permutation(spots)
        extreme += towards * pair_sums(values[order], weights) >= limit
    return extreme / (n_perms + 1)


# ---------------------------------------------------------------------------- pieces


def _table(statistics: NDArray, expected: NDArray, z: NDArray, p: NDArray) -> pd.DataFrame:
    columns: dict[str, NDArray] = {}
    for i, name in enumerate(STATISTICS):
        columns |= {name: statistics[i], f"{name}_expected": expected[i], f"{name}_z": z[i]}
        columns |= {f"{name}_p": p[i], f"{name}_p_adjusted": _adjusted(p[i])}
    names = [f"Z{i + 1}" for i in range(p.shape[1])]
    return pd.DataFrame(columns, index=pd.Index(names, name="dimension", dtype=object))


def _adjusted(p: NDArray) -> NDArray[np.float64]:
    adjusted, known = np.full(p.shape, np.nan), np.isfinite(p)
    if known.any():
        adjusted[known] = false_discovery_control(p[known])
    return adjusted


def _require_numbers(n_perms: int | None, seed: int) -> None:
    if (n_perms is not None and n_perms < 1) or seed < 0:
        raise InputError(
            f"n_perms={n_perms} and seed={seed}.",
            "There must be at least one permutation, and the seed must not be negative.",
            "Use for example n_perms=999 and seed=0, or n_perms=None for the normal approximation.",
        )


def _require_within(weights: sparse.csr_matrix, codes: NDArray) -> None:
    source, target = weights.nonzero()
    across, own = np.count_nonzero(codes[source] != codes[target]), np.count_nonzero(source == target)
    if across or own:
        raise InputError(
            f"The graph has {across} connections between sections and {own} of a spot with itself.",
            "Neither is allowed, because values are permuted within sections.",
            "Build the graph with isovi.tl.spatial_neighbors and the same sections.",
        )
