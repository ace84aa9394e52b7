"""Figures of several runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from isovi.errors import InputError

FIGURES = {
    "coordinate_error": "coordinate error (spacings)",
    "reconstruction": "reconstruction (nats)",
    "relative_distortion": "relative distortion",
    "spearman_distance": "Spearman of distances",
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
