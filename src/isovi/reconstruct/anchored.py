"""Placement of cells among anchors, cells whose latent representation and position are both known.

A latent distance divided by λ estimates a tissue distance. Therefore :func:`among_neighbors` can compare both
a guessed position and the latent representation of a cell with those of the anchors, in the same unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from isovi._repr import ReprMixin
from isovi._shapes import CoordinateArray, LatentArray
from isovi.geometry.distortion import fitted_scale

N_NEIGHBORS = 10
N_NEAR, N_FAR = 32, 96  # anchors that a cell is compared with in trilateration
STEPS = 25
CHUNK = 4_096  # cells placed at once


@dataclass(frozen=True, repr=False)
class Anchors(ReprMixin):
    """Cells with known latent representations and positions.

    Attributes
    ----------
    latent
        Shape ``(anchor, latent)``.
    positions
        In coordinate units, shape ``(anchor, axis)``.
    scale
        λ: latent length per coordinate unit.
    """

    latent: LatentArray
    positions: CoordinateArray
    scale: float

    @classmethod
    def fit(cls, latent: LatentArray, positions: CoordinateArray, *, seed: int = 0) -> Anchors:
        """Anchors with the λ that minimises the relative distortion among them."""
        one_section = np.zeros(len(latent), dtype=np.int64)
        scale = fitted_scale(latent, positions, one_section, np.random.default_rng(seed))
        return cls(latent, positions, scale)

    def __len__(self) -> int:
        return len(self.positions)

    def some(self, rows: NDArray[np.intp]) -> Anchors:
        """A part of them, with the same λ."""
        return Anchors(self.latent[rows], self.positions[rows], self.scale)


@dataclass(frozen=True, repr=False)
class Placed(ReprMixin):
    """Positions of placed cells.

    Attributes
    ----------
    positions
        In coordinate units, shape ``(cell, axis)``.
    spread
        Root mean square distance of the neighbours from their mean position, shape ``(cell,)``.
    """

    positions: NDArray[np.float64]
    spread: NDArray[np.float64]


def among_neighbors(
    anchors: Anchors,
    latent: LatentArray,
    guess: CoordinateArray | None = None,
    *,
    k: int = N_NEIGHBORS,
    trust: float = 1.0,
) -> Placed:
    """Mean position of the nearest anchors.

    Parameters
    ----------
    anchors
        Cells whose positions are known.
    latent
        Latent representations of the cells to place, shape ``(cell, latent)``.
    guess
        Positions guessed by another method, such as :class:`isovi.reconstruct.kernel.KernelRegression`,
        shape ``(cell, axis)``. The squared distance to an anchor is then
        ``|z - z_j|² / λ² + trust |guess - s_j|²``; without a guess the second term is omitted.
    k
        Number of neighbours; all anchors if there are fewer.
    trust
        Weight of the guess.
    """
    known, query = anchors.latent / anchors.scale, latent / anchors.scale
    if guess is not None:
        root = np.sqrt(trust)
        known, query = np.hstack([known, root * anchors.positions]), np.hstack([query, root * guess])
    found = np.asarray(anchors.positions, dtype=np.float64)[_nearest(known, query, k)[1]]
    mean = found.mean(axis=1)
    spread = np.sqrt(np.square(found - mean[:, None]).sum(axis=2).mean(axis=1))
    return Placed(mean, spread)


def neighbor_distance(known: NDArray, query: NDArray, *, k: int = N_NEIGHBORS) -> NDArray[np.float64]:
    """Mean distance from each row of ``query`` to the ``k`` nearest rows of ``known``, shape ``(cell,)``."""
    return _nearest(known, query, k)[0].mean(axis=1).astype(np.float64)


def _nearest(known: NDArray, query: NDArray, k: int) -> tuple[NDArray, NDArray]:
    """Distances and rows of the nearest of ``known``; in ten dimensions a tree takes twice as long."""
    index = NearestNeighbors(n_neighbors=min(k, len(known)), algorithm="brute").fit(known)
    return index.kneighbors(query)


def trilaterate(
    anchors: Anchors,
    latent: LatentArray,
    start: CoordinateArray,
    *,
    seed: int = 0,
    n_near: int = N_NEAR,
    n_far: int = N_FAR,
) -> NDArray[np.float64]:
    """Positions whose distances to anchors approximate the latent distances divided by λ.

    Minimises ``Σ w_j | |s - s_j| - d_Z(z, z_j) / λ |`` over near anchors and a sample of all anchors, with
    ``w_j = 1 / (1 + d_Z / λ)``, by damped Gauss-Newton steps on reweighted squares.

    Parameters
    ----------
    anchors
        Cells whose positions are known.
    latent
        Latent representations of the cells to place, shape ``(cell, latent)``.
    start
        Initial positions, shape ``(cell, axis)``.
    seed
        Random seed that draws the far anchors.
    n_near, n_far
        Number of near and far anchors.

    Returns
    -------
    Positions in coordinate units, shape ``(cell, axis)``.
    """
    far = np.random.default_rng(seed).permutation(len(anchors))[:n_far]
    near = _nearest(anchors.latent, latent, n_near)[1]
    chosen = np.hstack([near, np.broadcast_to(far, (len(latent), len(far)))])
    found = [
        _solve(anchors, latent[part], chosen[part], start[part])
        for part in np.array_split(np.arange(len(latent)), max(len(latent) // CHUNK, 1))
    ]
    return np.concatenate(found)


@torch.no_grad()
def _solve(anchors: Anchors, latent: NDArray, chosen: NDArray, start: NDArray) -> NDArray[np.float64]:
    ends, known, z = (
        torch.as_tensor(np.asarray(values, dtype=np.float64))
        for values in (anchors.positions[chosen], anchors.latent[chosen], latent)
    )
    length = (z[:, None] - known).norm(dim=-1) / anchors.scale
    position = torch.as_tensor(np.asarray(start, dtype=np.float64)).clone()
    for _ in range(STEPS):
        position -= _step(position, ends, length)
    return position.numpy()


def _step(position: torch.Tensor, ends: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """One damped Gauss-Newton step; the weights turn the sum of absolute values into one of squares."""
    apart = position[:, None] - ends
    distance = apart.norm(dim=-1).clamp(min=1e-6)
    excess, direction = distance - length, apart / distance[..., None]
    weight = 1 / (1 + length) / (excess.abs() + 1e-2)
    curvature = torch.einsum("ca,cai,caj->cij", weight, direction, direction)
    slope = torch.einsum("ca,ca,cai->ci", weight, excess, direction)
    damping = 0.1 * weight.sum(1)[:, None, None] * torch.eye(position.shape[1], dtype=position.dtype)
    return torch.linalg.solve(curvature + damping, slope[..., None])[..., 0]
