from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from isovi.model import model
from isovi.simulate import simulate


@pytest.fixture
def bench(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_run", repository / "bench" / "scripts" / "run.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.slow
def test_every_contender_is_timed_and_set_against_scvi(bench: ModuleType) -> None:
    row = bench.compare("tiny", simulate("layers", n_obs=80, n_genes=30, seed=0), epochs=2, repeats=1)
    for clock in ("cpu", "wall"):
        assert set(row[f"{clock}_ratio"]) == set(bench.CONTENDERS)
        assert row[f"{clock}_ratio"]["scvi"] == 1
        assert all(value > 0 for value in row[f"{clock}_seconds"].values())
    written = bench.table([row])
    assert written.count("\n") == 2
    assert f"| {row['density']:.1%} |" in written


def test_epochs_are_timed_from_start_to_start_without_the_first(bench: ModuleType) -> None:
    clock = bench.Clock()
    clock.ticks = [(0.0, 10.0), (5.0, 20.0), (6.0, 22.0), (8.0, 25.0)]
    assert clock.epochs() == [(1.0, 2.0), (2.0, 3.0)]


def test_speed_ups_come_back(bench: ModuleType) -> None:
    before = model.resident, model.logging_by_epoch
    with bench.speed_ups(False):
        assert model.resident is not before[0]
        assert model.logging_by_epoch(int) is int
    assert (model.resident, model.logging_by_epoch) == before
