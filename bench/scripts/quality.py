"""Held-out quality against plain scVI, the same network without the distortion term, and PCA.

Run ``python bench/scripts/quality.py --data ../shared/data --out quality``; every fit is a row of
``quality/results.jsonl`` and is not repeated when the command is run again. ``--table`` prints the table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scvi
import torch
from isovi.workflow.prepare import select_genes, split_spots
from sklearn.decomposition import PCA

import isovi
from isovi.data.fields import normalise
from isovi.tl.evaluate import Placement, evaluate_fit, evaluate_geometry
from isovi.tl.metrics import lognorm

SETS = (
    "her2st_H1",
    "her2st_G2",
    "her2st_D1",
    "dlpfc_151673",
    "st2k_mouse_hippo_Hippo1",
    "starmap_mpfc_BZ5",
    "seqfish_embryo_embryo1_z2",
)
THREADS = 1
METHODS = ("pca", "scvi", "isovi", "plain", "shuffled")
VARIANTS: dict[str, dict[str, Any]] = {  # of isovi, by --methods: what else might lower L
    "target-0.1": {"distortion": isovi.Constraint(0.1)},
    "target-0.3": {"distortion": isovi.Constraint(0.3)},
    "sample": {"distortion": isovi.Constraint(distance="sample")},
    "wasserstein": {"distortion": isovi.Constraint(distance="wasserstein")},
    "near": {"pairs": isovi.Gaussian(3.0)},
}


def prepare(adata: anndata.AnnData, seed: int, holdout: float) -> tuple[anndata.AnnData, Placement]:
    """The spots with the chosen genes, and where they are."""
    split = split_spots(adata.n_obs, holdout, rng=np.random.default_rng(seed))
    adata = adata[:, select_genes(adata, split == "train", n_top_genes=2000)].copy()
    codes = np.zeros(adata.n_obs, dtype=np.int64)
    coordinates, _ = normalise(np.asarray(adata.obsm["spatial"], dtype=float), codes, ["all"], {})
    return adata, Placement(coordinates, codes, split)


def fit_scvi(adata: anndata.AnnData, split: np.ndarray, max_epochs: int | None) -> Any:
    """``scvi.model.SCVI`` at its own defaults, on the same training and validation spots."""
    seen = adata[split != "heldout"].copy()
    scvi.model.SCVI.setup_anndata(seen)
    model = scvi.model.SCVI(seen)
    model.train(max_epochs, datasplitter_kwargs=external(split), enable_progress_bar=False)
    return model


def fit_iso(adata: anndata.AnnData, split: np.ndarray, max_epochs: int | None, **model_kwargs: Any) -> Any:
    """Fit isoVI at its defaults, but for ``model_kwargs``."""
    seen = adata[split != "heldout"].copy()
    isovi.IsoSCVI.setup_anndata(seen)
    model = isovi.IsoSCVI(seen, **model_kwargs)
    model.train(max_epochs, datasplitter_kwargs=external(split), enable_progress_bar=False)
    return model


def external(split: np.ndarray) -> dict[str, Any]:
    """The split as scvi-tools takes it."""
    seen = split[split != "heldout"]
    return {"external_indexing": [np.flatnonzero(seen == "train"), np.flatnonzero(seen == "validation")]}


def shuffled(adata: anndata.AnnData, split: np.ndarray, seed: int) -> anndata.AnnData:
    """The same spots with the positions of those that are not held out dealt anew among them."""
    moved = adata.copy()
    seen = np.flatnonzero(split != "heldout")
    positions = np.array(moved.obsm["spatial"])
    positions[seen] = positions[np.random.default_rng(seed).permutation(seen)]
    moved.obsm["spatial"] = positions
    return moved


def fit(method: str, adata: anndata.AnnData, placement: Placement, seed: int, max_epochs: int | None) -> Any:
    """A fitted model."""
    scvi.settings.seed = seed
    torch.set_num_threads(THREADS)  # numba and scikit-learn may have changed it on the way here
    if method == "scvi":
        return fit_scvi(adata, placement.split, max_epochs)
    if method == "shuffled":
        adata = shuffled(adata, placement.split, seed)
    asked = {"distortion": isovi.Penalty(0.0)} if method == "plain" else VARIANTS.get(method, {})
    return fit_iso(adata, placement.split, max_epochs, **asked)


def certified(latent: np.ndarray, placement: Placement) -> float | None:
    """L(0.1) certified for random pairs of held-out spots; none where these are too few."""
    adata = anndata.AnnData(obsm={"X_isovi": latent, "spatial": placement.coordinates})
    try:
        cells = np.flatnonzero(placement.split == "heldout")
        point = isovi.tl.certificate(adata, cells=cells, matched=False).point
    except isovi.InputError:
        return None
    return point.L if point is not None else None


def principal_components(adata: anndata.AnnData, train: np.ndarray) -> np.ndarray:
    """PCA-10 as scanpy users do it, fitted on training spots: log1p of counts at the median library size."""
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    expression = lognorm(adata.X, target_sum=float(np.median(totals[train])))
    return PCA(10, random_state=0).fit(expression[train]).transform(expression)


def run(path: Path, method: str, seed: int, holdout: float, max_epochs: int | None) -> dict[str, Any]:
    """One row of the results."""
    adata, placement = prepare(anndata.read_h5ad(path), seed, holdout)
    started = time.perf_counter()
    if method == "pca":
        latent = principal_components(adata, placement.split == "train")
        return {"seconds": time.perf_counter() - started, **evaluate_geometry(latent, placement)}
    model = fit(method, adata, placement, seed, max_epochs)
    seconds = time.perf_counter() - started
    latent = model.get_latent_representation(adata)
    found = evaluate_geometry(latent, placement)
    found["heldout"]["certified_constant"] = certified(latent, placement)
    fits = evaluate_fit(model, adata, placement)
    history = model.history_
    epochs = len(history["train_loss_epoch"] if "train_loss_epoch" in history else history["elbo_train"])
    return {"seconds": seconds, "epochs": epochs, **{name: {**found[name], **fits[name]} for name in found}}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--holdout", type=float, default=0.25)
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--table", action="store_true", help="print the table of what is there, fit nothing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.jsonl"
    if not given.table:
        run_missing(results, given)
    print(report(read(results)))


def read(results: Path) -> list[dict[str, Any]]:
    """Rows so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def run_missing(results: Path, given: argparse.Namespace) -> None:
    """Fit and append every row that is not there yet."""
    done = {(row["set"], row["method"], row["seed"]) for row in read(results)}
    for seed in given.seeds:
        for name in given.sets:
            for method in given.methods:
                if (name, method, seed) not in done:
                    found = run(given.data / f"{name}.h5ad", method, seed, given.holdout, given.max_epochs)
                    row = {"set": name, "method": method, "seed": seed, **found}
                    with results.open("a") as file:
                        file.write(json.dumps(row) + "\n")


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown: figures of each set, means over seeds, then mean ratios over sets."""
    flat = pd.DataFrame([figures(row) for row in rows])
    by_set = flat.groupby(["set", "method"], sort=False).mean(numeric_only=True).drop(columns="seed")
    parts = [by_set.round(3).to_markdown(), ratios(by_set, "scvi"), ratios(by_set, "plain")]
    return "\n\n".join(part for part in parts if part)


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of a row that are compared."""
    held_out = row["heldout"]
    return {
        **{key: row[key] for key in ("set", "method", "seed")},
        "coordinate error": held_out["coordinate_error"],
        "reconstruction": held_out.get("reconstruction"),
        "relative distortion": held_out["relative_distortion"],
        "L(0.1)": held_out["distortion_constant"],
        "certified L(0.1)": held_out.get("certified_constant"),
        "spearman": held_out["spearman_distance"],
        "anisotropy": held_out["anisotropy"],
        "anisotropy, all": row["all"]["anisotropy"],
        "mse": held_out.get("mse_lognorm"),
        "Moran's I, all": row["all"]["morans_i"],
        "distortion, train": row["train"]["relative_distortion"],
        "epochs": row.get("epochs"),
    }


def ratios(by_set: pd.DataFrame, base: str) -> str:
    """Mean over sets of each method's ratio to a base, with the largest reconstruction ratio."""
    if base not in by_set.index.get_level_values("method"):
        return ""
    columns = ["coordinate error", "reconstruction", "mse", "Moran's I, all"]
    columns += ["L(0.1)", "anisotropy", "anisotropy, all"]
    ratio = by_set[columns] / by_set[columns].xs(base, level="method").reindex(by_set.index, level="set")
    mean = ratio.groupby("method", sort=False).mean()
    mean["largest reconstruction"] = ratio["reconstruction"].groupby("method").max()
    mean["sets"] = ratio["coordinate error"].groupby("method").count()
    return f"Ratios to {base}, mean over sets:\n\n{mean.round(4).to_markdown()}"


if __name__ == "__main__":
    main()
