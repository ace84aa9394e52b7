"""Time of a comparison with two workers over that with one, where jobs do not compete for anything.

Run ``python bench/scripts/workers.py``. Each job sleeps, so that the ratio is the harness's on any machine,
busy or not: a process for each job, preparing data, measuring, writing. Starting Ray and its workers, which a
comparison does once, is told apart. RAY_worker_niceness=0 keeps workers of a busy machine from waiting.
``--fits`` trains models instead, for a quiet machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml

from isovi_bench.runner import RunOptions, cluster, run

ADAPTER = """
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
    """A grid of jobs that sleep, or that fit models if for no seconds."""
    (folder / "adapter.py").write_text(ADAPTER)
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
    """Seconds until every worker of a new Ray session is there, and seconds of the jobs then."""
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


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=15.0, help="that each job sleeps")
    parser.add_argument("--fits", action="store_true", help="train models instead, a multiple of 4 jobs")
    given = parser.parse_args()
    given.seconds = 0 if given.fits else given.seconds
    taken, whole = {}, {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            start, taken[workers] = timed(Path(folder), workers, given.jobs, given.seconds)
        whole[workers] = start + taken[workers]
        kind = "fits" if given.fits else f"jobs of {given.seconds:g} s"
        about = f"{given.jobs} {kind} in {taken[workers]:.1f} s, started in {start:.1f} s"
        print(f"{workers} worker(s): {about}", flush=True)
    print(f"ratio {taken[2] / taken[1]:.3f}, with the start {whole[2] / whole[1]:.3f}")


if __name__ == "__main__":
    main()
