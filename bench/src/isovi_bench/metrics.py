"""What is known of each metric: its name, which way is better, and between whom it may be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal[
    "smoothness",
    "distances",
    "domains",
    "mixing",
    "expression",
    "maps",
    "transfer",
    "biology",
    "placement",
    "denoising",
    "cost",
]

GROUPS: dict[Group, str] = {
    "smoothness": "Smoothness in tissue",
    "distances": "Distances and positions",
    "domains": "Domains",
    "mixing": "Mixing of sections",
    "expression": "Expression",
    "maps": "Maps of domains",
    "transfer": "Label transfer",
    "biology": "Labels kept where sections mix",
    "placement": "Placement by the method's own last step",
    "denoising": "Denoising",
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


_AGREEMENTS = (("nmi", "NMI"), ("ari", "ARI"))
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
    *(_score(f"{score}_own", f"{title}, own last step", "domains") for score, title in _AGREEMENTS),
    *(
        _score(f"smoothness_{found}", f"smoothness of {how} domains", "maps")
        for found, how in (("leiden", "Leiden"), ("mixture", "mixture"), ("own", "own"))
    ),
    *(
        Metric(f"tiles_{found}", f"likeness of {how} domains to tiles", "maps", relative=False)
        for found, how in (("leiden", "Leiden"), ("mixture", "mixture"), ("own", "own"))
    ),
    _score("label_accuracy", "accuracy of labels", "transfer"),
    _score("label_f1", "F1 of labels", "transfer"),
    _score("silhouette_label", "silhouette of labels", "biology"),
    _score("clisi", "cLISI", "biology"),
    _score("ilisi", "iLISI", "mixing"),
    _score("kbet", "kBET", "mixing"),
    _score("silhouette_batch", "silhouette of sections", "mixing"),
    _score("graph_connectivity", "graph connectivity", "mixing"),
    Metric("placed_error", "error of positions", "placement"),
    Metric("placed_aligned", "error of positions, aligned", "placement"),
    _score("placed_contacts", "F1 of contacts", "placement"),
    Metric("molecule_loss", "loss of a held-out molecule", "denoising"),
    Metric("molecule_deviance", "Poisson deviance", "denoising"),
    Metric("reconstruction", "likelihood loss", "expression"),
    Metric("elbo", "ELBO loss", "expression"),
    Metric("mse_lognorm", "MSE of log expression", "expression"),
    Metric("seconds", "seconds", "cost"),
    Metric("cpu_seconds", "processor seconds", "cost"),
    Metric("peak_memory_mb", "peak memory (MB)", "cost"),
    Metric("epochs", "epochs", "cost"),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}
"""Every metric that tables know, in their order."""


def of_group(group: Group) -> list[Metric]:
    """The metrics of a group."""
    return [metric for metric in METRICS.values() if metric.group == group]
