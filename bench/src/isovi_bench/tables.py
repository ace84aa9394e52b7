"""Every table of a run, as Markdown, CSV and LaTeX."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from isovi.errors import InputError
from isovi_bench import controls, leaderboard, progress, results, significance, sweeps, tasks
from isovi_bench.metrics import METRICS, of_group
from isovi_bench.rendering import Table, mean_sd, number
from isovi_bench.results import BACKBONES, KINDS, SETS, contenders, ordered

MEANS = "means.csv"
_TABLE1 = ("morans_i", "gearys_c")
_DETAIL = (
    "coordinate_error",
    "spearman_distance",
    "morans_i",
    "gearys_c",
    "relative_distortion",
    "ari_mixture",
    "nmi_mixture",
    "reconstruction",
    "mse_lognorm",
)


def write(results_dir: Path | str, out_dir: Path | str, against: str | None = None) -> list[Path]:
    """Write every table of a run as NAME.md, NAME.csv and NAME.tex, and means.csv.

    Parameters
    ----------
    results_dir
        Folder written by ``isovi-bench run``.
    out_dir
        Made if missing.
    against
        Method that leaderboards compare the others with; the plain backbone by default.

    Returns
    -------
    The files.

    Raises
    ------
    InputError
        If there are no results, or none of the method to compare with.
    """
    frame = results.read(results_dir)
    if against is not None and against not in set(frame["variant"]):
        raise InputError(
            f"against={against}.",
            f"The methods of {results_dir} are {', '.join(sorted(set(frame['variant'])))}.",
            "Name one of them.",
        )
    plan = results.read_plan(results_dir, frame)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for table in every(frame, plan, against) for path in table.write(folder)]
    means = folder / MEANS
    summary(results.measured(frame)).to_csv(means, index=False, float_format="%.6g")
    return [*paths, means]


def every(frame: pd.DataFrame, plan: pd.DataFrame, against: str | None = None) -> list[Table]:
    """All tables of some results.

    Parameters
    ----------
    frame
        Tidy results.
    plan
        Jobs of the grid.
    against
        See :func:`write`.
    """
    found = results.measured(frame)
    states = progress.jobs(frame, plan)
    parts = [(kind, found[found["kind"] == kind]) for kind in results.kinds(found)]
    made = [table for kind, part in parts for table in of_kind(part, kind, against)]
    problems = [progress.failures(states), progress.without_counts(frame)]
    answers = [*tasks.screens(found), *tasks.boards(found)]
    return [
        *(*answers, *made, *costs(found), methods(frame), progress.table(states)),
        *(table for table in problems if table),
    ]


def of_kind(found: pd.DataFrame, kind: str, against: str | None = None) -> list[Table]:
    """Tables of one kind of split.

    Parameters
    ----------
    found
        Measured metrics of that kind.
    kind
        A key of :data:`isovi_bench.results.KINDS`.
    against
        See :func:`write`.
    """
    return [
        *table_one(found, kind),
        *leaderboard.tables(found, kind, against),
        *significance.tables(found, kind),
        *controls.tables(found, kind),
        *sweeps.tables(found, kind),
        *details(found, kind),
    ]


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation and number of trials of every metric on every data set."""
    key = ["kind", "dataset", "label", "variant", "shuffled", "set", "metric"]
    return found.groupby(key, as_index=False).agg(
        mean=("value", "mean"), sd=("value", "std"), n=("value", "size")
    )


# ---------------------------------------------------------------------------- Table 1


def table_one(found: pd.DataFrame, kind: str) -> list[Table]:
    """Moran's I and Geary's C of each backbone with and without its distances kept (Zhou & Du 2024, Table 1).

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    kind
        That kind.

    Returns
    -------
    A table for each set of spots.
    """
    variants = {name for backbone in BACKBONES for name in backbone.variants}
    rows = found[found["variant"].isin(variants) & ~found["shuffled"] & found["metric"].isin(_TABLE1)]
    parts = {spots: summary(rows[rows["set"] == spots]) for spots in SETS}
    return [_table_one(part, spots, kind) for spots, part in parts.items() if not part.empty]


