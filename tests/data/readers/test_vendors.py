"""Tables as vendors, exports and spreadsheets write them: what is a gene, a name, a position, a number."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from isovi.data import io
from isovi.data.inspect import inspect
from isovi.data.io import Source
from isovi.errors import InputError, IsoviWarning

pytestmark = pytest.mark.filterwarnings("ignore::isovi.errors.IsoviWarning")
N_OBS, GENES = 12, ["Gad1", "Sst", "Xpo1", "Area51", "NEGR1", "Volk"]
CELLS = [f"c{i}" for i in range(N_OBS)]
COUNTS = np.random.default_rng(0).poisson(2, (N_OBS, len(GENES))) + 1
XY = np.random.default_rng(1).integers(0, 5000, (N_OBS, 2))
TABLE = pd.DataFrame(COUNTS, index=CELLS, columns=GENES)


def assert_read(adata: AnnData, names: list[str] | None = None) -> None:
    assert adata.var_names.tolist() == GENES
    assert adata.obs_names.tolist() == (names or CELLS)
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)


# ---------------------------------------------------------------------------- one table

ONE_TABLE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "osmFISH": (
        {"x": XY[:, 0], "y": XY[:, 1], "n_counts": COUNTS.sum(1), "cluster": np.arange(N_OBS) % 4},
        ["x", "y"],
    ),
    "STARmap": (
        {"x_um": XY[:, 0] / 7, "y_um": XY[:, 1] / 7, "cell_type": ["a", "b"] * 6, "orig.ident": "s1"},
        ["x_um", "y_um"],
    ),
    "Vizgen": (
        {"fov": 0, "volume": 11.5, "center_x": XY[:, 0] / 3, "center_y": XY[:, 1] / 3, "min_x": 0},
        ["center_x", "center_y"],
    ),
    "Xenium": (
        {"x_centroid": XY[:, 0] / 3, "y_centroid": XY[:, 1] / 3, "cell_area": 7.5, "a_score": 0.25},
        ["x_centroid", "y_centroid"],
    ),
    "QuPath": (
        {"Centroid X µm": XY[:, 0], "Centroid Y µm": XY[:, 1], "Area µm^2": 5.5, "Total": COUNTS.sum(1)},
        ["Centroid X µm", "Centroid Y µm"],
    ),
    "segmentation": (
        {"X": XY[:, 0], "Y": XY[:, 1], "ClusterID": np.arange(N_OBS) % 4, "size": 40, "n_transcripts": 9},
        ["X", "Y"],
    ),
    "Moffitt": (
        {"Animal_ID": 1, "Bregma": 0.26, "Centroid_X": XY[:, 0], "Centroid_Y": XY[:, 1], "Cell_class": "A"},
        ["Centroid_X", "Centroid_Y"],
    ),
    "seqFISH+": (
        {"Field of View": np.arange(N_OBS) % 3, "X": XY[:, 0], "Y": XY[:, 1], "Region": "C"},
        ["X", "Y"],
    ),
    "CODEX": (
        {"cell_id:cell_id": range(N_OBS), "size:size": 40, "tile_num": 1, "x": XY[:, 0], "y": XY[:, 1]},
        ["x", "y"],
    ),
    "scater": (
        {"sum": COUNTS.sum(1), "detected": 6, "is_doublet": [True, False] * 6, "row": 1, "col": 2},
        [],
    ),
    "STutility": (
        {"imagerow": XY[:, 1], "imagecol": XY[:, 0], "row": 3, "RNA_snn_res.0.5": np.arange(N_OBS) % 3},
        ["imagecol", "imagerow"],
    ),
    "stLearn": (
        {"spatial_1": XY[:, 0], "spatial_2": XY[:, 1], "total_counts": COUNTS.sum(1), "mouse_id": 2},
        ["spatial_1", "spatial_2"],
    ),
    "Seurat": (
        {"nCount_RNA": COUNTS.sum(1), "nFeature_RNA": 6, "seurat_clusters": 1, "percent.mt": 0.0},
        [],
    ),
}


@pytest.mark.parametrize("kind", list(ONE_TABLE))
@pytest.mark.parametrize("in_front", [False, True])
def test_annotation_beside_genes_is_told_apart(kind: str, in_front: bool, tmp_path: Path) -> None:
    columns, axes = ONE_TABLE[kind]
    annotation = pd.DataFrame(columns, index=CELLS)
    table = pd.concat([annotation, TABLE] if in_front else [TABLE, annotation], axis=1)
    table.to_csv(tmp_path / "cells.csv", index_label="cell")
    with pytest.warns(IsoviWarning, match=f"{annotation.shape[1]} columns of .* are no genes"):
        found = io.read(tmp_path / "cells.csv")
    assert_read(found)
    assert set(annotation) == set(found.obs)
    if axes:
        np.testing.assert_allclose(found.obsm["spatial"], annotation[axes])
    else:
        assert "spatial" not in found.obsm


def test_columns_that_the_positions_have_too_are_no_genes(tmp_path: Path) -> None:
    TABLE.assign(x=XY[:, 0], y=XY[:, 1], score=3).to_csv(tmp_path / "cells.csv", index_label="cell")
    places = pd.DataFrame({"x": XY[:, 0], "y": XY[:, 1], "score": 3}, index=CELLS)
    places.to_csv(tmp_path / "places.csv", index_label="cell")
    for name in ("cells.csv", "places.csv"):
        found = io.read(Source(tmp_path / "cells.csv", coordinates=tmp_path / name))
        assert not {"x", "y"} & set(found.var_names)
        np.testing.assert_array_equal(found.obsm["spatial"], XY)
    assert "score" not in found.var_names


def test_a_gene_called_y_is_a_gene_and_normalised_values_stay(tmp_path: Path) -> None:
    TABLE.rename(columns={"Sst": "y"}).to_csv(tmp_path / "counts.csv", index_label="cell")
    PLACES.to_csv(tmp_path / "places.csv", index=False)
    found = io.read(Source(tmp_path / "counts.csv", coordinates=tmp_path / "places.csv"))
    assert "y" in found.var_names, "yellow, of the fruit fly"
    (TABLE / 7).to_csv(tmp_path / "normalised.csv", index_label="cell")
    assert io.read(tmp_path / "normalised.csv").var_names.tolist() == GENES
    assert inspect(tmp_path / "normalised.csv").n_vars == len(GENES)


@pytest.mark.parametrize("wrong", ["1,234", "#REF!", "<5"])
def test_a_gene_with_a_value_that_is_no_number_is_no_annotation(wrong: str, tmp_path: Path) -> None:
    """It was left out as a column that describes cells, if no such value was among the first rows."""
    table = pd.concat([TABLE.set_axis([f"{i}{name}" for name in CELLS]) for i in range(12)]).astype(object)
    table.iloc[-1, 2] = wrong
    table.to_csv(tmp_path / "counts.csv", index_label="cell")
    with pytest.raises(InputError, match=f"the columns '{GENES[2]}' cannot be interpreted"):
        io.read(tmp_path / "counts.csv")


def test_genes_whose_names_end_in_x_and_y_are_genes(tmp_path: Path) -> None:
    names = ["ZFX", "ZFY", "EIF1AX", "EIF1AY", "Amelx", "Amely"]
    TABLE.set_axis([*names, *GENES[len(names) :]], axis=1).to_csv(tmp_path / "c.csv", index_label="cell")
    assert set(names) <= set(io.read(tmp_path / "c.csv").var_names)


@pytest.mark.parametrize("is_long", [False, True])
def test_empty_counts_are_refused(is_long: bool, tmp_path: Path) -> None:
    """Cells with one were left out as cells without counts."""
    table = TABLE.astype(object)
    table.iloc[2, 1] = ""
    if is_long:
        table = table.rename_axis("cell").reset_index().melt("cell", var_name="gene", value_name="count")
    table.to_csv(tmp_path / "c.csv", index=not is_long, index_label="cell")
    with pytest.raises(InputError, match=r"has empty counts, in the columns .*Write 0 where nothing"):
        io.read(tmp_path / "c.csv")


# ---------------------------------------------------------------------------- CosMx


def write_cosmx(folder: Path, **more: Any) -> Source:
    """Two fields whose cells have the same numbers; cell 0 is what lies between the cells."""
    ids = pd.DataFrame({"fov": np.repeat([1, 2], 6), "cell_ID": np.tile(np.arange(1, 7), 2)}, index=CELLS)
    counts = pd.concat([ids, TABLE.assign(NegPrb1=1, SystemControl1=1)], axis=1)
    between = counts.iloc[[0, 6]].assign(cell_ID=0)
    pd.concat([between, counts]).to_csv(folder / "exprMat.csv", index=False)
    place = {"Area": 10, "CenterX_local_px": 1, "CenterY_local_px": 1}
    place |= {"CenterX_global_px": XY[:, 0], "CenterY_global_px": XY[:, 1], **more}
    pd.concat([ids, pd.DataFrame(place, index=CELLS)], axis=1).to_csv(folder / "metadata.csv", index=False)
    return Source(folder / "exprMat.csv", coordinates=folder / "metadata.csv")


def test_cells_of_cosmx_are_named_by_field_and_number(tmp_path: Path) -> None:
    found = io.read(write_cosmx(tmp_path).path)
    assert_read(found, [f"{cell}_{fov}" for fov in (1, 2) for cell in range(1, 7)])
    assert found.obs["fov"].tolist() == [1] * 6 + [2] * 6


NUMBERS = {"fov": np.repeat([1, 2], 6), "cell_ID": np.tile(np.arange(1, 7), 2)}
TEXT = [f"c_1_{fov}_{cell}" for fov, cell in zip(*NUMBERS.values(), strict=True)]
SLIDES = {"fov": 1, "cell_ID": NUMBERS["cell_ID"], "slide_ID_numeric": NUMBERS["fov"]}
COSMX: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # columns of the counts, and of the cells
    "AtoMx": (NUMBERS, {"cell": TEXT, **NUMBERS}),
    "AtoMx, cell_id": (NUMBERS, {**NUMBERS, "cell_id": TEXT}),
    "AtoMx, cell_id first": (NUMBERS, {"cell_id": TEXT, **NUMBERS}),
    "text in both": ({"cell": TEXT, **NUMBERS}, {"cell": TEXT, **NUMBERS}),
    "text in one": ({"cell_id": TEXT}, {"cell": TEXT, **NUMBERS}),
    "both in both": ({**NUMBERS, "cell_id": TEXT}, {**NUMBERS, "cell_id": TEXT}),
    "decimals": ({name: values.astype(float) for name, values in NUMBERS.items()}, NUMBERS),
    "CellId": ({"FOV": NUMBERS["fov"], "CellId": NUMBERS["cell_ID"]}, NUMBERS),
    "a slide": ({"slide_ID": 3, **NUMBERS}, NUMBERS),
    "two slides": (SLIDES, SLIDES),
    "two slides, text": (SLIDES, {"cell": [f"c_{one[4]}_1_{one[-1]}" for one in TEXT], **SLIDES}),
}


@pytest.mark.parametrize("layout", list(COSMX))
def test_cells_of_cosmx_are_joined_however_they_are_numbered(layout: str, tmp_path: Path) -> None:
    """Of AtoMx's tables half of the cells got the place of another one: field and number were exchanged."""
    of_counts, of_cells = (pd.DataFrame(columns, index=CELLS) for columns in COSMX[layout])
    pd.concat([of_counts, TABLE.assign(NegPrb1=1)], axis=1).to_csv(tmp_path / "S1_exprMat.csv", index=False)
    place = {"CenterX_local_px": 1, "CenterY_local_px": 1, "CenterX_global_px": XY[:, 0]}
    place |= {"CenterY_global_px": XY[:, 1], "own": range(N_OBS)}
    cells = pd.concat([of_cells, pd.DataFrame(place, index=CELLS)], axis=1)
    cells.iloc[::-1].to_csv(tmp_path / "S1_metadata.csv", index=False)
    found = io.read(tmp_path)
    assert_read(found, found.obs_names.tolist())
    assert found.obs_names.is_unique and found.obs["own"].tolist() == list(range(N_OBS))
    np.testing.assert_array_equal(found.obsm["spatial"], XY)


