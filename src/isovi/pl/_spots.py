"""Spots drawn in the tissue at their true spacing, one panel per section."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from isovi.data import check

_RASTER_ABOVE = 5_000  # spots; with more, vector files would be huge
_FILL = 0.97  # diameter of a spot as a share of the spacing
_LEAST_FILL = 0.65  # the same for evenly distributed spots, so that cells in clusters stay visible
_WIDTH, _HEIGHTS = 3.6, (1.8, 5.4)  # width, and range of heights, of a panel in inches


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
        """Diameter at which neighbouring spots nearly touch, from the distances to the four nearest."""
        n = len(self.positions)
        if n < 2:
            return 1.0
        near = cKDTree(self.positions).query(self.positions, min(5, n))[0][:, 1:]
        even = np.sqrt(np.ptp(self.positions, axis=0).prod() / n)
        return float(max(_FILL * np.median(near), _LEAST_FILL * even)) or 1.0

    @property
    def panel_size(self) -> tuple[float, float]:
        """Width and height of a panel in inches, in the proportions of the section."""
        width, height = np.ptp(self.positions, axis=0) + self.diameter
        return _WIDTH, float(np.clip(_WIDTH * height / width, *_HEIGHTS))


def sections(adata: AnnData, spatial_key: str, section_key: str | None) -> list[Section]:
    """Sections of the data, in the order of their categories."""
    positions = check.coordinates(adata, spatial_key)[:, :2]
    if section_key is None:
        return [Section("", np.arange(adata.n_obs), positions)]
    codes = check.categories(adata, section_key, role="section")
    names = pd.Categorical(adata.obs[section_key]).remove_unused_categories().categories
    members = [np.flatnonzero(codes == code) for code in range(len(names))]
    return [Section(str(name), m, positions[m]) for name, m in zip(names, members, strict=True)]


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
