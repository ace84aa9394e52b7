"""Peak memory and time of reading instrument folders, made as their formats are specified.

Every folder is read by a process of its own, whose largest resident memory is compared with the size of the
matrix that it returns.
"""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from scipy import sparse
from scipy.io import mmwrite

from isovi_bench.rendering import markdown
from isovi_bench.resources import in_fresh_process, peak_memory
from isovi_bench.timings.cells import counts, positions

SIZES = {"xenium": 100_000, "xenium_mex": 100_000, "xenium_zarr": 100_000}
SIZES |= {"visium_hd": 500_000, "visium_hd_cells": 100_000}
N_GENES = 500
_FEATURES = ("id", "name", "feature_type")  # of Matrix Market's table
N_CONTROLS = 40  # control probes of Xenium
N_CORNERS = 24  # of the outline of a segmented cell


def measure(out: Path, kinds: Sequence[str] = tuple(SIZES), n_obs: int | None = None) -> pd.DataFrame:
    """Make the folders, read each, and remove them.

    Parameters
    ----------
    out
        Folder for them.
    kinds
        Keys of :data:`SIZES`.
    n_obs
        Number of cells or bins; those of :data:`SIZES` by default.

    Returns
    -------
    A row for each folder.
    """
    rows = []
    for kind in kinds:
        folder = out / kind
        MAKERS[kind](folder, n_obs or SIZES[kind])
        try:
            rows.append({"layout": kind, **in_fresh_process(read, folder)})
        finally:
            shutil.rmtree(folder)
    return pd.DataFrame(rows)


def read(folder: Path) -> dict[str, Any]:
    """Read a folder in this process: sizes in megabytes, and processor seconds."""
    import pyarrow.parquet  # noqa: F401  # with scanpy what readers import, which is no memory of theirs
    import scanpy  # noqa: F401

    from isovi.data import io

    imports, started = peak_memory(), time.process_time()
    adata = io.read(folder)
    matrix = sum(part.nbytes for part in (adata.X.data, adata.X.indices, adata.X.indptr)) / 2**20
    used = peak_memory() - imports
    return {
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "matrix_mb": round(matrix, 1),
        "peak_mb": round(used, 1),
        "ratio": round(used / matrix, 2),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def table(found: pd.DataFrame) -> str:
    """Markdown."""
    return markdown(found)


def make_xenium(folder: Path, n_obs: int) -> None:
    """``cell_feature_matrix.h5`` with control probes, and ``cells.parquet`` with its usual columns."""
    places = positions(n_obs, np.random.default_rng(0)) * 10
    names = np.array([f"{_letters(i)}-1" for i in range(n_obs)])
    folder.mkdir(parents=True)
    _write_matrix(
        folder / "cell_feature_matrix.h5", names, _with_controls(counts(places, N_GENES, 0)), N_CONTROLS
    )
    table = pd.DataFrame({"cell_id": names, "x_centroid": places[:, 0], "y_centroid": places[:, 1]})
    for name in ("transcript_counts", "control_probe_counts", "control_codeword_counts", "total_counts"):
        table[name] = np.int64(1)
    table["cell_area"], table["nucleus_area"] = 50.0, 20.0
    table.to_parquet(folder / "cells.parquet", index=False)


def make_xenium_mex(folder: Path, n_obs: int) -> None:
    """The same cells, with the matrix as Matrix Market files and the table as compressed text."""
    make_xenium(folder, n_obs)
    h5, mex = folder / "cell_feature_matrix.h5", folder / "cell_feature_matrix"
    mex.mkdir()
    with h5py.File(h5) as file, gzip.open(mex / "matrix.mtx.gz", "wb", compresslevel=1) as text:
        group = file["matrix"]
        parts = (group["data"][:], group["indices"][:], group["indptr"][:])
        mmwrite(text, sparse.csc_matrix(parts, shape=tuple(group["shape"])), field="integer")
        features = pd.DataFrame({name: group["features"][name][:].astype(str) for name in _FEATURES})
        names = pd.Series(group["barcodes"][:].astype(str))
    features.to_csv(mex / "features.tsv.gz", sep="\t", header=False, index=False)
    names.to_csv(mex / "barcodes.tsv.gz", header=False, index=False)
    pd.read_parquet(folder / "cells.parquet").to_csv(folder / "cells.csv.gz", index=False)
    h5.unlink()
    (folder / "cells.parquet").unlink()


def make_xenium_zarr(folder: Path, n_obs: int) -> None:
    """The same cells, with matrix and table as zipped stores."""
    make_xenium(folder, n_obs)
    ids = np.column_stack([np.arange(n_obs) * 40_009, np.ones(n_obs)]).astype(np.uint32)
    with h5py.File(folder / "cell_feature_matrix.h5") as file:
        group = file["matrix"]
        parts = (group["data"][:], group["indices"][:], group["indptr"][:])
        by_feature = sparse.csc_matrix(parts, shape=tuple(group["shape"])).tocsr()
        names, keys = (group["features"][name][:].astype(str).tolist() for name in ("id", "name"))
        is_gene = group["features"]["feature_type"][:] == b"Gene Expression"
    about = {"number_cells": n_obs, "number_features": len(names), "feature_ids": names, "feature_keys": keys}
    about["feature_types"] = np.where(is_gene, "gene", "negative_control_probe").tolist()
    with zarr.storage.ZipStore(folder / "cell_feature_matrix.zarr.zip", mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=2).create_group("cell_features")
        group.attrs.update(about)
        for name in ("data", "indices", "indptr"):
            group.create_array(name, data=getattr(by_feature, name).astype(np.uint32), chunks=(80_000,))
        group.create_array("cell_id", data=ids)
    table = pd.read_parquet(folder / "cells.parquet").drop(columns="cell_id")
    table = table.rename(columns={f"{axis}_centroid": f"cell_centroid_{axis}" for axis in "xy"})
    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=2)
        group.create_array("cell_id", data=ids)
        summary = group.create_array("cell_summary", data=table.to_numpy(dtype=np.float64))
        summary.attrs["column_names"] = list(table)
    for name in ("cell_feature_matrix.h5", "cells.parquet"):
        (folder / name).unlink()


