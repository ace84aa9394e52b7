"""Tasks that users come for: who is best at each, with ranks that are tested, and who should use isoVI."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from isovi_bench import significance
from isovi_bench.metrics import METRICS, Group, of_group
from isovi_bench.rendering import Table, number, percent, signed
from isovi_bench.results import APART, BACKBONES, KINDS, contenders, kind_of_set, ordered

LEVEL = significance.SIGNIFICANT
FEWEST = significance.FEWEST
OURS = tuple(backbone.constraint for backbone in reversed(BACKBONES))  # isoVI's own, the first that was run
NOT_RUN = "Not run yet."
NONE_APART = "No data set of these sections alone."
NO_FITS = ("coordinates", "mean-profile")  # references that fit nothing and take no time
TIMES = 3.0  # relative changes from which a multiple reads better


@dataclass(frozen=True)
class Measure:
    """What decides a task: a metric on a set of spots, with one kind of split.

    Attributes
    ----------
    kind
        A key of :data:`isovi_bench.results.KINDS`.
    spots
        The set.
    metric
        Its key.
    """

    kind: str
    spots: str
    metric: str

    def of(self, found: pd.DataFrame) -> pd.DataFrame:
        """The rows of a task, without controls and settings that were only swept."""
        rows = found[(found["kind"] == self.kind) & (found["set"] == self.spots) & ~found["shuffled"]]
        rows = contenders(rows[rows["metric"] == self.metric])
        return rows[~rows["method"].isin(NO_FITS)] if self.metric == "cpu_seconds" else rows

    @property
    def title(self) -> str:
        """In words."""
        where = ", ".join(part for part in (kind_of_set(self.spots), KINDS[self.kind]) if part)
        return f"{METRICS[self.metric].title} ({where})"


@dataclass(frozen=True)
class Task:
    """What a user wants.

    Attributes
    ----------
    title
        In tables.
    want
        What the user wants, after "if you want".
    measures
        The first that was run decides; the others are for results that lack it.
    groups
        Groups of the further metrics that its page shows.
    """

    title: str
    want: str
    measures: tuple[Measure, ...]
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """Of its page: the title in lower case, with hyphens."""
        return "-".join(re.findall(r"\w+", self.title.lower()))

    def measured(self, found: pd.DataFrame) -> tuple[Measure, pd.DataFrame] | None:
        """The measure that decides, and its rows; ``None`` without data sets that isoVI and others have."""
        for measure in self.measures:
            rows = measure.of(found)
            if us(rows) is not None and rows["label"].nunique() > 1 and ranking(rows).datasets:
                return measure, rows
        return None


TASKS = (
    Task(
        "Unseen spots",
        "a latent representation that puts unseen spots where they belong",
        (Measure("spots", "heldout", "coordinate_error"),),
        ("distances", "expression"),
    ),
    Task(
        "Domains",
        "domains of the section that you fit",
        (
            Measure("all", "all", "ari_own"),
            Measure("all", "all", "ari_leiden"),
            Measure("spots", "train", "ari_leiden"),
        ),
        ("domains", "maps"),
    ),
    Task(
        "Integration: sections mixed",
        "sections, donors or patients in one latent representation",
        (Measure("together", "all", "ilisi"),),
        ("mixing",),
    ),
    Task(
        "Integration: biology kept",
        "labels that stay apart where sections mix",
        (Measure("together", "all", "clisi"),),
        ("biology", "domains"),
    ),
    Task(
        "Labels, hidden",
        "labels for the spots of a section that lack them",
        (Measure("all", "all", "label_accuracy"), Measure("spots", "heldout", "label_accuracy")),
        ("transfer",),
    ),
    Task(
        "Labels, another section",
        "labels of one section for another",
        (Measure("section", "heldout", "label_accuracy"),),
        ("transfer",),
    ),
    Task(
        "Placement, within a section",
        "positions of cells of a section that was measured",
        (Measure("spots", "heldout", "placed_error"),),
        ("placement",),
    ),
    Task(
        "Placement, another section",
        "positions of cells of another section",
        (Measure("section", "heldout", "placed_aligned"),),
        ("placement",),
    ),
    Task(
        "Denoising",
        "expression without the noise of counting",
        (Measure("molecules", "all", "molecule_loss"),),
        ("denoising",),
    ),
    Task(
        "Cost",
        "an answer in the least processor time",
        (Measure("all", "", "cpu_seconds"), Measure("spots", "", "cpu_seconds")),
        ("cost",),
    ),
)
"""In the order of the page."""


OWN = {backbone.constraint for backbone in BACKBONES}
"""Methods whose variants are isoVI with other settings, and no other methods."""


def us(rows: pd.DataFrame) -> str | None:
    """The label of isoVI among some rows."""
    present = set(rows["label"])
    return next((name for name in OURS if name in present), None)


# ---------------------------------------------------------------------------- ranks


@dataclass(frozen=True)
class Ranking:
    """Methods by their mean rank over the data sets that all of them have.

    Attributes
    ----------
    ranks
        Mean rank of each method, the best first.
    datasets
        Number of data sets.
    p
        Friedman's test that all methods are alike; NaN with fewer than three methods or five data sets.
    critical
        Difference of mean ranks beyond which two methods differ at 5 % (Nemenyi; Demšar 2006); NaN likewise.
    """

    ranks: pd.Series
    datasets: int
    p: float
    critical: float

    def alike(self, method: str) -> list[str]:
        """Methods that cannot be told from one, itself included; all where nothing is claimed."""
        if np.isnan(self.critical) or self.p >= LEVEL:
            return list(self.ranks.index)
        return list(self.ranks.index[(self.ranks - self.ranks[method]).abs() <= self.critical])


def complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Values of methods, the columns, on data sets, the rows, without gaps; means over splits and seeds.

    Parameters
    ----------
    rows
        Of one metric, set and kind of split. Data sets that only few methods were run on are left out (less
        than half as many as on another), then methods that lack one that others have.
    """
    wide = rows.pivot_table(index="dataset", columns="label", values="value")
    methods = wide.notna().sum(axis=1)
    wide = wide[methods >= methods.max() / 2]
    return wide.loc[:, wide.notna().sum() == wide.notna().sum().max()].dropna()


