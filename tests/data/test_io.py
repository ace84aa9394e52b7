from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from anndata import AnnData
from scipy import sparse

from isovi.data import io, owner
from isovi.data.inspect import inspect
from isovi.errors import InputError, IsoviError, IsoviWarning, OutputError

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def written(adata: AnnData, path: Path) -> Path:
    io.write_atomic(adata, path)
    return path


# ------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["x.h5ad", "x.H5AD", "x.zarr"])
def test_what_was_written_is_read_and_the_file_stays_as_it_is(
    adata: AnnData, tmp_path: Path, name: str
) -> None:
    path = written(adata, tmp_path / name.lower()).rename(tmp_path / name)
    before = tree(tmp_path)
    found = io.read(str(path))
    assert tree(tmp_path) == before
    assert not found.isbacked
    assert (found.X != adata.X).nnz == 0
    pd.testing.assert_frame_equal(found.obs.astype(str), adata.obs.astype(str))
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])


def truncated(adata: AnnData, folder: Path) -> Path:
    path = written(adata, folder / "cut.h5ad")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text(_: AnnData, folder: Path) -> Path:
    path = folder / "text.h5ad"
    path.write_text("gene,spot\n")
    return path


def empty(_: AnnData, folder: Path) -> Path:
    (folder / "empty.h5ad").touch()
    return folder / "empty.h5ad"


def other_hdf5(_: AnnData, folder: Path) -> Path:
    with h5py.File(folder / "other.h5ad", "w") as file:
        file["something"] = 1
    return folder / "other.h5ad"


def loom(_: AnnData, folder: Path) -> Path:
    (folder / "counts.loom").write_text("a,b\n")
    return folder / "counts.loom"


def plain_directory(_: AnnData, folder: Path) -> Path:
    (folder / "plain.zarr").mkdir()
    return folder / "plain.zarr"


def other_zarr(_: AnnData, folder: Path) -> Path:
    zarr.open_group(str(folder / "other.zarr"), mode="w")
    return folder / "other.zarr"


def chunks_of(array: Path) -> list[Path]:
    return [file for file in sorted(array.rglob("*")) if file.is_file() and file.name[0] not in ".z"]


def zarr_with_lost_indices(adata: AnnData, folder: Path) -> Path:
    path = written(adata, folder / "indices.zarr")
    for chunk in chunks_of(path / "X" / "indices"):
        chunk.unlink()
    return path


def zarr_with_lost_counts(adata: AnnData, folder: Path) -> Path:
    path = written(adata, folder / "counts.zarr")
    for chunk in chunks_of(path / "layers" / "counts" / "data"):
        chunk.unlink()
    return path


def zarr_with_lost_rows(adata: AnnData, folder: Path) -> Path:
    path = written(adata, folder / "rows.zarr")
    for chunk in chunks_of(path / "X" / "indptr"):
        chunk.unlink()
    return path


def zarr_with_cut_chunk(adata: AnnData, folder: Path) -> Path:
    path = written(adata, folder / "chunk.zarr")
    chunks_of(path / "X" / "data")[0].write_bytes(b"xx")
    return path


