"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from isovi import pl
from isovi.geometry.pairs import sample_pairs
from isovi.model.objective import Constraint
from isovi.tl.metrics import pair_distances
from isovi.workflow.evaluate import Placement

N_PAIRS = 50_000  # pairs of a Shepard plot


def draw(folder: Path, model: Any, adata: AnnData, placement: Placement, options: Any) -> None:
    """Draw domains, latent components, training history and the Shepard plot into a folder.

    Parameters
    ----------
    folder
        Made if missing.
    model
        The trained model.
    adata
        Data with latent and domains.
    placement
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
    pl.shepard(*shepard_sets(adata, model, placement), save=folder / "shepard.png")


def shepard_sets(adata: AnnData, model: Any, placement: Placement) -> tuple[dict[str, Any], ...]:
    """Latent and tissue distances of sampled pairs of training and of held-out spots."""
    latent = adata.obsm["X_isovi"]
    subsets = {name: spots for name, spots in placement.subsets().items() if name != "all"}
    return tuple(
        shepard_set(name, latent[spots], placement.coordinates[spots], placement.section[spots], model)
        for name, spots in subsets.items()
    )


def shepard_set(
    name: str, latent: np.ndarray, coordinates: np.ndarray, section: np.ndarray, model: Any
) -> dict[str, Any]:
    """Distances of one set of spots, with λ of each pair."""
    source, target = sample_pairs(section, N_PAIRS, np.random.default_rng(0))
    scale = model.module.objective.scale.cpu().numpy()
    return {
        "name": name,
        "latent_distance": pair_distances(latent, source, target),
        "tissue_distance": pair_distances(coordinates, source, target),
        "scale": float(np.mean(scale)),
    }