def make_visium_hd(folder: Path, n_obs: int) -> None:
    """Bins of 8 µm: a matrix in HDF5, and positions in Parquet, a fifth of them outside of the tissue."""
    side = int(np.ceil((n_obs * 1.25) ** 0.5))
    row, column = np.divmod(np.arange(side * side), side)
    inside = np.arange(side * side) < n_obs
    names = np.array([f"s_008um_{r:05d}_{c:05d}-1" for r, c in zip(row, column, strict=True)])
    bins = folder / "binned_outputs" / "square_008um"
    (bins / "spatial").mkdir(parents=True)
    places = np.column_stack([column[inside], row[inside]]).astype(float)
    _write_matrix(bins / "filtered_feature_bc_matrix.h5", names[inside], counts(places, N_GENES, 0), 0)
    table = {"barcode": names, "in_tissue": inside.astype(int), "array_row": row, "array_col": column}
    pixels = {"pxl_row_in_fullres": row * 29.2, "pxl_col_in_fullres": column * 29.2}
    pd.DataFrame({**table, **pixels}).to_parquet(bins / "spatial" / "tissue_positions.parquet", index=False)


def make_visium_hd_cells(folder: Path, n_obs: int) -> None:
    """Segmented cells: a matrix in HDF5, and their outlines as GeoJSON on one line."""
    cells = folder / "segmented_outputs"
    cells.mkdir(parents=True)
    places = positions(n_obs, np.random.default_rng(0)) * 38
    names = np.array([f"cellid_{i + 1:09d}-1" for i in range(n_obs)])
    _write_matrix(cells / "filtered_feature_cell_matrix.h5", names, counts(places, N_GENES, 0), 0)
    angles = np.linspace(0, 2 * np.pi, N_CORNERS + 1)
    circle = 15 * np.column_stack([np.cos(angles), np.sin(angles)])
    with (cells / "cell_segmentations.geojson").open("w") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for i, place in enumerate(places):
            outline = {"type": "Polygon", "coordinates": [(place + circle).round(2).tolist()]}
            about = {"type": "Feature", "geometry": outline, "properties": {"cell_id": i + 1}}
            file.write(f"{', ' if i else ''}{json.dumps(about)}")
        file.write("]}")


def _with_controls(chunks: Iterator[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    for chunk in chunks:
        ones = sparse.random(chunk.shape[0], N_CONTROLS, 0.01, format="csr", dtype=np.float32, random_state=0)
        ones.data[:] = 1
        yield sparse.hstack([chunk, ones], format="csr")


def _write_matrix(
    path: Path, names: np.ndarray, chunks: Iterator[sparse.csr_matrix], n_controls: int
) -> None:
    """10x' HDF5 format, written by chunks."""
    with h5py.File(path, "w") as file:
        group, n_stored, ends = file.create_group("matrix"), 0, [np.zeros(1, dtype=np.int64)]
        parts = {"data": np.int32, "indices": np.int64}
        for name, dtype in parts.items():
            group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(80_000,), compression="gzip")
        for chunk in chunks:
            for name, dtype in parts.items():
                group[name].resize((n_stored + chunk.nnz,))
                group[name][n_stored:] = getattr(chunk, name).astype(dtype)
            ends.append(chunk.indptr[1:].astype(np.int64) + n_stored)
            n_stored += chunk.nnz
        n_features = N_GENES + n_controls
        group["indptr"], group["barcodes"] = np.concatenate(ends), names.astype("S")
        group["shape"] = np.array([n_features, len(names)], dtype=np.int32)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(n_features)], dtype="S")
        features["name"] = np.array([f"gene_{i}" for i in range(n_features)], dtype="S")
        types = ["Gene Expression"] * N_GENES + ["Negative Control Probe"] * n_controls
        features["feature_type"] = np.array(types, dtype="S")
        features["genome"] = np.array(["GRCh38"] * n_features, dtype="S")


MAKERS = {
    "xenium": make_xenium,
    "xenium_mex": make_xenium_mex,
    "xenium_zarr": make_xenium_zarr,
    "visium_hd": make_visium_hd,
    "visium_hd_cells": make_visium_hd_cells,
}


def _letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{number * 40_009 % 2**32:08x}")
