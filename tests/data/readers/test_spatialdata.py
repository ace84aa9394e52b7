from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData

from isovi.data import io
from isovi.data.inspect import inspect
from isovi.data.io import Source
from isovi.data.readers.spatialdata import (
    OWN,
    choose_systems,
    choose_table,
    place_table,
    require_known_sections,
)
from isovi.errors import InputError, IsoviWarning
from isovi.pl._image import microns

pytestmark = pytest.mark.filterwarnings("ignore:.*autosharding.*", "ignore:.*Scaler.*")


@pytest.fixture(scope="module")
def blobs() -> Any:
    """The data set of spatialdata: a table that annotates labels."""
    from spatialdata.datasets import blobs

    return blobs(length=64, n_points=20, n_shapes=5)


def table_of(regions: dict[str, list[int]]) -> AnnData:
    from spatialdata.models import TableModel

    rows = [(name, index) for name, found in regions.items() for index in found]
    obs = pd.DataFrame(rows, columns=["region", "instance"], index=[f"c{i}" for i in range(len(rows))])
    obs["region"] = obs["region"].astype("category")
    adata = AnnData(np.ones((len(rows), 2), dtype=np.float32), obs=obs)
    return TableModel.parse(adata, region=list(regions), region_key="region", instance_key="instance")


def test_labels_are_placed_by_their_pixels(blobs: Any, tmp_path: Path) -> None:
    blobs.write(tmp_path / "blobs.zarr")
    found = io.read(tmp_path / "blobs.zarr")
    labels = np.asarray(blobs["blobs_labels"])
    for instance, place in zip(found.obs["instance_id"], found.obsm["spatial"], strict=True):
        y, x = np.nonzero(labels == instance)
        np.testing.assert_allclose(place, [x.mean() + 0.5, y.mean() + 0.5])
    assert found.uns["isovi_input"]["coordinate_system"] == "global"
    reader = io.find(tmp_path / "blobs.zarr")
    assert [file.name for file in reader.files] == ["table", "blobs_labels"], "no image is hashed"


def pictured(path: Path, image: np.ndarray, matrix: np.ndarray | None = None, **more: Any) -> Any:
    """A store with three cells in a tissue of 40 by 30 units, and images of channels, rows and columns."""
    import spatialdata as sd
    from spatialdata.transformations import Affine

    where = None if matrix is None else {"global": Affine(matrix, ("x", "y"), ("x", "y"))}
    shapes = sd.models.ShapesModel.parse(np.array([[5.0, 5], [35, 5], [35, 25]]), geometry=0, radius=1.0)
    parse = sd.models.Image2DModel.parse
    images = {"main": parse(image, dims=("c", "y", "x"), transformations=where)}
    images |= {name: parse(other, dims=("c", "y", "x")) for name, other in more.items()}
    table = table_of({"cells": [0, 1, 2]})
    sd.SpatialData(images=images, shapes={"cells": shapes}, tables={"table": table}).write(path)
    return io.read(path)


def bright(rows: slice, columns: slice, shape: tuple[int, int] = (30, 40), top: int = 255) -> np.ndarray:
    image = np.zeros((3, *shape), dtype=np.uint8)
    image[0, rows, columns] = top
    return image


def under(adata: AnnData) -> tuple[np.ndarray, float]:
    """Pixels of the image, red, and how many there are to a unit of the positions."""
    library = adata.uns["spatial"]["cells"]
    return library["images"]["hires"][..., 0], library["scalefactors"]["tissue_hires_scalef"]


def test_the_image_lies_where_the_cells_are(tmp_path: Path) -> None:
    """An image of twice the pixels, shifted and mirrored, is drawn as the coordinate system has it."""
    found = pictured(tmp_path / "plain.zarr", bright(slice(20, 30), slice(30, 40)))
    pixels, scale = under(found)
    assert [pixels[int(y * scale), int(x * scale)] for x, y in found.obsm["spatial"]] == [0, 0, 255]
    mirrored = np.array([[-0.5, 0, 40], [0, 0.5, 0], [0, 0, 1]])  # pixels are half a unit, from right to left
    found = pictured(tmp_path / "affine.zarr", bright(slice(0, 20), slice(60, 80), (60, 80)), mirrored)
    pixels, scale = under(found)
    assert scale == pytest.approx(2, rel=0.05)
    assert [pixels[int(y * scale), int(x * scale)] for x, y in found.obsm["spatial"]] == [255, 0, 0]
    assert microns(found, 25.0) is None  # whatever the unit is, it is not known


