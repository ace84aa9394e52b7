from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from isovi.data import check
from isovi.data.findings import find_in
from isovi.errors import InputError, IsoviWarning

FORMATS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dense": lambda matrix: matrix.toarray(),
    "integers": lambda matrix: matrix.astype(np.int32),
}


def keys(**changes: str) -> dict[str, str]:
    usual = {"section_key": "slice", "batch_key": "donor", "label_key": "label", "layer": "counts"}
    return {**usual, **changes}


def refusal(adata: AnnData, **arguments: str) -> InputError:
    """The error of the whole check, which must be one that a user understands."""
    with pytest.raises(InputError) as caught:
        check.dataset(adata, **arguments)
    assert all(caught.value.args), "received, rule and remedy are all there"
    return caught.value


def position(adata: AnnData, row: int, column: int, value: float) -> None:
    adata.obsm["spatial"][row, column] = value


def count(adata: AnnData, value: float, row: int = 7, column: int = 3) -> None:
    dense = adata.X.toarray()
    dense[row, column] = value
    adata.X = sparse.csr_matrix(dense)


def set_positions(adata: AnnData, values: object) -> None:
    adata.obsm["spatial"] = values


# ------------------------------------------------------------------- what is good passes


@pytest.mark.parametrize("layer", [None, "counts"])
def test_what_was_checked_is_returned(adata: AnnData, layer: str | None) -> None:
    found = check.dataset(adata, section_key="slice", layer=layer)
    np.testing.assert_array_equal(found.positions, adata.obsm["spatial"])
    assert not np.shares_memory(found.positions, adata.obsm["spatial"])
    assert [found.section_names[code] for code in found.section] == adata.obs["slice"].tolist()
    assert found.counts is (adata.X if layer is None else adata.layers[layer])


@pytest.mark.parametrize("stored", FORMATS)
def test_good_data_passes_in_every_format_and_stays_as_it_is(adata: AnnData, stored: str) -> None:
    adata.X = FORMATS[stored](adata.X)
    before = adata.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", IsoviWarning)
        check.dataset(adata, **keys())
        check.dataset(adata)
    assert type(adata.X) is type(before.X)
    assert np.array_equal(np.asarray(adata.X.sum(axis=0)), np.asarray(before.X.sum(axis=0)))
    assert list(adata.obs) == list(before.obs)
    assert set(adata.obsm) == {"spatial"}
    assert not adata.uns
    np.testing.assert_array_equal(adata.obsm["spatial"], before.obsm["spatial"])


def test_a_view_passes(adata: AnnData) -> None:
    check.dataset(adata[::2], **keys())


def test_real_counts_pass(shared_data: Callable) -> None:
    section = anndata.read_h5ad(shared_data("her2st_H1"))
    check.dataset(section, label_key="label", allow_empty_genes=True)


def test_real_values_that_are_not_counts_are_refused(shared_data: Callable) -> None:
    embryo = anndata.read_h5ad(shared_data("bdtnp_drosophila_3d"))
    with pytest.raises(InputError, match="whole numbers"):
        check.counts(embryo)
    assert check.coordinates(embryo).shape == (embryo.n_obs, 3)


# ------------------------------------------------------------------- what is bad is named

