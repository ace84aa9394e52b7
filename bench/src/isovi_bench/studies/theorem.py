"""The theorem put to the test: measured L(ε) against the distortion loss, over a range of targets.

Everything is read from the results of a comparison that kept its latents, such as that of
``grids/theorem.yaml``: ``isoscvi`` at several targets, and ``scvi``, which has none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.geometry.distortion import profile_scale, relative_distortion
from isovi.geometry.pairs import pair_distances, sample_pairs
from isovi.geometry.profile import distortion_profile
from isovi.model.objective import Constraint
from isovi_bench import results
from isovi_bench.page import template
from isovi_bench.rendering import markdown
from isovi_bench.store import latent_of

EPSILONS = (0.05, 0.1, 0.2, 0.3, 0.5)
PARTS = ("heldout", "train")
N_PAIRS = 200_000
NAMES = {"relative": "r", "L": "L(0.1)"}
FAR = np.geomspace(0.1, 12, 100)
COLORS = ("#0072B2", "#D55E00", "#009E73")


def write(results_dir: Path, page: Path) -> list[Path]:
    """Write the page and its plot.

    Parameters
    ----------
    results_dir
        Folder written by ``isovi-bench run``, with latents.
    page
        Markdown file to write; the plot goes to ``_static/theorem.png`` beside it.

    Returns
    -------
    The page and the plot.

    Raises
    ------
    InputError
        If there are no latents of ``isoscvi`` or ``scvi`` with held-out spots.
    """
    table = measured(results_dir)
    plot = page.parent / "_static" / "theorem.png"
    plot.parent.mkdir(parents=True, exist_ok=True)
    draw(table, plot)
    seeds = ", ".join(str(seed) for seed in sorted(set(table.seed)))
    text = template("theorem.md.jinja").render(
        bound=bound(table), shape=shape(table), targets=targets(table), seeds=seeds
    )
    page.write_text(text, encoding="utf-8")
    return [page, plot]


def measured(results_dir: Path) -> pd.DataFrame:
    """Distortion losses and L(ε) of each fit, part and ε.

    Parameters
    ----------
    results_dir
        Folder written by ``isovi-bench run``, with latents.

    Returns
    -------
    Columns ``set``, ``target`` (NaN without the distance term), ``seed``, ``part``, ``epsilon``,
    ``relative``, ``loss``, ``L`` and ``L_weighted``.

    Raises
    ------
    InputError
        If there are no latents of ``isoscvi`` or ``scvi`` with held-out spots.
    """
    plan = results.read_plan(results_dir, results.read(results_dir))  # in the order of the grid
    jobs = plan[~plan["shuffled"] & plan["method"].isin(["scvi", "isoscvi"])]
    rows = [
        row | {"set": job.dataset, "target": _target(job.method, job.settings), "seed": job.seed}
        for job in jobs.itertuples()
        if (arrays := latent_of(results_dir, job.job)) is not None and set(PARTS) <= set(arrays["split"])
        for row in measure(**arrays)
    ]
    if not rows:
        raise InputError(
            f"{results_dir} has no latents of isoscvi or scvi with held-out spots.",
            "They are stored by isovi-bench run unless keep_latents is false in the grid.",
            "Run bench/grids/theorem.yaml.",
        )
    return pd.DataFrame(rows)


def _target(method: str, settings: str) -> float:
    return float("nan") if method == "scvi" else json.loads(settings).get("target", Constraint.target)


def measure(latent: NDArray, coordinates: NDArray, section: NDArray, split: NDArray) -> list[dict[str, Any]]:
    """Distortion losses of the pairs of each part, with the λ that is best for them, and L(ε).

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``.
    coordinates
        In coordinate units, shape ``(cell, axis)``.
    section, split
        Shape ``(cell,)``.
    """
    return [row for part in PARTS for row in _part(latent, coordinates, section, split, part)]


def _part(
    latent: NDArray, coordinates: NDArray, section: NDArray, split: NDArray, part: str
) -> list[dict[str, Any]]:
    spots = np.flatnonzero(split == part)
    source, target = sample_pairs(section[spots], N_PAIRS, np.random.default_rng(0))
    in_latent, in_tissue = (pair_distances(points[spots], source, target) for points in (latent, coordinates))
    z, s = torch.as_tensor(in_latent), torch.as_tensor(in_tissue)
    relative = float(relative_distortion(z, s, torch.ones_like(s), profile_scale(z, s, torch.ones_like(s))))
    plain = distortion_profile(in_latent, in_tissue).curve(EPSILONS)
    weighted = distortion_profile(in_latent, in_tissue, in_tissue).curve(EPSILONS)
    about = {"part": part, "relative": relative, "loss": relative * float(s.mean())}
    return [
        about | {"epsilon": epsilon, "L": one.L, "L_weighted": other.L}
        for epsilon, one, other in zip(EPSILONS, plain, weighted, strict=True)
    ]


def line(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Intercept C, slope K and R² of a straight line."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope), float(np.corrcoef(x, y)[0, 1] ** 2)


def exponents(table: pd.DataFrame) -> tuple[float, float]:
    """A and b of L - 1 ~ r^a ε^b: the theorem's term has 1 and -1. NaN where too few points are above 1."""
    known = table[(table.L > 1.001) & np.isfinite(table.L)]
    if len(known) < 3:
        return float("nan"), float("nan")
    design = np.column_stack([np.log(known.relative), np.log(known.epsilon), np.ones(len(known))])
    a, b, _ = np.linalg.lstsq(design, np.log(known.L - 1), rcond=None)[0]
    return float(a), float(b)


