"""CPU time and peak memory of the Tissot ellipses of many cells, each size in a process of its own.

Run ``python benchmarks/tissot.py``. The issue's bound: a million cells in under two minutes and 4 GB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import numpy as np

from isovi.geometry.tissot import tissot_ellipses


def measure(n_cells: int, n_latent: int, n_neighbors: int, n_axes: int) -> dict[str, float]:
    """Time and memory of one call; the memory includes the input and the imports."""
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(0, n_cells ** (1 / n_axes), (n_cells, n_axes)).astype(np.float32)
    latent = rng.normal(size=(n_cells, n_latent)).astype(np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    ellipses = tissot_ellipses(latent, coordinates, np.zeros(n_cells, dtype=np.int64), n_neighbors)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert ellipses.valid.all()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return {"n_cells": n_cells, "n_axes": n_axes, "wall_s": wall, "cpu_s": cpu, "peak_gb": peak}


def main() -> None:
    """Run, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--axes", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--neighbors", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tissot.json"))
    given = parser.parse_args()
    print(f"| cells | axes | wall (s) | CPU (s) | peak (GB) |\n|{'---|' * 5}")
    rows = []
    for n_cells, n_axes in ((n, axes) for n in given.cells for axes in given.axes):
        with multiprocessing.get_context("spawn").Pool(1) as fresh:  # else one peak hides the next
            rows.append(fresh.apply(measure, (n_cells, given.latent, given.neighbors, n_axes)))
        row = rows[-1]
        figures = f"{row['wall_s']:.1f} | {row['cpu_s']:.1f} | {row['peak_gb']:.2f}"
        print(f"| {n_cells:,} | {n_axes} | {figures} |")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
