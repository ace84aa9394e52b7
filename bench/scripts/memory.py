"""Peak memory and throughput of a fit, in memory and from a packed store, from 10,000 to a million cells.

Run ``python bench/scripts/memory.py --out bench/results/memory``. Every fit is a process of its own, whose
largest resident memory is read at its end; it is a row of ``results.jsonl`` and is not repeated when the
command is run again. Training takes one epoch of at most ``--steps`` minibatches; memory does not depend on
how many.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (10_000, 100_000, 1_000_000)
MERFISH = "coords_only_merfish_moffitt_73k"
MODES = ("memory", "disk")
N_GENES = 500


def main() -> None:
    """Run what is missing, then print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/memory"))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--pairs", nargs="+", default=["all"])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", nargs=3, metavar=("FILE", "MODE", "PAIRS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(fit(Path(given.one[0]), *given.one[1:], given.steps)))
        return
    given.out.mkdir(parents=True, exist_ok=True)
    run_missing(given)
    rows = read(given.out)
    (given.out / "memory.md").write_text(table(rows))
    draw(rows, given.out / "memory.png")
    print(table(rows))


def read(out: Path) -> list[dict[str, Any]]:
    """Rows so far."""
    results = out / "results.jsonl"
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def run_missing(given: argparse.Namespace) -> None:
    """Run and append every row that is not there yet; the modes alternate."""
    done = [(row["data"], row["mode"], row["pairs"]) for row in read(given.out)]
    for repeat in range(given.repeats):
        for name, file in inputs(given):
            for pairs in given.pairs:
                for mode in MODES:
                    if done.count((name, mode, pairs)) <= repeat:
                        append(
                            given.out,
                            {
                                "data": name,
                                "mode": mode,
                                "pairs": pairs,
                                **measure(file, mode, pairs, given.steps),
                            },
                        )


def append(out: Path, row: dict[str, Any]) -> None:
    """Add a row to the results."""
    with (out / "results.jsonl").open("a") as results:
        results.write(json.dumps(row) + "\n")


def inputs(given: argparse.Namespace) -> list[tuple[str, Path]]:
    """Simulated counts on drawn and on real positions, written and packed where they are missing."""
    from cells import positions

    drawn = {f"{n} cells": lambda n=n: positions(n, np.random.default_rng(0)) for n in given.sizes}
    real = given.data / f"{MERFISH}.h5ad"
    if real.exists():
        drawn["73,655 MERFISH positions"] = lambda: merfish(real)
    return [(name, prepare(given.out, name, make)) for name, make in drawn.items()]


def merfish(path: Path) -> np.ndarray:
    """The positions of real cells."""
    import anndata

    return np.asarray(anndata.io.read_h5ad(path).obsm["spatial"], dtype=float)


def prepare(out: Path, name: str, make: Any) -> Path:
    """The .h5ad file, with the packed store beside it."""
    from cells import write

    file = out / f"{name.split()[0].replace(',', '')}.h5ad"
    if not file.exists():
        write(file, make(), N_GENES)
    store = file.with_suffix(".zarr")
    if not store.exists():
        packed = subprocess.run(
            [sys.executable, "-m", "isovi.cli", "pack", file, store],
            check=True,
            capture_output=True,
            text=True,
        )
        print(packed.stdout)
    return file


def measure(file: Path, mode: str, pairs: str, steps: int) -> dict[str, Any]:
    """One fit in a process of its own."""
    command = [sys.executable, __file__, "--steps", str(steps), "--one", str(file), mode, pairs]
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    )


def fit(file: Path, mode: str, pairs: str, steps: int) -> dict[str, Any]:
    """Read, train and infer; figures of this process."""
    import lightning.pytorch as pl
    import scvi
    import torch

    import isovi
    from isovi.data import io, pack
    from isovi.graph import parse_pairs

    class Clock(pl.Callback):
        """Seconds from the start of the epoch to its last training step."""

        def on_train_epoch_start(self, *_: Any) -> None:
            self.wall, self.cpu, self.cells = time.perf_counter(), time.process_time(), 0

        def on_train_batch_end(
            self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *__: Any
        ) -> None:
            self.cells += len(batch["X"])
            self.seconds = time.perf_counter() - self.wall
            self.cpu_seconds = time.process_time() - self.cpu

    torch.set_num_threads(1)
    scvi.settings.seed, scvi.settings.verbosity = 0, 40
    imports = peak()
    adata = io.read(file) if mode == "memory" else pack.open_packed(file.with_suffix(".zarr"))
    stored = adata.X if mode == "memory" else None
    counts = 0 if stored is None else stored.data.nbytes + stored.indices.nbytes + stored.indptr.nbytes
    reading, clock, started = peak(), Clock(), time.perf_counter()
    isovi.IsoSCVI.setup_anndata(adata)
    model = isovi.IsoSCVI(adata, pairs=parse_pairs(pairs))
    setup = time.perf_counter() - started
    model.train(
        1,
        enable_progress_bar=False,
        limit_train_batches=steps,
        limit_val_batches=steps // 10,
        callbacks=[clock],
        accelerator="cpu",
    )
    latent = model.get_latent_representation()
    return {
        "n_obs": adata.n_obs,
        "counts_mb": counts / 2**20,
        "imports_mb": imports,
        "reading_mb": reading,
        "peak_mb": peak(),
        "setup_seconds": setup,
        "cells_per_second": clock.cells / clock.seconds,
        "cells_per_cpu_second": clock.cells / clock.cpu_seconds,
        "seconds": time.perf_counter() - started,
        "finite": bool(np.isfinite(latent).all()),
    }


def peak() -> float:
    """Largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: medians over repeats."""
    import pandas as pd

    frame = pd.DataFrame(rows).groupby(["data", "pairs", "mode"], sort=False).median(numeric_only=True)
    columns = ["imports_mb", "reading_mb", "peak_mb", "cells_per_second", "cells_per_cpu_second", "seconds"]
    return frame[["n_obs", *columns]].round(0).astype(int).to_markdown() + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak memory over the number of cells."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for mode, part in pd.DataFrame(rows).query("pairs == 'all'").groupby("mode", sort=False):
        median = part.groupby("n_obs")["peak_mb"].median() / 1024
        axes.plot(median.index, median, "o-", label="in memory" if mode == "memory" else "packed, on disk")
    axes.set(xlabel="cells (500 genes)", ylabel="largest resident memory (GiB)", xscale="log", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
