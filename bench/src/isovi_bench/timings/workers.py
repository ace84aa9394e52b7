"""Time of a comparison with two workers over that with one, where jobs do not compete for anything.

Each job sleeps, so that the ratio is that of the benchmark itself on any machine, busy or not: a process for
each job, preparing data, computing metrics, writing. Starting Ray and its workers, which a comparison does
once, is reported apart. ``RAY_worker_niceness=0`` keeps workers of a busy machine from waiting.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from isovi_bench.runner import RunOptions, cluster, run

ADAPTER = """
from __future__ import annotations

import time

from isovi_bench.task import Fitted, Task, method


@method("sleeper")
def sleeper(task: Task, *, seconds: float) -> Fitted:
    time.sleep(seconds)
    return Fitted(task.spots.X[:, :3].toarray())
"""


FITS = ("vae", "scvi", "isovae", "isoscvi")
EPOCHS = 150


def write_grid(folder: Path, name: str, jobs: int, seconds: float) -> Path:
    """A grid of jobs that sleep for so many seconds, or that fit models if ``seconds`` is 0."""
    (folder / "adapter.py").write_text(ADAPTER)
    methods: list[Any]
    if seconds:
        size, methods = {"n_obs": 100, "n_genes": 20}, [{"name": "sleeper", "settings": {"seconds": seconds}}]
    else:
        size, methods = {"n_obs": 500, "n_genes": 150}, list(FITS)
    grid = {
        "datasets": [{"name": "tissue", "simulate": size}],
        "methods": methods,
        "max_epochs": EPOCHS,
        "seeds": list(range(jobs // len(methods))),
        "metrics": ["morans_i"],
        "adapters": ["adapter.py"],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(grid))
    return folder / f"{name}.yaml"


def timed(folder: Path, workers: int, jobs: int, seconds: float) -> tuple[float, float]:
    """Seconds until every worker of a new Ray session has started, and seconds of the jobs after that."""
    first = write_grid(folder, "first", 2 * workers, 1.0)
    grid = write_grid(folder, "grid", jobs, seconds)
    options = RunOptions(grid, folder / f"out{workers}", workers=workers)
    started = time.perf_counter()
    with cluster(options):
        run(replace(options, grid=first))
        ready = time.perf_counter()
        counts = run(options)
        ended = time.perf_counter()
    assert counts == {"done": jobs, "failed": 0}
    return ready - started, ended - ready


@dataclass(frozen=True)
class Timing:
    """Seconds of a comparison.

    Attributes
    ----------
    workers
        Number of workers.
    start
        Until every worker has started.
    jobs
        Of all jobs after that.
    """

    workers: int
    start: float
    jobs: float


def measure(jobs: int = 12, seconds: float = 15.0) -> Iterator[Timing]:
    """Time the same comparison with one worker and with two.

    Parameters
    ----------
    jobs
        Number of jobs; of fits a multiple of four.
    seconds
        How long each job sleeps; 0 trains models instead, which needs a quiet machine.
    """
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            yield Timing(workers, *timed(Path(folder), workers, jobs, seconds))
