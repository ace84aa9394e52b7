"""The picture of a tissue and its scale: ``uns["spatial"]`` in scanpy's layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from isovi.data.readers.source import INPUT_KEY, MICROMETRES
from isovi.errors import InputError

_KEYS = ("hires", "lowres")  # of images, the finest first
_PITCH = 100.0  # micrometres between the centres of neighbouring spots of a Visium slide
_PITCH_BY_DIAMETER = (1.3, 2.2)  # of those slides: 100 by 55, or by the 65 that scale factors are of
_LENGTHS = (1, 2, 5)  # of scale bars, times powers of ten
_LARGEST_SCALE = 1e9  # pixels or micrometres per unit
_BAR_SHARE = 0.3  # longest scale bar, as a share of the width
SPATIAL_KEY = "spatial"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image under spots.

    Attributes
    ----------
    pixels
        uint8, shape ``(row, column, 3)``.
    scale
        Pixels per unit of the positions.
    key
        Its key in ``uns["spatial"][library]["images"]``.
    """

    pixels: NDArray[np.uint8]
    scale: float
    key: str

    def shows(self, low: NDArray, high: NDArray) -> bool:
        """Whether some of it lies between two corners in units of the positions."""
        ends = np.array(self.pixels.shape[1::-1]) / self.scale
        return bool((high > 0).all() and (low < ends).all())

    def cropped(
        self, low: NDArray, high: NDArray
    ) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
        """The part between two corners in units of the positions, and its left, right, bottom and top."""
        rows, columns = self.pixels.shape[:2]
        first = np.clip(np.floor(low * self.scale).astype(int), 0, [columns - 1, rows - 1])
        last = np.clip(np.ceil(high * self.scale).astype(int), first + 1, [columns, rows])
        part = self.pixels[first[1] : last[1], first[0] : last[0]]
        (left, top), (right, bottom) = first / self.scale, last / self.scale
        return part, (left, right, bottom, top)


def picture(
    adata: AnnData, section: str = "", *, alone: bool = True, key: str | None = None
) -> Picture | None:
    """The image of a section, or ``None`` if the data has none.

    Parameters
    ----------
    adata
        Annotated data matrix.
    section
        Name of the section.
    alone
        Whether it is the only one: then the only library is its own, whatever its name is.
    key
        Key of the image; the finest by default.

    Raises
    ------
    InputError
        If there are images, but not under that key.
    """
    images, factors = _kept(adata, section, alone)
    scales = {name: _number(factors.get(f"tissue_{name}_scalef")) for name in images}
    usable = {name: scale for name, scale in scales.items() if scale and _is_image(images[name])}
    if key is not None and usable and key not in usable:
        raise InputError(
            f'img_key="{key}" was given; the images with a scale factor are {", ".join(usable)}.',
            'It names an image of uns["spatial"].',
            "Name one of them, or omit img_key.",
        )
    name = key or next((one for one in (*_KEYS, *usable) if one in usable), None)
    if name is None or name not in usable:
        return None
    return Picture(_bytes(images[name]), usable[name], name)


def _library(adata: AnnData, section: str, alone: bool) -> Mapping[str, Any] | None:
    stored = adata.uns.get(SPATIAL_KEY)
    if not isinstance(stored, Mapping):
        return None
    libraries = {str(name): one for name, one in stored.items() if isinstance(one, Mapping)}
    if section in libraries:
        return libraries[section]
    return next(iter(libraries.values())) if alone and len(libraries) == 1 else None


def _kept(adata: AnnData, section: str, alone: bool) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Images and scale factors of a section; none where another program keeps something else there."""
    library = _library(adata, section, alone) or {}
    images, factors = library.get("images"), library.get("scalefactors")
    return images if isinstance(images, Mapping) else {}, factors if isinstance(factors, Mapping) else {}


def _number(value: Any) -> float | None:
    """A scale, or ``None`` where it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 1 / _LARGEST_SCALE < found < _LARGEST_SCALE else None


def _is_image(value: Any) -> bool:
    pixels = np.asarray(value)
    coloured = pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4)
    return pixels.dtype.kind in "buif" and pixels.size > 0 and (coloured or pixels.ndim == 2)


def _bytes(image: Any) -> NDArray[np.uint8]:
    """An image of bytes or of shares of one, grey or coloured, as red, green and blue."""
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        pixels = np.round(255 * np.clip(np.nan_to_num(pixels), 0, 1))
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return pixels[..., :3].astype(np.uint8)


def microns(adata: AnnData, spacing: float, section: str = "", *, alone: bool = True) -> float | None:
    """Micrometres per unit of the positions, or ``None`` if that is not known.

    Parameters
    ----------
    adata
        Annotated data matrix.
    spacing
        Median distance between neighbouring spots of the section, in units of the positions: of Visium, whose
        scale factors do not say how large a pixel is, it is 100 micrometres.
    section, alone
        As for :func:`picture`.
    """
    factors = _kept(adata, section, alone)[1]
    if size := _number(factors.get("microns_per_pixel")):
        return size
    about = adata.uns.get(INPUT_KEY)
    unit = str(about.get("unit", "")) if isinstance(about, Mapping) else ""
    if unit == MICROMETRES:
        return 1.0
    if "0.5 micrometres apart" in unit:
        return 0.5
    diameter = _number(factors.get("spot_diameter_fullres"))
    low, high = _PITCH_BY_DIAMETER
    return _PITCH / spacing if diameter and low <= spacing / diameter <= high else None


def bar(width: float, microns_per_unit: float) -> tuple[float, str]:
    """Length of a scale bar in units of the positions, round in micrometres, and what it says.

    Examples
    --------
    >>> bar(6500.0, 1.0)
    (1000.0, '1 mm')
    >>> bar(100.0, 10.0)
    (20.0, '200 µm')
    """
    longest = _BAR_SHARE * width * microns_per_unit
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step * power for step in _LENGTHS if step * power <= longest)
    return float(length / microns_per_unit), f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