def shape(table: pd.DataFrame) -> str:
    """Markdown: straight line and exponents by set and part."""
    groups = table.groupby(["set", "part"], sort=False)
    return markdown(
        pd.DataFrame([_shape(str(name), str(part), group) for (name, part), group in groups]).round(2)
    )


def _shape(name: str, part: str, group: pd.DataFrame) -> dict[str, str | float]:
    intercept, slope, fitted = line(group.relative / group.epsilon, group.L)
    a, b = exponents(group)
    return {
        "set": name,
        "spots": part,
        "C": intercept,
        "slope K": slope,
        "R²": fitted,
        "largest (L - 1) ε / r": ((group.L - 1) * group.epsilon / group.relative).max(),
        "exponent of r": a,
        "exponent of ε": b,
    }


def targets(table: pd.DataFrame) -> str:
    """Markdown: what each target reaches, mean over seeds."""
    at = table[table.epsilon == 0.1].fillna({"target": np.inf})
    found = at.pivot_table(["relative", "L"], ["set", "target"], "part", sort=False)
    found = found.sort_index(level="target", ascending=False, sort_remaining=False).sort_index(
        level="set", kind="stable", sort_remaining=False
    )
    columns = {f"{name}, {part}": found[key, part] for part in PARTS for key, name in NAMES.items()}
    shown = pd.DataFrame(columns).round(3).reset_index()
    shown["target"] = shown["target"].map(lambda target: f"{target:g}" if np.isfinite(target) else "none")
    return markdown(shown)


def bound(table: pd.DataFrame) -> str:
    """Where the explicit bound says something: how much of it is used."""
    x = table.relative / table.epsilon
    said = table[x < 1].assign(bound=(1 + x) / (1 - x))
    used = (said.L_weighted - 1) / (said.bound - 1)
    return (
        f"Of {len(table)} measured points {len(said)} have r < ε, where the bound is not empty. It holds at "
        f"{int((said.L_weighted <= said.bound + 1e-9).sum())} of them; the measured constant uses "
        f"{used.median():.0%} of the bound's margin above 1 in the median, {used.max():.0%} at most."
    )


def draw(table: pd.DataFrame, path: Path) -> None:
    """L(ε) against r/ε for each set, and the explicit bound."""
    names = list(dict.fromkeys(table.set))
    figure = Figure(figsize=(3.6 * len(names), 3.4), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name, color in zip(axes, names, COLORS, strict=False):
        for part, group in table[table.set == name].groupby("part"):
            x, face = group.relative / group.epsilon, color if part == "heldout" else "none"
            label = "held out" if part == "heldout" else "training"
            ax.scatter(x, group.L, s=12, facecolors=face, edgecolors=color, linewidths=0.7, label=label)
        curve = np.linspace(0.01, 0.93, 200)
        ax.plot(
            curve, (1 + curve) / (1 - curve), color="0.3", linewidth=1.2, label="proved: (1 + x) / (1 - x)"
        )
        ax.plot(FAR, 1 + 2 * FAR, color="0.3", linewidth=1.2, linestyle="--", label="1 + 2x")
        ax.set(title=name, xlabel="x = r / ε", xscale="log", yscale="log", xlim=(0.1, 12), ylim=(1, 30))
        ax.yaxis.set_major_locator(FixedLocator([1, 2, 3, 5, 10, 20, 30]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter("{x:g}")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("L(ε)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, bbox_inches="tight")
