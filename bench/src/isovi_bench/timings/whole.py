"""Time of a whole ``isovi fit`` of a section against that of plain scVI's training, and what both reach.

``isovi fit`` reads the file, chooses genes, trains, finds domains, evaluates, draws and writes its report;
``scvi.model.SCVI(...).train()`` with its own defaults gets the same genes and the same spots to train on. The
likelihood is that of the spots that neither saw.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch

from isovi import files
from isovi.model.hooks import exceptions_as_they_are
from isovi.report.write import attempt
from isovi.run import Run, Settings
from isovi.spots import HELDOUT
from isovi.tl.evaluate import evaluate_fit
from isovi_bench.rendering import markdown
from isovi_bench.rows import Rows
from isovi_bench.timings.partial import counted

OURS, SCVI = "isovi fit", "SCVI.train()"
LOSS = "reconstruction"


def measure(
    section: Path, repeats: int = 1, max_epochs: int | None = None, *, rows: Rows
) -> list[dict[str, Any]]:
    """Fit a section with both, in turn; what is in the rows already is not measured again.

    Parameters
    ----------
    section
        File of the section.
    repeats
        Fits with each, of which each has another seed; a fit takes minutes.
    max_epochs
        Of both; by default what each does by itself.
    rows
        Take the two fits of each seed.

    Returns
    -------
    A row for each fit: ``data``, ``n_obs``, ``n_genes``, ``fit``, ``seed``, ``epochs``, ``cpu_seconds``,
    ``wall_seconds`` and the held-out ``reconstruction`` in nats per spot.
    """
    done = [row for row in rows.read() if "fit" in row]
    seeds = [seed for seed in range(repeats) if seed not in {row["seed"] for row in done}]
    for seed in counted(seeds, f"Whole fits of {section.stem}"):
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder, _timed() as ours:
            out = Path(folder) / "run"
            run = files.fit(section, out, Settings(max_epochs=max_epochs, seed=seed))
            assert run is not None, "there is one process"
            attempt(out)
        found = run.metrics
        about = {"data": section.stem, "n_obs": found["n_obs"], "n_genes": found["n_genes"], "seed": seed}
        both = [
            {**about, "fit": OURS, "epochs": found["epochs"], **ours, LOSS: found[HELDOUT][LOSS]},
            {**about, "fit": SCVI, **_scvi(run, max_epochs)},
        ]
        rows.add(both)
        done += both
    return done


def _scvi(run: Run, max_epochs: int | None) -> dict[str, Any]:
    """The same for plain scVI on the genes and the split of a run."""
    adata, heldout = run.model_data(), run.split == HELDOUT
    scvi.settings.seed = run.settings.seed
    parts = [np.flatnonzero(~heldout), np.flatnonzero(heldout)]
    with _timed() as theirs, exceptions_as_they_are():
        scvi.model.SCVI.setup_anndata(adata)
        model = scvi.model.SCVI(adata)
        model.train(
            max_epochs,
            accelerator="cpu",
            enable_progress_bar=False,
            datasplitter_kwargs={"external_indexing": parts},
        )
    loss = evaluate_fit(model, adata, run.spots, seed=run.settings.seed)[HELDOUT][LOSS]
    return {"epochs": len(model.history_["elbo_train"]), **theirs, LOSS: loss}


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds of the block, in what it yields."""
    found: dict[str, float] = {}
    cpu, wall = time.process_time(), time.perf_counter()
    yield found
    found |= {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: medians over the fits of each kind, and the ratio of isoVI's to scVI's."""
    frame = pd.DataFrame(rows)
    parts = []
    for name, of in frame.groupby("data", sort=False):
        medians = of.groupby("fit")[["epochs", "cpu_seconds", "wall_seconds", LOSS]].median()
        ours, theirs = medians.loc[OURS], medians.loc[SCVI]
        about: dict[str, Any] = {"data": name, "spots": of["n_obs"].iloc[0], "genes": of["n_genes"].iloc[0]}
        for clock in ("cpu", "wall"):
            pair = [one[f"{clock}_seconds"] for one in (ours, theirs)]
            about[f"{clock.replace('cpu', 'CPU')} s"] = " / ".join(f"{one:.0f}" for one in pair)
            about[f"ratio{'' if clock == 'cpu' else ' (wall)'}"] = f"{pair[0] / pair[1]:.2f}"
        about["held-out likelihood loss"] = f"{ours[LOSS]:.1f} / {theirs[LOSS]:.1f}"
        about["epochs"] = f"{ours['epochs']:.0f} / {theirs['epochs']:.0f}"
        parts.append(about)
    repeats = statistics.median(frame.groupby(["data", "fit"]).size())
    return (
        f"{markdown(pd.DataFrame(parts).astype(str))}\n\nWhole `{OURS}`, with domains, metrics, plots and "
        f"report, / `scvi.model.{SCVI}` by its defaults on the same genes and spots; fits of each: "
        f"{repeats:.0f}"
    )
