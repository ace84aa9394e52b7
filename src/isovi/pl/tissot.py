"""Tissot ellipses, in the tissue and in a 2-D projection of the latent space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from numpy.typing import ArrayLike, NDArray

from isovi.errors import InputError
from isovi.geometry.tissot import TissotEllipses, ellipses_of, tissot_ellipses
from isovi.pl import _canvas, _data, _palette, _spots
from isovi.pl._canvas import AxesLike, PathLike
from isovi.pl.latent_map import require_rows

Basis = Literal["spatial", "latent"]

_RASTER_ABOVE = 5_000  # spots; beyond that vector files would be huge
_PANEL_COLUMNS = 4
_BAR_WIDTH = 0.7  # inches
_OPACITY = 0.75


def tissot(
    adata: AnnData,
    key: str = "isovi_tissot",
    *,
    basis: Basis = "spatial",
    color: str | None = None,
    max_ellipses: int | None = None,
    img: bool = True,
    img_key: str | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot the Tissot ellipses computed by :func:`isovi.tl.tissot`.

    In the tissue, the long axis of an ellipse is the direction in which the latent representation changes
    fastest, and its size is the amount of change. In the latent space, an ellipse is the image of a small
    circle around the spot. All ellipses of a panel are scaled by one factor that gives the median ellipse the
    size of a spot. In a distance-preserving latent space, the ellipses are equal circles.

    Parameters
    ----------
    adata
        Annotated data matrix; it is not changed. The latent representation, positions and sections are those
        in ``uns[key]["params"]``.
    key
        The ``key_added`` of :func:`isovi.tl.tissot`.
    basis
        ``"spatial"``: at the spots in the tissue. ``"latent"``: in the first two principal components of the
        latent representation, aligned with the tissue as in :func:`latent_map`.
    color
        Numeric column of ``obs``; the anisotropy by default, in colours that are the same in every plot:
        from 1, round, to 4, stretched or torn.
    max_ellipses
        Maximum number of ellipses per panel, evenly distributed; by default 1000 in the tissue, and 250 in
        the latent space, where they overlap.
    img, img_key
        As in :func:`isovi.pl.domains`; in the latent space there is no image.
    ax
        Axes to draw on, one per section; ``None`` creates a figure with a colour bar.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes, or an array of them if there are several sections.

    Raises
    ------
    InputError
        If ellipses or a column are missing, an argument is out of range, or `ax` has the wrong number of
        Axes.
    """
    n_shown = _most(basis, max_ellipses)
    parameters, ellipses = _stored(adata, key)
    keys = parameters["spatial_key"], parameters.get("section_key")
    parts = _spots.sections(adata, *keys, img=img and basis == "spatial", img_key=img_key)
    values, shades = _shades(adata, color, ellipses)
    axes = _panels(len(parts), ax, parts[0], title=0.2)
    for panel, part in zip(axes, parts, strict=True):
        rows = part.members
        latent = np.asarray(adata.obsm[parameters["use_rep"]], dtype=np.float64)[rows]
        view = _data.ellipse_view(_subset(ellipses, rows), part.positions, latent, basis, n_shown)
        _draw(panel, view, shades.to_rgba(values[rows]))
        _spots.under(panel, part)
        _spots.say_drawn(panel, part)
        if basis == "spatial":
            _spots.scale_bar(panel, part)
        panel.set_title(_canvas.words(part.name), fontsize="medium")
    if ax is None:
        _bar(axes, shades, color)
    _canvas.write(axes, save)
    return _canvas.result(axes)


def tissot_latents(
    latents: Mapping[str, ArrayLike],
    coordinates: ArrayLike,
    *,
    basis: Basis = "latent",
    n_neighbors: int = 12,
    max_ellipses: int | None = None,
    ax: AxesLike | None = None,
    save: PathLike | None = None,
) -> Axes | NDArray:
    """Plot the Tissot ellipses of several latent representations side by side (Zhou & Du 2024, Fig. 4).

    Parameters
    ----------
    latents
        Latent representations by name, each of shape ``(n, n_latent)``, of the spots of one section.
    coordinates
        Positions, shape ``(n, 2)`` or ``(n, 3)``, in any isotropic unit; the first two columns are drawn.
    basis, max_ellipses
        As in :func:`tissot`.
    n_neighbors
        As in :func:`isovi.tl.tissot`.
    ax
        Axes to draw on, one per latent representation; ``None`` creates a figure with a colour bar.
    save
        File to write; its suffix determines the format.

    Returns
    -------
    The Axes, or an array of them if there are several. Titles give the median anisotropy.

    Raises
    ------
    InputError
        If a latent representation does not have one row per position, an argument is out of range, or `ax`
        has the wrong number of Axes.
    """
    n_shown = _most(basis, max_ellipses)
    positions = np.asarray(coordinates, dtype=np.float64)
    values = {name: np.asarray(latent, dtype=np.float64) for name, latent in latents.items()}
    require_rows(values, len(positions))
    section = _spots.Section("", np.arange(len(positions)), positions[:, :2])
    axes = _panels(len(values), ax, section, title=0.4)
    shades = ScalarMappable(*_anisotropy_colors())
    for panel, (name, latent) in zip(axes, values.items(), strict=True):
        ellipses = tissot_ellipses(latent, positions, np.zeros(len(positions), dtype=np.int64), n_neighbors)
        view = _data.ellipse_view(ellipses, positions[:, :2], latent, basis, n_shown)
        _draw(panel, view, shades.to_rgba(ellipses.anisotropy))
        title = f"{_canvas.words(name)}\nmedian anisotropy {_median(ellipses):.2f}"
        panel.set_title(title, fontsize="medium")
    if ax is None:
        _bar(axes, shades, None)
    _canvas.write(axes, save)
    return _canvas.result(axes)


