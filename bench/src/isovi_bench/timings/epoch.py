"""Time of an epoch against plain scVI, side by side, as ratios.

Three comparisons, on simulated counts of several densities and on a real section:

- ``default``: IsoSCVI with its defaults (two layers, thinning, early stopping and so a validation each epoch)
  over scvi-tools' SCVI with its own (one layer, no validation);
- ``equal``: IsoSCVI with the network and the training of that SCVI, the default constraint, speed-ups on;
- ``equal, plain``: the same without speed-ups, which is what the constraint itself costs.

Fits alternate. A time is the median over the timed epochs of all repeats (all but the first and the last of a
fit) of one thread's CPU seconds, which other work on the machine affects less than wall seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback

import isovi
from isovi.data import io
from isovi.errors import InputError
from isovi.model import model, module, speed
from isovi.model.hooks import exceptions_as_they_are
from isovi.pipeline import choose_genes
from isovi.run import Settings
from isovi.simulate import simulate
from isovi.spots import TRAIN, Spots
from isovi_bench.rendering import markdown
from isovi_bench.resources import processor_name
from isovi_bench.rows import Rows
from isovi_bench.timings.partial import counted

N_GENES = 2000
DEPTHS = {0.05: 0.09, 0.10: 0.22, 0.50: 4.3}  # of simulate(), for about these densities at 2,000 genes
BASE = "scvi"
PLACE = "epochs"  # name of the marked block of a page that holds the tables
EQUAL = {"n_layers": 1, "dropout_rate": 0.1}
EQUAL_TRAINING = {"thinning": None, "early_stopping": False}
CONTENDERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    BASE: (scvi.model.SCVI, {}, {}),
    "default": (isovi.IsoSCVI, {}, {}),
    "equal": (isovi.IsoSCVI, EQUAL, EQUAL_TRAINING),
    "equal, plain": (isovi.IsoSCVI, EQUAL, EQUAL_TRAINING),
}
"""Model class, arguments of its network, and arguments of its training."""


class Clock(Callback):
    """CPU and wall seconds of each epoch, with validation and logging."""

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
    """Training with the speed-ups, or without any of them."""
    with ExitStack() as stack:
        if not on:
            stack.enter_context(mock.patch.object(model, "logging_by_epoch", lambda plan: plan))
            stack.enter_context(mock.patch.object(model, "resident", lambda splitter: splitter))
            stack.enter_context(mock.patch.object(module, "sparse_likelihood", lambda px: px))
            stack.enter_context(mock.patch.object(speed, "_is_open", return_value=False))
        yield


def seconds(name: str, adata: AnnData, epochs: int) -> list[tuple[float, float]]:
    """CPU and wall seconds of each epoch of one fit."""
    model_class, network, training = CONTENDERS[name]
    scvi.settings.seed = 0
    torch.set_num_threads(1)  # numba may have changed it
    seen, clock = adata.copy(), Clock()
    model_class.setup_anndata(seen)
    made = model_class(seen, **network)
    with speed_ups(name != "equal, plain"), exceptions_as_they_are():
        made.train(epochs + 2, accelerator="cpu", enable_progress_bar=False, callbacks=[clock], **training)
    return clock.epochs()


def measure(
    section: Path | None = None,
    n_obs: int = 3600,
    epochs: int = 2,
    repeats: int = 5,
    contenders: Sequence[str] = (),
    *,
    rows: Rows,
) -> list[dict[str, Any]]:
    """Compare on every data set; what is in the rows already is not measured again.

    Parameters
    ----------
    section
        File of a real section, beside the simulated tissues.
    n_obs
        Spots of a simulated tissue.
    epochs
        Timed epochs of each fit.
    repeats
        Fits of each contender.
    contenders
        Keys of :data:`CONTENDERS`, compared with scVI; all by default.
    rows
        Take the times of each alternation.

    Returns
    -------
    A row for each data set, see :func:`compare`.

    Raises
    ------
    InputError
        If a contender is not known.
    """
    names, found = chosen(contenders), []
    for name, adata in list(tissues(section, n_obs)):  # all are read before anything is measured
        done = [row for row in rows.read() if row.get("data") == name and "times" in row]
        about = {"data": name, "n_obs": adata.n_obs, "n_genes": adata.n_vars}
        about["density"] = adata.X.nnz / np.prod(adata.shape)
        for _ in counted(range(len(done), repeats), f"Epochs of {name}"):
            done.append({**about, "times": {key: seconds(key, adata, epochs) for key in names}})
            rows.add(done[-1:])
        found.append(compare(done))
    return found


def compare(alternations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row for a data set: medians of each contender over all timed epochs, and their ratios to scVI."""
    row = {key: value for key, value in alternations[0].items() if key != "times"}
    times = {
        key: [one for row in alternations for one in row["times"][key]] for key in alternations[0]["times"]
    }
    for clock, which in (("cpu", 0), ("wall", 1)):
        medians = {key: statistics.median(epoch[which] for epoch in epochs) for key, epochs in times.items()}
        row[f"{clock}_seconds"] = medians
        row[f"{clock}_ratio"] = {key: value / medians[BASE] for key, value in medians.items()}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: scVI's seconds an epoch, and the ratios to them; then the processor."""
    ratios = markdown(pd.DataFrame([_shown(row) for row in rows]))
    return f"{ratios}\n\nMedians of alternating fits on one thread of: {processor_name()}"


def _shown(row: dict[str, Any]) -> dict[str, str]:
    ratios = {
        f"{name}{suffix}": f"{value:.2f}"
        for clock, suffix in (("cpu_ratio", ""), ("wall_ratio", " (wall)"))
        for name, value in row[clock].items()
        if name != BASE
    }
    about = {"data": row["data"], "spots": str(row["n_obs"]), "density": f"{row['density']:.1%}"}
    return about | {"scVI, CPU s an epoch": f"{row['cpu_seconds'][BASE]:.3f}"} | ratios


def tissues(section: Path | None, n_obs: int) -> Iterator[tuple[str, AnnData]]:
    """Name and counts of each data set: simulated tissues of three densities, and a real section if given."""
    for share, depth in DEPTHS.items():
        yield f"simulated, {share:.0%}", simulate("layers", n_obs, N_GENES, seed=0, depth=depth)
    if section is not None:
        adata = io.read(section)
        every = Spots(adata.obsm["spatial"], split=np.full(adata.n_obs, TRAIN, dtype="<U10"))
        genes = choose_genes(adata, every, Settings(n_top_genes=N_GENES))
        yield section.stem, adata[:, genes].copy()


def chosen(contenders: Sequence[str]) -> list[str]:
    """The contenders of these names after scVI, which all are compared with; every one if none is named.

    Raises
    ------
    InputError
        If a name is not known.
    """
    if unknown := sorted(set(contenders) - set(CONTENDERS)):
        raise InputError(
            f"contenders={', '.join(unknown)}.",
            f"The contenders are {', '.join(CONTENDERS)}.",
            "Name some of these.",
        )
    return list(dict.fromkeys([BASE, *(contenders or CONTENDERS)]))
