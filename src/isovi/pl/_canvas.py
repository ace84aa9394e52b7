"""Figures and grids of panels shared by all plots. Nothing here needs a display."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from isovi.data import io
from isovi.errors import InputError

DPI = 150  # on screen
SAVE_DPI = 300  # of files, as journals ask for
_EDITABLE: Any = {"svg.fonttype": "none", "pdf.fonttype": 42}  # text stays text
_MOST_LETTERS = 60  # of a name

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
    """Save the figure of the axes, whole or not at all; the suffix of the file determines the format.

    Pixels are drawn at 300 dpi; text of SVG and PDF stays text.
    """
    if save is not None:
        kind = Path(save).suffix.removeprefix(".") or mpl.rcParams["savefig.format"]
        with (
            io.replacing(save if Path(save).suffix else f"{save}.{kind}") as file,
            mpl.rc_context(_EDITABLE),
        ):
            axes[0].figure.figure.savefig(file, format=kind, dpi=SAVE_DPI, bbox_inches="tight")


def words(name: object) -> str:
    """A name from the data as text that is drawn as it is: short, on one line, and no formula."""
    text = " ".join(str(name).split())
    text = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
    text = f" {text}" if text.startswith("_") else text  # which legends leave out
    return text.replace("$", r"\$")


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