# ---------------------------------------------------------------------------- what is drawn


def _subset(ellipses: TissotEllipses, rows: NDArray) -> TissotEllipses:
    return TissotEllipses(ellipses.jacobian[rows], ellipses.half_axes[rows], ellipses.directions[rows])


def _median(ellipses: TissotEllipses) -> float:
    known = ellipses.anisotropy[~np.isnan(ellipses.anisotropy)]
    return float(np.median(known)) if len(known) else float("nan")


# ---------------------------------------------------------------------------- drawing


def _panels(n: int, ax: AxesLike | None, section: _spots.Section, *, title: float) -> list[Axes]:
    """Panels in the proportions of a section, with space for titles and the colour bar, in inches."""
    width, height = section.panel_size
    columns = min(n, _PANEL_COLUMNS)
    return _canvas.panels(n, ax, columns=columns, size=(width + _BAR_WIDTH / columns, height + title))


def _draw(ax: Axes, view: _data.EllipseView, colors: NDArray) -> None:
    _dots(ax, view.positions)
    if len(view.rows):
        centres = view.positions[view.rows]
        _outline(ax, centres, view.half_axes, view.angle, colors[view.rows])
        ax.update_datalim(_corners(centres, view.half_axes))
    ax.margins(0.02)
    ax.autoscale_view()
    ax.set_aspect("equal", adjustable="datalim")
    ax.yaxis.set_inverted(True)  # as in images
    ax.set_axis_off()


def _corners(positions: NDArray, half_axes: NDArray) -> NDArray[np.float64]:
    """Points whose bounding box contains all ellipses."""
    reach = half_axes[:, :1]
    return np.concatenate([positions - reach, positions + reach])


def _dots(ax: Axes, positions: NDArray) -> None:
    size = float(np.clip(6_000 / max(len(positions), 1), 0.5, 6))
    ax.scatter(
        positions[:, 0],
        positions[:, 1],
        s=size,
        color=_palette.MISSING,
        linewidths=0,
        rasterized=len(positions) > _RASTER_ABOVE,
    )


def _outline(ax: Axes, positions: NDArray, half_axes: NDArray, angle: NDArray, colors: NDArray) -> None:
    ax.add_collection(
        EllipseCollection(
            2 * half_axes[:, 0],
            2 * half_axes[:, 1],
            np.rad2deg(angle),
            units="xy",
            offsets=positions,
            offset_transform=ax.transData,
            facecolors=colors * [1, 1, 1, _OPACITY],
            edgecolors=colors * [0.8, 0.8, 0.8, 1],
            linewidths=0.4,
        )
    )


def _anisotropy_colors() -> tuple[Normalize, Colormap]:
    colors = ListedColormap(_palette.ramp("anisotropy", np.linspace(0, 1, 256)))
    return LogNorm(*_data.ANISOTROPY, clip=True), colors


def _shades(adata: AnnData, color: str | None, ellipses: TissotEllipses) -> tuple[NDArray, ScalarMappable]:
    """Values of the spots, and their colour map."""
    if color is None:
        return ellipses.anisotropy, ScalarMappable(*_anisotropy_colors())
    if color not in adata.obs or adata.obs[color].dtype.kind not in "iuf":
        raise InputError(
            f'obs has no numeric column "{color}" (it has: {", ".join(map(str, adata.obs)) or "none"}).',
            "Ellipses are coloured by a numeric column.",
            "Use a numeric column, or omit color to show the anisotropy.",
        )
    values = adata.obs[color].to_numpy(dtype=np.float64)
    return values, ScalarMappable(Normalize(*_data.between(values)), "viridis")


def _bar(axes: list[Axes], shades: ScalarMappable, color: str | None) -> None:
    beyond = "max" if color is None else "both"  # no anisotropy is below one
    bar = axes[0].figure.colorbar(
        shades, ax=axes, fraction=0.05, shrink=0.5, aspect=25, pad=0.02, extend=beyond
    )
    if color is None:
        ticks = _data.ANISOTROPIES
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
        bar.minorticks_off()
    bar.set_label(_canvas.words(color) if color else "anisotropy (1 = round)", fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_visible(False)


# ---------------------------------------------------------------------------- checks


def _stored(adata: AnnData, key: str) -> tuple[Mapping[str, str], TissotEllipses]:
    """Parameters of the ellipses, and the ellipses."""
    if key not in adata.uns or f"{key}_jacobian" not in adata.obsm:
        raise InputError(
            f'The data has no ellipses "{key}" (uns has: {", ".join(map(str, adata.uns)) or "nothing"}).',
            "Ellipses must be computed before they are drawn.",
            "Run isovi.tl.tissot(adata) first, or pass another key.",
        )
    parameters = adata.uns[key]["params"]
    flat = np.asarray(adata.obsm[f"{key}_jacobian"], dtype=np.float64)
    n_axes = adata.obsm[parameters["spatial_key"]].shape[1]
    return parameters, ellipses_of(flat.reshape(len(flat), -1, n_axes))


def _most(basis: str, max_ellipses: int | None) -> int:
    if basis not in _data.N_ELLIPSES or (max_ellipses is not None and max_ellipses < 1):
        raise InputError(
            f"basis={basis!r} and max_ellipses={max_ellipses}.",
            'basis must be "spatial" or "latent", and max_ellipses at least 1.',
            'Use for example basis="spatial" and max_ellipses=1000.',
        )
    return max_ellipses or _data.N_ELLIPSES[basis]
