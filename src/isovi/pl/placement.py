"""Placed cells in the tissue of the reference."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from isovi.errors import InputError
from isovi.pl import _canvas
from isovi.pl._canvas import AxesLike, PathLike

_SHOWN = 30  # regions drawn: more would hide each other
_MANY = 5_000  # points above which the plot is a raster


def placement(
    placed: ArrayLike,
    reference: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    radius: ArrayLike | None = None,
    flagged: ArrayLike | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot placed cells in the tissue, with their regions and errors if known.

    Parameters
    ----------
    placed
        Positions of the placed cells, shape ``(cell, 2)``; of more columns the first two are drawn.
    reference
        Positions of the reference cells, in the same frame; drawn in grey.
    truth
        True positions of the placed cells, if known; joined to the placed ones by lines.
    radius
        Radii of the regions, shape ``(cell,)``; drawn for thirty evenly spaced cells.
    flagged
        Whether each cell is unlike the reference, shape ``(cell,)``; drawn as crosses.
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
        If the arrays have different lengths.
    """
    cells = np.asarray(placed, dtype=np.float64)[:, :2]
    strange = np.zeros(len(cells), dtype=bool) if flagged is None else np.asarray(flagged, dtype=bool)
    _same_length(placed=cells, truth=truth, radius=radius, flagged=strange)
    axes = _canvas.panels(1, ax, columns=1, size=(5.0, 4.6))
    panel, tissue = axes[0], np.asarray(reference, dtype=np.float64)[:, :2]
    panel.scatter(tissue[:, 0], tissue[:, 1], s=4, color="0.85", linewidths=0, rasterized=len(tissue) > _MANY)
    if radius is not None:
        _regions(panel, cells, np.asarray(radius, dtype=np.float64), strange)
    if truth is not None:
        ends = np.stack([cells, np.asarray(truth, dtype=np.float64)[:, :2]], axis=1)
        panel.add_collection(
            LineCollection(list(ends), colors="0.5", linewidths=0.5, rasterized=len(ends) > _MANY)
        )
    for mask, marker, color in ((~strange, "o", "tab:blue"), (strange, "x", "tab:red")):
        x, y = cells[mask].T
        panel.scatter(x, y, s=9, marker=marker, color=color, rasterized=len(cells) > _MANY)
    _legend(panel, discs=radius is not None, lines=truth is not None, strange=bool(strange.any()))
    panel.set(aspect="equal")
    panel.invert_yaxis()
    panel.set_axis_off()
    _canvas.write(axes, save)
    return _canvas.result(axes)


def _regions(panel: Axes, cells: NDArray, radius: NDArray, strange: NDArray) -> None:
    drawable = np.flatnonzero(np.isfinite(radius) & ~strange)
    shown = (
        drawable[np.unique(np.linspace(0, len(drawable) - 1, _SHOWN).astype(int))]
        if len(drawable)
        else drawable
    )
    discs = EllipseCollection(
        2 * radius[shown],
        2 * radius[shown],
        np.zeros(len(shown)),
        units="xy",
        offsets=cells[shown],
        offset_transform=panel.transData,
        facecolors="none",
        edgecolors="tab:blue",
        linewidths=0.4,
        alpha=0.6,
    )
    panel.add_collection(discs, autolim=False)
    reach = radius[shown, None]
    panel.update_datalim(np.concatenate([cells[shown] - reach, cells[shown] + reach]))


def _legend(panel: Axes, *, discs: bool, lines: bool, strange: bool) -> None:
    handles = [
        Line2D([], [], marker="o", linestyle="", color="0.85", label="reference"),
        Line2D([], [], marker="o", linestyle="", color="tab:blue", label="placed"),
    ]
    if discs:
        disc = Line2D([], [], marker="o", linestyle="", color="tab:blue", label="region of its position")
        disc.set(markerfacecolor="none", markeredgewidth=0.6, markersize=9)
        handles.append(disc)
    if strange:
        handles.append(
            Line2D([], [], marker="x", linestyle="", color="tab:red", label="unlike the reference")
        )
    if lines:
        handles.append(Line2D([], [], color="0.5", label="to the true position"))
    panel.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False, fontsize="small"
    )


def _same_length(**arrays: ArrayLike | None) -> None:
    lengths = {name: len(np.asarray(values)) for name, values in arrays.items() if values is not None}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"The arrays have different lengths: {lengths}.",
            "Each must have one row per placed cell.",
            "Subset them in the same way.",
        )
