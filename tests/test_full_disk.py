"""A disk without room: said before long work where it can be known, and otherwise nothing is lost or left."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from anndata import AnnData
from typer.testing import CliRunner

from isovi import OutputError, files
from isovi.cli import app
from isovi.data import io
from isovi.data.outputs import require_room
from isovi.data.pack import pack
from isovi.run import Run, Settings

resource = pytest.importorskip("resource")
SIZES = (700, 2_000, 20_000)  # bytes: fails at the first, at a later write, and when the file is closed


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Writing more fails with EFBIG, as it fails with ENOSPC on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def n_open_files() -> int:
    gc.collect()
    return h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("n_bytes", SIZES)
def test_data_that_does_not_fit_leaves_what_was_there(
    n_bytes: int, suffix: str, tissue: AnnData, tmp_path: Path
) -> None:
    """Faults 12: HDF5 failed again as the file was closed, and once more when Python ended, by a crash."""
    data = tissue.copy()
    data.obsm["noise"] = np.random.default_rng(0).normal(size=(data.n_obs, 50))
    out, n_open = tmp_path / f"out.{suffix}", n_open_files()
    io.write_atomic(tissue, out)
    before = io.sha256(out)
    with files_of_at_most(n_bytes), pytest.raises(OutputError, match="cannot be written: File too large"):
        io.write_atomic(data, out)
    assert [path.name for path in tmp_path.iterdir()] == [out.name] and io.sha256(out) == before
    assert n_open_files() == n_open


def test_a_placement_that_does_not_fit_leaves_the_earlier_one(
    run: Any, tissue_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "placed.h5ad"
    files.place(run.out, tissue_file, out)
    before = io.sha256(out)
    with files_of_at_most(2_000), pytest.raises(OutputError, match="File too large"):
        files.place(run.out, tissue_file, out, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [out.name] and io.sha256(out) == before


def test_a_checkpoint_that_does_not_fit_ends_the_fit_with_a_message(
    tissue_file: Path, tmp_path: Path, fit: Callable
) -> None:
    with files_of_at_most(2_000), pytest.raises(OutputError, match=r"run\.partial\.ckpt\" cannot be written"):
        fit(tissue_file, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_does_not_fit_leaves_the_training_to_resume(
    tissue_file: Path, tmp_path: Path, fit: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(tissue_file, tmp_path / "whole")

    def limited(run: Run, folder: Path) -> None:
        with files_of_at_most(2_000):
            write_into(run, folder)

    write_into = Run.write_into
    monkeypatch.setattr(Run, "write_into", limited)
    with pytest.raises(OutputError, match="File too large"):
        fit(tissue_file, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.partial.ckpt", "whole"]
    monkeypatch.undo()
    again = fit(tissue_file, tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.adata().obsm["X_isovi"], whole.adata().obsm["X_isovi"])


def test_domains_that_do_not_fit_leave_the_trained_run(run: Any, tmp_path: Path) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    read = Run.read(tmp_path / "run")
    read.adata.obs["noise"] = np.random.default_rng(0).normal(size=read.adata.n_obs)
    with files_of_at_most(2_000), pytest.raises(OutputError, match="File too large"):
        read.rewrite()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    Run.read(tmp_path / "run").require_intact()


class Usage(NamedTuple):
    free: int


def test_room_is_looked_for_before_long_work(
    run: Any,
    tissue: AnnData,
    tissue_file: Path,
    tmp_path: Path,
    fit: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = io.stored_bytes(tissue)
    io.write_atomic(tissue, tmp_path / "x.h5ad")
    assert 0 < needed < (tmp_path / "x.h5ad").stat().st_size  # never more than what is written
    require_room(tmp_path / "no" / "such" / "folder", needed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100))
    monkeypatch.setattr("isovi.pipeline.train", lambda *_: pytest.fail("training was reached"))
    monkeypatch.setattr("isovi.tl.SpatialPlacer.fit", lambda *_, **__: pytest.fail("placing was reached"))
    said = r"About \S+ kB will be written to \".*\" and beside it; 100 bytes are free\."
    with pytest.raises(OutputError, match=said):
        fit(tissue_file, tmp_path / "run")
    with pytest.raises(OutputError, match=said):
        files.place(run.out, tissue_file, tmp_path / "placed.h5ad")
    with pytest.raises(OutputError, match=said):
        pack(tissue_file, tmp_path / "packed.zarr")
    words = ["simulate", "--n-obs", "100000", "--n-genes", "30000", "--out", str(tmp_path / "tissue.h5ad")]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 2 and "About 750 MB will be written" in " ".join(ended.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5ad"]


DISK = """
mount -t tmpfs -o size=1m full disk || exit 77
isovi() { "$PYTHON" -c 'from isovi.cli import main; main()' "$@"; }
isovi fit tissue.h5ad --out disk/run --max-epochs 2 --n-latent 3 > first.txt 2>&1; echo $? > first
ls -A disk > kept; mount -o remount,size=64m disk
isovi fit tissue.h5ad --out disk/run --max-epochs 2 --n-latent 3 --resume > second.txt 2>&1; echo $? > second
ls -A disk > left; cp -r disk/run run
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to mount a small disk")
def test_on_a_full_disk_the_training_is_kept_and_resumed_with_more_room(
    tissue: AnnData, tmp_path: Path
) -> None:
    data = tissue.copy()
    data.uns["incompressible"] = np.random.default_rng(0).normal(size=(100_000, 2))  # 1.6 MB
    data.write_h5ad(tmp_path / "tissue.h5ad")
    (tmp_path / "disk").mkdir()
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["unshare", "--map-root-user", "--mount", "bash", "-c", DISK]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, timeout=600)
    if not (tmp_path / "first").exists():
        pytest.skip(f"no disk can be mounted here (exit status {ended.returncode})")
    said = (tmp_path / "first.txt").read_text()
    assert (tmp_path / "first").read_text() == "2\n" and "No space left on device" in said, said
    assert "Traceback" not in said and (tmp_path / "kept").read_text() == "run.partial.ckpt\n"
    assert (tmp_path / "second").read_text() == "0\n", (tmp_path / "second.txt").read_text()
    assert (tmp_path / "left").read_text() == "run\n"
    whole = files.fit(tmp_path / "tissue.h5ad", tmp_path / "whole", Settings(max_epochs=2, n_latent=3))
    assert whole is not None
    again = Run.read(tmp_path / "run").adata.obsm["X_isovi"]
    np.testing.assert_array_equal(again, whole.adata.obsm["X_isovi"])
