"""Shepard plot: latent against tissue distances."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from numpy.typing import ArrayLike, NDArray

from isovi.errors import InputError
from isovi.pl import _canvas, _data, _palette
from isovi.pl._canvas import AxesLike, PathLike

_GREYS = LinearSegmentedColormap.from_list("density", ["#FFFFFF", "#C9D3E0", "#6F8FB5", "#1F3A63"])


def shepard(
    latent_distance: ArrayLike | Mapping[str, ArrayLike],
    tissue_distance: ArrayLike | Mapping[str, ArrayLike],
    scale: float = 1.0,
    *,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot the density of latent distance d_Z against scaled tissue distance λ d_S.

    In a distance-preserving latent space the pairs lie on the diagonal. The line is the median of d_Z at each
    λ d_S; the band contains the middle 80 % of pairs.

    Parameters
    ----------
    latent_distance
        d_Z of each pair, shape ``(n_pairs,)``, or several such arrays by name, e.g. ``{"training": ...,
        "held out": ...}``: one panel each, with the same limits.
    tissue_distance
        d_S of the same pairs, in coordinate units.
    scale
        λ, latent length per coordinate unit. If each section has its own, pass tissue distances that are
        already multiplied by it, and 1.
    ax
        Axes to draw on, one per set of pairs; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes, or an array of them if there are several sets.

    Raises
    ------
    InputError
        If the distances are not for the same pairs, there are no pairs, or `ax` has the wrong number of Axes.
    """
    latent, tissue = _named(latent_distance), _named(tissue_distance)
    _require_same_pairs(latent, tissue)
    scaled = {name: scale * values for name, values in tissue.items()}
    axes = _canvas.panels(len(latent), ax, columns=len(latent), size=(3.5, 3.4))
    for panel, found in zip(axes, _data.densities(latent, scaled), strict=True):
        _draw(panel, found)
        panel.set_title(_canvas.words(found.name), fontsize="medium")
    axes[0].set_ylabel("latent distance $d_Z$")
    axes[-1].legend(frameon=False, fontsize="small", loc="upper left")
    _canvas.write(axes, save)
    return _canvas.result(axes)


def _named(distance: ArrayLike | Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    by_name = distance if isinstance(distance, Mapping) else {"": distance}
    return {name: np.asarray(values, dtype=np.float64).ravel() for name, values in by_name.items()}


def _require_same_pairs(latent: Mapping[str, NDArray], tissue: Mapping[str, NDArray]) -> None:
    sizes = [{name: len(values) for name, values in sets.items()} for sets in (latent, tissue)]
    if not sizes[0] or sizes[0] != sizes[1] or 0 in sizes[0].values():
        raise InputError(
            f"Numbers of pairs: {sizes[0]} in the latent space and {sizes[1]} in the tissue.",
            "Both distances are needed for the same pairs, at least one.",
            "Compute both from the same source and target spots.",
        )


def _draw(ax: Axes, found: _data.Density) -> None:
    limit = found.limit
    extent = (0, limit, 0, limit)
    shown = np.ma.masked_equal(found.counts, 0)
    ax.imshow(shown, cmap=_GREYS, norm=PowerNorm(0.5, vmin=0), origin="lower", extent=extent)
    ax.plot([0, limit], [0, limit], color="0.15", linestyle="--", linewidth=1, label=r"$d_Z = \lambda d_S$")
    band, color = (found.middle, found.low, found.high), _palette.HELDOUT
    ax.fill_between(*band, color=color, alpha=0.14, linewidth=0.8, label="10–90 %")
    ax.plot(found.middle, found.median, color=color, linewidth=1.8, label="median")
    ax.set(xlim=(0, limit), ylim=(0, limit), aspect="equal", xlabel=r"tissue distance $\lambda d_S$")
    _canvas.set_ticks(ax.xaxis, found.ticks)
    _canvas.set_ticks(ax.yaxis, found.ticks)
    _canvas.plain(ax)
