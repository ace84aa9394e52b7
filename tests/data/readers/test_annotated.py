"""Damaged AnnData is refused by whoever reads it, and odd notes in it are not taken for isoVI's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
import zarr
from anndata import AnnData
from scipy import sparse

from isovi.data import io
from isovi.data.inspect import inspect
from isovi.errors import InputError, IsoviWarning
from isovi.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")


def tissue() -> AnnData:
    adata = simulate("layers", n_obs=20, n_genes=8, seed=0)
    adata.X = sparse.csr_matrix(adata.X)
    return adata


@pytest.fixture(params=["h5ad", "zarr"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path, adata = tmp_path / f"tissue.{request.param}", tissue()
    adata.write_h5ad(path) if request.param == "h5ad" else adata.write_zarr(path)
    return path


def change(path: Path, name: str, values: Any) -> None:
    """Put other values in the place of a part of ``X``."""
    if path.suffix == ".h5ad":
        with h5py.File(path, "r+") as file:
            del file["X"][name]
            file["X"][name] = values
        return
    group = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    del group["X"][name]
    group["X"].create_array(name, data=values)
    zarr.consolidate_metadata(str(path))


def pointers(values: np.ndarray) -> dict[str, np.ndarray]:
    negative, falling = values.copy(), values.copy()
    negative[3], falling[3] = -1, values[5] + 1
    return {
        "negative": negative,
        "falling": falling,
        "too few": values[:-1],
        "too far": np.concatenate([values[:-1], [values[-1] + 1]]),
        "not from the beginning": np.concatenate([[1], values[1:]]),
    }


@pytest.mark.parametrize("how", ["negative", "falling", "too few", "too far", "not from the beginning"])
@pytest.mark.parametrize("use", [io.read, inspect])
def test_wrong_pointers_are_refused(use: Any, how: str, path: Path) -> None:
    change(path, "indptr", pointers(tissue().X.indptr)[how])
    with pytest.raises(InputError, match=r'tissue\.\w+(/X)?" could not be read: it is damaged'):
        use(path)


@pytest.mark.parametrize("wrong", [-1, 8, 2**31 - 1])
@pytest.mark.parametrize("use", [io.read, inspect])
def test_wrong_indices_are_refused(use: Any, wrong: int, path: Path) -> None:
    indices = tissue().X.indices.copy()
    indices[7] = wrong
    change(path, "indices", indices)
    with pytest.raises(InputError, match=r'tissue\.\w+(/X)?" could not be read: it is damaged'):
        use(path)


@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize("use", [io.read, inspect])
def test_parts_of_other_lengths_are_refused(use: Any, part: str, path: Path) -> None:
    change(path, part, getattr(tissue().X, part)[:-2])
    with pytest.raises(InputError, match="has parts of different lengths"):
        use(path)


@pytest.mark.parametrize("use", [io.read, inspect])
def test_a_damaged_chunk_is_refused(use: Any, tmp_path: Path) -> None:
    path = tmp_path / "tissue.zarr"
    tissue().write_zarr(path)
    chunk = next(file for file in (path / "X" / "indptr").rglob("*") if file.is_file() and file.name == "0")
    chunk.write_bytes(chunk.read_bytes()[:-8])
    with pytest.raises(InputError, match=r'tissue\.zarr(/X)?" could not be read: it is damaged'):
        use(path)


@pytest.mark.parametrize("where", ["uns", "varm", "obsm"])
@pytest.mark.parametrize("use", [io.read, inspect])
def test_an_array_that_claims_more_than_the_memory_is_refused(use: Any, where: str, path: Path) -> None:
    shape = (10**12, 2)
    if path.suffix == ".h5ad":
        with h5py.File(path, "r+") as file:
            made = file[where].create_dataset("bomb", shape, dtype="f8", chunks=(1000, 2))
            made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    else:
        group = zarr.open_group(str(path), mode="r+", use_consolidated=False)[where]
        made = group.create_array("bomb", shape=shape, dtype="f8", chunks=(1000, 2))
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        zarr.consolidate_metadata(str(path))
    with pytest.raises(InputError, match=r"claims 14,901 GiB, of which \d+ bytes are stored"):
        use(path)


@pytest.mark.parametrize("note", ["x", {"kind": "AnnData"}, {"unit": np.arange(3)}])
def test_a_note_that_is_not_isovis_is_left_out(note: Any, path: Path) -> None:
    adata = tissue()
    adata.uns["isovi_input"] = note
    adata.write_h5ad(path) if path.suffix == ".h5ad" else adata.write_zarr(path)
    with pytest.warns(IsoviWarning, match=r'uns\["isovi_input"\] is not what isoVI writes there'):
        assert "isovi_input" not in io.read(path).uns
    found = inspect(path)
    assert found.positions[0].unit == "not given by the format"
    assert any("is left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spatial", {"library": 3}),
        ("spatial", {"library": "x"}),
        ("spatial", "x"),
        ("spatialdata_attrs", "x"),
        ("spatialdata_attrs", {"region": ["a", "b"]}),
        ("spatialdata_attrs", {"region": ["a", "b"], "region_key": 3}),
    ],
)
def test_notes_of_others_may_have_any_shape(name: str, value: Any, tmp_path: Path) -> None:
    adata = tissue()
    adata.uns[name] = value
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    found = inspect(tmp_path / "tissue.h5ad")
    assert found.positions[0].unit == "not given by the format" and not found.sections and not found.missing


def test_names_with_slashes_are_read_though_hdf5_takes_them_for_groups(tmp_path: Path) -> None:
    """anndata 0.12 writes such files and cannot read them; 0.13 does not write them."""
    adata = tissue()
    adata.obs["T_NK"] = 1.0
    adata.write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        file.move("obs/T_NK", "obs/T/NK")
        names = [name.replace("T_NK", "T/NK") for name in file["obs"].attrs["column-order"]]
        file["obs"].attrs["column-order"] = names
    latent, counts = np.arange(60.0).reshape(20, 3), sparse.csr_matrix(adata.X * 2)
    with h5py.File(tmp_path / "x.h5ad", "r+") as file:
        for name, value in (
            ("obsm/X/pca", latent),
            ("obsm/X/a/b", latent + 1),
            ("layers/raw/counts", counts),
        ):
            group, _, last = name.rpartition("/")
            anndata.io.write_elem(file.require_group(group), last, value)
    found = io.read(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(found.obsm["X/pca"], latent)
    np.testing.assert_array_equal(found.obsm["X/a/b"], latent + 1)
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    assert (found.layers["raw/counts"] != counts).nnz == 0 and (found.X != adata.X).nnz == 0
    notes = inspect(tmp_path / "x.h5ad").notes
    for part, old, new in (
        ("obs", "T/NK", "T_NK"),
        ("obsm", "X/a/b", "X_a_b"),
        ("layers", "raw/counts", "raw_counts"),
    ):
        assert f'{part}["{old}"] is written as {part}["{new}"].' in notes
