"""A sparse matrix may hold several entries at one place, in any order, and zeros: they mean their sum."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from isovi import InputError
from isovi.data import check, io, pack
from isovi.data.inspect import look_at
from isovi.data.loading.resident import CountRows
from isovi.data.query import match
from isovi.data.readers.matrix import read_matrix
from isovi.data.usable import enough
from isovi.pipeline import choose_genes
from isovi.run import Settings
from isovi.spots import TRAIN, Spots

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")

N_OBS, N_GENES = 9, 5
FORMATS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
}


def stored_as(entries: list[tuple[int, int, float]], kind: str, dtype: type = np.float32) -> Any:
    """The entries as they come, neither sorted nor merged within a row (a column for CSC)."""
    rows, columns, values = (np.array(part) for part in zip(*entries, strict=True))
    major, minor = (columns, rows) if kind.startswith("csc") else (rows, columns)
    order = np.argsort(major, kind="stable")
    length = N_GENES if kind.startswith("csc") else N_OBS
    pointers = np.concatenate([[0], np.cumsum(np.bincount(major, minlength=length))])
    parts = (values[order].astype(dtype), minor[order].astype(np.int32), pointers.astype(np.int32))
    return FORMATS[kind](parts, shape=(N_OBS, N_GENES))


def dense(entries: list[tuple[int, int, float]]) -> np.ndarray:
    """What the entries mean."""
    counts = np.zeros((N_OBS, N_GENES))
    for row, column, value in entries:
        counts[row, column] += value
    return counts


def data(matrix: Any, **layers: Any) -> AnnData:
    adata = AnnData(
        matrix,
        obs=pd.DataFrame(index=[f"s{i}" for i in range(N_OBS)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]),
        layers=layers,
    )
    adata.obsm["spatial"] = np.stack([np.arange(N_OBS) * 37 % 10, np.arange(N_OBS) * 11 % 7], axis=1) + 0.5
    return adata


def parts_of(matrix: Any) -> list[np.ndarray]:
    return [part.copy() for part in (matrix.data, matrix.indices, matrix.indptr)]


ENTRIES = st.lists(
    st.tuples(st.integers(0, N_OBS - 1), st.integers(0, N_GENES - 1), st.integers(0, 5)),
    min_size=1,
    max_size=60,
)
# Every spot and gene has a count. Place (2, 3) comes twice, (4, 1) as two halves, (5, 2) as a zero.
TWICE = [
    *((row, (row * 2) % N_GENES, 1.0) for row in range(N_OBS)),
    *[(2, 3, 1.0), (2, 0, 2.0), (2, 3, 4.0), (4, 1, 0.5), (4, 1, 0.5), (5, 2, 0.0)],
]


@pytest.fixture(params=list(FORMATS))
def twice(request: pytest.FixtureRequest) -> Any:
    matrix = stored_as(TWICE, request.param)
    assert not matrix.has_canonical_format
    return matrix


# ------------------------------------------------------------------- packing


@settings(max_examples=15)
@given(ENTRIES, ENTRIES, st.sampled_from(list(FORMATS)), st.sampled_from([".h5ad", ".zarr"]))
def test_a_packed_file_holds_what_the_file_means(
    counts: list[tuple[int, int, float]], layer: list[tuple[int, int, float]], kind: str, suffix: str
) -> None:
    adata = data(stored_as(counts, kind), other=stored_as(layer, kind, np.int64))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as limits:
        for module, name, value in (
            (check, "_BLOCK_VALUES", 12),
            (pack, "BUCKET_BYTES", 120),
            (pack, "CHUNK_ENTRIES", 8),
            (pack, "SHARD_ENTRIES", 16),
        ):
            limits.setattr(module, name, value)
        write = anndata.io.write_zarr if suffix == ".zarr" else anndata.io.write_h5ad
        with zarr.config.set({"array.write_empty_chunks": True}):  # else chunks of zeros count as damage
            write(Path(folder) / f"input{suffix}", adata)
        said = pack.pack(Path(folder) / f"input{suffix}", Path(folder) / "store.zarr")
        store = pack.open_packed(Path(folder) / "store.zarr")
        row = store.obs[pack.ROW_COLUMN].to_numpy()
        for found, entries in ((store.X, counts), (store.layers["other"], layer)):
            stored = found[:]
            np.testing.assert_array_equal(stored.toarray(), dense(entries)[row])
            assert stored.has_canonical_format and stored.data.all()
            taken = pack.StoredRows(found).take(np.arange(1, N_OBS, 2))
            np.testing.assert_array_equal(taken.toarray(), dense(entries)[row[1::2]])
        assert said.n_counts == np.count_nonzero(dense(counts))


def test_matrices_in_memory_are_packed_alike_and_stay_as_they_are(twice: Any, tmp_path: Path) -> None:
    adata, before = data(twice, other=twice * 2), parts_of(twice)
    order = np.arange(N_OBS)[::-1]
    pack.write_ordered(adata, tmp_path / "store.zarr", order, {"spatial_key": "spatial"}, np.array([3, 1]))
    store = pack.open_packed(tmp_path / "store.zarr")
    np.testing.assert_array_equal(store.X[:].toarray(), dense(TWICE)[order][:, [3, 1]])
    np.testing.assert_array_equal(store.layers["other"][:].toarray(), 2 * dense(TWICE)[order][:, [3, 1]])
    for now, then in zip(parts_of(adata.X), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_rows_of_any_file_are_taken_merged(tmp_path: Path) -> None:
    anndata.io.write_h5ad(tmp_path / "x.h5ad", data(stored_as(TWICE, "csr")))
    with h5py.File(tmp_path / "x.h5ad") as file:
        matrix = anndata.io.sparse_dataset(file["X"])
        assert pack.is_on_disk(matrix)
        for rows in ([2, 4], [0, 1, 2, 3, 4, 5], [8]):
            found = pack.take_rows(matrix, np.array(rows))
            assert found.has_canonical_format
            np.testing.assert_array_equal(found.toarray(), dense(TWICE)[rows])


def test_rows_in_memory_are_taken_merged(twice: Any) -> None:
    before = parts_of(twice)
    found = pack.take_rows(twice, np.arange(N_OBS))
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), dense(TWICE))
    for now, then in zip(parts_of(twice), before, strict=True):
        np.testing.assert_array_equal(now, then)


# ------------------------------------------------------------------- checking and counting


@pytest.mark.parametrize("where", ["memory", "h5ad"])
def test_the_sum_is_what_has_to_be_a_count(twice: Any, tmp_path: Path, where: str) -> None:
    adata = data(twice)
    anndata.io.write_h5ad(tmp_path / "x.h5ad", adata)
    if where == "h5ad":
        adata = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    assert check.counts(adata).shape == adata.shape
    assert look_at(adata.X, None).problem == ""


def test_a_sum_that_is_no_count_is_refused_with_its_place() -> None:
    entries = [*TWICE, (6, 4, 1.0), (6, 4, -0.5), (6, 4, -1.0)]
    for kind in FORMATS:
        adata = data(stored_as(entries, kind))
        with pytest.raises(InputError, match=r'holds -0\.5 \(spot "s6", gene "g4"\)'):
            check.counts(adata)
        assert look_at(adata.X, None).problem.startswith("negative")


def test_entries_that_cancel_are_no_count() -> None:
    entries = [(row, column, 1.0) for row in range(N_OBS) for column in (0, 1, 2, 3)]
    entries += [(3, column, -1.0) for column in (0, 1, 2, 3)]
    for kind in FORMATS:
        matrix = stored_as(entries, kind)
        with pytest.raises(InputError, match='1 spots without any count: "s3"'):
            check.counts(data(matrix), allow_empty_genes=True)
        assert (check.cell_totals(matrix, np.ones(N_GENES, dtype=bool)) == 0).sum() == 1
        with pytest.warns(UserWarning, match="1 of 9 cells have no count"):
            assert not enough(matrix, 1)[3]


def test_a_gene_is_seen_in_spots_not_in_entries(twice: Any) -> None:
    """Gene 0 is seen in six spots, gene 3 in two, however many entries there are."""
    entries = [(row, 0, 1.0 + row) for row in range(6)] + [(row, 3, 0.5) for row in (0, 1) for _ in range(6)]
    kind = f"{twice.format}_array" if isinstance(twice, sparse.sparray) else twice.format
    adata = data(stored_as([*entries, *((row, 0, 1.0) for row in range(6, N_OBS))], kind))
    spots = Spots(np.zeros((N_OBS, 2)), split=np.full(N_OBS, TRAIN, dtype="<U10"))
    genes = choose_genes(adata, spots, Settings(n_top_genes=0))
    assert genes.tolist() == [True, False, False, False, False]


def test_totals_count_each_entry_once(twice: Any) -> None:
    np.testing.assert_array_equal(check.cell_totals(twice), dense(TWICE).sum(axis=1))


# ------------------------------------------------------------------- what models read


def test_minibatches_from_memory_hold_the_sums() -> None:
    for dtype in (np.float32, np.int64):
        whole = [(row, column, int(2 * value)) for row, column, value in TWICE]
        rows = CountRows(stored_as(whole, "csr", dtype), np.float32)
        chosen = torch.tensor([4, 2, 5, 2])
        for source in (rows, rows.to(torch.device("cpu"))):
            np.testing.assert_array_equal(source[chosen].numpy(), dense(whole)[chosen])


def test_a_query_holds_the_sums(twice: Any) -> None:
    reference = data(np.ones((N_OBS, N_GENES), dtype=np.float32))[:, ::-1].copy()
    found = match(data(twice), reference, {}).adata.X
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), dense(TWICE)[:, ::-1])


# ------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_files_are_read_in_canonical_form(twice: Any, tmp_path: Path, suffix: str) -> None:
    write = anndata.io.write_zarr if suffix == ".zarr" else anndata.io.write_h5ad
    write(tmp_path / f"x{suffix}", data(twice, other=twice))
    found = io.read(tmp_path / f"x{suffix}")
    for matrix in (found.X, found.layers["other"]):
        assert matrix.has_canonical_format
        np.testing.assert_array_equal(matrix.toarray(), dense(TWICE))


def test_a_10x_matrix_is_read_in_canonical_form(tmp_path: Path) -> None:
    whole = [(row, column, int(2 * value)) for row, column, value in TWICE]
    matrix = stored_as(whole, "csr", np.int32)  # 10x: genes by cells as CSC, so cells by genes as CSR
    names = [f"g{i}" for i in range(N_GENES)]
    with h5py.File(tmp_path / "matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name, part in (("data", matrix.data), ("indices", matrix.indices), ("indptr", matrix.indptr)):
            group[name] = part
        group["shape"] = np.array([N_GENES, N_OBS], dtype=np.int32)
        group["barcodes"] = np.array([f"s{i}" for i in range(N_OBS)], dtype="S4")
        features = group.create_group("features")
        for key in ("id", "name"):
            features[key] = np.array(names, dtype="S4")
        features["feature_type"] = np.array(["Gene Expression"] * N_GENES, dtype="S20")
        features["genome"] = np.array(["GRCh38"] * N_GENES, dtype="S8")
    found = read_matrix(tmp_path / "matrix.h5").X
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), dense(whole))
