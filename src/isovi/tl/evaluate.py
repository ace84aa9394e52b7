"""Metrics of a fitted model on training, held-out and all spots: their table, and how to compute them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from anndata import AnnData

from isovi.data.pack import is_on_disk, take_cells
from isovi.geometry.certificate import CERTIFIED_EPSILON
from isovi.geometry.distortion import SCALE_PAIRS, fitted_scale, relative_distortion, sampled_distances
from isovi.geometry.profile import distortion_profile
from isovi.geometry.tissot import tissot_ellipses
from isovi.spots import Spots
from isovi.tl import metrics

EVALUATED = 20_000  # spots of a set on which likelihood and coordinate error are measured, at most
N_SAMPLES = 5  # posterior samples over which the likelihood is averaged, at most
CHUNK = 1_000  # spots whose expression is predicted at once


@dataclass(frozen=True)
class Metric:
    """A metric, as every table of metrics shows it.

    Attributes
    ----------
    name
        Key in ``metrics.json`` and in tables.
    label
        What it is called in words.
    unit
        Its unit; empty if it has none.
    better
        Whether ``"lower"`` or ``"higher"`` is better.
    spots
        Subsets of spots that it is computed on, of ``"train"``, ``"heldout"`` and ``"all"``.
    source
        Where its formula is from.
    """

    name: str
    label: str
    unit: str
    better: Literal["lower", "higher"]
    spots: tuple[str, ...] = ("train", "heldout", "all")
    source: str = ""

    @property
    def title(self) -> str:
        """Label with the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "coordinate_error",
            "coordinate error",
            "spacings",
            "lower",
            ("heldout",),
            "median error of regression on the 10 nearest training spots in the whole latent representation",
        ),
        Metric(
            "reconstruction",
            "reconstruction",
            "nats per spot",
            "lower",
            source="negative log likelihood under posterior samples (Kingma & Welling 2014)",
        ),
        Metric(
            "relative_distortion",
            "relative distortion",
            "",
            "lower",
            source="Σ|d_Z - λ d_S| / Σ λ d_S of the place part, with λ fitted on training pairs",
        ),
        Metric(
            "distortion_constant",
            f"distortion constant L({CERTIFIED_EPSILON:g})",
            "",
            "lower",
            source="Zhou & Du (2024), definition of a distance-preserving model; of the place part",
        ),
        Metric(
            "spearman_distance",
            "Spearman correlation of distances",
            "",
            "higher",
            source="rank correlation of tissue distances and those of the place part over pairs",
        ),
        Metric(
            "anisotropy",
            "anisotropy, median",
            "",
            "lower",
            source="longest over shortest axis of Tissot ellipses, place part; Zhou & Du (2024), Fig. 4",
        ),
        Metric(
            "morans_i", "Moran's I", "", "higher", source="Zhou & Du (2024), Table 1; of the whole latent"
        ),
        Metric("gearys_c", "Geary's C", "", "lower", source="Zhou & Du (2024), Table 1; of the whole latent"),
        Metric(
            "mse_lognorm",
            "MSE of log-normalised expression",
            "",
            "lower",
            source="Zhou & Du (2024), Fig. 5",
        ),
        Metric(
            "elbo",
            "ELBO loss",
            "nats per spot",
            "lower",
            source="negative evidence lower bound (Kingma & Welling 2014)",
        ),
    )
}
"""Metrics that a run reports, the most telling first: what compare, tune, report and the docs read."""


def evaluate_geometry(
    latent: np.ndarray, spots: Spots, *, place: slice = slice(None), seed: int = 0
) -> dict[str, dict[str, float]]:
    """How a latent representation keeps the geometry of each subset of spots.

    Parameters
    ----------
    latent
        Posterior means, or any representation, shape ``(cell, latent)``.
    spots
        Where the spots are, and how they were split.
    place
        Latent dimensions whose distances count; all by default.
    seed
        Draws the pairs.

    Returns
    -------
    For ``train``, ``heldout`` (if any) and ``all``: ``morans_i`` and ``gearys_c`` (means over all latent
    dimensions on a graph of the 6 nearest neighbours within the subset); and of the place part
    ``relative_distortion`` (with λ fitted on training pairs), ``spearman_distance``, ``distortion_constant``,
    and the median ``anisotropy`` of Tissot ellipses (NaN if there are none); for ``heldout`` also
    ``coordinate_error``, by all latent dimensions.
    """
    subsets, placing = spots.subsets(), latent[:, place]
    train = spots.take(subsets["train"])
    scale = fitted_scale(
        placing[subsets["train"]], train.coordinates, train.section, np.random.default_rng(seed)
    )
    found = {
        name: _geometry(placing[rows], spots.take(rows), scale, seed)
        | _autocorrelation(latent[rows], spots.take(rows))
        for name, rows in subsets.items()
    }
    if "heldout" in found:
        asked = some(subsets["heldout"], EVALUATED, seed)
        found["heldout"]["coordinate_error"] = metrics.coordinate_error(
            latent, spots.coordinates, spots.section, subsets["train"], asked
        )
    return found


