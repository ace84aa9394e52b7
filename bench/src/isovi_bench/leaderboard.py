"""Methods ranked by their metrics, on training and on held-out spots apart."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from isovi_bench.compare import base_of, by_dataset, changes
from isovi_bench.metrics import GROUPS, METRICS, Group, Metric, of_group
from isovi_bench.rendering import Table, number, percent, signed
from isovi_bench.results import BACKBONES, KINDS, SETS, contenders, ordered

CIRCULAR = "†"
_CONTROL = "Rows of shuffled controls are not ranked."
_CIRCULAR_NOTE = "† Partly circular: the method averages over the spatial graph."
_FEWER = "Methods with fewer data sets have means over other data sets: compare the changes in brackets."
_EXPRESSION_NOTE = (
    "Expression metrics are compared and ranked within one kind of decoder only. Between count models the "
    "likelihood decides, because their mean is biased on the log scale."
)
_PLAIN = {backbone.decoder: backbone.plain for backbone in BACKBONES}


def ranks(found: pd.DataFrame) -> pd.DataFrame:
    """Mean rank over data sets of each method by each metric; 1 is the best.

    A data set ranks the methods that have the metric there, by their means over trials. Shuffled controls are
    left out, and expression metrics are ranked within each kind of decoder.

    Parameters
    ----------
    found
        Measured metrics, of one kind of split and one set of spots.

    Returns
    -------
    Columns ``label``, ``metric``, ``rank`` and ``datasets``.
    """
    rows = found[~found["shuffled"] & found["metric"].isin(list(METRICS))]
    within = rows["metric"].map(lambda key: METRICS[key].within_decoder).astype(bool)
    rows = rows.assign(among=rows["decoder"].where(within, ""))
    field = ["among", "metric", "dataset"]
    means = rows.groupby([*field, "label"], as_index=False)["value"].mean()
    merit = means["value"] * means["metric"].map(lambda key: METRICS[key].sign).astype(int)
    means["rank"] = merit.groupby([means[key] for key in field]).rank(ascending=False)
    return means.groupby(["label", "metric"], as_index=False).agg(
        rank=("rank", "mean"), datasets=("dataset", "nunique")
    )


def board(found: pd.DataFrame, group: Group, base: str | None = None) -> pd.DataFrame:
    """Metrics of a group: one row per method and metric.

    Parameters
    ----------
    found
        Measured metrics, of one kind of split and one set of spots.
    group
        Which metrics.
    base
        Label of the method that the others are compared with; the plain backbone by default.

    Returns
    -------
    Columns ``label``, ``decoder``, ``smooths``, ``metric``, ``value`` (mean over data sets), ``change``
    (mean over data sets of the paired change from the base), ``datasets``, ``rank``.
    """
    rows = found[found["metric"].isin([metric.key for metric in of_group(group)])]
    facts = rows.groupby("label", as_index=False)[["decoder", "smooths"]].first()
    data = rows.groupby(["label", "metric", "dataset"], as_index=False)["value"].mean()
    data = data.groupby(["label", "metric"], as_index=False).agg(
        value=("value", "mean"), datasets=("dataset", "nunique")
    )
    ranked = ranks(rows)[["label", "metric", "rank"]]
    for more in (_changes(rows, group, base), ranked):
        data = data.merge(more, on=["label", "metric"], how="left")
    return facts.merge(data, on="label")


def _changes(rows: pd.DataFrame, group: Group, against: str | None) -> pd.DataFrame:
    """Mean change over data sets from the base, which for expression metrics is that of the decoder."""
    decoders = rows["decoder"].unique() if group == "expression" else [""]
    parts = [
        by_dataset(changes(rows[rows["decoder"] == decoder] if decoder else rows, base)).query(
            "label != @base"
        )
        for decoder in decoders
        if (base := against or base_of(rows, decoder)) is not None
    ]
    empty = pd.DataFrame(columns=["label", "metric", "change"])
    return pd.concat(parts).groupby(["label", "metric"], as_index=False)["change"].mean() if parts else empty


def tables(found: pd.DataFrame, kind: str, base: str | None = None) -> list[Table]:
    """A table per group of metrics and set of spots.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    kind
        That kind.
    base
        Label of the method that the others are compared with; the plain backbone by default.
    """
    found = contenders(found)
    parts = [(group, spots, found[found["set"] == spots]) for spots in SETS for group in GROUPS]
    plain = {group: "the plain backbone" if group == "expression" else None for group in GROUPS}
    return [
        _table(data, group, spots, kind, base or plain[group] or base_of(part))
        for group, spots, part in parts
        if not (data := board(part, group, base)).empty
    ]


def _table(data: pd.DataFrame, group: Group, spots: str, kind: str, base: str | None) -> Table:
    notes = [_explained(group, base), _CONTROL]
    if group == "smoothness" and data["smooths"].any():
        notes.append(_CIRCULAR_NOTE)
    if data["datasets"].nunique() > 1:
        notes.append(_FEWER)
    title = f"{GROUPS[group]}, {SETS[spots]} ({KINDS[kind]})"
    return Table(f"leaderboard_{group}_{kind}_{spots}", title, _shown(data, group), data, tuple(notes))


def _explained(group: Group, base: str | None) -> str:
    change = f", in brackets the mean paired change from {base}" if base else ""
    note = f"Means over data sets{change}; rank: mean over data sets and metrics; up: larger is better."
    return f"{note} {_EXPRESSION_NOTE}" if group == "expression" else note


def _shown(data: pd.DataFrame, group: Group) -> pd.DataFrame:
    metrics = [metric for metric in of_group(group) if (data["metric"] == metric.key).any()]
    by_label = {str(label): rows for label, rows in data.groupby("label")}
    return pd.DataFrame([_row(name, by_label[name], metrics) for name in _sorted(by_label, group)])


def _sorted(by_label: dict[str, pd.DataFrame], group: Group) -> list[str]:
    """Best mean rank first, controls last; within one decoder after the other where they are not compared."""

    def place(name: str) -> tuple[str, float]:
        rows = by_label[name]
        decoder = str(rows["decoder"].iloc[0]) if group == "expression" else ""
        return decoder, float(rows["rank"].fillna(np.inf).mean())

    return sorted(ordered(set(by_label)), key=place)


def _row(label: str, rows: pd.DataFrame, metrics: list[Metric]) -> dict[str, str]:
    by_metric = {row["metric"]: row for row in rows.to_dict("records")}
    cells = {
        f"{metric.title}{', up' if metric.higher else ''}": _cell(by_metric.get(metric.key), metric)
        for metric in metrics
    }
    decoder = {"decoder": str(rows["decoder"].iloc[0])} if metrics[0].within_decoder else {}
    rank = "-" if rows["rank"].isna().all() else f"{rows['rank'].mean():.1f}"
    return {"method": label} | decoder | {"data sets": str(rows["datasets"].max()), "rank": rank} | cells


def _cell(row: dict[Hashable, Any] | None, metric: Metric) -> str:
    if row is None:
        return "-"
    as_text = percent if metric.relative else signed
    change = "" if pd.isna(row["change"]) else f" ({as_text(float(row['change']))})"
    return f"{number(row['value'])}{CIRCULAR if metric.circular and row['smooths'] else ''}{change}"
