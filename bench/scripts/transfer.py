"""Positions in another section: fit on some sections, place a further one, beside baselines.

Run ``python bench/scripts/transfer.py --pairs starmap_mpfc_BZ5:starmap_mpfc_BZ9``. Sections have
frames of their own: those of the reference are laid upon the first by their centres, and two figures count,
the error after the similarity that fits all spots best, and the error of the others after the rigid motion
that fits 50 spots of the query whose positions are known (``framed_``). ``--table`` only prints the table:
means and standard deviations over seeds. ``--novosparc PYTHON``, an interpreter that has it, adds novoSpaRc.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import placement
import quality
import scvi
import torch
from isovi.workflow.prepare import select_genes, split_spots
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

import isovi
from isovi.data.fields import normalise, spacing
from isovi.geometry.align import similarity
from isovi.reconstruct.placer import Method
from isovi.tl import SpatialPlacer, placement_error
from isovi.tl._features import ExpressionFeatures
from isovi.tl.metrics import lognorm

EPOCHS = 50  # of fine-tuning
KNOWN = 50  # spots of the query whose positions are known, where any are


def read(data: Path, names: list[str], query: str) -> tuple[anndata.AnnData, anndata.AnnData]:
    """The reference's sections joined in the frame of the first, and the query, on the reference's genes."""
    sections = [anndata.read_h5ad(data / f"{name}.h5ad") for name in names]
    centre = sections[0].obsm["spatial"].mean(axis=0)
    for adata, name in zip(sections, names, strict=True):
        adata.obs = pd.DataFrame({"section": name}, index=[f"{name}_{cell}" for cell in adata.obs_names])
        where = np.asarray(adata.obsm["spatial"], dtype=float)
        adata.obsm = {"spatial": where - where.mean(axis=0) + centre}
    reference, asked = anndata.concat(sections, join="inner"), anndata.read_h5ad(data / f"{query}.h5ad")
    asked.obs_names = [f"{query}_{cell}" for cell in asked.obs_names]
    reference = reference[:, reference.var_names.isin(asked.var_names)].copy()
    genes = select_genes(reference, np.ones(reference.n_obs, dtype=bool), n_top_genes=2000)
    return reference[:, genes].copy(), asked


def baselines(
    reference: anndata.AnnData,
    asked: anndata.AnnData,
    validation: np.ndarray,
    known: np.ndarray,
    python: Path | None,
) -> dict[str, np.ndarray]:
    """Positions of the query without isoVI's latents."""
    codes = pd.Categorical(reference.obs["section"]).codes.astype(np.int64)
    placed, units = normalise(reference.obsm["spatial"], codes, list(np.unique(reference.obs["section"])), {})
    unit, genes = next(iter(units.values())), asked[:, reference.var_names].copy()
    target = float(np.median(np.asarray(reference.X[~validation].sum(axis=1))))
    expression = [lognorm(adata.X, target_sum=target) for adata in (reference, genes)]
    found = regressed(reference, genes, expression, validation, placed)
    if python is not None:
        found |= placement.novosparc(python, expression[0], placed, expression[1])
    found = {name: where * unit + reference.obsm["spatial"].mean(axis=0) for name, where in found.items()}
    return {**found, f"10-NN among {KNOWN} known": among_known(reference, genes, validation, known)}


def regressed(
    reference: anndata.AnnData,
    genes: anndata.AnnData,
    expression: list[np.ndarray],
    validation: np.ndarray,
    placed: np.ndarray,
) -> dict[str, np.ndarray]:
    """Positions by regression on components of expression or on scVI's latent, learned from the reference."""
    directions = ExpressionFeatures().fit(reference.X[~validation])
    found = {
        "10-NN, PCA-20 (unit length)": KNeighborsRegressor(10)
        .fit(directions.transform(reference.X), placed)
        .predict(directions.transform(genes.X.tocsr()))
    }
    pca = PCA(50, random_state=0).fit(expression[0][~validation])
    backbone = quality.fit_scvi(reference, np.where(validation, "validation", "train"), None)
    seen, asked = (
        placement.baselines(pca.transform(values), scVI=backbone.get_latent_representation(adata))
        for values, adata in zip(expression, (reference, genes), strict=True)
    )
    for name, (features, regression) in seen.items():
        found[name] = regression.fit(features, placed).predict(asked[name][0])
    return found


