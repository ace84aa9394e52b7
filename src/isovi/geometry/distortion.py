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
    if points.device.type in ("cpu", "cuda") and len(points) > 1:  # of fewer, torch has no gradient
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


def weighted_median(
    values: PairFloats, weights: PairFloats, group: PairIndices | None = None, n_groups: int = 1
) -> torch.Tensor:
    """Smallest value at which the cumulative weight reaches one half (a minimiser of ``Σ w |v - m|``).

    Values of zero weight are ignored, NaN included.

    Parameters
    ----------
    values, weights
        Shape ``(pair,)``.
    group, n_groups
        Groups that have a median each, and their number; ``None`` for one median of all.

    Returns
    -------
    Shape ``()``, or ``(n_groups,)``; any number for a group without weight.
    """
    if not len(values):
        return values.new_full(() if group is None else (n_groups,), torch.nan)
    order = _ascending(values)
    if group is not None:
        order = order[torch.argsort(group[order], stable=True)]
    cumulated = weights[order].double().cumsum(0)
    half = cumulated[-1:] / 2
    if group is not None:
        codes = torch.arange(n_groups, device=values.device)
        end = pad(cumulated, (1, 0))[torch.searchsorted(group[order], codes, right=True)]
        half = (end + pad(end[:-1], (1, 0))) / 2
    middle = torch.searchsorted(cumulated, half).clamp(max=len(values) - 1)
    found = values[order[middle]]
    return found.squeeze(0) if group is None else found


def _ascending(values: PairFloats) -> PairIndices:
    """The order from low to high; on a CPU NumPy sorts five times faster than PyTorch."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.argsort(values.detach().numpy()))
    return torch.argsort(values)


def profile_scale(
    latent: PairFloats,
    tissue: PairFloats,
    weight: PairFloats,
    *,
    relative: bool = True,
    group: PairIndices | None = None,
    n_groups: int = 1,
) -> torch.Tensor:
    """Scale λ that minimises the distortion of the given distances, in closed form.

    Parameters
    ----------
    latent, tissue, weight
        d_Z, d_S and G of each pair.
    relative
        Whether to minimise the relative distortion: 1/λ is the median of d_S / d_Z with weights G d_Z.
        Otherwise the raw distortion: λ is the median of d_Z / d_S with weights G d_S.
    group, n_groups
        Groups that have a λ each, and their number; ``None`` for one λ of all pairs.

    Returns
    -------
    λ, latent length per coordinate unit, shape ``()`` or ``(n_groups,)``. NaN if no pair has a length;
    infinite or zero if most weight is on pairs whose cells coincide in the tissue or in the latent space.
    """
    ratio, mass = (tissue / latent, weight * latent) if relative else (latent / tissue, weight * tissue)
    median = weighted_median(ratio, mass, group, n_groups)
    total = mass.sum() if group is None else mass.new_zeros(n_groups).index_add_(0, group, mass)
    return torch.where(total > 0, 1.0 / median if relative else median, torch.nan)


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
    """``Σ G |d_Z - λ d_S| / Σ G`` (the paper's loss with the ``mean`` normalisation); 0 without any weight.

    ``scale`` is λ, one number or one per pair.
    """
    return (weight * (latent - scale * tissue).abs()).sum() / _or_one(weight.sum())


def relative_distortion(
    latent: PairFloats, tissue: PairFloats, weight: PairFloats, scale: torch.Tensor
) -> Scalar:
    """``Σ G |d_Z - λ d_S| / Σ G λ d_S``: the mean error of a distance as a share of the distance.

    Unchanged when the latent, the tissue or the weights are multiplied by a constant and λ is rescaled
    accordingly. ``scale`` is λ, one number or one per pair. NaN, with a gradient of 0, where there is nothing
    to compare with: no weight, or a λ of 0.
    """
    expected = scale * tissue
    total = (weight * expected).sum()
    found = (weight * (latent - expected).abs()).sum() / _or_one(total)
    return torch.where(total == 0, torch.nan, found)


def _or_one(total: Scalar) -> Scalar:
    """A divisor: the total unless it is zero."""
    return torch.where(total == 0, 1.0, total)
