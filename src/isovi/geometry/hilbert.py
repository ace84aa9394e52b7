"""A Hilbert curve: an order of cells in which neighbours in the tissue are mostly close to each other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from isovi._shapes import CellIndexArray, CoordinateArray

BITS = 20  # bits per axis: a million steps across a section


def curve_order(coordinates: CoordinateArray, section: CellIndexArray) -> CellIndexArray:
    """Order of the cells section by section, along a Hilbert curve within each.

    Parameters
    ----------
    coordinates
        Positions in any unit, shape ``(cell, axis)`` with 2 or 3 axes; finite.
    section
        Section code of each cell.

    Returns
    -------
    Row indices in this order, shape ``(cell,)``. Takes O(N log N) time and O(N) memory.
    """
    keys = np.empty(len(section), dtype=np.uint64)
    for code in np.unique(section):
        members = section == code
        keys[members] = hilbert_keys(_steps(coordinates[members]))
    return np.lexsort((keys, section)).astype(np.int64)


def _steps(coordinates: CoordinateArray) -> np.ndarray:
    """Integer coordinates with the same step on all axes, 0 to 2^BITS - 1."""
    low = coordinates.min(axis=0)
    widest = float((coordinates.max(axis=0) - low).max())
    scale = (2**BITS - 1) / widest if widest > 0 else 0.0
    return ((coordinates - low) * scale).astype(np.uint32)


def hilbert_keys(steps: np.ndarray, bits: int = BITS) -> np.ndarray:
    """Position of lattice points along the Hilbert curve, by Skilling's transpose algorithm.

    Skilling (2004), Programming the Hilbert curve, AIP Conference Proceedings 707, 381-387.

    Parameters
    ----------
    steps
        Integers below ``2**bits``, shape ``(point, axis)``.
    bits
        Bits per axis; ``bits`` times the number of axes must be at most 64.

    Returns
    -------
    One number per point, shape ``(point,)``: a bijection from the lattice to ``0 ... 2**(bits axes) - 1``
    in which successive points are one step apart.
    """
    axes = [np.array(steps[:, axis], dtype=np.uint32) for axis in range(steps.shape[1])]
    _undo_turns(axes, bits)
    _gray_encode(axes, bits)
    return _interleave(axes, bits)


def _undo_turns(axes: list[np.ndarray], bits: int) -> None:
    """Reflect and exchange the axes at each level, from the coarsest cube to the finest."""
    for level in range(bits - 1, 0, -1):
        below = np.uint32((1 << level) - 1)
        for axis in axes:
            reflected = (axis >> np.uint32(level)) & np.uint32(1) == 1
            exchanged = np.where(reflected, np.uint32(0), (axes[0] ^ axis) & below)
            axes[0] ^= np.where(reflected, below, exchanged)
            axis ^= exchanged


def _gray_encode(axes: list[np.ndarray], bits: int) -> None:
    for before, axis in pairwise(axes):
        axis ^= before
    flips = np.zeros_like(axes[0])
    for level in range(bits - 1, 0, -1):
        odd = (axes[-1] >> np.uint32(level)) & np.uint32(1) == 1
        flips ^= np.where(odd, np.uint32((1 << level) - 1), np.uint32(0))
    for axis in axes:
        axis ^= flips


def _interleave(axes: list[np.ndarray], bits: int) -> np.ndarray:
    keys = np.zeros(len(axes[0]), dtype=np.uint64)
    for level in range(bits - 1, -1, -1):
        for axis in axes:
            keys = (keys << np.uint64(1)) | ((axis >> np.uint32(level)) & np.uint32(1)).astype(np.uint64)
    return keys
