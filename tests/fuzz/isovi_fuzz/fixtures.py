"""What damages and kills start from: small inputs, runs, a packed store and a checkpoint, made once."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from isovi_fuzz.inputs import FIT
from isovi_fuzz.process import call, command, isovi

FIT_RUN = ("--section-key", "section", "--label-key", "domain", "--holdout", "0.25", "--n-latent", "3")
ALL = ("run", "plain", "packed.zarr", "packed_run", "unfinished", "tuned.partial.trials")
EPOCHS = ("--max-epochs", "3")
TUNE = ("--targets", "0.2", "--n-latents", "3", "--pairs", "all,knn:3", "--max-epochs", "1")


def make(folder: Path, wanted: tuple[str, ...] = ALL) -> Path:
    """Make what is not there yet.

    Returns
    -------
    The folder, with ``tissue.h5ad``, ``tissue.zarr`` and ``query.h5ad``, and what is wanted: ``run``,
    ``plain``, ``packed.zarr``, ``packed_run``, and ``unfinished`` with the checkpoint of a run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "query.h5ad").exists():
        _do(call(write_inputs, str(folder), folder=folder, timeout=300))
    commands: dict[str, list[tuple[Any, ...]]] = {
        "run": [("fit", "tissue.h5ad", "--out", "run", *FIT_RUN, *EPOCHS)],
        "plain": [("fit", "tissue.h5ad", "--out", "plain", "--plain", *FIT_RUN, *EPOCHS)],
        "packed.zarr": [("pack", "tissue.h5ad", "packed.zarr", "--section-key", "section")],
        "packed_run": [("fit", "packed.zarr", "--out", "packed_run", *FIT_RUN, *EPOCHS)],
    }
    for name, words in commands.items():
        if name in wanted and not (folder / name).exists():
            for one in words:
                _do(isovi(*one, folder=folder))
    if "unfinished" in wanted and not (folder / "unfinished").exists():
        (folder / "unfinished").mkdir()
        words = ("fit", "tissue.h5ad", "--out", "unfinished/run", *FIT_RUN, *EPOCHS)
        call(interrupted, *words, folder=folder, timeout=300)
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        for left in (folder / "unfinished").glob(".*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not list((folder / "unfinished").iterdir()):
            raise RuntimeError("The interrupted fit left no checkpoint")
    if "tuned.partial.trials" in wanted and not (folder / "tuned.partial.trials").exists():
        _make_unfinished_search(folder)
    return folder


def _make_unfinished_search(folder: Path) -> None:
    """``tuned.partial.trials``: one trial of two is done."""
    words = ("tune", "tissue.h5ad", "--out", "tuned", *TUNE)
    call(interrupted_search, *words, folder=folder, timeout=600)
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    for left in folder.glob(".tuned*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def interrupted_search(*words: str) -> None:
    """The search, killed when it is about to write its table."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith("tune.csv"):
            os.killpg(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    command(*words)


def write_inputs(folder: str) -> None:
    """A tissue of two sections as ``.h5ad`` and ``.zarr``, and cells to place."""
    import numpy as np

    from isovi_fuzz.inputs import tissue

    adata = tissue(np.random.default_rng(7))
    adata.obs["section"] = np.where(np.arange(adata.n_obs) < adata.n_obs // 2, "a", "b")
    adata.write_h5ad(Path(folder) / "tissue.h5ad")
    adata.write_zarr(Path(folder) / "tissue.zarr")
    query = adata[:20].copy()
    del query.obsm["spatial"]
    query.write_h5ad(Path(folder) / "query.h5ad")


def interrupted(*words: str) -> None:
    """The command, killed when it is about to replace its first checkpoint by a second."""
    seen = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(arguments[1]).endswith(".ckpt"):
            seen.append(arguments)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    command(*words)


def _do(ended: Any) -> None:
    if ended.code != 0:
        raise RuntimeError(f"What the fuzzer starts from could not be made:\n{ended.text}")


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy2(source, target)


__all__ = ["EPOCHS", "FIT", "FIT_RUN", "TUNE", "copy", "make"]
