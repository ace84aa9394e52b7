from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from scipy import sparse

from isovi import InputError, OutputError
from isovi.data import check, pack
from isovi.data.readers.checksums import require_checksums

FORMATS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}


@pytest.fixture
def rich(adata: AnnData) -> AnnData:
    """All kinds of annotation beside the counts."""
    rng = np.random.default_rng(1)
    adata.obsm["table"] = pd.DataFrame({"u": rng.normal(size=adata.n_obs)}, index=adata.obs_names)
    adata.varm["loadings"] = rng.normal(size=(adata.n_vars, 2))
    adata.obsp["links"] = sparse.random(adata.n_obs, adata.n_obs, 0.1, random_state=rng, format="csr")
    adata.uns["note"] = {"made": "by hand"}
    adata.layers["half"] = adata.X * 0.5
    return adata


def packed(adata: AnnData, folder: Path, **kwargs: object) -> tuple[AnnData, pack.Packed]:
    adata.write_h5ad(folder / "input.h5ad")
    said = pack.pack(folder / "input.h5ad", folder / "store.zarr", **kwargs)
    return pack.open_packed(folder / "store.zarr"), said


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit so low that a small matrix needs many blocks, buckets, shards and chunks."""
    monkeypatch.setattr(check, "_BLOCK_VALUES", 50)
    monkeypatch.setattr(pack, "BUCKET_BYTES", 200)
    monkeypatch.setattr(pack, "CHUNK_ENTRIES", 8)
    monkeypatch.setattr(pack, "SHARD_ENTRIES", 32)


@pytest.mark.parametrize("stored", list(FORMATS))
@pytest.mark.usefixtures("small_pieces")
def test_a_store_holds_the_same_rows_in_another_order(adata: AnnData, tmp_path: Path, stored: str) -> None:
    counts = adata.X.toarray()
    adata.X = FORMATS[stored](adata.X)
    store, said = packed(adata, tmp_path, section_key="slice")
    row = store.obs[pack.ROW_COLUMN].to_numpy()
    assert sorted(row) == list(range(adata.n_obs))
    assert pack.is_on_disk(store.X)
    assert np.array_equal(store.X[:].toarray(), counts[row])
    assert store.obs_names.tolist() == adata.obs_names[row].tolist()
    assert said == pack.Packed(*adata.shape, 2, int((counts > 0).sum()))


def test_16_bit_floats_are_packed_as_32_bit_ones(adata: AnnData, tmp_path: Path) -> None:
    adata.X = sparse.csr_matrix(adata.X).toarray().astype(np.float16)
    adata.write_h5ad(tmp_path / "in.h5ad")
    pack.pack(tmp_path / "in.h5ad", tmp_path / "p.zarr")
    stored = pack.open_packed(tmp_path / "p.zarr")
    assert stored.X.dtype == np.float32
    np.testing.assert_array_equal(stored.X[:].sum(), adata.X.astype(float).sum())


def test_everything_else_comes_along(rich: AnnData, tmp_path: Path) -> None:
    store, _ = packed(rich, tmp_path)
    expected = rich[store.obs[pack.ROW_COLUMN].to_numpy()].copy()
    pd.testing.assert_frame_equal(store.obs.drop(columns=pack.ROW_COLUMN), expected.obs)
    pd.testing.assert_frame_equal(store.var, expected.var)
    pd.testing.assert_frame_equal(store.obsm["table"], expected.obsm["table"])
    assert np.array_equal(store.obsm["spatial"], expected.obsm["spatial"])
    assert np.array_equal(store.varm["loadings"], expected.varm["loadings"])
    assert (store.obsp["links"] != expected.obsp["links"]).nnz == 0
    assert store.uns["note"] == {"made": "by hand"}
    for name in ("counts", "half"):
        assert pack.is_on_disk(store.layers[name])
        assert (store.layers[name][:] != expected.layers[name]).nnz == 0


def test_the_store_is_anndata_to_everybody_else(adata: AnnData, tmp_path: Path) -> None:
    store, _ = packed(adata, tmp_path)
    read = anndata.io.read_zarr(tmp_path / "store.zarr")
    assert (adata.X[store.obs[pack.ROW_COLUMN].to_numpy()] != read.X).nnz == 0
    assert {read.X.indices.dtype, read.X.indptr.dtype} == {np.dtype(np.int32)}
    group = zarr.open_group(tmp_path / "store.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["X/data"].shards is not None


def test_cells_stand_section_by_section_near_ones_together(adata: AnnData, tmp_path: Path) -> None:
    adata.obs["slice"] = pd.Categorical(np.tile(["s1", "s2"], adata.n_obs // 2))
    store, _ = packed(adata, tmp_path, section_key="slice")
    changes = np.diff(store.obs["slice"].cat.codes) != 0
    assert changes.sum() == 1
    steps = [
        np.linalg.norm(np.diff(data.obsm["spatial"][data.obs["slice"] == "s1"], axis=0), axis=1).mean()
        for data in (store, adata)
    ]
    assert steps[0] < 0.6 * steps[1]


def test_results_go_back_to_the_order_of_the_input(rich: AnnData, tmp_path: Path) -> None:
    store, _ = packed(rich, tmp_path)
    back = pack.in_input_order(store)
    pd.testing.assert_frame_equal(back.obs, rich.obs)
    assert np.array_equal(back.obsm["spatial"], rich.obsm["spatial"])
    assert back.X is None
    assert pack.PACK_KEY not in back.uns


@pytest.mark.parametrize("min_counts", [0, 8])
@pytest.mark.filterwarnings("ignore:.*are left out:isovi.IsoviWarning")
def test_what_is_drawn_for_the_input_reaches_the_same_cells_of_a_store(
    adata: AnnData, tmp_path: Path, min_counts: int
) -> None:
    store, said = packed(adata, tmp_path, section_key="slice", min_counts=min_counts)
    kept = adata[np.asarray(adata.X.sum(axis=1)).ravel() >= min_counts]
    assert said.n_obs == kept.n_obs and (min_counts == 0) == (kept.n_obs == adata.n_obs)
    drawn = pd.Series(np.random.default_rng(0).permutation(kept.n_obs), index=kept.obs_names)
    order = pack.input_order(store)
    assert sorted(order) == list(range(kept.n_obs))
    np.testing.assert_array_equal(drawn.to_numpy()[order], drawn[store.obs_names])
    some = pack.take_cells(store, np.arange(1, kept.n_obs, 3))
    names = kept.obs_names[kept.obs_names.isin(some.obs_names)]
    assert names[pack.input_order(some)].tolist() == some.obs_names.tolist()


def test_data_that_was_not_packed_is_in_the_order_of_the_input(adata: AnnData) -> None:
    np.testing.assert_array_equal(pack.input_order(adata), np.arange(adata.n_obs))


def test_packing_a_store_again_gives_its_order(adata: AnnData, tmp_path: Path) -> None:
    packed(adata, tmp_path)
    pack.pack(tmp_path / "store.zarr", tmp_path / "again.zarr")
    first, again = (pack.open_packed(tmp_path / name) for name in ("store.zarr", "again.zarr"))
    assert again.obs_names.tolist() == first.obs_names.tolist()
    assert np.array_equal(again.obs[pack.ROW_COLUMN], first.obs[pack.ROW_COLUMN])


def test_the_input_is_not_changed_and_no_scratch_is_left(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "input.h5ad")
    before = (tmp_path / "input.h5ad").read_bytes()
    pack.pack(tmp_path / "input.h5ad", tmp_path / "store.zarr")
    assert (tmp_path / "input.h5ad").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.h5ad", "store.zarr"]


def test_a_failure_leaves_nothing_behind(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.write_h5ad(tmp_path / "input.h5ad")
    monkeypatch.setattr(pack._Tape, "close", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match="No space left"):
        pack.pack(tmp_path / "input.h5ad", tmp_path / "store.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["input.h5ad"]


def test_damage_that_is_found_while_packing_is_the_inputs(adata: AnnData, tmp_path: Path) -> None:
    adata.X = sparse.csr_matrix(np.random.default_rng(0).integers(1, 9, adata.shape).astype(np.float32))
    adata.write_h5ad(tmp_path / "input.h5ad", compression="gzip")
    with h5py.File(tmp_path / "input.h5ad") as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    with (tmp_path / "input.h5ad").open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\0" * chunk.size)
    with pytest.raises(InputError, match=r'input\.h5ad" could not be read: it is damaged'):
        pack.pack(tmp_path / "input.h5ad", tmp_path / "store.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["input.h5ad"]


def test_what_is_in_the_way_is_not_replaced_unasked(adata: AnnData, tmp_path: Path) -> None:
    packed(adata, tmp_path)
    with pytest.raises(OutputError, match="are kept by default"):
        pack.pack(tmp_path / "input.h5ad", tmp_path / "store.zarr")
    pack.pack(tmp_path / "input.h5ad", tmp_path / "store.zarr", force=True)
    with pytest.raises(OutputError, match="The input is never changed"):
        pack.pack(tmp_path / "store.zarr", tmp_path / "store.zarr", force=True)
    with pytest.raises(OutputError, match=r'suffix "\.h5ad"'):
        pack.pack(tmp_path / "input.h5ad", tmp_path / "other.h5ad")


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"spatial_key": "where"}, 'no "where"'), ({"section_key": "where"}, 'no column "where"')],
)
def test_missing_keys_are_said_before_anything_is_written(
    adata: AnnData, tmp_path: Path, kwargs: dict[str, str], words: str
) -> None:
    adata.write_h5ad(tmp_path / "input.h5ad")
    with pytest.raises(InputError, match=words):
        pack.pack(tmp_path / "input.h5ad", tmp_path / "store.zarr", **kwargs)
    assert not (tmp_path / "store.zarr").exists()


def test_only_packed_stores_are_opened(adata: AnnData, tmp_path: Path) -> None:
    anndata.io.write_zarr(tmp_path / "plain.zarr", adata)
    assert not pack.is_packed(tmp_path / "plain.zarr")
    assert not pack.is_packed(tmp_path / "nothing.zarr")
    with pytest.raises(InputError, match="not a packed store"):
        pack.open_packed(tmp_path / "plain.zarr")


@pytest.mark.usefixtures("small_pieces")
def test_a_lost_file_is_found_when_a_store_is_opened(adata: AnnData, tmp_path: Path) -> None:
    packed(adata, tmp_path)
    next((tmp_path / "store.zarr" / "X" / "data" / "c").iterdir()).unlink()
    with pytest.raises(InputError, match=r'"X/data" of .* is damaged: some of it is missing.*Pack the input'):
        pack.open_packed(tmp_path / "store.zarr")


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("part", ["X/data", "X/indices", "layers/half/data"])
def test_a_shard_that_goes_after_the_store_was_opened_is_noticed(
    rich: AnnData, tmp_path: Path, part: str
) -> None:
    """zarr reads zeros there: counts of zero, or of the first gene."""
    store, _ = packed(rich, tmp_path)
    matrix = store.layers["half"] if part.startswith("layers") else store.X
    before = pack.take_rows(matrix, np.arange(3))
    assert before.nnz > 0
    sorted((tmp_path / "store.zarr" / part / "c").iterdir())[-1].unlink()
    assert (pack.take_rows(matrix, np.arange(3)) != before).nnz == 0  # of another shard
    with pytest.raises(InputError, match=rf'"{part}" of .*store\.zarr" is damaged.* is missing'):
        pack.take_rows(matrix, np.arange(store.n_obs))
    with pytest.raises(InputError, match=rf"{part}.* is missing"):
        list(check.blocks(matrix))


def use(store: Path) -> None:
    """Read all that a fit reads, as it reads it."""
    found = pack.open_packed(store)
    for matrix in (found.X, *found.layers.values()):
        pack.take_rows(matrix, np.arange(found.n_obs))


def kinds_of_damage(whole: bytes, rng: np.random.Generator) -> list[bytes | None]:
    """Missing, and one of: empty, half, one flipped bit."""
    changed = bytearray(whole)
    changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
    return [None, [b"", whole[: len(whole) // 2], bytes(changed)][rng.integers(3)]]


@pytest.mark.usefixtures("small_pieces")
def test_any_lost_or_changed_file_of_a_store_is_noticed(rich: AnnData, tmp_path: Path) -> None:
    """A lost chunk of obsm read as zeros, one of indptr as cells without counts, a changed one as it was."""
    packed(rich, tmp_path)
    store, rng = tmp_path / "store.zarr", np.random.default_rng(0)
    use(store)
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.stat().st_size)
    shards = {path for path in files if re.search(r"(X|layers/\w+)/(data|indices)/c/", path.as_posix())}
    assert len(shards) > 8 and len(files) > 80
    for file in files:
        whole = file.read_bytes()
        for content in kinds_of_damage(whole, rng):
            file.unlink() if content is None else file.write_bytes(content)
            if not same_json(content or b"", whole):
                with pytest.raises(InputError, match="is damaged"):
                    (use if file in shards else require_checksums)(store)
            file.write_bytes(whole)
    use(store)


def same_json(content: bytes, whole: bytes) -> bool:
    try:
        return bool(json.loads(content) == json.loads(whole))
    except ValueError:
        return False


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("part", ["X/data", "X/indices", "layers/half/data"])
def test_a_changed_chunk_is_named_where_it_is_read(rich: AnnData, tmp_path: Path, part: str) -> None:
    packed(rich, tmp_path)
    shard = next((tmp_path / "store.zarr" / part / "c").iterdir())
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(bytes(content))
    store = pack.open_packed(tmp_path / "store.zarr")
    matrix = store.layers["half"] if part.startswith("layers") else store.X
    with pytest.raises(InputError, match=rf'"{part}" of .*store\.zarr" is damaged.*Pack the input again'):
        pack.take_rows(matrix, np.arange(store.n_obs))
    with pytest.raises(InputError, match=r"store\.zarr.*pack the input again"):
        list(check.blocks(matrix))


def test_a_store_of_an_earlier_version_is_opened(adata: AnnData, tmp_path: Path) -> None:
    packed(adata, tmp_path)
    store = tmp_path / "store.zarr"
    shutil.rmtree(store / "uns" / "isovi_pack" / "checksums")
    assert pack.open_packed(store).shape == adata.shape


@pytest.mark.usefixtures("small_pieces")
def test_a_shard_that_is_all_of_the_first_gene_is_stored(adata: AnnData, tmp_path: Path) -> None:
    """zarr leaves out chunks of zeros, and such a store would be taken for a damaged one."""
    counts = np.zeros(adata.shape, dtype=np.float32)
    counts[:, 0] = 1
    adata.X = sparse.csr_matrix(counts)
    store, _ = packed(adata, tmp_path)
    assert np.array_equal(store.X[:].toarray(), counts)


@pytest.mark.parametrize("max_rows", [4, 1000])
@pytest.mark.parametrize("gap", [1, 3, 100])
def test_rows_are_read_as_asked(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: int, max_rows: int
) -> None:
    monkeypatch.setattr(pack, "MAX_ROWS", max_rows)
    store, _ = packed(adata, tmp_path)
    counts = store.X[:].toarray()
    for rows in ([], [3], [0, 1, 2, 7, 9, 10, 30, 39], list(range(adata.n_obs))):
        found = pack.StoredRows(store.X, gap).take(np.array(rows, dtype=np.int64))
        assert np.array_equal(found.toarray(), counts[rows])


def test_some_genes_and_some_cells(rich: AnnData, tmp_path: Path) -> None:
    store, _ = packed(rich, tmp_path)
    genes = np.arange(rich.n_vars) % 3 == 0
    fewer = pack.take_genes(store, genes, tmp_path / "genes.zarr")
    assert fewer.var_names.tolist() == rich.var_names[genes].tolist()
    assert np.array_equal(fewer.X[:].toarray(), store.X[:].toarray()[:, genes])
    assert fewer.obs.equals(store.obs)
    some = pack.take_cells(fewer, np.array([1, 5, 20]))
    assert np.array_equal(some.X.toarray(), fewer.X[:].toarray()[[1, 5, 20]])
    assert some.obs_names.tolist() == store.obs_names[[1, 5, 20]].tolist()


def test_data_in_memory_is_subset_in_memory(adata: AnnData, tmp_path: Path) -> None:
    genes = np.arange(adata.n_vars) < 5
    assert not pack.take_genes(adata, genes, tmp_path / "x.zarr").is_view
    assert not (tmp_path / "x.zarr").exists()
