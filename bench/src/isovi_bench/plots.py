"""Plots of a comparison: Figs. 4 to 6 of the paper, the leaderboard, and likelihood against geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from isovi import pl
from isovi.pl import _canvas, _palette
from isovi.spots import HELDOUT
from isovi_bench import leaderboard, results, sweeps
from isovi_bench.compare import by_dataset, changes
from isovi_bench.metrics import METRICS, Metric
from isovi_bench.results import BACKBONES, DONE, Backbone, contenders
from isovi_bench.store import LATENTS

DPI, DPI_ELLIPSES = 90, 60

_SENSITIVE = ("coordinate_error", "spearman_distance", "morans_i", "reconstruction", "mse_lognorm")
_RANKED = (
    *("morans_i", "gearys_c", "spearman_distance", "relative_distortion", "anisotropy", "coordinate_error"),
    *("nmi_leiden", "ari_leiden", "nmi_mixture", "ari_mixture", "ilisi"),
)
_GEOMETRY = ("coordinate_error", "spearman_distance")  # of the trade-off with the likelihood
_MARKERS = "osD^vPX"


def write(results_dir: Path | str, out_dir: Path | str) -> list[Path]:
    """Draw every plot that the results have metrics for.

    Parameters
    ----------
    results_dir
        Folder written by ``isovi-bench run``; ellipses need the latents that it keeps.
    out_dir
        Made if missing.

    Returns
    -------
    The PNG files.

    Raises
    ------
    InputError
        If there are no results.
    """
    frame = results.read(results_dir)
    found = results.measured(frame)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        path for kind in results.kinds(found) for path in _of_kind(found[found["kind"] == kind], kind, folder)
    ]
    return [*paths, *ellipses(frame, Path(results_dir) / LATENTS, folder)]


def _of_kind(found: pd.DataFrame, kind: str, folder: Path) -> list[Path]:
    drawn = {f"{name}_{kind}.png": draw(found) for name, draw in _DRAWN.items()}
    return [_saved(figure, folder / name) for name, figure in drawn.items() if figure is not None]


def _saved(figure: Figure, path: Path, dpi: int = DPI) -> Path:
    figure.savefig(path, dpi=dpi, bbox_inches="tight")
    return path


def _grid(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, NDArray]:
    figure = Figure(figsize=(columns * size[0], rows * size[1]), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        _canvas.plain(ax)
    return figure, axes


# ---------------------------------------------------------------------------- Fig. 4


def ellipses(frame: pd.DataFrame, latents: Path, folder: Path) -> list[Path]:
    """Tissot ellipses of each backbone without and with its distances kept (Zhou & Du 2024, Fig. 4).

    Parameters
    ----------
    frame
        Tidy results.
    latents
        Folder of the latents, one file per job.
    folder
        Where the plots go.

    Returns
    -------
    The PNG files, one for each data set and backbone. Drawn are the held-out spots (all where none were held
    out) of the section with most of them, for the first split and seed.
    """
    names = [name for backbone in BACKBONES for name in backbone.variants]
    done = frame[(frame["status"] == DONE) & ~frame["shuffled"] & frame["variant"].isin(names)]
    jobs = done.drop_duplicates("job")
    jobs = jobs[np.array([(latents / f"{job}.npz").is_file() for job in jobs["job"]], dtype=bool)]
    parts = [(part, backbone) for _, part in jobs.groupby("dataset") for backbone in BACKBONES]
    drawn = [_ellipses(part, backbone, latents, folder) for part, backbone in parts]
    return [path for path in drawn if path is not None]


def _ellipses(jobs: pd.DataFrame, backbone: Backbone, latents: Path, folder: Path) -> Path | None:
    split, seed = min(zip(jobs["split"], jobs["seed"], strict=True))
    trial = jobs[(jobs["split"] == split) & (jobs["seed"] == seed)]
    first = trial.drop_duplicates("variant", keep="last").set_index("variant")["job"]
    found = {name: latents / f"{first[name]}.npz" for name in backbone.variants if name in first.index}
    stored = {name: dict(np.load(path)) for name, path in found.items()}
    drawn = {name: of["latent"][_shown(of)] for name, of in stored.items()}
    drawn = {name: latent for name, latent in drawn.items() if np.isfinite(latent).all()}
    if not drawn:
        return None
    one = stored[next(iter(drawn))]  # spots and split are the same for all
    axes = pl.tissot_latents(drawn, one["coordinates"][_shown(one)])
    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    return _saved(figure, folder / f"ellipses_{jobs['dataset'].iloc[0]}_{backbone.plain}.png", DPI_ELLIPSES)


def _shown(stored: dict[str, NDArray]) -> NDArray[np.intp]:
    """Held-out spots, or all, of the section with most of them."""
    held_out = stored["split"] == HELDOUT
    wanted = held_out if held_out.any() else np.ones(len(held_out), dtype=bool)
    codes, counts = np.unique(stored["section"][wanted], return_counts=True)
    return np.flatnonzero(wanted & (stored["section"] == codes[counts.argmax()]))


# ---------------------------------------------------------------------------- Fig. 5


def errors(found: pd.DataFrame) -> Figure | None:
    """Error of log-normalised expression as a ratio to the plain backbone (Zhou & Du 2024, Fig. 5).

    Parameters
    ----------
    found
        Measured metrics of one kind of split.

    Returns
    -------
    A panel per backbone, so within one decoder; dots are means over trials, bars their standard deviation.
    Held-out spots, training spots where none were held out.
    """
    rows = _one_set(found[(found["metric"] == "mse_lognorm") & ~found["shuffled"]])
    compared = {backbone: _kept(rows, backbone) for backbone in BACKBONES}
    compared = {backbone: part for backbone, part in compared.items() if not part.empty}
    if not compared:
        return None
    figure, axes = _grid(1, len(compared), (4.6, 3.2))
    for ax, (backbone, part) in zip(axes[0], compared.items(), strict=True):
        _dots(ax, part, backbone)
    spots = results.SETS[rows["set"].iloc[0]]
    axes[0, 0].set_ylabel(f"MSE of log expression, {spots}\n(ratio to the plain backbone)", fontsize="small")
    return figure


def _one_set(rows: pd.DataFrame) -> pd.DataFrame:
    """Held-out spots where there are any."""
    held_out = rows["set"] == "heldout"
    return rows[held_out] if held_out.any() else rows[rows["set"] == "train"]


def _kept(rows: pd.DataFrame, backbone: Backbone) -> pd.DataFrame:
    compared = changes(rows[rows["label"].isin(backbone.variants)], backbone.plain)
    return compared[compared["label"] != backbone.plain]


def _dots(ax: Axes, part: pd.DataFrame, backbone: Backbone) -> None:
    datasets = sorted(set(part["dataset"]))
    names = [name for name in backbone.variants if name in set(part["label"])]
    for i, name in enumerate(names):
        values = 1 + part[part["label"] == name].groupby("dataset")["change"].agg(["mean", "std"])
        values = values.reindex(datasets)
        places = np.arange(len(datasets)) + 0.16 * (i - (len(names) - 1) / 2)
        ax.errorbar(
            places,
            values["mean"],
            yerr=(values["std"] - 1).fillna(0),
            fmt=_MARKERS[i],
            markersize=5,
            linewidth=1,
            color=_palette.CATEGORICAL[(5, 0)[i % 2]],
            label=name,
        )
    ax.axhline(1, color="0.4", linewidth=1, linestyle="--", zorder=0)
    ax.set_xticks(range(len(datasets)), datasets, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_title(backbone.title, fontsize="medium", loc="left")
    ax.legend(frameon=False, fontsize="small", ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98))


# ---------------------------------------------------------------------------- Fig. 6


def sensitivity(found: pd.DataFrame, knob: str) -> Figure | None:
    """Held-out metrics over the values of a setting (Zhou & Du 2024, Fig. 6): a row per backbone.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    knob
        A key of :data:`isovi_bench.sweeps.KNOBS`.

    Returns
    -------
    Thin lines are data sets, the thick one their mean; the dashed line is the plain backbone.
    """
    cells = sweeps.complete(sweeps.curves(found))
    cells = cells[(cells["set"] == "heldout") & (cells["knob"] == knob)]
    rows = [part for _, part in cells.groupby("curve")]
    metrics = [METRICS[key] for key in _SENSITIVE if (cells["metric"] == key).any()]
    if not rows:
        return None
    figure, axes = _grid(len(rows), len(metrics), (2.7, 2.4))
    colors = _by_name(cells["dataset"])
    for line, part in zip(axes, rows, strict=True):
        for ax, metric in zip(line, metrics, strict=True):
            _sensitive(ax, part[part["metric"] == metric.key], metric, colors)
            ax.set_xscale("log" if knob == "penalty" else "linear")
            ax.set_xlabel(sweeps.KNOBS[knob], fontsize="small")
        line[0].set_title(f"{part['curve'].iloc[0]}\n{line[0].get_title()}", fontsize="small")
    _legend(figure, colors)
    return figure


def _by_name(names: pd.Series) -> dict[str, str]:
    unique = sorted(set(names))
    return dict(zip(unique, _palette.categorical(len(unique)), strict=True))


def _sensitive(ax: Axes, part: pd.DataFrame, metric: Metric, colors: dict[str, str]) -> None:
    table = part.pivot_table(index="level", columns="dataset", values="change") * (
        100 if metric.relative else 1
    )
    for name in table:
        ax.plot(table.index, table[name], color=colors[name], linewidth=0.9, alpha=0.8)
    ax.plot(table.index, table.mean(axis=1), color="black", linewidth=2, marker="o", markersize=3)
    ax.axhline(0, color="0.4", linewidth=1, linestyle="--", zorder=0)
    ax.set_title(f"{metric.title}{', %' if metric.relative else ''}", fontsize="small")


def _legend(figure: Figure, colors: dict[str, str]) -> None:
    ax = figure.axes[0]
    lines = [ax.plot([], [], color=color)[0] for color in colors.values()]
    mean = ax.plot([], [], color="black", linewidth=2, marker="o", markersize=3)[0]
    figure.legend(
        [*lines, mean],
        [*colors, "mean"],
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize="small",
    )


# ---------------------------------------------------------------------------- trade-off


def tradeoff(found: pd.DataFrame) -> Figure | None:
    """Held-out likelihood against held-out geometry, relative to the plain backbone: a curve per method.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.

    Returns
    -------
    Means over data sets; each point of a curve is a value of its setting. Methods with a likelihood that
    were run at one setting are single points, over the data sets of the curves if there are any.
    """
    held_out = found[(found["set"] == "heldout") & ~found["shuffled"]]
    cells = sweeps.complete(sweeps.curves(held_out))
    of_curves = held_out["dataset"].isin(cells["dataset"]) | cells.empty
    curves, points = _swept(cells), _points(held_out[of_curves])
    shown = [key for key in _GEOMETRY if any(key in table for table in (*curves.values(), points))]
    if not shown:
        return None
    figure, axes = _grid(1, len(shown), (4.6, 3.8))
    for ax, key in zip(axes[0], shown, strict=True):
        _trade(ax, curves, points, METRICS[key])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure


def _swept(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean changes by level and metric, of each curve."""
    return {
        str(name): part.pivot_table(index="level", columns="metric", values="change")
        for name, part in cells.groupby("curve")
        if (part["metric"] == "reconstruction").any()
    }