MESSAGES: dict[str, tuple[Callable[[AnnData], object], list[str]]] = {
    "no coordinates": (
        lambda a: a.obsm.update({"X_pca": a.obsm.pop("spatial")}),
        ['no "spatial"', '"X_pca"', "spatial_key"],
    ),
    "words for coordinates": (
        lambda a: set_positions(a, np.full((a.n_obs, 2), "left")),
        ["'left'", "must be numbers", "astype(float)"],
    ),
    "a column of words": (
        lambda a: set_positions(a, pd.DataFrame({"x": 1.0, "row": "A"}, index=a.obs_names)),
        ["'A'", 'column "row"', "numeric columns"],
    ),
    "NaN coordinates": (
        lambda a: (position(a, 3, 0, np.nan), position(a, 5, 1, np.nan)),
        ["2 of 40", '"spot3", "spot5"', "isfinite"],
    ),
    "infinite coordinates": (lambda a: position(a, 4, 1, -np.inf), ["1 of 40", '"spot4"', "isfinite"]),
    "missing among objects": (
        lambda a: set_positions(a, np.array([[1, None]] * a.n_obs, dtype=object)),
        ["40 of 40", "isfinite"],
    ),
    "1 column": (
        lambda a: set_positions(a, np.arange(40.0)[:, None]),
        ["(40, 1)", "2 or 3 columns", "Store"],
    ),
    "4 columns": (lambda a: set_positions(a, np.ones((40, 4))), ["(40, 4)", "2 or 3 columns", "spatial_key"]),
    "no columns": (lambda a: set_positions(a, np.ones((40, 0))), ["(40, 0)", "2 or 3 columns"]),
    "one place": (
        lambda a: set_positions(a, np.full((40, 2), 3.0)),
        ["All spots of adata", "(3.0, 3.0)", "spatial_key"],
    ),
    "negative counts": (lambda a: count(a, -2), ["-2", '"spot7"', '"g3"', "negative", 'has: "counts"']),
    "fractional counts": (
        lambda a: count(a, 0.693),
        ["0.693", '"spot7"', '"g3"', "corrected", 'raw counts as `layer`; adata.layers has: "counts"'],
    ),
    "NaN counts": (lambda a: count(a, np.nan), ["adata.X holds nan", '"spot7"', '"g3"', "finite", "`layer`"]),
    "infinite counts": (lambda a: count(a, np.inf), ["adata.X holds inf", '"spot7"', "finite"]),
    "empty spots": (
        lambda a: setattr(a, "X", sparse.diags((np.arange(40) > 1).astype(float)) @ a.X),
        ["2 spots", '"spot0", "spot1"', "sc.pp.filter_cells(adata, min_counts=1)"],
    ),
    "empty genes": (
        lambda a: setattr(a, "X", a.X @ sparse.diags((np.arange(12) != 4).astype(float))),
        ["1 genes", '"g4"', "sc.pp.filter_genes(adata, min_cells=1)"],
    ),
    "no values": (lambda a: setattr(a, "X", None), ["adata.X has no values", '"counts"']),
    "duplicate spot names": (
        lambda a: setattr(a, "obs_names", ["dup", "dup", *a.obs_names[2:]]),
        ["1 names", '"dup"', "adata.obs_names_make_unique()"],
    ),
    "duplicate columns": (
        lambda a: setattr(a, "obs", pd.concat([a.obs, a.obs[["label"]]], axis=1)),
        ["1 columns", '"label"', "adata.obs.columns.duplicated()"],
    ),
    "duplicate gene names": (
        lambda a: setattr(a, "var_names", ["dup", "dup", *a.var_names[2:]]),
        ["1 names", '"dup"', "adata.var_names_make_unique()"],
    ),
}


@pytest.mark.filterwarnings("ignore:.*names are not unique.*:UserWarning")
@pytest.mark.parametrize("case", MESSAGES)
def test_bad_data_is_refused_with_what_was_received_and_the_remedy(adata: AnnData, case: str) -> None:
    spoil, words = MESSAGES[case]
    spoil(adata)
    message = str(refusal(adata))
    assert [word for word in words if word not in message] == [], message


def test_numbers_of_half_precision_are_sections_and_no_batches(adata: AnnData) -> None:
    adata.obs["slice"] = np.arange(adata.n_obs, dtype=np.float16) % 2
    codes, names = check.sections(adata, "slice")
    np.testing.assert_array_equal(codes, np.arange(adata.n_obs) % 2)
    assert list(map(float, names)) == [0, 1]
    assert "section_key='slice'" in " ".join(map(str, find_in(adata)))
    message = str(refusal(adata, batch_key="slice"))
    assert "half precision" in message and 'adata.obs["slice"].astype(str)' in message


@pytest.mark.parametrize(
    ("argument", "existing"),
    [
        ("spatial_key", '"spatial"'),
        ("section_key", '"slice", "donor", "label"'),
        ("batch_key", '"slice", "donor", "label"'),
        ("label_key", '"slice", "donor", "label"'),
        ("layer", '"counts"'),
    ],
)
def test_a_missing_key_lists_those_that_exist(adata: AnnData, argument: str, existing: str) -> None:
    error = refusal(adata, **keys(**{argument: "nowhere"}))
    assert '"nowhere"' in error.received
    assert existing in error.received


def test_with_nothing_to_list_the_message_says_so(adata: AnnData) -> None:
    del adata.obsm["spatial"], adata.layers["counts"]
    assert "it has: nothing" in refusal(adata).received
    with pytest.raises(InputError, match="it has: nothing"):
        check.counts(adata, "counts")


