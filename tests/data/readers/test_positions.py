from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

from isovi.data import io
from isovi.data.io import Source
from isovi.data.readers.positions import join, read_positions
from isovi.errors import InputError


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
        ("cell,left,right,up\na,1,2,3\n", None),
        ("cell,one,two,three,four\na,1,2,3,4\n", "Rename the columns"),
        ("cell,x,y\na,left,2\n", "'x', 'y'"),
        ("cell,x,y\na,1,2\na,3,4\n", 'more than once: "a"'),
    ],
)
def test_what_has_no_positions_is_refused(text: str, words: str | None, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    if words is None:
        assert read_positions(path).columns == ("left", "right", "up")
        return
    with pytest.raises(InputError, match=words):
        read_positions(path)


def test_cells_and_positions_must_have_names_in_common(tmp_path: Path) -> None:
    adata = AnnData(np.ones((2, 2), dtype=np.float32))
    adata.obs_names = ["a-1", "b-1"]
    with pytest.raises(InputError, match=r'No cell of "c" \("a-1", "b-1"\) is in .* \("a"\)'):
        join(adata, read_positions(written(tmp_path, "cell,x,y\na,1,2\n")), Path("c"))


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
    with pytest.raises(InputError, match="There is no"):
        io.read(Source(tmp_path / "x.h5ad", coordinates=tmp_path / "none.csv"))