def _points(held_out: pd.DataFrame) -> pd.DataFrame:
    """Mean changes of methods that lie on no curve, from the plain backbone of their decoder."""
    rows = contenders(held_out)
    rows = rows[~rows["job"].isin(sweeps.swept(held_out)["job"])]
    parts = [
        by_dataset(changes(rows[rows["decoder"] == backbone.decoder], backbone.plain))
        for backbone in BACKBONES
    ]
    cells = pd.concat(parts)
    cells = cells[~cells["label"].isin([backbone.plain for backbone in BACKBONES])]
    table = cells.pivot_table(index="label", columns="metric", values="change")
    return table.dropna(subset="reconstruction") if "reconstruction" in table else pd.DataFrame()


def _trade(ax: Axes, curves: dict[str, pd.DataFrame], points: pd.DataFrame, metric: Metric) -> None:
    size = 100 if metric.relative else 1
    colors = _palette.categorical(len(curves) + len(points))
    for i, (name, table) in enumerate(curves.items()):
        if metric.key in table:
            ax.plot(
                100 * table["reconstruction"],
                size * table[metric.key],
                marker="o",
                markersize=4,
                color=colors[i],
                label=name,
            )
            _ends(ax, table, metric, size)
    for i, name in enumerate(points.index if metric.key in points else []):
        x, y = 100 * points.loc[name, "reconstruction"], size * points.loc[name, metric.key]
        ax.plot(x, y, linestyle="", marker=_MARKERS[i % 7], color=colors[len(curves) + i], label=name)
    ax.plot(0, 0, linestyle="", marker="*", markersize=12, color="black", label="plain backbone")
    unit = "change in %" if metric.relative else "difference"
    ax.set_xlabel("likelihood loss, change in % (left is better)", fontsize="small")
    way = "up" if metric.higher else "down"
    ax.set_ylabel(f"{metric.title}, {unit} ({way} is better)", fontsize="small")


