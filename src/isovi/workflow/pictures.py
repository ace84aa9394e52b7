"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from isovi import pl
from isovi.geometry.pairs import pair_distances, sample_pairs
from isovi.model.objective import Constraint
from isovi.spots import Spots

N_PAIRS = 50_000  # pairs of a Shepard plot
NAMES = {"train": "training", "heldout": "held out"}


def draw(folder: Path, model: Any, adata: AnnData, spots: Spots, options: Any) -> None:
    """Draw domains, latent components, training history and the Shepard plot into a folder.

    Parameters
    ----------
    folder
        Made if missing.
    model
        The trained model.
    adata
        Data with latent and domains.
    spots
        Where the spots are.
    options
        What was run: its keys are used.
    """
    folder.mkdir(exist_ok=True)
    keys = {"spatial_key": options.spatial_key, "section_key": options.section_key}
    pl.domains(adata, save=folder / "domains.png", **keys)
    pl.latent(adata, save=folder / "latent.png", **keys)
    asked = options.distortion
    target = asked.target if isinstance(asked, Constraint) else None
    pl.history(model.history_, target=target, save=folder / "history.png")
    in_latent, in_tissue = shepard_sets(adata, spot_scale(adata, model, options.section_key), spots)
    pl.shepard(in_latent, in_tissue, save=folder / "shepard.png")


def spot_scale(adata: AnnData, model: Any, section_key: str | None) -> np.ndarray:
    """λ of each spot's section; the mean of the others for a section that training never saw."""
    scale = model.distance_scale
    if not isinstance(scale, dict):
        return np.full(adata.n_obs, scale)
    mean = float(np.mean(list(scale.values())))
    return np.array([scale.get(name, mean) for name in adata.obs[section_key].astype(str)])


def shepard_sets(
    adata: AnnData, scale: np.ndarray, where: Spots
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """d_Z and λ d_S of sampled pairs of training and of held-out spots, by name; λ is given per spot."""
    in_latent, in_tissue = {}, {}
    for name, spots in where.subsets().items():
        if name in NAMES:
            source, target = sample_pairs(where.section[spots], N_PAIRS, np.random.default_rng(0))
            apart = pair_distances(where.coordinates[spots], source, target)
            in_latent[NAMES[name]] = pair_distances(adata.obsm["X_isovi"][spots], source, target)
            in_tissue[NAMES[name]] = scale[spots][source] * apart
    return in_latent, in_tissue
