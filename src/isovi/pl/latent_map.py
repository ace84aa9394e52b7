"""The tissue and its latent representations in the same colours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from isovi.errors import InputError
from isovi.pl import _canvas, _data, _palette, _spots
from isovi.pl._canvas import AxesLike, PathLike


def latent_map(
    latents: Mapping[str, ArrayLike],
    coordinates: ArrayLike,
    *,
    title: str = "tissue",
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> NDArray:
    """Plot the tissue, coloured by position, and each latent representation with the same colours.

    Each latent representation is projected onto its first two principal components and then aligned with the
    tissue by rotation, reflection, a uniform scale and translation only. R² is the share of the positions'
    variance that this explains.

    Parameters
    ----------
    latents
        Latent representations by name, each of shape ``(n, n_latent)``, of the spots of one section.
    coordinates
        Positions, shape ``(n, 2)``; if there are three columns, the first two are used.
    title
        Title of the panel with the tissue.
    ax
        Axes to draw on, one for the tissue and one per latent representation; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    Array of Axes, the tissue's first.

    Raises
    ------
    InputError
        If a latent representation does not have one row per position, or `ax` has the wrong number of Axes.
    """
    positions = np.asarray(coordinates, dtype=np.float64)[:, :2]
    values = {name: np.asarray(latent, dtype=np.float64) for name, latent in latents.items()}
    require_rows(values, len(positions))
    section = _spots.Section("", np.arange(len(positions)), positions)
    width, height = section.panel_size
    n = 1 + len(values)
    axes = _canvas.panels(n, ax, columns=n, size=(0.9 * width, 0.9 * height + 0.35))
    colors = _palette.position_colors(positions)
    _spots.draw(axes[0], section, colors)
    axes[0].set_title(_canvas.words(title), fontsize="medium")
    for panel, (name, latent) in zip(axes[1:], values.items(), strict=True):
        _draw_latent(panel, section, latent, colors, name)
    _canvas.write(axes, save)
    return np.array(axes, dtype=object)


def require_rows(latents: Mapping[str, NDArray], n: int) -> None:
    """Check that all latent representations have one row per position."""
    wrong = {name: latent.shape for name, latent in latents.items() if latent.ndim != 2 or len(latent) != n}
    if wrong or not latents:
        raise InputError(
            f"Latent representations have the shapes {wrong}." if wrong else "No latent representation.",
            f"Each latent representation must have one row for each of the {n} positions.",
            "Pass the latent representation of the same spots.",
        )


def _draw_latent(ax: Axes, section: _spots.Section, latent: NDArray, colors: NDArray, name: str) -> None:
    placed, explained = _data.onto_tissue(latent, section.positions)
    n = len(placed)
    size = float(np.clip(18_000 / n, 2, 40))
    ax.scatter(placed[:, 0], placed[:, 1], c=colors, s=size, linewidths=0, rasterized=n > 5_000)
    ax.set_title(f"{_canvas.words(name)}   R² = {explained:.2f}", fontsize="medium")
    ax.set_axis_off()
    ax.set_aspect("equal", adjustable="datalim")
    ax.invert_yaxis()
