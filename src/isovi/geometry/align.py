"""Similarity transformations: rotation, reflection, a uniform scale and a translation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isovi._repr import ReprMixin
from isovi.errors import InputError


@dataclass(frozen=True, repr=False)
class Similarity(ReprMixin):
    """A similarity transformation, ``scale * points @ rotation + offset``.

    Attributes
    ----------
    rotation
        Orthogonal matrix, shape ``(dimension, dimension)``; its determinant is -1 for a reflection.
    scale
        Length in the target per unit of length in the source.
    offset
        Translation, shape ``(dimension,)``, in the target's unit.
    """

    rotation: NDArray[np.float64]
    scale: float
    offset: NDArray[np.float64]

    def apply(self, points: ArrayLike) -> NDArray[np.float64]:
        """Transform points of shape ``(cell, dimension)`` into the frame of the target."""
        return self.scale * np.asarray(points, dtype=np.float64) @ self.rotation + self.offset


def similarity(
    source: ArrayLike, target: ArrayLike, *, scaling: bool = True, reflection: bool = True
) -> Similarity:
    """Least-squares similarity from one set of points to another.

    Parameters
    ----------
    source, target
        The same points in two frames, shape ``(cell, dimension)``.
    scaling
        Whether to allow a uniform scale.
    reflection
        Whether to allow a reflection.

    Returns
    -------
    The transformation from the source's frame to the target's (Umeyama 1991, eq. 40 to 42).

    Raises
    ------
    InputError
        If the shapes differ or all points of the source coincide.

    Examples
    --------
    >>> square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> round(similarity(square, 3 * square[:, ::-1] + 5).scale, 6)
    3.0
    """
    first, second = (np.asarray(points, dtype=np.float64) for points in (source, target))
    _check(first, second)
    centres = first.mean(axis=0), second.mean(axis=0)
    left, singular, right = np.linalg.svd((first - centres[0]).T @ (second - centres[1]))
    signs = np.ones(len(singular))
    if not reflection and np.linalg.det(left @ right) < 0:
        signs[-1] = -1.0
    rotation = (left * signs) @ right
    scale = float((singular * signs).sum() / np.square(first - centres[0]).sum()) if scaling else 1.0
    return Similarity(rotation, scale, centres[1] - scale * centres[0] @ rotation)


def aligned_stress(source: ArrayLike, target: ArrayLike) -> float:
    """Share of the target's variance that remains after the best similarity of the source, 0 to 1.

    Parameters
    ----------
    source, target
        The same points in two frames, shape ``(cell, dimension)``.
    """
    second = np.asarray(target, dtype=np.float64)
    left = second - similarity(source, second).apply(source)
    return float(np.square(left).sum() / np.square(second - second.mean(axis=0)).sum())


def _check(source: NDArray, target: NDArray) -> None:
    if source.shape != target.shape or source.ndim != 2:
        raise InputError(
            f"The points to align have shapes {source.shape} and {target.shape}.",
            "Both arrays must contain the same points, one per row, and have the same number of columns.",
            "Project the higher-dimensional set first, or subset both in the same way.",
        )
    if not len(source) or not np.ptp(source, axis=0).any():
        raise InputError(
            f"The {len(source)} points to align all coincide.",
            "A similarity needs at least two distinct points.",
            "Pass more points.",
        )
