from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.spatial import cKDTree

from isovi.data import io
from isovi.data.io import Source
from isovi.data.readers.positions import join, read_positions
from isovi.errors import InputError, IsoviWarning


def written(folder: Path, text: str, name: str = "places.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("header", "columns", "unit"),
    [
        ("cell,x,y", ("x", "y"), "not given"),
        ("cell,X,Y,z", ("X", "Y", "z"), "not given"),
        ("x_um,y_um,barcode", ("x_um", "y_um"), "micrometres"),
        ("cell_id,x_centroid,y_centroid,area", ("x_centroid", "y_centroid"), "micrometres"),
        (",fov,volume,center_x,center_y", ("center_x", "center_y"), "micrometres"),
        ("cell_ID,CenterX_global_px,CenterY_global_px", ("CenterX_global_px", "CenterY_global_px"), "pixels"),
        ("spot,imagecol,imagerow", ("imagecol", "imagerow"), "not given"),
    ],
)
def test_columns_and_unit_are_told_from_the_names(
    header: str, columns: tuple[str, ...], unit: str, tmp_path: Path
) -> None:
    names = header.split(",")
    rows = [",".join(str(10 * row + column) for column in range(len(names))) for row in range(3)]
    found = read_positions(written(tmp_path, "\n".join([header, *rows])))
    assert found.columns == columns
    assert found.unit.startswith(unit)
    assert found.table[list(columns)].iloc[0].tolist() == [names.index(name) for name in columns]


@pytest.mark.parametrize(
    ("row", "place"), [("01,1,2", [1, 2]), ("01,1,2,3", [1, 2, 3]), ("01,1,0,0,2,1", [1, 2])]
)
def test_a_table_may_have_no_header(row: str, place: list[int], tmp_path: Path) -> None:
    found = read_positions(written(tmp_path, f"{row}\n"))
    assert found.table.index.tolist() == ["01"]
    assert found.table[list(found.columns)].to_numpy().tolist() == [place]


def test_visium_is_x_before_y(tmp_path: Path) -> None:
    text = "a-1,1,0,0,200,100\nb-1,0,0,1,200,300\n"
    found = read_positions(written(tmp_path, text, "tissue_positions_list.csv"))
    assert found.table.index.tolist() == ["a-1"], "b is outside of the tissue"
    assert found.table[list(found.columns)].to_numpy().tolist() == [[100, 200]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cell,left,right,up\na,1,2,3\n", "Rename the columns"),
        ("barcode,nCount,nFeature\na,1,2\n", "'nCount', 'nFeature'"),
        ("cell,in_tissue,area,row\na,1,2,3\n", "Rename the columns"),
        ("cell,n_counts,UMAP_x,UMAP_y\na,1,2,3\n", "Rename the columns"),
        ("cell,min_x,min_y,max_x,max_y\na,1,2,3,4\n", "Rename the columns"),
        ("cell,velocity_x,velocity_y,area\na,1,2,3\n", "Rename the columns"),
        ("cell,phate_x,phate_y,latent_x,latent_y\na,1,2,3,4\n", "Rename the columns"),
        ("barcode,in_tissue,x,y\na,0,1,2\nb,0,3,4\n", "says of no spot that it is in tissue"),
        ("cell,nucleus_x,nucleus_y,membrane_x,membrane_y\na,1,2,3,4\n", "nucleus_x, nucleus_y; membrane_x"),
        ("barcode,in_tissue,x,y\na,perhaps,1,2\n", "'perhaps' in column 'in_tissue'"),
        ("cell,one,two,three,four\na,1,2,3,4\n", "Rename the columns"),
        ("cell,x,y\na,left,2\n", "'x', 'y'"),
        ("cell,x,y\na,1,2\na,3,4\n", 'more than once: "a"'),
    ],
)
def test_what_has_no_positions_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_positions(written(tmp_path, text))