def _ends(ax: Axes, table: pd.DataFrame, metric: Metric, size: int) -> None:
    """The values at the ends of a curve."""
    for level in (table.index[0], table.index[-1]):
        place = (100 * table.loc[level, "reconstruction"], size * table.loc[level, metric.key])
        ax.annotate(f"{level:g}", place, xytext=(4, 4), textcoords="offset points", fontsize="x-small")


# ---------------------------------------------------------------------------- leaderboard


def ranking(found: pd.DataFrame) -> Figure | None:
    """Mean ranks of methods by metric, on training and on held-out spots apart: 1, dark, is the best.

    Parameters
    ----------
    found
        Measured metrics of one kind of split.
    """
    rows = contenders(found[found["metric"].isin(_RANKED)])
    tables = {spots: _ranks(rows[rows["set"] == spots]) for spots in results.SETS}
    tables = {spots: table for spots, table in tables.items() if not table.empty}
    if not tables:
        return None
    height = 1.6 + 0.26 * max(len(table) for table in tables.values())
    figure, axes = _grid(1, len(tables), (1.8 + 0.42 * len(_RANKED), height))
    for ax, (spots, table) in zip(axes[0], tables.items(), strict=True):
        _heat(ax, table)
        ax.set_title(f"mean rank, {results.SETS[spots]}", fontsize="medium")
    return figure