def in_chunks(adata: AnnData, path: Path, *lost: str) -> Path:
    """A store in chunks of eight values, without the last chunk of an array."""
    with anndata.settings.override(zarr_write_format=3):
        anndata.io.write_zarr(path, adata, chunks=None)
    group = zarr.open_group(str(path), mode="a", use_consolidated=False)
    for name in lost:
        name += "/values" if isinstance(group[name], zarr.Group) else ""  # strings of pandas 3
        values = group[name][...]
        attributes = dict(group[name].attrs)
        chunks = (8, *values.shape[1:])
        group.create_array(name, data=values, chunks=chunks, overwrite=True).attrs.update(attributes)
        last = str((len(values) - 1) // 8)
        path.joinpath(name, "c", last, *["0"] * (values.ndim - 1)).unlink()
    zarr.consolidate_metadata(str(path))
    return path


def zarr_with_lost_positions(adata: AnnData, folder: Path) -> Path:
    return in_chunks(adata, folder / "positions.zarr", "obsm/spatial")


def zarr_with_lost_names(adata: AnnData, folder: Path) -> Path:
    return in_chunks(adata, folder / "names.zarr", "obs/_index")


def zarr_with_fewer_rows(adata: AnnData, folder: Path) -> Path:
    return in_chunks(adata, folder / "fewer.zarr", "X/indptr")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _, folder: folder / "absent.h5ad", ["There is no", "absent.h5ad", "Check the path"]),
        (truncated, ["cut.h5ad", "truncated", "Copy or download it again"]),
        (text, ["text.h5ad", "not an HDF5 file", "write_h5ad"]),
        (empty, ["empty.h5ad", "not an HDF5 file"]),
        (other_hdf5, ["other.h5ad", "damaged or not AnnData", "write it anew"]),
        (loom, ['suffix ".loom"', ".h5ad", ".zarr", "scanpy"]),
        (plain_directory, ["plain.zarr", "not a zarr store", "nothing in it", "AnnData .zarr"]),
        (other_zarr, ["other.zarr", "damaged or not AnnData"]),
        (
            zarr_with_lost_indices,
            ["indices.zarr", "damaged", "X lacks some of its chunks", "Copy or download"],
        ),
        (zarr_with_lost_counts, ["counts.zarr", "damaged", "layers/counts lacks some"]),
        (zarr_with_lost_rows, ["rows.zarr", "damaged"]),
        (zarr_with_cut_chunk, ["chunk.zarr", "damaged"]),
        (zarr_with_lost_positions, ["positions.zarr", "obsm/spatial lacks some of its chunks"]),
        (zarr_with_lost_names, ["names.zarr", "obs/_index", "lacks some of its chunks"]),
        (zarr_with_fewer_rows, ["fewer.zarr", "damaged"]),
    ],
)
def test_what_cannot_be_read_is_refused_in_plain_words(
    adata: AnnData, tmp_path: Path, spoil: Callable[[AnnData, Path], Path], words: list[str]
) -> None:
    path = spoil(adata, tmp_path)
    before = tree(tmp_path)
    with pytest.raises(InputError) as caught:
        io.read(path)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert all(caught.value.args)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("spoil", [zarr_with_lost_rows, zarr_with_fewer_rows, zarr_with_lost_positions])
def test_damage_is_noticed_where_counts_stay_on_disk(
    adata: AnnData, tmp_path: Path, spoil: Callable[[AnnData, Path], Path]
) -> None:
    """A lost chunk of indptr gave cells without counts, and advice about them."""
    with pytest.raises(InputError, match="is damaged"), io.stored(spoil(adata, tmp_path)):
        pass


@pytest.mark.parametrize("place", [0, 7, -1])
def test_pointers_that_do_not_ascend_are_damage(adata: AnnData, tmp_path: Path, place: int) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["X/indptr"][place] = -3
    for read in (io.read, inspect):
        with pytest.raises(InputError, match="is damaged"):
            read(tmp_path / "a.h5ad")


def test_one_gene_is_no_damage(adata: AnnData, tmp_path: Path) -> None:
    path = written(adata[:, :1].copy(), tmp_path / "one.zarr")
    assert not chunks_of(path / "X" / "indices"), "all are zero, so zarr does not store them"
    assert (adata.X[:, :1] != io.read(path).X).nnz == 0


