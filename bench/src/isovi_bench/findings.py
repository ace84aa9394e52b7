"""What the results say, in sentences made from the same numbers as the tables."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from isovi_bench import controls, progress, results, significance, sweeps
from isovi_bench.compare import by_dataset, changes
from isovi_bench.metrics import METRICS, Metric
from isovi_bench.rendering import percent, signed
from isovi_bench.results import BACKBONES, DONE, KINDS, SETS, TRIAL, Backbone, contenders, ordered

Findings = dict[str, list[str]]

PAPER = (("train", "morans_i"), ("train", "gearys_c"), ("heldout", "mse_lognorm"))
"""What the paper claims: a smoother latent of the spots that were fitted, and no worse expression."""

BASIS = "Which jobs are these findings from?"
_SENSITIVE = ("coordinate_error", "spearman_distance", "reconstruction", "mse_lognorm")
_READING = (
    "Counts are of data sets; in brackets is the mean change over data sets, in per cent or, for scores that "
    f"may be zero, as a difference. Significant: Holm's p is below {significance.SIGNIFICANT}."
)
_CLEARLY = "Clearly: the 95 % interval of the change over the trials of a data set excludes zero."
_NOTHING = "No job that answers this has finished yet."
_OF_TASKS = ("together", "molecules")  # kinds that tasks alone are about, not the paper's claims


def findings(frame: pd.DataFrame, plan: pd.DataFrame | None = None) -> Findings:
    """Questions about the results, each with its answers.

    Parameters
    ----------
    frame
        Tidy results.
    plan
        Jobs of the grid, if it is known.

    Returns
    -------
    Sentences by heading.
    """
    states = progress.jobs(frame, results.jobs_in(frame) if plan is None else plan)
    found = results.measured(frame)
    kinds = [kind for kind in results.kinds(found) if kind not in _OF_TASKS]
    by_kind = {kind: _of_kind(found[found["kind"] == kind]) for kind in kinds}
    by_kind = {kind: answers for kind, answers in by_kind.items() if any(answers.values())}
    first = next(iter(by_kind), "")
    answered = {
        f"{question} ({KINDS[kind]})" if len(by_kind) > 1 else question: sentences or [_NOTHING]
        for kind, answers in by_kind.items()
        for question, sentences in answers.items()
        if sentences or kind == first
    }
    return {BASIS: _basis(states), **answered}


def _of_kind(found: pd.DataFrame) -> Findings:
    rows = contenders(found)
    return {
        "Does distance preservation help?": claims(rows),
        "Where does the paper's claim not hold?": exceptions(rows),
        "What survives shuffled positions?": memorised(rows),
        "How sensitive are α and the target?": sensitivity(sweeps.curves(found)),
        "Which methods are better than ours, and at what?": rivals(rows),
    }


def _basis(states: pd.DataFrame) -> list[str]:
    numbers = progress.count(states)
    datasets = sorted(set(states.loc[states["status"] == DONE, "dataset"]))
    plural = "" if len(datasets) == 1 else "s"
    first = f"{numbers[DONE]} of {numbers['all']} jobs are done, on {len(datasets)} data set{plural}"
    lacks = f", {numbers['failed']} failed and {numbers['to come']} are still to come."
    return [f"{first}{lacks}", *progress.unfinished(states)]


# ---------------------------------------------------------------------------- the claims


def claims(found: pd.DataFrame) -> list[str]:
    """On how many data sets each distance term improves each metric of its backbone."""
    pairs = significance.backbone_pairs(found)
    sentences = [_claim(found, pair) for pair in pairs if len(significance.claimed(found, [pair]))]
    return [_READING, *sentences] if sentences else []


def _claim(found: pd.DataFrame, pair: significance.Pair) -> str:
    rows = significance.claimed(found, [pair]).to_dict("records")
    of = {spots: [_count(row) for row in rows if row["set"] == spots] for spots in SETS}
    counts = ". ".join(f"On {SETS[spots]} it {listed(texts)}" for spots, texts in of.items() if texts)
    return f"**{way(pair[0])}** ({pair[0]} against {pair[1]}, {_trials(found, pair)}). {counts}."


def way(variant: str) -> str:
    """A variant in words."""
    for backbone in BACKBONES:
        if variant == backbone.penalty:
            return f"{backbone.title} with the paper's penalty"
        if variant == backbone.constraint:
            return f"{backbone.title} with our constraint"
    return variant


def listed(texts: list[str]) -> str:
    """One, two and three."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _count(row: dict[Hashable, Any]) -> str:
    metric = METRICS[row["metric"]]
    verb = "raises" if metric.higher else "lowers"
    sure = "; significant" if significance.is_significant(row) else ""
    mean = change(metric, row["change"])
    return f"{verb} {metric.title} on {row['better']} of {row['datasets']} ({mean}{sure})"


def change(metric: Metric, value: float) -> str:
    """A change as the metric is compared."""
    return percent(value) if metric.relative else signed(value)


def _trials(found: pd.DataFrame, pair: significance.Pair) -> str:
    """Number of trials that both methods share on a data set."""
    rows = found[found["label"].isin(pair) & (found["set"] != "")]
    shared = rows.groupby(TRIAL)["label"].nunique() == len(set(pair))
    counts = shared.groupby("dataset").sum()
    low, high = int(counts.min()), int(counts.max())
    number = str(high) if low == high else f"{low} to {high}"
    return f"{number} trial{'' if high == 1 else 's'} a data set"


def exceptions(found: pd.DataFrame) -> list[str]:
    """The data sets on which a metric is worse than with the plain backbone, by name."""
    sentences = [_exceptions(found, *pair) for pair in significance.backbone_pairs(found)]
    return [_CLEARLY, *sentences] if sentences else []


