"""Distortion over near pairs: how well the latents of a comparison keep distances between neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.geometry.distortion import profile_scale, relative_distortion
from isovi.geometry.pairs import pair_distances
from isovi.tl.metrics import spatial_neighbors
from isovi_bench import results
from isovi_bench.rendering import markdown
from isovi_bench.store import latent_of

K = 6
SHOWN = {  # held out
    "elbo": "ELBO",
    "coordinate_error": "coordinate error",
    "spearman_distance": "Spearman",
    "relative_distortion": "distortion, all pairs",
    "distortion_constant": "L(0.1)",
}
NEAR = f"distortion, {K} nearest"


def measure(results_dir: Path) -> pd.DataFrame:
    """Held-out metrics of each variant with the relative distortion over near pairs, means over trials.

    Parameters
    ----------
    results_dir
        Folder written by ``isovi-bench run``, with latents.

    Returns
    -------
    A row for each data set and variant.

    Raises
    ------
    InputError
        If no latent was stored.
    """
    frame = results.read(results_dir)
    found = frame[(frame["status"] == results.DONE) & ~frame["shuffled"]]
    held_out = found[found["set"] == "heldout"].pivot_table(index="job", columns="metric", values="value")
    jobs = found.drop_duplicates("job").set_index("job")[["dataset", "variant"]]
    latents = {job: latent_of(results_dir, job) for job in jobs.index}
    near = {job: near_distortion(**arrays) for job, arrays in latents.items() if arrays is not None}
    if not near:
        raise InputError(
            f"{results_dir} has no latents.",
            "They are stored by isovi-bench run unless keep_latents is false in the grid.",
            "Run the grid with keep_latents.",
        )
    shown = held_out.rename(columns=SHOWN)[[title for key, title in SHOWN.items() if key in held_out]]
    rows = jobs.join(shown).assign(**{NEAR: pd.Series(near)})
    return rows.groupby(["dataset", "variant"], as_index=False).mean()


def near_distortion(latent: NDArray, coordinates: NDArray, section: NDArray, split: NDArray) -> float:
    """Relative distortion over pairs of neighbours of which at least one is held out, at their own best λ.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``.
    coordinates
        In coordinate units, shape ``(cell, axis)``.
    section, split
        Shape ``(cell,)``.

    Returns
    -------
    NaN where no spot is held out or the latent of one is not known.
    """
    graph = spatial_neighbors(coordinates, section, K)
    source, target = (graph + graph.T).nonzero()
    once = source < target
    new = (split[source] == "heldout") | (split[target] == "heldout")
    pairs = source[once & new], target[once & new]
    if not len(pairs[0]) or not np.isfinite(latent).all():
        return float("nan")
    in_latent, in_tissue = (
        torch.as_tensor(pair_distances(points, *pairs)) for points in (latent, coordinates)
    )
    weight = torch.ones_like(in_tissue)
    scale = profile_scale(in_latent, in_tissue, weight)
    return float(relative_distortion(in_latent, in_tissue, weight, scale))


def report(rows: pd.DataFrame) -> str:
    """The rows as Markdown."""
    return markdown(rows.round(3))
