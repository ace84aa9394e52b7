"""Undeclared sections, local frames and outliers are found, and nothing is found where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat
from scipy import sparse
from scipy.spatial import cKDTree

import isovi
from isovi import files
from isovi.data import findings
from isovi.data.findings import Finding, far_out, find_in, mixing
from isovi.data.inspect import inspect
from isovi.data.pack import pack
from isovi.errors import InputError, IsoviWarning
from isovi.pipeline import check_data
from isovi.progress import Silent
from isovi.run import Run, Settings

SIDE = 12


def section(seed: int = 0, *, shift: float = 0.0, lattice: bool = False, scale: float = 1.0) -> AnnData:
    """A section of jittered or exact places on a square lattice."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2).astype(float)
    if not lattice:
        places += rng.uniform(-0.3, 0.3, places.shape)
    counts = sparse.csr_matrix(rng.poisson(1.0, (SIDE * SIDE, 6)).astype(np.float32) + 1)
    adata = AnnData(counts, obs=pd.DataFrame(index=[f"s{seed}_{i}" for i in range(SIDE * SIDE)]))
    adata.obsm["spatial"] = (places + np.array([shift, 0])) * scale * 100
    return adata


def together(*parts: AnnData, column: str | None = None, libraries: bool = False) -> AnnData:
    """Sections in one AnnData, as concatenating leaves them."""
    both = concat(parts)
    names = np.repeat([f"S{i}" for i in range(len(parts))], [part.n_obs for part in parts])
    if column is not None:
        both.obs[column] = names
    if libraries:
        both.uns["spatial"] = {name: {"scalefactors": {"spot_diameter_fullres": 50.0}} for name in set(names)}
    return both


def about_sections(adata: AnnData) -> Finding | None:
    found = [one for one in find_in(adata) if one.about != "outliers"]
    assert len(found) <= 1
    return found[0] if found else None


# ---------------------------------------------------------------------------- sections


@pytest.mark.parametrize(
    "column", ["library_id", "sample", "orig.ident", "Slide", "patient", "my_own_column"]
)
def test_several_libraries_are_refused_and_their_column_is_named(column: str) -> None:
    """Frames upon each other, or apart: one library is one section either way."""
    for shift in (0.0, 50.0):
        adata = together(section(0), section(1, shift=shift), column=column, libraries=True)
        with pytest.raises(InputError, match=rf"2 libraries: .*section_key='{column}'"):
            isovi.fit(adata, progress=False)
        check_data(adata, Settings(section_key=column))


def test_libraries_with_other_names_are_matched_by_their_number() -> None:
    adata = together(section(0), section(1), column="sample", libraries=True)
    adata.obs["sample"] = adata.obs["sample"].map({"S0": "tumour", "S1": "healthy"})
    found = about_sections(adata)
    assert found is not None and found.sure and found.parameters == {"section_key": "sample"}


def test_libraries_that_no_column_names_are_warned_of() -> None:
    found = about_sections(together(section(0), section(1, shift=50), libraries=True))
    assert found is not None and not found.sure and found.parameters == {}
    assert "add a column to obs" in found.remedy


