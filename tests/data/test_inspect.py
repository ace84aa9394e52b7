"""Every kind of input, made as its format is specified: read, inspected, fitted, packed."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from rich.console import Console
from scipy import io as matrix_market
from scipy import sparse

from isovi import IsoSCVI, IsoVAE, files
from isovi.cli import tables
from isovi.data import io
from isovi.data.inspect import inspect
from isovi.data.io import Source
from isovi.data.pack import open_packed, pack
from isovi.errors import InputError, IsoviWarning
from isovi.pipeline import check_data
from isovi.progress import Silent
from isovi.run import Settings
from isovi.simulate import simulate

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*autosharding.*"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
]
N_OBS, N_GENES, N_PROBES = 60, 20, 3


def make_tissue() -> AnnData:
    adata = simulate("layers", n_obs=N_OBS, n_genes=N_GENES, seed=0)
    adata.X = sparse.csr_matrix(adata.X)
    adata.obs_names = [f"cell{i}-1" for i in range(N_OBS)]
    adata.obsm["spatial"] = adata.obsm["spatial"] * 100
    return adata


# ---------------------------------------------------------------------------- 10x


def with_probes(adata: AnnData) -> tuple[sparse.csr_matrix, list[str], list[str]]:
    """Counts, names and types of features, with control probes behind the genes."""
    probes = sparse.csr_matrix(np.ones((adata.n_obs, N_PROBES)))
    names = [*adata.var_names, *(f"NegControlProbe_{i}" for i in range(N_PROBES))]
    types = ["Gene Expression"] * adata.n_vars + ["Negative Control Probe"] * N_PROBES
    return sparse.hstack([adata.X, probes], format="csr"), names, types


def write_h5(path: Path, adata: AnnData) -> None:
    """10x' HDF5 format: a matrix of features by barcodes in CSC."""
    counts, names, types = with_probes(adata)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["data"], group["indices"] = counts.data.astype(np.int32), counts.indices.astype(np.int64)
        group["indptr"], group["shape"] = counts.indptr.astype(np.int64), np.array(counts.shape[::-1])
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(len(names))], dtype="S")
        features["name"], features["feature_type"] = np.array(names, dtype="S"), np.array(types, dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(names), dtype="S")


def write_mtx(folder: Path, adata: AnnData) -> None:
    """10x' Matrix Market format: three compressed files in a folder."""
    counts, names, types = with_probes(adata)
    folder.mkdir(parents=True)
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        matrix_market.mmwrite(file, sparse.coo_matrix(counts.T.astype(int)))
    lines = [f"ENSG{i}\t{name}\t{kind}\n" for i, (name, kind) in enumerate(zip(names, types, strict=True))]
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.writelines(lines)
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as file:
        file.writelines(f"{name}\n" for name in adata.obs_names)


def spots_of(adata: AnnData) -> pd.DataFrame:
    """Space Ranger's table of positions: one spot more, outside of the tissue, and in another order."""
    x, y = adata.obsm["spatial"].T
    table = pd.DataFrame(
        {
            "barcode": adata.obs_names,
            "in_tissue": 1,
            "array_row": 0,
            "array_col": np.arange(adata.n_obs),
            "pxl_row_in_fullres": y,
            "pxl_col_in_fullres": x,
        }
    )
    outside = table.iloc[[0]].assign(barcode="outside-1", in_tissue=0)
    return pd.concat([outside, table.iloc[::-1]])


def make_visium(adata: AnnData, folder: Path) -> Source:
    write_h5(folder / "filtered_feature_bc_matrix.h5", adata)
    (folder / "spatial").mkdir()
    spots_of(adata).to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    return Source(folder)


def make_old_visium(adata: AnnData, folder: Path) -> Source:
    """Space Ranger 1: no header, and here a Matrix Market folder below outs/."""
    write_mtx(folder / "outs" / "filtered_feature_bc_matrix", adata)
    (folder / "outs" / "spatial").mkdir()
    path = folder / "outs" / "spatial" / "tissue_positions_list.csv"
    spots_of(adata).to_csv(path, index=False, header=False)
    return Source(folder)


