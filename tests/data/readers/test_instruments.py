"""Folders of instruments, made as their formats are specified; docs/inputs.md is checked by these."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from PIL import Image
from scipy import io as matrix_market
from scipy import sparse

from isovi.data import io
from isovi.data.inspect import inspect
from isovi.data.readers.segmented import features_of, read_outlines
from isovi.data.readers.xenium import cell_names
from isovi.errors import InputError, IsoviWarning
from isovi.progress import Silent

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*autosharding.*",
    "ignore:Writing zarr v2 data:UserWarning",
    "ignore:Duplicate name.*",
    "ignore:Use .squidpy.*",
)
N_OBS, N_GENES = 12, 5
PIXELS = "pixels of the full-resolution image"


@pytest.fixture
def tissue() -> AnnData:
    """Twelve cells with five genes, and a control probe behind them."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(1.0, (N_OBS, N_GENES + 1)) + 1, dtype=np.float32)
    var = pd.DataFrame(index=[*(f"gene{i}" for i in range(N_GENES)), "NegControlProbe_1"])
    adata = AnnData(counts, obs=pd.DataFrame(index=[f"cell{i}-1" for i in range(N_OBS)]), var=var)
    adata.obsm["spatial"] = rng.uniform(0, 500, (N_OBS, 2)).round(2)
    return adata


# ---------------------------------------------------------------------------- parts of layouts


def types_of(
    adata: AnnData, gene: str = "Gene Expression", control: str = "Negative Control Probe"
) -> list[str]:
    return [gene if name.startswith("gene") else control for name in adata.var_names]


def write_h5(path: Path, adata: AnnData, **attrs: Any) -> None:
    """10x' HDF5 format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(attrs)
        group = file.create_group("matrix")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["data"], group["indices"] = adata.X.data.astype(np.int32), adata.X.indices.astype(np.int64)
        group["indptr"], group["shape"] = adata.X.indptr.astype(np.int64), np.array(adata.shape[::-1])
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(adata.n_vars)], dtype="S")
        features["name"] = np.array(adata.var_names, dtype="S")
        features["feature_type"] = np.array(types_of(adata), dtype="S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def write_mtx(folder: Path, adata: AnnData, prefix: str = "", end: str = ".gz", legacy: bool = False) -> None:
    """10x' Matrix Market format: of today, or of Cell Ranger 2."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "plain.mtx"
    matrix_market.mmwrite(plain, sparse.coo_matrix(adata.X.T.astype(int)))
    write_text(folder / f"{prefix}matrix.mtx{end}", plain.read_text())
    plain.unlink()
    columns = [f"ENSG{i}\t{name}" for i, name in enumerate(adata.var_names)]
    if not legacy:
        columns = [f"{line}\t{kind}" for line, kind in zip(columns, types_of(adata), strict=True)]
    name = "genes" if legacy else "features"
    write_text(folder / f"{prefix}{name}.tsv{end}", "\n".join(columns) + "\n")
    write_text(folder / f"{prefix}barcodes.tsv{end}", "\n".join(adata.obs_names) + "\n")


def spots_of(adata: AnnData) -> pd.DataFrame:
    x, y = adata.obsm["spatial"].T
    columns = {
        "barcode": adata.obs_names,
        "in_tissue": 1,
        "array_row": 0,
        "array_col": np.arange(adata.n_obs),
    }
    return pd.DataFrame({**columns, "pxl_row_in_fullres": y, "pxl_col_in_fullres": x}).iloc[::-1]


