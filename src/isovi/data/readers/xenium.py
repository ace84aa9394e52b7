"""Output of Xenium Onboard Analysis and Xenium Ranger."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from isovi.data.readers.annotated import canonical_counts
from isovi.data.readers.images import SIDE, stained
from isovi.data.readers.matrix import find_matrix, make_unique, read_matrix
from isovi.data.readers.positions import PositionTable, join, position_table, read_positions
from isovi.data.readers.source import MICROMETRES, POSITIONS_KEY, Reader, named, readable, require_one_sample
from isovi.data.readers.tenx import GENES
from isovi.data.usable import drop_cells
from isovi.errors import IsoviWarning

MATRIX = "cell_feature_matrix"
ZARR = (".zarr.zip", ".zarr")
CELLS = ("cells.csv.gz", "cells.csv", "cells.parquet")
CELLS_ZARR = ("cells.zarr.zip", "cells.zarr")
MORPHOLOGY = (  # the image of one plane, or of the sharpest
    *("morphology_focus/*0000*.ome.tif", "morphology_focus.ome.tif"),
    *("morphology_mip.ome.tif", "morphology.ome.tif"),
)
PIXEL, CELL = 0.2125, 10.0  # micrometres: a pixel, where the image does not say, and a drawn cell
_BLOCK = 2**17  # entries read together
GENE = "gene"  # type of the features that are genes, in zarr
_LETTERS = np.frombuffer(b"abcdefghijklmnop", dtype="S1")  # of the digits 0 to f in names of cells


@dataclass(frozen=True)
class Xenium(Reader):
    """Cells of a Xenium slide.

    Attributes
    ----------
    matrix
        Counts of the cells (``.h5``, a Matrix Market folder, ``.zarr.zip``); control probes are left out.
    cells
        Table of the cells, with their centroids.
    """

    kind = "10x Xenium"
    matrix: Path
    cells: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """Matrix and cells; nothing else of the folder is needed."""
        return self.matrix, self.cells

    @property
    def unit(self) -> str:
        """Micrometres."""
        return MICROMETRES

    def read(self) -> AnnData:
        """Counts and centroids of the cells, and a reduced image of the section where there is one."""
        counts = read_zarr_matrix if self.matrix.name.endswith(ZARR) else read_matrix
        cells = read_zarr_cells if self.cells.name.endswith(ZARR) else read_positions
        adata = self.sign(drop_cells(join(counts(self.matrix), cells(self.cells), self.matrix)))
        return add_morphology(adata, self.cells.parent)


def find_xenium(folder: Path) -> Xenium | None:
    """Xenium output in a folder, if it is there; Parquet is the quicker table to read if pyarrow is there."""
    matrix = find_matrix(folder, MATRIX)
    matrix = named(folder, *(f"{MATRIX}{end}" for end in ZARR)) if matrix is None else matrix
    cells = named(folder, *(reversed(CELLS) if find_spec("pyarrow") else CELLS), *CELLS_ZARR)
    if matrix is None or cells is None:
        return None
    require_one_sample(matrix, cells)
    return Xenium(matrix, cells)


def add_morphology(adata: AnnData, folder: Path) -> AnnData:
    """Put a reduced morphology image into ``uns["spatial"]``, in scanpy's layout; positions are micrometres.

    It is optional: without the image, without ``tifffile`` or the codec of the image, nothing is added, the
    latter with a note.
    """
    files = sorted(path for name in MORPHOLOGY for path in folder.glob(name))
    if not files:
        return adata
    try:
        pixels, per_micrometre = _reduced(files[0])
    except Exception as error:  # noqa: BLE001  # of tifffile and its codecs, which are optional
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        remedy = "Install tifffile and imagecodecs to read it."
        note = f'The image "{files[0].name}" was left out ({reason}). {remedy}'
        warnings.warn(note, IsoviWarning, stacklevel=2)
        return adata
    factors = {"tissue_hires_scalef": per_micrometre, "spot_diameter_fullres": CELL}
    name = folder.resolve().name or "library"
    adata.uns[POSITIONS_KEY] = {name: {"images": {"hires": pixels}, "scalefactors": factors}}
    return adata


def _reduced(path: Path) -> tuple[np.ndarray, float]:
    """An OME-TIFF as bytes of red, green and blue, at most 2,000 pixels a side, and pixels per µm."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        levels = file.series[0].levels
        large = [level for level in levels if max(level.shape[-2:]) >= SIDE]
        pixels = (large[-1] if large else levels[0]).asarray()
        whole = max(levels[0].shape[-2:])
        found = re.search(r'PhysicalSizeX="([0-9.eE+-]+)"', file.ome_metadata or "")
    step = -(-max(pixels.shape[-2:]) // SIDE)
    size = float(found[1]) if found else PIXEL
    shown = stained(pixels[..., ::step, ::step])
    return shown, max(shown.shape[:2]) / (whole * size)


def read_zarr_matrix(path: Path) -> AnnData:
    """Cells and genes of ``cell_feature_matrix.zarr.zip``, whose rows are features.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with readable(path, "a cell-feature matrix of Xenium"):
        group = _open(path)["cell_features"]
        about = dict(group.attrs)
        names, types = np.array(about["feature_keys"], dtype=object), np.array(about["feature_types"])
        shape = (int(about["number_cells"]), int(about["number_features"]))
        counts = _by_cell(group, *shape)
        cells = cell_names(group["cell_id"][:])
        var = pd.DataFrame({"gene_ids": about["feature_ids"]}, index=pd.Index(names))
        var["feature_types"] = np.where(types == GENE, GENES, types)
    adata = AnnData(counts, obs=pd.DataFrame(index=cells), var=var)
    canonical_counts(adata)
    make_unique(adata)
    return adata


def _by_cell(group: Any, n_cells: int, n_features: int) -> sparse.csr_matrix:
    """Counts that are stored by feature, brought to their cells block by block."""
    starts = group["indptr"][:].astype(np.int64)
    n_stored = int(starts[-1])
    if not group["data"].shape == group["indices"].shape == (n_stored,) or len(starts) != n_features + 1:
        raise ValueError("its parts are of different lengths")
    blocks = [slice(first, min(first + _BLOCK, n_stored)) for first in range(0, n_stored, _BLOCK)]
    sizes = np.zeros(n_cells, dtype=np.int64)
    for block in blocks:
        sizes += np.bincount(group["indices"][block], minlength=n_cells)
    pointers = np.concatenate([[0], np.cumsum(sizes)])
    data, features, place = np.empty(n_stored, np.float32), np.empty(n_stored, np.int32), pointers[:-1].copy()
    for block in blocks:
        cells = group["indices"][block]
        order = np.argsort(cells, kind="stable")  # features stay in their order
        found, first, number = np.unique(cells[order], return_index=True, return_counts=True)
        to = place[cells[order]] + np.arange(len(order)) - np.repeat(first, number)
        of = np.searchsorted(starts, np.arange(block.start, block.stop), side="right") - 1
        data[to], features[to] = group["data"][block][order], of[order]
        place[found] += number
    return sparse.csr_matrix((data, features, pointers), shape=(n_cells, n_features))


def read_zarr_cells(path: Path) -> PositionTable:
    """Centroids of the cells of ``cells.zarr.zip``.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with readable(path, "a store of Xenium cells"):
        group = _open(path)
        summary = group["cell_summary"]
        columns = [str(name) for name in summary.attrs["column_names"]]
        table = pd.DataFrame(summary[:], columns=columns)
        table.insert(0, "cell_id", cell_names(group["cell_id"][:]).to_numpy())
    return position_table(table, path)


def cell_names(ids: np.ndarray) -> pd.Index:
    """Names of cells, such as ``ffkpbaba-1``, from prefix and suffix; the first versions had numbers only."""
    if ids.ndim == 1:
        return pd.Index(ids.astype(str))
    shifts = np.arange(28, -4, -4, dtype=np.uint32)
    digits = (ids[:, :1].astype(np.uint32) >> shifts) & np.uint32(15)
    prefix = np.ascontiguousarray(_LETTERS[digits]).view("S8").ravel().astype("U8")
    return pd.Index(np.char.add(np.char.add(prefix, "-"), ids[:, 1].astype(str)).astype(object))


def _open(path: Path) -> Any:
    """Root of a zarr store, which may be in a zip file; opened read-only."""
    import zarr

    store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else str(path)
    return zarr.open_group(store, mode="r")