@pytest.mark.parametrize("more", [{"is_single": np.bool_(True)}, {"unit": "pixel", "version": 2}])
def test_what_is_no_library_beside_one_is_none(more: dict[str, object]) -> None:
    """CELLxGENE's ``is_single`` was the second library, and the column of the sexes that of the libraries."""
    adata = section(0)
    adata.uns["spatial"] = {"V1_A": {"images": {}, "scalefactors": {}}, **more}
    adata.obs["sex"] = np.where(np.arange(adata.n_obs) < adata.n_obs // 2, "male", "female")
    assert about_sections(adata) is None


def test_one_section_taken_out_of_several_is_one_section() -> None:
    """``uns`` keeps what the others had."""
    both = together(section(0), section(1), column="library_id", libraries=True)
    assert find_in(both[both.obs["library_id"] == "S0"].copy()) == ()


@pytest.mark.parametrize("column", ["section", "donor_id", "sampleName", "in_which_piece"])
def test_doubled_positions_that_a_column_explains_are_refused(column: str) -> None:
    adata = together(*(section(seed, lattice=True) for seed in range(3)), column=column)
    adata.obs["sex"] = np.tile(["m", "f"], adata.n_obs // 2)
    with pytest.raises(InputError, match=rf"288 of 432 cells .*all of them apart.*section_key='{column}'"):
        check_data(adata, Settings())
    check_data(adata, Settings(section_key=column))


def test_doubled_positions_that_no_column_explains_are_warned_of(tmp_path: Path) -> None:
    adata = together(section(0, lattice=True), section(1, lattice=True))
    adata.obs["sex"] = np.tile(["m", "f"], adata.n_obs // 2)
    assert find_in(adata) == ()
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert (
        "144 of 288 spots are at exactly the position of an earlier spot"
        in inspect(tmp_path / "x.h5ad").notes[0]
    )


@pytest.mark.parametrize("column", ["slice", "Sample_ID", "orig.ident", "batch", "animal"])
def test_frames_that_overlap_are_warned_of(column: str) -> None:
    found = about_sections(together(section(0), section(1), column=column))
    assert found is not None and not found.sure and found.parameters == {"section_key": column}
    assert f'Cells of the 2 values of obs["{column}"] lie among each other' in found.received


@pytest.mark.parametrize(
    "column", ["slice", "library", "Sample_ID", "brain_section_label", "Run_Tissue_name", "visium_slide"]
)
def test_separate_frames_are_warned_of_if_the_column_is_called_so(column: str) -> None:
    found = about_sections(together(section(0), section(1, shift=14), column=column))
    assert found is not None and not found.sure and found.parameters == {"section_key": column}


@pytest.mark.parametrize("column", ["fov", "batch", "donor", "region", "layer", "sample_type", "slice_area"])
def test_parts_of_one_section_are_no_sections(column: str) -> None:
    """Fields of view side by side, or anatomical regions."""
    assert find_in(together(section(0), section(1, shift=SIDE), column=column)) == ()


@pytest.mark.parametrize(("shift", "found"), [(40.0, True), (16.0, False)])
def test_a_gap_wider_than_the_tissue_is_warned_of(shift: float, found: bool) -> None:
    """But two pieces of one tissue are not."""
    one = about_sections(together(section(0), section(1, shift=shift)))
    assert (one is not None) == found
    assert one is None or (not one.sure and "2 pieces" in one.received)
    three = together(section(0), section(1, shift=shift), section(2, shift=2 * shift))
    assert (about_sections(three) is not None) == found


def test_a_strip_of_rows_and_planes_of_a_stack_are_no_pieces() -> None:
    rows = np.stack(np.meshgrid(np.arange(60), np.arange(3)), axis=-1).reshape(-1, 2) * 100.0
    adata = AnnData(np.ones((180, 2), dtype=np.float32), obsm={"spatial": rows})
    assert find_in(adata) == ()
    stack = np.concatenate(
        [np.column_stack([section(i).obsm["spatial"], np.full(144, 300.0 * i)]) for i in range(3)]
    )
    assert find_in(AnnData(np.ones((432, 2), dtype=np.float32), obsm={"spatial": stack})) == ()


# ---------------------------------------------------------------------------- fields of view


def fields(key: str | None) -> AnnData:
    """Four fields of view whose positions begin anew, with those common to all under ``key``."""
    parts = [section(seed) for seed in range(4)]
    adata = together(*parts)
    adata.obs["fov"] = pd.Categorical(np.repeat(list("1234"), SIDE * SIDE))
    adata.uns["spatial"] = {
        f: {"scalefactors": {"spot_diameter_fullres": 1.0}, "metadata": {}} for f in "1234"
    }
    if key is not None:
        steps = np.repeat([[0, 0], [1, 0], [0, 1], [1, 1]], SIDE * SIDE, axis=0) * SIDE * 100.0
        adata.obsm[key] = adata.obsm["spatial"] + steps
    return adata


@pytest.mark.parametrize(
    ("key", "parameters"),
    [
        ("spatial_fov", {"spatial_key": "spatial_fov"}),
        ("X_spatial_global", {"spatial_key": "X_spatial_global"}),
        ("stitched", {"spatial_key": "stitched"}),
        ("spatial_mm", {"spatial_key": "spatial_mm"}),
        ("X_umap", {"section_key": "fov"}),
        (None, {"section_key": "fov"}),
    ],
)
def test_positions_local_to_fields_of_view_are_refused(
    key: str | None, parameters: dict[str, str], tmp_path: Path
) -> None:
    adata = fields(key)
    name, value = next(iter(parameters.items()))
    with pytest.raises(InputError, match=rf"local to each of 4 fields of view.*{name}='{value}'"):
        check_data(adata, Settings())
    adata.write_h5ad(tmp_path / "x.h5ad")
    found = inspect(tmp_path / "x.h5ad")
    assert found.parameters == parameters
    assert found.positions[0].unit == "pixels of each field of view"
    check_data(adata, Settings(**parameters))


@pytest.mark.parametrize("column", ["FOV", "fov_name", "Field", "tile_num", "fov_index"])
def test_fields_of_view_are_known_by_other_names_and_their_global_positions_in_obs(column: str) -> None:
    adata = fields("other")
    adata.obs = adata.obs.rename(columns={"fov": column})
    adata.obs[["CenterX_global_px", "CenterY_global_px"]] = adata.obsm.pop("other")
    with pytest.raises(InputError, match=rf"values of obs.\"{column}\". lie on each other") as error:
        check_data(adata, Settings())
    exec(str(error.value).split("fields: ")[1].rstrip("."), {"adata": adata})
    assert find_in(adata) == ()


def test_fields_of_view_that_lie_apart_by_chance_are_local_where_other_positions_say_so() -> None:
    adata = fields("spatial_fov")
    adata.obsm["spatial"] += np.repeat([[0, 0], [1, 0], [0, 3], [9, 1]], SIDE * SIDE, axis=0) * SIDE * 100.0
    with pytest.raises(InputError, match=r'lie otherwise than in obsm\["spatial_fov"\].*spatial_key='):
        check_data(adata, Settings())
    turned = np.array([[0.0, 0.12], [-0.12, 0.0]])
    adata.obsm["spatial"] = adata.obsm["spatial_fov"] @ turned + 7
    assert find_in(adata) == (), "one frame, in micrometres"


def test_fields_of_view_in_one_frame_are_one_section() -> None:
    adata = fields("spatial_fov")
    adata.obsm["spatial"] = adata.obsm.pop("spatial_fov")
    assert find_in(adata) == ()


# ---------------------------------------------------------------------------- names of cells


def concatenated(how: str, *parts: AnnData) -> AnnData:
    """Sections whose cells only tell by their names where they are from."""
    rng = np.random.default_rng(0)
    both = concat(parts)
    barcodes = ["".join(rng.choice(list("ACGT"), 16)) for _ in range(both.n_obs)]
    pieces = np.repeat(["A", "B", "C"][: len(parts)], [part.n_obs for part in parts])
    both.obs_names = [
        how.format(barcode=one, piece=piece) for one, piece in zip(barcodes, pieces, strict=True)
    ]
    return both


NAMES = ["{barcode}-1-{piece}", "{barcode}-1_{piece}", "{piece}_{barcode}-1", "Sample {piece}:{barcode}"]


@pytest.mark.parametrize("how", NAMES)
def test_sections_that_only_names_of_cells_tell_apart_are_found(how: str) -> None:
    found = about_sections(concatenated(how, section(0), section(1)))
    assert found is not None and not found.sure
    assert "2 parts of the names of cells" in found.received
    twice = about_sections(concatenated(how, section(0, lattice=True), section(0, lattice=True)))
    assert twice is not None and twice.sure and "pass section_key='section'" in twice.remedy
    assert twice.parameters == {}, "there is no such column yet"


@pytest.mark.parametrize("how", ["{barcode}-1", "cell_{barcode}", "{piece}_{barcode}-1"])
def test_names_of_one_section_or_of_pieces_side_by_side_say_nothing(how: str) -> None:
    if "piece" in how:
        assert find_in(concatenated(how, section(0), section(1, shift=SIDE))) == ()
    else:
        assert find_in(concatenated(how, section(0))) == ()


@pytest.mark.parametrize(
    "column",
    [
        *("image_id", "TMA_core", "brain_section_label", "roi", "filename", "condition", "Sample ID"),
        *("Run_Tissue_name", "slide_ID_numeric", "GSM", "xenium_run", "z_layer", "biopsy", "anndata_batch"),
    ],
)
def test_frames_that_overlap_are_warned_of_by_any_name_for_sections(column: str) -> None:
    found = about_sections(together(section(0), section(1), column=column))
    assert found is not None and "lie among each other" in found.received
    assert found.parameters == {"section_key": column}


@pytest.mark.parametrize("lost", ["missing", "small"])
def test_a_column_with_gaps_is_noticed_and_the_remedy_names_them(lost: str, tmp_path: Path) -> None:
    adata = together(section(0), section(1), column="orig.ident")
    adata.obs["orig.ident"] = adata.obs["orig.ident"].astype(object)
    adata.obs.iloc[3, 0] = None if lost == "missing" else "rare"
    (found,) = find_in(adata)
    assert "lie among each other" in found.received and found.parameters == {}
    assert "without the cells whose value is missing or whose section has fewer than 3 cells" in found.remedy
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert inspect(tmp_path / "x.h5ad").parameters == {}


def test_sections_in_different_units_that_were_not_declared_are_noticed() -> None:
    adata = together(section(0), section(1, scale=0.2), column="sample")
    assert [one.about for one in find_in(adata)] == ["sections", "units"]
    assert "here all have one unit" in find_in(adata)[1].remedy
    assert "a fit is not affected" in find_in(adata, section_key="sample")[0].remedy


# ---------------------------------------------------------------------------- axes

VISIUM = np.array([(row, column) for row in range(12) for column in range(24) if (row + column) % 2 == 0])


def on_array(places: np.ndarray, **columns: np.ndarray) -> AnnData:
    adata = section()
    adata.obs = pd.DataFrame(columns, index=adata.obs_names)
    adata.obsm["spatial"] = places
    return adata


@pytest.mark.parametrize("row_first", [True, False])
@pytest.mark.parametrize("in_obs", [True, False])
def test_row_and_column_of_visium_are_no_positions(row_first: bool, in_obs: bool) -> None:
    columns = {"array_row": VISIUM[:, 0], "array_col": VISIUM[:, 1]} if in_obs else {}
    adata = on_array(VISIUM if row_first else VISIUM[:, ::-1].astype(float), **columns)
    with pytest.raises(InputError, match="row and column of a Visium array") as error:
        check_data(adata, Settings())
    exec(str(error.value).split("lattice: ")[1].rstrip("."), {"adata": adata, "np": np})
    assert find_in(adata) == ()
    near = cKDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], k=7)[0][:, 1:]
    assert np.isclose(near, 1).all(axis=1).sum() == 10 * 10, "inner spots have six neighbours at distance 1"


@pytest.mark.parametrize("in_obs", [True, False])
def test_a_square_array_is_noted_if_obs_names_it(in_obs: bool) -> None:
    places = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2)
    columns = {"array_row": places[:, 0], "array_col": places[:, 1]} if in_obs else {}
    found = find_in(on_array(places, **columns))
    assert [one.sure for one in found] == ([False] if in_obs else [])


