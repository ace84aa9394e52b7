"""Trade-off between two metrics over several settings, with the Pareto front."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isovi.errors import InputError
from isovi.pl import _canvas, _palette
from isovi.pl._canvas import AxesLike, PathLike
from isovi.tl.evaluate import METRICS

_FRONT, _OTHER = _palette.CATEGORICAL[0], "0.6"


def pareto(
    table: pd.DataFrame,
    x: str = "reconstruction",
    y: str = "coordinate_error",
    *,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes:
    """Plot two metrics of each setting, both better when lower; a line joins the Pareto-optimal settings.

    Parameters
    ----------
    table
        One row per setting, named by its index, with the columns ``x`` and ``y`` and the boolean column
        ``pareto``. If there is a boolean column ``recommended``, that setting is marked by a ring.
        ``isovi tune`` writes such a table.
    x, y
        Columns of the two metrics.
    ax
        Axes to draw on; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes.

    Raises
    ------
    InputError
        If a column is missing.
    """
    missing = [name for name in (x, y, "pareto") if name not in table]
    if missing:
        raise InputError(
            f"The table has the columns {', '.join(map(str, table)) or 'none'}.",
            f"It needs {', '.join(missing)}.",
            "Pass the table written by isovi tune.",
        )
    (panel,) = _canvas.panels(1, ax, columns=1, size=(5.4, 3.8))
    best = table["pareto"].to_numpy(dtype=bool)
    front = table[best].sort_values(x)
    panel.plot(front[x], front[y], "-", color=_FRONT, linewidth=1, zorder=1)
    panel.scatter(table[x], table[y], c=np.where(best, _FRONT, _OTHER), s=36, zorder=2)
    for name, row in front.iterrows():
        panel.annotate(str(name), (row[x], row[y]), (5, 5), textcoords="offset points", fontsize="small")
    if "recommended" in table and table["recommended"].any():
        chosen = table[table["recommended"].astype(bool)]
        panel.scatter(chosen[x], chosen[y], s=140, facecolors="none", edgecolors=_FRONT, zorder=3)
    panel.set_xlabel(_words(x))
    panel.set_ylabel(_words(y))
    panel.margins(0.12)
    _canvas.plain(panel)
    _canvas.write([panel], save)
    return panel


def _words(name: str) -> str:
    return METRICS[name].title if name in METRICS else name.replace("_", " ")
