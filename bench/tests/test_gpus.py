"""Jobs that share a GPU; in a file of its own, since a process has one Ray cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import ray
import yaml

from isovi.errors import InputError
from isovi_bench.runner import RunOptions, run

ADAPTER = Path(__file__).with_name("tiny_adapter.py")


def test_two_jobs_share_a_gpu_that_the_cluster_says_it_has(tmp_path: Path) -> None:
    grid = {
        "datasets": [{"name": "tissue", "simulate": {"n_obs": 60, "n_genes": 12}}],
        "methods": [{"name": "meets", "settings": {"folder": str(tmp_path)}}],
        "seeds": [0, 1],
        "metrics": ["morans_i"],
        "adapters": [str(ADAPTER)],
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    options = RunOptions(tmp_path / "grid.yaml", tmp_path / "out", workers=2, gpus_per_job=0.5)
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        assert run(options) == {"done": 2, "failed": 0}  # neither ends before the other has begun
        with pytest.raises(InputError, match=r"2 GPUs were asked for\. Ray finds 1\."):
            run(replace(options, gpus_per_job=2.0, out=tmp_path / "more"))
    finally:
        ray.shutdown()
    assert [(tmp_path / f"seen-{seed}").read_text() for seed in (0, 1)] == ["0", "0"]
