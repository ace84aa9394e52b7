"""Peak memory and throughput of a fit, in memory and from a packed store, from 10,000 to a million cells.

Every fit is a process of its own, whose largest resident memory is read at its end. Training takes one epoch
of at most so many minibatches; memory does not depend on how many.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import lightning.pytorch as pl
import numpy as np
import scvi
import torch
from matplotlib.figure import Figure

import isovi
from isovi.data import io, pack
from isovi.graph import parse_pairs
from isovi_bench.rendering import markdown
from isovi_bench.resources import in_fresh_process, peak_memory
from isovi_bench.rows import Rows
from isovi_bench.timings.cells import positions, write
from isovi_bench.timings.partial import counted

SIZES = (10_000, 100_000, 1_000_000)
MODES = {"memory": "in memory", "disk": "packed, on disk"}
N_GENES = 500
STEPS = 1500
RESULTS = "results.jsonl"


def measure(
    out: Path,
    sizes: Sequence[int] = SIZES,
    section: Path | None = None,
    pairs: Sequence[str] = ("all",),
    steps: int = STEPS,
    repeats: int = 1,
) -> list[dict[str, Any]]:
    """Run the fits that are not in the folder yet; the modes alternate.

    Parameters
    ----------
    out
        Folder for the data, its packed stores and the results.
    sizes
        Cells of the simulated tissues.
    section
        File whose positions get simulated counts as well.
    pairs
        Kinds of pairs, as the command line writes them.
    steps
        Minibatches of a fit, at most.
    repeats
        Fits of each kind.

    Returns
    -------
    A row for each fit.
    """
    rows = Rows(out / RESULTS)
    done = [(row["data"], row["mode"], row["pairs"]) for row in rows.read()]
    inputs = _inputs(out, sizes, section)
    asked = itertools.product(range(repeats), inputs, pairs, MODES)
    left = [one for one in asked if done.count((one[1], one[3], one[2])) <= one[0]]
    for _, name, kind, mode in counted(left, "Fits"):
        found = in_fresh_process(fit, inputs[name], mode, kind, steps)
        rows.add([{"data": name, "mode": mode, "pairs": kind, **found}])
    return rows.read()


def _inputs(out: Path, sizes: Sequence[int], section: Path | None) -> dict[str, Path]:
    """Simulated counts on random and on real positions, written and packed where they are missing."""
    out.mkdir(parents=True, exist_ok=True)
    found = {f"{n:,} cells": _prepared(out / f"{n}.h5ad", None, n) for n in sizes}
    if section is not None:
        found[f"positions of {section.stem}"] = _prepared(out / section.name, section, 0)
    return found


def _prepared(file: Path, section: Path | None, n_obs: int) -> Path:
    """The .h5ad file, with the packed store beside it."""
    if not file.exists():
        known = positions(n_obs, np.random.default_rng(0)) if section is None else _positions_of(section)
        write(file, known, N_GENES)
    if not file.with_suffix(".zarr").exists():
        pack.pack(file, file.with_suffix(".zarr"))
    return file


def _positions_of(section: Path) -> np.ndarray:
    return np.asarray(anndata.io.read_h5ad(section).obsm["spatial"], dtype=float)


class Clock(pl.Callback):
    """Seconds from the start of the epoch to its last training step."""

    def on_train_epoch_start(self, *_: Any) -> None:
        """Note the time."""
        self.wall, self.cpu, self.cells = time.perf_counter(), time.process_time(), 0

    def on_train_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *__: Any) -> None:
        """Count the cells of a minibatch."""
        self.cells += len(batch["X"])
        self.seconds = time.perf_counter() - self.wall
        self.cpu_seconds = time.process_time() - self.cpu


def fit(file: Path, mode: str, pairs: str, steps: int) -> dict[str, Any]:
    """Read, train and encode; memory and speed of this process.

    Parameters
    ----------
    file
        ``.h5ad`` with its packed store beside it.
    mode
        A key of :data:`MODES`.
    pairs
        Kind of pairs, as the command line writes it.
    steps
        Minibatches to train on, at most.
    """
    torch.set_num_threads(1)
    scvi.settings.seed, scvi.settings.verbosity = 0, 40
    imports = peak_memory()
    adata = io.read(file) if mode == "memory" else pack.open_packed(file.with_suffix(".zarr"))
    reading, clock, started = peak_memory(), Clock(), time.perf_counter()
    isovi.IsoSCVI.setup_anndata(adata)
    model = isovi.IsoSCVI(adata, pairs=parse_pairs(pairs))
    setup = time.perf_counter() - started
    model.train(
        1,
        enable_progress_bar=False,
        limit_train_batches=steps,
        limit_val_batches=max(1, steps // 10),
        callbacks=[clock],
        accelerator="cpu",
    )
    latent = model.get_latent_representation()
    return {
        "n_obs": adata.n_obs,
        "imports_mb": imports,
        "reading_mb": reading,
        "peak_mb": peak_memory(),
        "setup_seconds": setup,
        "cells_per_second": clock.cells / clock.seconds,
        "cells_per_cpu_second": clock.cells / clock.cpu_seconds,
        "seconds": time.perf_counter() - started,
        "finite": bool(np.isfinite(latent).all()),
    }


def table(out: Path) -> str:
    """Markdown: medians over repeats."""
    frame = Rows(out / RESULTS).frame().groupby(["data", "pairs", "mode"], sort=False)
    columns = ["n_obs", "imports_mb", "reading_mb", "peak_mb", "cells_per_second", "cells_per_cpu_second"]
    return markdown(frame[[*columns, "seconds"]].median().round(0).astype(int).reset_index())


def draw(out: Path, path: Path) -> None:
    """Plot peak memory over the number of cells.

    Parameters
    ----------
    out
        Folder of the results.
    path
        Picture to write.
    """
    frame = Rows(out / RESULTS).frame()
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for mode, part in frame[frame["pairs"] == "all"].groupby("mode", sort=False):
        median = part.groupby("n_obs")["peak_mb"].median() / 1024
        axes.plot(median.index, median, "o-", label=MODES[str(mode)])
    axes.set(xlabel="cells (500 genes)", ylabel="largest resident memory (GiB)", xscale="log", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