def test_of_a_large_image_of_one_scale_every_nth_pixel_is_read(tmp_path: Path) -> None:
    image = bright(slice(200, 300), slice(6_000, 9_000), (300, 9_000))
    found = pictured(tmp_path / "x.zarr", image, np.diag([40 / 9_000, 0.1, 1.0]))
    pixels, scale = under(found)
    assert max(pixels.shape) <= 2_000
    assert [pixels[int(y * scale), int(x * scale)] for x, y in found.obsm["spatial"]] == [0, 0, 255]


def test_colour_comes_before_stains_and_large_images_are_reduced(tmp_path: Path) -> None:
    stain = np.zeros((1, 3000, 4000), dtype=np.uint16)
    stain[0, :1500] = 40_000
    scale = np.diag([0.01, 0.01, 1.0])
    found = pictured(tmp_path / "stain.zarr", stain, scale)
    pixels, _ = under(found)
    assert max(pixels.shape) <= 2_000 and pixels[0, :100].min() == 255 and pixels[-1].max() == 0
    assert found.uns["spatial"]["cells"]["images"]["hires"].shape[2] == 3
    found = pictured(tmp_path / "both.zarr", stain, scale, photo=bright(slice(None), slice(None), top=77))
    assert set(np.unique(under(found)[0])) <= {0, 77}


def test_an_image_that_cannot_be_read_is_left_out_with_a_note(tmp_path: Path) -> None:
    pictured(tmp_path / "x.zarr", bright(slice(None), slice(None)))
    chunk = next(path for path in (tmp_path / "x.zarr" / "images").rglob("0") if path.is_file())
    chunk.write_bytes(b"no image")
    with pytest.warns(IsoviWarning, match='No image of "cells" was read'):
        assert "spatial" not in io.read(tmp_path / "x.zarr").uns
    next((tmp_path / "x.zarr" / "images").rglob("main/zarr.json")).write_text("{")
    with pytest.warns(IsoviWarning, match="The images were left out"):
        assert io.read(tmp_path / "x.zarr").n_obs == 3


INSTANCES: dict[str, tuple[list[Any], Any]] = {  # of the shapes, and of the table
    "numbers and text": ([12, 7, 10], ["7", "10", "12", "99"]),
    "text and numbers": (["12", "7", "10"], [7, 10, 12, 99]),
    "text and decimals, of a join": (["12", "7", "10"], [7.0, 10.0, 12.0, np.nan]),
    "numbers and text of decimals": ([12, 7, 10], ["7.0", "10.0", "12.0", "99.0"]),
    "text of decimals and numbers": (["12.0", "7.0", "10.0"], [7, 10, 12, 99]),
    "text and nullable numbers": (["12", "7", "10"], pd.array([7, 10, 12, None], dtype="Int64")),
    "numbers and categories": ([12, 7, 10], pd.Categorical(["7", "10", "12", "99"])),
    "numbers and text with blanks": ([12, 7, 10], ["7", " 10", "12 ", "99"]),
    "names of Xenium and categories": (["c-1", "a-1", "b-1"], pd.Categorical(["a-1", "b-1", "c-1", "d-1"])),
}


@pytest.mark.parametrize("how", list(INSTANCES))
def test_instances_of_any_type_are_matched_and_cells_without_an_element_left_out(
    how: str, tmp_path: Path
) -> None:
    """Shapes and table hold instances of different types; the last cell has no shape."""
    import spatialdata as sd

    of_shapes, of_table = INSTANCES[how]
    circles = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    shapes = sd.models.ShapesModel.parse(circles, geometry=0, radius=1.0, index=of_shapes)
    sd.SpatialData(shapes={"cells": shapes}, tables={"table": table_of({"cells": [0, 1, 2, 3]})}).write(
        tmp_path / "s.zarr"
    )
    table = table_of({"cells": [0, 1, 2, 3]})
    table.obs["instance"] = of_table
    group = zarr.open_group(tmp_path / "s.zarr", mode="a", use_consolidated=False)["tables"]
    anndata.io.write_elem(group, "table", table)  # which spatialdata itself does not write of every type
    zarr.consolidate_metadata(tmp_path / "s.zarr")
    with pytest.warns(IsoviWarning, match=r"1 of 4 cells are in no element and are left out\."):
        found = io.read(tmp_path / "s.zarr")
    assert found.obsm["spatial"].tolist() == [[3, 4], [5, 7], [1, 2]]