@pytest.mark.parametrize(("key", "role"), [("slice", "section"), ("donor", "batch")])
def test_missing_categories_are_refused(adata: AnnData, key: str, role: str) -> None:
    adata.obs[key] = adata.obs[key].astype(object)
    adata.obs.loc[["spot2", "spot9"], key] = np.nan
    error = refusal(adata, **keys())
    assert error.received == f'adata.obs["{key}"] has 2 missing values of 40: "spot2", "spot9".'
    assert role in error.rule
    assert "notna()" in error.remedy


def test_labels_may_be_missing_for_some_spots_only(adata: AnnData) -> None:
    codes = check.categories(adata, "label", role="label", allow_missing=True)
    np.testing.assert_array_equal(codes, np.where(np.arange(40) % 5 > 0, 0, -1))
    adata.obs["label"] = pd.Categorical([None] * 40)
    assert "40 missing values of 40" in refusal(adata, **keys()).received


def test_small_sections_are_listed(adata: AnnData) -> None:
    adata.obs["slice"] = ["tiny"] * 2 + ["other"] + ["big"] * 37
    error = refusal(adata, section_key="slice")
    assert error.received == 'adata.obs["slice"] has 2 section(s) with too few spots: other (1), tiny (2).'
    assert "3 spots" in error.rule
    assert "section_key" in error.remedy


def test_two_spots_are_too_few_without_sections_too(adata: AnnData) -> None:
    assert "adata has 1 section(s) with too few spots: all (2)" in refusal(adata[:2].copy()).received


def test_a_section_at_one_place_is_named(adata: AnnData) -> None:
    adata.obsm["spatial"][20:] = 5.0
    assert 'section(s) "s2" are at one position, (5.0, 5.0)' in refusal(adata, section_key="slice").received
    with pytest.warns(IsoviWarning):
        check.dataset(adata)  # as one section they are duplicates only


@pytest.mark.parametrize(("rows", "columns"), [(0, 12), (40, 0)])
def test_nothing_at_all_is_refused(adata: AnnData, rows: int, columns: int) -> None:
    assert f"{rows} spots and {columns} genes" in refusal(adata[:rows, :columns].copy()).received


def test_no_genes_in_common_shows_both_names() -> None:
    with pytest.raises(InputError) as caught:
        check.genes_in_common(["ENSG01", "ENSG02"], ["MBP", "PLP1", "SNAP25", "GFAP"])
    for word in (
        '2 genes ("ENSG01", "ENSG02")',
        '4 ("MBP", "PLP1", "SNAP25", ...)',
        "Ensembl",
        "adata.var_names",
    ):
        assert word in str(caught.value)


def test_genes_in_common_come_in_the_models_order() -> None:
    assert check.genes_in_common(["a", "b", "c"], ["c", "x", "a"]).tolist() == ["c", "a"]


# ------------------------------------------------------------------- duplicates of position


def test_duplicate_positions_warn_with_their_number(adata: AnnData) -> None:
    adata.obsm["spatial"][:3] = [[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0]]
    with pytest.warns(IsoviWarning, match=r"^2 of 40 spots .* `section_key`"):
        check.dataset(adata)


def test_sections_may_share_positions(adata: AnnData) -> None:
    adata.obsm["spatial"][20:] = adata.obsm["spatial"][:20]
    with warnings.catch_warnings():
        warnings.simplefilter("error", IsoviWarning)
        check.dataset(adata, section_key="slice")
    with pytest.warns(IsoviWarning, match="^20 of 40"):
        check.dataset(adata)


# ------------------------------------------------------------------- the values handed back

EXPECTED = np.array([[1.0, 2.0], [3.0, 5.0], [0.0, 4.0]])
POSITIONS = {
    "float32": EXPECTED.astype(np.float32),
    "integers": EXPECTED.astype(np.int16),
    "objects": EXPECTED.astype(object),
    "frame": pd.DataFrame({"x": EXPECTED[:, 0].astype(int), "y": EXPECTED[:, 1]}, index=list("abc")),
    "nullable": pd.DataFrame(EXPECTED, index=list("abc"), columns=["x", "y"]).astype("Float64"),
    "sparse": sparse.csr_matrix(EXPECTED),
}


@pytest.mark.parametrize("stored", POSITIONS)
def test_coordinates_are_float64_whatever_is_stored(stored: str) -> None:
    data = AnnData(np.ones((3, 1)), obs=pd.DataFrame(index=list("abc")), obsm={"spatial": POSITIONS[stored]})
    found = check.coordinates(data)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, EXPECTED)


