"""What decimals among counts are: rounding noise, corrected counts, or normalised values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

NOISE = 1e-6  # farthest from a whole number, absolute and relative
SAMPLE = 500  # rows that are looked at
CORRECTED, NORMALISED, LOGARITHMS, INTENSITIES = "corrected", "normalised", "logarithms", "intensities"
_MOST_LOST = 0.5  # share of the total that rounding changes; of corrected counts it is below 0.2
_FEWEST = 3  # values of a row that say something
_MANY = 8  # values of a row among which one that is common says something
_COMMON = 0.25  # share of a row's values that are one value, of transformed counts
_NEAR = 0.01  # how far a ratio may be from a whole number
_LARGEST_RATIO = 200  # beyond it rounding hides whether a ratio is whole
_LARGEST_LOGARITHM = 50
_INVERSES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (  # of usual transformations
    lambda values: values**2,
    lambda values: np.exp(values) - 1,
    lambda values: np.exp2(values) - 1,
    lambda values: 10.0**values - 1,
)


def is_whole(values: np.ndarray) -> np.ndarray:
    """Which values are whole numbers, same shape."""
    return values == np.rint(values)


def is_noise(values: np.ndarray) -> bool:
    """Whether all values are whole but for rounding: 1e-6 off, absolute or relative."""
    values = values.astype(np.float64, copy=False)
    whole = np.rint(values)
    return bool((np.abs(values - whole) <= NOISE * np.maximum(1, np.abs(whole)) * (1 + 1e-6)).all())


def kind_of(rows: Any) -> str:
    """What values are that are finite, not negative, and no whole numbers.

    Values that are scaled cell by cell have one total, or are multiples of one number; so are logarithms (and
    square roots) of them when they are taken back. Of ambient-corrected or estimated counts neither holds; or
    they are multiples of a number that all cells share; and rounding changes them little. It changes most of
    values that were never counts, such as intensities. Of transformed counts most of a cell's values are one
    value, that of a count of 1, also where decimals were cut off.

    Parameters
    ----------
    rows
        Some cells, sparse or dense, shape ``(cell, gene)``.

    Returns
    -------
    ``"corrected"``, ``"normalised"``, ``"logarithms"`` or ``"intensities"``.
    """
    values = [row[row > 0].astype(np.float64) for row in _each(rows)]
    values = [row for row in values if len(row) >= _FEWEST]
    if not values:
        return CORRECTED
    every = np.concatenate(values)
    keeps = np.abs(every - np.rint(every)).sum() <= _MOST_LOST * every.sum()  # when it is rounded
    if keeps and _are_multiples(every):  # of one number in all cells: no cell is scaled by its own
        return CORRECTED
    values = [row for row in values if not is_whole(row).all()] or values  # what is whole was not scaled
    largest = max(row.max() for row in values)
    if largest <= 1 or _is_scaled(values):
        return NORMALISED
    inverses = _INVERSES if largest <= _LARGEST_LOGARITHM else _INVERSES[:1]
    taken_back = ([inverse(row) for row in values] for inverse in inverses)
    if any(map(_is_scaled, taken_back)):
        return LOGARITHMS
    if _are_transformed(values) or _is_scaled(_each(sparse.csr_matrix(rows).T)):
        return NORMALISED
    return CORRECTED if keeps else INTENSITIES


def rounded(matrix: Any) -> Any:
    """A copy of a matrix in memory with whole numbers in place of its values; sparse stays sparse."""
    if not sparse.issparse(matrix):
        return np.rint(matrix)
    matrix = matrix.copy()
    matrix.data = np.rint(matrix.data)
    matrix.eliminate_zeros()
    return matrix


def _each(rows: Any) -> list[np.ndarray]:
    if not sparse.issparse(rows):
        return list(np.asarray(rows))
    rows = sparse.csr_matrix(rows)
    return [rows.data[start:stop] for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)]


def _are_transformed(values: list[np.ndarray]) -> bool:
    """Whether of most cells a good part of the values are one value that is not whole."""
    found = []
    for row in (row for row in values if len(row) >= _MANY):
        seen, n = np.unique(np.round(row, 6), return_counts=True)
        most = seen[n.argmax()]
        found.append(n.max() >= max(2, _COMMON * len(row)) and most != np.rint(most))
    return len(found) >= _FEWEST and bool(np.mean(found) > 0.5)


def _is_scaled(values: list[np.ndarray]) -> bool:
    totals = np.array([row.sum() for row in values])
    one_total = len(totals) >= _FEWEST and totals.std() < 1e-3 * totals.mean()
    return bool(one_total or np.mean([_are_multiples(row) for row in values]) > 0.5)


def _are_multiples(row: np.ndarray) -> bool:
    """Whether values are multiples of one number: of the smallest, its half or its third."""
    ratios = row / row.min()
    ratios = ratios[ratios < _LARGEST_RATIO]
    return any((np.abs(k * ratios - np.rint(k * ratios)) < _NEAR * k).all() for k in (1, 2, 3))
