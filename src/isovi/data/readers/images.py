"""Images and scale factors of Visium slides, where scanpy and squidpy look for them."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata import AnnData

from isovi.data.readers.source import PIXELS, POSITIONS_KEY, readable
from isovi.errors import IsoviWarning
from isovi.spots import spacing

SCALE = "scalefactors_json.json"
IMAGES = {"hires": "tissue_hires_image", "lowres": "tissue_lowres_image"}
SUFFIXES = ("png", "jpg", "jpeg")
SIDE = 2_000  # pixels of the longest side that is kept of an image that has to be reduced
_USUAL = frozenset(
    {"outs", "binned_outputs", "segmented_outputs", "spatial"}
)  # names of folders that name no sample
METADATA = ("chemistry_description", "software_version")  # attributes of a matrix that scanpy keeps


def pixels_of(folder: Path, prefix: str = "") -> str:
    """Unit of positions on the full-resolution image, with the size of its pixels where it is known."""
    microns = (_scale_factors(folder, prefix) or {}).get("microns_per_pixel")
    return f"{PIXELS}, {microns:.4g} micrometres each" if microns else PIXELS


def add_images(adata: AnnData, matrix: Path, folder: Path, prefix: str = "") -> AnnData:
    """Put images, scale factors and metadata into ``uns["spatial"]``, in scanpy's layout.

    Parameters
    ----------
    adata
        Spots or cells with positions in pixels; changed in place.
    matrix
        Where the counts are from: names the library.
    folder
        With the files; nothing is added if it has no scale factors.
    prefix
        Of the names of the files.

    Returns
    -------
    The same object.
    """
    factors = _scale_factors(folder, prefix)
    if factors is None:
        return adata
    name, metadata = _library(matrix, prefix)
    found = {
        kind: _file(folder, *(f"{prefix}{stem}.{end}" for end in SUFFIXES)) for kind, stem in IMAGES.items()
    }
    images = {kind: _image(path) for kind, path in found.items() if path is not None}
    if "spot_diameter_fullres" not in factors:  # of segmented cells; scanpy needs it
        factors["spot_diameter_fullres"] = diameter = spacing(adata.obsm[POSITIONS_KEY])
        note = f"{SCALE} gives no diameter: images draw cells {diameter:.3g} pixels wide, their spacing."
        warnings.warn(note, IsoviWarning, stacklevel=2)
    adata.uns[POSITIONS_KEY] = {name: {"images": images, "scalefactors": factors, "metadata": metadata}}
    return adata


def _scale_factors(folder: Path, prefix: str) -> dict[str, Any] | None:
    path = _file(folder, f"{prefix}{SCALE}")
    if path is None:
        return None
    with readable(path, "JSON with scale factors"), _opened(path) as file:
        return dict(json.load(file))


def _file(folder: Path, *names: str) -> Path | None:
    """The first file of these names, perhaps compressed."""
    paths = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _image(path: Path) -> np.ndarray:
    """An image as bytes of red, green and blue, shape ``(row, column, 3)``."""
    from PIL import Image

    with readable(path, "an image"), _opened(path) as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def stained(pixels: np.ndarray) -> np.ndarray:
    """A picture of stains: grey by the brightest channel or plane, as bytes of red, green and blue.

    Parameters
    ----------
    pixels
        Shape ``(..., row, column)``.
    """
    while pixels.ndim > 2:
        pixels = pixels.max(axis=0)
    low, high = (float(end) for end in np.percentile(pixels, (1, 99.8)))
    grey = np.clip((pixels - low) / (high - low or 1.0), 0, 1)
    return np.repeat(np.round(255 * grey).astype(np.uint8)[..., None], 3, axis=2)


def _library(matrix: Path, prefix: str) -> tuple[str, dict[str, Any]]:
    """Name of the library, as matrix, prefix or folder have it, and what else the matrix says."""
    name, metadata = "", {}
    if matrix.is_file():
        with h5py.File(matrix, "r") as file:
            kept = {key: _text(file.attrs[key]) for key in (*METADATA, "library_ids") if key in file.attrs}
        name, metadata = kept.pop("library_ids", ""), kept
    name = name or prefix.rstrip("_.-")
    if not name:
        folders = (part for part in reversed(matrix.resolve().parent.parts) if part not in _USUAL)
        name = next(folders, "library")
    return re.sub(r"[/\\]", "_", name) or "library", metadata


def _text(value: Any) -> str:
    first = np.atleast_1d(value)[0]
    return first.decode() if isinstance(first, bytes) else str(first)