def _ranks(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods, best first, by metrics."""
    if rows.empty:
        return pd.DataFrame()
    smooth = set(rows.loc[rows["smooths"], "label"])
    table = leaderboard.ranks(rows).pivot(index="label", columns="metric", values="rank")
    table = table[[key for key in _RANKED if key in table]]
    table = table.loc[table.mean(axis=1).sort_values(kind="stable").index]
    return table.rename(index=lambda name: f"{name} {leaderboard.CIRCULAR}" if name in smooth else name)


def _heat(ax: Axes, table: pd.DataFrame) -> None:
    values = table.to_numpy()
    ax.imshow(values, cmap="YlGnBu_r", aspect="auto", vmin=1, vmax=max(2.0, float(np.nanmax(values))))
    middle = (1 + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "white" if value < middle else "black"
            ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize="x-small", color=color)
    titles = [METRICS[key].title for key in table]
    ax.set_xticks(range(len(titles)), titles, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(table)), table.index)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


_DRAWN: dict[str, Callable[[pd.DataFrame], Figure | None]] = {
    "errors": errors,
    "sensitivity_penalty": lambda found: sensitivity(found, "penalty"),
    "sensitivity_target": lambda found: sensitivity(found, "target"),
    "tradeoff": tradeoff,
    "leaderboard": ranking,
}
