"""Figures of several runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from rich.markup import escape
from rich.table import Table

from isovi import pl
from isovi.data import io
from isovi.errors import InputError

FIGURES = {
    "coordinate_error": "coordinate error (spacings)",
    "reconstruction": "reconstruction (nats)",
    "relative_distortion": "relative distortion",
    "distortion_constant": "distortion constant L(0.1)",
    "spearman_distance": "Spearman of distances",
    "anisotropy": "anisotropy, median",
    "morans_i": "Moran's I",
    "gearys_c": "Geary's C",
    "mse_lognorm": "MSE of log expression",
}


def table(runs: list[Path]) -> Table:
    """Held-out figures of each run, all spots where none were held out.

    Parameters
    ----------
    runs
        Folders written by :func:`isovi.workflow.fit.fit`.

    Raises
    ------
    InputError
        If a folder holds no ``metrics.json``.
    """
    found = [read(run) for run in runs]
    held_out = all("heldout" in metrics for metrics in found)
    part = "heldout" if held_out else "all"
    shown = Table(title="Held-out spots" if held_out else "All spots")
    shown.add_column("")
    for run, metrics in zip(runs, found, strict=True):
        shown.add_column(escape(f"{run}\n{metrics['distortion']}"), justify="right")
    for key, name in FIGURES.items():
        if all(key in metrics[part] for metrics in found):
            shown.add_row(name, *(_number(metrics[part][key]) for metrics in found))
    return shown


def pictures(runs: list[Path]) -> list[str]:
    """Paths of the pictures of each run."""
    return [str(picture) for run in runs for picture in sorted((Path(run) / "figures").glob("*.png"))]


def draw(runs: list[Path], save: Path) -> None:
    """Draw the tissue and each run's latent of the held-out spots, in the same colours.

    Parameters
    ----------
    runs
        Folders written for the same file with the same split.
    save
        Picture to write.

    Raises
    ------
    InputError
        If the runs held out different spots.
    """
    found = {
        f"{Path(run).name}: {read(run)['distortion']}": io.read(Path(run) / "adata.h5ad") for run in runs
    }
    shown = [_shown(adata) for adata in found.values()]
    if any(not names.equals(shown[0]) for names in shown):
        raise InputError(
            f"The runs {', '.join(map(str, runs))} held out different spots.",
            "A picture compares latents of the same spots.",
            "Give runs of one file with the same --holdout and --seed.",
        )
    latents = {name: adata[shown[0]].obsm["X_isovi"] for name, adata in found.items()}
    first = next(iter(found.values()))
    coordinates = first[shown[0]].obsm[first.uns["isovi"]["spatial_key"]]
    pl.latent_map(latents, coordinates, title="tissue, held-out spots", save=save)


def _shown(adata: AnnData) -> pd.Index:
    """Names of the held-out spots, of all where none were held out."""
    held_out = (adata.obs["isovi_split"] == "heldout").to_numpy()
    return adata.obs_names[held_out] if held_out.any() else adata.obs_names


def read(run: Path) -> dict[str, Any]:
    """Figures of one run."""
    file = Path(run) / "metrics.json"
    if not file.is_file():
        raise InputError(
            f"{run} holds no metrics.json.",
            "It must be a folder written by isovi fit.",
            "Name such a folder.",
        )
    return json.loads(file.read_text())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
