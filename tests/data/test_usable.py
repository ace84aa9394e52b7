"""What is a gene, a spot in tissue and a count: each vendor's way to say it, and what only looks like it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import isovi
from isovi import files
from isovi.data import check, decimals
from isovi.data.columns import truth
from isovi.data.genes import no_genes
from isovi.data.inspect import inspect
from isovi.data.io import Source
from isovi.data.pack import open_packed, pack
from isovi.data.usable import prepared
from isovi.errors import InputError, IsoviWarning
from isovi.pipeline import WHOLE
from isovi.progress import Silent
from isovi.run import Run, Settings
from isovi.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore:.*autosharding.*")
QUICK: dict[str, Any] = {"holdout": 0.2, "n_latent": 3, "max_epochs": 1}


def make_tissue(n_obs: int = 60, n_genes: int = 20) -> AnnData:
    adata = simulate("layers", n_obs=n_obs, n_genes=n_genes, seed=0)
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    adata.uns = {}
    return adata


def with_features(adata: AnnData, names: list[str], **columns: list[Any]) -> AnnData:
    """The tissue with further features behind its genes, which every cell has counts of."""
    more = sparse.csr_matrix(np.full((adata.n_obs, len(names)), 3, dtype=np.float32))
    var = pd.DataFrame(columns, index=[*adata.var_names, *names])
    return AnnData(
        sparse.hstack([adata.X, more], format="csr"), obs=adata.obs, var=var, obsm=dict(adata.obsm)
    )


# ---------------------------------------------------------------------------- genes

CONTROLS = {
    "Xenium": [
        *("NegControlProbe_00042", "NegControlCodeword_0500", "BLANK_0069", "UnassignedCodeword_0001"),
        *("DeprecatedCodeword_0318", "antisense_ADCY4", "Intergenic_Region_1043", "Genomic_Control_3"),
    ],
    "Xenium, made unique": ["BLANK_0069-1", "BLANK_0069.1", "Unassigned_Codeword_1", "Blank-Codeword-12"],
    "Xenium through Seurat": ["NegControlProbe-00042", "NegControlCodeword-0500", "BLANK-0069"],
    "MERSCOPE": ["Blank-0", "Blank-29", "blank_3", "Blank.1", "blank12", "notarget-1", "Blank-A1"],
    "CosMx": [
        *("NegPrb1", "NegPrb10", "Negative03", "SystemControl1", "FalseCode12", "NegAdd1"),
        *("Neg_Prb_1", "NegPrb1_2", "system-control-3", "fov", "cell_ID", "cell", "slide_ID_numeric"),
    ],
    "GeoMx": ["NegProbe-WTX", "Negative Probe", "RTS0039454"],
    "Visium": ["DEPRECATED_ENSG00000130723"],
    "spike-ins": ["ERCC-00002", "ERCC.00012", "ERCC_00096", "SIRV1"],
    "nCounter": ["NEG_A", "NEG_B(0)", "POS_A(128)"],
    "EEL, seqFISH": ["Control_1", "control10", "False_positive_3"],
    "STAR, HTSeq": ["N_unmapped", "__no_feature", "__alignment_not_unique"],
    "a table of cells": ["n_counts", "total_counts", "Cell.Area", "Field of View", "center_x"],
}
GENES = [
    *("NEGR1", "BLNK", "Blnk", "CTRL1", "CTRL", "CTRC", "Neg1", "BLANK", "ERCC1", "ERCC6L2", "FOV1", "SYS1"),
    *("NEGATIVE", "Blan", "POSTN", "Negr1", "CELL1", "DEPDC1", "ANTXR1", "UNC5B", "CONTRACTIN", "B4GALNT1"),
    *("y", "row", "bin", "Rep", "age-1", "col-19", "snn-1", "HLA-A", "MT-CO1", "H2-K1", "RP11-34P13.7"),
    *(
        "mod(mdg4)",
        "SIRT1",
        "Area51",
        "l(2)k05911",
        "Su(var)3-9",
        "ENSG00000130723",
        "mCherry",
        "X",
        "id:ibd5118",
    ),
]


@pytest.mark.parametrize("vendor", list(CONTROLS))
def test_controls_are_known_by_the_names_of_their_vendor(vendor: str) -> None:
    assert no_genes(pd.DataFrame(index=CONTROLS[vendor])).all()


def test_genes_that_are_called_almost_like_controls_are_genes() -> None:
    names = [name for name in GENES if name != "NEGATIVE"]
    assert not no_genes(pd.DataFrame(index=names)).any()


COLUMNS: dict[str, dict[str, list[Any]]] = {
    "10x": {"feature_types": ["Gene Expression"] * 2 + ["Negative Control Probe"] * 2},
    "CITE-seq": {"feature_types": ["Gene Expression"] * 2 + ["Antibody Capture"] * 2},
    "CosMx": {"CodeClass": ["Endogenous"] * 2 + ["SystemControl", "Negative"]},
    "nCounter": {"Class": ["Endogenous", "Housekeeping", "Positive", "Negative"]},
    "SingleCellExperiment": {"Type": ["Gene Expression"] * 2 + ["Antibody Capture", "Blank Codeword"]},
    "of unknown type": {"feature_types": ["Gene Expression", None, "Protein Expression", "Genomic Control"]},
    "biotype": {"gene_biotype": ["protein_coding", "lncRNA", "spike-in", "ERCC control"]},
    "flag": {"control": [False, False, True, True]},
    "nullable flag": {"control": pd.array([False, None, True, True], dtype="boolean")},
    "squidpy's flag": {"NegPrb": [False, False, True, True]},
    "camel case": {"isControl": ["FALSE", "FALSE", "TRUE", "TRUE"]},
    "R's make.names": {"is.negative.probe": [0.0, 0.0, 1.0, 1.0]},
    "scater": {"is_spike_in": [False, False, True, True]},
    "endogenous": {"endogenous": [True, True, False, False]},
    "CELLxGENE": {"feature_name": ["Gad1", "Sst", "Blank-1", "NegPrb3"]},
    "GeoMx": {"TargetName": ["Gad1", "Sst", "NegProbe-WTX", "Negative Probe"]},
    "Xenium codewords": {
        "codeword_category": [
            "predesigned_gene",
            "custom_gene",
            "unassigned_codeword",
            "negative_control_probe",
        ]
    },
    "Xenium transcripts": {"is_gene": [True, True, False, False]},
    "flag as text": {"is_control": ["0", "0", "1", "1"]},
    "genome": {"genome": ["GRCh38", "GRCh38", "control", "Negative Control"]},
    "ids": {"gene_ids": ["ENSG1", "ENSG2", "DEPRECATED_ENSG3", "NegControlProbe_00003"]},
    "probes of Visium": {"filtered_probes": [True, True, False, False]},
}


@pytest.mark.parametrize("kind", list(COLUMNS))
def test_controls_are_known_by_columns_of_var(kind: str) -> None:
    var = pd.DataFrame(COLUMNS[kind], index=["A", "B", "C", "D"])
    assert no_genes(var).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    "columns",
    [
        {"feature_types": ["Antibody Capture", "Antibody Capture"]},
        {"feature_types": ["protein_coding", "lncRNA"]},
        {"genome": ["GRCh38", "mm10"]},
        {"control": [0.3, 1.7]},
        {"is_highly_variable": [True, False]},
        {"class": ["Ion channel", "Transcription factor"]},
        {"spike": [2, 3]},
        {"gene_ids": ["ENSG1", None]},
        {"name": ["T cell receptor zeta", "programmed cell death 1"]},  # gene.csv of the Allen Institute
        {"gene_name": ["melanoma cell adhesion molecule", "regulator of cell cycle, region 2"]},
        {"class": ["Negative regulator", "Cell cycle control"]},
    ],
)
def test_other_columns_say_nothing_of_controls(columns: dict[str, list[Any]]) -> None:
    assert not no_genes(pd.DataFrame(columns, index=["A", "B"])).any()


def as_h5ad(adata: AnnData, folder: Path) -> Source:
    adata.write_h5ad(folder / "in.h5ad")
    return Source(folder / "in.h5ad")


def as_zarr(adata: AnnData, folder: Path) -> Source:
    adata.write_zarr(folder / "in.zarr")
    return Source(folder / "in.zarr")


def as_merscope(adata: AnnData, folder: Path) -> Source:
    table = adata.to_df().astype(int)
    table.to_csv(folder / "cell_by_gene.csv", index_label="cell")
    x, y = adata.obsm["spatial"].T
    places = pd.DataFrame({"EntityID": adata.obs_names, "volume": 1.5, "center_x": x, "center_y": y})
    places.to_csv(folder / "cell_metadata.csv", index=False)
    return Source(folder / "cell_by_gene.csv", coordinates=folder / "cell_metadata.csv")


WAYS: dict[str, tuple[Callable[[AnnData, Path], Source], list[str]]] = {
    "h5ad": (as_h5ad, ["BLANK_0001", "NegControlProbe_00002"]),
    "zarr": (as_zarr, ["NegPrb1", "SystemControl3"]),
    "MERSCOPE": (as_merscope, ["Blank-1", "Blank-2"]),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_inspect_says_what_is_left_out(way: str, tmp_path: Path) -> None:
    write, names = WAYS[way]
    found = inspect(write(with_features(make_tissue(), names), tmp_path))
    assert (found.n_vars, found.missing) == (20, ())
    assert any("2 of 22 features are controls" in note for note in found.notes)


@pytest.mark.parametrize("keep_controls", [False, True])
def test_a_fit_leaves_controls_out_and_says_so(keep_controls: bool, tmp_path: Path) -> None:
    source = as_merscope(with_features(make_tissue(), ["Blank-1", "Blank-2"]), tmp_path)
    settings = Settings(keep_controls=keep_controls, **QUICK)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        files.fit(source, tmp_path / "run", settings, progress=Silent())
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    notes = [note for note in record["provenance"]["notes"] if "2 of 22 features are controls" in note]
    run = Run.read(tmp_path / "run")
    assert len(notes) == (0 if keep_controls else 1)
    assert sum("2 of 22 features" in str(one.message) for one in said) == len(notes)
    assert ("Blank-1" in run.adata.var_names[run.adata.var["isovi_gene"]]) == keep_controls
    assert run.settings.keep_controls == keep_controls


def test_isovi_fit_leaves_out_of_an_anndata_what_is_no_gene_or_off_tissue() -> None:
    adata = with_features(make_tissue(), ["NegPrb1", "FalseCode2"])
    adata.obs["in_tissue"] = np.where(np.arange(60) % 4 > 0, "1", "0")
    with pytest.warns(IsoviWarning, match="15 of 60 spots are outside of the tissue"):
        run = isovi.fit(adata, progress=False, **QUICK)
    assert run.adata.shape == (45, 20), "what is left out is not in the run"
    assert adata.shape == (60, 22), "the caller's data stays"
    assert len(set(run.provenance.notes) - {WHOLE}) == 2


@pytest.mark.parametrize("prefix", ["mouse_", "MOUSE-", "transcript_", "Region."])
def test_a_prefix_of_many_genes_does_not_make_columns_of_them(prefix: str) -> None:
    genes = [f"{prefix}{i}" for i in range(20)]
    found = no_genes(pd.DataFrame(index=[*genes, "cell_area", "n_counts", "ACTB"]))
    assert found.tolist() == [False] * 20 + [True, True, False]


def test_complex_counts_are_refused() -> None:
    adata = make_tissue()
    adata.X = adata.X.astype(np.complex128)
    with pytest.raises(InputError, match="values of type complex128"):
        isovi.fit(adata, progress=False, **QUICK)


def test_a_packed_store_has_no_controls_and_no_spots_off_tissue(tmp_path: Path) -> None:
    adata = with_features(make_tissue(), ["Blank-1"])
    adata.obs["in_tissue"] = (np.arange(60) % 4 > 0).astype(int)
    adata.X.data += np.float32(1e-7) * adata.X.data
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "in.h5ad")
    with pytest.warns(IsoviWarning):
        packed = pack(tmp_path / "in.h5ad", tmp_path / "p.zarr")
    stored = open_packed(tmp_path / "p.zarr")
    assert (packed.n_obs, packed.n_vars, stored.shape) == (45, 20, (45, 20))
    for matrix in (stored.X, stored.layers["counts"]):
        whole = matrix[:].toarray()
        np.testing.assert_array_equal(whole, np.rint(whole))


def test_cells_with_counts_in_controls_only_are_left_out() -> None:
    adata = with_features(make_tissue(), ["Blank-1"])
    counts = adata.X.toarray()
    counts[3, :20] = 0
    adata.X = sparse.csr_matrix(counts)
    with pytest.warns(IsoviWarning, match="1 of 60 cells have no count in genes"):
        assert prepared(adata).n_obs == 59


def test_data_of_controls_alone_is_refused() -> None:
    adata = make_tissue()
    adata.var_names = [f"Blank-{i}" for i in range(20)]
    with pytest.raises(InputError, match="All 20 features are controls"):
        prepared(adata)


# ---------------------------------------------------------------------------- tissue


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 1],
        [0.0, 1.0, 1.0],
        [False, True, True],
        ["0", "1", "1"],
        ["False", "True", "true"],
        pd.Categorical([0, 1, 1]),
        pd.Categorical(["0", "1", "1"]),
        pd.array([0, 1, 1], dtype="Int64"),
        ["no", "yes", "Yes"],
        ["F", "T", "t"],
        ["0.0", " 1.0", "1"],
        pd.array(["FALSE", "TRUE", "TRUE"], dtype="string"),
        pd.array([False, True, True], dtype="boolean"),
        [b"0", b"1", b"1"],
    ],
)
def test_in_tissue_is_read_in_every_type(values: Any) -> None:
    found = truth(pd.Series(values))
    assert found is not None
    assert found.tolist() == [0, 1, 1]


@pytest.mark.parametrize("values", [[0, 1, 2], ["tissue", "background"], [0.0, np.nan, 1.0], [None, 1, 1]])
def test_in_tissue_of_another_meaning_is_not_used_and_said(values: list[Any]) -> None:
    adata = make_tissue()[: len(values)].copy()
    adata.obs["in_tissue"] = values
    with pytest.warns(IsoviWarning, match="is not used"):
        assert prepared(adata).n_obs == len(values)


@pytest.mark.parametrize(
    "name", ["inTissue", "In_Tissue", "in.tissue", "In Tissue", "is_in_tissue", "on_tissue", "under_tissue"]
)
def test_in_tissue_is_known_by_other_spellings(name: str) -> None:
    adata = make_tissue()
    adata.obs[name] = np.arange(60) % 4 > 0
    with pytest.warns(IsoviWarning, match=rf"15 of 60 spots are outside of the tissue \({name}\)"):
        assert prepared(adata).n_obs == 45


@pytest.mark.parametrize("of_seurat", [True, False])
def test_tissue_is_a_place_beside_seurats_columns_and_an_organ_otherwise(of_seurat: bool) -> None:
    adata = make_tissue()
    adata.obs["tissue"] = (np.arange(60) % 4 > 0).astype(int)
    if of_seurat:
        adata.obs[["imagerow", "imagecol"]] = adata.obsm["spatial"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", IsoviWarning)
        assert prepared(adata).n_obs == (45 if of_seurat else 60)
    assert sum(issubclass(one.category, IsoviWarning) for one in said) == of_seurat


def test_inspect_counts_spots_in_tissue_only(tmp_path: Path) -> None:
    adata = make_tissue()
    adata.obs["in_tissue"] = np.arange(60) % 4 > 0
    adata.X = sparse.csr_matrix(adata.X.multiply((np.arange(60) % 4 > 0)[:, None]))
    found = inspect(as_h5ad(adata, tmp_path))
    assert (found.n_obs, found.counts[0].n_empty, found.parameters) == (45, 0, {})
    assert any("15 of 60 spots are outside of the tissue" in note for note in found.notes)


def test_data_outside_of_the_tissue_is_refused() -> None:
    adata = make_tissue()
    adata.obs["in_tissue"] = 0
    with pytest.raises(InputError, match="is 0 for all 60 spots"):
        prepared(adata)


# ---------------------------------------------------------------------------- positions

MISSING: dict[str, Callable[[np.ndarray], Any]] = {  # three of 60 positions, in a column or in all
    "NaN": lambda xy: with_values(xy, np.nan),
    "infinite": lambda xy: with_values(xy, np.inf),
    "one axis": lambda xy: with_values(xy, np.nan, axes=[1]),
    "32-bit": lambda xy: with_values(xy, np.nan).astype(np.float32),
    "z": lambda xy: with_values(np.column_stack([xy, xy[:, 0]]), np.nan, axes=[2]),
    "table": lambda xy: pd.DataFrame(with_values(xy, np.nan), columns=["x", "y"]),
    "nullable": lambda xy: pd.DataFrame(with_values(xy, np.nan), columns=["x", "y"]).convert_dtypes(),
    "objects": lambda xy: with_values(xy.astype(object), None),
}


def with_values(
    positions: np.ndarray, value: Any, axes: Any = slice(None), rows: Any = (2, 7, 30)
) -> np.ndarray:
    positions = positions.copy()
    for row in rows:
        positions[row, axes] = value
    return positions


def unplaced(how: str) -> AnnData:
    adata = make_tissue()
    positions = MISSING[how](adata.obsm["spatial"])
    adata.obsm["spatial"] = (
        positions.set_index(adata.obs_names) if isinstance(positions, pd.DataFrame) else positions
    )
    return adata


@pytest.mark.parametrize("how", list(MISSING))
def test_cells_without_a_position_are_left_out(how: str) -> None:
    adata = unplaced(how)
    with pytest.warns(IsoviWarning, match="3 of 60 cells have no position in obsm"):
        left = prepared(adata)
    assert left.obs_names.tolist() == adata.obs_names.delete([2, 7, 30]).tolist()
    assert np.isfinite(check.coordinates(left)).all()
    assert adata.n_obs == 60


def test_isovi_fit_leaves_out_cells_without_a_position() -> None:
    with pytest.warns(IsoviWarning, match="3 of 60 cells have no position"):
        run = isovi.fit(unplaced("NaN"), progress=False, **QUICK)
    assert (run.adata.n_obs, len(run.spots)) == (57, 57)
    assert any("3 of 60 cells have no position" in note for note in run.provenance.notes)


@pytest.mark.parametrize("write", [as_h5ad, as_zarr])
@pytest.mark.parametrize("how", ["NaN", "infinite"])
def test_files_may_lack_positions_of_some_cells(how: str, write: Any, tmp_path: Path) -> None:
    source = write(unplaced(how), tmp_path)
    found = inspect(source)
    assert (found.n_obs, found.missing) == (57, ())
    assert sum("3 of 60 cells have no position" in note for note in found.notes) == 1
    with pytest.warns(IsoviWarning, match="3 of 60 cells have no position"):
        assert pack(source, tmp_path / "p.zarr").n_obs == 57


def test_a_run_of_a_file_that_lacks_positions_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "draw", lambda *_: None)  # plots take longer than the fit
    source = as_h5ad(unplaced("NaN"), tmp_path)
    with pytest.warns(IsoviWarning, match="3 of 60 cells have no position"):
        files.fit(source, tmp_path / "run", Settings(**QUICK), progress=Silent())
    run = Run.read(tmp_path / "run")
    assert run.adata.n_obs == 57
    assert any("3 of 60 cells have no position" in note for note in run.provenance.notes)


@pytest.mark.parametrize("n_missing", [31, 60])
def test_data_of_which_most_cells_have_no_position_is_refused(n_missing: int, tmp_path: Path) -> None:
    adata = make_tissue()
    adata.obsm["spatial"] = with_values(adata.obsm["spatial"], np.nan, rows=range(n_missing))
    with pytest.raises(InputError, match=f"NaN or infinite for {n_missing} of 60 spots"):
        prepared(adata)
    source = as_h5ad(adata, tmp_path)
    with pytest.raises(InputError, match=f"NaN or infinite for {n_missing} of 60 spots"):
        pack(source, tmp_path / "p.zarr")
    (missing,) = inspect(source).missing
    assert f"NaN or infinite for {n_missing} of 60 spots" in missing


def test_spots_off_tissue_need_no_position() -> None:
    adata = make_tissue()
    adata.obs["in_tissue"] = (np.arange(60) < 25).astype(int)
    adata.obsm["spatial"] = with_values(adata.obsm["spatial"], np.nan, rows=range(25, 60))
    with pytest.warns(IsoviWarning, match="35 of 60 spots are outside"):
        assert prepared(adata).n_obs == 25


@pytest.mark.parametrize("form", [np.asarray, lambda xyz: pd.DataFrame(xyz, columns=["x", "y", "z"])])
def test_a_z_that_is_empty_throughout_is_not_used(form: Any, tmp_path: Path) -> None:
    adata = make_tissue()
    positions = form(np.column_stack([adata.obsm["spatial"], np.full(60, np.nan)]))
    adata.obsm["spatial"] = (
        positions.set_index(adata.obs_names) if isinstance(positions, pd.DataFrame) else positions
    )
    with pytest.warns(IsoviWarning, match="third column of obsm.* is empty"):
        left = prepared(adata)
    assert (left.obsm["spatial"].shape, adata.obsm["spatial"].shape) == ((60, 2), (60, 3))
    source = as_h5ad(adata, tmp_path)
    found = inspect(source)
    assert (found.n_obs, found.positions[0].columns, found.missing) == (60, "x, y", ())
    with pytest.warns(IsoviWarning, match="is empty"):
        pack(source, tmp_path / "p.zarr")
    assert open_packed(tmp_path / "p.zarr").obsm["spatial"].shape == (60, 2)


# ---------------------------------------------------------------------------- counts


def scaled(counts: np.ndarray, total: float | None = 1e4) -> np.ndarray:
    totals = counts.sum(axis=1, keepdims=True)
    return counts / totals * (np.median(totals) if total is None else total)


def of_one_variance(values: np.ndarray) -> np.ndarray:
    return values / (values.std(axis=0) + 1e-8)


def of_the_soup(counts: np.ndarray) -> np.ndarray:
    """Less the expected counts of a cell from the soup, as SoupX subtracts them."""
    expected = 0.08 * counts.sum(axis=1, keepdims=True) * (counts.sum(axis=0) / counts.sum())
    return np.maximum(counts - expected, 0)


NORMALISED = {
    "one total": lambda counts: scaled(counts),
    "median total": lambda counts: scaled(counts, None),
    "logarithms": lambda counts: np.log1p(scaled(counts)),
    "of base 2": lambda counts: np.log2(1 + scaled(counts)),
    "of some genes": lambda counts: np.log1p(scaled(counts))[:, :12],
    "of raw counts": lambda counts: np.log1p(counts),
    "square roots": lambda counts: np.sqrt(scaled(counts)),
    "logarithms, two decimals": lambda counts: np.log1p(scaled(counts)).round(2),
    "median total, two decimals": lambda counts: scaled(counts, None).round(2),
    "logarithms of counts, two decimals": lambda counts: np.log1p(counts).round(2),
    "arcsinh": np.arcsinh,
    "Anscombe": lambda counts: 2 * np.sqrt(counts + 3 / 8) * (counts > 0),
    "by volume (MERSCOPE)": lambda counts: counts / np.random.default_rng(0).uniform(0.3, 2, (60, 1)),
    "genes of one variance": lambda counts: counts / (counts.std(axis=0) + 0.1),
    "TPM": lambda counts: scaled(counts / np.random.default_rng(1).lognormal(7, 0.6, counts.shape[1]), 1e6),
    "TPM, genes of one variance": lambda counts: of_one_variance(
        scaled(counts / np.random.default_rng(1).lognormal(7, 0.6, counts.shape[1]), 1e6)
    ),
    "one total, genes of one variance": lambda counts: of_one_variance(scaled(counts)),
    "logarithms, genes of one variance": lambda counts: of_one_variance(np.log1p(scaled(counts))),
    "the same, clipped": lambda counts: np.minimum(of_one_variance(np.log1p(scaled(counts))), 4),
    "logarithms, clipped": lambda counts: np.minimum(np.log1p(scaled(counts, None)), 1.3),
    "logarithms of counts, one decimal": lambda counts: np.log1p(counts).round(1),
    "roots of counts, two decimals": lambda counts: np.sqrt(counts).round(2),
}
CORRECTED = {
    "one factor (SoupX)": lambda counts: counts * 0.93,
    "subtracted (SoupX)": lambda counts: np.maximum(counts - 0.07 * counts.mean(axis=0), 0) * (counts > 0),
    "a share of each (decontX)": lambda counts: (
        counts * np.random.default_rng(0).uniform(0.7, 1, counts.shape)
    ),
    "two decimals (decontX)": lambda counts: (
        counts * np.random.default_rng(0).uniform(0.7, 1, counts.shape)
    ).round(2),
    "one decimal (decontX)": lambda counts: (
        counts * np.random.default_rng(0).uniform(0.7, 1, counts.shape)
    ).round(1),
    "subtracted, one decimal (SoupX)": lambda counts: of_the_soup(counts).round(1),
    "subtracted, two decimals (SoupX)": lambda counts: of_the_soup(counts).round(2),
    "by total and gene (SoupX)": lambda counts: of_the_soup(counts),
    "mixed with neighbours (SpotClean)": lambda counts: 0.7 * counts + 0.3 * counts[::-1],
    "shared between cells (proseg)": lambda counts: np.maximum(
        counts + (counts > 0) * np.random.default_rng(0).normal(0, 0.2, counts.shape), 0
    ),
    "multi-mapping reads (STARsolo)": lambda counts: (
        counts + (counts > 0) * np.random.default_rng(0).choice([0, 0, 0, 0.37, 0.52], counts.shape)
    ),
    "estimated (kallisto)": lambda counts: (
        counts + (counts > 1) * np.random.default_rng(0).normal(0, 0.1, counts.shape)
    ),
}


def changed(how: Callable[[np.ndarray], np.ndarray]) -> AnnData:
    adata = make_tissue()
    values = sparse.csr_matrix(how(adata.X.toarray().astype(np.float64)).astype(np.float32))
    return AnnData(values, obs=adata.obs, var=adata.var[: values.shape[1]], obsm=dict(adata.obsm))


@pytest.mark.parametrize("how", list(CORRECTED))
def test_corrected_counts_are_named_and_rounded_where_it_is_asked_for(how: str, tmp_path: Path) -> None:
    adata = changed(CORRECTED[how])
    with pytest.raises(InputError, match=r"SoupX, CellBender, decontX.*round_counts=True"):
        check.counts(prepared(adata), allow_empty_genes=True)
    with pytest.warns(IsoviWarning, match="they are rounded; the sum of counts was"):
        rounded = prepared(adata, round_counts=True)
    np.testing.assert_array_equal(rounded.X.toarray(), np.rint(adata.X.toarray()))
    assert not (adata.X.data == np.rint(adata.X.data)).all(), "the caller's data stays"
    found = inspect(as_h5ad(adata, tmp_path))
    assert found.parameters["round_counts"] is True
    assert found.missing == ()


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.1])
def test_a_thin_soup_leaves_most_genes_nearly_whole_and_is_named(share: float) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.lognormal(-2.5, 1.5, 2000), (100, 2000)).astype(float)
    soup = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    left = np.maximum(counts - share * soup, 0)
    assert decimals.kind_of(sparse.csr_matrix(left.astype(np.float32))) == decimals.CORRECTED
    assert decimals.kind_of(sparse.csr_matrix(of_one_variance(counts))) == decimals.NORMALISED


@pytest.mark.parametrize("how", list(NORMALISED))
def test_normalised_values_are_refused_and_never_rounded(how: str, tmp_path: Path) -> None:
    adata = changed(NORMALISED[how])
    with pytest.raises(InputError, match=r"these look like (normalised values|logarithms)"):
        check.counts(prepared(adata, round_counts=True), allow_empty_genes=True)
    assert inspect(as_h5ad(adata, tmp_path)).counts[0].problem.startswith("no whole numbers: ")


@pytest.mark.parametrize(
    "how",
    [
        lambda counts: np.random.default_rng(0).gamma(1.5, 0.2, counts.shape),  # most are below one half
        lambda counts: np.random.default_rng(0).lognormal(-1.5, 0.8, counts.shape),
    ],
)
def test_values_that_rounding_would_change_are_refused_and_never_rounded(how: Any, tmp_path: Path) -> None:
    adata = changed(how)
    for asked in (False, True):
        with pytest.raises(InputError, match="these look like intensities"):
            check.counts(prepared(adata, round_counts=asked), allow_empty_genes=True)
    found = inspect(as_h5ad(adata, tmp_path))
    assert found.counts[0].problem.startswith("no whole numbers: ") and "round_counts" not in found.parameters


def test_intensities_of_a_real_embryo_are_no_counts(shared_data: Callable[[str], Path]) -> None:
    found = inspect(shared_data("bdtnp_drosophila_3d"))
    assert found.counts[0].problem == "no whole numbers: intensities" and found.missing


@pytest.mark.parametrize("noise", [1e-6, -1e-6, 1e-9])
@pytest.mark.parametrize("layer", [None, "counts"])
def test_rounding_noise_is_rounded_with_a_note(noise: float, layer: str | None) -> None:
    adata = make_tissue()
    noisy = adata.X.astype(np.float64)
    noisy.data += noise * np.maximum(1, noisy.data)
    if layer is None:
        adata.X = noisy
    else:
        adata.layers[layer] = noisy
    with pytest.warns(
        IsoviWarning, match=f"{noisy.nnz} values of the counts are whole numbers but for rounding"
    ):
        found = prepared(adata, layer=layer)
    whole = found.X if layer is None else found.layers[layer]
    np.testing.assert_array_equal(whole.toarray(), np.rint(noisy.toarray()))


def test_raw_and_layers_are_proposed_by_name(tmp_path: Path) -> None:
    adata = make_tissue()
    adata.raw = adata.copy()
    adata.X = sparse.csr_matrix(np.log1p(scaled(adata.X.toarray())), dtype=np.float32)
    with pytest.raises(InputError, match=r'adata\.raw holds whole numbers: pass layer="raw"'):
        check.counts(adata)
    assert inspect(as_h5ad(adata, tmp_path)).parameters == {"layer": "raw"}
    adata.layers["umi"] = adata.raw.X
    with pytest.raises(InputError, match='layer="umi" holds whole numbers'):
        check.counts(adata)


def test_raw_is_read_as_a_layer() -> None:
    adata = make_tissue()
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    found = prepared(adata[:, 5:].copy(), layer="raw")
    np.testing.assert_array_equal(check.counts(found, "raw").toarray(), adata.raw.X[:, 5:].toarray())
    assert "raw" not in adata.layers


@pytest.mark.parametrize("scale", ["intensities", "centred"])
def test_proteins_beside_genes_may_have_decimals(scale: str, tmp_path: Path) -> None:
    """Xenium with proteins, CITE-seq: ``inspect`` looks at the counts that a fit uses."""
    adata = make_tissue()
    counts = adata.X.copy()
    proteins = np.random.default_rng(0).normal(5 if scale == "intensities" else 0, 1, (adata.n_obs, 2))
    types = ["Gene Expression"] * adata.n_vars + ["Protein Expression"] * 2
    adata = with_features(adata, ["CD3E", "CD8A"], feature_types=types)
    adata.X = sparse.hstack([counts, proteins], format="csr")
    found = inspect(as_h5ad(adata, tmp_path))
    assert (found.missing, found.parameters, found.n_vars) == ((), {}, counts.shape[1])
    with pytest.warns(IsoviWarning, match="2 of 22 features"):
        np.testing.assert_array_equal(check.counts(prepared(adata)).toarray(), counts.toarray())


LAYERS: dict[str, tuple[dict[str, float], str]] = {  # with their share of the counts
    "velocyto": ({"ambiguous": 0.1, "matrix": 1.0, "spliced": 0.7, "unspliced": 0.2}, "matrix"),
    "compartments": ({"cytoplasm": 0.4, "nucleus": 0.3, "whole": 1.0}, "whole"),
    "a usual name": ({"all_reads": 3.0, "counts": 1.0}, "counts"),
}


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("x", ["logarithms", "zeros"])
def test_of_several_layers_of_counts_the_largest_is_proposed(kind: str, x: str, tmp_path: Path) -> None:
    """In order of their names, the first is a part of the counts, or a mask."""
    adata, (layers, best) = make_tissue(), LAYERS[kind]
    for name, share in layers.items():
        adata.layers[name] = (adata.X * share).ceil()
    adata.layers["a_mask"] = adata.X > 0
    adata.X = adata.X.log1p() if x == "logarithms" else adata.X * 0
    assert inspect(as_h5ad(adata, tmp_path)).parameters == {"layer": best}


def test_counts_that_are_not_in_memory_are_refused(tmp_path: Path) -> None:
    """A fit of backed data ended in a KeyError, and one of sparse dask arrays in scipy's ValueError."""
    path = as_h5ad(make_tissue(), tmp_path).path
    backed = anndata.read_h5ad(path, backed="r")
    lazy = anndata.read_h5ad(path)
    lazy.X = pytest.importorskip("dask.array").from_array(lazy.X, asarray=False)
    for adata, where in ((backed, 'on disk, in ".*in.h5ad"'), (lazy, "a sparse dask array")):
        with pytest.raises(InputError, match=rf"are {where}.*adata\.to_memory\(\)"):
            isovi.fit(adata, progress=False, **QUICK)
        check.counts(prepared(adata.to_memory()))
    backed.file.close()


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    **{
        kind: lambda counts, kind=kind: counts.astype(kind)
        for kind in ("i1", "u2", "u8", "f8", ">f4", ">i8", "O", "?")
    },
    "longdouble": lambda counts: counts.astype(np.longdouble),
    "csr, u1": lambda counts: sparse.csr_matrix(counts.astype("u1")),
    "csc, i8": lambda counts: sparse.csc_matrix(counts.astype("i8")),
    "csr_array": sparse.csr_array,
    "csc_array, u4": lambda counts: sparse.csc_array(counts.astype("u4")),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_whole_numbers_of_every_type_are_counts(form: str) -> None:
    adata = make_tissue(40, 10)
    counts = adata.X.toarray()
    if form == "?":
        counts = (counts > 0).astype(np.float32)
    adata.X = FORMS[form](counts)
    found = prepared(adata)
    values = check.counts(found, allow_empty_genes=True)
    values = values.toarray() if sparse.issparse(values) else values
    np.testing.assert_array_equal(values.astype(np.float64), counts)
    isovi.IsoSCVI.setup_anndata(found)
    model = isovi.IsoSCVI(found, n_latent=2, n_layers=1, n_hidden=4)
    model.train(1, enable_progress_bar=False)
    assert np.isfinite(model.get_latent_representation()).all()
