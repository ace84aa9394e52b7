"""One setting tried: trained as ``isovi fit`` does, measured on spots for choosing and for telling."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from rich.console import Console

from isovi.data import pack
from isovi.graph import parse_pairs
from isovi.model.objective import Constraint
from isovi.spots import HELDOUT, TRAIN, VALIDATION, Spots
from isovi.tl import metrics
from isovi.tl.evaluate import EVALUATED, N_SAMPLES
from isovi.workflow import fit
from isovi.workflow.prepare import some
from isovi.workflow.resume import Attempt

VALIDATION_SHARE = 0.25  # of the spots that are not held out: a choice among settings takes more than a stop
CHECKPOINT = "training.ckpt"


@dataclass(frozen=True)
class Setting:
    """What is varied.

    Attributes
    ----------
    target
        Tolerated relative distortion.
    n_latent
        Latent dimensions.
    pairs
        Pairs that count, as :func:`isovi.graph.parse_pairs` reads them.
    """

    target: float
    n_latent: int
    pairs: str

    def __str__(self) -> str:
        return f"target {self.target:g}, {self.n_latent} latent, {self.pairs}"


@dataclass(frozen=True)
class Figures:
    """How good a setting is on a set of spots that it was not trained on.

    Attributes
    ----------
    reconstruction
        Mean negative log likelihood, nats per spot.
    coordinate_error
        Median error of positions by the 10 nearest training spots in the latent, in spacings.
    spearman_distance
        Correlation of latent with tissue distances.
    """

    reconstruction: float
    coordinate_error: float
    spearman_distance: float


def try_setting(setting: Setting, options: fit.FitOptions, folder: Path) -> dict[str, Any]:
    """Train with a setting, or go on with it, and measure.

    Parameters
    ----------
    setting
        What is tried.
    options
        All else.
    folder
        Where its training is kept; it is removed in the end.

    Returns
    -------
    Fields of :class:`Figures` under ``"validation"`` and ``"heldout"``, and ``"epochs"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console, asked = Console(quiet=True), with_setting(options, setting)
    adata = fit.read(asked, console)
    placement = widened(fit.place(adata, asked), options.seed)
    genes = fit.choose_genes(adata, placement, asked, console)
    used = pack.take_genes(adata, genes, folder / fit.WORKING_STORE)
    checkpoint = folder / CHECKPOINT
    model = fit.train(used, placement, asked, console, Attempt(checkpoint, {}, checkpoint.exists()))
    latent = model.get_latent_representation(used)
    found: dict[str, Any] = {"epochs": len(model.history_["elbo_train"])}
    for part in (VALIDATION, HELDOUT):
        spots = some(np.flatnonzero(placement.split == part), EVALUATED, options.seed)
        found[part] = asdict(measure(model, used, latent, placement, spots, options.seed))
    shutil.rmtree(folder)
    return found


def with_setting(options: fit.FitOptions, setting: Setting) -> fit.FitOptions:
    """Options of a fit with this setting."""
    return replace(
        options,
        distortion=Constraint(setting.target),
        pairs=parse_pairs(setting.pairs),
        n_latent=setting.n_latent,
    )


def widened(placement: Spots, seed: int) -> Spots:
    """The same held-out spots, with more of the others for validation, on which settings are chosen."""
    split = placement.split.copy()
    others = np.flatnonzero(split != HELDOUT)
    chosen = np.random.default_rng(seed).permutation(others)[: round(VALIDATION_SHARE * len(others))]
    split[others] = TRAIN
    split[chosen] = VALIDATION
    return replace(placement, split=split)


def measure(
    model: Any, used: AnnData, latent: np.ndarray, placement: Spots, spots: np.ndarray, seed: int
) -> Figures:
    """Figures of a trained model on these spots."""
    train = np.flatnonzero(placement.split == TRAIN)
    coordinates, section = placement.coordinates, placement.section
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = [model.get_reconstruction_error(used, indices=spots) for _ in range(N_SAMPLES)]
    return Figures(
        float(np.mean([sum(float(part) for part in one.values()) for one in drawn])),
        metrics.coordinate_error(latent, coordinates, section, train, spots),
        metrics.spearman_distance(
            latent[spots], coordinates[spots], section[spots], rng=np.random.default_rng(seed)
        ),
    )
