"""Spots drawn in the tissue at their true spacing, one panel per section."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from numpy.typing import NDArray

from isovi.data import check
from isovi.pl import _data, _image
from isovi.pl._image import Picture

_RASTER_ABOVE = 5_000  # spots; beyond that vector files would be huge
_WIDTH, _HEIGHTS = 3.6, (1.8, 5.4)  # inches of a panel
N_DRAWN = 200_000  # spots of a figure at most, spread evenly: more of them share a pixel


@dataclass(frozen=True)
class Section:
    """Spots of one section.

    Attributes
    ----------
    name
        Name of the section, empty if there is only one.
    members
        Indices of its spots that are drawn, shape ``(n,)``.
    positions
        Their first two coordinates, shape ``(n, 2)``.
    picture
        Image of the tissue, if there is one to draw.
    microns
        Micrometres per unit of the positions, if that is known.
    n_spots
        Number of all its spots; those in ``members`` if it is not given.
    """

    name: str
    members: NDArray[np.intp]
    positions: NDArray[np.float64]
    picture: Picture | None = None
    microns: float | None = None
    n_spots: int | None = None

    @cached_property
    def diameter(self) -> float:
        """Size at which neighbouring spots nearly touch."""
        return _data.diameter(self.positions)

    @property
    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Limits of the axes, from corner to corner."""
        low, high = self.positions.min(axis=0), self.positions.max(axis=0)
        return low - self.diameter, high + self.diameter

    @property
    def panel_size(self) -> tuple[float, float]:
        """Width and height of a panel in inches, in the proportions of the section."""
        width, height = np.ptp(self.positions, axis=0) + self.diameter
        return _WIDTH, float(np.clip(_WIDTH * height / width, *_HEIGHTS))


def sections(
    adata: AnnData,
    spatial_key: str,
    section_key: str | None,
    *,
    img: bool = False,
    img_key: str | None = None,
) -> list[Section]:
    """Sections of the data, in the order of their categories, with their images if these are wanted.

    Of more than 200,000 spots, so many are drawn, and said to be.
    """
    spots = check.spots(adata, spatial_key, section_key)
    at_one_place = ~spots.placed[:, None]  # a section without any distance has no unit, but a centre
    positions = np.where(at_one_place, spots.centre[spots.section], spots.positions)[:, :2]
    found, alone = [], len(spots.sections) == 1
    drawn = _data.spread(positions, spots.section, N_DRAWN)
    n_spots = np.bincount(spots.section, minlength=len(spots.sections))
    for code, section in enumerate(spots.sections):
        members = drawn[spots.section[drawn] == code]
        picture = _image.picture(adata, section, alone=alone, key=img_key) if img else None
        microns = _image.microns(adata, float(spots.unit[code]), section, alone=alone)
        name = "" if section_key is None else section
        found.append(Section(name, members, positions[members], picture, microns, int(n_spots[code])))
    return found


def draw(ax: Axes, section: Section, colors: NDArray, alpha: float | None = None) -> None:
    """Draw the spots of a section as circles in data units, with colours of shape ``(n, 3 or 4)``.

    The image of the section is below them, and a scale bar where the unit is known.
    """
    under(ax, section)
    spots = EllipseCollection(
        [section.diameter],  # of all
        [section.diameter],
        [0.0],
        units="x",
        offsets=section.positions,
        offset_transform=ax.transData,
        facecolors=colors,
        linewidths=0,
        rasterized=len(section.positions) > _RASTER_ABOVE,
        alpha=alpha,
    )
    ax.add_collection(spots, autolim=False)
    _frame(ax, section)


def under(ax: Axes, section: Section) -> None:
    """Draw the image of a section, if it has one, below all else; the limits of the axes stay."""
    if section.picture is None or not section.picture.shows(*section.corners):
        return
    part, extent = section.picture.cropped(*section.corners)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(part, extent=extent, interpolation="antialiased", zorder=0, aspect=ax.get_aspect())
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.set_aspect("equal", adjustable="box")  # these limits are kept


def _frame(ax: Axes, section: Section) -> None:
    low, high = section.corners
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", anchor="N")
    ax.set_axis_off()
    scale_bar(ax, section)
    say_drawn(ax, section)


def say_drawn(ax: Axes, section: Section) -> None:
    """How many of the spots are drawn, below them, unless all are."""
    n_drawn, n_spots = len(section.members), section.n_spots or 0
    if n_drawn < n_spots:
        style: Any = {"transform": ax.transAxes, "color": "0.2", "fontsize": "x-small"}
        ax.text(1, -0.03, f"{n_drawn:,} of {n_spots:,} spots drawn", ha="right", va="top", **style)


def scale_bar(ax: Axes, section: Section) -> None:
    """A bar of a round number of micrometres below the spots, where the unit is known."""
    if section.microns is None:
        return
    low, high = section.corners
    length, words = _image.bar(float(high[0] - low[0]), section.microns)
    style: Any = {"transform": ax.get_xaxis_transform(), "clip_on": False, "color": "0.2"}
    ax.plot([low[0], low[0] + length], [-0.015, -0.015], linewidth=1.6, solid_capstyle="butt", **style)
    middle = low[0] + length / 2
    ax.text(middle, -0.03, words, ha="center", va="top", fontsize="x-small", **style)