def test_coordinates_are_the_callers_to_change(adata: AnnData) -> None:
    found = check.coordinates(adata)
    before = found.copy()
    found += 1
    np.testing.assert_array_equal(adata.obsm["spatial"], before)


def test_a_constant_third_axis_is_fine(adata: AnnData) -> None:
    adata.obsm["spatial"] = np.column_stack([adata.obsm["spatial"], np.full(40, 7.0)])
    check.dataset(adata)
    assert check.coordinates(adata).shape == (40, 3)


def test_nullable_missing_positions_are_nan(adata: AnnData) -> None:
    frame = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=["x", "y"]).astype("Float64")
    frame.iloc[6, 1] = pd.NA
    adata.obsm["spatial"] = frame
    assert '1 of 40 spots: "spot6"' in refusal(adata).received


def test_sections_are_codes_and_names_of_the_categories_in_use(adata: AnnData) -> None:
    adata.obs["slice"] = pd.Categorical(["s2"] * 20 + ["s1"] * 20, categories=["s2", "unused", "s1"])
    codes, names = check.sections(adata, "slice")
    assert names == ["s2", "s1"]
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codes, np.repeat([0, 1], 20))
    assert check.sections(adata)[1] == ["all"]


def test_counts_are_returned_as_stored(adata: AnnData) -> None:
    assert check.counts(adata, "counts") is adata.layers["counts"]
    assert check.counts(adata) is adata.X


def test_empty_genes_can_be_allowed(adata: AnnData) -> None:
    adata.X = sparse.csr_matrix(adata.X @ sparse.diags((np.arange(12) != 4).astype(float)))
    check.dataset(adata, allow_empty_genes=True)


def test_a_layers_empty_spots_get_a_remedy_for_the_layer(adata: AnnData) -> None:
    adata.layers["counts"] = sparse.csr_matrix(sparse.diags((np.arange(40) > 0).astype(float)) @ adata.X)
    remedy = refusal(adata, layer="counts").remedy
    assert 'adata.layers["counts"].sum(axis=1)' in remedy
    kept = adata[np.asarray(adata.layers["counts"].sum(axis=1)).ravel() > 0].copy()
    check.dataset(kept, layer="counts")


def test_raw_is_mentioned_where_there_is_one(adata: AnnData) -> None:
    adata.raw = adata.copy()
    count(adata, 0.5)
    assert "adata.raw" in refusal(adata).remedy


# ------------------------------------------------------------------- block by block


@pytest.mark.parametrize("stored", ["csr", "csc", "dense"])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (39, 11), (17, 5)])
def test_blocks_find_the_one_bad_value_anywhere(
    adata: AnnData, monkeypatch: pytest.MonkeyPatch, stored: str, row: int, column: int
) -> None:
    count(adata, 1.5, row, column)
    adata.X = FORMATS[stored](adata.X)
    for size in (1, 50, 10**6):
        monkeypatch.setattr(check, "_BLOCK_VALUES", size)
        assert f'holds 1.5 (spot "spot{row}", gene "g{column}")' in refusal(adata).received


@pytest.mark.parametrize("stored", ["csr", "csc", "dense"])
def test_blocks_cover_the_matrix_exactly_once(
    adata: AnnData, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    monkeypatch.setattr(check, "_BLOCK_VALUES", 50)
    blocks = list(check.blocks(FORMATS[stored](adata.X)))
    assert len(blocks) > 3
    seen = np.zeros(adata.shape)
    for block in blocks:
        values = block.values.toarray() if sparse.issparse(block.values) else block.values
        seen[block.rows, block.columns] += values + 1
    np.testing.assert_array_equal(seen, adata.X.toarray() + 1)


@pytest.mark.parametrize("stored", ["csr", "csc", "dense"])
def test_backed_data_is_never_read_whole(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    del adata.layers["counts"]
    adata.X = FORMATS[stored](adata.X)
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    monkeypatch.setattr(check, "_BLOCK_VALUES", 60)
    largest = []
    cut = check.blocks
    monkeypatch.setattr(check, "blocks", lambda m: (largest.append(b.stored.size) or b for b in cut(m)))
    check.dataset(backed, section_key="slice")
    assert backed.isbacked
    assert max(largest) <= 60
    assert not isinstance(check.counts(backed), np.ndarray | sparse.spmatrix)
    backed.file.close()
