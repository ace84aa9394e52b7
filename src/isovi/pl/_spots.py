"""Spots drawn in the tissue at their true spacing, one panel per section."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from numpy.typing import NDArray

from isovi.data import check
from isovi.pl import _data

_RASTER_ABOVE = 5_000  # spots; beyond that vector files would be huge
_WIDTH, _HEIGHTS = 3.6, (1.8, 5.4)  # inches of a panel


@dataclass(frozen=True)
class Section:
    """Spots of one section.

    Attributes
    ----------
    name
        Name of the section, empty if there is only one.
    members
        Indices of its spots, shape ``(n,)``.
    positions
        Their first two coordinates, shape ``(n, 2)``.
    """

    name: str
    members: NDArray[np.intp]
    positions: NDArray[np.float64]

    @cached_property
    def diameter(self) -> float:
        """Size at which neighbouring spots nearly touch."""
        return _data.diameter(self.positions)

    @property
    def panel_size(self) -> tuple[float, float]:
        """Width and height of a panel in inches, in the proportions of the section."""
        width, height = np.ptp(self.positions, axis=0) + self.diameter
        return _WIDTH, float(np.clip(_WIDTH * height / width, *_HEIGHTS))


def sections(adata: AnnData, spatial_key: str, section_key: str | None) -> list[Section]:
    """Sections of the data, in the order of their categories."""
    spots = check.spots(adata, spatial_key, section_key)
    at_one_place = ~spots.placed[:, None]  # a section without any distance has no unit, but a centre
    positions = np.where(at_one_place, spots.centre[spots.section], spots.positions)[:, :2]
    members = [np.flatnonzero(spots.section == code) for code in range(len(spots.sections))]
    names = [""] if section_key is None else spots.sections
    return [Section(name, m, positions[m]) for name, m in zip(names, members, strict=True)]


def draw(ax: Axes, section: Section, colors: NDArray) -> None:
    """Draw the spots of a section as circles in data units, with colours of shape ``(n, 3 or 4)``."""
    size, n = section.diameter, len(section.positions)
    spots = EllipseCollection(
        np.full(n, size),
        np.full(n, size),
        np.zeros(n),
        units="x",
        offsets=section.positions,
        offset_transform=ax.transData,
        facecolors=colors,
        linewidths=0,
        rasterized=n > _RASTER_ABOVE,
    )
    ax.add_collection(spots, autolim=False)
    _frame(ax, section)


def _frame(ax: Axes, section: Section) -> None:
    low = section.positions.min(axis=0) - section.diameter
    high = section.positions.max(axis=0) + section.diameter
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", anchor="N")
    ax.set_axis_off()
