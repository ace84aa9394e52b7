"""One trial: trained as :func:`isovi.fit` does, measured on validation and on held-out spots."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from isovi import files, pipeline
from isovi.data import io, pack
from isovi.model.checkpoint import EpochCheckpoint
from isovi.progress import Silent
from isovi.run import Settings
from isovi.spots import HELDOUT, TRAIN, VALIDATION, Spots
from isovi.tl import metrics
from isovi.tl.evaluate import EVALUATED, reconstruction, some

VALIDATION_SHARE = 0.25  # of the spots that are not held out: choosing settings takes more than stopping


def run_trial(source: io.Source, settings: Settings, min_counts: int, folder: Path) -> dict[str, Any]:
    """Train with these settings, or resume their training, and measure.

    Parameters
    ----------
    source, settings, min_counts
        As for :func:`isovi.files.fit`.
    folder
        Where the training is kept; it is removed in the end.

    Returns
    -------
    ``"epochs"``, and metrics by name under ``"validation"`` and ``"heldout"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adata = files.read(source, settings, min_counts, Silent())
    spots = with_more_validation(pipeline.split(adata, settings), settings.seed)
    genes = pipeline.choose_genes(adata, spots, settings)
    pipeline.require_counts(adata, genes, settings)
    used = pack.take_genes(adata, genes, folder / "genes.zarr")
    checkpoint = EpochCheckpoint(folder / "training.ckpt")
    model = pipeline.train(used, spots, settings, Silent(), checkpoint)
    latent = model.get_latent_representation(used)
    found = {part: measure(model, used, latent, spots, part, settings.seed) for part in (VALIDATION, HELDOUT)}
    shutil.rmtree(folder)
    return {"epochs": len(model.history_["elbo_train"]), **found}


def with_more_validation(spots: Spots, seed: int) -> Spots:
    """The same held-out spots, and a quarter of the others for validation, on which settings are chosen."""
    split = spots.split.copy()
    others = np.flatnonzero(split != HELDOUT)
    chosen = np.random.default_rng(seed).permutation(others)[: round(VALIDATION_SHARE * len(others))]
    split[others] = TRAIN
    split[chosen] = VALIDATION
    return replace(spots, split=split)


def measure(
    model: Any, used: AnnData, latent: np.ndarray, spots: Spots, part: str, seed: int
) -> dict[str, float]:
    """Metrics of a trained model on one part of the spots, by the names of :data:`isovi.tl.METRICS`."""
    rows = some(spots.rows(part), EVALUATED, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reconstructed = reconstruction(model, used, rows)
    coordinates, section = spots.coordinates, spots.section
    return {
        "reconstruction": reconstructed,
        "coordinate_error": metrics.coordinate_error(latent, coordinates, section, spots.rows(TRAIN), rows),
        "spearman_distance": metrics.spearman_distance(
            latent[rows], coordinates[rows], section[rows], rng=np.random.default_rng(seed)
        ),
    }