def _table_one(data: pd.DataFrame, spots: str, kind: str) -> Table:
    names = ordered(set(data["label"]))
    cells = _cells(data).pivot(index=["metric", "dataset"], columns="label", values="cell")
    cells = cells.loc[[metric for metric in _TABLE1 if metric in cells.index], names].fillna("-")
    shown = cells.rename(index={key: METRICS[key].title for key in _TABLE1}, level="metric")
    shown = shown.rename_axis(index=["metric", "data set"], columns=None).reset_index()
    what = "Moran's I (larger is better) and Geary's C (smaller is better)"
    title = f"{what}, {SETS[spots]} ({KINDS[kind]}): mean (sd) over trials"
    return Table(f"table1_{kind}_{spots}", title, shown, data, (_trials_note(data),))


def _cells(data: pd.DataFrame) -> pd.DataFrame:
    """With mean and standard deviation as text, in the column ``cell``."""
    rows = zip(data["mean"], data["sd"], data["n"], strict=True)
    return data.assign(cell=[mean_sd(float(mean), float(sd), int(n)) for mean, sd, n in rows])


def _trials_note(data: pd.DataFrame) -> str:
    """Which cells have fewer trials than the others."""
    most = data["n"].max()
    fewer = data[data["n"] < most].groupby("label")["n"].min()
    listed = ", ".join(f"{name} {fewer[name]}" for name in ordered(fewer.index))
    return f"{most} trials; fewer for: {listed}." if listed else f"{most} trials each."


# ---------------------------------------------------------------------------- each data set, and its cost


def details(found: pd.DataFrame, kind: str) -> list[Table]:
    """A table per set of spots with the main metrics of every method on every data set.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    kind
        That kind.
    """
    data = summary(contenders(found))
    parts = {spots: data[(data["set"] == spots) & data["metric"].isin(_DETAIL)] for spots in SETS}
    return [_detail(part, spots, kind) for spots, part in parts.items() if not part.empty]


def _detail(data: pd.DataFrame, spots: str, kind: str) -> Table:
    cells = _cells(data).pivot(index=["dataset", "label"], columns="metric", values="cell")
    cells = cells[[key for key in _DETAIL if key in cells]].fillna("-")
    order = ordered(set(data["label"]))
    rows = sorted(cells.index, key=lambda row: (row[0], order.index(row[1])))
    shown = cells.loc[rows].rename(columns=lambda key: METRICS[key].title)
    shown = shown.rename_axis(index=["data set", "method"], columns=None).reset_index()
    title = f"Every data set, {SETS[spots]} ({KINDS[kind]}): mean (sd) over trials"
    return Table(f"datasets_{kind}_{spots}", title, shown, data)


def costs(found: pd.DataFrame) -> list[Table]:
    """Seconds, peak memory and epochs: median over the jobs of each method."""
    keys = [metric.key for metric in of_group("cost")]
    rows = contenders(found)
    rows = rows[rows["metric"].isin(keys) & ~rows["shuffled"]]
    if rows.empty:
        return []
    data = rows.pivot_table(index="label", columns="metric", values="value", aggfunc="median")
    data = data.reindex(index=ordered(data.index), columns=[key for key in keys if key in data])
    shown = data.map(number).rename(columns=lambda key: METRICS[key].title)
    shown = shown.rename_axis(index="method", columns=None).reset_index()
    return [Table("costs", "Cost of a job, median over data sets and trials", shown, data.reset_index())]


def methods(frame: pd.DataFrame) -> Table:
    """Each variant and the facts needed to compare it."""
    facts = frame.drop_duplicates("variant").set_index("variant")
    rows = [
        {
            "variant": name,
            "method": facts.loc[name, "method"],
            "settings": progress.reason(facts.loc[name, "settings"]),
            "decoder": facts.loc[name, "decoder"] or "-",
            "sees positions": _yes(facts.loc[name, "sees_positions"]),
            "averages over the spatial graph": _yes(facts.loc[name, "smooths"]),
            "version": str(facts.loc[name, "version"]),
        }
        for name in ordered(facts.index)
    ]
    return Table("methods", "What was compared", pd.DataFrame(rows), pd.DataFrame(rows), outdated(frame))


def outdated(frame: pd.DataFrame) -> tuple[str, ...]:
    """A sentence on results that are not those of the methods as they are now."""
    earlier = results.outdated(frame)
    if earlier.empty:
        return ()
    changed = ", ".join(ordered(set(earlier["method"])))
    return (
        f"{len(earlier)} jobs of {changed} are of an earlier version of the method, which gives other "
        "results now; the grid computes them again.",
    )


def _yes(fact: object) -> str:
    return "yes" if fact else "no"