# ---------------------------------------------------------------------------- GEM


def gem(name: str = "MIDCount", **more: Any) -> pd.DataFrame:
    rows, columns = np.nonzero(COUNTS)
    return pd.DataFrame(
        {
            "geneID": np.array(GENES)[columns],
            "x": rows * 300 + 7 + columns,
            "y": 1000 + 9 * columns,
            name: COUNTS[rows, columns],
            **{key: value[rows] for key, value in more.items()},
        }
    )


@pytest.mark.parametrize("name", ["MIDCount", "MIDCounts", "UMICount", "MID_count", "count"])
def test_gem_is_read_in_bins(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s.gem.gz"
    with gzip.open(path, "wt") as file:
        file.write("#FileFormat=GEMv0.1\n#BinSize=1\n" + gem(name).to_csv(sep="\t", index=False))
    with pytest.warns(IsoviWarning, match="bins of 50 x 50 positions"):
        found = io.read(path)
    assert found.obs_names.tolist() == [f"{i * 300 // 50}_{20}" for i in range(N_OBS)]
    np.testing.assert_array_equal(found[:, GENES].X.toarray(), COUNTS)
    np.testing.assert_array_equal(found.obsm["spatial"][1], [325, 1025])
    assert inspect(path).kind == "Stereo-seq GEM"


@pytest.mark.parametrize(("own", "size"), [(20, 60), (50, 50), (100, 100), (7, 56)])
def test_bins_of_a_binned_gem_are_not_cut(own: int, size: int, tmp_path: Path) -> None:
    """Read in bins of 50, every second or third bin of 20 would hold the counts of twice as many."""
    x, y = (axis.ravel() * own + 11 for axis in np.meshgrid(np.arange(40), np.arange(40)))
    table = pd.DataFrame({"geneID": "a", "x": x, "y": y, "MIDCount": 1})
    table.to_csv(tmp_path / "s.gem", sep="\t", index=False)
    with pytest.warns(
        IsoviWarning, match=rf"bins of {size} x {size} positions .* holds bins of {own} x {own}"
    ):
        found = io.read(tmp_path / "s.gem")
    places = found.obsm["spatial"]
    inner = found[(places > size).all(axis=1) & (places < 30 * own).all(axis=1)]
    assert inner.n_obs and set(inner.X.data) == {(size / own) ** 2}
    assert inspect(tmp_path / "s.gem").about["observations"] == f"bins of {size} x {size} positions"


def test_gem_with_cells_is_read_by_cell(tmp_path: Path) -> None:
    cell = np.arange(N_OBS)  # 0 lies between the cells
    gem(CellID=cell).to_csv(tmp_path / "s.gem.txt", sep="\t", index=False)
    found = io.read(tmp_path / "s.gem.txt")
    assert found.obs_names.tolist() == [str(i) for i in range(1, N_OBS)]
    np.testing.assert_array_equal(found[:, GENES].X.toarray(), COUNTS[1:])
    np.testing.assert_allclose(found.obsm["spatial"][0], [300 + 7 + 2.5, 1000 + 9 * 2.5])


MOLECULES: dict[str, dict[str, Any]] = {
    "Xenium": {"transcript_id": 1, "cell_id": 3, "feature_name": "Gad1", "x_location": 1.5, "y_location": 2},
    "MERSCOPE": {"": 0, "barcode_id": 1, "global_x": 1.5, "global_y": 2.5, "fov": 0, "gene": "Gad1"},
    "CosMx": {"fov": 1, "cell_ID": 3, "x_global_px": 1, "y_global_px": 2, "z": 0, "target": "Gad1"},
    "Resolve": {"x": 1, "y": 2, "z": 0, "gene": "Gad1"},
    "STARmap": {"gene": "Gad1", "x": 1, "y": 2},
    "Seq-Scope": {"gene_name": "Gad1", "x": 1, "y": 2, "count": 3},
    "Baysor": {"x": 1.5, "y": 2.5, "gene": "Gad1", "molecule_id": 1, "cell": 3, "confidence": 0.9},
}


@pytest.mark.parametrize("vendor", list(MOLECULES))
def test_tables_of_molecules_are_refused_by_name(vendor: str, tmp_path: Path) -> None:
    """Some were read as a table of genes by the two or three "cells" x, y and count."""
    pd.DataFrame([MOLECULES[vendor]] * 3).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=r"has a line for each molecule: '\w+' and position \(\w+, \w+\)"):
        io.read(tmp_path / "t.csv")


