"""Positions of held-out spots: ways to place them on isoVI's latents, and baselines.

``python bench/scripts/placement.py --data ../shared/data``. Latents and components are kept under ``--out``
and not made again; every placement is a row of ``results.jsonl``. ``--table`` only prints the tables.
``--novosparc PYTHON`` adds novoSpaRc, by an interpreter that has it.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import quality
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from isovi.reconstruct.placer import SectionPlacer
from isovi.tl.metrics import lognorm
from isovi.tl.placement_error import placement_error

WAYS = ("joint", "latent", "expression", "trilateration")


def cached(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the file holds, made first if it is not there."""
    if not file.is_file():
        np.savez(file, **make())
    return dict(np.load(file))


def latents(path: Path, method: str, seed: int, holdout: float) -> dict[str, Any]:
    """Latent of every spot by a fit that the held-out ones took no part in."""
    adata, placement = quality.prepare(anndata.read_h5ad(path), seed, holdout)
    model = quality.fit(method, adata, placement, seed, None)
    mean = model.get_latent_representation(adata)
    return {"mean": mean, "coordinates": placement.coordinates, "split": placement.split}


def expression(path: Path, seed: int, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-normalised expression of every spot, and its set."""
    adata, placement = quality.prepare(anndata.read_h5ad(path), seed, holdout)
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    train = placement.split == "train"
    return lognorm(adata.X, target_sum=float(np.median(totals[train]))), placement.split


def components(path: Path, seed: int, holdout: float) -> dict[str, Any]:
    """Fifty principal components of log-normalised expression, fitted on training spots."""
    found, split = expression(path, seed, holdout)
    train = split == "train"
    return {"pca": PCA(50, random_state=0).fit(found[train]).transform(found)}


def baselines(pca: np.ndarray, **latents: np.ndarray) -> dict[str, tuple[np.ndarray, Any]]:
    """Features and regression of each baseline; latents by the name of their method."""
    neighbors = KNeighborsRegressor(10)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
    forest = RandomForestRegressor(100, min_samples_leaf=3, max_features=0.5, random_state=0)
    return {
        "10-NN, PCA-10": (pca[:, :10], neighbors),
        "10-NN, PCA-50": (pca, neighbors),
        **{f"10-NN, {name}": (latent, neighbors) for name, latent in latents.items()},
        "ridge, PCA-50": (pca, ridge),
        "random forest, PCA-10": (pca[:, :10], forest),
    }


def novosparc(
    python: Path, reference: np.ndarray, positions: np.ndarray, query: np.ndarray
) -> dict[str, np.ndarray]:
    """Positions of the query by each variant of novoSpaRc, from log-normalised expression."""
    script = Path(__file__).with_name("novosparc_places.py")
    with tempfile.TemporaryDirectory() as folder:
        asked, found = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(asked, reference=reference, positions=positions, query=query)
        subprocess.run([python, script, asked, found], check=True, stdout=subprocess.DEVNULL)
        return dict(np.load(found))


def transported(
    given: argparse.Namespace, path: Path, seed: int, latent: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row of each variant of novoSpaRc; it is given validation spots too."""
    found, _ = expression(path, seed, given.holdout)
    truth, asked = latent["coordinates"].astype(float), latent["split"] == "heldout"
    places = novosparc(given.novosparc, found[~asked], truth[~asked], found[asked])
    return [{"method": name, **placement_error(where, truth[asked])} for name, where in places.items()]


def run(given: argparse.Namespace, name: str, seed: int) -> list[dict[str, Any]]:
    """Rows of one section and seed."""
    path, kept = given.data / f"{name}.h5ad", given.out

    def encoded(method: str) -> dict[str, Any]:
        make = functools.partial(latents, path, method, seed, given.holdout)
        return cached(kept / f"{name}__{method}__{seed}.npz", make)

    latent = encoded("isovi")
    pca = cached(kept / f"{name}__pca__{seed}.npz", lambda: components(path, seed, given.holdout))["pca"]
    rows = placements(latent, normalize(pca[:, :20].astype(float)))
    if given.baselines:
        others = baselines(pca, plain=encoded("plain")["mean"], scVI=encoded("scvi")["mean"])
        rows = compared(latent, others) + rows
    if given.novosparc:
        rows = transported(given, path, seed, latent) + rows
    return [{"set": name, "seed": seed, **row} for row in rows]


def compared(latent: dict[str, Any], others: dict[str, tuple[np.ndarray, Any]]) -> list[dict[str, Any]]:
    """A row of each baseline; they learn from validation spots too."""
    truth, asked = latent["coordinates"].astype(float), latent["split"] == "heldout"
    rows = []
    for method, (features, regression) in others.items():
        fitted = regression.fit(features[~asked], truth[~asked])
        figures = placement_error(fitted.predict(features[asked]), truth[asked])
        rows.append({"method": method, **figures})
    return rows


def placements(latent: dict[str, Any], features: np.ndarray) -> list[dict[str, Any]]:
    """A row of each way to place on isoVI's latents."""
    split, truth, mean = latent["split"], latent["coordinates"].astype(float), latent["mean"].astype(float)
    asked, seen = split == "heldout", split != "heldout"
    rows = []
    for method in WAYS:
        started = time.perf_counter()
        placer = SectionPlacer(method).fit(
            mean[seen], features[seen], truth[seen], split[seen] == "validation"
        )
        found = placer.place(mean[asked], features[asked])
        figures = placement_error(found.positions, truth[asked], radius=found.radius)
        figures |= {"flagged": float(found.flagged.mean()), "seconds": time.perf_counter() - started}
        rows.append({"method": method, "n_calibration": int((split == "validation").sum()), **figures})
    return rows


def report(rows: pd.DataFrame) -> str:
    """Markdown: median errors by section, ratios to the plain latent's, and coverage."""
    errors = rows.pivot_table(index="method", columns="set", values="median_error", sort=False)
    per_fit = rows.pivot_table(index="method", columns=["set", "seed"], values="median_error", sort=False)
    for base in {"10-NN, plain", "10-NN, scVI"} & set(per_fit.index):
        errors[f"ratio to {base[7:]}"] = (per_fit / per_fit.loc[base]).mean(axis=1)
    joint = rows[rows.method == "joint"]
    columns = ["coverage", "median_radius", "flagged", "spearman_distance", "contact_f1", "aligned_stress"]
    covered = joint.groupby("set", sort=False)[columns].mean()
    by_set = joint.groupby("set", sort=False)["coverage"]
    covered["fits"], covered["sd of coverage"] = by_set.count(), by_set.std()
    covered["cells"] = joint.groupby("set", sort=False)["n_cells"].sum()
    return f"{errors.round(2).to_markdown()}\n\n{covered.round(3).to_markdown()}"


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/placement"))
    parser.add_argument("--sets", nargs="+", default=quality.SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--holdout", type=float, default=0.25)
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="coverage needs none")
    parser.add_argument("--novosparc", type=Path, help="interpreter that has it")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, fit nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.jsonl"
    rows = pd.read_json(results, lines=True) if results.exists() else pd.DataFrame(columns=["set", "seed"])
    done = set(zip(rows["set"], rows["seed"], strict=True))
    for seed in given.seeds:
        for name in given.sets:
            if (name, seed) not in done and not given.table:
                with results.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in run(given, name, seed))
    print(report(pd.read_json(results, lines=True)))


if __name__ == "__main__":
    main()
