"""Figures and grids of panels shared by all plots. Nothing here needs a display."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from isovi.errors import InputError

DPI = 150

AxesLike = Axes | Sequence[Axes] | NDArray
PathLike = str | Path


def panels(n: int, ax: AxesLike | None, *, columns: int, size: tuple[float, float]) -> list[Axes]:
    """Axes to draw on: those of the caller, or those of a new figure with panels of `size` inches."""
    if ax is not None:
        given = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
        if len(given) != n:
            received = f"{len(given)} Axes were given for {n} panels."
            raise InputError(received, "Each panel needs one Axes.", f"Pass {n} Axes, or omit ax.")
        return given
    columns = min(columns, n)
    rows = -(-n // columns)
    figure = new_figure((columns * size[0], rows * size[1]))
    return [figure.add_subplot(rows, columns, i + 1) for i in range(n)]


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure of `size` inches; notebooks and interactive shells show it like those of pyplot."""
    if not (mpl.is_interactive() or hasattr(builtins, "__IPYTHON__")):
        return Figure(figsize=size, dpi=DPI, layout="constrained")
    import matplotlib.pyplot as plt  # needs a display, which an interactive session has

    return plt.figure(figsize=size, dpi=DPI, layout="constrained")


def result(axes: Sequence[Axes]) -> Axes | NDArray:
    """A single Axes, or several as an array."""
    if len(axes) == 1:
        return axes[0]
    joined = np.empty(len(axes), dtype=object)
    joined[:] = axes
    return joined


def write(axes: Sequence[Axes], save: PathLike | None) -> None:
    """Save the figure of the axes; the suffix of the file determines the format."""
    if save is not None:
        axes[0].figure.figure.savefig(save, dpi=DPI, bbox_inches="tight")


def set_ticks(axis: Axis, values: ArrayLike) -> None:
    """Ticks at these values, and no others."""
    axis.set_major_locator(FixedLocator(np.asarray(values, dtype=np.float64).tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def plain(ax: Axes) -> None:
    """Show only the left and bottom spines, in light grey."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("0.6")
    ax.tick_params(color="0.6", labelsize="small")
