"""Pairs of spots with their tissue distance and weight, and functions that sample them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from isovi._shapes import (
    CellIndexArray,
    CoordinateArray,
    Coordinates,
    PairFloats,
    PairIndexArray,
    PairIndices,
)
from isovi.errors import InputError

_TRIES = 50  # uniform draws for each pair wanted in a range, before near ones are looked up
_ROUNDS = 12  # of proposals for partners at a given distance
_CHUNK = 1 << 16  # pairs whose differences are held at once


@dataclass(frozen=True)
class PairSet:
    """Unordered pairs of spots of the same section.

    Attributes
    ----------
    source, target
        Indices of the two spots of each pair.
    length
        Tissue distance d_S of each pair, in coordinate units.
    weight
        Pair weight G, non-negative.
    """

    source: PairIndices
    target: PairIndices
    length: PairFloats
    weight: PairFloats

    def __len__(self) -> int:
        return len(self.source)


def tissue_distance(coordinates: Coordinates, source: PairIndices, target: PairIndices) -> PairFloats:
    """Euclidean distance d_S of each pair, in the units of ``coordinates``."""
    return (coordinates[source] - coordinates[target]).norm(dim=-1)


def pair_distances(values: ArrayLike, source: np.ndarray, target: np.ndarray) -> NDArray[np.float64]:
    """Euclidean distances, shape ``(n_pairs,)``, between the rows `source` and `target` of `values`.

    Raises
    ------
    InputError
        If `values` has not two axes.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2:
        raise InputError(
            f"values has shape {rows.shape}.", "It must have two axes.", "Pass values with one row per spot."
        )
    found = np.empty(len(source))
    for start in range(0, len(source), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = np.linalg.norm(rows[source[part]] - rows[target[part]], axis=1)
    return found


def sample_pairs(
    section: CellIndexArray, n_pairs: int, rng: np.random.Generator
) -> tuple[PairIndexArray, PairIndexArray]:
    """Draw pairs of different spots of the same section, uniformly over all such pairs.

    Parameters
    ----------
    section
        Section code of each spot, shape ``(cell,)``.
    n_pairs
        Number of pairs to draw, with replacement. If there are no more than this, every unordered
        pair is returned exactly once instead.
    rng
        The caller's random generator.

    Returns
    -------
    source, target
        Indices of the two spots of each pair; empty if no section has two spots.
    """
    order = np.argsort(section, kind="stable")
    starts, sizes = _runs(section[order])
    possible = sizes * (sizes - 1) // 2
    if possible.sum() <= n_pairs:
        source, target = _all_pairs(starts, sizes)
    else:
        source, target = _draw(starts, sizes, possible, n_pairs, rng)
    return order[source], order[target]


def _runs(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, starts, sizes = np.unique(ordered, return_index=True, return_counts=True)
    return starts, sizes.astype(np.int64)


def _all_pairs(starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blocks = [np.stack(np.triu_indices(n, 1)) + start for start, n in zip(starts, sizes, strict=True)]
    source, target = np.concatenate([np.empty((2, 0), dtype=np.int64), *blocks], axis=1)
    return source, target


def _draw(
    starts: np.ndarray, sizes: np.ndarray, possible: np.ndarray, n_pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    which = rng.choice(len(sizes), size=n_pairs, p=possible / possible.sum())
    n = sizes[which]
    source = rng.integers(0, n)
    target = (source + rng.integers(1, n)) % n
    return starts[which] + source, starts[which] + target


def sample_pairs_in_range(
    coordinates: CoordinateArray,
    section: CellIndexArray,
    low: float,
    high: float,
    n_pairs: int,
    rng: np.random.Generator,
) -> tuple[PairIndexArray, PairIndexArray, np.ndarray]:
    """Draw pairs of one section at tissue distances from ``low`` to ``high``.

    Uniform draws are kept if they fall into the range. If this is rare (short range, many spots), a
    random spot gets a random partner among those within the range instead, weighted by their number.

    Parameters
    ----------
    coordinates, section
        Positions in coordinate units, shape ``(cell, axis)``, and the section code of each spot.
    low, high
        Range of d_S, in coordinate units; ``low <= d_S < high``.
    n_pairs, rng
        Number of pairs to draw, of which fewer may be returned, and the caller's random generator.

    Returns
    -------
    source, target, weight
        Spots of each pair, and weights. Weighted sums estimate sums over all pairs of the range, up to a
        constant.
    """
    source, target = sample_pairs(section, _TRIES * n_pairs, rng)
    apart = pair_distances(coordinates, source, target)
    kept = np.flatnonzero((apart >= low) & (apart < high))[:n_pairs]
    if len(kept) == n_pairs or len(source) < _TRIES * n_pairs:
        return source[kept], target[kept], np.ones(len(kept))
    return _near_pairs(coordinates, section, low, high, n_pairs, rng)


def _near_pairs(
    coordinates: CoordinateArray,
    section: CellIndexArray,
    low: float,
    high: float,
    n_pairs: int,
    rng: np.random.Generator,
) -> tuple[PairIndexArray, PairIndexArray, np.ndarray]:
    centres = rng.integers(0, len(section), n_pairs)
    found: list[tuple[int, int, float]] = []
    for code in np.unique(section):
        members, asked = np.flatnonzero(section == code), centres[section[centres] == code]
        tree = cKDTree(coordinates[members])
        for centre, near in zip(asked, tree.query_ball_point(coordinates[asked], high), strict=True):
            others = members[near]
            apart = np.linalg.norm(coordinates[others] - coordinates[centre], axis=1)
            others = others[(apart >= low) & (apart < high) & (others != centre)]
            if len(others):
                found.append((int(centre), int(rng.choice(others)), float(len(others))))
    source, target, weight = np.array(found, dtype=float).reshape(-1, 3).T
    return source.astype(np.int64), target.astype(np.int64), weight


def disjoint_pairs(
    coordinates: CoordinateArray,
    section: CellIndexArray,
    edges: tuple[float, ...],
    rng: np.random.Generator,
) -> tuple[PairIndexArray, PairIndexArray]:
    """Group spots into pairs of one section so that no spot is in two pairs and every range is represented.

    Each range of tissue distance gets an equal share of the pairs, as far as possible; the remaining spots
    are paired at random. Partners are chosen by position alone, so given the encoder the pairs are
    independent.

    Parameters
    ----------
    coordinates
        Positions in coordinate units, shape ``(cell, axis)``.
    section
        Section code of each spot.
    edges
        Edges of the ranges, ascending; see :func:`isovi.geometry.profile.range_edges`.
    rng
        The caller's random generator.

    Returns
    -------
    source, target
        Indices of the two spots of each pair, from short to long range within each section.
    """
    parts = [np.flatnonzero(section == code) for code in np.unique(section)]
    joined = [_match_section(coordinates, members, edges, rng) for members in parts]
    source, target = np.concatenate([np.empty((2, 0), dtype=np.int64), *joined], axis=1)
    return source, target


def _match_section(
    coordinates: CoordinateArray, members: np.ndarray, edges: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    free, pairs = rng.permutation(members), []
    each = len(members) // 2 // (len(edges) - 1)
    for low, high in pairwise(edges[:-1]):
        matched = _match_range(coordinates, free, low, high, each, rng)
        pairs.append(matched)
        free = free[~np.isin(free, matched)]
    half = len(free) // 2
    return np.concatenate([*pairs, np.stack([free[:half], free[half : 2 * half]])], axis=1)


def _match_range(
    coordinates: CoordinateArray,
    free: np.ndarray,
    low: float,
    high: float,
    n_pairs: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Up to ``n_pairs`` disjoint pairs (2, pair): a spot proposes to the free spot nearest a random point."""
    found = np.empty((2, 0), dtype=np.int64)
    for _ in range(_ROUNDS):
        free = free[~np.isin(free, found)]
        if found.shape[1] >= n_pairs or len(free) < 2:
            break
        asking = rng.permutation(free)
        places = coordinates[asking] + _steps(len(asking), coordinates.shape[1], low, high, rng)
        asked = free[cKDTree(coordinates[free]).query(places)[1]]
        apart = pair_distances(coordinates, asking, asked)
        fits = (asking != asked) & (apart >= low) & (apart < high)
        found = np.concatenate([found, _first_come(asking[fits], asked[fits])], axis=1)
    return found[:, :n_pairs]


def _steps(n: int, n_axes: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """Random displacements (n, axis), uniform over the ball of radius ``high`` without that of ``low``."""
    direction = rng.normal(size=(n, n_axes))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * rng.uniform(low**n_axes, high**n_axes, size=(n, 1)) ** (1 / n_axes)


def _first_come(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Pairs (2, pair) that are the first pair of both of their spots."""
    order = np.arange(len(source))
    spots, places = np.concatenate([source, target]), np.concatenate([order, order])
    first = np.full(int(spots.max(initial=-1)) + 1, len(source))
    np.minimum.at(first, spots, places)  # keep a pair if it is the first of both spots; others retry later
    kept = (first[source] == order) & (first[target] == order)
    return np.stack([source[kept], target[kept]])
