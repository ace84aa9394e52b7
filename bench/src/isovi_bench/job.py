"""One cell of a grid: a method on a data set with a split and a seed, and what it is known by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from isovi_bench.datasets import DataSet

RESULTS_VERSION = 1
"""Raised when a metric or the preparation of data changes results: all are then computed again."""

METHOD_VERSIONS = {
    **dict.fromkeys(("isovae", "isoscvi", "isoscvi-minibatches"), 3),
    # Domains by the last step that their authors take, in place of Leiden.
    **dict.fromkeys(("cellcharter", "graphst", "spagcn", "stagate"), 2),
}
"""Raised for a method whose own results changed, which are then computed again; 1 if not named."""

CHANGES = {
    2: "another warm-up of the constraint and another limit of its multiplier",
    3: "a latent in two parts, of which three dimensions of ten keep distances",
}
"""What came with each version of the results of isoVI's methods."""

ALL = "all"  # the split that holds nothing out
MOLECULES = "molecules"  # the split, with a share, that holds out molecules of every spot


@dataclass(frozen=True)
class Job:
    """What a worker needs to know to fit a method and measure it.

    Attributes
    ----------
    dataset
        Placed: its paths are absolute.
    digest
        Of the data's content.
    n_obs
        Number of spots.
    method, variant
        As the harness and as the grid name the method.
    settings
        Of the method, as JSON with sorted keys.
    seed
        Of split, method and measures.
    split
        ``"all"``, a share such as ``"0.25"``, ``"section:NAME"``, ``"donor:NAME"`` or ``"molecules:SHARE"``.
    shuffled
        Whether the method gets the positions of its spots in another order.
    n_top_genes, max_epochs
        As in the grid.
    metrics
        Those to compute; all if empty.
    adapters
        Files or modules that register further methods.
    adapter_digest
        Of the file that the method comes from, if it is one of these.
    """

    dataset: DataSet
    digest: str
    n_obs: int
    method: str
    variant: str
    settings: str
    seed: int
    split: str
    shuffled: bool
    n_top_genes: int = 2000
    max_epochs: int | None = None
    metrics: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    adapter_digest: str = ""

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the result; names in the grid and paths of files do not."""
        known_by = {
            "version": version_of(self.method),
            "data": self.digest,
            "keys": self.dataset.keys,
            "method": self.method,
            "settings": self.settings,
            "seed": self.seed,
            "split": self.split,
            "shuffled": self.shuffled,
            "n_top_genes": self.n_top_genes,
            "max_epochs": self.max_epochs,
            "metrics": sorted(self.metrics),
            "adapter": self.adapter_digest,
        }
        return hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def parameters(self) -> dict[str, Any]:
        """Settings as keywords."""
        return json.loads(self.settings)

    @property
    def label(self) -> str:
        """The job in one line."""
        control = ", shuffled" if self.shuffled else ""
        return f"{self.variant} on {self.dataset.name}, split {self.split}, seed {self.seed}{control}"


def version_of(method: str) -> int:
    """Version of the results that a method gives now."""
    return max(RESULTS_VERSION, METHOD_VERSIONS.get(method, RESULTS_VERSION))


def canonical(settings: dict[str, Any]) -> str:
    """Settings as JSON that is the same whatever their order."""
    return json.dumps(settings, sort_keys=True)
