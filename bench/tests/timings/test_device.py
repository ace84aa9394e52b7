from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from isovi_bench.timings import device

TINY = device.Plan(cells=(90,), batches=(32, 64), n_genes=30, steps=3, epochs=2)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return device.measure(TINY)


def test_both_models_are_timed_at_every_size(found: dict[str, Any]) -> None:
    assert [(row["cells"], row["batch"]) for row in found["steps"]] == [(90, 32), (90, 64)]
    assert all(row[name]["seconds"] > 0 for row in found["steps"] for name in device.MODELS)
    assert 0 < found["steps"][0]["density"] < 1
    assert not found["left_out"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_page_without_a_gpu_says_that_its_figures_are_missing(found: dict[str, Any]) -> None:
    written = device.page(found)
    assert device.device_name() in written and "Figures of a GPU are missing" in written
    assert "| 90 | 30 | 64 |" in written and "MB" not in written


def test_a_page_of_a_gpu_has_memory_and_metrics_of_both_devices(found: dict[str, Any]) -> None:
    row = found["steps"][0] | {name: {"seconds": 0.1, "megabytes": 256.0} for name in device.MODELS}
    metrics = {where: [{"loss": 1.0}, {"loss": 2.0}] for where in ("cpu", "gpu")}
    left = [{"cells": 10**6, "batch": 4096}]
    written = device.page({"device": "a card", "steps": [row], "metrics": metrics, "left_out": left})
    assert "missing" not in written and "scVI, MB" in written and "| 256 |" in written
    assert "CPU loss 1.5; GPU loss 1.5" in written and "1,000,000 cells in 4,096" in written


def test_what_there_is_no_time_for_is_left_out() -> None:
    found = device.measure(TINY, seconds=-1.0)
    assert not found["steps"] and len(found["left_out"]) == 2


def test_held_out_metrics_are_of_the_seed() -> None:
    first, again, other = (device.heldout("cpu", seed, TINY) for seed in (0, 0, 1))
    assert first == again != other
    assert all(math.isfinite(value) for value in first.values())