@pytest.mark.parametrize(
    ("names", "wrong", "rest"),
    [
        (["x", "y", "area"], "area", "[['x', 'y']]"),
        (["in_tissue", "x", "y"], "in_tissue", "[['x', 'y']]"),
        (["x", "y", "n_counts"], "n_counts", "[['x', 'y']]"),
        (["x", "y", "Cell.Area"], "Cell.Area", "[['x', 'y']]"),
        (["volume", "fov"], "volume", "`spatial_key`"),
        (["total_counts", "cell_x", "cell_y"], "total_counts", "[['cell_x', 'cell_y']]"),
        (["x", "y", "leiden_cluster"], "leiden_cluster", "[['x', 'y']]"),
    ],
)
def test_columns_that_describe_cells_are_no_positions(names: list[str], wrong: str, rest: str) -> None:
    adata = section()
    values = np.column_stack([adata.obsm["spatial"]] * 2)[:, : len(names)]
    adata.obsm["spatial"] = pd.DataFrame(values, columns=names, index=adata.obs_names)
    with pytest.raises(InputError, match=f"The column '{wrong}' of obsm") as error:
        check_data(adata, Settings())
    assert rest in str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        ["pxl_col_in_fullres", "pxl_row_in_fullres"],
        ["imagerow", "imagecol"],
        ["spatial_1", "spatial_2"],
        ["centroid-0", "centroid-1"],
    ],
)
def test_usual_names_of_positions_are_positions(names: list[str]) -> None:
    adata = section()
    adata.obsm["spatial"] = pd.DataFrame(adata.obsm["spatial"], columns=names, index=adata.obs_names)
    assert find_in(adata) == ()


