"""Tissot ellipses: the images of a small circle around each spot under the map from tissue to latent space.

Near a spot the map is approximated by a linear one, J, from local linear regression of the latent
representation on the coordinates. Its singular values are the half axes of the image of a unit circle: all
equal if the map preserves angles, all one if it preserves distances. (Zhou & Du 2024, Fig. 4, show such
ellipses; the name is from cartography.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from isovi._repr import ReprMixin, Rows
from isovi._shapes import CellFloatArray, CellIndexArray, CoordinateArray, LatentArray
from isovi.errors import InputError

LinearMaps = Float[np.ndarray, "cell latent axis"]

_BLOCK_VALUES = 2**22  # values processed together: 32 MB of float64
_THINNEST = 1e-2  # minimum thickness of a neighbourhood, as a share of its radius, for a map across it
_ROUNDING = 1e-10  # a half axis below this share of the largest is rounding error and set to zero


@dataclass(frozen=True, repr=False)
class TissotEllipses(ReprMixin):
    """Linear map from tissue to latent space near each spot, and the ellipse (in 3-D: ellipsoid) it defines.

    All values are NaN at spots without a map; see :func:`local_linear_maps`.

    Attributes
    ----------
    jacobian
        J, latent length per coordinate unit, shape ``(cell, latent, axis)``.
    half_axes
        Singular values of J, largest first, latent length per coordinate unit, shape ``(cell, axis)``. Values
        below rounding error are zero, for example if the latent space has fewer dimensions than the tissue.
    directions
        Right singular vectors, shape ``(cell, axis, axis)``: row ``i`` is the unit vector in the tissue that
        J stretches by half axis ``i``. The sign is arbitrary, and so are directions of equal half axes.
    """

    jacobian: LinearMaps
    half_axes: Float[np.ndarray, "cell axis"]
    directions: Float[np.ndarray, "cell axis axis"]

    def summary(self) -> Rows:
        """Values shown in the representation, by name."""
        known = self.valid
        medians = {"median anisotropy": self.anisotropy[known], "median area scale": self.area[known]}
        shown = {
            name: float(np.median(values)) if len(values) else np.nan for name, values in medians.items()
        }
        return {"spots with an ellipse": known, **shown, "half axes": self.half_axes}

    def __len__(self) -> int:
        return len(self.half_axes)

    @property
    def valid(self) -> np.ndarray:
        """Whether each spot has a map, shape ``(cell,)``."""
        return np.isfinite(self.half_axes[:, 0])

    @cached_property
    def anisotropy(self) -> CellFloatArray:
        """Largest over smallest half axis, at least 1; infinite if J is singular, NaN if J is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.half_axes[:, 0] / self.half_axes[:, -1]

    @cached_property
    def area(self) -> CellFloatArray:
        """Area scale, the product of the half axes; in 3-D the volume scale."""
        return self.half_axes.prod(axis=1)

    @cached_property
    def angle(self) -> CellFloatArray:
        """Angle of the longest half axis in 2-D tissue, from the first axis to the second, 0 to π.

        Raises
        ------
        InputError
            In 3-D tissue, where one angle does not define a direction.
        """
        if self.directions.shape[1] != 2:
            raise InputError(
                f"The tissue has {self.directions.shape[1]} axes.",
                "An orientation is a single angle only in 2-D tissue.",
                "Use directions[:, 0], the unit vector along the longest half axis.",
            )
        return _angle(self.directions[:, 0])

    def in_tissue(self) -> tuple[Float[np.ndarray, "cell 2"], CellFloatArray]:
        """Ellipses to draw at the spots: their long axis is the direction in which the map stretches most.

        Returns
        -------
        half_axes, angle
            Half axes and angle of the ellipse of (JᵀJ)^½, in 3-D tissue projected along the third axis; the
            angle as in :attr:`angle`.
        """
        stretch = np.swapaxes(self.directions, 1, 2) @ (self.half_axes[:, :, None] * self.directions)
        return outlines(stretch[:, :2])

    def in_plane(
        self, projection: Float[np.ndarray, "2 latent"]
    ) -> tuple[Float[np.ndarray, "cell 2"], CellFloatArray]:
        """Ellipses to draw in a 2-D projection of the latent space: the images of unit circles in the tissue.

        Parameters
        ----------
        projection
            P, the linear map from the latent space to the plane.

        Returns
        -------
        half_axes, angle
            Half axes and angle of the ellipse of P J; the angle is from the first axis of the plane to its
            second, 0 to π.
        """
        return outlines(projection @ self.jacobian)


