"""Images of a SpatialData store, reduced, where scanpy and the plots of isoVI look for them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from isovi.data.readers.images import SIDE, stained
from isovi.data.readers.source import POSITIONS_KEY
from isovi.errors import IsoviWarning

_COLOURS = (3, 4)  # channels of a photograph


def add_images(
    adata: AnnData, images: Mapping[str, Any], regions: NDArray, systems: Mapping[str, str]
) -> None:
    """Put an image of each element into ``uns["spatial"]``, in scanpy's layout, under the element's name.

    Of several images the one in colour with the most pixels is taken. An image that cannot be read is left
    out, with a note.

    Parameters
    ----------
    adata
        With positions in coordinate systems; what ``uns`` has of images stays.
    images
        Images of the store, read lazily, by name.
    regions
        Element of each cell, shape ``(cell,)``.
    systems
        Coordinate system of each element.
    """
    libraries = {}
    for region, system in systems.items():
        positions = np.asarray(adata.obsm[POSITIONS_KEY])[regions == region][:, :2]
        positions = positions[np.isfinite(positions).all(axis=1)]
        if len(positions) < 2 or (positions.max(axis=0) <= 0).any():  # pixels count from the origin
            continue
        try:
            image = _best(images, system, positions)
            if image is not None:
                libraries[region] = _library(image, system, positions)
        except Exception as error:  # noqa: BLE001  # of readers and codecs: images are optional
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            warnings.warn(f'No image of "{region}" was read ({reason}).', IsoviWarning, stacklevel=3)
    if libraries:
        adata.uns[POSITIONS_KEY] = {**libraries, **adata.uns.get(POSITIONS_KEY, {})}


def _best(images: Mapping[str, Any], system: str, positions: NDArray) -> Any:
    """The image below some positions that is in colour, and among those has the most pixels."""
    from spatialdata import get_extent, get_pyramid_levels
    from spatialdata.transformations import get_transformation
    from xarray import DataArray

    ranked: list[tuple[Any, ...]] = []
    for image in images.values():
        if system not in get_transformation(image, get_all=True):
            continue
        extent = get_extent(image, coordinate_system=system)
        low, high = np.array([extent["x"], extent["y"]]).T
        if (positions.max(axis=0) >= low).all() and (positions.min(axis=0) <= high).all():
            sizes = (image if isinstance(image, DataArray) else get_pyramid_levels(image, n=0)).sizes
            ranked.append(((sizes["c"] in _COLOURS, sizes["x"] * sizes["y"]), len(ranked), image))
    return max(ranked)[-1] if ranked else None


def _library(image: Any, system: str, positions: NDArray) -> dict[str, Any]:
    """From the origin to beyond the last position: at most 2,000 pixels a side, and never enlarged."""
    from spatialdata import rasterize
    from spatialdata.transformations import get_transformation

    image = _thinned(image, system)
    spacing = float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))
    end = positions.max(axis=0) + spacing
    matrix = get_transformation(image, system).to_affine_matrix(("x", "y"), ("x", "y"))
    scale = min(SIDE / end.max(), float(abs(np.linalg.det(matrix[:2, :2]))) ** -0.5)
    box = {"min_coordinate": [0.0, 0.0], "max_coordinate": end.tolist()}
    asked = {"target_coordinate_system": system, "target_unit_to_pixels": scale}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chatter of dask
        drawn = rasterize(image, ("x", "y"), **box, **asked).transpose("c", "y", "x").to_numpy()
    if len(drawn) in _COLOURS and drawn.dtype == np.uint8:
        pixels = np.moveaxis(drawn[:3], 0, -1)
    else:
        pixels = stained(drawn)
    factors = {"tissue_hires_scalef": pixels.shape[1] / float(end[0]), "spot_diameter_fullres": spacing}
    return {"images": {"hires": np.ascontiguousarray(pixels)}, "scalefactors": factors}


def _thinned(image: Any, system: str) -> Any:
    """An image of one scale with every n-th pixel, as few as will do: it is read in parts, never whole."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Sequence, get_transformation
    from xarray import DataArray

    step = max(image.sizes["x"], image.sizes["y"]) // (2 * SIDE) if isinstance(image, DataArray) else 1
    if step <= 1:
        return image
    where = Sequence([Scale([step, step], ("x", "y")), get_transformation(image, system)])
    pixels = image.transpose("c", "y", "x").data[:, ::step, ::step].compute()
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={system: where})
