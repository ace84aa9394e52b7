"""Results on disk: one small file per finished job, and one table of all of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isovi.data import io
from isovi_bench.job import Job, version_of
from isovi_bench.measure import Measured
from isovi_bench.results import COLUMNS, DONE, FAILED, FILE, FIRST_VERSION, JOB_COLUMNS, PLAN
from isovi_bench.task import Method

_TYPES = {"str": pa.string(), "int64": pa.int64(), "bool": pa.bool_(), "float64": pa.float64()}
SCHEMA = pa.schema({name: _TYPES[kind] for name, kind in COLUMNS.items()})
LATENTS = "latents"
PLAN_SCHEMA = pa.schema([SCHEMA.field(name) for name in JOB_COLUMNS])


@dataclass(frozen=True)
class Outcome:
    """Result of a job.

    Attributes
    ----------
    metrics
        By set and name; those of the whole job under the set ``""``. Empty if it failed.
    message
        Why it failed; empty if it did not.
    arrays
        ``latent``, ``coordinates`` (float32), ``section`` and ``split`` of every spot.
    """

    metrics: Measured = field(default_factory=dict)
    message: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Whether it is done or failed."""
        return FAILED if self.message else DONE


def named(job: Job) -> dict[str, Any]:
    """The columns of the tidy table that name a job."""
    return {
        "job": job.key,
        "dataset": job.dataset.name,
        "method": job.method,
        "variant": job.variant,
        "settings": job.settings,
        "seed": job.seed,
        "split": job.split,
        "shuffled": job.shuffled,
    }


def rows_of(job: Job, method: Method, outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of a job in the tidy table; one without a metric if it failed.

    Parameters
    ----------
    job, method, outcome
        What was run, facts of its method, and its result.
    """
    about = {
        **named(job),
        "status": outcome.status,
        "message": outcome.message,
        "n_obs": job.n_obs,
        "decoder": method.decoder or "",
        "smooths": method.smooths,
        "sees_positions": method.sees_positions,
        "version": version_of(job.method),
    }
    metrics = outcome.metrics or {"": {"": math.nan}}
    return [
        {**about, "set": name, "metric": metric, "value": value}
        for name, values in metrics.items()
        for metric, value in values.items()
    ]


class Store:
    """The folder of a comparison.

    Parameters
    ----------
    folder
        Made if it is not there. One that holds only ``results.parquet``, as it is published, is continued.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs, self.latents = folder / "jobs", folder / LATENTS
        published = (folder / FILE).is_file() and not self.jobs.exists()
        self.jobs.mkdir(parents=True, exist_ok=True)
        if published:
            self._take_apart()

    def _take_apart(self) -> None:
        """Give each job of the joint table its own file."""
        table = _read(self.folder / FILE)
        for key in table["job"].unique():
            self._replace(f"{self.jobs.name}/{key}.parquet", table.filter(pc.equal(table["job"], key)))

    def statuses(self) -> dict[str, str]:
        """``"done"`` or ``"failed"`` for the key of each job that ended."""
        return {
            file.stem: pq.read_table(file, columns=["status"])["status"][0].as_py()
            for file in self.jobs.glob("*.parquet")
        }

    def note(self, command: str) -> None:
        """Add a command to those noted in ``run.json``."""
        file = self.folder / io.RUN_FILE
        noted = json.loads(file.read_text(encoding="utf-8"))["command"].splitlines() if file.is_file() else []
        io.write_json(file, {"command": "\n".join(dict.fromkeys([*noted, command]))})

    def write(self, job: Job, method: Method, outcome: Outcome) -> None:
        """Store the result of a job: the latent first, so that a job with metrics is complete."""
        if outcome.arrays:
            with io.replacing(self.latents / f"{job.key}.npz") as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **outcome.arrays)  # type: ignore[arg-type]
        table = pa.Table.from_pylist(rows_of(job, method, outcome), SCHEMA)
        with io.replacing(self.jobs / f"{job.key}.parquet") as temporary:
            pq.write_table(table, temporary)

    def merge(self, jobs: Sequence[Job]) -> int:
        """Join the jobs that ended to ``results.parquet``, and all that there are to ``plan.parquet``.

        Parameters
        ----------
        jobs
            Of the grid: rows get the names that it has for them now. Jobs of other grids in the folder keep
            the names that they had. Jobs of an earlier version of a method are left out; their files stay.

        Returns
        -------
        Number of jobs in the results.
        """
        of_grid = {job.key: job for job in jobs}
        files = sorted(self.jobs.glob("*.parquet"))
        tables = [_renamed(_read(file), of_grid.get(file.stem)) for file in files]
        tables = [table for table in tables if not _is_outdated(table)]
        others = [table.slice(0, 1).select(PLAN_SCHEMA.names) for table in tables]
        others = [table for table in others if table["job"][0].as_py() not in of_grid]
        plan = pa.Table.from_pylist([named(job) for job in jobs], PLAN_SCHEMA)
        self._replace(PLAN, pa.concat_tables([plan, *others]))
        if tables:
            self._replace(FILE, pa.concat_tables(tables))
        return len(tables)

    def outdated(self) -> Counter[str]:
        """Number of jobs of each method that gives other results now; :meth:`merge` leaves them out."""
        tables = [_read(file) for file in self.jobs.glob("*.parquet")]
        return Counter(table["method"][0].as_py() for table in tables if _is_outdated(table))

    def _replace(self, name: str, table: pa.Table) -> None:
        with io.replacing(self.folder / name) as temporary:
            pq.write_table(table, temporary)


def latent_of(folder: Path, key: str) -> dict[str, np.ndarray] | None:
    """The ``latent``, ``coordinates``, ``section`` and ``split`` of every spot that were stored with a job.

    Parameters
    ----------
    folder
        Of the comparison.
    key
        Of the job.

    Returns
    -------
    ``None`` if its latent was not kept.
    """
    file = folder / LATENTS / f"{key}.npz"
    if not file.is_file():
        return None
    with np.load(file) as stored:
        return dict(stored)


def _read(file: Path) -> pa.Table:
    table = pq.read_table(file, schema=SCHEMA)
    place = SCHEMA.get_field_index("version")
    return table.set_column(place, SCHEMA.field(place), pc.fill_null(table["version"], FIRST_VERSION))


def _is_outdated(table: pa.Table) -> bool:
    return table["version"][0].as_py() < version_of(table["method"][0].as_py())


def _renamed(table: pa.Table, job: Job | None) -> pa.Table:
    if job is None:
        return table
    for column, name in (("dataset", job.dataset.name), ("variant", job.variant)):
        place = SCHEMA.get_field_index(column)
        table = table.set_column(place, SCHEMA.field(place), pa.array([name] * len(table)))
    return table
