from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from isovi.data import io
from isovi.data.writable import Writable, require_own_names, writable
from isovi.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
N = 6
NAMES = [f"s{number}" for number in range(N)]
MIXED = [1, "a", None, 2.5, True, b"x"]


def data(**columns: Any) -> AnnData:
    return AnnData(sparse.csr_matrix(np.eye(N)), obs=pd.DataFrame(columns, index=NAMES))


def read_again(adata: AnnData, folder: Path) -> list[AnnData]:
    """The data as both kinds of files hold it."""
    adata.copy().write_h5ad(folder / "x.h5ad")
    adata.copy().write_zarr(folder / "x.zarr")
    return [anndata.io.read_h5ad(folder / "x.h5ad"), anndata.io.read_zarr(folder / "x.zarr")]


def objects(values: list[Any]) -> pd.Series:
    return pd.Series(values, dtype=object, index=NAMES)


COLUMNS = {  # what is given, and what is read again, as text
    "nullable strings": (
        pd.array(["a", None, "b", "a", "a", "c"], dtype="string"),
        ["a", "nan", "b", "a", "a", "c"],
    ),
    "strings of pandas 3": (
        pd.array(list("abcdef"), dtype=pd.StringDtype("python", na_value=np.nan)),
        list("abcdef"),
    ),
    "categories of nullable strings": (
        pd.Categorical(pd.array(list("aabbcc"), dtype="string")),
        list("aabbcc"),
    ),
    "mixed": (objects(MIXED), ["1", "a", "nan", "2.5", "True", "x"]),
    "strings, some missing": (
        objects(["u", None, "v", "w", np.nan, "z"]),
        ["u", "nan", "v", "w", "nan", "z"],
    ),
    "numbers as objects": (objects([1, 2, None, 3, 4, 5]), ["1.0", "2.0", "nan", "3.0", "4.0", "5.0"]),
    "truth values as objects": (objects([True, False] * 3), ["True", "False"] * 3),
    "nothing": (objects([None] * N), ["nan"] * N),
    "nullable integers": (pd.array([1, 2, None, 3, 4, 5], dtype="Int64"), ["1", "2", "nan", "3", "4", "5"]),
    "nullable floats": (
        pd.array([1, 2, None, 3, 4, 5], dtype="Float64"),
        ["1.0", "2.0", "nan", "3.0", "4.0", "5.0"],
    ),
    "intervals": (pd.cut(np.arange(N), [-1, 2, 9]), ["(-1, 2]"] * 3 + ["(2, 9]"] * 3),
    "times": (pd.date_range("2020-01-01", periods=N), [f"2020-01-0{day} 00:00:00" for day in range(1, 7)]),
    "sparse": (pd.arrays.SparseArray([0, 0, 1, 0, 0, 2]), ["0", "0", "1", "0", "0", "2"]),
    "tuples": (objects([(1, "x")] * N), ["(1, 'x')"] * N),
    "half a character": (objects(["a\udcffb"] * N), ["a\ufffd\ufffd\ufffdb"] * N),
    "character 0": (objects(["a\0b"] * N), ["a\ufffdb"] * N),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_any_type_are_written(name: str, tmp_path: Path) -> None:
    """Wild, "lost": nullable strings and objects failed when the training was over."""
    given_values, wanted = COLUMNS[name]
    found = writable(data(column=given_values))
    for again in read_again(found.adata, tmp_path):
        column = again.obs["column"]
        assert ["nan" if pd.isna(value) else str(value) for value in column] == wanted
        assert getattr(column.dtype, "na_value", np.nan) is not pd.NA or name.startswith("nullable")
    assert writable(found.adata).notes == ()


@pytest.mark.parametrize(
    "name", ["nullable strings", "mixed", "times", "intervals", "tuples", "character 0", "numbers as objects"]
)
def test_conversions_are_said(name: str) -> None:
    (note,) = writable(data(column=COLUMNS[name][0])).notes
    assert note.startswith('obs["column"]')


def test_what_every_version_writes_stays_as_it_is(adata: AnnData) -> None:
    adata.raw = adata.copy()
    before = adata.copy()
    found = writable(adata)
    assert found.notes == () and found.renamed == {}
    assert found.adata.X is adata.X and found.adata.raw.X is adata.raw.X
    # pandas 3 makes strings of objects
    kinds = dict.fromkeys(
        ("check_index_type", "check_column_type", "check_dtype", "check_categorical"), False
    )
    pd.testing.assert_frame_equal(found.adata.obs, before.obs, **kinds)
    pd.testing.assert_frame_equal(found.adata.var, before.var, **kinds)
    assert found.adata.obs is not adata.obs


def test_the_index_may_be_of_nullable_strings(tmp_path: Path) -> None:
    adata = data(column=np.arange(N))
    adata.obs.index = pd.Index(pd.array(NAMES, dtype="string"), name="cell")
    adata.raw = adata.copy()
    adata.raw.var.index = adata.raw.var.index.astype("string")
    for again in read_again(writable(adata).adata, tmp_path):
        assert again.obs_names.tolist() == NAMES
        assert getattr(again.obs_names.dtype, "na_value", np.nan) is not pd.NA
        assert again.obs.index.name == "cell"


def test_an_index_with_the_name_of_another_column_loses_it(tmp_path: Path) -> None:
    adata = data(cell=np.arange(N))
    adata.obs.index.name = "cell"
    for again in read_again(writable(adata).adata, tmp_path):
        assert again.obs_names.tolist() == NAMES and again.obs["cell"].tolist() == list(range(N))


def test_reserved_names_are_replaced_in_every_table(tmp_path: Path) -> None:
    """Wild, "lost": column ``_index`` in ``raw.var``."""
    adata = data(_index=np.arange(N))
    adata.var["_index"] = 1
    adata.raw = adata.copy()
    adata.obsm["table"] = pd.DataFrame({"_index": range(N)}, index=adata.obs_names)
    adata.uns["table"] = pd.DataFrame({"_index": [1]})
    found = writable(adata)
    assert len(found.notes) == 5 and all("_index_column" in note for note in found.notes)
    for again in read_again(found.adata, tmp_path):
        tables = [again.obs, again.var, again.raw.var, again.obsm["table"], again.uns["table"]]
        assert [list(table) for table in tables] == [["_index_column"]] * 5
        assert again.obs["_index_column"].tolist() == list(range(N))


def test_values_of_uns_are_written(tmp_path: Path) -> None:
    adata = data()
    adata.uns.update(
        {
            "numbers": (1, 2), "words": ("a", "b"), "set": {"b", "a"}, "mixed": [1, {"a": (2, "x")}],
            "time": datetime.date(2020, 1, 2), "object": object(), 3: {"a/b": 1, "f": len, "large": 10**30},
            "series": pd.Series(["a", None], dtype="string"), "coo": sparse.coo_matrix(np.eye(2)),
            "ranks": np.array([("g", 1.0)], dtype=[("name", "O"), ("score", "f4")]), "none": None,
        }
    )  # fmt: skip
    found = writable(adata)
    left_out = [note for note in found.notes if "left out" in note]
    assert left_out == [
        'uns["object"] of type object cannot be written and is left out.',
        'uns["3"]["f"] of type builtin_function_or_method cannot be written and is left out.',
        'uns["none"] is None, which older anndata cannot read, and is left out.',
    ]
    for again in read_again(found.adata, tmp_path):
        uns = again.uns
        assert uns["numbers"].tolist() == [1, 2] and list(uns["words"]) == list(uns["set"]) == ["a", "b"]
        assert uns["mixed"] == '[1, {"a": [2, "x"]}]' and uns["time"] == '"2020-01-02"'
        assert uns["3"] == {"a_b": 1, "large": "1" + "0" * 30}
        assert uns["coo"].toarray().tolist() == [[1, 0], [0, 1]]
        assert uns["ranks"]["score"].tolist() == [1.0]


ODD = {  # what HDF5 holds and anndata reads, but writes in no file, or not in every one
    "reference": lambda file: {"data": file.ref, "dtype": h5py.ref_dtype},
    "references": lambda file: {"data": np.array([file.ref] * 2, h5py.ref_dtype), "dtype": h5py.ref_dtype},
    "region": lambda file: {"data": file["X/data"].regionref[:1], "dtype": h5py.regionref_dtype},
    "empty": lambda _: {"data": h5py.Empty("f8")},
    "ragged": lambda _: {"shape": (2,), "dtype": h5py.vlen_dtype(np.int32)},
    "opaque": lambda _: {"data": np.zeros(2, "V8")},
    "nested": lambda _: {"data": np.zeros(2, [("a", "f4", (2, 2))])},
    "long": lambda _: {"data": np.ones(2, np.longdouble)},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_of_files_is_converted_or_left_out_with_a_note(name: str, tmp_path: Path) -> None:
    data(number=np.ones(N, np.longdouble)).write_h5ad(tmp_path / "odd.h5ad")
    with h5py.File(tmp_path / "odd.h5ad", "r+") as file:
        file["uns"].create_dataset("odd", **ODD[name](file))
    found = writable(anndata.io.read_h5ad(tmp_path / "odd.h5ad"))
    assert found.notes[0] == 'obs["number"] of type float128 is written as float64.'
    assert found.notes[1].startswith('uns["odd"] of type ')
    for again in read_again(found.adata, tmp_path):
        assert again.obs["number"].tolist() == [1.0] * N
        if name in ("empty", "long"):
            assert again.uns["odd"].tolist() == ([] if name == "empty" else [1.0, 1.0])
        assert ("odd" in again.uns) == (name in ("empty", "ragged", "nested", "long"))


NAME = st.text(max_size=300) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "/",
        "a/b",
        "a_b",
        "_index",
        "__class__",
        "x" * 5000,
        "$\\frac{1$",
        "אבג",
        "a\0b",
        "\udcff",
    ]
)
LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5),
    st.dates(), st.tuples(st.integers(), st.text(max_size=3)), st.just(object()),
)  # fmt: skip
UNS = st.recursive(
    LEAF, lambda part: st.lists(part, max_size=3) | st.dictionaries(NAME, part, max_size=3), max_leaves=6
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    columns=st.lists(NAME, max_size=5),
    values=st.lists(LEAF, min_size=N, max_size=N),
    uns=UNS,
    names=st.lists(NAME, min_size=N, max_size=N),
)
@example(columns=["a/b", "a_b", "a_b_1"], values=MIXED, uns={}, names=NAMES)
@example(
    columns=["", "unnamed", "x" * 5000, f"{'x' * 5000}y"], values=MIXED, uns={"": {"/": ()}}, names=NAMES
)
def test_whatever_there_is_can_be_written(
    tmp_path_factory: pytest.TempPathFactory,
    columns: list[str],
    values: list[Any],
    uns: Any,
    names: list[str],
) -> None:
    obs = pd.DataFrame({number: objects(values) for number in range(len(columns))}, index=NAMES)
    obs.columns = pd.Index(columns, dtype=object)
    obs.index = pd.Index(names, dtype=object)
    adata = AnnData(np.eye(N), obs=obs, uns={"given": uns})
    for again in read_again(writable(adata).adata, tmp_path_factory.mktemp("x")):
        assert again.shape == adata.shape and again.obs.shape[1] == len(columns)


