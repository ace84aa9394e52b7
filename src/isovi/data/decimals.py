"""What decimals among counts are: rounding noise, corrected counts, or normalised values."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
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
# Usual transformations, without those whose values fill a range.
_TRANSFORMATIONS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    np.log1p,
    lambda values: np.log2(values + 1),
    np.sqrt,
    np.arcsinh,
    lambda values: 2 * np.sqrt(values + 3 / 8),  # Anscombe's
)
_STEPS = (0.1, 0.01, 0.001)  # decimals that values are rounded to
_CLOSE = 0.1  # how far from one value, relative to it, another is close to it
_ALONE = 0.95  # share of the close values that are that value, of transformed counts
_TELLING = 0.25  # width of the ratios that a rounded value may have, at most, for it to tell something
_SHARED = 0.04  # share of the genes of two cells that have one ratio, of counts that were scaled twice
_SAME = 1e-3  # how far apart logarithms of values are that are the same
_SOME = 0.2  # share of pairs of cells in which that is seen; among other values it is next to none
_WHOLE = 0.05  # how far from a whole number a value is that was not scaled
_INVERSES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (  # of usual transformations
    lambda values: values**2,
    lambda values: np.exp(values) - 1,
    lambda values: np.exp2(values) - 1,
    lambda values: 10.0**values - 1,
    np.sinh,
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
    square roots) of them when they are taken back. Where they are scaled by gene as well, two cells have one
    ratio in many genes. Of transformed counts most of a cell's values are one value, that of a count of 1,
    with none close to it, also where decimals were cut off. Of ambient-corrected or estimated counts none of
    this holds, or they are multiples of a number that all cells share; and rounding changes them little. It
    changes most of values that were never counts, such as intensities. The largest value says nothing if
    several cells have it: values were clipped.

    Parameters
    ----------
    rows
        Some cells, sparse or dense, shape ``(cell, gene)``.

    Returns
    -------
    ``"corrected"``, ``"normalised"``, ``"logarithms"`` or ``"intensities"``.
    """
    rows = _unclipped(sparse.csr_matrix(rows, dtype=np.float64))
    values = [row for row in _each(rows) if len(row) >= _FEWEST]
    if not values:
        return CORRECTED
    every = np.concatenate(values)
    step = _step(every)
    keeps = np.abs(every - np.rint(every)).sum() <= _MOST_LOST * every.sum()  # when it is rounded
    if keeps and _are_multiples(every, above=1.5 * step):  # of one number in all cells: not by cell
        return CORRECTED
    values = [row for row in values if not is_whole(row).all()] or values  # what is whole was not scaled
    largest = max(row.max() for row in values)
    if largest <= 1 or _is_scaled(values, step):
        return NORMALISED
    inverses = _INVERSES if largest <= _LARGEST_LOGARITHM else _INVERSES[:1]
    if any(_is_scaled(values, step, inverse) for inverse in inverses):
        return LOGARITHMS
    if (
        _are_transformed(values, step)
        or _is_scaled_by_gene(rows, step)
        or (not step and _is_scaled_twice(rows))
    ):
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
    """The values of each row that are not zero, of the rows that have some."""
    rows = sparse.csr_matrix(rows)
    rows.eliminate_zeros()
    return [row for row in np.split(rows.data, rows.indptr[1:-1]) if len(row)]


