"""The adapter of grids/minibatches_*.yaml."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from isovi_bench.grid import make_known
from isovi_bench.task import METHODS, Task, find

ADAPTER = Path(__file__).parents[2] / "grids" / "minibatches.py"


@pytest.fixture(scope="module")
def adapter() -> Iterator[ModuleType]:
    assert set(make_known((str(ADAPTER),))) == {"isoscvi-minibatches"}
    yield sys.modules["isovi_adapter_minibatches"]
    del sys.modules["isovi_adapter_minibatches"]
    METHODS.pop("isoscvi-minibatches")


def test_patches_are_for_near_pairs_unless_the_other_is_named(adapter: ModuleType) -> None:
    kinds = adapter.KINDS
    assert {key: kind.local for key, kind in kinds.items()} == {key: key[1] == "patches" for key in kinds}
    assert {kind.k for (pairs, _), kind in kinds.items() if pairs == "knn:6"} == {6}


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize(("pairs", "minibatches"), [("all", "patches"), ("knn:6", "random")])
def test_both_kinds_of_minibatches_train(task: Task, pairs: str, minibatches: str) -> None:
    fitted = find("isoscvi-minibatches").fit(task, pairs=pairs, minibatches=minibatches)
    assert fitted.epochs == 2 and np.isfinite(fitted.latent).all()
    assert np.isfinite(fitted.model.history_["relative_distortion_train"].astype(float)).all(axis=None)
