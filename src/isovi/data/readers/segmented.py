"""Cells that Space Ranger 4 segments on Visium HD: counts of cells, and their outlines as GeoJSON."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi.data.readers.images import add_images, pixels_of
from isovi.data.readers.matrix import find_matrix, read_matrix
from isovi.data.readers.positions import PositionTable, join, position_table
from isovi.data.readers.source import Reader, named, readable, require_one_sample
from isovi.data.usable import drop_cells
from isovi.errors import InputError

FOLDER = "segmented_outputs"
MATRICES = ("filtered_feature_cell_matrix", "raw_feature_cell_matrix")
OUTLINES = (  # the nucleus of a cell has the cell's number
    "cell_segmentations.geojson",
    "graphclust_annotated_cell_segmentations.geojson",
    "nucleus_segmentations.geojson",
)
_BLOCK = 2**20  # characters read together
_SMALL = 256  # bytes, in which no outline fits
_BEFORE = re.compile(r'"features"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class SegmentedCells(Reader):
    """Segmented cells of a Visium HD slide.

    Attributes
    ----------
    matrix
        Counts of the cells.
    outlines
        Their polygons, in pixels of the full-resolution image.
    """

    kind = "10x Visium HD, segmented cells"
    matrix: Path
    outlines: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Matrix and outlines; images do not count."""
        return self.matrix, self.outlines

    @property
    def unit(self) -> str:
        """Pixels, and how large they are where the folder says so."""
        return pixels_of(*self.images)

    @property
    def images(self) -> tuple[Path, str]:
        """Where images and scale factors are, and what their names begin with, as in GEO."""
        prefix = re.split(r"(?:[a-z]+_annotated_)?(?:cell|nucleus)_segmentations", self.outlines.name)[0]
        folder = self.outlines.parent
        return (folder / "spatial" if (folder / "spatial").is_dir() else folder), prefix

    def read(self) -> AnnData:
        """Counts of the cells, and the centroids of their outlines."""
        adata = drop_cells(join(read_matrix(self.matrix), read_outlines(self.outlines), self.matrix))
        return self.sign(add_images(adata, self.matrix, *self.images))


def find_segmented(folder: Path) -> SegmentedCells | None:
    """Segmented cells in a folder, if they are there and no bins are."""
    for place in (folder, folder / FOLDER):
        matrix = find_matrix(place, *MATRICES)
        outlines = named(place, *OUTLINES, *(f"{name}.gz" for name in OUTLINES))
        if matrix is not None and outlines is not None:
            require_one_sample(matrix, outlines)
            return SegmentedCells(matrix, outlines)
    return None


def read_outlines(path: Path) -> PositionTable:
    """Centroids of the polygons of a GeoJSON file, which is read feature by feature.

    Parameters
    ----------
    path
        A collection of features with the property ``cell_id``: a barcode, or the number in it.

    Raises
    ------
    InputError
        If it is no such file.
    """
    with readable(path, "GeoJSON with the outlines of cells"):
        if _is_empty(path):
            raise InputError(
                f'"{path}" has no outlines of cells.',
                "Positions of segmented cells are the centroids of their outlines, in GeoJSON.",
                "Copy it again, or name the matrix and pass the positions of its cells as coordinates=FILE.",
            )
        rows = [
            (_barcode(one["properties"]["cell_id"]), *_centroid(one["geometry"])) for one in features_of(path)
        ]
    return position_table(pd.DataFrame(rows, columns=["barcode", "x", "y"]), path)


def _is_empty(path: Path) -> bool:
    """Whether a GeoJSON file holds an empty object or list, or an empty list of features."""
    with _opened(path) as file:
        text = file.read(_SMALL + 1)
    if len(text) > _SMALL:
        return False
    text = text.strip()
    found = json.loads(text) if text else None
    return not found or (isinstance(found, dict) and found.get("features") == [])


def features_of(path: Path) -> Iterator[dict[str, Any]]:
    """The features of a GeoJSON file, one after the other; only a block of the file is in memory."""
    decoder = json.JSONDecoder()
    with _opened(path) as file:
        text, place = "", -1
        while True:
            if place < 0 and (found := _BEFORE.search(text)):
                place = found.end()
            if place >= 0:
                place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # matches nothing, too
                if text[place : place + 1] == "]":
                    return
                try:
                    feature, place = decoder.raw_decode(text, place)
                except ValueError:  # the block ends within it
                    pass
                else:
                    yield feature
                    continue
            block = file.read(_BLOCK)
            if not block:
                raise ValueError(
                    "it has no list of features" if place < 0 else "its list of features does not end"
                )
            text, place = text[max(place, 0) :] + block, min(place, 0)


def _opened(path: Path) -> Any:
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")


def _barcode(cell: Any) -> str:
    text = str(cell).removesuffix(".0")  # of other programs, numbers are text or have decimals
    return f"cellid_{int(text):09d}-1" if text.isdecimal() else text


def _centroid(geometry: dict[str, Any] | None) -> tuple[float, float]:
    """Centroid of a polygon, or of all parts of a cell that has several; NaN of none."""
    if geometry is None or not geometry.get("coordinates"):
        return float("nan"), float("nan")
    parts = geometry["coordinates"]
    rings = [parts[0]] if geometry["type"] == "Polygon" else [part[0] for part in parts]
    found = [_moments(np.asarray(ring, dtype=np.float64)[:, :2]) for ring in rings]
    areas, places = np.array([area for area, _ in found]), np.array([place for _, place in found])
    x, y = areas @ places / areas.sum()
    return float(x), float(y)


def _moments(ring: np.ndarray) -> tuple[float, np.ndarray]:
    """Area and centroid of a ring; of one without area, next to none and the middle of its corners."""
    origin = ring.mean(axis=0)
    x, y = (ring - origin).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    cross = x * next_y - next_x * y
    area = cross.sum() / 2
    if abs(area) <= 1e-12 * max(float(np.ptp(ring, axis=0).max()) ** 2, 1e-300):
        return 1e-300, origin
    centre = np.array([((x + next_x) * cross).sum(), ((y + next_y) * cross).sum()]) / (6 * area)
    return abs(float(area)), origin + centre
