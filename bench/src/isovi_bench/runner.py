"""All jobs of a grid on Ray: several at once, each stored when it ends, none repeated."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from isovi.data import io
from isovi.errors import InputError
from isovi.interrupts import kept_at
from isovi.tune.cluster import cluster as ray_cluster
from isovi_bench import progress, results, task
from isovi_bench.datasets import Facts, examine
from isovi_bench.grid import Grid, LeftOut, jobs_of, make_known, read_grid
from isovi_bench.job import Job
from isovi_bench.process import reason, run_isolated
from isovi_bench.rendering import markdown
from isovi_bench.results import DONE, FAILED, FILE
from isovi_bench.store import Outcome, Store

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
GIBIBYTE = 2**30
KEEP_FREED = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (("hugetlb", 1), ("mmap_threshold", GIBIBYTE), ("trim_threshold", 2 * GIBIBYTE))
)
"""On Linux a minibatch takes the memory that the one before left: 7 % less processor time at 2,000 genes."""
ENVIRONMENT = {**ONE_THREAD, "OMP_WAIT_POLICY": "PASSIVE", "GLIBC_TUNABLES": KEEP_FREED}
MERGE_SECONDS = 60.0  # between two writings of the joint table
DIGESTS = "digests.json"
DOWNLOADS = "data"


@dataclass(frozen=True)
class RunOptions:
    """Options of a comparison, and the command as it was typed."""

    grid: Path
    out: Path
    data: Path | None = None
    ray_address: str | None = None
    workers: int | None = None
    gpus_per_job: float = 0.0
    retry_failed: bool = False
    command: str = ""


def run(options: RunOptions, console: Console | None = None) -> dict[str, int]:
    """Run the jobs of a grid that are not finished yet, and write ``results.parquet``.

    Parameters
    ----------
    options
        Grid, folder, and where to run.
    console
        For progress; silent by default.

    Returns
    -------
    Number of jobs of the grid ``done`` and ``failed``.

    Raises
    ------
    InputError
        If the grid, a data set or a method cannot be used: before anything is run.
    KeyboardInterrupt
        If it is stopped; the results so far have been written.
    """
    console = console or Console(quiet=True)
    plan = planned(options)
    store, jobs = plan.store, plan.jobs
    todo = missing(jobs, store.statuses(), retry_failed=options.retry_failed)
    store.note(options.command)
    _announce(jobs, todo, plan.left_out, store, console)
    kept = f"Run the same command to resume: finished jobs are kept in {store.folder}"
    try:
        if todo:
            with kept_at(kept), cluster(options), Tally(todo, console) as tally:
                given = (at_once(options), plan.grid.keep_latents, store, tally, options.gpus_per_job)
                _run(todo, jobs, *given)
    except KeyboardInterrupt:
        _say(console, f"Stopped. {kept}")
        raise
    finally:
        store.merge(jobs)
    return _conclude(jobs, store, console)


@dataclass(frozen=True)
class Plan:
    """A grid and its jobs.

    Attributes
    ----------
    grid
        With absolute paths.
    store
        Of its results.
    jobs
        In the order in which they run.
    left_out
        Cells of the grid that are no jobs.
    """

    grid: Grid
    store: Store
    jobs: list[Job]
    left_out: list[LeftOut]


def planned(options: RunOptions) -> Plan:
    """Read a grid and its data sets, and list its jobs.

    Parameters
    ----------
    options
        Grid, folder and data.

    Raises
    ------
    InputError
        If the grid, a data set or a method cannot be used.
    """
    _check(options)
    grid = read_grid(options.grid)
    grid = grid.placed(options.grid.resolve().parent, options.data, options.data or options.out / DOWNLOADS)
    methods = make_known(grid.adapters)
    store = Store(options.out)
    jobs, left_out = jobs_of(grid, examined(grid, store.folder), methods)
    return Plan(grid, store, jobs, left_out)


def grids_of(path: Path) -> list[Path]:
    """The grids that a path names: itself, or the files of a folder in the order of their names.

    Raises
    ------
    InputError
        If a folder has none.
    """
    if not path.is_dir():
        return [path]
    if not (grids := sorted(path.glob("*.yaml"))):
        raise InputError(f'"{path}" has no grid.', "A grid is a .yaml file.", "Name one, or another folder.")
    return grids


def reckoned(path: Path, costs: list[Path], data: Path | None) -> str:
    """Jobs and processor hours of each grid, as a table in Markdown.

    Parameters
    ----------
    path
        See :func:`grids_of`.
    costs
        Folders of results.
    data
        What paths of data sets are relative to.

    Raises
    ------
    InputError
        If a grid cannot be used, or there are no results.
    """
    measured = pd.concat([results.read(folder) for folder in costs])
    rows, seen = [], set[str]()
    with tempfile.TemporaryDirectory() as folder:
        for grid in grids_of(path):
            jobs = [job for job in planned(RunOptions(grid, Path(folder), data)).jobs if job.key not in seen]
            seen |= {job.key for job in jobs}
            hours = progress.seconds(jobs, measured) / 3600
            rows.append({"grid": grid.stem, "jobs": len(jobs), "processor hours": hours})
    table = pd.DataFrame(rows)
    total = {"grid": "all", **table[["jobs", "processor hours"]].sum()}
    table = pd.concat([table, pd.DataFrame([total])]).round({"processor hours": 1}).astype({"jobs": int})
    return markdown(table)


def _check(options: RunOptions) -> None:
    if options.workers is not None and options.workers < 1:
        raise InputError(f"workers={options.workers}.", "There must be at least one.", "Pass 1 or more.")
    if options.data is not None and not options.data.is_dir():
        raise InputError(
            f'data="{options.data}" is no folder.',
            "Paths of data sets are relative to it.",
            "Pass an existing folder.",
        )


def examined(grid: Grid, folder: Path) -> dict[str, Facts]:
    """What is known of each data set; digests of files that did not change are kept in the folder.

    Parameters
    ----------
    grid
        Placed.
    folder
        Of the results.
    """
    paths = {path for dataset in grid.datasets for path in dataset.path or ()}
    digests = _digests(sorted(paths), folder / DIGESTS)
    return {dataset.name: examine(dataset, digests) for dataset in grid.datasets}


def _digests(paths: list[str], cache: Path) -> dict[str, str]:
    known = json.loads(cache.read_text()) if cache.is_file() else {}
    found: dict[str, list[Any]] = {}
    for path in paths:
        stamp = _stamp(Path(path))
        earlier = known.get(path)
        found[path] = earlier if earlier and earlier[:-1] == stamp else [*stamp, io.sha256(path)]
    io.write_json(cache, {**known, **found})
    return {path: entry[-1] for path, entry in found.items()}


def _stamp(path: Path) -> list[int]:
    """Size and time of change of a file; of the newest file of a store."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    try:
        states = [file.stat() for file in files]
    except OSError as error:
        raise InputError(
            f'There is no "{path}".',
            "Each data set is a file.",
            "Correct its path, or the folder data that it is relative to.",
        ) from error
    return [sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)]