def write_images(folder: Path, prefix: str = "", end: str = "", **more: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scale = {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.03}
    scale |= more or {"spot_diameter_fullres": 20.0}
    write_text(folder / f"{prefix}scalefactors_json.json{end}", json.dumps(scale))
    for kind, side in (("hires", 60), ("lowres", 18)):
        path = folder / f"{prefix}tissue_{kind}_image.png"
        Image.fromarray(np.full((side, side, 3), side, dtype=np.uint8)).save(path)
        if end:
            path.with_name(path.name + end).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()


def write_zarr_matrix(path: Path, adata: AnnData, ids: np.ndarray) -> None:
    """Xenium's cell_feature_matrix.zarr.zip: a row for each feature."""
    counts = adata.X.T.tocsr()
    with zarr.storage.ZipStore(path, mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=2).create_group("cell_features")
        for name, values in (("data", counts.data), ("indices", counts.indices), ("indptr", counts.indptr)):
            group.create_array(name, data=values.astype(np.uint32))
        group.create_array("cell_id", data=ids)
        group.attrs.update(
            number_cells=adata.n_obs,
            number_features=adata.n_vars,
            feature_keys=list(adata.var_names),
            feature_ids=[f"ENSG{i}" for i in range(adata.n_vars)],
            feature_types=types_of(adata, "gene", "negative_control_probe"),
        )


def write_zarr_cells(path: Path, adata: AnnData, ids: np.ndarray) -> None:
    """Xenium's cells.zarr.zip."""
    names = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
    values = np.column_stack([adata.obsm["spatial"], np.full(adata.n_obs, 9.0), adata.obsm["spatial"] + 1])
    with zarr.storage.ZipStore(path, mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=2)
        group.create_array("cell_id", data=ids)
        group.create_array("cell_summary", data=values).attrs.update(column_names=names)


def xenium_ids(adata: AnnData) -> np.ndarray:
    """Ids of cells as in zarr; the cells get the names that these have in the tables."""
    ids = np.column_stack([np.arange(adata.n_obs) * 5_000_011 + 1437536272, np.ones(adata.n_obs)]).astype(
        np.uint32
    )
    adata.obs_names = cell_names(ids)
    return ids


def cells_of(adata: AnnData) -> pd.DataFrame:
    x, y = adata.obsm["spatial"].T
    return pd.DataFrame({"cell_id": adata.obs_names, "x_centroid": x, "y_centroid": y, "cell_area": 9.5})


def square(x: float, y: float) -> list[list[float]]:
    return [[x - 2, y - 1], [x + 2, y - 1], [x + 2, y + 1], [x - 2, y + 1], [x - 2, y - 1]]


def write_outlines(path: Path, adata: AnnData) -> None:
    """Space Ranger's outlines of cells; in another order than the matrix, one of them in two parts."""
    features = []
    for number in reversed(range(adata.n_obs)):
        x, y = map(float, adata.obsm["spatial"][number])
        shape = {"type": "Polygon", "coordinates": [square(x, y)]}
        if number == 3:
            shape = {"type": "MultiPolygon", "coordinates": [[square(x - 5, y)], [square(x + 5, y)]]}
        features.append({"type": "Feature", "geometry": shape, "properties": {"cell_id": number + 1}})
    write_text(path, json.dumps({"type": "FeatureCollection", "features": features}))


# ---------------------------------------------------------------------------- layouts


def space_ranger_1(adata: AnnData, folder: Path) -> Path:
    write_mtx(folder / "filtered_feature_bc_matrix", adata)
    path = folder / "spatial" / "tissue_positions_list.csv"
    write_text(path, spots_of(adata).to_csv(index=False, header=False))
    return folder


def space_ranger_2(adata: AnnData, folder: Path) -> Path:
    attrs = {"library_ids": np.array(["V1_Brain"], dtype="S"), "chemistry_description": "Visium V1"}
    write_h5(folder / "outs" / "filtered_feature_bc_matrix.h5", adata, **attrs)
    write_text(folder / "outs" / "spatial" / "tissue_positions.csv", spots_of(adata).to_csv(index=False))
    write_images(folder / "outs" / "spatial")
    return folder


def geo_visium(adata: AnnData, folder: Path) -> Path:
    write_h5(folder / "GSM1_A1_filtered_feature_bc_matrix.h5", adata)
    write_text(
        folder / "GSM1_A1_tissue_positions_list.csv.gz", spots_of(adata).to_csv(index=False, header=False)
    )
    write_images(folder, "GSM1_A1_", ".gz")
    return folder


def visium_hd(adata: AnnData, folder: Path) -> Path:
    bins = folder / "binned_outputs" / "square_008um"
    write_h5(bins / "filtered_feature_bc_matrix.h5", adata)
    write_images(bins / "spatial")
    spots_of(adata).to_parquet(bins / "spatial" / "tissue_positions.parquet", index=False)
    return folder


def segmented(adata: AnnData, folder: Path) -> Path:
    adata.obs_names = [f"cellid_{i + 1:09d}-1" for i in range(adata.n_obs)]
    cells = folder / "segmented_outputs"
    write_h5(cells / "filtered_feature_cell_matrix.h5", adata)
    write_outlines(cells / "cell_segmentations.geojson", adata)
    write_images(cells / "spatial", fiducial_diameter_fullres=1206.5, regist_target_img_scalef=0.1)
    return folder


def segmented_nuclei(adata: AnnData, folder: Path) -> Path:
    cells = segmented(adata, folder) / "segmented_outputs"
    (cells / "cell_segmentations.geojson").rename(cells / "nucleus_segmentations.geojson")
    return folder


def xenium_h5(adata: AnnData, folder: Path) -> Path:
    write_h5(folder / "cell_feature_matrix.h5", adata)
    cells_of(adata).to_parquet(folder / "cells.parquet", index=False)
    return folder


def xenium_mex(adata: AnnData, folder: Path) -> Path:
    write_mtx(folder / "cell_feature_matrix", adata)
    write_text(folder / "cells.csv.gz", cells_of(adata).to_csv(index=False))
    return folder


def xenium_zarr(adata: AnnData, folder: Path) -> Path:
    ids = xenium_ids(adata)
    folder.mkdir(parents=True)
    write_zarr_matrix(folder / "cell_feature_matrix.zarr.zip", adata, ids)
    write_zarr_cells(folder / "cells.zarr.zip", adata, ids)
    return folder


def merscope(adata: AnnData, folder: Path) -> Path:
    genes = adata[:, :N_GENES]
    write_text(folder / "cell_by_gene.csv", genes.to_df().astype(int).to_csv(index_label="cell"))
    x, y = adata.obsm["spatial"].T
    table = {"fov": 1, "volume": 100.5, "center_x": x, "center_y": y, "min_x": x - 1, "max_x": x + 1}
    write_text(folder / "cell_metadata.csv", pd.DataFrame(table, index=adata.obs_names).to_csv())
    return folder


def cosmx(adata: AnnData, folder: Path) -> Path:
    """Two fields of view whose cells are numbered anew; cell 0 of each is what lies outside of cells."""
    numbers, fov = np.tile(np.arange(1, N_OBS // 2 + 1), 2), np.repeat([1, 2], N_OBS // 2)
    adata.obs_names = [f"{cell}_{of}" for cell, of in zip(numbers, fov, strict=True)]
    counts = adata[:, :N_GENES].to_df().astype(int)
    counts.insert(0, "cell_ID", numbers)
    counts.insert(0, "fov", fov)
    outside = counts.iloc[[0, -1]].assign(cell_ID=0)
    write_text(folder / "S1_exprMat_file.csv.gz", pd.concat([outside, counts]).to_csv(index=False))
    x, y = adata.obsm["spatial"].T
    table = {"fov": fov, "cell_ID": numbers, "Area": 100, "CenterX_local_px": 1, "CenterY_local_px": 1}
    table |= {"CenterX_global_px": x, "CenterY_global_px": y}
    write_text(folder / "S1_metadata_file.csv.gz", pd.DataFrame(table).to_csv(index=False))
    return folder


def geo_matrix(adata: AnnData, folder: Path) -> Path:
    write_mtx(folder, adata, "GSM2_slideA_")
    write_text(folder / "GSM2_slideA_tissue_positions.csv.gz", spots_of(adata).to_csv(index=False))
    return folder


def plain_matrix(adata: AnnData, folder: Path) -> Path:
    """Cell Ranger 2, uncompressed: all features are genes."""
    write_mtx(folder, adata[:, :N_GENES], end="", legacy=True)
    write_text(folder / "tissue_positions_list.csv", spots_of(adata).to_csv(index=False, header=False))
    return folder


@dataclass(frozen=True)
class Layout:
    """A folder that a program writes, and what is to be read of it."""

    vendor: str
    version: str
    make: Callable[[AnnData, Path], Path]
    kind: str
    files: tuple[str, ...]
    unit: str


LAYOUTS = (
    Layout(
        "10x Visium",
        "Space Ranger 1",
        space_ranger_1,
        "10x Visium",
        ("filtered_feature_bc_matrix", "tissue_positions_list.csv"),
        PIXELS,
    ),
    Layout(
        "10x Visium",
        "Space Ranger 2 and later",
        space_ranger_2,
        "10x Visium",
        ("filtered_feature_bc_matrix.h5", "tissue_positions.csv"),
        PIXELS,
    ),
    Layout(
        "10x Visium",
        "as in GEO",
        geo_visium,
        "10x Visium",
        ("GSM1_A1_filtered_feature_bc_matrix.h5", "GSM1_A1_tissue_positions_list.csv.gz"),
        PIXELS,
    ),
    Layout(
        "10x Visium HD",
        "Space Ranger 3 and later, bins",
        visium_hd,
        "10x Visium HD",
        ("filtered_feature_bc_matrix.h5", "tissue_positions.parquet"),
        PIXELS,
    ),
    Layout(
        "10x Visium HD",
        "Space Ranger 4, cells",
        segmented,
        "10x Visium HD, segmented cells",
        ("filtered_feature_cell_matrix.h5", "cell_segmentations.geojson"),
        PIXELS,
    ),
    Layout(
        "10x Visium HD",
        "Space Ranger 4, outlines of nuclei only",
        segmented_nuclei,
        "10x Visium HD, segmented cells",
        ("filtered_feature_cell_matrix.h5", "nucleus_segmentations.geojson"),
        PIXELS,
    ),
    Layout(
        "10x Xenium",
        "1 and later",
        xenium_h5,
        "10x Xenium",
        ("cell_feature_matrix.h5", "cells.parquet"),
        "micrometres",
    ),
    Layout(
        "10x Xenium",
        "1 and later, MEX",
        xenium_mex,
        "10x Xenium",
        ("cell_feature_matrix", "cells.csv.gz"),
        "micrometres",
    ),
    Layout(
        "10x Xenium",
        "1.3 and later, zarr",
        xenium_zarr,
        "10x Xenium",
        ("cell_feature_matrix.zarr.zip", "cells.zarr.zip"),
        "micrometres",
    ),
    Layout(
        "Vizgen MERSCOPE",
        "1 and later",
        merscope,
        "Vizgen MERSCOPE",
        ("cell_by_gene.csv", "cell_metadata.csv"),
        "micrometres",
    ),
    Layout(
        "NanoString CosMx",
        "flat files",
        cosmx,
        "NanoString CosMx",
        ("S1_exprMat_file.csv.gz", "S1_metadata_file.csv.gz"),
        "pixels",
    ),
    Layout(
        "Matrix Market",
        "as in GEO",
        geo_matrix,
        "10x matrix",
        (
            "GSM2_slideA_matrix.mtx.gz",
            "GSM2_slideA_barcodes.tsv.gz",
            "GSM2_slideA_features.tsv.gz",
            "GSM2_slideA_tissue_positions.csv.gz",
        ),
        PIXELS,
    ),
    Layout(
        "Matrix Market",
        "Cell Ranger 2",
        plain_matrix,
        "10x matrix",
        ("matrix.mtx", "barcodes.tsv", "genes.tsv", "tissue_positions_list.csv"),
        PIXELS,
    ),
)
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: one.make.__name__)


@layouts
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_a_folder_is_read(layout: Layout, tissue: AnnData, tmp_path: Path) -> None:
    folder = layout.make(tissue, tmp_path / "given")
    reader = io.find(folder)
    assert (reader.kind, tuple(path.name for path in reader.files), reader.unit) == (
        layout.kind,
        layout.files,
        layout.unit,
    )
    found = io.read(folder)
    assert found.obs_names.tolist() == tissue.obs_names.tolist()
    assert found.var_names.tolist() == [f"gene{i}" for i in range(N_GENES)]
    assert (tissue.X[:, :N_GENES] != found.X).nnz == 0
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])
    assert inspect(folder).missing == ()