def test_gem_has_its_own_positions(tmp_path: Path) -> None:
    gem().to_csv(tmp_path / "s.gem", sep="\t", index=False)
    with pytest.raises(InputError, match="`coordinates` was given with"):
        io.read(Source(tmp_path / "s.gem", coordinates=tmp_path / "s.gem"))


# ---------------------------------------------------------------------------- how text is written

PLACES = pd.DataFrame({"cell": CELLS, "x": XY[:, 0] / 7, "y": XY[:, 1] / 7, "région": "Nîmes"})
WAYS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "decimal commas": lambda table, path: table.to_csv(path, sep=";", decimal=",", index=False),
    "decimal commas, tabs": lambda table, path: table.to_csv(path, sep="\t", decimal=",", index=False),
    "decimal commas, quoted": lambda table, path: table.map(
        lambda value: str(value).replace(".", ",") if isinstance(value, float) else value
    ).to_csv(path, index=False),
    "blanks": lambda table, path: path.write_text(table.to_string(index=False), encoding="utf-8"),
    "latin-1": lambda table, path: table.to_csv(path, index=False, encoding="latin-1"),
    "Excel's Unicode": lambda table, path: table.to_csv(path, sep="\t", index=False, encoding="utf-16"),
    "a mark": lambda table, path: table.to_csv(path, index=False, encoding="utf-8-sig"),
    "running index": lambda table, path: table.to_csv(path),
    "running index from 1": lambda table, path: table.set_axis(range(1, N_OBS + 1)).to_csv(path),
    "R": lambda table, path: path.write_text(
        table.set_axis(range(1, N_OBS + 1)).to_csv(sep="\t").removeprefix("\t"), encoding="utf-8"
    ),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_positions_are_read_however_they_are_written(way: str, tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "counts.csv", index_label="cell")
    WAYS[way](PLACES, tmp_path / "places.txt")
    found = io.read(Source(tmp_path / "counts.csv", coordinates=tmp_path / "places.txt"))
    assert_read(found)
    np.testing.assert_allclose(found.obsm["spatial"], PLACES[["x", "y"]])
    assert (found.obs["région"] == "Nîmes").all()


