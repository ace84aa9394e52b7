"""Is a method better than another: paired over data sets, each of which is one observation."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from isovi_bench.compare import by_dataset, changes
from isovi_bench.metrics import METRICS
from isovi_bench.rendering import Table, percent, signed
from isovi_bench.results import BACKBONES, KINDS, SETS

Differences = Float[np.ndarray, "dataset"]
Pair = tuple[str, str]

EXACT_UP_TO = 16  # data sets whose 2^n assignments of signs are all counted
LEVEL = 0.95
CLAIMS = (
    ("train", "morans_i"),
    ("train", "gearys_c"),
    ("heldout", "morans_i"),
    ("heldout", "gearys_c"),
    ("heldout", "spearman_distance"),
    ("heldout", "coordinate_error"),
    ("heldout", "reconstruction"),
    ("heldout", "mse_lognorm"),
)
"""What is tested: few metrics, since with few data sets no p is small enough to be adjusted for many."""
SIGNIFICANT = 0.05
FEWEST = 5  # data sets from which anything is called significant
STAR = "‡"
_SHORT = f"In brackets the mean change over data sets. {STAR} Holm's p below {SIGNIFICANT}."
NOTE = (
    "Change: mean over data sets of the mean paired change over trials; interval: Student's t over data "
    "sets; p: exact sign-flip test over data sets, two-sided (with n data sets none is below 2 / 2^n); "
    "Holm: p adjusted for the rows of the table."
)


@dataclass(frozen=True)
class Comparison:
    """One method against another, by one metric on one set of spots.

    Attributes
    ----------
    method, against, set, metric
        What was compared.
    datasets
        Number of data sets where both have trials in common.
    better, worse
        On how many of them the method is better or worse.
    change
        Mean over data sets of the mean paired change over trials, relative or absolute as the metric says.
    low, high
        Its 95 % interval over data sets.
    p
        Two-sided; see :func:`sign_flip`.
    """

    method: str
    against: str
    set: str
    metric: str
    datasets: int
    better: int
    worse: int
    change: float
    low: float
    high: float
    p: float


def sign_flip(differences: Differences) -> float:
    """Two-sided p of a mean of zero, if each difference were as likely to have the other sign.

    Exact for up to 16 differences; Wilcoxon's signed-rank test beyond. One difference gives 1.
    """
    if len(differences) < 2 or not np.any(differences):
        return 1.0
    if len(differences) > EXACT_UP_TO:
        return float(stats.wilcoxon(differences).pvalue)
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        batch=2**12,
    )
    return float(test.pvalue)


def interval(differences: Differences) -> tuple[float, float]:
    """Student's 95 % interval of the mean; NaN if there are fewer than two."""
    if len(differences) < 2:
        return float("nan"), float("nan")
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(LEVEL)
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979): the chance of one false finding among all of them is kept."""
    order = np.argsort(p, kind="stable")
    stepped = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted.tolist()


def compare(found: pd.DataFrame, method: str, against: str) -> list[Comparison]:
    """One method against another by every metric that both have, on training and on held-out spots.

    Parameters
    ----------
    found
        Measured metrics, of one kind of split.
    method, against
        Labels.
    """
    return compare_rows(found[found["set"].isin(list(SETS))], method, against)


def compare_rows(found: pd.DataFrame, method: str, against: str) -> list[Comparison]:
    """The same on every set of spots that the rows have.

    Parameters
    ----------
    found, method, against
        See :func:`compare`.
    """
    pair = found[found["label"].isin([method, against])]
    cells = by_dataset(changes(_comparable(pair), against))
    cells = cells[cells["label"] == method]
    parts = dict(tuple(cells.groupby(["set", "metric"])))
    order = [(spots, metric) for spots in ("", "all", *SETS) for metric in METRICS]
    return [_comparison(parts[key], method, against) for key in order if key in parts]


def is_significant(row: Mapping[Hashable, Any]) -> bool:
    """Whether a row of :func:`claimed` is called significant: never with fewer than five data sets."""
    return bool(row["datasets"] >= FEWEST and row["holm"] < SIGNIFICANT)


def _comparable(pair: pd.DataFrame) -> pd.DataFrame:
    """Without expression metrics where the decoders differ."""
    within = pair["metric"].map(lambda key: key in METRICS and METRICS[key].within_decoder).astype(bool)
    return pair if pair.loc[within, "decoder"].nunique() < 2 else pair[~within]


def _comparison(part: pd.DataFrame, method: str, against: str) -> Comparison:
    differences = part["change"].to_numpy(dtype=np.float64)
    low, high = interval(differences)
    return Comparison(
        method=method,
        against=against,
        set=str(part["set"].iloc[0]),
        metric=str(part["metric"].iloc[0]),
        datasets=len(part),
        better=int(part["better"].sum()),
        worse=int(part["worse"].sum()),
        change=float(differences.mean()),
        low=low,
        high=high,
        p=sign_flip(differences),
    )


def claimed(found: pd.DataFrame, pairs: Iterable[Pair]) -> pd.DataFrame:
    """:data:`CLAIMS` of some pairs of methods, with Holm's p over those of each pair."""
    rows = []
    for method, against in pairs:
        of_pair = [asdict(row) for row in compare(found, method, against) if (row.set, row.metric) in CLAIMS]
        adjusted = holm([row["p"] for row in of_pair])
        rows += [row | {"holm": value} for row, value in zip(of_pair, adjusted, strict=True)]
    return pd.DataFrame(rows)


