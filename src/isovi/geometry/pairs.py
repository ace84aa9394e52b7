"""Pairs of spots with their tissue distance and weight, and how to draw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isovi._shapes import (
    CellIndexArray,
    Coordinates,
    PairFloats,
    PairIndexArray,
    PairIndices,
)


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


def sample_pairs(
    section: CellIndexArray, n_pairs: int, rng: np.random.Generator
) -> tuple[PairIndexArray, PairIndexArray]:
    """Draw pairs of different spots of the same section, uniformly over all such pairs.

    Parameters
    ----------
    section
        Section code of each spot, shape ``(cell,)``.
    n_pairs
        How many pairs to draw, with replacement. If there are no more than this many, every
        unordered pair is returned exactly once instead.
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