# ---------------------------------------------------------------------------- outliers, units


@pytest.mark.parametrize(
    ("name", "scale", "words"),
    [
        ("quality", 1.0, "called 'quality'"),
        ("2", 1.0, ""),
        ("depth", 1.0, ""),
        ("size", 1e6, "The column 'size'"),
        (None, 1e5, "reaches over"),
        (None, 100.0, ""),
        ("z", 100.0, ""),
        ("z_um", 100.0, ""),
        ("posZ", 100.0, ""),
    ],
)
def test_a_third_column_that_is_no_z_is_warned_of(name: str | None, scale: float, words: str) -> None:
    adata = section()
    values = np.column_stack([adata.obsm["spatial"], np.linspace(0, scale, adata.n_obs)])
    if name is None:
        adata.obsm["spatial"] = values
    else:
        adata.obsm["spatial"] = pd.DataFrame(values, columns=["x", "y", name], index=adata.obs_names)
    found = find_in(adata)
    assert [one.about for one in found] == (["axes"] if words else [])
    assert not words or words in found[0].received


def moved(adata: AnnData, rows: list[int], to: tuple[float, float]) -> AnnData:
    adata.obsm["spatial"][rows] = to
    return adata


@pytest.mark.parametrize(
    ("rows", "to"), [([3], (1e6, 500.0)), ([3, 70], (-5e3, 5e3)), ([0, 1, 2], (500.0, -1e9))]
)
def test_cells_that_lie_absurdly_far_out_are_named(
    rows: list[int], to: tuple[float, float], tmp_path: Path
) -> None:
    adata = moved(section(), rows, to)
    words = f'{len(rows)} of 144 cells lie more than 2 tissue widths away: "s0_{rows[0]}"'
    with pytest.warns(IsoviWarning, match=words):
        check_data(adata, Settings())
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert [one.about for one in inspect(tmp_path / "x.h5ad").findings] == ["outliers"]