def backbone_pairs(found: pd.DataFrame) -> list[Pair]:
    """Each backbone with distance preservation against itself without."""
    present = set(found["label"])
    return [
        (kept, backbone.plain)
        for backbone in BACKBONES
        for kept in (backbone.penalty, backbone.constraint)
        if {kept, backbone.plain} <= present
    ]


def tables(found: pd.DataFrame, kind: str) -> list[Table]:
    """One table per pair of :func:`backbone_pairs`, after one of all of them in short.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    kind
        That kind.
    """
    compared = {pair: claimed(found, [pair]) for pair in backbone_pairs(found)}
    compared = {pair: data for pair, data in compared.items() if not data.empty}
    each = [_table(data, kind, pair) for pair, data in compared.items()]
    return [_in_short(compared, kind), *each] if each else []


def _in_short(compared: dict[Pair, pd.DataFrame], kind: str) -> Table:
    """Counts of data sets by metric and pair."""
    together = pd.concat(compared.values(), ignore_index=True)
    by_pair = {pair[0]: data.set_index(["set", "metric"]) for pair, data in compared.items()}
    shown = [
        {"spots": SETS[key[0]], "metric": METRICS[key[1]].title}
        | {method: _count(data, key) for method, data in by_pair.items()}
        for key in CLAIMS
        if any(key in data.index for data in by_pair.values())
    ]
    title = f"Number of data sets on which distance preservation improves a metric ({KINDS[kind]})"
    return Table(f"claims_{kind}", title, pd.DataFrame(shown), together, (_SHORT,))


def _count(data: pd.DataFrame, key: tuple[str, str]) -> str:
    if key not in data.index:
        return "-"
    row = data.loc[key]
    as_text = percent if METRICS[key[1]].relative else signed
    star = STAR if is_significant(row.to_dict()) else ""
    return f"{row['better']} of {row['datasets']} ({as_text(row['change'])}){star}"


def _table(data: pd.DataFrame, kind: str, pair: Pair) -> Table:
    title = f"{pair[0]} against {pair[1]}, {KINDS[kind]}"
    return Table(f"significance_{pair[0]}_{kind}", title, _shown(data), data, (NOTE,))


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([_row(row) for row in data.to_dict("records")])


def _row(row: dict[Hashable, Any]) -> dict[str, str]:
    metric = METRICS[row["metric"]]
    as_text = percent if metric.relative else signed
    return {
        "spots": SETS[row["set"]],
        "metric": metric.title,
        "change": as_text(row["change"]),
        "95 % interval": f"{as_text(row['low'])} to {as_text(row['high'])}",
        "better on": f"{row['better']} of {row['datasets']}",
        "p": f"{row['p']:.3f}",
        "Holm": f"{row['holm']:.3f}",
    }
