"""Distortion of each spot, in tissue."""

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
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> NDArray:
    """Draw where a latent keeps the tissue's distances, and where it tears or folds the tissue.

    Parameters
    ----------
    adata
        Annotated data after :func:`isovi.tl.distortion_map`; nothing in it is changed. Spots that took no
        part are grey.
    key
        The ``key_added`` it was given.
    spatial_key, section_key
        As in :func:`isovi.pl.domains`; each section gets two panels.
    cmap, stretch_cmap
        Colour maps of relative distortion and of stretch.
    ax
        Axes to draw on, two for each section; ``None`` makes a figure.
    save
        File to write, in the format that its name ends in.

    Returns
    -------
    Array of Axes: distortion and stretch of each section. Stretch is red where the latent holds a spot too
    far from the rest of its section (a tear) and blue where too near (a fold).

    Raises
    ------
    InputError
        If the columns are missing, or `ax` does not fit.
    """
    distortion, stretch = (_column(adata, name) for name in (key, f"{key}_stretch"))
    parts = _spots.sections(adata, spatial_key, section_key)
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
            _spots.draw(panel, part, shown)
            panel.set_title(" · ".join(filter(None, [part.name, title])), fontsize="medium")
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