@pytest.mark.parametrize("value", [1e308, -1e200, np.inf])
def test_positions_too_large_to_square_are_left_to_the_check_of_positions(
    value: float, tmp_path: Path
) -> None:
    adata = together(section(0), section(1), column="batch")
    adata.obsm["spatial"][3, 0] = value
    assert [one.about for one in find_in(adata)] == ["sections"]
    adata.write_h5ad(tmp_path / "x.h5ad")
    found = inspect(tmp_path / "x.h5ad")
    assert np.isinf(value) or any("as large as" in one for one in found.missing)


@pytest.mark.parametrize("share", [0.08, 0.3, 0.5])
def test_a_second_piece_of_tissue_is_no_outlier(share: float) -> None:
    positions = section().obsm["spatial"]
    positions[: int(share * len(positions))] += 4000
    assert not far_out(positions).any()


def test_outliers_are_looked_for_within_sections() -> None:
    """Sections in different units are no outliers of each other, and their units are compared."""
    both = together(section(0), section(1, scale=0.01), column="sample")
    assert [(one.about, one.sure) for one in find_in(both, section_key="sample")] == [("units", False)]
    assert find_in(together(section(0), section(1, scale=1.5), column="sample"), section_key="sample") == ()
    far = together(moved(section(0), [5], (1e6, 0.0)), section(1), column="sample")
    found = find_in(far, section_key="sample")
    assert [one.about for one in found] == ["outliers"] and "of section 'S0'" in found[0].received