def ranking(rows: pd.DataFrame) -> Ranking:
    """Rank methods by one metric on the data sets that all of them have, see :func:`complete`.

    Parameters
    ----------
    rows
        Of one metric, set and kind of split.
    """
    wide = complete(rows) * METRICS[str(rows["metric"].iloc[0])].sign
    ranks = wide.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    n, k = wide.shape
    if n < FEWEST or k < 3:
        return Ranking(ranks, n, float("nan"), float("nan"))
    p = float(stats.friedmanchisquare(*wide.to_numpy().T).pvalue)
    return Ranking(ranks, n, p, critical_difference(k, n))


def critical_difference(methods: int, datasets: int) -> float:
    """Nemenyi's critical difference of mean ranks at 5 % (Demšar 2006, equation 6)."""
    q = stats.studentized_range.ppf(1 - LEVEL, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * datasets)))


# ---------------------------------------------------------------------------- the screen and its sentences


def screens(found: pd.DataFrame) -> list[Table]:
    """Who is best at what; apart from it, on the data sets that took no part in any choice.

    Parameters
    ----------
    found
        Measured metrics, of all kinds of split.
    """
    unseen = found["dataset"].isin(APART)
    title = "Who is best at what"
    ran = {task for task in TASKS if task.measured(found)}
    apart = _screen(
        found[unseen], "tasks_apart", f"{title}, on sections that took no part in any choice", ran
    )
    return [_screen(found[~unseen], "tasks", title), *([apart] if unseen.any() else [])]


