"""Smoothing in tissue that the data decides: a Gaussian process for each column of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from isovi._repr import ReprMixin

NEIGHBORS = 37
"""Spots, with the spot itself, that a value is predicted from: those of three rings of a hexagonal grid."""

_LENGTHS = np.geomspace(3.0, 16.0, 5)  # in the unit of the coordinates; shorter structure is no domain
_NOISE = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0])
_CHOICE_SPOTS = 500  # length and noise are chosen on at most this many spots
_MINIMUM_GAIN = 6.0  # nats over white noise, which few columns without structure gain by chance
_CHUNK = 128  # spots whose systems of equations are solved at once: they fit in a processor's cache


@dataclass(frozen=True, repr=False)
class Smoothed(ReprMixin):
    """Columns smoothed in tissue, and how much.

    Attributes
    ----------
    values
        Shape ``(n, d)``; columns without spatial structure are as they were.
    length
        Length scale of each column, shape ``(d,)``, in the unit of the coordinates; 0 if it was not smoothed.
    noise
        Share of the variance of each column that neighbours do not explain, shape ``(d,)``; 1 if it was not
        smoothed.
    """

    values: NDArray[np.float64]
    length: NDArray[np.float64]
    noise: NDArray[np.float64]


def smooth(values: ArrayLike, coordinates: ArrayLike, sections: ArrayLike, seed: int = 0) -> Smoothed:
    r"""Smooth each column by a Gaussian process in the tissue.

    A column is the mean of its section, a process with Matérn 3/2 covariance
    :math:`(1 + \sqrt 3\,r/\ell)\exp(-\sqrt 3\,r/\ell)` and white noise. Length :math:`\ell` and share of the
    noise have the highest likelihood of spots given their nearest neighbours, over a grid that begins with a
    length of 3: single cells among others are noise, not domains. Sections share both. Each value is replaced
    by the mean of the process given its own and its neighbours' values. Time and memory are proportional to
    the number of spots, apart from the search for neighbours.

    Parameters
    ----------
    values
        Shape ``(n, d)``, finite.
    coordinates
        Shape ``(n, axes)``, in units of about the distance between neighbours.
    sections
        Section of each spot, shape ``(n,)``; spots of other sections have no influence.
    seed
        Random seed of the spots (500, if there are more) on which length and noise are chosen.

    Returns
    -------
    The smoothed columns. A column is not smoothed if it is constant, or if the process is not 6 nats more
    likely than white noise; nor is a section of one spot, or without finite coordinates.

    References
    ----------
    Vecchia (1988) on likelihoods from neighbours; Rasmussen and Williams (2006), section 5.4.2, on those of
    points left out.
    """
    given, places = np.asarray(values, np.float64), np.asarray(coordinates, np.float64)
    codes = np.unique(np.asarray(sections), return_inverse=True)[1].reshape(-1)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    members = [rows for rows in members if len(rows) > 1 and np.isfinite(places[rows]).all()]
    centred = np.zeros_like(given)
    for rows in members:
        centred[rows] = given[rows] - given[rows].mean(axis=0)
    constant = np.ptp(centred, axis=0) <= 1e-12 * np.abs(given).max(axis=0)
    centred[:, constant] = 0.0  # what rounding left of them is not smoothed
    length, noise = _choose(centred, places, members, seed)
    result = given.copy()
    for rows in members if (noise < 1).any() else ():
        for near in _neighborhoods(places, rows):
            result[near[:, 0]] += _shift(centred, places, near, length, noise)
    return Smoothed(result, length, noise)


def _neighborhoods(places: NDArray, rows: NDArray, some: NDArray | None = None) -> Iterator[NDArray[np.intp]]:
    """Rows of each spot of a section, first, and its nearest spots, shape (spot, k), in chunks.

    Of all spots of the section, in an order that makes good use of the cache, or of some in theirs.
    """
    tree = cKDTree(places[rows])
    own = rows[tree.indices] if some is None else some
    for start in range(0, len(own), _CHUNK):
        chunk = own[start : start + _CHUNK]
        found = rows[tree.query(places[chunk], np.arange(min(NEIGHBORS, len(rows))) + 1)[1]]
        found[np.arange(len(chunk)), (found == chunk[:, None]).argmax(axis=1)] = found[:, 0]
        found[:, 0] = chunk  # coinciding spots may come first
        yield found


def _distances(places: NDArray, near: NDArray) -> NDArray[np.float64]:
    """Distances (spot, k, k) among the spots of each neighbourhood."""
    squares = np.zeros((*near.shape, near.shape[1]))
    for axis in places.T:
        step = axis[near][:, :, None] - axis[near][:, None]
        squares += np.square(step, out=step)
    return np.sqrt(squares, out=squares)


def _correlations(distances: NDArray, length: float) -> NDArray[np.float64]:
    """Matérn 3/2 correlations at these distances."""
    steps = np.sqrt(3) / length * distances
    return (1 + steps) * np.exp(-steps)


def _choose(
    centred: NDArray, places: NDArray, members: list[NDArray], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Length and share of the noise of each column (d,)."""
    n, d = centred.shape
    drawn = np.zeros(n, dtype=bool)
    usable = np.sort(np.concatenate([np.empty(0, dtype=np.intp), *members]))
    drawn[np.random.default_rng(seed).permutation(usable)[:_CHOICE_SPOTS]] = True
    squares, logs = np.zeros((len(_LENGTHS), len(_NOISE), d)), np.zeros((len(_LENGTHS), len(_NOISE), 1))
    for rows in members:
        for near in _neighborhoods(places, rows, rows[drawn[rows]]):
            distances = _distances(places, near)
            for i, length in enumerate(_LENGTHS):
                residual, variance = _left_out(centred[near], _correlations(distances, length))
                squares[i] += (residual**2 / variance[..., None]).sum(axis=0)
                logs[i] += np.log(variance).sum(axis=0)[:, None]
    count = int(drawn.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = (-0.5 * (count * np.log(squares / count) + logs)).reshape(-1, d)
    white = likelihood[len(_NOISE) - 1]
    best = likelihood.argmax(axis=0)
    spatial = likelihood[best, np.arange(d)] > white + _MINIMUM_GAIN  # False for NaN: constant columns
    at_length, at_noise = np.divmod(best, len(_NOISE))
    return np.where(spatial, _LENGTHS[at_length], 0.0), np.where(spatial, _NOISE[at_noise], 1.0)


def _left_out(values: NDArray, correlations: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors (spot, noise, column) of spots predicted from the others, and variances (spot, noise)."""
    roots, vectors = np.linalg.eigh(correlations)
    weights = 1 / (roots.clip(0)[:, None] * (1 - _NOISE[:, None]) + _NOISE[:, None])
    first = vectors[:, 0]
    turned = np.einsum("nkj,nkd->njd", vectors, values) * first[..., None]
    precision = np.einsum("nsj,nj->ns", weights, first**2)
    return (weights @ turned) / precision[..., None], 1 / precision


def _shift(
    centred: NDArray, places: NDArray, near: NDArray, length: NDArray, noise: NDArray
) -> NDArray[np.float64]:
    """What is added to the value of each spot (spot, column): minus the noise expected in it."""
    shift, distances, values = (
        np.zeros((len(near), centred.shape[1])),
        _distances(places, near),
        centred[near],
    )
    unit = np.eye(near.shape[1])[:, :1]
    for scale in {one for one, share in zip(length, noise, strict=True) if share < 1}:
        correlations = _correlations(distances, scale)
        for share in set(noise[length == scale]):
            columns = np.flatnonzero((length == scale) & (noise == share))
            covariance = (1 - share) * correlations + share * np.eye(near.shape[1])
            weights = np.linalg.solve(covariance, np.broadcast_to(unit, (len(near), *unit.shape)))[..., 0]
            shift[:, columns] = -share * np.einsum("nk,nkd->nd", weights, values[..., columns])
    return shift