def among_known(
    reference: anndata.AnnData, genes: anndata.AnnData, validation: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Positions by regression on expression, learned from the known spots of the query itself."""
    directions = ExpressionFeatures().fit(reference.X[~validation])
    query = directions.transform(genes.X.tocsr())
    return KNeighborsRegressor(10).fit(query[known], genes.obsm["spatial"][known]).predict(query)


def run(
    data: Path, names: list[str], query: str, seed: int, python: Path | None = None
) -> list[dict[str, Any]]:
    """Rows of one transfer."""
    scvi.settings.seed = seed
    torch.set_num_threads(quality.THREADS)
    reference, asked = read(data, names, query)
    validation = split_spots(reference.n_obs, 0.0, rng=np.random.default_rng(seed)) == "validation"
    known = np.zeros(asked.n_obs, dtype=bool)
    known[np.random.default_rng(seed).permutation(asked.n_obs)[:KNOWN]] = True
    found: dict[str, tuple[np.ndarray, Any]] = {
        name: (where, None) for name, where in baselines(reference, asked, validation, known, python).items()
    }
    isovi.IsoSCVI.setup_anndata(reference, section_key="section")
    for method, distortion in (("isovi", isovi.Constraint()), ("plain", isovi.Penalty(0.0))):
        model = isovi.IsoSCVI(reference, distortion=distortion)
        parts = [np.flatnonzero(~validation), np.flatnonzero(validation)]
        model.train(datasplitter_kwargs={"external_indexing": parts}, enable_progress_bar=False)
        models = {f"{method}, zero-shot": model}
        if method == "isovi":
            models["isovi, fine-tuned"] = tune(model, reference, asked, np.zeros_like(known))
            models[f"isovi, fine-tuned, {KNOWN} known"] = tune(model, reference, asked, known)
        way: Method = "latent" if method == "plain" else "joint"
        for name, one in models.items():
            placed = (
                SpatialPlacer(one, method=way, seed=seed).fit(reference, calibration=validation).place(asked)
            )
            found[name] = placed.positions, placed
    truth, unit = np.asarray(asked.obsm["spatial"], dtype=float), spacing(np.asarray(asked.obsm["spatial"]))
    return [
        {"query": query, "seed": seed, "method": name, **figures(where, placed, truth, known, unit)}
        for name, (where, placed) in found.items()
    ]


def tune(model: Any, reference: anndata.AnnData, asked: anndata.AnnData, known: np.ndarray) -> Any:
    """The model after some epochs on the query's expression, and on the positions of the known spots."""
    query = asked[:, reference.var_names].copy()
    query.obsm["spatial"] = np.where(known[:, None], np.asarray(query.obsm["spatial"], dtype=float), np.nan)
    query.obs["section"] = reference.obs["section"].iloc[0]
    tuned = isovi.IsoSCVI.load_query_data(query, model, unfrozen=True)
    tuned.train(EPOCHS, enable_progress_bar=False)
    return tuned


def figures(
    where: np.ndarray, placed: Any, truth: np.ndarray, known: np.ndarray, unit: float
) -> dict[str, Any]:
    """Errors, those of the spots that are not known once the known ones give the frame, and the shift."""
    radius = None if placed is None else placed.radius
    errors = placement_error(where, truth, radius=radius, unit=unit)
    frame = similarity(where[known], truth[known], scaling=False)
    moved = np.linalg.norm(frame.apply(where) - truth, axis=1)[~known]
    errors["framed_median_error"] = float(np.median(moved)) / unit
    if placed is None:
        return errors
    errors["framed_coverage"] = float((moved <= placed.radius[~known]).mean())
    return {**errors, "flagged": float(placed.flagged.mean()), "shift": placed.shift}


def report(rows: pd.DataFrame) -> str:
    """Markdown: mean and standard deviation over the seeds of each transfer."""
    columns = ["aligned_median_error", "framed_median_error", "median_error", "spearman_distance"]
    columns += ["coverage", "framed_coverage", "flagged", "shift"]
    groups = rows.assign(reference=rows["reference"].map("+".join)).groupby(
        ["reference", "query", "method"], sort=False
    )
    mean, sd = groups[columns].mean(), groups[columns].std()
    told = mean.round(3).astype(str) + " (" + sd.round(3).astype(str) + ")"
    return told.assign(seeds=groups.size()).to_markdown()


def main() -> None:
    """Run the transfers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pairs", nargs="+", default=["starmap_mpfc_BZ5:starmap_mpfc_BZ9"], help="A+B:QUERY")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/transfer.jsonl"))
    parser.add_argument("--novosparc", type=Path, help="interpreter that has it")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, fit nothing")
    given = parser.parse_args()
    logging.getLogger("scvi").setLevel(logging.WARNING)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for pair, seed in itertools.product([] if given.table else given.pairs, given.seeds):
        names, query = pair.split(":")
        rows = run(given.data, names.split("+"), query, seed, given.novosparc)
        with given.out.open("a") as file:
            file.writelines(json.dumps({"reference": names.split("+"), **row}) + "\n" for row in rows)
    print(report(pd.read_json(given.out, lines=True)))


if __name__ == "__main__":
    main()
