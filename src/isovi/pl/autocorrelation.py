"""Spatial autocorrelation of the latent dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.pl import _canvas, _palette
from isovi.pl._canvas import AxesLike, PathLike

Tables: TypeAlias = AnnData | pd.DataFrame | Mapping[str, pd.DataFrame]

_TITLES = {"morans_i": "Moran's I", "gearys_c": "Geary's C"}
_MARGIN = 0.08
_TURNED_FROM = 16  # names of this many dimensions do not fit horizontally


def spatial_autocorrelation(
    tables: Tables,
    *,
    key: str = "isovi_autocorrelation",
    alpha: float = 0.05,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> NDArray:
    """Plot Moran's I and Geary's C of each latent dimension, the smoothest in the tissue first.

    A filled dot is significant at `alpha` after adjustment for the number of dimensions, an open one is not.
    The dashed line is the expectation if values are permuted within sections: close to 0 and 1, unless
    sections differ.

    Parameters
    ----------
    tables
        Annotated data matrix, a table from :func:`isovi.tl.spatial_autocorrelation`, or several tables by
        name of the model, e.g. ``{"scVI": ..., "isoVI": ...}``. In both panels the dimensions of each model
        are sorted by Moran's I.
    key
        Key in ``uns`` of the table, for an annotated data matrix.
    alpha
        False discovery rate below which a dot is filled.
    ax
        Two Axes to draw on; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    An array of the two Axes.

    Raises
    ------
    InputError
        If there is no such table, or `ax` does not contain two Axes.
    """
    by_name = {name: _sorted(table, name) for name, table in _tables(tables, key).items()}
    axes = _canvas.panels(2, ax, columns=2, size=(3.6, 2.8))
    colors = dict(zip(by_name, _palette.categorical(len(by_name)), strict=True))
    for panel, statistic in zip(axes, _TITLES, strict=True):
        for name, table in by_name.items():
            _dots(panel, table, statistic, colors[name], alpha)
        panel.set_title(_TITLES[statistic], fontsize="medium")
        _limits(panel, by_name, statistic)
        _name_dimensions(panel, by_name)
        _canvas.plain(panel)
    _legend(axes, colors, alpha, own_figure=ax is None)
    _canvas.write(axes, save)
    return np.asarray(_canvas.result(axes))


def _tables(tables: Tables, key: str) -> dict[str, pd.DataFrame]:
    if isinstance(tables, pd.DataFrame):
        return {"": tables}
    if not isinstance(tables, AnnData):
        _require_some(tables)
        return dict(tables)
    if key not in tables.uns:
        raise InputError(
            f'uns has no key "{key}" (it has: {", ".join(map(str, tables.uns)) or "none"}).',
            "The table of autocorrelations is read from uns.",
            "Run isovi.tl.spatial_autocorrelation(adata) first, or pass another key.",
        )
    return {"": tables.uns[key]}


def _require_some(tables: Mapping[str, pd.DataFrame]) -> None:
    if not tables:
        raise InputError(
            "No table was given.", "At least one is needed.", 'Pass tables by name: {"isoVI": ...}.'
        )


def _sorted(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Dimensions in descending order of Moran's I, constant ones last."""
    needed = [column for statistic in _TITLES for column in (statistic, *_with(statistic))]
    missing = [column for column in needed if column not in getattr(table, "columns", ())]
    if missing:
        raise InputError(
            f"The table{' of ' + name if name else ''} lacks {', '.join(missing)}.",
            "These columns are required.",
            "Pass the table returned by isovi.tl.spatial_autocorrelation.",
        )
    return table.sort_values("morans_i", ascending=False, na_position="last", kind="stable")


def _with(statistic: str) -> tuple[str, str]:
    return f"{statistic}_expected", f"{statistic}_p_adjusted"


def _dots(ax: Axes, table: pd.DataFrame, statistic: str, color: str, alpha: float) -> None:
    values = table[statistic].to_numpy(dtype=np.float64)
    rank = np.arange(1, len(values) + 1)
    expected, adjusted = (table[column].to_numpy(dtype=np.float64) for column in _with(statistic))
    ax.plot(rank, expected, color=color, linestyle="--", linewidth=1)
    ax.plot(rank, values, color=color, linewidth=0.8, alpha=0.5)
    face = np.where(adjusted < alpha, color, "white")
    ax.scatter(rank, values, s=26, c=face, edgecolors=color, linewidths=1.2, zorder=3)


def _limits(ax: Axes, by_name: Mapping[str, pd.DataFrame], statistic: str) -> None:
    """Limits of the y axis: at least 0 to 1, more if the values need it."""
    values = np.concatenate([table[statistic].to_numpy(dtype=np.float64) for table in by_name.values()])
    reach = np.append(values[np.isfinite(values)], [0.0, 1.0])
    ax.set_ylim(reach.min() - _MARGIN, reach.max() + _MARGIN)


def _name_dimensions(ax: Axes, by_name: Mapping[str, pd.DataFrame]) -> None:
    """Label the x axis with the names of the dimensions if there is one model, otherwise with ranks."""
    if len(by_name) > 1:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("dimension, ranked by Moran's I")
        return
    (table,) = by_name.values()
    turned = 90 if len(table) >= _TURNED_FROM else 0
    ax.set_xticks(np.arange(1, len(table) + 1), [str(name) for name in table.index], rotation=turned)
    ax.set_xlabel("latent dimension")


def _legend(axes: list[Axes], colors: Mapping[str, str], alpha: float, *, own_figure: bool) -> None:
    entries = [_dot(color, color, name) for name, color in colors.items() if name]
    entries.append(Line2D([], [], color="0.3", linestyle="--", linewidth=1, label="expected by chance"))
    entries.append(_dot("0.3", "0.3", f"adjusted p < {alpha:g}"))
    entries.append(_dot("0.3", "white", f"adjusted p ≥ {alpha:g}"))
    if own_figure:
        axes[0].figure.legend(handles=entries, loc="outside right center", frameon=False, fontsize="small")
    else:
        axes[-1].legend(
            handles=entries, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize="small"
        )


def _dot(edge: str, face: str, label: str) -> Line2D:
    return Line2D(
        [], [], color=edge, markerfacecolor=face, marker="o", linestyle="", markersize=5, label=label
    )
