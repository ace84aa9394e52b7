"""Figures of quality of a fitted model, on training, held-out and all spots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from isovi.data.split import HELDOUT, TRAIN
from isovi.geometry.certificate import CERTIFIED_EPSILON
from isovi.geometry.distortion import profile_scale, relative_distortion
from isovi.geometry.pairs import sample_pairs
from isovi.geometry.profile import distortion_profile
from isovi.geometry.tissot import tissot_ellipses
from isovi.tl import metrics

N_PAIRS = 200_000  # pairs over which distances are compared
N_SAMPLES = 5  # posterior samples over which the likelihood is averaged
CHUNK = 1_000  # spots whose expression is predicted at once


@dataclass(frozen=True)
class Geometry:
    """How a latent keeps the geometry of a set of spots.

    Attributes
    ----------
    morans_i, gearys_c
        Mean over latent dimensions, on a graph of the 6 nearest neighbours inside the set.
    relative_distortion
        Over pairs of the set, with λ fitted to training pairs.
    spearman_distance
        Of latent with tissue distances, over pairs of the set.
    distortion_constant
        L(0.1): the factor within which all but a tenth of the set's pairs keep their distance.
    anisotropy
        Median over Tissot ellipses, fitted to the nearest spots of the set; not a number if it has none.
    """

    morans_i: float
    gearys_c: float
    relative_distortion: float
    spearman_distance: float
    distortion_constant: float
    anisotropy: float


@dataclass(frozen=True)
class Fit:
    """How well a model explains the counts of a set of spots.

    Attributes
    ----------
    reconstruction
        Mean negative log likelihood given posterior samples, nats per spot.
    elbo
        Mean negative evidence lower bound (a loss: lower is better), nats per spot.
    mse_lognorm
        Mean squared error of log-normalised expression.
    """

    reconstruction: float
    elbo: float
    mse_lognorm: float


@dataclass(frozen=True)
class Placement:
    """Where the spots are: what geometry is held against.

    Attributes
    ----------
    coordinates
        In coordinate units, shape ``(cell, axis)``.
    section
        Section code, shape ``(cell,)``.
    split
        ``"train"``, ``"validation"`` or ``"heldout"``, shape ``(cell,)``.
    """

    coordinates: np.ndarray
    section: np.ndarray
    split: np.ndarray

    def subsets(self) -> dict[str, np.ndarray]:
        """Indices of the spots of each reported set."""
        sets = {"train": self.split == TRAIN, "heldout": self.split == HELDOUT, "all": self.split != ""}
        return {name: np.flatnonzero(mask) for name, mask in sets.items() if mask.any()}


def evaluate_geometry(
    latent: np.ndarray, placement: Placement, *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Geometry of a latent on each set of spots, and the error of held-out coordinates.

    Parameters
    ----------
    latent
        Posterior means, or any representation, shape ``(cell, latent)``.
    placement
        Where the spots are.
    seed
        Draws the pairs.

    Returns
    -------
    For ``train``, ``heldout`` and ``all`` the fields of :class:`Geometry`; for ``heldout`` also
    ``coordinate_error``, the median in nearest-neighbour spacings of a regression on the 10 nearest
    training spots in the latent.
    """
    subsets = placement.subsets()
    scale = _scale(latent, placement, subsets["train"], seed)
    found = {
        name: asdict(_geometry(latent, placement, spots, scale, seed)) for name, spots in subsets.items()
    }
    if "heldout" in found:
        found["heldout"]["coordinate_error"] = metrics.coordinate_error(
            latent, placement.coordinates, placement.section, subsets["train"], subsets["heldout"]
        )
    return found


def _pair_distances(
    latent: np.ndarray, placement: Placement, spots: np.ndarray, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    source, target = sample_pairs(placement.section[spots], N_PAIRS, np.random.default_rng(seed))
    in_latent, in_tissue = (
        torch.as_tensor(metrics.pair_distances(values[spots], source, target))
        for values in (latent, placement.coordinates)
    )
    return in_latent, in_tissue


def _scale(latent: np.ndarray, placement: Placement, spots: np.ndarray, seed: int) -> torch.Tensor:
    in_latent, in_tissue = _pair_distances(latent, placement, spots, seed)
    return profile_scale(in_latent, in_tissue, torch.ones_like(in_tissue))


def _geometry(
    latent: np.ndarray, placement: Placement, spots: np.ndarray, scale: torch.Tensor, seed: int
) -> Geometry:
    in_latent, in_tissue = _pair_distances(latent, placement, spots, seed)
    graph = metrics.spatial_neighbors(placement.coordinates[spots], placement.section[spots])
    return Geometry(
        morans_i=metrics.morans_i(latent[spots], graph),
        gearys_c=metrics.gearys_c(latent[spots], graph),
        relative_distortion=float(
            relative_distortion(in_latent, in_tissue, torch.ones_like(in_tissue), scale)
        ),
        spearman_distance=metrics.spearman_distance(
            latent[spots],
            placement.coordinates[spots],
            placement.section[spots],
            rng=np.random.default_rng(seed),
            n_pairs=N_PAIRS,
        ),
        distortion_constant=distortion_profile(in_latent.numpy(), in_tissue.numpy())
        .for_epsilon(CERTIFIED_EPSILON)
        .L,
        anisotropy=_anisotropy(latent[spots], placement.coordinates[spots], placement.section[spots]),
    )


def _anisotropy(latent: np.ndarray, coordinates: np.ndarray, section: np.ndarray) -> float:
    """Median anisotropy of the spots that have an ellipse."""
    found = tissot_ellipses(latent.astype(np.float64), coordinates.astype(np.float64), section)
    known = found.anisotropy[~np.isnan(found.anisotropy)]
    return float(np.median(known)) if len(known) else float("nan")


def evaluate_fit(
    model: Any, adata: AnnData, placement: Placement, *, layer: str | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Likelihood and expression error of a scvi-tools model on each set of spots.

    Parameters
    ----------
    model
        A trained model with scvi-tools' public methods.
    adata
        All spots, with the genes of the model.
    placement
        Where the spots are, and how they were split.
    layer
        Layer of the counts.
    seed
        Of the posterior samples; the global state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: asdict(_fit(model, adata, spots, layer)) for name, spots in placement.subsets().items()}


def _fit(model: Any, adata: AnnData, spots: np.ndarray, layer: str | None) -> Fit:
    reconstructed = [
        sum(float(part) for part in model.get_reconstruction_error(adata, indices=spots).values())
        for _ in range(N_SAMPLES)
    ]
    bounds = [-float(model.get_elbo(adata, indices=spots)) for _ in range(N_SAMPLES)]
    return Fit(
        reconstruction=float(np.mean(reconstructed)),
        elbo=float(np.mean(bounds)),
        mse_lognorm=metrics.mse_lognorm(_expression(model, adata, spots, layer)),
    )


def _expression(
    model: Any, adata: AnnData, spots: np.ndarray, layer: str | None
) -> Iterator[tuple[Any, np.ndarray]]:
    counts = adata.X if layer is None else adata.layers[layer]
    for start in range(0, len(spots), CHUNK):
        chunk = spots[start : start + CHUNK]
        yield counts[chunk], model.get_normalized_expression(adata, indices=chunk, return_numpy=True)