@pytest.mark.parametrize(
    ("part", "name", "remedy"),
    [("obs", "a/b", "rename"), ("obsm", "a/b", "pop")],
)
def test_a_parameter_that_names_what_is_renamed_is_refused(part: str, name: str, remedy: str) -> None:
    found = Writable(data(), (), {part: {name: "a_b"}})
    with pytest.raises(InputError, match=f"key='a/b' was given.*{remedy}"):
        require_own_names(found, {"key": (part, name)})
    require_own_names(found, {"key": (part, None), "other": (part, "c")})


# ---------------------------------------------------------------------------- other readers

ON_DISK = {  # what anndata 0.8 to 0.10, and zellkonverter and anndataR of R, read, by its version
    *("anndata 0.1.0", "raw 0.1.0", "dict 0.1.0", "dataframe 0.2.0", "csr_matrix 0.1.0", "csc_matrix 0.1.0"),
    *("array 0.2.0", "string-array 0.2.0", "numeric-scalar 0.2.0", "string 0.2.0", "categorical 0.2.0"),
    *("nullable-integer 0.1.0", "nullable-boolean 0.1.0", "rec-array 0.2.0"),
}


def encodings_of(path: Path) -> dict[str, str]:
    """How each element of a file is kept, with its version."""
    found: dict[str, str] = {}

    def visit(name: str, element: Any) -> None:
        if "encoding-type" in element.attrs:
            found[name] = f"{element.attrs['encoding-type']} {element.attrs['encoding-version']}"

    with h5py.File(path) as file:
        visit("", file)
        file.visititems(visit)
    return found


