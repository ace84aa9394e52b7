"""Results as a comparison would write them, with effects that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from isovi_bench.job import version_of

LEVELS = {  # of each figure without distance preservation, and what full preservation adds
    "morans_i": (0.4, 0.3),
    "gearys_c": (0.6, -0.3),
    "spearman_distance": (0.2, 0.4),
    "relative_distortion": (0.5, -0.2),
    "distortion_constant": (6.0, -3.0),
    "anisotropy": (2.0, -0.6),
    "nmi_mixture": (0.5, 0.05),
    "ari_mixture": (0.4, 0.05),
    "reconstruction": (600.0, 3.0),
    "elbo": (620.0, 5.0),
    "mse_lognorm": (1.2, 0.02),
}
METHODS: dict[str, dict[str, Any]] = {  # variant: method, how much it preserves, and facts of it
    "pca": {"strength": 0.0},
    "vae": {"strength": 0.0, "decoder": "gaussian"},
    "isovae-penalty": {
        "method": "isovae",
        "strength": 0.5,
        "decoder": "gaussian",
        "settings": {"penalty": 10.0},
    },
    "isovae": {"strength": 1.0, "decoder": "gaussian"},
    "scvi": {"strength": 0.0, "decoder": "counts"},
    "isoscvi-penalty": {
        "method": "isoscvi",
        "strength": 0.5,
        "decoder": "counts",
        "settings": {"penalty": 10.0},
    },
    "isoscvi": {"strength": 1.0, "decoder": "counts"},
    "graphpca": {"strength": 1.2, "smooths": True, "sets": ("train",)},
} | {
    f"isoscvi-{knob}-{level:g}": {
        "method": "isoscvi",
        "strength": strength,
        "decoder": "counts",
        "settings": {knob: level},
    }
    for knob, levels in {"penalty": (1, 100, 300), "target": (0.1, 0.4)}.items()
    for strength, level in zip(np.linspace(0.1, 1.1, len(levels)), levels, strict=True)
}
OURS = ("isovae-penalty", "isovae", "isoscvi-penalty", "isoscvi")


def job_rows(
    name: str, dataset: str, seed: int, shuffled: bool, scale: float, split: str
) -> list[dict[str, Any]]:
    facts = METHODS[name]
    about = {
        "job": f"{name}/{dataset}/{split}/{seed}/{shuffled}",
        "dataset": dataset,
        "method": facts.get("method", name),
        "variant": name,
        "settings": json.dumps(facts.get("settings", {})),
        "seed": seed,
        "split": split,
        "shuffled": shuffled,
        "status": "done",
        "message": "",
        "n_obs": 500,
        "decoder": facts.get("decoder", ""),
        "smooths": facts.get("smooths", False),
        "sees_positions": facts["strength"] > 0,
        "version": version_of(facts.get("method", name)),
    }
    figures = _figures(facts, np.random.default_rng([seed, len(dataset), len(name)]), shuffled, scale)
    return [about | {"set": key[0], "metric": key[1], "value": value} for key, value in figures.items()]


def _figures(
    facts: dict[str, Any], rng: np.random.Generator, shuffled: bool, scale: float
) -> dict[Any, float]:
    """Shuffled fits keep half of what they gain where they were trained, and nothing elsewhere."""
    kept = {"train": 0.5, "heldout": 0.0} if shuffled else {"train": 1.0, "heldout": 0.7}
    levels = LEVELS | {"coordinate_error": (6.0 * scale, -1.5 * scale)}
    return {
        (spots, metric): base + facts["strength"] * kept[spots] * gain + 0.01 * abs(base) * rng.normal()
        for spots in facts.get("sets", ("train", "heldout"))
        for metric, (base, gain) in levels.items()
        if (metric != "coordinate_error" or spots == "heldout")
        and (facts.get("decoder") or metric not in ("reconstruction", "elbo", "mse_lognorm"))
    } | {("", "seconds"): 10.0, ("", "peak_memory_mb"): 800.0}


@pytest.fixture(scope="session")
def make() -> Callable[..., pd.DataFrame]:
    """Tidy results of chosen methods, data sets and seeds, each variant of ours with its control."""

    def build(
        methods: tuple[str, ...] = tuple(METHODS),
        datasets: tuple[str, ...] = ("her2st_H1", "dlpfc_151673", "starmap"),
        seeds: tuple[int, ...] = (0, 1),
        split: str = "0.25",
    ) -> pd.DataFrame:
        rows = [
            row
            for name in methods
            for scale, dataset in enumerate(datasets, start=1)
            for seed in seeds
            for shuffled in ((False, True) if name in OURS else (False,))
            for row in job_rows(name, dataset, seed, shuffled, scale, split)
        ]
        return pd.DataFrame(rows)

    return build


def fail(frame: pd.DataFrame, job: str, message: str) -> pd.DataFrame:
    """The results if a job had failed."""
    first = frame[frame["job"] == job].head(1)
    failed = first.assign(set="", metric="", value=np.nan, status="failed", message=message)
    return pd.concat([frame[frame["job"] != job], failed], ignore_index=True)


@pytest.fixture(scope="session")
def made(make) -> pd.DataFrame:
    """The same with a failed job, a missing metric and a NaN."""
    frame = fail(make(), "graphpca/starmap/0.25/1/False", "RuntimeError: /data/run/a.h5ad | no 50 % of genes")
    lost = (frame["dataset"] == "starmap") & (frame["metric"] == "ari_mixture")
    frame.loc[(frame["job"] == "pca/her2st_H1/0.25/0/False") & (frame["metric"] == "anisotropy"), "value"] = (
        np.nan
    )
    return frame[~lost].reset_index(drop=True)


@pytest.fixture(scope="session")
def few(made) -> pd.DataFrame:
    """The same of one backbone with one method that fails once."""
    return made[
        made["variant"].isin(["scvi", "isoscvi-penalty", "isoscvi", "isoscvi-penalty-100", "graphpca"])
    ]
