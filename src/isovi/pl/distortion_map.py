"""Distortion of each spot, in the tissue."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.pl import _canvas, _data, _palette, _spots
from isovi.pl._canvas import AxesLike, PathLike

_COLUMNS = 4


def distortion_map(
    adata: AnnData,
    key: str = "isovi_distortion",
    *,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    cmap: str = "viridis",
    stretch_cmap: str = "coolwarm",
    img: bool = True,
    img_key: str | None = None,
    alpha: float | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> NDArray:
    """Plot where a latent space preserves the tissue's distances, and where it tears or folds the tissue.

    Parameters
    ----------
    adata
        Annotated data matrix after :func:`isovi.tl.distortion_map`; it is not changed. Spots that were not
        used are grey.
    key
        The ``key_added`` of :func:`isovi.tl.distortion_map`.
    spatial_key, section_key
        As in :func:`isovi.pl.domains`; each section gets two panels.
    cmap, stretch_cmap
        Colour maps of relative distortion and of stretch.
    img, img_key, alpha
        As in :func:`isovi.pl.domains`.
    ax
        Axes to draw on, two per section; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    Array of Axes: distortion and stretch of each section. Stretch is red if a spot is too far from the rest
    of its section in the latent space (a tear) and blue if it is too near (a fold).

    Raises
    ------
    InputError
        If the columns are missing, or `ax` has the wrong number of Axes.
    """
    distortion, stretch = (_column(adata, name) for name in (key, f"{key}_stretch"))
    parts = _spots.sections(adata, spatial_key, section_key, img=img, img_key=img_key)
    width, height = parts[0].panel_size
    axes = _canvas.panels(2 * len(parts), ax, columns=_COLUMNS, size=(width, height + 0.3))
    kinds = [
        ("relative distortion", distortion, mpl.colormaps[cmap], _data.upwards(distortion)),
        ("stretch", stretch, mpl.colormaps[stretch_cmap], _data.around(stretch, 0.0)),
    ]
    for number, part in enumerate(parts):
        for panel, (title, values, colors, ends) in zip(axes[2 * number :], kinds, strict=False):
            norm = Normalize(*ends, clip=True)
            shown = colors(norm(values[part.members]))
            shown[~np.isfinite(values[part.members])] = mpl.colors.to_rgba(_palette.MISSING)
            _spots.draw(panel, part, shown, alpha)
            panel.set_title(" · ".join(filter(None, [_canvas.words(part.name), title])), fontsize="medium")
            _bar(panel, ScalarMappable(norm, colors))
    _canvas.write(axes, save)
    return np.array(axes, dtype=object)


def _column(adata: AnnData, name: str) -> NDArray[np.float64]:
    if name not in adata.obs:
        raise InputError(
            f'obs has no column "{name}".',
            "The distortion to draw is read from obs.",
            "Run isovi.tl.distortion_map(adata) first, or pass its key_added as key.",
        )
    return adata.obs[name].to_numpy(dtype=float)


def _bar(ax: Axes, shades: ScalarMappable) -> None:
    bar = ax.figure.colorbar(shades, ax=ax, shrink=0.5, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize="small")