@pytest.mark.parametrize("name", ["cell", "barcode", "id", "my_cells"])
def test_a_running_index_never_names_cells(name: str, tmp_path: Path) -> None:
    TABLE.rename_axis(name).reset_index().to_csv(tmp_path / "counts.csv")
    PLACES.iloc[::-1].rename(columns={"cell": name}).reset_index(drop=True).to_csv(tmp_path / "places.csv")
    found = io.read(Source(tmp_path / "counts.csv", coordinates=tmp_path / "places.csv"))
    assert_read(found)
    np.testing.assert_allclose(found.obsm["spatial"], PLACES[["x", "y"]])


def test_an_index_that_is_all_there_is_names_cells(tmp_path: Path) -> None:
    TABLE.reset_index(drop=True).to_csv(tmp_path / "counts.csv")
    assert_read(io.read(tmp_path / "counts.csv"), [str(i) for i in range(N_OBS)])


def test_a_comma_that_may_separate_thousands_is_refused(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "counts.csv", index_label="cell")
    (tmp_path / "places.tsv").write_text("cell\tx\ty\nc0\t1,234\t2,345\nc1\t3,234\t2,345\n")
    with pytest.raises(InputError, match="may be a decimal comma or separate thousands"):
        io.read(Source(tmp_path / "counts.csv", coordinates=tmp_path / "places.tsv"))


@pytest.mark.parametrize("way", ["decimal commas", "latin-1", "running index"])
def test_what_was_guessed_of_a_table_is_said(way: str, tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "counts.csv", index_label="cell")
    WAYS[way](PLACES, tmp_path / "places.txt")
    words = {"decimal commas": "decimal commas", "latin-1": "Latin-1", "running index": "counts its rows"}
    found = inspect(Source(tmp_path / "counts.csv", coordinates=tmp_path / "places.txt"))
    assert any(words[way] in note for note in found.notes)
