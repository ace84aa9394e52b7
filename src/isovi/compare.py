"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from isovi import pl, tl
from isovi.errors import InputError
from isovi.run import LATENT_KEY, Run
from isovi.spots import HELDOUT
from isovi.verdict import verdict


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """Metrics of several runs: on held-out spots, or on all if a run held out none.

    Parameters
    ----------
    runs
        Runs, such as ``Run.read(folder)``.

    Returns
    -------
    A row for each metric of ``isovi.tl.METRICS`` that all runs have, under its name and unit, and a
    column for each run. ``attrs["spots"]`` says which spots, ``attrs["verdicts"]`` has the
    verdict on each run whose data can be read.

    Raises
    ------
    InputError
        If a run is given twice.
    """
    part = HELDOUT if all(HELDOUT in run.metrics for run in runs) else "all"
    for run in runs if part == "all" else ():
        if part not in run.metrics:
            run.require_complete()
    found = dict(zip(_names(runs), (run.metrics[part] for run in runs), strict=True))
    known = [m for name, m in tl.METRICS.items() if all(name in metrics for metrics in found.values())]
    values = {run: [metrics[m.name] for m in known] for run, metrics in found.items()}
    table = pd.DataFrame(values, index=pd.Index([m.title for m in known], name="metric"), dtype=float)
    table.attrs["spots"] = "held-out" if part == HELDOUT else "all"
    table.attrs["verdicts"] = verdicts = {}
    for name, run in zip(found, runs, strict=True):
        with suppress(InputError):  # without its data, which metrics do not need, there is no verdict
            verdicts[name] = verdict(run).headline() if run.is_complete else "not complete"
    return table


def draw(runs: Sequence[Run], save: str | Path) -> None:
    """Draw the tissue and each run's latent representation of the held-out spots, in the same colours.

    Parameters
    ----------
    runs
        Runs of the same file with the same split.
    save
        Plot to write.

    Raises
    ------
    InputError
        If the runs held out different spots, or a run is given twice.
    """
    names = _names(runs)
    shown = [_shown(run) for run in runs]
    if any(not spots.equals(shown[0]) for spots in shown):
        raise InputError(
            f"The runs {', '.join(names)} held out different spots.",
            "The plot compares latent representations of the same spots.",
            "Give runs of one file with the same holdout= and seed=.",
        )
    latents = {
        f"{name}: {run.settings.distortion or 'backbone'}": np.asarray(run.adata[shown[0]].obsm[LATENT_KEY])
        for name, run in zip(names, runs, strict=True)
    }
    positions = runs[0].adata[shown[0]].obsm[runs[0].settings.spatial_key]
    pl.latent_map(latents, positions, title="tissue, held-out spots", save=save)


def _names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: the last part of its folder where that tells them apart, else the whole."""
    names = [str(run.folder or run.id) for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"{', '.join(sorted(twice))} was given more than once.",
            "Each run is a column of its own.",
            "Name each run once.",
        )
    last = [Path(name).name for name in names]
    return last if len(set(last)) == len(last) else names


def _shown(run: Run) -> pd.Index:
    """Names of the held-out spots, of all if none were held out."""
    held_out = run.spots.rows(HELDOUT)
    return run.adata.obs_names[held_out] if len(held_out) else run.adata.obs_names
