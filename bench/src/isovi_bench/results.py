"""The tidy table of results: its columns, and the parts of it that tables and plots use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isovi.errors import InputError
from isovi_bench.job import version_of
from isovi_bench.metrics import METRICS

FIRST_VERSION = 1  # of results without the column
FILE = "results.parquet"
PLAN = "plan.parquet"
DONE, FAILED = "done", "failed"

COLUMNS: dict[str, str] = {
    "job": "str",
    "dataset": "str",
    "method": "str",
    "variant": "str",
    "settings": "str",
    "seed": "int64",
    "split": "str",
    "shuffled": "bool",
    "set": "str",
    "metric": "str",
    "value": "float64",
    "status": "str",
    "message": "str",
    "n_obs": "int64",
    "decoder": "str",
    "smooths": "bool",
    "sees_positions": "bool",
    "version": "int64",
}
"""One row per job, set and metric; a failed job is one row whose metric is empty."""

JOB_COLUMNS = ("job", "dataset", "method", "variant", "settings", "seed", "split", "shuffled")
"""What names a job: the columns of the plan."""

KINDS = {
    "spots": "spots held out at random",
    "section": "whole sections held out",
    "donor": "whole donors held out",
    "all": "no spots held out",
    "together": "several sections, no spots held out",
    "molecules": "molecules held out",
}
"""Kinds of split; a table never mixes them, nor single sections and several in one latent representation."""

SETS = {"train": "training spots", "heldout": "held-out spots"}
"""Sets of spots that methods are compared on."""

MIXED = "ilisi"
"""A metric that only data sets of several sections have."""

APART = ("her2st_D2", "her2st_D3", "starmap_BZ9", "dlpfc_151674", "hippo_3", "seqfish_e1z5", "xenium_36k")
"""Data sets that took no part in any choice, as grids name them; they are reported apart."""

TRIAL = ["dataset", "split", "seed"]
"""Two methods are compared on the same of these: same spots, same genes, same split."""


@dataclass(frozen=True)
class Backbone:
    """A generative model without and with distance preservation: names of variants.

    Attributes
    ----------
    title
        In tables.
    plain
        Without.
    penalty, constraint
        With the paper's penalty, and with our constraint.
    decoder
        Kind of its decoder.
    """

    title: str
    plain: str
    penalty: str
    constraint: str
    decoder: str

    @property
    def variants(self) -> tuple[str, str, str]:
        """Without, with the paper's penalty, with the constraint."""
        return self.plain, self.penalty, self.constraint


BACKBONES = (
    Backbone("VAE", "vae", "isovae-penalty", "isovae", "gaussian"),
    Backbone("scVI", "scvi", "isoscvi-penalty", "isoscvi", "counts"),
)


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with exactly the columns of the schema, in their order and types.

    Raises
    ------
    InputError
        If a column is missing.
    """
    frame = frame if "version" in frame else frame.assign(version=FIRST_VERSION)
    if missing := [column for column in COLUMNS if column not in frame]:
        raise InputError(
            f"The results have no column {', '.join(missing)}.",
            "Results have one row per job, set and metric, with the columns of isovi-bench.",
            "Name a folder written by isovi-bench run.",
        )
    return frame[list(COLUMNS)].astype(COLUMNS).reset_index(drop=True)


def read(results_dir: Path | str) -> pd.DataFrame:
    """Results of a folder.

    Raises
    ------
    InputError
        If it holds none.
    """
    file = Path(results_dir) / FILE
    if not file.is_file():
        raise InputError(
            f"{results_dir} holds no {FILE}.",
            "It must be a folder written by isovi-bench run.",
            "Run isovi-bench first, or name its --out folder.",
        )
    return conform(pd.read_parquet(file))


def read_plan(results_dir: Path | str, frame: pd.DataFrame) -> pd.DataFrame:
    """Every job of the grid, those not run yet too, and every job of the results."""
    file = Path(results_dir) / PLAN
    planned = [jobs_in(pd.read_parquet(file))] if file.is_file() else []
    return jobs_in(pd.concat([*planned, jobs_in(frame)], ignore_index=True))


def jobs_in(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per job, with :data:`JOB_COLUMNS`."""
    return frame[list(JOB_COLUMNS)].drop_duplicates("job").reset_index(drop=True)


def outdated(frame: pd.DataFrame) -> pd.DataFrame:
    """Jobs whose method gives other results now, with :data:`JOB_COLUMNS`."""
    return jobs_in(frame[frame["version"] < frame["method"].map(version_of)])


def kind(split: str) -> str:
    """Kind of a split, as far as the split alone tells: a key of :data:`KINDS`."""
    head = split.split(":")[0]
    return head if head in KINDS else "spots"


def kind_of_set(spots: str) -> str:
    """A set of spots in words; empty for a whole job."""
    return SETS.get(spots, "all spots" if spots else "")


def label(variant: str, shuffled: bool) -> str:
    """What a row of a table is called."""
    return f"{variant}, shuffled" if shuffled else variant


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """Finite metrics of finished jobs, with the kind of split and the label of each."""
    found = frame[(frame["status"] == DONE) & (frame["metric"] != "") & np.isfinite(frame["value"])].copy()
    found["kind"] = found["split"].map(kind)
    several = set(found.loc[found["metric"] == MIXED, "dataset"])
    found.loc[(found["kind"] == "all") & found["dataset"].isin(several), "kind"] = "together"
    found["label"] = [label(*names) for names in zip(found["variant"], found["shuffled"], strict=True)]
    return found


def kinds(found: pd.DataFrame) -> list[str]:
    """Kinds of split that metrics were measured with, in the order of :data:`KINDS`."""
    return [name for name in KINDS if (found["kind"] == name).any()]


def contenders(found: pd.DataFrame) -> pd.DataFrame:
    """Without the settings that were tried only to see how sensitive a method is to them."""
    named = {name for backbone in BACKBONES for name in backbone.variants}
    tried = found["settings"].map(_has_knob).astype(bool) & ~found["variant"].isin(
        named | set(found["method"])
    )
    return found[~tried | ~found["method"].isin(found.loc[~tried, "method"])]


def _has_knob(settings: str) -> bool:
    return bool({"penalty", "target"} & set(json.loads(settings or "{}")))


def ordered(labels: set[str] | pd.Index) -> list[str]:
    """Labels with baselines first, then ours, then the others, each followed by its control; 3 before 100."""
    ours = [name for backbone in BACKBONES for name in backbone.variants]
    first = [label(name, shuffled) for name in ("pca", "scvi-default", *ours) for shuffled in (False, True)]

    def place(name: str) -> tuple[int, list[tuple[str, float]]]:
        parts = [(text, float(digits or 0)) for text, digits in re.findall(r"(\D*)(\d+(?:\.\d+)?|$)", name)]
        return first.index(name) if name in first else len(first), parts

    return sorted(labels, key=place)


def known(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of metrics that tables know."""
    return found[found["metric"].isin(list(METRICS))]