@layouts
def test_the_table_of_formats_is_what_is_read(layout: Layout) -> None:
    page = (Path(__file__).parents[3] / "docs" / "inputs.md").read_text(encoding="utf-8")
    files = ", ".join(f"`{name}`" for name in layout.files)
    assert f"| {layout.vendor} | {layout.version} | {files} | {layout.unit} |" in page


# ---------------------------------------------------------------------------- what is special


def test_names_of_xenium_cells_are_those_of_the_tables() -> None:
    """The examples of the format's page."""
    ids = np.array([[1, 1], [1437536272, 1], [1437536273, 2], [0, 1], [4294967295, 1]], dtype=np.uint32)
    assert cell_names(ids).tolist() == ["aaaaaaab-1", "ffkpbaba-1", "ffkpbabb-2", "aaaaaaaa-1", "pppppppp-1"]
    assert cell_names(np.array([7, 9], dtype=np.uint32)).tolist() == ["7", "9"]


@pytest.mark.parametrize(
    ("matrix", "cells"),
    [("h5", "csv"), ("h5", "csv.gz"), ("h5", "zarr.zip"), ("mex", "zarr.zip"), ("zarr.zip", "parquet")],
)
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_any_matrix_of_xenium_goes_with_any_table_of_cells(
    matrix: str, cells: str, tissue: AnnData, tmp_path: Path
) -> None:
    ids = xenium_ids(tissue)
    write = {
        "h5": lambda: write_h5(tmp_path / "cell_feature_matrix.h5", tissue),
        "mex": lambda: write_mtx(tmp_path / "cell_feature_matrix", tissue),
        "zarr.zip": lambda: write_zarr_matrix(tmp_path / "cell_feature_matrix.zarr.zip", tissue, ids),
    }
    write[matrix]()
    if cells == "zarr.zip":
        write_zarr_cells(tmp_path / "cells.zarr.zip", tissue, ids)
    elif cells == "parquet":
        cells_of(tissue).to_parquet(tmp_path / "cells.parquet", index=False)
    else:
        write_text(tmp_path / f"cells.{cells}", cells_of(tissue).to_csv(index=False))
    found = io.read(tmp_path)
    assert (tissue.X[:, :N_GENES] != found.X).nnz == 0
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])


