"""Records as tables and sentences on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from isovi.data.inspect import Counts, Inspection, Positions

if TYPE_CHECKING:
    from isovi.tune.result import Tuned

SHOWN = (0.05, 0.1, 0.2)  # ε of the table of a diagnosis
PLACEMENT = {
    "median_error": "median error (spacings)",
    "mean_error": "mean error (spacings)",
    "aligned_median_error": "median error after alignment (spacings)",
    "aligned_stress": "stress after alignment",
    "spearman_distance": "Spearman correlation of distances",
    "contact_f1": "F1 of contacts",
    "coverage": "share inside its region",
    "median_radius": "median radius (spacings)",
}


def metrics(table: pd.DataFrame, distortions: Sequence[str]) -> Table:
    """A table of :func:`isovi.compare.compare`, with the distortion of each run under its name."""
    shown = Table(title=f"{table.attrs['spots'].capitalize()} spots")
    shown.add_column("", overflow="fold")
    for run, distortion in zip(table.columns, distortions, strict=True):  # folded: cut names look alike
        shown.add_column(escape(f"{run}\n{distortion}"), justify="right", overflow="fold")
    for title, row in table.iterrows():
        shown.add_row(str(title), *("-" if np.isnan(value) else f"{value:.4g}" for value in row))
    return shown


def metrics_beside(width: int) -> int:
    """Runs that such a table has room for in so many characters, at least one."""
    return max((width - 27) // 15, 1)


def placement(errors: dict[str, dict[str, Any]]) -> Table:
    """Errors of each section's placed cells."""
    shown = Table(title="Placed against true positions")
    shown.add_column("")
    for name in errors:
        shown.add_column("" if name == "all" else escape(name), justify="right")
    shown.add_row("cells", *(str(found["n_cells"]) for found in errors.values()))
    for key, label in PLACEMENT.items():
        shown.add_row(label, *(f"{found[key]:.3g}" for found in errors.values()))
    return shown


def diagnosis(found: dict[str, Any]) -> Table:
    """Metrics of a diagnosis, held-out spots first."""
    from isovi.diagnose import NAMES

    parts = [part for part in NAMES if found["profile"][part] is not None]
    shown = Table(title="Distances kept within a factor L for all but a share ε of pairs")
    shown.add_column("")
    for part in parts:
        shown.add_column(NAMES[part], justify="right")
    for epsilon in SHOWN:
        values = [_at(found["profile"][part], epsilon) for part in parts]
        shown.add_row(f"L({epsilon:g})", *map(_number, values))
    for name, part in zip(("short", "middle", "long"), found["profile"]["bins"], strict=False):
        row = f"L(0.1), {name} range (to {part['high']:.3g} spacings)"
        shown.add_row(row, _number(_at(part["curve"], 0.1)), *[""] * (len(parts) - 1))
    for name in ("anisotropy", "area"):
        shown.add_row(f"{name} of ellipses, median", *(_number(found[name][part]["0.5"]) for part in parts))
    return shown


def certified(found: dict[str, Any]) -> list[str]:
    """Sentences on what a diagnosis certifies, or why nothing is certified."""
    if found["profile"]["heldout"] is None:
        return ["No spots were held out: nothing is certified, and training geometry is largely memorised."]
    names = {"certificate_random_pairs": "random pairs", "certificate": "pairs matched by range"}
    few = "Nothing is certified for {}: too few spots were held out"
    return [_sentence(found[key], name) if key in found else few.format(name) for key, name in names.items()]