def test_the_librarys_own_error_is_chained(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        io.read(truncated(adata, tmp_path))
    assert isinstance(caught.value.__cause__, OSError)


def test_permission_is_told_from_damage(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> AnnData:
        raise PermissionError(13, "Permission denied", str(path))

    path = written(adata, tmp_path / "x.h5ad")
    monkeypatch.setattr(anndata.io, "read_h5ad", denied)
    with pytest.raises(InputError, match="permission denied"):
        io.read(path)


# ------------------------------------------------------------------- output_directory


RECORD = '{"schema": 1, "provenance": {}}'


def result(path: Path, force: bool = False, word: str = "new") -> None:
    with io.output_directory(path, force) as folder:
        (folder / "figures").mkdir()
        (folder / "figures" / "domains.png").write_text(word)
        (folder / "run.json").write_text(RECORD)


def test_a_directory_appears_whole_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "out"
    with io.output_directory(final) as folder:
        assert folder.parent == final.parent
        assert os.stat(folder).st_dev == os.stat(tmp_path).st_dev
        (folder / "a.txt").write_text("a")
        assert not final.exists()
    assert tree(tmp_path) == {"deep/out/a.txt": b"a"}


def test_the_new_directory_has_usual_permissions(tmp_path: Path) -> None:
    result(tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def fail_halfway(path: Path, force: bool, error: type[BaseException]) -> None:
    with io.output_directory(path, force) as folder:
        (folder / "half.txt").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_failure_leaves_everything_as_it_was(
    tmp_path: Path, error: type[BaseException], existing: bool
) -> None:
    final = tmp_path / "out"
    if existing:
        result(final, word="old")
    before = tree(tmp_path)
    with pytest.raises(error):
        fail_halfway(final, existing, error)
    assert tree(tmp_path) == before
    assert final.exists() == existing


def test_an_existing_directory_needs_force(tmp_path: Path) -> None:
    result(tmp_path / "out", word="old")
    before, entered = tree(tmp_path), False
    with pytest.raises(OutputError) as caught, io.output_directory(tmp_path / "out"):
        entered = True
    assert not entered, "refused before the work starts"
    assert f'"{tmp_path / "out"}" exists' in caught.value.received
    assert "pass force=True" in caught.value.remedy
    assert tree(tmp_path) == before


def test_force_replaces_a_run_and_an_empty_directory(tmp_path: Path) -> None:
    result(tmp_path / "out", word="old")
    (tmp_path / "empty").mkdir()
    for name in ("out", "empty"):
        result(tmp_path / name, force=True)
    files = {"figures/domains.png": b"new", "run.json": RECORD.encode()}
    assert tree(tmp_path) == {
        f"{name}/{file}": text for name in ("out", "empty") for file, text in files.items()
    }


@pytest.mark.parametrize("force", [False, True])
def test_what_is_not_a_run_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    for name in ("home", "file"):
        with pytest.raises(OutputError, match=name):
            result(tmp_path / name, force=force)
    assert tree(tmp_path) == before


def test_force_on_the_users_files_names_the_missing_mark(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"no run\.json.*remove this one yourself"):
        result(tmp_path, force=True)


def test_a_parent_that_is_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written: .*Choose another place"):
        result(tmp_path / "file" / "out")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_parent_that_is_not_writable_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        result(tmp_path / "locked" / "out")


def write_while_another_does(path: Path) -> None:
    with io.output_directory(path) as folder:
        (folder / "a.txt").write_text("ours")
        path.mkdir()
        (path / "b.txt").write_text("theirs")


def test_a_place_taken_meanwhile_loses_neither_side(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="The result is complete, in") as caught:
        write_while_another_does(tmp_path / "out")
    assert (tmp_path / "out" / "b.txt").read_text() == "theirs"
    kept = Path(caught.value.remedy.split('"')[1])
    assert (kept / "a.txt").read_text() == "ours"


def test_the_old_run_comes_back_if_the_last_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Path) -> None:
        raise OSError(28, "No space left on device")

    result(tmp_path / "out", word="old")
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OutputError, match="No space left"):
        result(tmp_path / "out", force=True)
    assert (tmp_path / "out" / "figures" / "domains.png").read_text() == "old"


def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    result(tmp_path / "real", word="old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    result(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "figures" / "domains.png").read_text() == "new"


# ------------------------------------------------------------------- leftovers

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="starts are read from /proc")
WRITE_FOR_EVER = """
import sys, time
from pathlib import Path
from isovi.data import io, owner

with io.output_directory(Path(sys.argv[1])) as folder, io.replacing(Path(sys.argv[1] + ".txt")) as file:
    (folder / "half.txt").write_text("half")
    file.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@contextmanager
def another_process_writes(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing a directory and a file."""
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


@needs_proc
def test_what_a_living_process_writes_is_kept_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out [1]"
    with another_process_writes(out) as process:
        before = tree(tmp_path)
        assert len(before) == 2
        for path in (out, Path(f"{out}.txt")):
            io.remove_leftovers(path)
        assert tree(tmp_path) == before
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but still in the table
        io.remove_leftovers(out)
        assert [Path(name).name for name in tree(tmp_path)] == [Path(name).name for name in before][-1:]
    io.remove_leftovers(f"{out}.txt")
    assert tree(tmp_path) == {}


@needs_proc
def test_a_number_that_another_process_has_by_now_does_not_keep_a_leftover(tmp_path: Path) -> None:
    machine = owner.this_machine()
    started = owner.started(os.getpid())
    assert started
    (tmp_path / f".out.{machine}-{os.getpid()}-{started}-0123abcd.tmp").mkdir()
    (tmp_path / f".out.{machine}-{os.getpid()}-{started - 1}-0123abcd.tmp").mkdir()
    io.remove_leftovers(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [
        f".out.{machine}-{os.getpid()}-{started}-0123abcd.tmp"
    ]


def test_leftovers_whose_process_is_not_known_are_kept(tmp_path: Path) -> None:
    with another_process_writes(tmp_path / "elsewhere") as process:
        pass
    names = {
        f".out.deadbeef-{process.pid}-1-0123abcd.tmp",  # another machine
        ".out.0123abcd.tmp",  # of 0.1.0
        f".outer.{owner.this_machine()}-{process.pid}-1-0123abcd.tmp",  # another result
        f".out.{owner.this_machine()}-{process.pid}-1-0123abcd.txt",
    }
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / f".out.{owner.this_machine()}-{process.pid}-1-0123abcd.tmp").mkdir()
    io.remove_leftovers(tmp_path / "out")
    kept = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".elsewhere")}
    assert kept == names