@pytest.mark.parametrize("name", ["morphology_focus/ch0000_dapi.ome.tif", "morphology.ome.tif"])
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_the_morphology_of_xenium_is_reduced_to_where_its_cells_are(
    name: str, tissue: AnnData, tmp_path: Path
) -> None:
    """A stack of 3,000 pixels of 0.2 micrometres a side, with a bright square around the first cell."""
    tifffile = pytest.importorskip("tifffile")
    xenium_h5(tissue, tmp_path)
    x, y = (round(float(one) / 0.2) for one in tissue.obsm["spatial"][0])
    stack = np.full((2, 3000, 3000), 90, dtype=np.uint16)
    stack[1, max(y - 40, 0) : y + 40, max(x - 40, 0) : x + 40] = 4000
    (tmp_path / name).parent.mkdir(exist_ok=True)
    about = {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / name, stack, ome=True, metadata=about)
    (library,) = io.read(tmp_path).uns["spatial"].values()
    pixels, scale = library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"]
    assert pixels.shape == (1500, 1500, 3) and scale == pytest.approx(2.5)
    column, row = (tissue.obsm["spatial"] * scale).astype(int).T
    assert pixels[row[0], column[0]].tolist() == [255] * 3
    far = np.abs(tissue.obsm["spatial"] - tissue.obsm["spatial"][0]).max(axis=1) > 10
    assert far.any() and (pixels[row[far], column[far]] == 0).all()


