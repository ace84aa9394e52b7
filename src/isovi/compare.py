"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isovi import pl, tl
from isovi.errors import InputError
from isovi.model.objective import Penalty
from isovi.run import LATENT_KEY, Run
from isovi.spots import HELDOUT
from isovi.verdict import verdict

_SPLIT = ("holdout", "seed", "section_key", "layer", "keep_controls", "round_counts", "n_top_genes")
_SIZES = {"n_obs": "spots", "n_train": "training spots", "n_heldout": "held-out spots", "n_genes": "genes"}
AGREEMENT = {"ari": "ARI", "nmi": "NMI"}  # of domains with labels: metrics of a run by their name


def compare(runs: Sequence[Run], *, allow_different: bool = False) -> pd.DataFrame:
    """Metrics of several runs: on held-out spots, or on all if a run held out none.

    Parameters
    ----------
    runs
        Runs, such as ``Run.read(folder)``.
    allow_different
        Compare runs of different data, splits or genes as well, whose metrics are of different spots.

    Returns
    -------
    A row for each metric of ``isovi.tl.METRICS`` that all runs have, under its name and unit, and where all
    have labels two for the agreement of the domains of all spots with them; a column for each run.
    ``attrs["spots"]`` says which spots, ``attrs["verdicts"]`` has the verdict on each run whose data can be
    read.

    Raises
    ------
    InputError
        If a run is given twice, or the runs are not of the same data with the same split and genes.
    """
    names = _names(runs)
    if not allow_different:
        require_same(runs)
    part = HELDOUT if all(HELDOUT in run.metrics for run in runs) else "all"
    for run in runs if part == "all" else ():
        if part not in run.metrics:
            run.require_complete()
    found = dict(zip(names, (run.metrics[part] for run in runs), strict=True))
    known = [m for name, m in tl.METRICS.items() if all(name in metrics for metrics in found.values())]
    rows = {metric.title: [metrics[metric.name] for metrics in found.values()] for metric in known}
    for name, title in AGREEMENT.items():
        if all(name in run.metrics for run in runs):
            rows[f"{title} of domains with labels, all spots"] = [run.metrics[name] for run in runs]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=names, dtype=float).rename_axis("metric")
    table.attrs["spots"] = "held-out" if part == HELDOUT else "all"
    table.attrs["verdicts"] = verdicts = {}
    for name, run in zip(found, runs, strict=True):
        with suppress(InputError):  # without its data, which metrics do not need, there is no verdict
            verdicts[name] = verdict(run).headline() if run.is_complete else "not complete"
    return table


def require_same(runs: Sequence[Run]) -> None:
    """Refuse runs whose metrics are of different spots or genes.

    Parameters
    ----------
    runs
        Runs; what their ``run.json`` and ``metrics.json`` hold is compared, data is not read.

    Raises
    ------
    InputError
        For the first run that differs from the first one in input, split or genes.
    """
    for other in runs[1:]:
        if differing := _differences(runs[0], other):
            raise InputError(
                f"The runs {runs[0].folder or runs[0].id} and {other.folder or other.id} differ: "
                f"{'; '.join(differing)}.",
                "Metrics are comparable where the same spots of the same data were held out, over the same "
                "genes.",
                "Fit them to one input with the same settings but those that you compare, or pass "
                "allow_different=True to compare them anyway.",
            )


def _differences(run: Run, other: Run) -> list[str]:
    """What differs between the data, splits and genes of two runs, in words."""
    found = [] if run.provenance.sha256 == other.provenance.sha256 else ["their inputs are different files"]
    ours, theirs = ({**vars(one.settings), **_read(one)} for one in (run, other))
    names = (*_SPLIT, *sorted({*_read(run), *_read(other)}))
    found += [
        f"{name} is {ours.get(name)} and {theirs.get(name)}"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]
    sizes = {words: (run.metrics.get(name), other.metrics.get(name)) for name, words in _SIZES.items()}
    return found or [
        f"they have {one} and {two} {words}" for words, (one, two) in sizes.items() if one != two
    ]


def _read(run: Run) -> dict[str, Any]:
    """Options by which the input was read."""
    return {
        name: value for name, value in run.provenance.source.items() if name not in ("path", "coordinates")
    }


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
        f"{name}: {distortion_of(run)}": np.asarray(run.adata[shown[0]].obsm[LATENT_KEY])
        for name, run in zip(names, runs, strict=True)
    }
    positions = runs[0].adata[shown[0]].obsm[runs[0].settings.spatial_key]
    pl.latent_map(latents, positions, title="tissue, held-out spots", save=save)


def distortion_of(run: Run) -> str:
    """The distortion of a run in a few words."""
    asked = run.settings.distortion
    if asked is None:
        return "the backbone itself"
    is_plain = isinstance(asked, Penalty) and not asked.weight
    return "no distance term" if is_plain else str(asked)


def _names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: the last part of its folder where that tells them apart, else what differs."""
    names = [str(run.folder or run.id) for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"{', '.join(sorted(twice))} was given more than once.",
            "Each run is a column of its own.",
            "Name each run once.",
        )
    last = [Path(name).name for name in names]
    if len(set(last)) == len(last):
        return last
    parts = [Path(name).parts for name in names]
    shared = next(number for number, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1)
    return [str(Path(*one[shared:])) for one in parts]


def _shown(run: Run) -> pd.Index:
    """Names of the held-out spots, of all if none were held out."""
    held_out = run.spots.rows(HELDOUT)
    return run.adata.obs_names[held_out] if len(held_out) else run.adata.obs_names
