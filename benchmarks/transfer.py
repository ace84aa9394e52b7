"""Positions in another section: fit on some sections, place a further one, beside baselines.

Run ``python benchmarks/transfer.py --pairs starmap_mpfc_BZ5:starmap_mpfc_BZ9``. Sections have
frames of their own, so the figure that counts is the error after the similarity that fits best.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import quality
import scvi
import torch
from sklearn.neighbors import KNeighborsRegressor

import isovi
from isovi.data.fields import normalise, spacing
from isovi.tl import SpatialPlacer, placement_error
from isovi.tl._features import ExpressionFeatures
from isovi.workflow.prepare import select_genes, split_spots

EPOCHS = 50  # of fine-tuning


def read(data: Path, names: list[str], query: str) -> tuple[anndata.AnnData, anndata.AnnData]:
    """The reference's sections joined, and the query, on genes chosen on the reference."""
    sections = [anndata.read_h5ad(data / f"{name}.h5ad") for name in names]
    for adata, name in zip(sections, names, strict=True):
        adata.obs = pd.DataFrame({"section": name}, index=[f"{name}_{cell}" for cell in adata.obs_names])
        adata.obsm = {"spatial": np.asarray(adata.obsm["spatial"], dtype=float)}
    reference, asked = anndata.concat(sections, join="inner"), anndata.read_h5ad(data / f"{query}.h5ad")
    asked.obs_names = [f"{query}_{cell}" for cell in asked.obs_names]
    reference = reference[:, reference.var_names.isin(asked.var_names)].copy()
    genes = select_genes(reference, np.ones(reference.n_obs, dtype=bool), n_top_genes=2000)
    return reference[:, genes].copy(), asked


def baselines(reference: anndata.AnnData, asked: anndata.AnnData, validation: np.ndarray) -> dict[str, Any]:
    """Positions by 10 nearest neighbours among expression features, in the reference's first frame."""
    codes = pd.Categorical(reference.obs["section"]).codes.astype(np.int64)
    known, units = normalise(reference.obsm["spatial"], codes, list(np.unique(reference.obs["section"])), {})
    features = ExpressionFeatures().fit(reference.X[~validation])
    matched = asked[:, reference.var_names]
    regression = KNeighborsRegressor(10).fit(features.transform(reference.X), known)
    found = regression.predict(features.transform(matched.X.tocsr()))
    return {"10-NN, PCA-20 (unit length)": found * next(iter(units.values()))}


def run(data: Path, names: list[str], query: str, seed: int) -> list[dict[str, Any]]:
    """Rows of one transfer."""
    scvi.settings.seed = seed
    torch.set_num_threads(quality.THREADS)
    reference, asked = read(data, names, query)
    split = split_spots(reference.n_obs, 0.0, rng=np.random.default_rng(seed))
    validation = split == "validation"
    found: dict[str, Any] = {
        name: (where, None) for name, where in baselines(reference, asked, validation).items()
    }
    isovi.IsoSCVI.setup_anndata(reference, section_key="section")
    for method, distortion in (("isovi", isovi.Constraint()), ("plain", isovi.Penalty(0.0))):
        model = isovi.IsoSCVI(reference, distortion=distortion)
        parts = [np.flatnonzero(~validation), np.flatnonzero(validation)]
        model.train(datasplitter_kwargs={"external_indexing": parts}, enable_progress_bar=False)
        way = "latent" if method == "plain" else "joint"
        placer = SpatialPlacer(model, method=way, seed=seed).fit(reference, calibration=validation)
        found[f"{method}, zero-shot"] = (placer.place(asked).positions, placer.place(asked))
        if method == "isovi":
            tuned = tune(model, reference, asked, validation, seed)
            found["isovi, fine-tuned"] = (tuned.positions, tuned)
    truth, unit = np.asarray(asked.obsm["spatial"], dtype=float), spacing(np.asarray(asked.obsm["spatial"]))
    return [
        {"query": query, "seed": seed, "method": name, **figures(where, placed, truth, unit)}
        for name, (where, placed) in found.items()
    ]


def tune(
    model: Any, reference: anndata.AnnData, asked: anndata.AnnData, validation: np.ndarray, seed: int
) -> Any:
    """The query placed after some epochs on its expression, without its positions."""
    query = asked[:, reference.var_names].copy()
    del query.obsm["spatial"]
    query.obs["section"] = reference.obs["section"].iloc[0]
    tuned = isovi.IsoSCVI.load_query_data(query, model, unfrozen=True)
    tuned.train(EPOCHS, enable_progress_bar=False)
    return SpatialPlacer(tuned, seed=seed).fit(reference, calibration=validation).place(asked)


def figures(where: np.ndarray, placed: Any, truth: np.ndarray, unit: float) -> dict[str, Any]:
    """Errors, and what the placer says of the shift."""
    errors = placement_error(where, truth, unit=unit)
    if placed is None:
        return errors
    covered = placement_error(where, truth, radius=placed.radius, unit=unit)
    return {**covered, "flagged": float(placed.flagged.mean()), "shift": placed.shift}


def main() -> None:
    """Run the transfers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pairs", nargs="+", default=["starmap_mpfc_BZ5:starmap_mpfc_BZ9"], help="A+B:QUERY")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transfer.jsonl"))
    given = parser.parse_args()
    logging.getLogger("scvi").setLevel(logging.WARNING)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for pair in given.pairs:
        names, query = pair.split(":")
        for seed in given.seeds:
            with given.out.open("a") as file:
                for row in run(given.data, names.split("+"), query, seed):
                    file.write(json.dumps({"reference": names, **row}) + "\n")
    print(pd.read_json(given.out, lines=True).round(3).to_markdown())


if __name__ == "__main__":
    main()
