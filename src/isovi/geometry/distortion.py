"""Differentiable distortion: the deviation of latent distances from a multiple of tissue distances.

Notation: d_Z latent distance, d_S tissue distance, G pair weight, λ scale. The raw distortion
``mean G |d_Z - λ d_S|`` is the loss of Zhou & Du (2024, arXiv:2408.00911); the relative distortion
``Σ G |d_Z - λ d_S| / Σ G λ d_S`` does not change when the latent space is rescaled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from isovi._shapes import (
    CellIndexArray,
    CoordinateArray,
    Latent,
    LatentArray,
    PairFloats,
    PairIndices,
    Points,
    Scalar,
)
from isovi.geometry.pairs import pair_distances, sample_pairs

LatentDistance = Literal["mean", "sample", "wasserstein"]

SCALE_PAIRS = 200_000
"""Pairs over which λ is fitted to a representation."""

_FEW = 8  # columns up to which torch's distances on CPU are slow: zeros beside them cost a fifth
_TINY = 1e-12  # keeps the gradient of a distance finite where two latents coincide


def euclidean(points: Points, source: PairIndices, target: PairIndices) -> PairFloats:
    """Euclidean distance of each pair, with a finite gradient at zero.

    Parameters
    ----------
    points
        Posterior means or samples, shape ``(cell, dimension)``.
    source, target
        Indices of the two cells of each pair.
    """
    return ((points[source] - points[target]).square().sum(-1) + _TINY).sqrt()


def all_distances(points: Points) -> PairFloats:
    """Euclidean distances of all unordered pairs of a minibatch, in the order of ``triu_indices``."""
    if points.device.type in ("cpu", "cuda"):
        missing = _FEW - points.shape[1]
        return torch.pdist(pad(points, (0, missing)) if missing > 0 else points)
    return euclidean(points, *torch.triu_indices(len(points), len(points), 1, device=points.device))


def wasserstein_points(loc: Latent, sd: Latent) -> Points:
    """Points whose Euclidean distances are the 2-Wasserstein distances of diagonal Gaussians.

    ``W² = |μ - μ'|² + |σ - σ'|²``, since the covariances commute.

    Parameters
    ----------
    loc, sd
        Mean and standard deviation of each posterior, shape ``(cell, latent)``.

    Returns
    -------
    Shape ``(cell, 2 latent)``.
    """
    return torch.cat([loc, sd], dim=-1)


class Posterior(NamedTuple):
    """Mean, standard deviation and a sample of each cell's posterior, each of shape ``(cell, latent)``."""

    loc: Latent
    sd: Latent
    sample: Latent


LATENT_POINTS: dict[LatentDistance, Callable[[Posterior], Points]] = {
    "mean": lambda q: q.loc,
    "sample": lambda q: q.sample,
    "wasserstein": lambda q: wasserstein_points(q.loc, q.sd),
}
"""Each latent distance, as the points between which it is the Euclidean distance."""


def weighted_median(values: PairFloats, weights: PairFloats) -> Scalar:
    """Smallest value at which the cumulative weight reaches one half (a minimiser of ``Σ w |v - m|``).

    Values of zero weight are ignored, NaN included.
    """
    if values.device.type == "cpu":
        return values[_index_of_median(values.detach().numpy(), weights.detach().numpy())]
    order = torch.argsort(values)
    cumulated = torch.cumsum(weights[order].double(), 0)
    middle = torch.searchsorted(cumulated, cumulated[-1:] / 2)[0]
    return values[order[middle.clamp(max=len(values) - 1)]]


def _index_of_median(values: NDArray, weights: NDArray) -> int:
    """Index of the weighted median; on a CPU NumPy sorts five times faster than PyTorch."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order], dtype=np.float64)
    middle = int(np.searchsorted(cumulated, cumulated[-1] / 2))
    return int(order[min(middle, len(values) - 1)])


def profile_scale(
    latent: PairFloats, tissue: PairFloats, weight: PairFloats, *, relative: bool = True
) -> Scalar:
    """Scale λ that minimises the distortion of the given distances, in closed form.

    Parameters
    ----------
    latent, tissue, weight
        d_Z, d_S and G of each pair.
    relative
        Whether to minimise the relative distortion: 1/λ is the median of d_S / d_Z with weights G d_Z.
        Otherwise the raw distortion: λ is the median of d_Z / d_S with weights G d_S.

    Returns
    -------
    λ, latent length per coordinate unit. NaN if no pair has a length; infinite or zero if most of the
    weight is on pairs whose cells coincide in the tissue or in the latent space.
    """
    ratio, mass = (tissue / latent, weight * latent) if relative else (latent / tissue, weight * tissue)
    if not float(mass.sum()) > 0:
        return tissue.new_tensor(float("nan"))
    median = weighted_median(ratio, mass)
    return 1.0 / median if relative else median


def sampled_distances(
    latent: LatentArray,
    coordinates: CoordinateArray,
    section: CellIndexArray,
    rng: np.random.Generator,
    n_pairs: int = SCALE_PAIRS,
) -> tuple[PairFloats, PairFloats]:
    """d_Z and d_S of random pairs of cells of one section, see :func:`~isovi.geometry.pairs.sample_pairs`."""
    source, target = sample_pairs(section, n_pairs, rng)
    in_latent, in_tissue = (pair_distances(rows, source, target) for rows in (latent, coordinates))
    return torch.from_numpy(in_latent), torch.from_numpy(in_tissue)


def fitted_scale(
    latent: LatentArray, coordinates: CoordinateArray, section: CellIndexArray, rng: np.random.Generator
) -> float:
    """Scale λ that minimises the relative distortion over random pairs of cells of one section.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``.
    coordinates
        Shape ``(cell, axis)``.
    section
        Section code of each cell.
    rng
        Draws the pairs, :data:`SCALE_PAIRS` or all that there are.

    Returns
    -------
    λ, latent length per unit of the coordinates; see :func:`profile_scale`.
    """
    distances = sampled_distances(latent, coordinates, section, rng)
    return float(profile_scale(*distances, torch.ones_like(distances[1])))


def raw_distortion(latent: PairFloats, tissue: PairFloats, weight: PairFloats, scale: torch.Tensor) -> Scalar:
    """``Σ G |d_Z - λ d_S| / Σ G`` (the paper's loss with the ``mean`` normalisation).

    ``scale`` is λ, one number or one per pair.
    """
    return (weight * (latent - scale * tissue).abs()).sum() / weight.sum()


def relative_distortion(
    latent: PairFloats, tissue: PairFloats, weight: PairFloats, scale: torch.Tensor
) -> Scalar:
    """``Σ G |d_Z - λ d_S| / Σ G λ d_S``: the mean error of a distance as a share of the distance.

    Unchanged when the latent, the tissue or the weights are multiplied by a constant and λ is rescaled
    accordingly. ``scale`` is λ, one number or one per pair.
    """
    expected = scale * tissue
    return (weight * (latent - expected).abs()).sum() / (weight * expected).sum()
