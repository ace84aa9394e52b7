"""Training history."""

from __future__ import annotations

from matplotlib.axes import Axes
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.pl import _canvas, _data, _palette
from isovi.pl._canvas import AxesLike, PathLike
from isovi.pl._data import History


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
        ``model.history_``, a table for each quantity, or ``run.history``, a column for each; the index is the
        epoch, from 0. Panels without any quantity are left out: the plain backbone has no distortion.
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
    found = _data.courses(history, target)
    if not found:
        raise InputError(
            f"The history has the quantities: {', '.join(history) or 'none'}.",
            "At least one of ELBO loss, relative distortion, multiplier and distance scale is needed.",
            "Pass model.history_ of a trained model, or run.history.",
        )
    axes = _canvas.panels(len(found), ax, columns=3, size=(3.4, 2.6))
    for panel, course in zip(axes, found.values(), strict=True):
        _draw(panel, course)
    _canvas.write(axes, save)
    return _canvas.result(axes)


def _draw(ax: Axes, course: _data.Course) -> None:
    for number, curve in enumerate(course.curves):
        first = curve.name not in [earlier.name for earlier in course.curves[:number]]
        label = curve.name if first else None
        ax.plot(curve.x, curve.y, color=_palette.LINES[curve.name], linewidth=1.4, label=label)
    if course.target is not None:
        ax.axhline(course.target, color="0.3", linestyle="--", linewidth=1, label=f"target {course.target:g}")
    ax.set_yscale("log" if course.log else "linear")
    ax.set(xlim=course.x_range, ylim=course.y_range, xlabel="epoch", ylabel=course.unit)
    _canvas.set_ticks(ax.xaxis, course.x_ticks)
    _canvas.set_ticks(ax.yaxis, course.y_ticks)
    ax.set_title(course.title, fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    _canvas.plain(ax)