def _geometry(latent: np.ndarray, spots: Spots, scale: float, seed: int) -> dict[str, float]:
    in_latent, in_tissue = sampled_distances(
        latent, spots.coordinates, spots.section, np.random.default_rng(seed)
    )
    profile = distortion_profile(in_latent.numpy(), in_tissue.numpy())
    ellipses = tissot_ellipses(latent.astype(np.float64), spots.coordinates, spots.section)
    anisotropy = ellipses.anisotropy[~np.isnan(ellipses.anisotropy)]
    return {
        "relative_distortion": float(
            relative_distortion(in_latent, in_tissue, torch.ones_like(in_tissue), in_tissue.new_tensor(scale))
        ),
        "spearman_distance": metrics.spearman_distance(
            latent, spots.coordinates, spots.section, rng=np.random.default_rng(seed), n_pairs=SCALE_PAIRS
        ),
        "distortion_constant": profile.for_epsilon(CERTIFIED_EPSILON).L,
        "anisotropy": float(np.median(anisotropy)) if len(anisotropy) else float("nan"),
    }


def _autocorrelation(latent: np.ndarray, spots: Spots) -> dict[str, float]:
    graph = metrics.spatial_neighbors(spots.coordinates, spots.section)
    return {"morans_i": metrics.morans_i(latent, graph), "gearys_c": metrics.gearys_c(latent, graph)}


def evaluate_fit(
    model: Any, adata: AnnData, spots: Spots, *, layer: str | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Likelihood and expression error of a scvi-tools model on each subset of spots, or on 20,000 of it.

    Parameters
    ----------
    model
        A trained model with scvi-tools' public methods.
    adata
        All spots, with the genes of the model.
    spots
        Where the spots are, and how they were split.
    layer
        Layer of the counts.
    seed
        Of the posterior samples; the global state of torch is left as it was.

    Returns
    -------
    For ``train``, ``heldout`` (if any) and ``all``: ``reconstruction``, ``elbo`` and ``mse_lognorm``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            name: _likelihood(model, *_in_memory(adata, some(rows, EVALUATED, seed)), layer)
            for name, rows in spots.subsets().items()
        }


def _in_memory(adata: AnnData, rows: np.ndarray) -> tuple[AnnData, np.ndarray]:
    """The spots in memory: those on disk are read many times."""
    if not is_on_disk(adata.X):
        return adata, rows
    return take_cells(adata, rows), np.arange(len(rows))


def _likelihood(model: Any, adata: AnnData, rows: np.ndarray, layer: str | None) -> dict[str, float]:
    reconstructed = reconstruction(model, adata, rows)
    bounds = [-float(model.get_elbo(adata, indices=rows)) for _ in range(n_samples(len(rows)))]
    return {
        "reconstruction": reconstructed,
        "elbo": float(np.mean(bounds)),
        "mse_lognorm": metrics.mse_lognorm(_expression(model, adata, rows, layer)),
    }


def reconstruction(model: Any, adata: AnnData, rows: np.ndarray) -> float:
    """Mean negative log likelihood of these spots given posterior samples, nats per spot."""
    drawn = [model.get_reconstruction_error(adata, indices=rows) for _ in range(n_samples(len(rows)))]
    return float(np.mean([sum(float(part) for part in one.values()) for one in drawn]))


def n_samples(n_spots: int) -> int:
    """Posterior samples of each of so many spots: five of up to 4,000, one of more than 10,000."""
    return int(np.clip(EVALUATED // max(n_spots, 1), 1, N_SAMPLES))


def _expression(
    model: Any, adata: AnnData, rows: np.ndarray, layer: str | None
) -> Iterator[tuple[Any, np.ndarray]]:
    counts = adata.X if layer is None else adata.layers[layer]
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        yield counts[chunk], model.get_normalized_expression(adata, indices=chunk, return_numpy=True)


def some(rows: np.ndarray, at_most: int, seed: int) -> np.ndarray:
    """These rows, or this many of them at random, in ascending order."""
    if len(rows) <= at_most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, at_most, replace=False))