def tissot_ellipses(
    latent: LatentArray,
    coordinates: CoordinateArray,
    section: CellIndexArray,
    n_neighbors: int = 12,
) -> TissotEllipses:
    """Tissot ellipse of every spot, with the parameters of :func:`local_linear_maps`."""
    return ellipses_of(local_linear_maps(latent, coordinates, section, n_neighbors))


def ellipses_of(jacobian: LinearMaps) -> TissotEllipses:
    """Ellipses of the given linear maps.

    Parameters
    ----------
    jacobian
        J of every spot, shape ``(cell, latent, axis)``; maps with non-finite values have no ellipse.
    """
    n, rank, axes = jacobian.shape
    half_axes, directions = np.empty((n, axes)), np.empty((n, axes, axes))
    missing = ((0, 0), (0, max(axes - rank, 0)), (0, 0))
    for part in _blocks(n, rank * axes):
        _, half_axes[part], directions[part] = _svd(np.pad(jacobian[part], missing))
    half_axes[half_axes < _ROUNDING * half_axes[:, :1]] = 0.0
    return TissotEllipses(jacobian, half_axes, directions)


def local_linear_maps(
    latent: LatentArray,
    coordinates: CoordinateArray,
    section: CellIndexArray,
    n_neighbors: int = 12,
) -> LinearMaps:
    """Slope of the weighted linear regression of the latent representation on the coordinates at each spot.

    The spot and its ``n_neighbors`` nearest spots of the section have the weights ``1 - (d / h)²`` for their
    distance d (Epanechnikov 1969), where h is the distance of the next nearest spot. A neighbour's weight
    therefore falls to zero before another replaces it, and ties between neighbours at equal distance do not
    matter. On a regular grid, choose a number of neighbours that fills whole shells: 6, 12 or 18 on a
    hexagonal grid, 4, 8 or 12 on a square one.

    The map is NaN if the neighbourhood does not determine it in all directions: if it is thinner than a
    hundredth of its radius h, because the neighbours lie on a line (in 3-D: in a plane), at one point, or all
    at the distance h; at all spots of a section with fewer than ``axis + 2`` spots; at spots without a
    position; and next to a latent value that is not finite. A section with no more than ``n_neighbors + 1``
    spots uses all but the farthest, which gives h.

    Parameters
    ----------
    latent
        Shape ``(cell, latent)``.
    coordinates
        Shape ``(cell, axis)``, with 2 or 3 axes. Rows with NaN are left out, also as neighbours.
    section
        Section code of each spot, shape ``(cell,)``. Maps of one section do not depend on others.
    n_neighbors
        Number of neighbours, at least one more than there are axes.

    Returns
    -------
    J, latent length per coordinate unit, shape ``(cell, latent, axis)``.

    Raises
    ------
    InputError
        If there are too few neighbours for a map.
    """
    _require_enough(n_neighbors, coordinates.shape[1])
    maps = np.full((len(latent), latent.shape[1], coordinates.shape[1]), np.nan)
    for members in _members(coordinates, section):
        if len(members) >= coordinates.shape[1] + 2:
            positions, values = (array[members].astype(np.float64) for array in (coordinates, latent))
            maps[members] = _section_maps(values, positions, min(n_neighbors, len(members) - 2))
    return maps


