"""What is known of each metric: its name, which way is better, and between whom it may be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["smoothness", "distances", "domains", "mixing", "expression", "cost"]

GROUPS: dict[Group, str] = {
    "smoothness": "Smoothness in tissue",
    "distances": "Distances and positions",
    "domains": "Domains",
    "mixing": "Mixing of sections",
    "expression": "Expression",
}
"""Groups that methods are ranked in, with their titles."""


@dataclass(frozen=True)
class Metric:
    """A measured number.

    Attributes
    ----------
    key
        As in the results.
    title
        As in tables and plots.
    group
        What it describes.
    higher
        Whether more of it is better.
    relative
        Whether methods are compared by their relative change ``(x - base) / |base|``; else, where the base
        may be near zero, by the difference.
    """

    key: str
    title: str
    group: Group
    higher: bool = False
    relative: bool = True

    @property
    def circular(self) -> bool:
        """Whether averaging over the spatial graph moves it whatever the averaged values are."""
        return self.group == "smoothness"

    @property
    def within_decoder(self) -> bool:
        """Whether it is compared only between methods with the same kind of decoder."""
        return self.group == "expression"

    @property
    def sign(self) -> int:
        """1 if a larger value is better, else -1."""
        return 1 if self.higher else -1


def _score(key: str, title: str, group: Group) -> Metric:
    return Metric(key, title, group, higher=True, relative=False)


_ALL = (
    _score("morans_i", "Moran's I", "smoothness"),
    Metric("gearys_c", "Geary's C", "smoothness", relative=False),
    _score("spearman_distance", "Spearman of distances", "distances"),
    Metric("relative_distortion", "relative distortion", "distances"),
    Metric("distortion_constant", "distortion constant L(0.1)", "distances"),
    Metric("certified_constant", "certified constant", "distances"),
    Metric("anisotropy", "anisotropy", "distances"),
    Metric("coordinate_error", "coordinate error", "distances"),
    *(
        _score(f"{score}_{found}", f"{how} {title}", "domains")
        for found, how in (("leiden", "Leiden"), ("mixture", "mixture"))
        for score, title in (("nmi", "NMI"), ("ari", "ARI"), ("purity", "purity"))
    ),
    _score("ilisi", "iLISI", "mixing"),
    _score("kbet", "kBET", "mixing"),
    Metric("reconstruction", "likelihood loss", "expression"),
    Metric("elbo", "ELBO loss", "expression"),
    Metric("mse_lognorm", "MSE of log expression", "expression"),
    Metric("seconds", "seconds", "cost"),
    Metric("peak_memory_mb", "peak memory (MB)", "cost"),
    Metric("epochs", "epochs", "cost"),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}
"""Every metric that tables know, in their order."""


def of_group(group: Group) -> list[Metric]:
    """The metrics of a group."""
    return [metric for metric in METRICS.values() if metric.group == group]