def test_a_morphology_that_cannot_be_read_is_left_out_and_said(tissue: AnnData, tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    xenium_h5(tissue, tmp_path)
    (tmp_path / "morphology.ome.tif").write_bytes(b"no image")
    with pytest.warns(IsoviWarning, match=r'"morphology\.ome\.tif" was left out'):
        found = io.read(tmp_path)
    assert "spatial" not in found.uns and found.n_obs == N_OBS


def test_features_that_are_no_genes_are_said(tissue: AnnData, tmp_path: Path) -> None:
    for make in (xenium_zarr, geo_matrix):
        with pytest.warns(IsoviWarning, match=r"1 of 6 features are controls or no genes and are left out"):
            io.read(make(tissue, tmp_path / make.__name__))


def test_outlines_are_read_in_blocks(
    tissue: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a block ends: the same features, and the same centroids."""
    path = tmp_path / "cells.geojson"
    write_outlines(path, tissue)
    for size in (1, 7, 64, 100_000):
        monkeypatch.setattr("isovi.data.readers.segmented._BLOCK", size)
        assert list(features_of(path)) == json.loads(path.read_text())["features"]
    found = read_outlines(path).table.loc[[f"cellid_{i + 1:09d}-1" for i in range(N_OBS)], ["x", "y"]]
    np.testing.assert_allclose(found.to_numpy(), tissue.obsm["spatial"])


@pytest.mark.parametrize(
    "text", ['{"type": "FeatureCollection"}', '{"features": [{"type": "Feat', "text", '{"features": [1]}']
)
def test_outlines_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "cells.geojson").write_text(text)
    with pytest.raises(InputError, match="GeoJSON with the outlines of cells"):
        read_outlines(tmp_path / "cells.geojson")


@pytest.mark.parametrize("text", ["{}", "[]", "", ' {"type": "FeatureCollection", "features": []}\n'])
def test_a_file_without_outlines_is_named(text: str, tissue: AnnData, tmp_path: Path) -> None:
    segmented(tissue, tmp_path)
    (tmp_path / "segmented_outputs" / "cell_segmentations.geojson").write_text(text)
    with pytest.raises(InputError, match=r"has no outlines of cells.*pass the positions .* coordinates=FILE"):
        io.read(tmp_path)
    cells_of(tissue).to_csv(tmp_path / "cells.csv", index=False)
    matrix = tmp_path / "segmented_outputs" / "filtered_feature_cell_matrix.h5"
    with pytest.warns(IsoviWarning, match="1 of 6 features are controls"):
        found = io.read(io.Source(matrix, coordinates=tmp_path / "cells.csv"))
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])


def test_centroids_are_those_of_the_area(tmp_path: Path) -> None:
    """Of an L, of a square whose corners come twice, and of a line."""
    ell = [[0, 0], [4, 0], [4, 1], [1, 1], [1, 4], [0, 4], [0, 0]]
    twice = [[0, 0], [0, 0], [0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]
    shapes = [ell, [[x + 1e6, y + 1e6] for x, y in twice], [[0, 0], [2, 2], [0, 0]]]
    features = [
        {"geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"cell_id": name}}
        for name, ring in zip("abc", shapes, strict=True)
    ]
    write_text(tmp_path / "x.geojson", json.dumps({"features": features}))
    found = read_outlines(tmp_path / "x.geojson").table.to_numpy(dtype=float)
    centre = (4 * 2 + 3 * 0.5) / 7  # of a bar of 4 x 1, and one of 1 x 3 above it
    np.testing.assert_allclose(found[0], [centre, centre])
    np.testing.assert_allclose(found[1], [1e6 + 1, 1e6 + 1], rtol=1e-12)
    assert (found[2] > 0).all() and (found[2] < 2).all()


def test_bins_are_read_where_there_are_both_and_the_cells_are_named(tissue: AnnData, tmp_path: Path) -> None:
    visium_hd(tissue, tmp_path)
    segmented(tissue, tmp_path)
    assert io.find(tmp_path).kind == "10x Visium HD"
    assert io.find(tmp_path).about["also there"] == "segmented cells, in segmented_outputs"
    assert io.find(tmp_path / "segmented_outputs").kind == "10x Visium HD, segmented cells"


def test_cells_outside_of_the_outlines_are_said(tissue: AnnData, tmp_path: Path) -> None:
    segmented(tissue, tmp_path)
    write_outlines(tmp_path / "segmented_outputs" / "cell_segmentations.geojson", tissue[:-2])
    with pytest.warns(IsoviWarning, match=r'2 of 12 cells have no position in "cell_segmentations.geojson"'):
        assert io.read(tmp_path).n_obs == N_OBS - 2


def renamed_ids(how: Callable[[int], Any]) -> Callable[[Path, Path], None]:
    """Change the ids of the outlines, which are numbers or barcodes."""

    def change(_: Path, outlines: Path) -> None:
        whole = json.loads(outlines.read_text())
        for one in whole["features"]:
            number = re.sub(r"cellid_|-1$", "", str(one["properties"]["cell_id"]))
            one["properties"]["cell_id"] = how(int(number))
        outlines.write_text(json.dumps(whole, indent=1))

    return change


def compressed(_: Path, outlines: Path) -> None:
    outlines.with_name(f"{outlines.name}.gz").write_bytes(gzip.compress(outlines.read_bytes()))
    outlines.unlink()


def as_market(folder: Path, _: Path) -> None:
    (folder / "filtered_feature_cell_matrix.h5").unlink()


SEGMENTED: dict[str, Callable[[Path, Path], None]] = {
    "Matrix Market": as_market,
    "compressed": compressed,
    "ids as text": renamed_ids(str),
    "ids with decimals": renamed_ids(float),
    "ids as barcodes": renamed_ids(lambda number: f"cellid_{number:09d}-1"),
}


@pytest.mark.parametrize("how", list(SEGMENTED))
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_segmented_cells_are_read_however_they_are_written(how: str, tissue: AnnData, tmp_path: Path) -> None:
    cells = segmented(tissue, tmp_path / "outs") / "segmented_outputs"
    if how == "Matrix Market":
        write_mtx(cells / "filtered_feature_cell_matrix", tissue)
    SEGMENTED[how](cells, cells / "cell_segmentations.geojson")
    found = io.read(tmp_path / "outs")
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])
    assert found.obs_names.equals(tissue.obs_names) and (tissue.X[:, : found.n_vars] != found.X).nnz == 0


def test_a_cell_without_an_outline_is_left_out(tissue: AnnData, tmp_path: Path) -> None:
    outlines = segmented(tissue, tmp_path) / "segmented_outputs" / "cell_segmentations.geojson"
    whole = json.loads(outlines.read_text())
    whole["features"][0]["geometry"] = None
    outlines.write_text(json.dumps(whole))
    with pytest.warns(IsoviWarning, match="1 of 12 cells have an empty position"):
        assert io.read(tmp_path).n_obs == N_OBS - 1


def test_cells_of_a_field_without_a_row_are_left_out(tissue: AnnData, tmp_path: Path) -> None:
    with pytest.warns(
        IsoviWarning, match=r"2 rows are cell 0, the counts between the cells of a field, and are left out"
    ):
        found = io.read(cosmx(tissue, tmp_path / "c"))
    assert found.obs["fov"].tolist() == [1] * 6 + [2] * 6


@pytest.mark.parametrize(
    ("prefix", "end", "legacy"),
    [
        ("GSM1_", ".gz", False),
        ("sampleA.", "", False),
        ("P01-", ".gz", True),
        ("", "", False),
        ("", ".gz", True),
    ],
)
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_any_prefix_will_do(prefix: str, end: str, legacy: bool, tissue: AnnData, tmp_path: Path) -> None:
    write_mtx(tmp_path / "m", tissue[:, :N_GENES], prefix, end, legacy)
    cells_of(tissue).to_csv(tmp_path / "cells.csv", index=False)
    found = io.read(io.Source(tmp_path / "m", coordinates=tmp_path / "cells.csv"))
    assert (tissue.X[:, :N_GENES] != found.X).nnz == 0
    assert found.var["gene_ids"].tolist() == [f"ENSG{i}" for i in range(N_GENES)]
    assert inspect(tmp_path / "m").missing[0].startswith("Positions: obsm has nothing")


@pytest.mark.parametrize("prefix", ["GSM7_A1_", "P-1."])
@pytest.mark.parametrize(
    "make",
    [
        space_ranger_1,
        space_ranger_2,
        visium_hd,
        segmented,
        xenium_h5,
        xenium_mex,
        xenium_zarr,
        merscope,
        cosmx,
    ],
)
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_files_of_any_instrument_may_have_a_prefix(
    make: Callable[[AnnData, Path], Path], prefix: str, tissue: AnnData, tmp_path: Path
) -> None:
    """All in one folder, as in GEO."""
    flat = tmp_path / "flat"
    flat.mkdir()
    (tmp_path / "whole").mkdir()
    make(tissue, tmp_path / "whole" / "x")
    for path in (path for path in (tmp_path / "whole").rglob("*") if path.is_file()):
        path.rename(flat / f"{prefix}{path.name}")
    found = io.read(flat)
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"], atol=0.01)
    assert ("spatial" in found.uns) == (make in (space_ranger_2, visium_hd, segmented))


@pytest.mark.parametrize("make", [space_ranger_2, segmented, cosmx, xenium_h5])
def test_counts_of_one_sample_and_positions_of_another_are_refused(
    make: Callable[[AnnData, Path], Path], tissue: AnnData, tmp_path: Path
) -> None:
    """Their cells have the same names."""
    for number, sample in enumerate((tissue, tissue.copy())):
        made = tmp_path / str(number)
        made.mkdir()
        make(sample, made / "x")
        for path in sorted(path for path in made.rglob("*") if path.is_file()):
            counts = re.search(r"matrix|exprMat", path.name)
            if bool(counts) == (number == 0):
                path.rename(tmp_path / f"GSM{number}_{path.name}")
        shutil.rmtree(made)
    with pytest.raises(InputError, match=r'Counts are in "GSM0_.*" and positions in "GSM1_.*begin alike'):
        io.find(tmp_path)


def test_several_samples_in_a_folder_are_listed(tissue: AnnData, tmp_path: Path) -> None:
    for prefix in ("GSM1_", "GSM2_"):
        write_mtx(tmp_path, tissue, prefix)
    with pytest.raises(InputError, match=r'2 matrices, whose names begin with "GSM1_", "GSM2_"'):
        io.find(tmp_path)
    merscope(tissue, tmp_path / "m")
    (tmp_path / "m" / "copy_of_cell_by_gene.csv").write_text("cell,a\n1,2\n")
    with pytest.raises(InputError, match="several tables of Vizgen MERSCOPE"):
        io.find(tmp_path / "m")


def test_files_that_do_not_belong_together_are_refused(tissue: AnnData, tmp_path: Path) -> None:
    write_mtx(tmp_path, tissue, "a_")
    write_text(tmp_path / "a_barcodes.tsv.gz", "one\ntwo\n")
    with pytest.raises(InputError, match=r"6 rows and 12 columns, .* 6 lines and .* 2\."):
        io.read(tmp_path)


# ---------------------------------------------------------------------------- names of cells


def shuffled(path: Path, **kwargs: Any) -> None:
    """Bring the rows of a table to another order."""
    if path.suffix == ".parquet":
        pd.read_parquet(path).sample(frac=1, random_state=3).to_parquet(path, index=False)
        return
    table = pd.read_csv(path, dtype=str, keep_default_na=False, **kwargs)
    table.sample(frac=1, random_state=3).to_csv(path, index=False, header="header" not in kwargs)


SHUFFLED = [  # what is written, and the tables of it whose rows come in any order
    (space_ranger_1, {"spatial/tissue_positions_list.csv": {"header": None}}),
    (space_ranger_2, {"outs/spatial/tissue_positions.csv": {}}),
    (visium_hd, {"binned_outputs/square_008um/spatial/tissue_positions.parquet": {}}),
    (xenium_h5, {"cells.parquet": {}}),
    (xenium_mex, {"cells.csv.gz": {}}),
    (merscope, {"cell_metadata.csv": {}}),
    (cosmx, {"S1_metadata_file.csv.gz": {}}),
    (geo_matrix, {"GSM2_slideA_tissue_positions.csv.gz": {}}),
]


@pytest.mark.parametrize(("make", "tables"), SHUFFLED, ids=lambda one: getattr(one, "__name__", ""))
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_cells_are_joined_by_name_and_never_by_row(
    make: Callable[[AnnData, Path], Path], tables: dict[str, dict[str, Any]], tissue: AnnData, tmp_path: Path
) -> None:
    folder = make(tissue, tmp_path / "given")
    for name, how in tables.items():
        shuffled(folder / name, **how)
    found = io.read(folder)
    assert found.obs_names.tolist() == tissue.obs_names.tolist()
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])
    assert (tissue.X[:, :N_GENES] != found.X).nnz == 0


@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_counts_of_cosmx_may_come_in_any_order(tissue: AnnData, tmp_path: Path) -> None:
    folder = cosmx(tissue, tmp_path / "given")
    shuffled(folder / "S1_exprMat_file.csv.gz")
    found = io.read(folder)[tissue.obs_names]
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])
    assert (tissue.X[:, :N_GENES] != found.X).nnz == 0
    assert found.obs["fov"].tolist() == [1] * 6 + [2] * 6


@pytest.mark.parametrize("ids", ["text", "int64", "float64"])
@pytest.mark.parametrize("vendor", ["Xenium", "MERSCOPE"])
@pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
def test_numbers_of_cells_may_be_of_any_type(vendor: str, ids: str, tissue: AnnData, tmp_path: Path) -> None:
    """MERSCOPE's have 19 digits, of which a float keeps 16."""
    first = 2_110_000_000_000_000_000 if vendor == "MERSCOPE" and ids != "float64" else 1
    numbers = np.arange(N_OBS) + first
    tissue.obs_names = numbers.astype(str)
    types = {"text": numbers.astype(str), "int64": numbers, "float64": numbers.astype(float)}
    if vendor == "Xenium":
        xenium_h5(tissue, tmp_path)
        table = cells_of(tissue).assign(cell_id=types[ids])
        table.iloc[::-1].to_parquet(tmp_path / "cells.parquet", index=False)
    else:
        merscope(tissue, tmp_path)
        table = pd.read_csv(tmp_path / "cell_metadata.csv", index_col=0)
        table.insert(0, "EntityID", types[ids])
        table.iloc[::-1].to_csv(tmp_path / "cell_metadata.csv", index=False)
    found = io.read(tmp_path)
    assert found.obs_names.tolist() == tissue.obs_names.tolist()
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])