@pytest.mark.parametrize(
    ("header", "columns", "unit"),
    [
        ("cell,pos_x,pos_y,area", ("pos_x", "pos_y"), "not given"),
        ("cell,area,Centroid_X,Centroid_Y", ("Centroid_X", "Centroid_Y"), "not given"),
        ("barcode,n_counts,in_tissue,xPos,yPos", ("xPos", "yPos"), "not given"),
        (",fov,min_x,max_x,min_y,max_y,pos.x.um,pos.y.um", ("pos.x.um", "pos.y.um"), "micrometres"),
        ("fov,cell_ID,x_FOV_px,y_FOV_px,x_slide_mm,y_slide_mm", ("x_slide_mm", "y_slide_mm"), "millimetres"),
        ("cell_ID,sdimx,sdimy,nr_genes", ("sdimx", "sdimy"), "not given"),
        ("label,centroid-0,centroid-1,area", ("centroid-1", "centroid-0"), "pixels"),
        ("cell,loc_x,loc_y,loc_z,volume", ("loc_x", "loc_y", "loc_z"), "not given"),
        ("cell,area,spatial_1,spatial_2", ("spatial_1", "spatial_2"), "not given"),
        ("cell,coord1,coord2,n_genes", ("coord1", "coord2"), "not given"),
        ("barcode,in.tissue,pxl.row.in.fullres,pxl.col.in.fullres", None, "pixels of the full-resolution"),
        ("id,vel_x,vel_y,x_location,y_location", ("x_location", "y_location"), "not given"),
        ("label,area,row,col", ("array_x", "array_y"), "not given"),
    ],
)
def test_columns_are_chosen_by_name_and_not_because_they_are_numbers(
    header: str, columns: tuple[str, ...], unit: str, tmp_path: Path
) -> None:
    names = header.split(",")
    columns = columns or ("pxl.col.in.fullres", "pxl.row.in.fullres")
    rows = [
        ",".join("1" if n[:2] == "in" else str(7 * row + k) for k, n in enumerate(names)) for row in (1, 2)
    ]
    found = read_positions(written(tmp_path, "\n".join([header, *rows])))
    assert found.columns == columns
    assert found.unit.startswith(unit)
    places = {"array_x": names.index("col"), "array_y": names.index("row")} if "row" in names else {}
    places |= {name: k for k, name in enumerate(names)}
    assert found.table[list(columns)].iloc[0].tolist() == [7 + places[name] for name in columns]


def test_a_third_number_without_a_name_is_z_if_it_holds_planes(tmp_path: Path) -> None:
    planes = "".join(f"{i},{i},{i * i},{i % 3}\n" for i in range(30))
    areas = "".join(f"{i},{i},{i * i},{i * 1000}\n" for i in range(30))
    assert len(read_positions(written(tmp_path, planes)).columns) == 3
    with pytest.warns(IsoviWarning, match="30 values for 30 cells: it is not taken as z"):
        assert read_positions(written(tmp_path, areas)).columns == ("x", "y")


@pytest.mark.parametrize(
    "row", ["{i},{two},{i},{far}", "{i},{four},{far},{i}", "{i},{far},{four},{i}", "{i},{two},{four},{two}"]
)
def test_a_number_without_a_name_that_says_something_else_is_refused(row: str, tmp_path: Path) -> None:
    """Whether a spot is in tissue, clusters, a row of the array: in place of x or y."""
    rows = [row.format(i=i, two=i % 2, four=i % 4, far=i * i) for i in range(40)]
    with pytest.raises(InputError, match=r"no header, and one of columns 2 and 3 has [24] values only"):
        read_positions(written(tmp_path, "\n".join(rows)))


def test_an_empty_z_is_not_used(tmp_path: Path) -> None:
    with pytest.warns(IsoviWarning, match=r"Column 'z' of \"places.csv\" is empty .* \(x, y\)"):
        found = read_positions(written(tmp_path, "cell,x,y,z\na,1,2,\nb,3,4,\n"))
    assert found.columns == ("x", "y") and len(found.table) == 2


def counts_of(names: list[str]) -> AnnData:
    return AnnData(np.ones((len(names), 2), dtype=np.float32), obs=pd.DataFrame(index=names))


@pytest.mark.parametrize("empty", ["", "NaN", "NA", "inf"])
def test_cells_with_an_empty_position_are_left_out_and_their_number_is_said(
    empty: str, tmp_path: Path
) -> None:
    path = written(tmp_path, f"cell,x,y\na,1,2\nb,{empty},3\nc,4,{empty}\nd,5,6\n")
    with pytest.warns(IsoviWarning) as said:
        found = join(counts_of(list("abcde")), read_positions(path), Path("c"))
    assert found.obs_names.tolist() == ["a", "d"]
    assert found.obsm["spatial"].tolist() == [[1, 2], [5, 6]]
    texts = [str(one.message) for one in said if issubclass(one.category, IsoviWarning)]
    assert texts == [
        '2 of 5 cells have an empty position in "places.csv" and are left out.',
        '1 of 5 cells have no position in "places.csv" and are left out.',
    ]


