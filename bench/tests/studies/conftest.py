"""Comparisons that have run, with latents that are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from isovi_bench.prepare import prepare
from isovi_bench.runner import RunOptions, planned
from isovi_bench.store import Outcome
from isovi_bench.task import find

Latent = Callable[[np.ndarray, str], np.ndarray]


@pytest.fixture
def ran(tmp_path: Path) -> Callable[..., RunOptions]:
    """Writes the results of a grid whose latents are a function of the coordinates and the variant."""

    def write(latent: Latent, keep: bool = True, **grid: Any) -> RunOptions:
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
        options = RunOptions(tmp_path / "grid.yaml", tmp_path / "out")
        plan = planned(options)
        for job in plan.jobs:
            placement = prepare(job).placement
            arrays = {
                "latent": latent(placement.coordinates, job.variant).astype(np.float32),
                "coordinates": placement.coordinates.astype(np.float32),
                "section": placement.section,
                "split": placement.split,
            }
            metrics = {"heldout": {"elbo": 600.0, "coordinate_error": 1.0 + job.seed}}
            plan.store.write(job, find(job.method), Outcome(metrics, arrays=arrays if keep else {}))
        plan.store.merge(plan.jobs)
        return options

    return write


@pytest.fixture
def tissue() -> dict[str, Any]:
    """A simulated data set of a grid."""
    return {"name": "tissue", "simulate": {"n_obs": 300, "n_genes": 60, "seed": 0}}
