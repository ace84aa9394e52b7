"""Configuration of all cells from distances alone, up to rotation, reflection and translation.

Landmarks are placed by classical scaling, all cells by their distances to the landmarks (de Silva & Tenenbaum
2004), and the result is refined by lowering the stress over near pairs and pairs with landmarks. Time and
memory are linear in the number of cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from isovi._repr import ReprMixin
from isovi.errors import InputError
from isovi.geometry.distortion import euclidean
from isovi.geometry.pairs import pair_distances, sample_pairs

Distance = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray]

N_LANDMARKS = 100
N_FAR = 20  # landmarks that each cell is compared with in refinement
N_PAIRS = 200_000  # pairs for the stress of a latent configuration
STEPS = 60


@dataclass(frozen=True, repr=False)
class Configuration(ReprMixin):
    """Positions of cells in an arbitrary frame.

    Attributes
    ----------
    positions
        Centred, in the unit of the distances, shape ``(cell, axis)``.
    stress
        Root of ``Σ (|s - s'| - d)² / Σ d²`` over the pairs used (Kruskal's stress-1).
    """

    positions: NDArray[np.float64]
    stress: float


def configuration(
    distance: Distance,
    n_cells: int,
    near: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    *,
    n_axes: int = 2,
    n_landmarks: int = N_LANDMARKS,
    seed: int = 0,
) -> Configuration:
    """Place cells so that their distances approximate the given ones.

    Parameters
    ----------
    distance
        Function that returns the distances of pairs from the indices of both ends.
    n_cells
        Number of cells.
    near
        Both ends of near pairs, whose distances are used in addition to those to landmarks.
    n_axes
        Number of axes, 2 or 3.
    n_landmarks
        Number of landmarks; ``distance`` is called for every pair of a cell and a landmark.
    seed
        Random seed that draws the landmarks, and those with which each cell is compared.

    Raises
    ------
    InputError
        If there are too few cells, or a distance is negative or not finite.
    """
    if n_cells <= n_axes:
        raise InputError(
            f"There are {n_cells} cells to place in {n_axes}-D.",
            f"At least {n_axes + 1} cells are needed.",
            "Pass more cells.",
        )
    rng = np.random.default_rng(seed)
    landmarks, lengths = _landmarks(distance, n_cells, min(n_landmarks, n_cells), rng)
    start = _triangulate(lengths, landmarks, n_axes)
    source, target, length = _pairs(distance, near, landmarks, lengths, rng)
    return _refine(start, source, target, length)


def latent_configuration(
    latent: NDArray, scale: float = 1.0, *, n_axes: int = 2, seed: int = 0
) -> Configuration:
    """Place cells so that their distances approximate the latent distances divided by λ.

    A latent space has more dimensions than the tissue, and refinement would fold the additional ones into it:
    on real sections this made distances worse. Classical scaling alone discards them; for Euclidean distances
    it is a principal component analysis.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``.
    scale
        λ: latent length per coordinate unit.
    n_axes
        Number of axes, 2 or 3.
    seed
        Random seed that draws the pairs for the stress.
    """
    points = np.asarray(latent, dtype=np.float64) / scale
    positions = PCA(n_axes, svd_solver="full").fit_transform(points)
    source, target = sample_pairs(np.zeros(len(points), np.int64), N_PAIRS, np.random.default_rng(seed))
    length, found = (pair_distances(rows, source, target) for rows in (points, positions))
    return Configuration(positions, float(np.sqrt(np.square(found - length).sum() / np.square(length).sum())))


def _landmarks(
    distance: Distance, n_cells: int, n_landmarks: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Landmarks and the distances of all cells to them, shape ``(cell, landmark)``."""
    chosen, cells = rng.permutation(n_cells)[:n_landmarks], np.arange(n_cells)
    lengths = np.empty((n_cells, n_landmarks))
    for column, landmark in enumerate(chosen):
        lengths[:, column] = _checked(distance(cells, np.full(n_cells, landmark)))
        lengths[landmark, column] = 0.0
    return chosen, lengths


def _triangulate(lengths: NDArray, landmarks: NDArray, n_axes: int) -> NDArray[np.float64]:
    """Positions from classical scaling of the landmarks and the distances to them."""
    among = np.square(lengths[landmarks])
    among = (among + among.T) / 2
    mean = among.mean(axis=0)
    inner = -0.5 * (among - mean - mean[:, None] + mean.mean())
    values, vectors = np.linalg.eigh(inner)
    top = np.argsort(values)[::-1][:n_axes]
    root = np.sqrt(np.maximum(values[top], 1e-12 * max(values[top][0], 1e-300)))
    return -0.5 * (np.square(lengths) - mean) @ (vectors[:, top] / root)


def _pairs(
    distance: Distance,
    near: tuple[NDArray, NDArray] | None,
    landmarks: NDArray,
    lengths: NDArray,
    rng: np.random.Generator,
) -> tuple[NDArray, NDArray, NDArray]:
    """Near pairs, and each cell with a few landmarks."""
    n_cells, n_landmarks = lengths.shape
    which = rng.integers(n_landmarks, size=(n_cells, min(N_FAR, n_landmarks)))
    cells = np.repeat(np.arange(n_cells), which.shape[1])
    source, target = [cells], [landmarks[which.ravel()]]
    length = [lengths[cells, which.ravel()]]
    if near is not None:
        source.append(near[0])
        target.append(near[1])
        length.append(_checked(distance(*near)))
    joined = np.concatenate(source), np.concatenate(target), np.concatenate(length)
    kept = joined[2] > 0
    return joined[0][kept], joined[1][kept], joined[2][kept]


def _refine(start: NDArray, source: NDArray, target: NDArray, length: NDArray) -> Configuration:
    """Minimise ``Σ (|s - s'| - d)² / d``, a compromise between absolute and relative errors."""
    unit = float(length.mean())
    first, second = torch.as_tensor(source), torch.as_tensor(target)
    wanted = torch.as_tensor(length / unit)
    weight = 1 / wanted.clamp(min=1e-3)
    position = torch.as_tensor(start / unit).requires_grad_()
    solver = torch.optim.LBFGS([position], max_iter=STEPS, history_size=5, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        found = euclidean(position, first, second)
        value = (weight * (found - wanted).square()).mean()
        value.backward()
        return value

    solver.step(loss)
    with torch.no_grad():
        left = euclidean(position, first, second) - wanted
        stress = float((left.square().sum() / wanted.square().sum()).sqrt())
        return Configuration((position - position.mean(0)).numpy() * unit, stress)


def _checked(lengths: NDArray) -> NDArray:
    values = np.asarray(lengths, dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise InputError(
            "A distance is negative or not finite.",
            "Distances must be finite and non-negative.",
            "Check the latent representation, or the function that returns the distances.",
        )
    return values