# ------------------------------------------------------------------- write_atomic


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr"])
def test_writing_replaces_what_was_there_and_leaves_nothing_else(
    adata: AnnData, tmp_path: Path, name: str
) -> None:
    path = written(adata[:5].copy(), tmp_path / "new" / name)
    written(adata, path)
    assert io.read(path).n_obs == adata.n_obs
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr"])
def test_writing_does_not_change_the_callers_data(adata: AnnData, tmp_path: Path, name: str) -> None:
    adata.obs["donor"] = adata.obs["donor"].astype(object)
    adata.obs.loc["spot3", "donor"] = np.nan
    adata.raw = adata.copy()
    before = adata.obs.copy()
    found = io.read(written(adata, tmp_path / name))
    pd.testing.assert_frame_equal(adata.obs, before)
    assert adata.obs["donor"].dtype == object
    assert found.obs["donor"].isna().sum() == 1
    assert found.raw.shape == adata.shape


def test_views_and_backed_data_can_be_written(adata: AnnData, tmp_path: Path) -> None:
    path = written(adata, tmp_path / "whole.h5ad")
    backed = anndata.read_h5ad(path, backed="r")
    assert io.read(written(backed, tmp_path / "again.h5ad")).shape == adata.shape
    assert Path(backed.filename) == path
    backed.file.close()
    view = adata[::2]
    assert io.read(written(view, tmp_path / "view.zarr")).n_obs == 20
    assert view.is_view


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr"])
def test_what_cannot_be_written_is_left_out_and_said(adata: AnnData, tmp_path: Path, name: str) -> None:
    adata.uns["thing"], adata.uns["other"] = object(), (1, 2)
    with pytest.warns(IsoviWarning, match=r'uns\["thing"\] of type object cannot be written'):
        io.write_atomic(adata, tmp_path / name)
    assert io.read(tmp_path / name).uns["other"].tolist() == [1, 2]


