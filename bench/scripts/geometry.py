"""CPU time and peak memory of the distortion profile of many pairs and the Tissot ellipses of many cells.

``python bench/scripts/geometry.py``. Each case runs in a process of its own. The bounds to keep: a million
pairs in under one second; a million cells' ellipses in under two minutes and 4 GB.
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

from isovi.geometry.profile import distortion_profile, range_edges
from isovi.geometry.tissot import tissot_ellipses

N_LATENT, N_NEIGHBORS = 10, 12


def profile(n_pairs: int, weighted: bool) -> dict[str, float]:
    """The whole curve and its ranges, of pairs with or without weights."""
    rng = np.random.default_rng(0)
    tissue = rng.uniform(1, 50, n_pairs)
    latent = tissue * rng.lognormal(size=n_pairs)
    weight = rng.uniform(size=n_pairs) if weighted else None
    wall, cpu = time.perf_counter(), time.process_time()
    found = distortion_profile(latent, tissue, weight, edges=range_edges(50.0))
    curves = [found.curve(), *(part.profile.curve() for part in found.bins)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert all(point.L >= 1 for curve in curves for point in curve)
    return {"n": n_pairs, "wall_s": wall, "cpu_s": cpu, "peak_gb": peak()}


def ellipses(n_cells: int, n_axes: int) -> dict[str, float]:
    """Ellipses of cells at unit density; the memory includes the input and the imports."""
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(0, n_cells ** (1 / n_axes), (n_cells, n_axes)).astype(np.float32)
    latent = rng.normal(size=(n_cells, N_LATENT)).astype(np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    found = tissot_ellipses(latent, coordinates, np.zeros(n_cells, dtype=np.int64), N_NEIGHBORS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert found.valid.all()
    return {"n": n_cells, "wall_s": wall, "cpu_s": cpu, "peak_gb": peak()}


def peak() -> float:
    """Largest resident memory of this process, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


CASES = {
    "profile": (profile, False),
    "profile, weighted pairs": (profile, True),
    "ellipses, 2-D": (ellipses, 2),
    "ellipses, 3-D": (ellipses, 3),
}


def main() -> None:
    """Run, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=Path("bench/results/geometry.json"))
    given = parser.parse_args()
    print(f"| what | pairs or cells | wall (s) | CPU (s) | peak (GB) |\n|{'---|' * 5}")
    rows = []
    for size in given.sizes:
        for name, (measure, kind) in CASES.items():
            with multiprocessing.get_context("spawn").Pool(1) as fresh:  # else one peak hides the next
                rows.append({"what": name, **fresh.apply(measure, (size, kind))})
            row = rows[-1]
            figures = f"{row['wall_s']:.2f} | {row['cpu_s']:.2f} | {row['peak_gb']:.2f}"
            print(f"| {name} | {size:,} | {figures} |", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
