"""Cells of a file placed in the tissue of an earlier run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from rich.console import Console
from rich.table import Table

from isovi.data import check, io
from isovi.errors import InputError, OutputError
from isovi.spots import HELDOUT, SPLIT_KEY, VALIDATION
from isovi.tl.place import PlacedCells, SpatialPlacer
from isovi.tl.placement_error import placement_error
from isovi.workflow.finished import BACKBONES, GENE_KEY
from isovi.workflow.fit import say

PLACED_KEY = "X_placed"
RADIUS_KEY = "placed_radius_90"
FLAG_KEY = "placed_flag"
SECTION_KEY = "placed_section"
NAMES = {
    "median_error": "median error (spacings)",
    "mean_error": "mean error (spacings)",
    "aligned_median_error": "median error after alignment (spacings)",
    "aligned_stress": "stress after alignment",
    "spearman_distance": "Spearman of distances",
    "contact_f1": "F1 of contacts",
    "coverage": "share inside its region",
    "median_radius": "median radius (spacings)",
}


@dataclass(frozen=True)
class PlaceOptions:
    """What ``isovi place`` was asked to do.

    Attributes
    ----------
    run
        Folder written by :func:`isovi.workflow.fit.fit`.
    query
        Raw counts, with or without positions, in whatever :func:`isovi.data.io.read` takes; never changed.
    out
        File to write: the query with positions.
    seed
        Of what is drawn.
    force
        Replace the file.
    table, coordinate_system
        What to read of the query, if it is SpatialData.
    """

    run: Path
    query: Path
    out: Path
    seed: int = 0
    force: bool = False
    table: str | None = None
    coordinate_system: str | None = None


def place(options: PlaceOptions, console: Console | None = None) -> dict[str, Any]:
    """Place the cells of a file in the tissue of a run, and write them.

    The reference are the run's training spots; its validation spots, which no gradient saw, calibrate the
    regions; its held-out spots are not used, so that they can be the query.

    Parameters
    ----------
    options
        What to do.
    console
        Where the report goes; nowhere by default.

    Returns
    -------
    Figures: cells placed and flagged, genes missing, and errors if the query has positions.

    Raises
    ------
    InputError
        If the run or the query cannot be used.
    OutputError
        If the file cannot be written.
    """
    console = console or Console(quiet=True)
    if options.out.exists() and not options.force:
        raise OutputError(
            f'"{options.out}" exists.', "It is kept unless asked.", "Pass --force, or another --out."
        )
    adata, setup = read_run(options.run)
    query = io.read(io.Source(options.query, options.table, options.coordinate_system))
    check_query(query, adata, setup)
    placer = fit_placer(options, adata, setup)
    placed = placer.place(query)
    annotate(query, placed)
    figures = describe(query, placed, adata, setup)
    io.write_atomic(query, options.out, force=options.force)
    tell(figures, placed, console)
    say(console, f"Wrote {options.out}")
    return figures


def read_run(run: Path) -> tuple[AnnData, dict[str, Any]]:
    """Data of a run, and how it was fitted.

    Raises
    ------
    InputError
        If the folder holds no run.
    """
    record = Path(run) / "run.json"
    if not record.is_file():
        raise InputError(
            f"{run} holds no run.json.", "It must be a folder written by isovi fit.", "Name such a folder."
        )
    return io.read(Path(run) / "adata.h5ad"), json.loads(record.read_text())["arguments"]


def check_query(query: AnnData, adata: AnnData, setup: dict[str, Any]) -> None:
    """Refuse what cannot be used of the query before the model is loaded."""
    check.size(query)
    check.names(query)
    check.genes_in_common(query.var_names, adata.var_names[adata.var[GENE_KEY].to_numpy(dtype=bool)])
    check.counts(query, setup.get("layer"), allow_empty_genes=True)
    if setup["spatial_key"] in query.obsm:
        check.numeric_positions(query, setup["spatial_key"])


def fit_placer(options: PlaceOptions, adata: AnnData, setup: dict[str, Any]) -> SpatialPlacer:
    """A placer on the spots of a run that were not held out."""
    used = adata[:, adata.var[GENE_KEY].to_numpy(dtype=bool)].copy()
    model = BACKBONES[setup["backbone"]].load(str(options.run / "model"), used)
    split = adata.obs[SPLIT_KEY].astype(str).to_numpy()
    reference = used[split != HELDOUT].copy()
    calibration = split[split != HELDOUT] == VALIDATION
    return SpatialPlacer(model, seed=options.seed).fit(reference, calibration=calibration)


def annotate(query: AnnData, placed: PlacedCells) -> None:
    """Write positions, radii, flags and sections to the query."""
    query.obsm[PLACED_KEY] = placed.positions
    query.obs[RADIUS_KEY] = placed.radius
    query.obs[FLAG_KEY] = placed.flagged
    query.obs[SECTION_KEY] = placed.section.astype(str)
    query.obs[SECTION_KEY] = query.obs[SECTION_KEY].astype("category")


def describe(query: AnnData, placed: PlacedCells, adata: AnnData, setup: dict[str, Any]) -> dict[str, Any]:
    """Metrics of the placement, with errors of each section's cells where the query has positions."""
    figures: dict[str, Any] = {
        "n_cells": query.n_obs,
        "n_flagged": int(placed.flagged.sum()),
        "n_missing_genes": len(placed.missing),
        "shift": placed.shift,
    }
    key = setup["spatial_key"]
    if key not in query.obsm:
        return figures
    truth = check.numeric_positions(query, key)
    known = np.isfinite(truth).all(axis=1)
    figures["n_without_position"] = int((~known).sum())
    reference = check.spots(adata, key, setup["section_key"])
    figures["errors"] = {}
    for name, unit in reference.units.items():
        of = placed.section == name
        if (of & known).sum() >= 3 and truth.shape[1] == placed.positions.shape[1]:
            figures["errors"][name] = placement_error(
                placed.positions[of], truth[of], radius=placed.radius[of], unit=unit
            )
    return figures


def tell(figures: dict[str, Any], placed: PlacedCells, console: Console) -> None:
    """A few lines, and a table of errors where there are any."""
    say(
        console,
        f"Placed {figures['n_cells']} cells; {figures['n_flagged']} are unlike the reference, "
        f"{figures['n_missing_genes']} of the model's genes are missing; median 90 % radius "
        f"{np.median(placed.radius):.4g} in the units of the positions",
    )
    if placed.missing:
        some = ", ".join(placed.missing[:10])
        say(console, f"Missing: {some}{', ...' if len(placed.missing) > 10 else ''}")
    if missing := figures.get("n_without_position"):
        say(console, f"{missing} cells have no finite position in the query; errors are over the others")
    if figures.get("errors"):
        console.print(table(figures["errors"]))


def table(errors: dict[str, dict[str, Any]]) -> Table:
    """Errors of each section's cells."""
    shown = Table(title="Placed against true positions")
    shown.add_column("")
    for name in errors:
        shown.add_column("" if name == "all" else name, justify="right")
    shown.add_row("cells", *(str(found["n_cells"]) for found in errors.values()))
    for key, name in NAMES.items():
        shown.add_row(name, *(f"{found[key]:.3g}" for found in errors.values()))
    return shown