def test_small_fields_side_by_side_are_no_local_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though only a few cells of each are looked at."""
    monkeypatch.setattr(findings, "_SAMPLE", 300)
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 20, (20_000, 2))
    adata = AnnData(sparse.csr_matrix((20_000, 2), dtype=np.float32), obsm={"spatial": positions})
    adata.obs["fov"] = (positions // 1).astype(int) @ [20, 1]
    assert adata.obs["fov"].nunique() == 400
    assert find_in(adata) == ()
    adata.obsm["spatial"] = positions % 1
    assert [(one.about, one.sure) for one in find_in(adata)] == [("frames", True)]


def test_mixing_is_zero_apart_and_one_at_random() -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(size=(4000, 2))
    assert mixing(positions, (positions[:, 0] > 0.5).astype(int)) < 0.05
    assert mixing(positions, rng.integers(0, 3, 4000)) == pytest.approx(1, abs=0.05)
    twice = np.repeat(positions, 2, axis=0)
    assert mixing(twice, np.tile([0, 1], 4000)) == pytest.approx(2), "each lies on one of the other group"


# ---------------------------------------------------------------------------- the record


def test_what_is_found_and_left_out_is_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "draw", lambda *_: None)  # plots take longer than the fit
    adata = moved(section(), [3], (1e6, 500.0))
    table = pd.DataFrame(adata.obsm.pop("spatial"), columns=["x", "y"], index=adata.obs_names)
    table.iloc[7] = np.nan
    table.to_csv(tmp_path / "xy.csv", index_label="cell")
    adata.write_h5ad(tmp_path / "x.h5ad")
    source = files.io.Source(tmp_path / "x.h5ad", coordinates=tmp_path / "xy.csv")
    with pytest.warns(IsoviWarning, match="far|away|empty"):
        files.fit(source, tmp_path / "run", Settings(max_epochs=1, n_latent=2), progress=Silent())
    notes = Run.read(tmp_path / "run").provenance.notes
    assert '1 of 144 cells have an empty position in "xy.csv" and are left out.' in notes
    assert any(note.startswith("1 of 143 cells lie more than 2 tissue widths away") for note in notes)


def test_packing_looks_at_positions_as_a_fit_does(tmp_path: Path) -> None:
    def written(adata: AnnData) -> Path:
        adata.write_h5ad(tmp_path / "x.h5ad")
        return tmp_path / "x.h5ad"

    with pytest.warns(IsoviWarning, match="1 of 144 cells lie more than 2 tissue widths away"):
        pack(written(moved(section(), [3], (1e6, 500.0))), tmp_path / "far.zarr")
    with pytest.warns(IsoviWarning, match="frames overlap"):
        pack(written(together(section(0), section(1), column="slice")), tmp_path / "overlap.zarr")
    libraries = written(together(section(0), section(1), column="library_id", libraries=True))
    with pytest.raises(InputError, match=r"2 libraries.*section_key='library_id'"):
        pack(libraries, tmp_path / "libraries.zarr")
    assert not (tmp_path / "libraries.zarr").exists()
    assert pack(libraries, tmp_path / "libraries.zarr", section_key="library_id").n_sections == 2
    with pytest.raises(InputError, match=r"local to each of 4 fields of view.*spatial_key='spatial_fov'"):
        pack(written(fields("spatial_fov")), tmp_path / "fields.zarr")


@pytest.mark.parametrize("change", [lambda a: a, lambda a: a[::2].copy()])
def test_nothing_is_found_in_usual_data(change: Callable[[AnnData], AnnData], adata: AnnData) -> None:
    assert find_in(change(section())) == ()
    assert find_in(adata, section_key="slice") == ()
