"""Where spots are: the one record of positions in coordinate units, and the only place where it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from isovi._shapes import CellIndexArray, CoordinateArray

SPLIT_KEY = "isovi_split"  # column of obs with the split of a run
TRAIN, VALIDATION, HELDOUT = "train", "validation", "heldout"


@dataclass(frozen=True, eq=False)
class Spots:
    """Positions of spots in coordinate units, with their section, unit, split and row.

    Each section is centred and divided by one number, its unit: the median distance to the nearest
    neighbour over *all* spots of the section that have a position. Which of them are held out, shown or
    sampled changes neither the unit nor the centre, so a length means the same in fit, plot, report and
    placement.

    Parameters
    ----------
    coordinates
        Coordinates, shape ``(cell, axis)``, float64. NaN where a spot has no position.
    section
        Section code of each spot, shape ``(cell,)``; one section by default.
    sections
        Names that the section codes index.
    unit
        Length of one coordinate unit of each section in the units of the positions, shape ``(section,)``.
    centre
        Position of each section's origin, shape ``(section, axis)``.
    split
        ``"train"``, ``"validation"``, ``"heldout"``, or ``""`` where it is not known, shape ``(cell,)``.
    row
        Row of each spot in the AnnData that it was read from, shape ``(cell,)``.
    """

    coordinates: CoordinateArray
    section: CellIndexArray = None  # type: ignore[assignment]  # this and the next: filled in below
    sections: tuple[str, ...] = ()
    unit: np.ndarray = None  # type: ignore[assignment]
    centre: np.ndarray = None  # type: ignore[assignment]
    split: np.ndarray = None  # type: ignore[assignment]
    row: CellIndexArray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n_obs, n_axes = self.coordinates.shape
        section = np.zeros(n_obs, dtype=np.int64) if self.section is None else self.section
        names = self.sections or tuple(map(str, range(int(section.max(initial=0)) + 1)))
        default: dict[str, Any] = {
            "section": section,
            "sections": names,
            "unit": np.ones(len(names)),
            "centre": np.zeros((len(names), n_axes)),
            "split": np.full(n_obs, "", dtype="<U10"),
            "row": np.arange(n_obs),
        }
        for name, value in default.items():
            if getattr(self, name) is None or name == "sections":
                object.__setattr__(self, name, value)

    @classmethod
    def at(
        cls,
        positions: CoordinateArray,
        section: CellIndexArray | None = None,
        sections: Sequence[str] = (),
        *,
        units: Mapping[str, float] | None = None,
        split: ArrayLike | None = None,
    ) -> Spots:
        """Spots at these positions.

        Parameters
        ----------
        positions
            In any isotropic unit, shape ``(cell, axis)``. NaN where a spot has no position.
        section, sections, split
            See the class.
        units
            Units of sections by name that are kept, such as those that a model was trained with.
        """
        given = {} if section is None else {"section": section}
        found = cls(np.asarray(positions, dtype=np.float64), sections=tuple(map(str, sections)), **given)
        n_sections, n_axes = len(found.sections), found.coordinates.shape[1]
        unit, centre = np.full(n_sections, np.nan), np.full((n_sections, n_axes), np.nan)
        placed = found.placed
        for code, name in enumerate(found.sections):
            here = found.coordinates[(found.section == code) & placed]
            unit[code] = (units or {}).get(name, np.nan)  # kept where the section has no position here
            if len(here):
                unit[code] = spacing(here) if np.isnan(unit[code]) else unit[code]
                centre[code] = [math.fsum(axis) / len(here) for axis in here.T]  # the same in any order
        coordinates = (found.coordinates - centre[found.section]) / unit[found.section, None]
        split = found.split if split is None else np.asarray(split).astype("<U10")
        return replace(found, coordinates=coordinates, unit=unit, centre=centre, split=split)

    def __len__(self) -> int:
        return len(self.section)

    @property
    def placed(self) -> np.ndarray:
        """Mask of the spots that have a position, shape ``(cell,)``."""
        return np.isfinite(self.coordinates).all(axis=1)

    @property
    def units(self) -> dict[str, float]:
        """Unit of each section by name."""
        return dict(zip(self.sections, map(float, self.unit), strict=True))

    @property
    def positions(self) -> CoordinateArray:
        """Positions in the units that they were given in, shape ``(cell, axis)``."""
        return self.to_positions(self.coordinates, self.section)

    def to_positions(self, coordinates: CoordinateArray, section: CellIndexArray) -> CoordinateArray:
        """Positions, in the units that these spots' were given in, of any coordinates of these sections."""
        return coordinates * self.unit[section, None] + self.centre[section]

    def take(self, rows: ArrayLike) -> Spots:
        """The spots of these rows or of this mask, in the same units."""
        parts = ("coordinates", "section", "split", "row")
        return replace(self, **{name: getattr(self, name)[np.asarray(rows)] for name in parts})

    def without_positions(self, rows: ArrayLike) -> Spots:
        """All spots, of which those of these rows or of this mask have no position: they form no pairs."""
        coordinates = self.coordinates.copy()
        coordinates[np.asarray(rows)] = np.nan
        return replace(self, coordinates=coordinates)

    def rows(self, part: str) -> CellIndexArray:
        """Indices of the spots of one part of the split."""
        return np.flatnonzero(self.split == part)

    def subsets(self) -> dict[str, CellIndexArray]:
        """Indices of the spots on which metrics are reported: training, held-out (if any), and all."""
        found = {TRAIN: self.rows(TRAIN), HELDOUT: self.rows(HELDOUT), "all": np.arange(len(self))}
        return {name: rows for name, rows in found.items() if len(rows)}


def spacing(positions: CoordinateArray) -> float:
    """Median distance to the nearest neighbour at another place; NaN if there is none."""
    places = np.unique(positions, axis=0)
    if len(places) < 2:
        return float("nan")
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))