def _unclipped(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """The values without the largest one, if more than a few cells have it."""
    largest = rows.data.max(initial=0)
    if len(np.unique(rows.nonzero()[0][rows.data[rows.data != 0] == largest])) < _FEWEST:
        return rows
    rows = rows.copy()
    rows.data[rows.data == largest] = 0
    return rows


def _step(values: np.ndarray) -> float:
    """The decimal that values were rounded to: 0.1, 0.01 or 0.001; 0 if they have more of them."""
    for step in _STEPS:
        levels = values / step
        if (np.abs(levels - np.rint(levels)) < 1e-3 + 1e-6 * levels).all():  # as 32 bits hold them
            return step
    return 0.0


def _are_transformed(values: list[np.ndarray], step: float) -> bool:
    """Whether of most cells many values are one value, not whole, and all others are well above it.

    Where decimals were cut off and that value is the same in all cells, all values have to be those of the
    usual transformations of whole numbers.
    """
    found, common = [], []
    for row in (row for row in values if len(row) >= _MANY):
        seen, n = np.unique(np.round(row, 6), return_counts=True)
        most = seen[n.argmax()]
        close = row - most < max(_CLOSE * most, 1.5 * step)  # or below it
        is_common = n.max() >= max(2, _COMMON * len(row), _ALONE * close.sum())
        found.append(is_common and most != np.rint(most))
        common += [most] if found[-1] else []
    if len(found) < _FEWEST or np.mean(found) <= 0.5:
        return False
    return not step or bool(np.ptp(common) > step / 2) or _are_of_whole(np.concatenate(values), step)


def _are_of_whole(values: np.ndarray, step: float) -> bool:
    """Whether small values are those of usual transformations of 1, 2, 3, ... after rounding."""
    whole = np.arange(1, _MANY + 1)
    for transformed in (function(whole) for function in _TRANSFORMATIONS):
        small = values[values < transformed[-1] - step]
        if (
            len(small) >= _MANY
            and np.isin(np.rint(small / step), np.rint(transformed / step)).mean() > _ALONE
        ):
            return True
    return False


def _is_scaled(
    values: list[np.ndarray], step: float, inverse: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> bool:
    """Whether values have one total, or most rows of them are multiples of one number, once taken back."""
    taken_back = [inverse(row) for row in values]
    totals = np.array([row.sum() for row in taken_back])
    if len(totals) >= _FEWEST and totals.std() < 1e-3 * totals.mean():
        return True
    if not step:
        return bool(np.mean([_are_multiples(row) for row in taken_back]) > 0.5)
    told = [_may_be_multiples(inverse(row - step / 2), inverse(row + step / 2)) for row in values]
    found = [one for one in told if one is not None]
    return len(found) >= max(_FEWEST, len(values) // 4) and bool(np.mean(found) > 0.5)


def _is_scaled_by_gene(rows: sparse.csr_matrix, step: float) -> bool:
    """Whether values of most genes are multiples of one number; genes that are nearly whole do not count."""
    genes = [gene for gene in _each(rows.T) if np.median(np.abs(gene - np.rint(gene))) > _WHOLE]
    return len(genes) >= _FEWEST and _is_scaled(genes, step)


def _are_multiples(row: np.ndarray, above: float = 0.0) -> bool:
    """Whether values are multiples of one number: of the smallest, its half or its third, above a limit."""
    ratios = row / row.min()
    ratios = ratios[ratios < _LARGEST_RATIO]
    units = [k for k in (1, 2, 3) if row.min() > k * above]
    return any((np.abs(k * ratios - np.rint(k * ratios)) < _NEAR * k).all() for k in units)


def _may_be_multiples(low: np.ndarray, high: np.ndarray) -> bool | None:
    """Whether rounded values, between these, are multiples of the smallest; ``None`` if they do not tell."""
    least = low.argmin()
    if low[least] <= 0:
        return None
    from_, to = low / high[least], high / low[least]
    telling = (to - from_ < _TELLING) & (to > 1 + _TELLING)
    if telling.sum() < _FEWEST:
        return None
    return bool((np.floor(to[telling]) >= np.ceil(from_[telling])).mean() > 1 - _TELLING / 5)


def _is_scaled_twice(rows: sparse.csr_matrix) -> bool:
    """Whether values are scaled by cell and by gene: two cells then have one ratio in genes of one count."""
    rows = rows.copy()
    rows.data[np.abs(rows.data - np.rint(rows.data)) < _WHOLE] = 0  # little was subtracted of these
    rows.eliminate_zeros()
    rows.data = np.log(rows.data)
    found = []
    for one, other in pairwise(np.random.default_rng(0).permutation(rows.shape[0])):
        first, second = rows[one], rows[other]
        _, of_first, of_second = np.intersect1d(first.indices, second.indices, return_indices=True)
        if len(of_first) >= _FEWEST:
            both = np.stack([first.data[of_first], second.data[of_second]]).round(5)
            low, high = np.unique(both, axis=1)  # the same two values say nothing
            apart = (high - low)[np.abs(high - low) > _SAME]  # nor do values that differ by gene only
            n = np.unique(apart.round(5), return_counts=True)[1].max(initial=0)
            found.append(n >= max(2, _SHARED * len(of_first)))
    return len(found) >= _FEWEST and bool(np.mean(found) > _SOME)