def everything() -> AnnData:
    """All that is odd, at once: types, names, tables in every place."""
    table = pd.DataFrame({name: values for name, (values, _) in COLUMNS.items()}, index=NAMES)
    table["T/NK"], table["_index"], table["truth"] = 1, 2, pd.array([True, None] * 3, dtype="boolean")
    adata = data()
    adata.obs = table.copy()
    adata.var = table.copy()
    adata.var.index = adata.obs.index = adata.obs.index.astype("string")
    adata.raw = adata.copy()
    adata.obsm["table"], adata.varm["a/b"] = table.set_index(adata.obs.index), np.eye(N)
    adata.layers["counts/raw"] = adata.X.toarray()
    adata.uns = {"none": None, "table": table, "list": [1, "a", None], "of/slash": {"deep/er": "x"}}
    adata.uns["log1p"] = {"base": None}  # of scanpy
    adata.uns |= {"strings": pd.array(["a", None], dtype="string"), "path": Path("x"), "set": {1, 2}}
    return adata


def test_what_is_written_keeps_to_what_older_readers_and_r_know(tmp_path: Path) -> None:
    io.write_atomic(everything(), tmp_path / "x.h5ad")
    found = encodings_of(tmp_path / "x.h5ad")
    assert {name: kind for name, kind in found.items() if kind not in ON_DISK} == {}
    assert found[""] == "anndata 0.1.0"
    with h5py.File(tmp_path / "x.h5ad") as file:
        for name in ("obs", "var", "raw/var", "obsm/table"):
            attrs = file[name].attrs
            columns = [str(column) for column in attrs["column-order"]]
            assert {*columns, attrs["_index"]} == set(file[name]), "names are those of the columns"
            assert found[f"{name}/{attrs['_index']}"] == "string-array 0.2.0"
            assert "_index" not in columns and not any("/" in column for column in columns)
        assert all("encoding-type" in element.attrs for element in file.values())
        assert "none" not in file["uns"]


