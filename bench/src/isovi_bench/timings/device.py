"""Epoch time and memory on a device against scVI, and whether it learns what a CPU learns.

Each fit takes some steps, alternating with scVI's, and the time of an epoch is reckoned from them: one of a
million cells in minibatches of 128 has 7,000. Where there is no CUDA device the same is run in small on the
processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scipy import sparse

import isovi
from isovi.simulate import simulate
from isovi_bench.rendering import markdown
from isovi_bench.resources import processor_name

SECONDS = 300  # after which nothing more is begun; what is left out is named
MODELS: dict[str, Any] = {"scVI": scvi.model.SCVI, "isoVI": isovi.IsoSCVI}
PLACE = "devices"  # name of the marked block of a page that holds the tables
WARM_UP = 10  # steps that are not timed


@dataclass(frozen=True)
class Plan:
    """What is measured on a kind of device.

    Attributes
    ----------
    cells, batches
        Numbers of cells, and sizes of minibatches.
    n_genes, steps, epochs
        Genes; timed steps of each fit; epochs of the fits whose metrics are compared.
    """

    cells: tuple[int, ...] = (4_000, 100_000, 1_000_000)
    batches: tuple[int, ...] = (128, 512, 4096)
    n_genes: int = 2000
    steps: int = 100
    epochs: int = 60


SMALL = Plan(cells=(1_000, 4_000), batches=(128, 512), n_genes=500, steps=20, epochs=5)


class StepClock(Callback):
    """Seconds of one step, the mean of those after the first few; the device is waited for at both ends."""

    def __init__(self) -> None:
        self.began = self.seconds = float("nan")
        self.timed = 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Start after the first steps, and take the time of each later one as the last."""
        if trainer.global_step == WARM_UP:
            self.began = _now()
        elif trainer.global_step > WARM_UP:
            self.timed = trainer.global_step - WARM_UP

    def on_train_end(self, *_: Any) -> None:
        """Take the time."""
        self.seconds = (_now() - self.began) / max(self.timed, 1)


def _now() -> float:
    """Seconds on the clock, once the device is done; on a CPU of processor time, which others do not move."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def device_name() -> str:
    """The card, or the processor where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def tissue(n_obs: int, n_genes: int) -> AnnData:
    """Cells drawn with replacement from a simulated tissue, anywhere in a square; 7 % of counts are > 0."""
    base = simulate("layers", min(n_obs, 4_000), n_genes, seed=0, depth=0.14)
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(base.X)[rng.integers(0, base.n_obs, n_obs)]
    return AnnData(counts, obsm={"spatial": rng.uniform(0, np.sqrt(n_obs), (n_obs, 2))})


def step_of(name: str, adata: AnnData, batch_size: int, steps: int) -> dict[str, float]:
    """Seconds of a step, and the most memory of the device that a fit took, in megabytes (NaN on a CPU)."""
    scvi.settings.seed = 0
    seen, clock = adata.copy(), StepClock()
    MODELS[name].setup_anndata(seen)
    on_card = torch.cuda.is_available()
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    MODELS[name](seen).train(
        1 + (steps + WARM_UP) * batch_size // adata.n_obs * 2,
        max_steps=steps + WARM_UP,
        batch_size=batch_size,
        accelerator="gpu" if on_card else "cpu",
        enable_progress_bar=False,
        callbacks=[clock],
    )
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_card else float("nan")
    return {"seconds": clock.seconds, "megabytes": peak}


def heldout(accelerator: str, seed: int, plan: Plan) -> dict[str, float]:
    """Metrics of validation spots: reconstruction loss in nats per spot, and relative distortion."""
    scvi.settings.seed = seed
    adata = simulate("layers", plan.cells[0], plan.n_genes, seed=0, depth=0.14)
    isovi.IsoSCVI.setup_anndata(adata)
    model = isovi.IsoSCVI(adata)
    model.train(plan.epochs, train_size=0.75, accelerator=accelerator, enable_progress_bar=False)
    loss = model.get_reconstruction_error(indices=model.validation_indices)["reconstruction_loss"]
    outcome = model.training_outcome_
    return {"reconstruction": float(loss), "relative distortion": outcome.validation_distortion}


def measure(plan: Plan | None = None, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure until the time is over.

    Parameters
    ----------
    plan
        What to measure; by default all sizes on a GPU, and a small part of them on a CPU.
    seconds
        After which nothing more is begun.

    Returns
    -------
    ``device``, ``steps`` (a row for each size, with a record for each model), ``metrics`` (by accelerator, a
    record for each seed; empty on a CPU) and ``left_out`` (sizes for which there was no time).
    """
    plan = plan or (Plan() if torch.cuda.is_available() else SMALL)
    deadline = time.monotonic() + seconds
    found: dict[str, Any] = {"device": device_name(), "steps": [], "metrics": {}, "left_out": []}
    if torch.cuda.is_available():  # first, for it takes least of the time and says most
        found["metrics"] = {
            accelerator: [heldout(accelerator, seed, plan) for seed in (0, 1)]
            for accelerator in ("cpu", "gpu")
        }
    for n_obs in plan.cells:
        adata = tissue(n_obs, plan.n_genes)
        for batch_size in plan.batches:
            about = {"cells": n_obs, "batch": batch_size}
            if time.monotonic() > deadline:
                found["left_out"].append(about)
                continue
            taken = {name: step_of(name, adata, batch_size, plan.steps) for name in MODELS}
            density = adata.X.nnz / np.prod(adata.shape)
            found["steps"].append({**about, "genes": plan.n_genes, "density": density} | taken)
    return found


def _rows(steps: Sequence[dict[str, Any]]) -> Iterator[dict[str, str]]:
    for row in steps:
        theirs, ours = (row[name] for name in MODELS)
        per_epoch = 0.9 * row["cells"] / row["batch"]  # a tenth is for validation, by scvi-tools' default
        shown = {
            "cells": f"{row['cells']:,}",
            "genes": f"{row['genes']:,}",
            "minibatch": f"{row['batch']:,}",
            "density": f"{row['density']:.0%}",
            "scVI, s an epoch": f"{theirs['seconds'] * per_epoch:.2f}",
            "isoVI, s an epoch": f"{ours['seconds'] * per_epoch:.2f}",
            "ratio": f"{ours['seconds'] / theirs['seconds']:.2f}",
        }
        if np.isfinite(ours["megabytes"]):
            shown |= {f"{name}, MB": f"{row[name]['megabytes']:.0f}" for name in MODELS}
        yield shown


def page(found: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    parts = [f"Measured on: {found['device']} (PyTorch {torch.__version__}), by `make gpu`."]
    if not found["metrics"]:
        parts.append(
            "**Figures of a GPU are missing**: there was none where this was written, so the script ran in "
            "small on the processor; its seconds are of processor time."
        )
    parts.append(markdown(pd.DataFrame(list(_rows(found["steps"])))))
    if found["metrics"]:
        names = list(found["metrics"]["cpu"][0])
        means = {
            where: ", ".join(f"{name} {mean(one[name] for one in seeds):.4g}" for name in names)
            for where, seeds in found["metrics"].items()
        }
        parts.append(f"Held-out metrics, mean of two seeds: CPU {means['cpu']}; GPU {means['gpu']}.")
    if found["left_out"]:
        sizes = ", ".join(f"{one['cells']:,} cells in {one['batch']:,}" for one in found["left_out"])
        parts.append(f"No time was left for {sizes}.")
    return "\n\n".join(parts) + "\n"
