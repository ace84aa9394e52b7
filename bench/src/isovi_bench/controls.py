"""Controls: what remains when positions are shuffled among the spots before the fit."""

from __future__ import annotations

import pandas as pd

from isovi_bench.compare import by_dataset, changes
from isovi_bench.metrics import METRICS
from isovi_bench.rendering import Table, percent, signed
from isovi_bench.results import BACKBONES, KINDS, SETS, contenders, label, ordered

SHOWN = (
    "morans_i",
    "gearys_c",
    "spearman_distance",
    "relative_distortion",
    "coordinate_error",
    "nmi_mixture",
    "ari_mixture",
    "reconstruction",
)
_NOTE = (
    "Each cell: mean paired difference between true and shuffled positions over data sets, and the number of "
    "data sets on which true positions are better. On training spots each fit is evaluated against the "
    "positions that it was given, so a difference near zero means that the metric reflects memorised "
    "positions, true or not. Held-out spots are evaluated against their true positions."
)
_SURVIVES = (
    "Survives: the gain over the plain backbone that a fit to shuffled positions also reaches, as a share of "
    "the gain with true positions (means over data sets). This share is memorised."
)


def differences(found: pd.DataFrame) -> pd.DataFrame:
    """True against shuffled positions: one row per method, set, metric and data set.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.

    Returns
    -------
    Columns of :func:`isovi_bench.compare.by_dataset`; ``base`` is the value with shuffled positions, and
    ``label`` the method.
    """
    controlled = ordered(
        set(found.loc[found["shuffled"], "variant"]) & set(found.loc[~found["shuffled"], "label"])
    )
    parts = [by_dataset(changes(found[found["variant"] == name], label(name, True))) for name in controlled]
    parts = [part[part["label"] == name] for part, name in zip(parts, controlled, strict=True)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def surviving(found: pd.DataFrame) -> pd.DataFrame:
    """Gains of each of our variants over its plain backbone, with true and with shuffled positions.

    Returns
    -------
    Columns ``label``, ``set``, ``metric``, ``true``, ``shuffled`` (mean changes over the data sets that have
    both) and ``share``: the second over the first, NaN where true positions bring no gain.
    """
    rows = [
        row
        for backbone in BACKBONES
        for name in (backbone.penalty, backbone.constraint)
        for row in _gains(found, name, backbone.plain)
    ]
    return pd.DataFrame(rows, columns=["label", "set", "metric", "true", "shuffled", "share"])


def _gains(found: pd.DataFrame, name: str, plain: str) -> list[dict[str, object]]:
    names = [name, label(name, True), plain]
    cells = by_dataset(changes(found[found["label"].isin(names)], plain))
    wide = cells.pivot_table(index=["set", "metric", "dataset"], columns="label", values="change")
    if not set(names[:2]) <= set(wide.columns):
        return []
    means = wide[names[:2]].dropna().groupby(["set", "metric"]).mean()
    return [_gain(name, *key, *values) for key, values in zip(means.index, means.to_numpy(), strict=True)]


def _gain(name: str, spots: str, metric: str, true: float, shuffled: float) -> dict[str, object]:
    share = shuffled / true if true * METRICS[metric].sign > 0 else float("nan")
    return {"label": name, "set": spots, "metric": metric, "true": true, "shuffled": shuffled, "share": share}


def tables(found: pd.DataFrame, kind: str) -> list[Table]:
    """True minus shuffled positions for every method that was run with both, by set of spots.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    kind
        That kind.
    """
    data = differences(contenders(found))
    if data.empty:
        return []
    gains = surviving(found)
    shown = {spots: data[(data["set"] == spots) & data["metric"].isin(SHOWN)] for spots in SETS}
    return [_table(part, gains, spots, kind) for spots, part in shown.items() if not part.empty]


def _table(data: pd.DataFrame, gains: pd.DataFrame, spots: str, kind: str) -> Table:
    gains = gains[gains["set"] == spots]
    metrics = [key for key in SHOWN if (data["metric"] == key).any()]
    names = ordered(set(data["label"]))
    shown = pd.DataFrame([_row(name, data[data["label"] == name], gains, metrics) for name in names])
    title = f"True minus shuffled positions, {SETS[spots]} ({KINDS[kind]})"
    return Table(f"controls_{kind}_{spots}", title, shown, data, (_NOTE, _SURVIVES))


def _row(name: str, data: pd.DataFrame, gains: pd.DataFrame, metrics: list[str]) -> dict[str, str]:
    cells = {METRICS[key].title: _difference(data[data["metric"] == key], key) for key in metrics}
    share = gains.loc[(gains["label"] == name) & (gains["metric"] == "spearman_distance"), "share"]
    survives = f"{100 * share.iloc[0]:.0f} %" if len(share) and pd.notna(share.iloc[0]) else "-"
    return {"method": name} | cells | {"survives, of Spearman": survives}


def _difference(rows: pd.DataFrame, key: str) -> str:
    if rows.empty:
        return "-"
    as_text = percent if METRICS[key].relative else signed
    return f"{as_text(rows['change'].mean())} ({rows['better'].sum()} of {len(rows)})"
