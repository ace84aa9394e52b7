"""Minibatches of patches against random ones, for near pairs and for all pairs: held-out figures.

Run ``python bench/scripts/batches.py --data ../shared/data``; every fit is a row of ``--out`` and is not
repeated when the command is run again. ``--table`` only prints the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anndata
import numpy as np
import pandas as pd
import quality
import scvi
import torch

import isovi
from isovi.geometry.distortion import profile_scale, relative_distortion
from isovi.graph import PairKind, Tissue
from isovi.tl.evaluate import Placement, evaluate_geometry
from isovi.tl.metrics import pair_distances

EPOCHS = {"dlpfc_151673": 60, "xenium_mouse_brain_tiny_36k": 15}
K = 6
N_JUDGED = 5_000  # held-out spots whose likelihood is measured, at most


@dataclass(frozen=True)
class NeighborsAtRandom(isovi.Neighbors):
    """Near pairs, of which those count that meet in random minibatches."""

    local: ClassVar[bool] = False


@dataclass(frozen=True)
class AllPairsInPatches(isovi.AllPairs):
    """All pairs, from minibatches of patches, each weighted with the inverse of its chance to meet."""

    local: ClassVar[bool] = True


KINDS: dict[tuple[str, str], PairKind] = {
    ("all", "random"): isovi.AllPairs(),
    ("all", "patches"): AllPairsInPatches(),
    (f"knn:{K}", "random"): NeighborsAtRandom(K),
    (f"knn:{K}", "patches"): isovi.Neighbors(K),
}


def near_distortion(latent: np.ndarray, placement: Placement) -> float:
    """Relative distortion over neighbours of which one at least is held out, at their own best λ."""
    tissue = Tissue(placement.coordinates, placement.section)
    source, target, _ = isovi.Neighbors(K).fit(tissue).draw(10**9, np.random.default_rng(0))
    new = (placement.split[source] == "heldout") | (placement.split[target] == "heldout")
    pairs = source.numpy()[new], target.numpy()[new]
    in_latent, in_tissue = (
        torch.as_tensor(pair_distances(values, *pairs)) for values in (latent, placement.coordinates)
    )
    weight = torch.ones_like(in_tissue)
    scale = profile_scale(in_latent, in_tissue, weight)
    return float(relative_distortion(in_latent, in_tissue, weight, scale))


def run(path: Path, kind: PairKind, seed: int, epochs: int) -> dict[str, Any]:
    """Figures of one fit."""
    adata, placement = quality.prepare(anndata.read_h5ad(path), seed, 0.25)
    scvi.settings.seed = seed
    torch.set_num_threads(quality.THREADS)
    started = time.process_time()
    model = quality.fit_iso(adata, placement.split, epochs, pairs=kind)
    seconds = time.process_time() - started
    latent = model.get_latent_representation(adata)
    found = evaluate_geometry(latent, placement)
    judged = np.flatnonzero(placement.split == "heldout")[:N_JUDGED]
    return {
        "held-out ELBO loss": -float(model.get_elbo(adata, indices=judged)),
        "reconstruction": sum(
            float(part) for part in model.get_reconstruction_error(adata, indices=judged).values()
        ),
        "coordinate error": found["heldout"]["coordinate_error"],
        "spearman": found["heldout"]["spearman_distance"],
        "distortion, all pairs": found["heldout"]["relative_distortion"],
        "distortion, neighbours": near_distortion(latent, placement),
        "L(0.1)": found["heldout"]["distortion_constant"],
        "Moran's I, all": found["all"]["morans_i"],
        "distortion, training": float(model.history_["relative_distortion_train"].iloc[-1, 0]),
        "CPU s": seconds,
    }


def report(rows: pd.DataFrame) -> str:
    """Markdown: means over seeds."""
    groups = rows.groupby(["set", "pairs", "minibatches"], sort=False)
    return groups.mean().drop(columns="seed").assign(seeds=groups.size()).round(3).to_markdown()


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/batches.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of what is there, fit nothing")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    names = ["set", "pairs", "minibatches", "seed"]
    rows = pd.read_json(given.out, lines=True) if given.out.exists() else pd.DataFrame(columns=names)
    done = set(rows[names].itertuples(index=False, name=None))
    for seed, name, (pairs, batches) in itertools.product(given.seeds, given.sets, KINDS):
        if (name, pairs, batches, seed) not in done and not given.table:
            figures = run(given.data / f"{name}.h5ad", KINDS[pairs, batches], seed, EPOCHS[name])
            row = {**dict(zip(names, (name, pairs, batches, seed), strict=True)), **figures}
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(report(pd.read_json(given.out, lines=True)))


if __name__ == "__main__":
    main()
