"""What has changed since the run before, trial by trial."""

from __future__ import annotations

import pandas as pd

from isovi_bench.metrics import METRICS
from isovi_bench.rendering import Table, percent, signed
from isovi_bench.results import TRIAL, ordered
from isovi_bench.tasks import TASKS

_SAME = ["kind", *TRIAL, "n_obs", "label", "set", "metric"]


def tables(found: pd.DataFrame, before: pd.DataFrame) -> list[Table]:
    """Mean change of every method by the metrics that decide tasks.

    Parameters
    ----------
    found, before
        Measured metrics of both runs.

    Returns
    -------
    A table, or nothing if the runs have no trial in common: the same data set with as many spots, split, seed
    and method.
    """
    kept = [*_SAME, "value", "version"]
    both = found[kept].merge(before[kept], on=_SAME, suffixes=("", "_before"))
    deciding = {(one.kind, one.spots, one.metric): one.title for task in TASKS for one in task.measures}
    both["title"] = [deciding.get(key) for key in zip(both["kind"], both["set"], both["metric"], strict=True)]
    both = both.dropna(subset="title")
    if both.empty:
        return []
    both["change"] = [
        _change(*row) for row in both[["metric", "value", "value_before"]].itertuples(index=False)
    ]
    cells = both.groupby(["label", "title"]).apply(_cell, include_groups=False).unstack()
    cells = cells.reindex(ordered(cells.index))[[name for name in deciding.values() if name in cells]]
    cells.insert(0, "version", [_versions(both[both["label"] == name]) for name in cells.index])
    shown = cells.fillna("-").rename_axis(index="method", columns=None).reset_index()
    note = "Mean change over the trials that both runs have, with their number."
    return [Table("since", "What has changed since the last run", shown, both.drop(columns="title"), (note,))]


def _change(metric: str, value: float, before: float) -> float:
    if METRICS[metric].relative:
        return (value - before) / abs(before) if before else float("nan")
    return value - before


def _cell(part: pd.DataFrame) -> str:
    as_text = percent if METRICS[part["metric"].iloc[0]].relative else signed
    return f"{as_text(part['change'].mean())} ({len(part)})"


def _versions(part: pd.DataFrame) -> str:
    now, then = part["version"].max(), part["version_before"].max()
    return f"{now}" if now == then else f"{then}, now {now}"
