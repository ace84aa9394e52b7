"""Time of a comparison with two workers over that with one, where jobs do not compete for anything.

Run ``python benchmarks/workers.py``. Each job sleeps, so that the ratio is the harness's on any machine,
busy or not: starting Ray and its workers, a process for each job, preparing data, measuring, writing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import yaml

from isovi.bench.runner import RunOptions, run

ADAPTER = """
import time

from isovi.bench.task import Fitted, Task, method


@method("sleeper")
def sleeper(task: Task, *, seconds: float) -> Fitted:
    time.sleep(seconds)
    return Fitted(task.spots.X[:, :3].toarray())
"""


def write_grid(folder: Path, jobs: int, seconds: float) -> Path:
    """A grid of jobs that sleep."""
    (folder / "adapter.py").write_text(ADAPTER)
    grid = {
        "datasets": [{"name": "tissue", "simulate": {"n_obs": 100, "n_genes": 20}}],
        "methods": [{"name": "sleeper", "settings": {"seconds": seconds}}],
        "seeds": list(range(jobs)),
        "metrics": ["morans_i"],
        "adapters": ["adapter.py"],
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    return folder / "grid.yaml"


def timed(grid: Path, workers: int) -> float:
    """Seconds of a whole run in a new Ray session."""
    started = time.perf_counter()
    counts = run(RunOptions(grid, grid.parent / f"out{workers}", workers=workers))
    assert not counts["failed"]
    return time.perf_counter() - started


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=15.0, help="that each job sleeps")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid = write_grid(Path(folder), given.jobs, given.seconds)
        seconds = {workers: timed(grid, workers) for workers in (1, 2)}
    for workers, taken in seconds.items():
        print(f"{workers} worker(s): {taken:.1f} s for {given.jobs} jobs of {given.seconds:g} s")
    print(f"ratio {seconds[2] / seconds[1]:.3f}")


if __name__ == "__main__":
    main()