def test_polygons_and_points_are_placed_by_their_centroids(blobs: Any) -> None:
    for name in ("blobs_polygons", "blobs_points"):
        table = table_of({name: [3, 1]})
        blobs.tables["other"] = table
        place_table(blobs, "other", None, "spatial", None)
        element = blobs[name] if name == "blobs_polygons" else blobs[name].compute()
        xy = element.centroid.get_coordinates() if name == "blobs_polygons" else element[["x", "y"]]
        np.testing.assert_allclose(table.obsm["spatial"], xy.loc[[3, 1]])
        del blobs.tables["other"]


def test_several_elements_are_one_section_only_if_so_said(blobs: Any) -> None:
    blobs.tables["two"] = table_of({"blobs_circles": [0, 1, 2], "blobs_polygons": [0, 1, 2]})
    with pytest.warns(IsoviWarning, match="treated as one section in 'global'.*section_key='region'"):
        place_table(blobs, "two", None, "spatial", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        place_table(blobs, "two", None, "spatial", "region")
    del blobs.tables["two"]


def test_elements_in_systems_of_their_own_are_sections(blobs: Any, tmp_path: Path) -> None:
    from spatialdata import SpatialData
    from spatialdata.transformations import Identity, set_transformation

    shapes = {name: blobs["blobs_circles"].copy() for name in ("A", "B")}
    for name, element in shapes.items():
        systems = {name: Identity(), f"{name}_hires": Identity()}
        set_transformation(element, systems, set_all=True)
    SpatialData(shapes=shapes, tables={"table": table_of({"A": [0, 1, 2], "B": [2, 1, 0]})}).write(
        tmp_path / "x.zarr"
    )
    found = io.read(tmp_path / "x.zarr")
    assert found.uns["isovi_input"]["coordinate_system"] == OWN
    np.testing.assert_array_equal(found.obsm["spatial"][:3], found.obsm["spatial"][:2:-1])
    with pytest.raises(InputError, match=r"A, B share no coordinate system.*section_key='region'"):
        require_known_sections(found)
    assert inspect(tmp_path / "x.zarr").parameters["section_key"] == "region"


def test_cells_in_no_element_are_told(blobs: Any) -> None:
    blobs.tables["far"] = table_of({"blobs_circles": [90, 91]})
    words = r'No cell of the table is in blobs_circles: the table has "90", "91", the elements have "0", "1"'
    with pytest.raises(InputError, match=words):
        place_table(blobs, "far", None, "spatial", None)
    del blobs.tables["far"]


def test_a_table_that_annotates_nothing_keeps_its_positions(tmp_path: Path) -> None:
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    adata = AnnData(np.ones((3, 2), dtype=np.float32), obsm={"spatial": np.arange(6.0).reshape(3, 2)})
    SpatialData(tables={"cells": TableModel.parse(adata)}).write(tmp_path / "x.zarr")
    assert io.read(tmp_path / "x.zarr").obsm["spatial"].tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InputError, match="It applies to counts without positions"):
        io.read(Source(tmp_path / "x.zarr", coordinates=tmp_path / "xy.csv"))


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        (["cells"], None, "cells"),
        (["nuclei", "table"], None, "table"),
        (["square_002um", "square_008um", "square_016um"], None, "square_008um"),
        (["cells", "nuclei"], "nuclei", "nuclei"),
        (["cells", "nuclei"], None, "Name it as `table`"),
        (["cells"], "nuclei", 'it has: "cells"'),
        ([], None, "aggregate"),
    ],
)
def test_the_table_is_chosen_where_it_is_clear(names: list[str], asked: str | None, chosen: str) -> None:
    if chosen in names:
        assert choose_table(names, asked, "sdata") == chosen
    else:
        with pytest.raises(InputError, match=chosen):
            choose_table(names, asked, "sdata")


@pytest.mark.parametrize(
    ("known", "asked", "chosen"),
    [
        ({"a": ["hires", "global"]}, None, ["global"]),
        ({"a": ["hires"], "b": ["hires", "lowres"]}, None, ["hires"]),
        ({"a": ["a", "a_hires"]}, None, ["a"]),
        ({"a": ["a", "a_hires"], "b": ["b", "b_hires"]}, None, ["a", "b"]),
        ({"a": ["global", "um"]}, "um", ["um"]),
        ({"a": ["one", "two"]}, None, None),
        ({"a": ["um"], "b": ["px"]}, "um", None),
    ],
)
def test_the_coordinate_system_is_chosen_where_it_is_clear(
    known: dict[str, list[str]], asked: str | None, chosen: list[str] | None
) -> None:
    if chosen is None:
        with pytest.raises(InputError, match="a: "):
            choose_systems(known, asked)
    else:
        found = choose_systems(known, asked)
        assert list(dict.fromkeys(found.values())) == chosen and list(found) == list(known)