def missing(jobs: list[Job], statuses: dict[str, str], *, retry_failed: bool) -> list[Job]:
    """The jobs that are to be run.

    Parameters
    ----------
    jobs
        Of the grid.
    statuses
        Of the jobs that ended, by key.
    retry_failed
        Whether failed ones are run again.
    """
    ended = {key for key, status in statuses.items() if status == DONE or not retry_failed}
    return [job for job in jobs if job.key not in ended]


# ---------------------------------------------------------------------------- messages


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _announce(
    jobs: list[Job], todo: list[Job], left_out: list[LeftOut], store: Store, console: Console
) -> None:
    statuses = _counted(jobs, store)
    _say(
        console,
        f"{len(jobs)} jobs: {statuses[DONE]} done, {statuses[FAILED]} failed before, {len(todo)} to run",
    )
    for method, count in sorted(store.outdated().items()):
        _say(
            console,
            f"Left out: {count} jobs of an earlier version of {method}, which gives other results now",
        )
    for one in dict.fromkeys(left_out):
        _say(console, f"Left out: {one.what} ({one.why})")


def _counted(jobs: list[Job], store: Store) -> Counter[str]:
    statuses = store.statuses()
    return Counter(statuses[job.key] for job in jobs if job.key in statuses)


def _conclude(jobs: list[Job], store: Store, console: Console) -> dict[str, int]:
    counted = _counted(jobs, store)
    _say(console, f"{counted[DONE]} jobs done, {counted[FAILED]} failed: {store.folder / FILE}")
    return {DONE: counted[DONE], FAILED: counted[FAILED]}


class Tally:
    """Progress: a bar on a terminal, a line for each job elsewhere.

    Parameters
    ----------
    todo
        The jobs to run.
    console
        Where to; its kind decides.
    """

    def __init__(self, todo: list[Job], console: Console) -> None:
        self.total, self.ended, self.failed = len(todo), 0, 0
        self.console = console
        columns = (TextColumn("Jobs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(
            *columns,
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Tally:
        self.bar.start()
        self.task = self.bar.add_task("", total=self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def ends(self, job: Job, outcome: Outcome) -> None:
        """Count a job that ended, and report it."""
        self.ended += 1
        self.failed += bool(outcome.message)
        message = f": {outcome.message}" if outcome.message else ""
        if self.console.is_terminal:
            failed = f"{self.failed} failed" if self.failed else ""
            self.bar.update(self.task, completed=self.ended, description=failed)
        if outcome.message or not self.console.is_terminal:
            _say(self.console, f"  {self.ended}/{self.total} {outcome.status} {job.label}{message}")


# ---------------------------------------------------------------------------- Ray


def cluster(options: RunOptions) -> AbstractContextManager[None]:
    """Ray, on this machine or a cluster; one that runs in this process already is used and left alone.

    Parameters
    ----------
    options
        ``ray_address``, ``workers`` and ``gpus_per_job`` are read.
    """
    environment = {"runtime_env": {"env_vars": ENVIRONMENT}}
    return ray_cluster(options.ray_address, options.workers, gpus=options.gpus_per_job, **environment)


def at_once(options: RunOptions) -> int:
    """Number of jobs given to Ray at a time: one more than it has workers, so that none of them waits."""
    if options.ray_address is not None and options.workers is not None:
        return options.workers
    return int(ray.cluster_resources().get("CPU", 1)) + 1


def _run(
    todo: list[Job],
    jobs: list[Job],
    limit: int,
    keep_latents: bool,
    store: Store,
    tally: Tally,
    gpus: float,
) -> None:
    """Keep every CPU busy, and store each job when it ends."""
    waiting, running = iter(todo), dict[Any, Job]()
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(run_isolated)
    merged = time.monotonic()
    while True:
        for job in waiting:
            running[remote.remote(job)] = job
            if len(running) >= limit:
                break
        if not running:
            return
        (ended,), _ = ray.wait(list(running))
        job, outcome = running.pop(ended), _outcome(ended)
        if not keep_latents:
            outcome.arrays.clear()
        store.write(job, task.find(job.method), outcome)
        tally.ends(job, outcome)
        if time.monotonic() - merged > MERGE_SECONDS:
            store.merge(jobs)
            merged = time.monotonic()


def _outcome(reference: Any) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # the worker died
        return Outcome(message=reason(error))