def test_tables_that_lack_most_positions_are_refused_or_warned_of(tmp_path: Path) -> None:
    path = written(tmp_path, "cell,x,y\na,1,2\nb,,3\nc,4,\nd,5,6\ne,,\n")
    refused = r'places.csv" is empty for 3 of 5 cells: "b", "c", "e"\. .*not if they outnumber the others'
    with pytest.raises(InputError, match=refused):
        join(counts_of(list("abcde")), read_positions(path), Path("c"))
    with pytest.raises(InputError, match="is empty for 1 of 1 cells"):
        join(counts_of(["b"]), read_positions(path), Path("c"))
    most = r'3 of 4 cells have no position in "places.csv" and are left out\. That is most of them'
    with pytest.warns(IsoviWarning, match=most):
        join(counts_of(list("afgh")), read_positions(path), Path("c"))


@pytest.mark.parametrize(
    ("column", "inside", "outside"),
    [
        ("in_tissue", "TRUE", "FALSE"),
        ("in_tissue", "1.0", ""),
        ("inTissue", "yes", "no"),
        ("tissue", "1", "0"),
        ("in.tissue", "T", "F"),
        ("In Tissue", "Yes", "No"),
        ("is_in_tissue", "True", "False"),
    ],
)
def test_spots_outside_of_the_tissue_are_left_out_however_it_is_written(
    column: str, inside: str, outside: str, tmp_path: Path
) -> None:
    text = f"barcode,{column},imagerow,imagecol\na,{inside},2,1\nb,{outside},4,3\nc,{inside},6,5\n"
    with pytest.warns(IsoviWarning, match=r"1 of 3 cells lie outside of the tissue and are left out\."):
        found = join(counts_of(list("abc")), read_positions(written(tmp_path, text)), Path("c"))
    assert found.obs_names.tolist() == ["a", "c"]
    assert found.obsm["spatial"].tolist() == [[1, 2], [5, 6]]


def test_the_name_of_an_organ_says_nothing_of_being_in_tissue(tmp_path: Path) -> None:
    text = "barcode,tissue,x,y\na,brain,1,2\nb,liver,3,4\n"
    assert len(read_positions(written(tmp_path, text)).table) == 2


def lattice(hexagonal: bool) -> list[tuple[int, int]]:
    places = [(row, column) for row in range(6) for column in range(12)]
    return [place for place in places if not hexagonal or sum(place) % 2 == 0]


@pytest.mark.parametrize(
    "header",
    [
        *("barcode,in_tissue,array_row,array_col", "spot,tissue,row,col", "barcode,array_row,array_col"),
        *("barcode,in.tissue,array.row,array.col", "spot,inTissue,arrayRow,arrayCol", "spot,Row,Column"),
    ],
)
@pytest.mark.parametrize("hexagonal", [True, False])
def test_row_and_column_of_an_array_become_its_lattice(header: str, hexagonal: bool, tmp_path: Path) -> None:
    tissue = "1," if "issue" in header else ""
    name = "s_008um" if not hexagonal and "array" in header else "s"  # only Visium HD's array is square
    rows = [f"{name}_{r}_{c},{tissue}{r},{c}" for r, c in lattice(hexagonal)]
    with pytest.warns(IsoviWarning, match="hexagonal array" if hexagonal else "square array"):
        found = read_positions(written(tmp_path, "\n".join([header, *rows])))
    positions = found.table[list(found.columns)].to_numpy()
    near = cKDTree(positions).query(positions, k=7 if hexagonal else 5)[0][:, 1:]
    inner = np.isclose(near, 1).all(axis=1)
    assert np.allclose(near[:, 0], 1), "each spot has a neighbour at distance 1"
    assert inner.sum() == (4 * 4 if hexagonal else 4 * 10), "inner ones have 6 (or 4) of them"
    assert found.unit == "distances between neighbouring spots of the array"