def test_stores_keep_to_it_too(tmp_path: Path) -> None:
    """anndata of today writes a null where there is no raw, and from 0.13 on format 3."""
    for name, adata in (("all", everything()), ("plain", data(column=np.arange(N)))):
        io.write_atomic(adata, tmp_path / f"{name}.zarr")
        group = zarr.open_group(tmp_path / f"{name}.zarr", mode="r")
        assert group.metadata.zarr_format == 2 and "encoding-type" in group.attrs
        kinds = {
            f"{element.attrs['encoding-type']} {element.attrs['encoding-version']}"
            for _, element in group.members(None)
            if "encoding-type" in element.attrs
        }
        assert kinds <= ON_DISK and "dataframe 0.2.0" in kinds
        again = anndata.io.read_zarr(tmp_path / f"{name}.zarr")
        assert (again.raw is not None) == ("raw" in group) == (name == "all")
    assert again.obs["column"].tolist() == list(range(N))


READ = """
import sys, anndata
for path in sys.argv[1:]:
    adata = (anndata.read_h5ad if path.endswith(".h5ad") else anndata.read_zarr)(path)
    tables = adata.obs, adata.uns["table"], adata.raw.var
    print(adata.shape, adata.raw.shape, *(len(table.columns) for table in tables))
"""


@pytest.mark.skipif("ISOVI_OLD_PYTHON" not in os.environ, reason="ISOVI_OLD_PYTHON names no interpreter")
def test_an_older_anndata_reads_it(tmp_path: Path) -> None:
    """By an interpreter that has anndata of two years ago."""
    for suffix in ("h5ad", "zarr"):
        io.write_atomic(everything(), tmp_path / f"x.{suffix}")
    command = [os.environ["ISOVI_OLD_PYTHON"], "-I", "-c", READ, "x.h5ad", "x.zarr"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    n = len(everything().obs.columns)
    assert ended.stdout.splitlines() == [f"{(N, N)} {(N, N)} {n} {n} {n}"] * 2, ended.stderr
