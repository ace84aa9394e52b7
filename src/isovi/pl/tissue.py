"""Domains and latent dimensions in the tissue."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, to_rgba_array
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from isovi.errors import InputError
from isovi.pl import _canvas, _data, _palette, _spots
from isovi.pl._canvas import AxesLike, PathLike

_LEGEND_ROWS = 14
_PANEL_COLUMNS = 4
_COMPONENT_COLUMNS = 5
_COMPONENT_SIZE = 0.6  # of a full panel


def domains(
    adata: AnnData,
    key: str = "isovi_domain",
    *,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    img: bool = True,
    img_key: str | None = None,
    alpha: float | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot domains, or any other categories, in the tissue.

    Parameters
    ----------
    adata
        Annotated data matrix; it is not changed.
    key
        Column of ``obs`` with the categories. Spots without a label (:func:`isovi.tl.is_labelled`) are grey.
        ``uns[f"{key}_colors"]``, where present, gives the colours.
    spatial_key
        Key in ``obsm`` of the positions, shape ``(n_obs, 2)`` or ``(n_obs, 3)``; the first two are drawn, the
        second pointing down as in images.
    section_key
        Column of ``obs`` with the tissue section; each section has its own panel.
    img, img_key
        Whether the image of the tissue is drawn below the spots, and which: a key of
        ``uns["spatial"][library]["images"]``, the finest by default. With several sections, each has the
        library of its name. Data without images are drawn without.
    alpha
        Opacity of the spots; 1 by default.
    ax
        Axes to draw on, one per section; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes, or an array of them if there are several sections.

    Raises
    ------
    InputError
        If a key is missing, or `ax` has the wrong number of Axes.
    """
    found = _groups(adata, key)
    parts = _spots.sections(adata, spatial_key, section_key, img=img, img_key=img_key)
    axes = _canvas.panels(len(parts), ax, columns=_PANEL_COLUMNS, size=parts[0].panel_size)
    face = to_rgba_array(found.colors)
    for panel, part in zip(axes, parts, strict=True):
        _spots.draw(panel, part, face[found.codes[part.members]], alpha)
        panel.set_title(_canvas.words(part.name), fontsize="medium")
    _legend(axes, found, key, own_figure=ax is None)
    _canvas.write(axes, save)
    return _canvas.result(axes)


def _groups(adata: AnnData, key: str) -> _data.Groups:
    if key not in adata.obs:
        raise InputError(
            f'obs has no column "{key}" (it has: {", ".join(map(str, adata.obs)) or "none"}).',
            "The domains to draw are read from obs.",
            "Run isovi.tl.domains(adata) first, or pass another key.",
        )
    return _data.groups(adata.obs[key], adata.uns.get(f"{key}_colors", ()))


def _legend(axes: list[Axes], found: _data.Groups, key: str, *, own_figure: bool) -> None:
    handles = [Line2D([], [], marker="o", linestyle="", markersize=7, color=color) for color in found.colors]
    style = {
        "title": _canvas.words(key),
        "title_fontsize": "medium",
        "fontsize": "small",
        "frameon": False,
        "handlelength": 1,
        "handletextpad": 0.4,
        "columnspacing": 1,
        "ncols": -(-len(found.names) // _LEGEND_ROWS),
    }
    names = [_canvas.words(name) for name in found.names]
    if own_figure:
        figure = axes[0].figure.figure
        legend = figure.legend(handles, names, loc="outside right center", **style)
        figure.set_figwidth(figure.get_figwidth() + legend.get_window_extent().width / figure.dpi)
    else:
        axes[-1].legend(handles, names, loc="center left", bbox_to_anchor=(1.02, 0.5), **style)


def latent(
    adata: AnnData,
    use_rep: str = "X_isovi",
    *,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    components: list[int] | None = None,
    img: bool = True,
    img_key: str | None = None,
    alpha: float | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot each latent dimension in the tissue, one small panel each.

    Colours are centred at the median of the dimension and truncated at the 98th percentile of the distance
    from it, so that a few extreme spots do not dominate. All sections share the colours of a dimension.

    Parameters
    ----------
    adata
        Annotated data matrix; it is not changed.
    use_rep
        Key in ``obsm`` of the latent representation, shape ``(n_obs, n_latent)``.
    spatial_key, section_key
        As in :func:`domains`; if there are several sections, each has a row of panels.
    components
        Latent dimensions to draw, counted from 0; all by default.
    img, img_key, alpha
        As in :func:`domains`.
    ax
        Axes to draw on, section by section; ``None`` creates a figure.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes, or an array of shape ``(n_sections * n_components,)``.

    Raises
    ------
    InputError
        If a key or a dimension is missing, or `ax` has the wrong number of Axes.
    """
    values = _latent(adata, use_rep, components)
    parts = _spots.sections(adata, spatial_key, section_key, img=img, img_key=img_key)
    n = values.shape[1]
    columns = min(n, _COMPONENT_COLUMNS) if len(parts) == 1 else n
    width, height = (_COMPONENT_SIZE * inches for inches in parts[0].panel_size)
    axes = _canvas.panels(len(parts) * n, ax, columns=columns, size=(width, height + 0.2))
    limits = np.array([_data.around(column) for column in values.T])
    for row, part in enumerate(parts):
        for column, panel in enumerate(axes[row * n : (row + 1) * n]):
            places = (values[part.members, column] - limits[column, 0]) / np.ptp(limits[column])
            _spots.draw(panel, part, _palette.ramp("diverging", np.clip(places, 0, 1)), alpha)
            number = column if components is None else components[column]
            names = filter(None, [_canvas.words(part.name), f"Z{number + 1}"])
            panel.set_title(" · ".join(names), fontsize="small")
    if ax is None:
        _low_to_high(axes)
    _canvas.write(axes, save)
    return _canvas.result(axes)


def _latent(adata: AnnData, use_rep: str, components: list[int] | None) -> NDArray[np.float64]:
    if use_rep not in adata.obsm:
        raise InputError(
            f'obsm has no key "{use_rep}" (it has: {", ".join(map(str, adata.obsm)) or "none"}).',
            "The latent representation to draw is read from obsm.",
            f'Store model.get_latent_representation() in adata.obsm["{use_rep}"] or pass another use_rep.',
        )
    values = np.asarray(adata.obsm[use_rep], dtype=np.float64)
    chosen = range(values.shape[1]) if components is None else components
    if not chosen or not all(0 <= number < values.shape[1] for number in chosen):
        raise InputError(
            f"components={components} of {values.shape[1]}.",
            "Components are counted from 0.",
            f"Pass numbers from 0 to {values.shape[1] - 1}.",
        )
    return values[:, list(chosen)]


def _low_to_high(axes: list[Axes]) -> None:
    scale = ScalarMappable(CenteredNorm(halfrange=1), "coolwarm")
    bar = axes[0].figure.colorbar(scale, ax=axes, shrink=0.5, aspect=25, pad=0.02, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["low", "median", "high"], fontsize="small")
    bar.outline.set_visible(False)