@pytest.mark.parametrize(
    "header", ["barcode,in_tissue,array_row,array_col", "barcode,in_tissue,Array_Row,Array_Col"]
)
def test_an_array_that_is_not_visiums_is_refused_under_visiums_names(header: str, tmp_path: Path) -> None:
    rows = [f"H1_{r}x{c},1,{r},{c}" for r, c in lattice(False)]
    with pytest.raises(InputError, match=r"every second place of a row is empty.*call the columns x and y"):
        read_positions(written(tmp_path, "\n".join([header, *rows])))


def test_pixels_are_preferred_to_the_array(tmp_path: Path) -> None:
    text = "spot,in_tissue,row,col,imagerow,imagecol\na,1,0,0,200,100\nb,1,0,2,200,300\n"
    assert read_positions(written(tmp_path, text)).columns == ("imagecol", "imagerow")


COSMX = "fov,cell_ID,Area,CenterX_local_px,CenterY_local_px,CenterX_global_px,CenterY_global_px"


@pytest.mark.parametrize("way", ["{cell}_{fov}", "{fov}_{cell}", "c_1_{fov}_{cell}"])
def test_cells_of_cosmx_are_named_by_field_and_number(way: str, tmp_path: Path) -> None:
    rows = [f"{fov},{cell},9,{cell},0,{100 * fov + cell},5" for fov in (1, 2) for cell in (1, 2, 3)]
    names = [way.format(fov=fov, cell=cell) for fov in (1, 2) for cell in (1, 2, 3)]
    found = join(counts_of(names), read_positions(written(tmp_path, "\n".join([COSMX, *rows]))), Path("c"))
    assert found.obsm["spatial"][:, 0].tolist() == [101, 102, 103, 201, 202, 203]
    assert found.obs["fov"].tolist() == [1, 1, 1, 2, 2, 2]


def test_positions_local_to_fields_of_view_are_named(tmp_path: Path) -> None:
    text = "fov,cell_ID,CenterX_local_px,CenterY_local_px\n1,1,5,6\n2,1,5,7\n"
    with pytest.warns(IsoviWarning, match=r'local to each field of view.*section_key="fov"'):
        assert read_positions(written(tmp_path, text)).columns == ("CenterX_local_px", "CenterY_local_px")


def test_cells_and_positions_must_have_names_in_common(tmp_path: Path) -> None:
    adata = AnnData(np.ones((2, 2), dtype=np.float32))
    adata.obs_names = ["a-1", "b-1"]
    with pytest.raises(InputError, match=r'No cell of "c" \("a-1", "b-1"\) is in .* \("a"\)'):
        join(adata, read_positions(written(tmp_path, "cell,x,y\na,1,2\n")), Path("c"))


@pytest.mark.parametrize("origin", [0, 1])
def test_cells_counted_from_0_and_from_1_are_refused(origin: int, tmp_path: Path) -> None:
    """By pandas and by R: all but one would get the position of the next cell."""
    adata = AnnData(np.ones((5, 2), dtype=np.float32))
    adata.obs_names = [str(origin + i) for i in range(5)]
    rows = [f"{i},{i},{10 * i}" for i in range(6)]
    with pytest.raises(InputError, match=f"counts its 5 cells from {origin}, .* from {1 - origin}"):
        join(
            adata,
            read_positions(written(tmp_path, "\n".join(["cell,x,y", *rows[1 - origin :][:5]]))),
            Path("c"),
        )
    other = read_positions(written(tmp_path, "\n".join(["cell,x,y", *rows])))  # of one cell more
    assert join(adata, other, Path("c")).obsm["spatial"][:, 0].tolist() == [origin + i for i in range(5)]


def test_anndata_takes_positions_too(tmp_path: Path) -> None:
    adata = AnnData(np.ones((3, 2), dtype=np.float32))
    adata.obs["layer"] = "own"
    adata.write_h5ad(tmp_path / "x.h5ad")
    source = Source(
        tmp_path / "x.h5ad", coordinates=written(tmp_path, "cell,x,y,layer\n2,1,2,l\n0,3,4,l\n1,5,6,l\n")
    )
    found = io.read(source)
    assert found.obsm["spatial"].tolist() == [[3, 4], [5, 6], [1, 2]]
    assert (found.obs["layer"] == "own").all(), "what is there is kept"
    with io.stored(source) as adata:
        assert adata.obsm["spatial"].tolist() == found.obsm["spatial"].tolist()
    with pytest.raises(InputError, match="There is no file"):
        io.read(Source(tmp_path / "x.h5ad", coordinates=tmp_path / "none.csv"))