def _sentence(one: dict[str, Any], name: str) -> str:
    point = one["point"]
    if point is None:
        return f"Nothing is certified for {name}: {one['n_pairs']} disjoint ones are too few"
    if point["L"] is None or not np.isfinite(point["L"]):
        why = "too many of them are of spots at one position, or with one latent representation"
        return f"Nothing is certified for {name}: {why}"
    said = (
        f"Certified for {name} ({one['n_pairs']} disjoint ones) with {1 - one['delta']:.0%} confidence: "
        f"L({point['epsilon']:.2g}) <= {_number(point['L'])}"
    )
    approximate = point.get("approximate_L")
    if approximate is None or not np.isfinite(approximate):
        return said
    limit = f"approximate {1 - one['delta']:.0%} limit (bootstrap over cells)"
    return f"{said}; {limit}: {_number(approximate)}"


def _at(curve: list[dict[str, float]], epsilon: float) -> float:
    return next(point["L"] for point in curve if point["epsilon"] == epsilon)


def _number(value: float | None) -> str:
    return "inf" if value is None or not np.isfinite(value) else f"{value:.3g}"


def inspection(found: Inspection) -> Table:
    """What an input holds, line by line."""
    shown = Table.grid(padding=(0, 2))
    for name, text in _lines(found):
        shown.add_row(name, Text(text))
    return shown


def _lines(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "input", f"{found.source.path} ({found.kind})"
    yield from found.about.items()
    yield "cells x genes", f"{found.n_obs} x {found.n_vars}"
    yield from (("positions", _positions(one)) for one in found.positions)
    yield from (("counts", _counts(one)) for one in found.counts)
    yield from (("sections", f'{number} in obs["{key}"]') for key, number in found.sections.items())
    if not found.sections:
        yield "sections", "one, as far as the columns' names tell"
    yield from (("labels", f'{number} categories in obs["{key}"]') for key, number in found.labels.items())
    yield from (("found", str(one)) for one in found.findings)
    yield from (("note", note) for note in found.notes)


def _positions(one: Positions) -> str:
    return (
        f'obsm["{one.key}"] ({one.columns}); unit: {one.unit}; '
        f"median distance to the nearest neighbour {one.spacing:.4g}"
    )


def _counts(one: Counts) -> str:
    where = "X" if one.layer is None else f'layers["{one.layer}"]'
    if one.problem:
        return f"{where}: no raw counts ({one.problem})"
    empty = f", {one.n_empty} cells without any" if one.n_empty else ""
    what = "corrected or estimated counts, with decimals" if one.decimals else "raw counts"
    return f"{where}: {what}, median {one.median:.5g} a cell{empty}"


def tuned(found: Tuned) -> Table:
    """Pareto-optimal settings, with metrics on validation spots and, in brackets, on held-out spots."""
    from isovi.tl import METRICS

    heldout = [str(name) for name in found.table if str(name).startswith("heldout_")]
    metrics = [METRICS[name.removeprefix("heldout_")] for name in heldout]
    title = "Pareto-optimal settings: on validation spots (on held-out spots)"
    shown = Table(title=title, box=None, pad_edge=False, collapse_padding=True)  # 80 characters do for it
    for name in ("", "target", "latent", "pairs"):
        shown.add_column(name)
    for name in (*(metric.title for metric in metrics), "epochs"):
        shown.add_column(name, justify="right", min_width=max(map(len, name.split())))  # no word is cut short
    for _, row in found.table[found.table["pareto"]].sort_values("reconstruction").iterrows():
        setting = (f"{row['target']:g}", str(row["n_latent"]), escape(str(row["pairs"])))
        values = [f"{row[m.name]:.4g} ({row[f'heldout_{m.name}']:.4g})" for m in metrics]
        shown.add_row("*" if row["recommended"] else "", *setting, *values, str(row["epochs"]))
    return shown


def choice(found: Tuned) -> list[str]:
    """Sentences on what was chosen from a search, and how."""
    from isovi.tune.result import WITHIN

    return [
        f"{len(found.table)} settings tried; {int(found.table['pareto'].sum())} are Pareto-optimal. "
        "Metrics on held-out spots took no part in any choice.",
        f"* lowest coordinate error within {WITHIN:.0%} of the lowest reconstruction loss:",
    ]