def test_only_results_of_the_same_kind_are_replaced(adata: AnnData, tmp_path: Path) -> None:
    for name in ("x.h5ad", "x.zarr"):
        path = written(adata, tmp_path / name)
        before = tree(tmp_path)
        with pytest.raises(OutputError, match="has no obsm/X_placed: it is no earlier result"):
            io.write_atomic(adata, path, force=True, ours="obsm/X_placed")
        assert tree(tmp_path) == before
        placed = adata.copy()
        placed.obsm["X_placed"] = placed.obsm["spatial"]
        written(placed, path)
        io.write_atomic(placed[:3], path, force=True, ours="obsm/X_placed")
        assert io.read(path).n_obs == 3
    (tmp_path / "y.h5ad").write_text("no HDF5")
    with pytest.raises(OutputError, match="no earlier result"):
        io.write_atomic(adata, tmp_path / "y.h5ad", force=True, ours="obsm/X_placed")


def test_annotation_is_replaced_in_a_file(adata: AnnData, tmp_path: Path) -> None:
    path = written(adata, tmp_path / "x.h5ad")
    adata.obs["new"] = np.arange(adata.n_obs) % 3
    adata.uns["new"] = {"a": 1}
    adata.X = None
    io.write_obs(adata, path)
    found = io.read(path)
    assert found.X is not None and found.uns["new"] == {"a": 1}
    pd.testing.assert_frame_equal(found.obs.astype(str), adata.obs.astype(str))
    assert [file.name for file in tmp_path.iterdir()] == ["x.h5ad"]


def fail_while_replacing(path: Path, error: Exception) -> None:
    with io.replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize(
    "error",
    [TypeError("a bug"), ValueError("a bug"), KeyError("a bug"), InputError("That.", "Rule.", "Remedy.")],
)
def test_what_is_no_error_of_writing_is_raised_as_it_is(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "x.txt").write_text("old")
    with pytest.raises(type(error)) as caught:
        fail_while_replacing(tmp_path / "x.txt", error)
    assert caught.value is error and error.__cause__ is None
    assert tree(tmp_path) == {"x.txt": b"old"}


def test_a_full_disk_is_said_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        fail_while_replacing(tmp_path / "x.txt", OSError(28, "No space left on device"))
    with pytest.raises(OutputError, match="the first reason"):
        fail_while_replacing(tmp_path / "x.txt", OutputError("the first reason.", "Rule.", "Remedy."))
    assert not list(tmp_path.iterdir())


def test_what_anndata_refuses_is_named(tmp_path: Path) -> None:
    error = ValueError("a bad value")
    error.add_note("Error raised while writing key 'mixed' of <class 'h5py.Group'> to /obs")
    with pytest.raises(OutputError, match=r"a bad value; .*mixed.*Convert or remove that value"):
        fail_while_replacing(tmp_path / "x.h5ad", error)