def _screen(found: pd.DataFrame, name: str, title: str, elsewhere: Collection[Task] = ()) -> Table:
    shown = [_row(task, found, NONE_APART if task in elsewhere else NOT_RUN) for task in TASKS]
    notes = (
        "Ranks are means over the data sets that all methods of a row have; methods within the critical "
        "difference of the best (Nemenyi, 5 %) cannot be told from it. The change is isoVI's from the best "
        f"other method, paired by data set and seed, with its 95 % interval. With fewer than {FEWEST} "
        "data sets nothing is tested.",
    )
    return Table(name, title, pd.DataFrame(shown), pd.DataFrame(shown), notes)


def _row(task: Task, found: pd.DataFrame, lacking: str) -> dict[str, str]:
    ran = task.measured(found)
    if ran is None:
        blank = dict.fromkeys(
            ("best (mean rank)", "not distinguishable from it", "isoVI's rank", "change of isoVI"), "-"
        )
        return {"task": task.title, "decided by": lacking, **blank, "data sets": "-"}
    measure, rows = ran
    ranked, name = ranking(rows), us(rows)
    best = str(ranked.ranks.index[0])
    alike = [other for other in ranked.alike(best) if other != best]
    tested = not np.isnan(ranked.critical)
    return {
        "task": task.title,
        "decided by": measure.title,
        "best (mean rank)": f"{best} ({ranked.ranks.iloc[0]:.1f})",
        "not distinguishable from it": (", ".join(alike) or "none") if tested else "not tested",
        "isoVI's rank": f"{ranked.ranks[name]:.1f} of {len(ranked.ranks)}" if name in ranked.ranks else "-",
        "change of isoVI": _effect(rows, str(name), ranked),
        "data sets": str(ranked.datasets),
    }


def _effect(rows: pd.DataFrame, name: str, ranked: Ranking) -> str:
    compared = _against_best(rows, name, ranked)
    if compared is None:
        return "-"
    low, high = (_change(compared.metric, value) for value in (compared.low, compared.high))
    interval = f", {low} to {high}" if compared.datasets > 1 else ""
    return f"{_change(compared.metric, compared.change)}{interval}, to {compared.against}"


def _change(metric: str, value: float) -> str:
    """A change in words; what is many times the other as a multiple."""
    if not METRICS[metric].relative:
        return signed(value)
    return percent(value) if abs(value) < TIMES else f"{1 + value:,.0f} times"


def _against_best(rows: pd.DataFrame, name: str, ranked: Ranking) -> significance.Comparison | None:
    """IsoVI against the best other method."""
    others = [str(label) for label in ranked.ranks.index if label not in _own(rows)]
    found = significance.compare_rows(rows, name, others[0]) if others else []
    return found[0] if found else None


def _own(rows: pd.DataFrame) -> set[str]:
    """Labels of isoVI's variants."""
    return set(rows.loc[rows["method"].isin(OWN), "label"])


def sentence(task: Task, found: pd.DataFrame, apart: bool = False) -> str:
    """Who should use isoVI for a task and who should not, from the results alone; or that it was not run.

    Parameters
    ----------
    task
        One of :data:`TASKS`.
    found
        Measured metrics, of all kinds of split.
    apart
        Whether to judge by the data sets that took no part in any choice, instead of by the others.
    """
    found = found[found["dataset"].isin(APART) == apart]
    ran = task.measured(found)
    if ran is None:
        return NOT_RUN
    measure, rows = ran
    name, ranked = str(us(rows)), ranking(rows)
    compared = _against_best(rows, name, ranked)
    if compared is None:
        return NOT_RUN
    ahead, behind = _datasets(rows, compared)
    metric, change = METRICS[measure.metric].title, _change(measure.metric, compared.change)
    unsure = "" if _told_apart(ranked, name, compared.against) else " The ranks do not tell the two apart."
    if (best := str(ranked.ranks.index[0])) != name and (
        rows.loc[rows["label"] == best, "method"] == name
    ).all():
        unsure += f" isoVI with the settings of {best} ranks first."
    if len(ahead) > len(behind):
        besides = (
            f"; not on data like {', '.join(behind)}, where {compared.against} is better" if behind else ""
        )
        return (
            f"Use isoVI if you want {task.want}: its {metric} is better than that of {compared.against}, "
            f"the best other method, on {len(ahead)} of {compared.datasets} data sets ({change}){besides}."
            f"{unsure}"
        )
    besides = f", unless your data are like {', '.join(ahead)}, where isoVI is better" if ahead else ""
    return (
        f"Do not use isoVI if you only want {task.want}: {compared.against} has the better {metric} on "
        f"{len(behind)} of {compared.datasets} data sets (isoVI's change from it: {change}){besides}.{unsure}"
    )


