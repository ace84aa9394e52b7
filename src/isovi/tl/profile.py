"""Distortion profile of a latent representation in an AnnData."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from isovi.data.fields import pair_weights
from isovi.geometry.pairs import pair_distances, sample_pairs_in_range
from isovi.geometry.profile import (
    DistortionProfile,
    ProfilePoint,
    RangeProfile,
    range_edges,
)
from isovi.geometry.profile import distortion_profile as profile_of
from isovi.graph import AllPairs, PairKind
from isovi.spots import Spots
from isovi.tl import _inputs

N_PAIRS = 200_000
"""Number of pairs drawn for a profile."""

N_SAMPLES = 5
"""Number of posterior samples over which the pairs are divided."""

_RANGE_PAIRS = 20_000  # drawn separately for each range, so that the short range has enough


def distortion_profile(
    adata: AnnData,
    *,
    use_rep: str | None = None,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    pairs: PairKind | None = None,
    cells: ArrayLike | None = None,
    model: Any = None,
    n_pairs: int = N_PAIRS,
    key_added: str = "isovi_profile",
    seed: int = 0,
) -> DistortionProfile:
    """Compute L(ε): how far latent distances are from a multiple of tissue distances.

    L(ε) is the smallest L for which λ d_S <= d_Z <= L λ d_S holds for all but a share ε of the pairs (the
    definition of a distance-preserving model, Zhou & Du 2024); 1 is an isometry up to scale. Use held-out
    spots, because the geometry of training spots is largely memorised.

    Parameters
    ----------
    adata
        Annotated data matrix; only ``uns[key_added]`` is written.
    use_rep
        Key in ``obsm`` of the latent representation, shape ``(n_obs, n_latent)``. By default the part whose
        distances are to follow the tissue, ``"X_isovi_place"``, or ``"X_isovi"`` without parts.
    spatial_key
        Key in ``obsm`` of the positions, shape ``(n_obs, 2)`` or ``(n_obs, 3)``.
    section_key
        Column of ``obs`` with the tissue section; pairs are formed within sections.
    pairs
        Kind of pairs and their weights; all pairs of a section by default.
    cells
        Spots to use: a boolean mask or row numbers; all by default. For the held-out spots of a run:
        ``adata.obs["isovi_split"] == "heldout"``.
    model
        A fitted model. If given, distances are between samples z ~ q(z | y) from its posterior, the
        generative process in the definition, instead of between rows of ``obsm[use_rep]``.
    n_pairs
        Number of random pairs; if there are no more than this, all pairs are used.
    key_added
        Key in ``uns`` of the result: arrays ``epsilon``, ``L``, ``scale``; ``bins`` with the arrays ``low``,
        ``high`` (spacings), ``n_pairs`` and, with one row per range, ``L`` and ``scale``; ``n_pairs``; and
        the parameters.
    seed
        Random seed that draws pairs and samples.

    Returns
    -------
    The profile, exact at any ε with ``profile.for_epsilon(0.1)``, with ``bins`` for short, middle and long
    range. Its λ is latent length per spacing.

    Raises
    ------
    InputError
        If a key is missing, the latent representation or the positions are not finite, or all weights are
        zero.
    """
    use_rep = _inputs.place_rep(adata, use_rep)
    use_rep_of = use_rep if model is None else None
    mean, spots = _inputs.latent_spots(adata, use_rep_of, spatial_key, section_key, cells)
    latent = mean[None] if model is None else _inputs.samples(model, adata, spots, N_SAMPLES, seed)
    kind, rng = pairs or AllPairs(), np.random.default_rng(seed)
    source, target, weight = (end.numpy() for end in pair_weights(adata, spots, kind).draw(n_pairs, rng))
    distances = _distances(latent, source, target), pair_distances(spots.coordinates, source, target)
    edges = range_edges(distances[1].max(initial=0.0))
    profile = profile_of(*distances, weight.astype(float), edges=edges)
    if isinstance(kind, AllPairs):
        profile = replace(profile, bins=tuple(_ranges(latent, spots, edges, rng)))
    adata.uns[key_added] = as_arrays(profile) | _inputs.parameters(use_rep, spatial_key, section_key, seed)
    return profile


def _distances(latent: NDArray, source: NDArray, target: NDArray) -> NDArray[np.float64]:
    """Latent distances of pairs; each of n samples (sample, cell, latent) is used for every n-th pair."""
    found = np.empty(len(source))
    for number, points in enumerate(latent):
        mine = slice(number, None, len(latent))
        found[mine] = pair_distances(points, source[mine], target[mine])
    return found


def _ranges(
    latent: NDArray, spots: Spots, edges: tuple[float, ...], rng: np.random.Generator
) -> Iterable[RangeProfile]:
    for number, (low, high) in enumerate(pairwise(edges)):
        end = np.inf if number == len(edges) - 2 else high
        source, target, weight = sample_pairs_in_range(
            spots.coordinates, spots.section, low, end, _RANGE_PAIRS, rng
        )
        if len(source):
            apart = pair_distances(spots.coordinates, source, target)
            yield RangeProfile(low, high, profile_of(_distances(latent, source, target), apart, weight))


def as_arrays(profile: DistortionProfile) -> dict[str, Any]:
    """Convert a profile to arrays that can be written to a file."""
    curves = [points(part.profile.curve()) for part in profile.bins]
    bins = {
        "low": np.array([part.low for part in profile.bins]),
        "high": np.array([part.high for part in profile.bins]),
        "n_pairs": np.array([part.profile.n_pairs for part in profile.bins]),
        **{name: np.array([curve[name] for curve in curves]) for name in ("L", "scale")},
    }
    return {**points(profile.curve()), "bins": bins, "n_pairs": profile.n_pairs}


def points(curve: Iterable[ProfilePoint]) -> dict[str, NDArray[np.float64]]:
    """Points of a curve as one array per field."""
    taken = list(curve)
    return {name: np.array([getattr(p, name) for p in taken]) for name in ("epsilon", "L", "scale")}
