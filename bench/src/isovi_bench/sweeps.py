"""Curves of a method over one of its settings: the paper's α, or our target."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from isovi.model.objective import Constraint
from isovi_bench.compare import by_dataset, changes
from isovi_bench.metrics import METRICS, Metric
from isovi_bench.rendering import Table, percent, signed
from isovi_bench.results import BACKBONES, KINDS, TRIAL

KNOBS = {"penalty": "α", "target": "target"}
"""Settings that are swept, with their names in plots."""

_DECODERS = {backbone.decoder: backbone for backbone in BACKBONES}
_DEFAULT = {backbone.constraint for backbone in BACKBONES}  # methods whose default is the constraint


def swept(found: pd.DataFrame) -> pd.DataFrame:
    """Metrics of the jobs that lie on a curve of at least two settings.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.

    Returns
    -------
    The rows, with the columns ``backbone`` (the title of the one with their decoder), ``knob`` (a key of
    :data:`KNOBS`), ``level`` (the value of the setting) and ``curve``: method, setting, what else was set.
    """
    rows = found[found["decoder"].isin(list(_DECODERS)) & ~found["shuffled"]]
    about = list(zip(rows["decoder"], rows["method"], rows["settings"], strict=True))
    places = {key: _place(*key) for key in set(about)}
    columns = ["backbone", "knob", "level", "curve"]
    rows = rows.join(pd.DataFrame([places[key] for key in about], columns=columns, index=rows.index))
    rows = rows.dropna(subset="level")
    return rows[rows.groupby("curve")["level"].transform("nunique") > 1]


def _place(decoder: str, method: str, settings: str) -> tuple[str, str, float, str]:
    """Backbone, setting, its value (NaN if there is none), and the curve that it lies on."""
    given: dict[str, Any] = json.loads(settings or "{}")
    knob = "penalty" if given.get("penalty") is not None else "target"
    default = Constraint.target if method in _DEFAULT else float("nan")
    level = default if given.get(knob) is None else float(given[knob])
    others = ", ".join(f"{key}={value}" for key, value in sorted(given.items()) if key not in KNOBS)
    name = f"{method}: {KNOBS[knob]}" + (f" ({others})" if others else "")
    return _DECODERS[decoder].title, knob, level, name


def curves(found: pd.DataFrame) -> pd.DataFrame:
    """Change from the plain backbone at each setting of each curve, a row per data set and metric.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.

    Returns
    -------
    Columns of :func:`isovi_bench.compare.by_dataset`, and ``backbone``, ``knob``, ``level`` and ``curve``.
    """
    rows = swept(found)
    parts = [
        _curve(part, found[found["label"] == backbone.plain])
        for backbone in BACKBONES
        for _, part in rows[rows["backbone"] == backbone.title].groupby("curve")
    ]
    empty = pd.DataFrame(columns=["backbone", "knob", "level", "curve", "set", "metric", "dataset", "change"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def _curve(part: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """Settings take the place of labels, so that one variant under two names counts once."""
    levels = _matched(part).assign(label=part["level"].map(str))
    together = pd.concat([levels, plain])
    cells = by_dataset(changes(together, str(plain["label"].iloc[0]) if len(plain) else ""))
    cells = cells[cells["label"].isin(levels["label"])]
    same = {key: part[key].iloc[0] for key in ("backbone", "knob", "curve")}
    return cells.assign(level=cells["label"].astype(float), **same)


def _matched(part: pd.DataFrame) -> pd.DataFrame:
    """Trials with the most settings of their data set: a default run with more seeds has no other mean."""
    settings = part.groupby(list(TRIAL))["level"].transform("nunique")
    return part[settings == settings.groupby(part["dataset"]).transform("max")]


def complete(cells: pd.DataFrame) -> pd.DataFrame:
    """Only data sets that have every setting of their curve, so that means over them can be compared."""
    key = ["curve", "set", "metric"]
    wanted = cells.groupby(key)["level"].transform("nunique")
    there = cells.groupby([*key, "dataset"])["level"].transform("nunique")
    return cells[there == wanted]


def tables(found: pd.DataFrame, kind: str) -> list[Table]:
    """One table per curve: the mean change from the plain backbone at each setting, on held-out spots.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    kind
        That kind.
    """
    cells = complete(curves(found))
    parts = [part for _, part in cells[cells["set"] == "heldout"].groupby("curve")]
    return [_table(part, number, kind) for number, part in enumerate(parts, start=1)]


def _table(part: pd.DataFrame, number: int, kind: str) -> Table:
    mean = part.pivot_table(index="level", columns="metric", values="change")
    shown = [
        {"value": f"{level:g}"}
        | {METRICS[key].title: _cell(METRICS[key], row[key]) for key in METRICS if key in row}
        for level, row in mean.iterrows()
    ]
    curve, plain = part["curve"].iloc[0], part["backbone"].iloc[0]
    title = f"{curve}: change from plain {plain}, held-out spots ({KINDS[kind]})"
    note = f"Means over the {part['dataset'].nunique()} data sets that have every value."
    return Table(f"sensitivity_{number}_{kind}", title, pd.DataFrame(shown), part, (note,))


def _cell(metric: Metric, value: float) -> str:
    return percent(value) if metric.relative else signed(value)