def _exceptions(found: pd.DataFrame, method: str, against: str) -> str:
    cells = by_dataset(changes(found[found["label"].isin([method, against])], against))
    cells = cells[cells["label"] == method]
    parts = {key: part for key, part in cells.groupby(["set", "metric"]) if part["worse"].any()}
    texts = [_worse(parts[key], key) for key in significance.CLAIMS if key in parts]
    return f"**{way(method)}**: {'; '.join(texts) or 'none of these metrics is worse on any data set'}."


def _worse(part: pd.DataFrame, key: tuple[str, str]) -> str:
    metric = METRICS[key[1]]
    rows = part[part["worse"]].sort_values("dataset")
    clear, unclear = (_named(rows[rows["clear"] == state], metric) for state in (True, False))
    texts = [f"clearly on {clear}"] if clear else []
    texts += [f"not clearly on {unclear}"] if unclear else []
    claimed = " (a claim of the paper)" if key in PAPER else ""
    return (
        f"{metric.title} of {SETS[key[0]]}{claimed} is worse on {len(rows)} of {len(part)} data sets: "
        f"{', '.join(texts)}"
    )


def _named(rows: pd.DataFrame, metric: Metric) -> str:
    pairs = zip(rows["dataset"], rows["change"], strict=True)
    return ", ".join(f"{name} ({change(metric, value)})" for name, value in pairs)


# ---------------------------------------------------------------------------- controls


def memorised(found: pd.DataFrame) -> list[str]:
    """The share of our gains that fits to shuffled positions reach as well."""
    gains = controls.surviving(found)
    shown = gains[gains["metric"].isin(["morans_i", "spearman_distance"])]
    return [_memorised(name, part) for name, part in shown.groupby("label", sort=False)]


def _memorised(name: str, part: pd.DataFrame) -> str:
    by_set = {spots: part[part["set"] == spots].to_dict("records") for spots in SETS}
    texts = [
        f"on {SETS[spots]} {listed([_gain(row) for row in rows])}" for spots, rows in by_set.items() if rows
    ]
    what = "mean change from the plain backbone with true (and with shuffled) positions"
    return f"**{way(name)}**, {what}: {'; '.join(texts)}."


def _gain(row: dict[Hashable, Any]) -> str:
    metric = METRICS[row["metric"]]
    return f"{metric.title} {change(metric, row['true'])} ({change(metric, row['shuffled'])})"


# ---------------------------------------------------------------------------- settings


def sensitivity(curves: pd.DataFrame) -> list[str]:
    """How held-out metrics depend on each swept setting, and what one value for all data sets costs."""
    rows = sweeps.complete(curves[curves["set"] == "heldout"])
    return [_sensitivity(str(name), part) for name, part in rows.groupby("curve", sort=False)]


def _sensitivity(name: str, part: pd.DataFrame) -> str:
    levels, datasets = sorted(part["level"].unique()), part["dataset"].nunique()
    what = f"{len(levels)} values from {levels[0]:g} to {levels[-1]:g}, {datasets} data sets"
    shown = [key for key in _SENSITIVE if (part["metric"] == key).any()]
    texts = [_range(part[part["metric"] == key], METRICS[key]) for key in shown]
    return f"**{name}** ({what}; mean changes from plain {part['backbone'].iloc[0]}). {' '.join(texts)}"


def _range(part: pd.DataFrame, metric: Metric) -> str:
    merit = part.pivot_table(index="level", columns="dataset", values="change") * metric.sign
    mean = merit.mean(axis=1)
    best, worst = mean.idxmax(), mean.idxmin()
    low, high = (change(metric, metric.sign * mean[level]) for level in (worst, best))
    own = merit.idxmax().value_counts().sort_index()
    each = listed([f"{level:g} on {count}" for level, count in own.items()])
    lost = change(metric, (merit.max() - merit.loc[best]).mean()).lstrip("+")
    title = metric.title[0].upper() + metric.title[1:]
    return (
        f"{title}: {low} at {worst:g} to {high} at {best:g}; the best value is {each} data sets, "
        f"and {best:g} for all data sets is on average {lost} short of the best for each."
    )


# ---------------------------------------------------------------------------- rivals


def rivals(found: pd.DataFrame) -> list[str]:
    """For every method that is not ours: what it is better at than ours, and what it is worse at."""
    us = _us(found)
    if us is None:
        return []
    ours = {name for backbone in BACKBONES for name in backbone.variants}
    others = [name for name in ordered(set(found.loc[~found["shuffled"], "label"])) if name not in ours]
    return [text for other in others for spots in SETS if (text := _rival(found, us, other, spots))]


def _us(found: pd.DataFrame) -> Backbone | None:
    present = set(found["label"])
    return next((backbone for backbone in reversed(BACKBONES) if backbone.constraint in present), None)


def _rival(found: pd.DataFrame, us: Backbone, other: str, spots: str) -> str:
    rows = [row for row in significance.compare(found, other, us.constraint) if row.set == spots]
    if not rows:
        return ""
    circular = bool(found.loc[found["label"] == other, "smooths"].any())
    ahead = [_against(row, row.better, circular) for row in rows if row.better * 2 > row.datasets]
    behind = [_against(row, row.worse, circular) for row in rows if row.worse * 2 > row.datasets]
    better = (
        f"better than {us.constraint} at {', '.join(ahead)}"
        if ahead
        else f"at nothing better than {us.constraint}"
    )
    worse = f"worse at {', '.join(behind)}" if behind else "worse at nothing"
    return f"**{other}**, {SETS[spots]}: {better}; {worse}."


def _against(row: significance.Comparison, count: int, circular: bool) -> str:
    metric = METRICS[row.metric]
    remark = ", partly circular" if circular and metric.circular else ""
    return f"{metric.title} ({count} of {row.datasets}{remark})"
