"""Files of strangers: nothing outside is read, nothing is executed, claims are not believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anndata
import h5py
import numcodecs
import numpy as np
import pytest
import zarr

from isovi import InputError
from isovi.data import io
from isovi.data.inspect import inspect
from isovi.data.readers import safe
from isovi.simulate import simulate

HUGE = 10**12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file and a store of either format of zarr."""
    folder = tmp_path_factory.mktemp("whole")
    adata = simulate("layers", n_obs=60, n_genes=20, seed=0)
    adata.layers["dense"] = adata.X.toarray()
    adata.write_h5ad(folder / "x.h5ad")
    for zarr_format in (2, 3):
        with anndata.settings.override(zarr_write_format=zarr_format):
            adata.write_zarr(folder / f"{zarr_format}.zarr")
    return folder


def secret(folder: Path) -> Path:
    """A file beside the input, of which nothing is to be read."""
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(60.0)
    np.arange(60.0).tofile(folder / "secret.bin")
    return path


def links(file: h5py.File, folder: Path) -> None:
    file["obs/stolen"] = h5py.ExternalLink(str(secret(folder)), "x")


def links_to_a_group(file: h5py.File, folder: Path) -> None:
    with h5py.File(secret(folder), "a") as other:
        other.create_group("group")["x"] = 1
    file["uns"]["stolen"] = h5py.ExternalLink(str(folder / "secret.h5"), "group")


def external_storage(file: h5py.File, folder: Path) -> None:
    secret(folder)
    file["uns"].create_dataset("stolen", (60,), "f8", external=[(str(folder / "secret.bin"), 0, 480)])


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((60,), "f8")
    layout[:] = h5py.VirtualSource(str(secret(folder)), "x", (60,))
    file["uns"].create_virtual_dataset("stolen", layout)


def huge(where: str, dtype: str = "f4") -> Callable[[h5py.File, Path], None]:
    def claims(file: h5py.File, _: Path) -> None:
        attributes = dict(file[where].attrs) if where in file else {}
        if where in file:
            del file[where]
        made = file.create_dataset(where, (HUGE,), dtype, chunks=(1000,), compression="gzip")
        made[:10] = 1
        made.attrs.update(attributes)

    return claims


HOSTILE = {
    "external link": links,
    "external link to a group": links_to_a_group,
    "external storage": external_storage,
    "virtual dataset": virtual,
    "10^12 in uns": huge("uns/x"),
    "10^12 counts": huge("X/data"),
    "10^12 in a layer": huge("layers/dense"),
    "10^12 names": huge("obs/_index", "S5"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copy(whole / "x.h5ad", tmp_path))
    with h5py.File(path, "a") as file:
        HOSTILE[name](file, tmp_path)
    for look in (io.read, inspect):
        with pytest.raises(InputError, match=r"x\.h5ad"):
            look(path)


def test_links_within_a_file_are_followed(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole / "x.h5ad", tmp_path))
    with h5py.File(path, "a") as file:
        file["layers/again"] = h5py.SoftLink("/layers/dense")
        file["layers/same"] = file["layers/dense"]
        file["uns/broken"] = h5py.SoftLink("/nowhere")
        del file["uns/broken"]
    found = io.read(path)
    assert np.array_equal(found.layers["again"], found.layers["dense"])
    assert np.array_equal(found.layers["same"], found.layers["dense"])


def test_a_matrix_of_10x_is_looked_at_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["matrix/data"] = h5py.ExternalLink(str(secret(tmp_path)), "x")
    with pytest.raises(InputError, match="link to another file"):
        io.read(tmp_path / "x.h5")


# ------------------------------------------------------------------ zarr


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def pickled(store: Path, mark: Path) -> None:
    """An array of zarr's format 2 that is stored as a pickle."""
    array = store / "uns" / "payload"
    array.mkdir()
    described = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "order": "C"}
    described |= {"fill_value": None, "filters": [{"id": "vlen-utf8"}]}  # makes objects of zarr's own kind
    described["compressor"] = {"id": "pickle", "protocol": 4}
    (array / ".zarray").write_text(json.dumps(described))
    (array / ".zattrs").write_text('{"encoding-type": "array", "encoding-version": "0.2.0"}')
    chunk = numcodecs.Pickle(protocol=4).encode(np.array([Payload(mark)], dtype=object))
    (array / "0").write_bytes(bytes(chunk))