def test_interrupting_a_write_leaves_nothing(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(file: h5py.File, *_: object, **__: object) -> None:
        file.attrs["half"] = True
        raise KeyboardInterrupt

    monkeypatch.setattr(anndata.io, "write_elem", interrupted)
    with pytest.raises(KeyboardInterrupt):
        io.write_atomic(adata, tmp_path / "x.h5ad")
    assert not list(tmp_path.iterdir())


def test_another_suffix_and_unasked_overwriting_are_refused(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.h5ad or \.zarr"):
        io.write_atomic(adata, tmp_path / "x.loom")
    path = written(adata, tmp_path / "x.h5ad")
    with pytest.raises(OutputError, match="exists"):
        io.write_atomic(adata, path, force=False)


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr"])
def test_a_directory_of_the_users_is_not_replaced(adata: AnnData, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists but is not"):
        io.write_atomic(adata, tmp_path / name)
    assert tree(tmp_path) == {f"{name}/mine.txt": b"mine"}


# ------------------------------------------------------------------- JSON and digests


def test_json_holds_numbers_as_numbers_and_nan_as_null(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.json"
    given = {
        "float": np.float32(0.5),
        "int": np.int64(3),
        "bool": np.bool_(True),
        "python": [True, 1, 2.5, None, "λ"],
        "nan": float("nan"),
        "inf": np.inf,
        "array": np.array([[1.0, np.nan]]),
        "scalar": np.array(2),
        "path": Path("a"),
        "set": {"b", "a"},
        "keys": pd.Index(["x"]),
        3: (np.str_("s"),),
    }
    io.write_json(path, given)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "float": 0.5,
        "int": 3,
        "bool": True,
        "python": [True, 1, 2.5, None, "λ"],
        "nan": None,
        "inf": None,
        "array": [[1.0, None]],
        "scalar": 2,
        "path": "a",
        "set": ["a", "b"],
        "keys": ["x"],
        "3": ["s"],
    }
    assert "λ" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path: Path) -> None:
    io.write_json(tmp_path / "x.json", [1])
    with pytest.raises(TypeError, match="object"):
        io.write_json(tmp_path / "x.json", [object()])
    assert tree(tmp_path) == {"x.json": b"[\n  1\n]\n"}
    with pytest.raises(OutputError, match="cannot be written"):
        io.write_json(tmp_path / "x.json" / "y.json", [1])


def test_the_digest_of_a_file_is_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert io.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_digest_of_a_store_depends_on_names_and_contents_only(adata: AnnData, tmp_path: Path) -> None:
    store = written(adata, tmp_path / "x.zarr")
    first = io.sha256(store)
    copy = shutil.copytree(store, tmp_path / "elsewhere.zarr")
    for file in copy.rglob("*"):
        os.utime(file, (0, 0))
    assert io.sha256(str(copy)) == first
    changed = next(file for file in sorted(copy.rglob("*")) if file.is_file() and file.stat().st_size)
    old = changed.read_bytes()
    changed.write_bytes(old + b" ")
    assert io.sha256(copy) != first
    changed.write_bytes(old)
    assert io.sha256(copy) == first


def test_the_digest_of_a_directory_tells_names_of_the_same_order_apart(tmp_path: Path) -> None:
    digests = set()
    for folder, names in (("one", ("a", "b")), ("two", ("a", "c")), ("three", ("ab", "b"))):
        (tmp_path / folder).mkdir()
        for name, text in zip(names, ("first", "second"), strict=True):
            (tmp_path / folder / name).write_text(text)
        digests.add(io.sha256(tmp_path / folder))
    assert len(digests) == 3


def test_errors_are_the_packages_and_the_systems_own() -> None:
    assert issubclass(OutputError, OSError)
    assert issubclass(OutputError, IsoviError)
    assert issubclass(InputError, ValueError)


def test_counts_get_narrow_indices(tmp_path: Path) -> None:
    """Some writers store 64-bit row pointers beside 32-bit columns."""
    counts = sp.random(20, 9, 0.3, format="csr", random_state=0, dtype=np.float32)
    counts.indptr = counts.indptr.astype(np.int64)
    given = anndata.AnnData(counts.copy(), layers={"counts": counts.copy()})
    given.X.indptr = given.layers["counts"].indptr = counts.indptr
    given.write_h5ad(tmp_path / "mixed.h5ad")
    found = io.read(tmp_path / "mixed.h5ad")
    for matrix in (found.X, found.layers["counts"]):
        assert matrix.indptr.dtype == matrix.indices.dtype == np.int32
        np.testing.assert_array_equal(matrix.toarray(), counts.toarray())


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5])
def test_genes_are_taken_in_place(rows: int, density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks, and where cells have no count."""
    monkeypatch.setattr(io, "_BLOCK", rows)
    counts = sparse.random(50, 30, density, format="csr", random_state=0)
    genes = np.arange(30) % 3 > 0
    found = io._of_genes(counts.copy(), genes)
    assert found.has_sorted_indices and (found != counts[:, genes]).nnz == 0