def make_visium_hd(adata: AnnData, folder: Path) -> Source:
    for n_bins, name in ((adata.n_obs // 2, "square_016um"), (adata.n_obs, "square_008um")):
        bins = folder / "binned_outputs" / name
        write_h5(bins / "filtered_feature_bc_matrix.h5", adata[:n_bins])
        (bins / "spatial").mkdir()
        spots_of(adata).to_parquet(bins / "spatial" / "tissue_positions.parquet", index=False)
        scale = {"microns_per_pixel": 0.2738, "bin_size_um": float(name[7:10])}
        (bins / "spatial" / "scalefactors_json.json").write_text(json.dumps(scale))
    return Source(folder)


def make_xenium(adata: AnnData, folder: Path) -> Source:
    write_h5(folder / "cell_feature_matrix.h5", adata)
    x, y = adata.obsm["spatial"].T
    table = pd.DataFrame({"cell_id": adata.obs_names, "x_centroid": x, "y_centroid": y, "cell_area": 9.5})
    table.to_parquet(folder / "cells.parquet", index=False)
    table.to_csv(folder / "cells.csv.gz", index=False)
    return Source(folder)


def make_matrix(adata: AnnData, folder: Path) -> Source:
    write_h5(folder / "matrix.h5", adata)
    return Source(folder / "matrix.h5", coordinates=write_coordinates(adata, folder / "xy.csv"))


# ---------------------------------------------------------------------------- tables, AnnData, SpatialData


def write_coordinates(adata: AnnData, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = adata.obsm["spatial"].T
    pd.DataFrame({"cell": adata.obs_names, "x_um": x, "y_um": y}).to_csv(path, index=False)
    return path


def make_table(adata: AnnData, folder: Path) -> Source:
    coordinates = write_coordinates(adata, folder / "positions.csv")
    adata.to_df().astype(int).to_csv(folder / "counts.tsv", sep="\t")
    return Source(folder / "counts.tsv", coordinates=coordinates)


def make_anndata(adata: AnnData, folder: Path) -> Source:
    folder.mkdir()
    adata.write_h5ad(folder / "tissue.h5ad")
    return Source(folder / "tissue.h5ad")


def make_sdata(adata: AnnData) -> Any:
    """Circles with other indices than the table's, in pixels of half a unit."""
    import spatialdata as sd
    from spatialdata.transformations import Identity, Scale

    index, system = np.arange(adata.n_obs) + 7, {"global": Scale([2, 2], ("x", "y")), "intrinsic": Identity()}
    circles = sd.models.ShapesModel.parse(
        adata.obsm["spatial"][::-1] / 2, geometry=0, radius=1.0, index=index[::-1], transformations=system
    )
    table = AnnData(adata.X.copy(), obs=pd.DataFrame(index=adata.obs_names), var=adata.var.copy())
    table.obs["region"], table.obs["spot"] = pd.Categorical(["spots"] * adata.n_obs), index
    table = sd.models.TableModel.parse(table, region="spots", region_key="region", instance_key="spot")
    return sd.SpatialData(shapes={"spots": circles}, tables={"table": table})


def make_spatialdata(adata: AnnData, folder: Path) -> Source:
    make_sdata(adata).write(folder / "tissue.zarr")
    return Source(folder / "tissue.zarr")


@dataclass
class Kind:
    """How an input is made, and what is to be said of it."""

    make: Callable[[AnnData, Path], Source]
    kind: str
    unit: str


KINDS = {
    "h5ad": Kind(make_anndata, "AnnData", "not given"),
    "visium": Kind(make_visium, "10x Visium", "pixels of the full-resolution image"),
    "old visium": Kind(make_old_visium, "10x Visium", "pixels"),
    "visium hd": Kind(make_visium_hd, "10x Visium HD", "image, 0.2738 micrometres each"),
    "xenium": Kind(make_xenium, "10x Xenium", "micrometres"),
    "matrix": Kind(make_matrix, "10x matrix", "micrometres"),
    "table": Kind(make_table, "counts table", "micrometres"),
    "spatialdata": Kind(make_spatialdata, "SpatialData", "coordinate system"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module", params=list(KINDS))
def given(request: pytest.FixtureRequest, folder: Path) -> tuple[Kind, Source]:
    """One input of each kind, which tests only read."""
    kind = KINDS[request.param]
    return kind, kind.make(make_tissue(), folder / request.param)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------- all kinds


def test_the_tissue_is_read_and_nothing_is_changed(given: tuple[Kind, Source], folder: Path) -> None:
    before, tissue = contents(folder), make_tissue()
    found = io.read(given[1])
    assert found.obs_names.tolist() == tissue.obs_names.tolist()
    assert found.var_names.tolist() == tissue.var_names.tolist()
    assert (found.X != tissue.X).nnz == 0
    assert found.X.indices.dtype == found.X.indptr.dtype == np.int32
    np.testing.assert_allclose(found.obsm["spatial"], tissue.obsm["spatial"])
    assert contents(folder) == before


def test_what_is_there_is_told(given: tuple[Kind, Source]) -> None:
    kind, source = given
    found = inspect(source)
    assert (found.kind, found.n_obs, found.n_vars) == (kind.kind, N_OBS, N_GENES)
    assert found.missing == ()
    assert [(counts.layer, counts.problem) for counts in found.counts] == [(None, "")]
    assert found.positions[0].key == "spatial" and kind.unit in found.positions[0].unit
    assert found.parameters == {}


@pytest.mark.parametrize("given", sorted(set(KINDS) - {"h5ad", "old visium", "matrix"}), indirect=True)
def test_every_kind_can_be_fitted(
    given: tuple[Kind, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for AnnData, which other tests fit, and variants that only reading tells apart."""
    source, settings = given[1], Settings(max_epochs=2, n_latent=2)
    monkeypatch.setattr(files, "draw", lambda *_: None)  # plots take longer than the fit
    run = files.fit(source, tmp_path / "run", settings)
    assert run.adata.obsm["X_isovi"].shape == (N_OBS, 2)
    assert run.provenance.sha256 == io.digest(source)
    again = files.fit(source, tmp_path / "run", settings, resume=True)
    assert again.id == run.id, "finished already"


def test_every_kind_can_be_packed(given: tuple[Kind, Source], tmp_path: Path) -> None:
    pack(given[1], tmp_path / "packed.zarr")
    packed, tissue = open_packed(tmp_path / "packed.zarr"), make_tissue()
    order = packed.obs["isovi_row"].to_numpy()
    assert (packed.X[:] != tissue.X[order]).nnz == 0
    np.testing.assert_allclose(packed.obsm["spatial"], tissue.obsm["spatial"][order])


# ---------------------------------------------------------------------------- 10x


def test_only_what_is_read_counts_for_the_digest(tmp_path: Path) -> None:
    source = make_visium(make_tissue(), tmp_path / "a")
    first = io.digest(source)
    (source.path / "possorted_genome_bam.bam").write_text("large")
    assert io.digest(shutil.copytree(source.path, tmp_path / "b")) == first
    (source.path / "spatial" / "tissue_positions.csv").open("a").write("\n")
    assert io.digest(source) != first


def test_repeated_names_of_genes_are_numbered(tmp_path: Path) -> None:
    tissue = make_tissue()
    tissue.var_names = ["twice", "twice", *tissue.var_names[2:]]
    with pytest.warns(IsoviWarning, match=r"1 names of genes .*\(twice\)"):
        found = io.read(make_visium(tissue, tmp_path / "v"))
    assert found.var_names[:2].tolist() == ["twice", "twice-1"]
    assert (found.X != tissue.X).nnz == 0


def test_spots_without_counts_are_left_out(tmp_path: Path) -> None:
    tissue = make_tissue()
    probes = tissue.X.toarray()
    probes[4] = 0
    tissue.X = sparse.csr_matrix(probes)
    with pytest.warns(IsoviWarning, match="1 of 60 cells have no count"):
        found = io.read(make_xenium(tissue, tmp_path / "x"))
    assert found.n_obs == N_OBS - 1 and "cell4-1" not in found.obs_names


def test_another_size_of_bins_is_a_folder_of_its_own(tmp_path: Path) -> None:
    source = make_visium_hd(make_tissue(), tmp_path)
    assert inspect(source).about == {"bin": "square_008um"}
    bins = tmp_path / "binned_outputs"
    assert inspect(bins).n_obs == N_OBS
    assert inspect(bins / "square_016um").n_obs == N_OBS // 2
    shutil.rmtree(bins / "square_008um")
    assert inspect(source).about == {"bin": "square_016um"}


def test_without_pyarrow_text_is_read_and_parquet_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_xenium(make_tissue(), tmp_path / "x")
    monkeypatch.setattr("isovi.data.readers.xenium.find_spec", lambda _: None)
    assert [path.name for path in io.find(source).files] == ["cell_feature_matrix.h5", "cells.csv.gz"]
    (source.path / "cells.csv.gz").unlink()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r'pip install "isovi\[readers\]"'):
        io.read(source)


def test_columns_of_the_cells_come_along(tmp_path: Path) -> None:
    found = io.read(make_xenium(make_tissue(), tmp_path / "x"))
    assert (found.obs["cell_area"] == 9.5).all()
    assert found.var["gene_ids"].tolist() == [f"ENSG{i}" for i in range(N_GENES)]


def test_a_matrix_without_positions_can_be_a_query_but_not_be_fitted(tmp_path: Path) -> None:
    write_h5(tmp_path / "filtered_feature_bc_matrix.h5", make_tissue())
    assert io.read(tmp_path).n_obs == N_OBS, "what isovi place needs"
    assert "coordinates=FILE" in inspect(tmp_path).missing[0]
    with pytest.raises(InputError, match=r"has no positions.*coordinates=FILE"):
        files.read(Source(tmp_path), Settings(), 0, Silent())


# ---------------------------------------------------------------------------- SpatialData


def test_a_coordinate_system_is_chosen_by_name(folder: Path) -> None:
    source = folder / "spatialdata" / "tissue.zarr"
    if not source.exists():
        make_spatialdata(make_tissue(), source.parent)
    half = io.read(Source(source, coordinate_system="intrinsic"))
    np.testing.assert_allclose(half.obsm["spatial"], make_tissue().obsm["spatial"] / 2)
    for wrong, words in (
        (Source(source, "cells"), 'it has: "table"'),
        (Source(source, None, "hires"), "hires"),
    ):
        with pytest.raises(InputError, match=words):
            io.read(wrong)


@pytest.mark.parametrize("model", [IsoSCVI, IsoVAE])
def test_a_model_is_set_up_with_spatialdata(model: Any) -> None:
    sdata, tissue = make_sdata(make_tissue()), make_tissue()
    table = sdata.tables["table"]
    keys = {"obs": set(table.obs), "uns": set(table.uns)}
    adata = model.setup_spatialdata(sdata)
    assert adata is table
    np.testing.assert_allclose(table.obsm["spatial"], tissue.obsm["spatial"])
    new = ({*table.obs} - keys["obs"]) | ({*table.uns} - keys["uns"])
    assert [key for key in new if not key.startswith(("_scvi", "_isovi"))] == []
    fitted = model(adata, n_latent=2)
    fitted.train(max_epochs=1, enable_progress_bar=False)
    adata.obsm["X_isovi"] = fitted.get_latent_representation()
    assert sdata["table"].obsm["X_isovi"].shape == (N_OBS, 2)


def test_other_positions_of_a_table_are_kept() -> None:
    sdata = make_sdata(make_tissue())
    IsoSCVI.setup_spatialdata(sdata)
    before = sdata["table"].obsm["spatial"].copy()
    with pytest.raises(InputError, match="not overwritten"):
        IsoSCVI.setup_spatialdata(sdata, coordinate_system="intrinsic")
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], before)
    IsoSCVI.setup_spatialdata(sdata, coordinate_system="intrinsic", spatial_key="half")
    np.testing.assert_allclose(sdata["table"].obsm["half"], before / 2)


def test_spatialdata_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder / "spatialdata" / "tissue.zarr"
    if not source.exists():
        make_spatialdata(make_tissue(), source.parent)
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(InputError, match=r'pip install "isovi\[readers\]"'):
        io.read(source)


# ---------------------------------------------------------------------------- what inspect says, and options


def spoiled(tmp_path: Path, change: Callable[[AnnData], None]) -> Path:
    tissue = make_tissue()
    change(tissue)
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    return tmp_path / "tissue.h5ad"


def normalise_x(tissue: AnnData) -> None:
    tissue.layers["counts"] = tissue.X.copy()
    tissue.X = tissue.X.log1p()


def without_counts(tissue: AnnData) -> None:
    tissue.X = tissue.X.log1p()


def with_sections(tissue: AnnData) -> None:
    tissue.obs["sample"] = np.repeat(["a", "b"], N_OBS // 2)
    tissue.obs["sex"] = np.tile(["m", "f"], N_OBS // 2)


def with_an_empty_spot(tissue: AnnData) -> None:
    tissue.X = sparse.diags((np.arange(N_OBS) > 0).astype(np.float32)) @ tissue.X


@pytest.mark.parametrize(
    ("change", "parameters"),
    [
        (normalise_x, {"layer": "counts"}),
        (with_sections, {"section_key": "sample"}),
        (with_an_empty_spot, {"min_counts": 1}),
        (
            lambda tissue: tissue.obsm.update(X_spatial=tissue.obsm.pop("spatial")),
            {"spatial_key": "X_spatial"},
        ),
    ],
)
def test_the_parameters_are_complete(
    tmp_path: Path, change: Callable[[AnnData], None], parameters: dict[str, Any]
) -> None:
    file = spoiled(tmp_path, change)
    found = inspect(file)
    assert found.missing == ()
    assert found.parameters == parameters
    min_counts = parameters.pop("min_counts", 0)
    adata = files.read(Source(file), Settings(**parameters), min_counts, Silent())
    check_data(adata, Settings(**parameters))  # raises if they do not do


def in_columns(x: str, y: str) -> Callable[[AnnData], None]:
    def change(tissue: AnnData) -> None:
        tissue.obs[[y, "area", x]] = tissue.obsm.pop("spatial")[:, [1, 0, 0]]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_counts, "none in X (no whole numbers: logarithms)"),
        *(
            (in_columns(x, y), f"adata.obs[['{x}', '{y}']].to_numpy()")
            for x, y in (
                ("x", "y"),
                ("imagecol", "imagerow"),
                ("CenterX_global_px", "CenterY_global_px"),
                ("pxl_col_in_fullres", "pxl_row_in_fullres"),
            )
        ),
        (
            lambda tissue: tissue.obsm["spatial"].__setitem__(slice(31), np.nan),
            "NaN or infinite for 31 of 60",
        ),
        (lambda tissue: setattr(tissue, "var_names", ["twice"] * N_GENES), "var_names_make_unique"),
    ],
)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_what_is_missing_is_named_with_its_remedy(
    tmp_path: Path, change: Callable[[AnnData], None], words: str
) -> None:
    found = inspect(spoiled(tmp_path, change))
    assert words in "\n".join(found.missing)


def test_importing_the_models_loads_no_reader() -> None:
    code = """
import sys
from isovi import IsoSCVI
assert not {"spatialdata", "pyarrow.parquet"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_inspecting_loads_no_model_and_no_terminal() -> None:
    code = """
import sys
import isovi.data.inspect
assert not {"scvi", "lightning", "typer", "isovi.model", "isovi.cli"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_spots_of_few_counts_are_left_out_in_fit_and_pack(tmp_path: Path) -> None:
    file, tissue = spoiled(tmp_path, lambda _: None), make_tissue()
    totals = np.asarray(tissue.X.sum(axis=1)).ravel()
    least = int(np.sort(totals)[5])
    kept = tissue.obs_names[totals >= least]
    with pytest.warns(IsoviWarning, match=f"fewer than {least} counts"):
        read = files.read(Source(file), Settings(), least, Silent())
    assert read.obs_names.tolist() == kept.tolist()
    with pytest.warns(IsoviWarning, match="are left out"):
        assert pack(file, tmp_path / "packed.zarr", min_counts=least).n_obs == len(kept)
    packed = open_packed(tmp_path / "packed.zarr")
    assert sorted(packed.obs_names) == sorted(kept)
    assert (packed.X[:] != tissue[packed.obs_names].X).nnz == 0
    with pytest.raises(InputError, match="which is packed"):
        files.read(Source(tmp_path / "packed.zarr"), Settings(), least, Silent())


# ---------------------------------------------------------------------------- labels


def test_columns_that_may_be_labels_are_listed_with_their_categories(tmp_path: Path) -> None:
    adata = make_tissue()
    kinds = np.resize(["T cell", "B cell", "stroma"], N_OBS)
    adata.obs = pd.DataFrame(
        {
            "sample": np.repeat(["a", "b"], N_OBS // 2),  # sections
            "cell_type": pd.Categorical(kinds, categories=["T cell", "B cell", "stroma", "absent"]),
            "Region": [None, *kinds[1:]],
            "total_counts": np.arange(N_OBS, dtype=float),
            "array_row": np.resize([1, 2, 3], N_OBS),
            "in_tissue": True,
            "barcode": adata.obs_names,  # names, not categories
            "one": "all",
            "isovi_domain": pd.Categorical(kinds),  # which a fit writes
        },
        index=adata.obs_names,
    )
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    found = inspect(tmp_path / "tissue.h5ad")
    assert found.labels == {"cell_type": 3, "Region": 3}
    assert list(found.sections) == ["sample"]
    shown = Console(file=StringIO(), width=120)
    shown.print(tables.inspection(found))
    assert re.search(r'labels +3 categories in obs\["cell_type"\]', shown.file.getvalue())