def test_a_pickle_in_a_store_is_not_executed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)  # since 0.16.6
    store, mark = Path(shutil.copytree(whole / "2.zarr", tmp_path / "x.zarr")), tmp_path / "executed"
    pickled(store, mark)
    (store / ".zmetadata").unlink(missing_ok=True)
    for look in (io.read, inspect):
        with pytest.raises(InputError, match="execute code"):
            look(store)
        assert not mark.exists()
    with suppress(Exception):  # what came of it is no number
        zarr.open_group(str(store), mode="r")["uns/payload"][:]
    if not mark.exists():
        pytest.skip("zarr of this version does not read pickles: the payload could not be shown to work")


def test_a_pickle_that_only_the_summary_of_the_store_names_is_found(whole: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(whole / "2.zarr", tmp_path / "x.zarr"))
    described = json.loads((store / "layers" / "dense" / ".zarray").read_text())
    described["filters"] = [{"id": "pickle"}]
    whole_store = {"zarr_consolidated_format": 1, "metadata": {"layers/dense/.zarray": described}}
    (store / ".zmetadata").write_text(json.dumps(whole_store))
    with pytest.raises(InputError, match=r"layers/dense.*execute code"):
        io.read(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("key", ["shape", "chunks"])
def test_claims_of_a_store_are_not_believed(whole: Path, tmp_path: Path, zarr_format: int, key: str) -> None:
    store = Path(shutil.copytree(whole / f"{zarr_format}.zarr", tmp_path / "x.zarr"))
    for summary in (store / ".zmetadata", store / "zarr.json"):
        if summary.is_file() and "shape" not in summary.read_text()[:200]:
            described = json.loads(summary.read_text())
            described.pop("consolidated_metadata", None)
            summary.write_text(json.dumps(described)) if summary.name == "zarr.json" else summary.unlink()
    file = store / "layers" / "dense" / (".zarray" if zarr_format == 2 else "zarr.json")
    described = json.loads(file.read_text())
    if key == "chunks" and zarr_format == 3:
        described["chunk_grid"]["configuration"]["chunk_shape"] = [HUGE, 20]
    else:
        described[key] = [HUGE, 20]
    file.write_text(json.dumps(described))
    for look in (io.read, inspect):
        with pytest.raises(InputError, match=r"layers/dense.*GiB"):
            look(store)


def test_links_out_of_a_store_are_refused(whole: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(whole / "3.zarr", tmp_path / "x.zarr"))
    (store / "layers" / "dense").rename(tmp_path / "dense")
    (store / "layers" / "dense").symlink_to(tmp_path / "dense")
    with pytest.raises(InputError, match="link to another place"):
        io.read(store)
    (tmp_path / "link.zarr").symlink_to(whole / "3.zarr")
    assert io.read(tmp_path / "link.zarr").n_obs == 60


# ------------------------------------------------------------------ what is not refused


def test_whole_files_are_read(whole: Path) -> None:
    for name in ("x.h5ad", "2.zarr", "3.zarr"):
        assert io.read(whole / name).shape == (60, 20)


def test_arrays_of_zeros_may_be_large(tmp_path: Path) -> None:
    """Deflate makes them a thousandth at least; what is not stored at all can claim anything."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        made = file.create_dataset("x", (2**28 + 1,), "f4", chunks=(2**20,), compression="gzip")
        for start in range(0, 2**28, 2**22):
            made[start : start + 2**22] = 0
        safe.require_safe_hdf5(tmp_path / "x.h5")
        del file["x"]
        file.create_dataset("x", (2**28 + 1,), "f4", chunks=(2**20,))
    with pytest.raises(ValueError, match="claims 1 GiB"):
        safe.require_safe_hdf5(tmp_path / "x.h5")


def test_what_is_read_in_parts_may_be_larger_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe, "SMALL", 100)
    monkeypatch.setattr(safe, "_memory", lambda: 1000)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X/data"] = np.arange(1000.0)
    safe.require_safe_hdf5(tmp_path / "x.h5", lazy=("X",))
    with pytest.raises(ValueError, match="/X/data"):
        safe.require_safe_hdf5(tmp_path / "x.h5")


def test_no_memory_is_a_message(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(anndata.io, "read_h5ad", full)
    with pytest.raises(InputError, match=r"does not fit into memory.*isovi pack"):
        io.read(whole / "x.h5ad")
