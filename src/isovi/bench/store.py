"""Results on disk: one small file per finished job, and one table of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isovi.bench.job import Job
from isovi.bench.measure import Figures
from isovi.bench.task import Method
from isovi.data import io

DONE, FAILED = "done", "failed"
RESULTS = "results.parquet"

SCHEMA = pa.schema(
    {
        "job": pa.string(),
        "dataset": pa.string(),
        "method": pa.string(),
        "variant": pa.string(),
        "settings": pa.string(),
        "seed": pa.int64(),
        "split": pa.string(),
        "shuffled": pa.bool_(),
        "set": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "status": pa.string(),
        "message": pa.string(),
        "n_obs": pa.int64(),
        "decoder": pa.string(),
        "smooths": pa.bool_(),
        "sees_positions": pa.bool_(),
    }
)
"""Columns of the tidy table: a row per job, set and metric."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes
    ----------
    figures
        By set and metric; those of the whole job under the set ``""``. Empty if it failed.
    message
        Why it failed; empty if it did not.
    arrays
        ``latent``, ``coordinates`` (float32), ``section`` and ``split`` of every spot.
    """

    figures: Figures = field(default_factory=dict)
    message: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Whether it is done or failed."""
        return FAILED if self.message else DONE


def rows_of(job: Job, method: Method, outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of a job in the tidy table; one without a metric if it failed.

    Parameters
    ----------
    job, method, outcome
        What was run, facts of its method, and what came of it.
    """
    about = {
        "job": job.key,
        "dataset": job.dataset.name,
        "method": job.method,
        "variant": job.variant,
        "settings": job.settings,
        "seed": job.seed,
        "split": job.split,
        "shuffled": job.shuffled,
        "status": outcome.status,
        "message": outcome.message,
        "n_obs": job.n_obs,
        "decoder": method.decoder or "",
        "smooths": method.smooths,
        "sees_positions": method.sees_positions,
    }
    figures = outcome.figures or {"": {"": math.nan}}
    return [
        {**about, "set": name, "metric": metric, "value": value}
        for name, values in figures.items()
        for metric, value in values.items()
    ]


class Store:
    """The folder of a comparison.

    Parameters
    ----------
    folder
        Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs, self.latents = folder / "jobs", folder / "latents"
        self.jobs.mkdir(parents=True, exist_ok=True)

    def statuses(self) -> dict[str, str]:
        """``"done"`` or ``"failed"`` for the key of each job that ended."""
        return {
            file.stem: pq.read_table(file, columns=["status"])["status"][0].as_py()
            for file in self.jobs.glob("*.parquet")
        }

    def write(self, job: Job, method: Method, outcome: Outcome) -> None:
        """Store what came of a job: the latent first, so that a job with figures is whole."""
        if outcome.arrays:
            with io.replacing(self.latents / f"{job.key}.npz") as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **outcome.arrays)  # type: ignore[arg-type]
        table = pa.Table.from_pylist(rows_of(job, method, outcome), SCHEMA)
        with io.replacing(self.jobs / f"{job.key}.parquet") as temporary:
            pq.write_table(table, temporary)

    def merge(self, jobs: Iterable[Job]) -> int:
        """Join the jobs that ended to ``results.parquet``, under the names that the grid has now.

        Parameters
        ----------
        jobs
            Of the grid. Jobs of other grids in the folder keep the names that they had.

        Returns
        -------
        Number of jobs in the table.
        """
        files = sorted(self.jobs.glob("*.parquet"))
        if not files:
            return 0
        named = {job.key: job for job in jobs}
        tables = [_renamed(pq.read_table(file, schema=SCHEMA), named.get(file.stem)) for file in files]
        with io.replacing(self.folder / RESULTS) as temporary:
            pq.write_table(pa.concat_tables(tables), temporary)
        return len(files)


def _renamed(table: pa.Table, job: Job | None) -> pa.Table:
    if job is None:
        return table
    for column, name in (("dataset", job.dataset.name), ("variant", job.variant)):
        place = SCHEMA.get_field_index(column)
        table = table.set_column(place, SCHEMA.field(place), pa.array([name] * len(table)))
    return table
