"""Training history."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.pl import _canvas, _palette
from isovi.pl._canvas import AxesLike, PathLike

History = Mapping[str, pd.DataFrame]

_TRAIN, _VALIDATION, _THIRD = _palette.CATEGORICAL[0], _palette.CATEGORICAL[5], _palette.CATEGORICAL[2]


def history(
    history: History,
    *,
    target: float | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot the training history of a model: ELBO loss, relative distortion, multiplier and scale λ.

    Parameters
    ----------
    history
        ``model.history_``: one table per quantity, with the epoch as index. Panels of missing quantities (the
        plain backbone has no distortion) are omitted.
    target
        Target of the relative distortion, drawn as a line.
    ax
        Axes to draw on, one per panel; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes, or an array of them.

    Raises
    ------
    InputError
        If there is no known quantity, or `ax` has the wrong number of Axes.
    """
    drawn = [panel for panel, keys in _PANELS.items() if any(_has(history, key) for key in keys)]
    if not drawn:
        raise InputError(
            f"The history has the quantities: {', '.join(history) or 'none'}.",
            "At least one of ELBO loss, relative distortion, multiplier and distance scale is needed.",
            "Pass model.history_ of a trained model.",
        )
    axes = _canvas.panels(len(drawn), ax, columns=3, size=(3.4, 2.6))
    for panel, draw in zip(axes, drawn, strict=True):
        draw(panel, history, target)
        _canvas.plain(panel)
        panel.set_xlabel("epoch")
        panel.legend(frameon=False, fontsize="small")
    _canvas.write(axes, save)
    return _canvas.result(axes)


def _has(history: History, key: str) -> bool:
    return key in history and not _series(history, key).empty


def _series(history: History, key: str) -> pd.DataFrame:
    """Finite values of a quantity by epoch, one column or more."""
    return pd.DataFrame(history[key]).astype(float).replace([np.inf, -np.inf], np.nan).dropna(how="all")


def _line(ax: Axes, history: History, key: str, label: str, color: str, *, positive: bool = False) -> None:
    if not _has(history, key):
        return
    values = _series(history, key)
    for i, (_, column) in enumerate(values.items()):
        shown = column.where(column > 0) if positive else column
        ax.plot(shown.index, shown, color=color, linewidth=1.4, label=label if i == 0 else None)


def _draw_elbo(ax: Axes, history: History, _: float | None) -> None:
    _line(ax, history, "elbo_train", "training", _TRAIN)
    _line(ax, history, "elbo_validation", "validation", _VALIDATION)
    _zoom(ax)
    ax.set_title("ELBO loss", fontsize="medium")
    ax.set_ylabel("nats per spot")


def _zoom(ax: Axes) -> None:
    """Limit the y axis to the range after the first, steep epochs."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines()]
    if all(len(values) < 10 for values in lines):
        return
    late = np.concatenate([values[len(values) // 20 :] for values in lines])
    low, high = np.nanmin(late), np.nanmax(late)
    ax.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))


def _draw_distortion(ax: Axes, history: History, target: float | None) -> None:
    _line(ax, history, "relative_distortion_train", "training", _TRAIN)
    _line(ax, history, "relative_distortion_validation", "validation", _VALIDATION)
    if target is not None:
        ax.axhline(target, color="0.3", linestyle="--", linewidth=1, label=f"target {target:g}")
    ax.set_ylim(bottom=0)
    ax.set_title("relative distortion", fontsize="medium")


def _draw_scales(ax: Axes, history: History, _: float | None) -> None:
    _line(ax, history, "multiplier_train", "multiplier", _THIRD, positive=True)
    _line(ax, history, "distance_scale_train", "scale λ", _TRAIN, positive=True)
    ax.set_yscale("log")
    ax.set_title("multiplier and scale λ", fontsize="medium")


_PANELS: dict[Callable[[Axes, History, float | None], None], tuple[str, ...]] = {
    _draw_elbo: ("elbo_train", "elbo_validation"),
    _draw_distortion: ("relative_distortion_train", "relative_distortion_validation"),
    _draw_scales: ("multiplier_train", "distance_scale_train"),
}
