"""Adapter of minibatches_*.yaml: random minibatches for near pairs, and patches for all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import isovi
from isovi.graph import PairKind
from isovi_bench.methods.training import prepared, trained
from isovi_bench.task import Fitted, Task, method


@dataclass(frozen=True)
class NeighborsAtRandom(isovi.Neighbors):
    """Near pairs, of which those count that are together in a random minibatch."""

    local: ClassVar[bool] = False


@dataclass(frozen=True)
class AllPairsInPatches(isovi.AllPairs):
    """All pairs, from minibatches of patches, weighted by the inverse of their inclusion probability."""

    local: ClassVar[bool] = True


KINDS: dict[tuple[str, str], PairKind] = {
    ("all", "random"): isovi.AllPairs(),
    ("all", "patches"): AllPairsInPatches(),
    ("knn:6", "random"): NeighborsAtRandom(6),
    ("knn:6", "patches"): isovi.Neighbors(6),
}


@method("isoscvi-minibatches", decoder="counts", sees_positions=True)
def isoscvi(task: Task, *, pairs: str, minibatches: str) -> Fitted:
    """IsoSCVI at its defaults with one of :data:`KINDS`."""
    seen = prepared(task, isovi.IsoSCVI)
    return trained(isovi.IsoSCVI(seen, pairs=KINDS[pairs, minibatches]), task)
