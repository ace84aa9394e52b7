"""Time of an epoch against plain scVI, side by side in one run, as ratios.

Run ``make bench``. Three comparisons, on simulated counts of several densities and on a real section where
one lies in ``../shared/data``:

- ``default``: IsoSCVI as it is shipped (two layers, thinning, early stopping and so a validation each epoch)
  over scvi-tools' SCVI at its own defaults (one layer, no validation);
- ``equal``: IsoSCVI with the network and the training of that SCVI, the default constraint, speed-ups on;
- ``equal, plain``: the same with every speed-up off: what the constraint itself costs.

Fits alternate. A figure is the median over the timed epochs of all repeats (all but the first and the last of
a fit) of one thread's CPU seconds, ``time.process_time``, which other work on the machine enters less than
wall seconds; those are beside them.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import anndata
import numpy as np
import scvi
import torch
from isovi.workflow.prepare import select_genes
from lightning.pytorch.callbacks import Callback

import isovi
from isovi.model import model, module, speed
from isovi.simulate import simulate

DEPTHS = {0.05: 0.09, 0.10: 0.22, 0.50: 4.3}  # of simulate(), for about these densities at 2,000 genes
EQUAL = {"n_layers": 1, "dropout_rate": 0.1}
EQUAL_TRAINING = {"thinning": None, "early_stopping": False}
CONTENDERS: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "scvi": (scvi.model.SCVI, {}, {}),
    "default": (isovi.IsoSCVI, {}, {}),
    "equal": (isovi.IsoSCVI, EQUAL, EQUAL_TRAINING),
    "equal, plain": (isovi.IsoSCVI, EQUAL, EQUAL_TRAINING),
}
LIMITS = {"default": {0.05: 0.60, 0.10: 0.60, 0.50: 1.05}, "equal, plain": dict.fromkeys(DEPTHS, 1.05)}


class Clock(Callback):
    """CPU and wall seconds of each epoch, validation and logging included."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Note the time."""
        self.ticks.append((time.process_time(), time.perf_counter()))

    def epochs(self) -> list[tuple[float, float]]:
        """Seconds of each epoch but the first and the last."""
        return [tuple(row) for row in np.diff(self.ticks, axis=0)[1:]]


@contextmanager
def speed_ups(on: bool) -> Iterator[None]:
    """Training with the speed-ups, or with none of them."""
    with ExitStack() as stack:
        if not on:
            stack.enter_context(mock.patch.object(model, "logging_by_epoch", lambda plan: plan))
            stack.enter_context(mock.patch.object(model, "resident", lambda splitter: splitter))
            stack.enter_context(mock.patch.object(module, "sparse_likelihood", lambda px: px))
            stack.enter_context(mock.patch.object(speed, "_is_open", return_value=False))
        yield


def load(path: Path) -> anndata.AnnData:
    """The section, with 2,000 highly variable genes."""
    adata = anndata.read_h5ad(path)
    return adata[:, select_genes(adata, np.ones(adata.n_obs, dtype=bool), n_top_genes=2000)].copy()


def density(adata: anndata.AnnData) -> float:
    """Share of the counts that are not zero."""
    return adata.X.nnz / np.prod(adata.shape)


def seconds(name: str, adata: anndata.AnnData, epochs: int) -> list[tuple[float, float]]:
    """CPU and wall seconds of each epoch of one fit."""
    model_class, network, training = CONTENDERS[name]
    scvi.settings.seed = 0
    torch.set_num_threads(1)  # numba may have changed it on the way here
    seen, clock = adata.copy(), Clock()
    model_class.setup_anndata(seen)
    made = model_class(seen, **network)
    with speed_ups(name != "equal, plain"):
        made.train(epochs + 2, accelerator="cpu", enable_progress_bar=False, callbacks=[clock], **training)
    return clock.epochs()


def compare(
    name: str,
    adata: anndata.AnnData,
    epochs: int,
    repeats: int,
    contenders: Sequence[str] = tuple(CONTENDERS),
) -> dict[str, Any]:
    """One row: medians of each contender, and their ratios to scVI."""
    times: dict[str, list[tuple[float, float]]] = {contender: [] for contender in contenders}
    for _ in range(repeats):
        for contender in contenders:
            times[contender] += seconds(contender, adata, epochs)
    row: dict[str, Any] = {
        "data": name,
        "n_obs": adata.n_obs,
        "n_genes": adata.n_vars,
        "density": density(adata),
    }
    for clock, which in (("cpu", 0), ("wall", 1)):
        medians = {key: statistics.median(epoch[which] for epoch in epochs) for key, epochs in times.items()}
        row[f"{clock}_seconds"] = medians
        row[f"{clock}_ratio"] = {key: value / medians["scvi"] for key, value in medians.items()}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: scVI's seconds an epoch, and the ratios to them."""
    names = [name for name in rows[0]["cpu_ratio"] if name != "scvi"]
    head = ["data", "spots", "density", "scVI, CPU s an epoch", *names, *(f"{name} (wall)" for name in names)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [row["data"], str(row["n_obs"]), f"{row['density']:.1%}", f"{row['cpu_seconds']['scvi']:.3f}"]
        cells += [f"{row[clock][name]:.2f}" for clock in ("cpu_ratio", "wall_ratio") for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/dlpfc_151673.h5ad"))
    parser.add_argument("--n-obs", type=int, default=3600, help="spots of the simulated tissue")
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs of each fit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--out", type=Path, default=Path("bench/results/speed.json"))
    given = parser.parse_args()
    quiet()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, adata in tissues(given.data, given.n_obs):
        rows.append(
            compare(
                name, adata, given.epochs, given.repeats, list(dict.fromkeys(["scvi", *given.contenders]))
            )
        )
        given.out.write_text(
            json.dumps({"rows": rows, "limits": LIMITS, "torch": torch.__version__}, indent=2)
        )
        given.out.with_suffix(".md").write_text(table(rows) + "\n")
    print(table(rows))


def tissues(path: Path, n_obs: int) -> Iterator[tuple[str, anndata.AnnData]]:
    """Name and counts of each comparison."""
    for share, depth in DEPTHS.items():
        yield f"simulated, {share:.0%}", simulate("layers", n_obs, 2000, seed=0, depth=depth)
    if path.exists():
        yield path.stem, load(path)


def quiet() -> None:
    """Leave the console to the table."""
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