# ---------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("make", "library"),
    [
        (space_ranger_2, "V1_Brain"),
        (geo_visium, "GSM1_A1"),
        (visium_hd, "square_008um"),
        (segmented, "given"),
    ],
)
def test_images_and_scale_factors_come_along_and_scanpy_draws_them(
    make: Callable[[AnnData, Path], Path], library: str, tissue: AnnData, tmp_path: Path
) -> None:
    import scanpy as sc

    mpl.use("agg")
    found = io.read(make(tissue, tmp_path / "given"))
    kept = found.uns["spatial"][library]
    assert {name: image.shape for name, image in kept["images"].items()} == {
        "hires": (60, 60, 3),
        "lowres": (18, 18, 3),
    }
    assert kept["scalefactors"]["tissue_hires_scalef"] == 0.1
    io.write_atomic(found, tmp_path / "written.h5ad")
    again = io.read(tmp_path / "written.h5ad")
    (axes,) = sc.pl.spatial(again, color="gene0", show=False)
    np.testing.assert_array_equal(axes.images[0].get_array(), kept["images"]["hires"])
    circles = [path.get_extents() for path in axes.collections[0].get_paths()]
    drawn = np.array([[(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] for box in circles])
    order = [np.argsort(places[:, 0]) for places in (drawn, tissue.obsm["spatial"])]  # drawn by expression
    np.testing.assert_allclose(drawn[order[0]], tissue.obsm["spatial"][order[1]] * 0.1)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> AnnData:
    """What a fit of a Visium folder writes."""
    from isovi import files  # the models take seconds to import, and only this needs them
    from isovi.run import Settings

    rng = np.random.default_rng(0)
    adata = AnnData(sparse.csr_matrix(rng.poisson(2.0, (60, 8)) + 1, dtype=np.float32))
    adata.obs_names, adata.var_names = [f"cell{i}-1" for i in range(60)], [f"gene{i}" for i in range(8)]
    adata.obsm["spatial"] = rng.uniform(0, 500, (60, 2)).round(2)
    folder = tmp_path_factory.mktemp("visium")
    settings = Settings(holdout=0.2, n_latent=2, max_epochs=1)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(files, "draw", lambda *_: None)  # plots take longer than the fit
        files.fit(space_ranger_2(adata, folder / "given"), folder / "run", settings, progress=Silent())
        return anndata.io.read_h5ad(folder / "run" / "adata.h5ad")


@pytest.mark.parametrize("color", ["isovi_domain", "isovi_split", "gene0"])
def test_scanpy_draws_the_result_of_a_fit_on_the_tissue(result: AnnData, color: str) -> None:
    import scanpy as sc

    mpl.use("agg")
    (axes,) = sc.pl.spatial(result, color=color, show=False)
    assert axes.images[0].get_array().shape == (60, 60, 3)
    assert len(axes.collections[0].get_paths()) == result.n_obs == 60


@pytest.mark.parametrize("color", ["isovi_domain", "gene0"])
def test_squidpy_draws_the_result_of_a_fit_on_the_tissue(result: AnnData, color: str) -> None:
    squidpy = pytest.importorskip("squidpy", reason="squidpy is not among isoVI's dependencies")
    mpl.use("agg")
    axes = squidpy.pl.spatial_scatter(result, color=color, return_ax=True)
    assert axes.images[0].get_array().shape[:2] == (60, 60)
    assert len(axes.collections[0].get_paths()) == result.n_obs


DRAW = """
import sys, anndata, matplotlib, scanpy, squidpy
matplotlib.use("agg")
for path in sys.argv[1:]:
    adata = (anndata.read_h5ad if path.endswith(".h5ad") else anndata.read_zarr)(path)
    for color in ("isovi_domain", "gene0"):
        axes = [scanpy.pl.spatial(adata, color=color, show=False)[0]]
        axes.append(squidpy.pl.spatial_scatter(adata, color=color, return_ax=True))
        print([(len(one.images), len(one.collections[0].get_paths())) for one in axes])
"""


@pytest.mark.skipif("ISOVI_OLD_PYTHON" not in os.environ, reason="ISOVI_OLD_PYTHON names no interpreter")
def test_an_older_scanpy_and_squidpy_draw_it(result: AnnData, tmp_path: Path) -> None:
    """By an interpreter that has anndata, scanpy and squidpy of two years ago."""
    for suffix in ("h5ad", "zarr"):
        io.write_atomic(result, tmp_path / f"x.{suffix}")
    command = [os.environ["ISOVI_OLD_PYTHON"], "-I", "-c", DRAW, "x.h5ad", "x.zarr"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == ["[(1, 60), (1, 60)]"] * 4, ended.stderr


def test_images_do_not_count_for_the_digest_and_are_not_needed(tissue: AnnData, tmp_path: Path) -> None:
    folder = space_ranger_2(tissue, tmp_path / "v")
    digest = io.digest(folder)
    for path in (folder / "outs" / "spatial").glob("*.png"):
        path.unlink()
    assert io.digest(folder) == digest
    assert io.read(folder).uns["spatial"]["V1_Brain"]["images"] == {}
    (folder / "outs" / "spatial" / "scalefactors_json.json").write_text("{")
    with pytest.raises(InputError, match="JSON with scale factors"):
        io.read(folder)