def outlines(maps: Float[np.ndarray, "cell 2 axis"]) -> tuple[Float[np.ndarray, "cell 2"], CellFloatArray]:
    """Half axes, longest first, and angle of the images of unit circles under linear maps to a plane.

    Parameters
    ----------
    maps
        Shape ``(cell, 2, axis)``.

    Returns
    -------
    half_axes, angle
        Shapes ``(cell, 2)`` and ``(cell,)``; the angle of the longest half axis in the plane, 0 to π.
    """
    left, half_axes, _ = _svd(maps)
    return half_axes, _angle(left[:, :, 0])


def _require_enough(n_neighbors: int, axes: int) -> None:
    if n_neighbors <= axes:
        raise InputError(
            f"n_neighbors={n_neighbors} for coordinates of {axes} axes.",
            f"A linear map needs at least {axes + 1} neighbours.",
            "Use for example n_neighbors=12.",
        )


def _members(coordinates: CoordinateArray, section: CellIndexArray) -> list[np.ndarray]:
    """Indices of the spots with a position, for each section."""
    placed = np.flatnonzero(np.isfinite(coordinates).all(axis=1))
    order = placed[np.argsort(section[placed], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(section[order])) + 1)


def _section_maps(latent: LatentArray, positions: CoordinateArray, k: int) -> LinearMaps:
    n, axes = positions.shape
    tree = cKDTree(positions)
    maps = np.empty((n, latent.shape[1], axes))
    for part in _blocks(n, (k + 2) * (latent.shape[1] + 2 * axes)):
        distance, near = tree.query(positions[part], k + 2)  # the spot itself, its neighbours, the next one
        radius = distance[:, -1]
        inside = near[:, :-1]
        weight = 1 - (distance[:, :-1] / _nonzero(radius)[:, None]) ** 2
        offset = (positions[inside] - positions[part, None]) / _nonzero(radius)[:, None, None]
        change = latent[inside] - latent[part, None]  # exactly zero for a constant latent representation
        maps[part] = _slopes(change, offset, weight) / _nonzero(radius)[:, None, None]
    return maps


def _slopes(
    change: Float[np.ndarray, "cell near latent"],
    offset: Float[np.ndarray, "cell near axis"],
    weight: Float[np.ndarray, "cell near"],
) -> LinearMaps:
    """Slopes of the regressions with intercept of ``change`` on ``offset``; neighbourhoods have radius 1."""
    weight = (weight / weight.sum(axis=1, keepdims=True))[:, :, None]
    centred = offset - (weight * offset).sum(axis=1, keepdims=True)
    weighted = np.swapaxes(weight * centred, 1, 2)
    moment, cross = weighted @ centred, weighted @ change
    slopes = np.full((len(change), change.shape[2], offset.shape[2]), np.nan)
    thick = np.linalg.eigvalsh(moment)[:, 0] > _THINNEST**2
    slopes[thick] = np.swapaxes(np.linalg.solve(moment[thick], cross[thick]), 1, 2)
    return slopes


def _svd(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reduced singular value decompositions; NaN for maps that are not finite."""
    finite = np.isfinite(maps).all(axis=(1, 2))
    parts = np.linalg.svd(np.where(finite[:, None, None], maps, 0.0), full_matrices=False)
    for part in parts:
        part[~finite] = np.nan
    return parts


def _angle(vectors: np.ndarray) -> np.ndarray:
    return np.arctan2(vectors[:, 1], vectors[:, 0]) % np.pi


def _nonzero(radius: np.ndarray) -> np.ndarray:
    """The radius, or one if all neighbours coincide, which the thickness check detects."""
    return np.where(radius > 0, radius, 1.0)


def _blocks(n: int, values_each: int) -> list[slice]:
    size = max(_BLOCK_VALUES // values_each, 1)
    return [slice(start, start + size) for start in range(0, n, size)]
