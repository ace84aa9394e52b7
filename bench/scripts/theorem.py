"""The theorem put to the test: measured L(ε) against the distortion loss, over a range of targets.

Run ``python bench/scripts/theorem.py --data ../shared/data --out theorem``; every fit is a row of
``theorem/results.jsonl`` and is not repeated when the command is run again. ``--docs docs`` writes the page
``docs/theorem.md`` and its picture from what is there, and fits nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import quality
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

import isovi
from isovi.geometry.distortion import profile_scale, relative_distortion
from isovi.geometry.pairs import sample_pairs
from isovi.geometry.profile import distortion_profile
from isovi.simulate import simulate
from isovi.tl.evaluate import Placement
from isovi.tl.metrics import pair_distances

SETS = ("simulated", "her2st_G2", "starmap_mpfc_BZ5")
TARGETS = (None, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
EPSILONS = (0.05, 0.1, 0.2, 0.3, 0.5)
PARTS = ("heldout", "train")
N_PAIRS = 200_000
NAMES = {"relative": "r", "L": "L(0.1)"}
FAR = np.geomspace(0.1, 12, 100)
COLORS = ("#0072B2", "#D55E00", "#009E73")


def load(name: str, data: Path) -> anndata.AnnData:
    """A tissue of known geometry, or a real section."""
    return (
        simulate("layers", 900, 300, seed=0)
        if name == "simulated"
        else anndata.read_h5ad(data / f"{name}.h5ad")
    )


def run(name: str, target: float | None, seed: int, data: Path) -> dict[str, Any]:
    """Fit with one target (``None``: without the term) and measure both parts."""
    adata, placement = quality.prepare(load(name, data), seed, 0.25)
    distortion = isovi.Penalty(0.0) if target is None else isovi.Constraint(target)
    isovi_seed(seed)
    model = quality.fit_iso(adata, placement.split, None, distortion=distortion)
    latent = model.get_latent_representation(adata)
    return {part: measure(latent, placement, part) for part in PARTS}


def isovi_seed(seed: int) -> None:
    """Seed a fit, and keep it on one thread."""
    quality.scvi.settings.seed = seed
    torch.set_num_threads(quality.THREADS)


def measure(latent: np.ndarray, placement: Placement, part: str) -> dict[str, Any]:
    """Distortion losses of a part's pairs with the λ that is best for them, and L(ε)."""
    spots = np.flatnonzero(placement.split == part)
    source, target = sample_pairs(placement.section[spots], N_PAIRS, np.random.default_rng(0))
    in_latent, in_tissue = (
        pair_distances(points[spots], source, target) for points in (latent, placement.coordinates)
    )
    z, s = torch.as_tensor(in_latent), torch.as_tensor(in_tissue)
    scale = profile_scale(z, s, torch.ones_like(s))
    relative = float(relative_distortion(z, s, torch.ones_like(s), scale))
    profiles = {"L": distortion_profile(in_latent, in_tissue)}
    profiles["L_weighted"] = distortion_profile(in_latent, in_tissue, in_tissue)
    curves = {name: [point.L for point in profile.curve(EPSILONS)] for name, profile in profiles.items()}
    return {"relative": relative, "loss": relative * float(s.mean()), **curves}


def run_missing(results: Path, given: argparse.Namespace) -> None:
    """Fit and append every row that is not there yet."""
    done = {(row["set"], row["target"], row["seed"]) for row in quality.read(results)}
    for seed in given.seeds:
        for name in given.sets:
            for target in TARGETS:
                if (name, target, seed) not in done:
                    row = {"set": name, "target": target, "seed": seed, **run(name, target, seed, given.data)}
                    with results.open("a") as file:
                        file.write(json.dumps(row) + "\n")


def flat(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One line for each fit, part and ε."""
    return pd.DataFrame(
        {
            **{key: row[key] for key in ("set", "target", "seed")},
            "part": part,
            "epsilon": epsilon,
            "relative": row[part]["relative"],
            "loss": row[part]["loss"],
            **{name: row[part][name][number] for name in ("L", "L_weighted")},
        }
        for row in rows
        for part in PARTS
        for number, epsilon in enumerate(EPSILONS)
    )


def line(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Intercept C, slope K and R² of a straight line."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope), float(np.corrcoef(x, y)[0, 1] ** 2)


def exponents(table: pd.DataFrame) -> tuple[float, float]:
    """A and b of L - 1 ~ r^a ε^b: the theorem's term has 1 and -1."""
    known = table[(table.L > 1.001) & np.isfinite(table.L)]
    design = np.column_stack([np.log(known.relative), np.log(known.epsilon), np.ones(len(known))])
    a, b, _ = np.linalg.lstsq(design, np.log(known.L - 1), rcond=None)[0]
    return float(a), float(b)


def shape(table: pd.DataFrame) -> str:
    """Markdown: straight line and exponents by set and part."""
    rows = []
    for (name, part), group in table.groupby(["set", "part"], sort=False):
        intercept, slope, fitted = line(group.relative / group.epsilon, group.L)
        a, b = exponents(group)
        rows.append(
            {
                "set": name,
                "spots": part,
                "C": intercept,
                "slope K": slope,
                "R²": fitted,
                "largest (L - 1) ε / r": ((group.L - 1) * group.epsilon / group.relative).max(),
                "exponent of r": a,
                "exponent of ε": b,
            }
        )
    return pd.DataFrame(rows).round(2).to_markdown(index=False)


def targets(table: pd.DataFrame) -> str:
    """Markdown: what each target reaches, mean over seeds."""
    at = table[table.epsilon == 0.1].fillna({"target": np.inf})
    found = at.pivot_table(["relative", "L"], ["set", "target"], "part", sort=False)
    found = found.sort_index(level="target", ascending=False, sort_remaining=False).sort_index(
        level="set", kind="stable", sort_remaining=False
    )
    columns = {f"{name}, {part}": found[key, part] for part in PARTS for key, name in NAMES.items()}
    told = pd.DataFrame(columns).round(3).reset_index()
    told["target"] = told["target"].map(lambda target: f"{target:g}" if np.isfinite(target) else "none")
    return told.to_markdown(index=False)


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


def write_page(rows: list[dict[str, Any]], docs: Path) -> None:
    """The page and its picture."""
    table = flat(rows)
    draw(table, docs / "_static" / "theorem.png")
    page = (Path(__file__).parent / "theorem.md.in").read_text()
    seeds = ", ".join(str(seed) for seed in sorted(set(table.seed)))
    told = {"SHAPE": shape(table), "TARGETS": targets(table), "BOUND": bound(table), "SEEDS": seeds}
    for name, text in told.items():
        page = page.replace(f"@{name}@", text)
    (docs / "theorem.md").write_text(page)


def main() -> None:
    """Run what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/theorem"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--docs", type=Path, help="write the page there, fit nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.jsonl"
    if given.docs is None:
        run_missing(results, given)
    else:
        write_page(quality.read(results), given.docs)


if __name__ == "__main__":
    main()
