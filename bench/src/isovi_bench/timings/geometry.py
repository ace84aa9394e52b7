"""Time and peak memory of the distortion profile of many pairs and of the Tissot ellipses of many cells.

The bounds to keep: a million pairs in under one second; the ellipses of a million cells in under two minutes
and 4 GB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from isovi.geometry.profile import distortion_profile, range_edges
from isovi.geometry.tissot import tissot_ellipses
from isovi_bench.rendering import markdown
from isovi_bench.resources import in_fresh_process, peak_memory

N_LATENT, N_NEIGHBORS = 10, 12
SIZES = (100_000, 1_000_000)


def profile(n_pairs: int, weighted: bool) -> dict[str, Any]:
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
    return {"n": n_pairs, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak_memory()}


def ellipses(n_cells: int, n_axes: int) -> dict[str, Any]:
    """Ellipses of cells at unit density; the memory includes the input and the imports."""
    rng = np.random.default_rng(0)
    coordinates = rng.uniform(0, n_cells ** (1 / n_axes), (n_cells, n_axes)).astype(np.float32)
    latent = rng.normal(size=(n_cells, N_LATENT)).astype(np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    found = tissot_ellipses(latent, coordinates, np.zeros(n_cells, dtype=np.int64), N_NEIGHBORS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert found.valid.all()
    return {"n": n_cells, "wall_s": wall, "cpu_s": cpu, "peak_mb": peak_memory()}


CASES = {
    "profile": (profile, False),
    "profile, weighted pairs": (profile, True),
    "ellipses, 2-D": (ellipses, 2),
    "ellipses, 3-D": (ellipses, 3),
}


def measure(sizes: Sequence[int] = SIZES) -> Iterator[dict[str, Any]]:
    """A row for each size and case, each measured in a process of its own."""
    for size in sizes:
        for name, (case, kind) in CASES.items():
            yield {"what": name, **in_fresh_process(case, size, kind)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    shown = [
        {
            "what": row["what"],
            "pairs or cells": f"{row['n']:,}",
            "wall (s)": f"{row['wall_s']:.2f}",
            "CPU (s)": f"{row['cpu_s']:.2f}",
            "peak (GB)": f"{row['peak_mb'] * 2**20 / 1e9:.2f}",
        }
        for row in rows
    ]
    return markdown(pd.DataFrame(shown))