def _told_apart(ranked: Ranking, method: str, other: str) -> bool:
    """Whether the ranks of two methods differ at 5 %, where that was tested."""
    return method in ranked.ranks and other not in ranked.alike(method)


def _datasets(rows: pd.DataFrame, compared: significance.Comparison) -> tuple[list[str], list[str]]:
    """Data sets on which isoVI is better, and on which it is worse."""
    both = rows[rows["label"].isin([compared.method, compared.against])]
    wide = both.pivot_table(index=["dataset", "split", "seed"], columns="label", values="value").dropna()
    merit = (wide[compared.method] - wide[compared.against]).groupby("dataset").mean()
    merit = merit * METRICS[compared.metric].sign
    return sorted(merit.index[merit > 0]), sorted(merit.index[merit < 0])


def boards(found: pd.DataFrame) -> list[Table]:
    """Tables of each task that was run: see :func:`of_task`."""
    return [table for task in TASKS for table in of_task(task, found)]


def of_task(task: Task, found: pd.DataFrame) -> list[Table]:
    """Mean ranks and the value on each data set, those that took no part apart; ranks by further metrics.

    Parameters
    ----------
    task
        One of :data:`TASKS`.
    found
        Measured metrics, of all kinds of split.

    Returns
    -------
    Nothing if the task was not run.
    """
    ran = task.measured(found)
    if ran is None:
        return []
    measure, rows = ran
    unseen = rows["dataset"].isin(APART)
    groups = (
        (rows[~unseen], "", ""),
        (rows[unseen], "_apart", ", on sections that took no part in any choice"),
    )
    made = [_board(task, measure, part, *names) for part, *names in groups if not part.empty]
    return [*made, *_further(task, measure, found)]


def _board(task: Task, measure: Measure, rows: pd.DataFrame, ending: str, where: str) -> Table:
    ranked = ranking(rows)
    values = rows.pivot_table(index="label", columns="dataset", values="value")
    order = [*ranked.ranks.index, *(name for name in values.index if name not in ranked.ranks)]
    shown = values.loc[order].map(number)
    shown.insert(
        0, "mean rank", [f"{ranked.ranks[name]:.1f}" if name in ranked.ranks else "-" for name in order]
    )
    tested = (
        f"Friedman's p {ranked.p:.3g}; critical difference of mean ranks {ranked.critical:.2f}."
        if not np.isnan(ranked.critical)
        else f"Not tested: fewer than {FEWEST} data sets or three methods."
    )
    table = shown.rename_axis(index="method", columns=None).reset_index()
    title = f"{task.title}: {measure.title}{where}"
    return Table(f"task_{task.name}{ending}", title, table, rows, (tested,))


def _further(task: Task, measure: Measure, found: pd.DataFrame) -> list[Table]:
    """Mean ranks by every metric of a task's groups, on all data sets."""
    ranks, data = {}, []
    for metric in (metric for group in task.groups for metric in of_group(group)):
        rows = replace(measure, metric=metric.key).of(found)
        if rows["label"].nunique() > 1:
            ranks[metric.title] = ranking(rows).ranks
            data.append(rows)
    if len(ranks) < 2:
        return []
    table = pd.DataFrame(ranks)
    table = table.loc[ordered(table.index)].map(lambda rank: "-" if pd.isna(rank) else f"{rank:.1f}")
    shown = table.rename_axis(index="method", columns=None).reset_index()
    title = f"{task.title}: mean ranks by every metric"
    return [Table(f"task_{task.name}_metrics", title, shown, pd.concat(data), ("1 is the best.",))]
