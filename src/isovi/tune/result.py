"""What a search found: a table of the settings that were tried, and which of them are recommended."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from isovi.errors import InputError, IsoviWarning
from isovi.run import Settings
from isovi.spots import HELDOUT, VALIDATION

WITHIN = 0.01  # of the lowest reconstruction loss: what a lower coordinate error may cost


@dataclass(frozen=True)
class Tuned:
    """Result of a search.

    Attributes
    ----------
    table
        A row for each setting: ``target``, ``n_latent``, ``pairs``, ``epochs``, its metrics on validation
        spots (``reconstruction``, ``coordinate_error``, ``spearman_distance``, see
        ``isovi.tl.METRICS``), whether it is ``pareto`` optimal in the first two, and ``recommended``; for
        Pareto-optimal settings the metrics on held-out spots (``heldout_*``), which took no part in any
        choice.
    recommended
        Settings of a fit, whose held-out spots are those of the search.
    failed
        What went wrong, by setting.
    """

    table: pd.DataFrame
    recommended: Settings
    failed: dict[str, str] = field(default_factory=dict)


def summarise(tried: dict[str, Settings], found: dict[str, dict[str, Any] | str]) -> Tuned:
    """Table and choice.

    Parameters
    ----------
    tried
        Settings by name.
    found
        What :func:`isovi.tune.trial.run_trial` returned, or what went wrong, by name.

    Raises
    ------
    InputError
        If every trial failed.
    """
    failed = {name: result for name, result in found.items() if isinstance(result, str)}
    ended = {name: result for name, result in found.items() if not isinstance(result, str)}
    if not ended:
        raise InputError(
            f"All {len(failed)} trials failed, the first with: {next(iter(failed.values()), 'nothing')}",
            "At least one must end.",
            "Fit with one of the settings to see why.",
        )
    for name, reason in failed.items():
        warnings.warn(f"The trial of {name} failed: {reason}", IsoviWarning, stacklevel=3)
    rows = [_varied(tried[name]) | {"epochs": got["epochs"]} | got[VALIDATION] for name, got in ended.items()]
    table = pd.DataFrame(rows, index=pd.Index(list(ended), name="setting"))
    table["pareto"] = nondominated(table["reconstruction"], table["coordinate_error"])
    best = recommended(table)
    table["recommended"] = table.index == best
    for metric in ended[best][HELDOUT]:  # of the other settings they are not looked at
        held_out = [got[HELDOUT][metric] for got in ended.values()]
        table[f"heldout_{metric}"] = np.where(table["pareto"], held_out, np.nan)
    return Tuned(table, tried[best], failed)


def _varied(settings: Settings) -> dict[str, Any]:
    return {"target": settings.target, "n_latent": settings.n_latent, "pairs": str(settings.pairs)}


def name_of(settings: Settings) -> str:
    """What is varied, in words."""
    return "target {target:g}, {n_latent} latent, {pairs}".format(**_varied(settings))


def nondominated(first: ArrayLike, second: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other is at least as low as in both metrics, and lower in one.

    Examples
    --------
    >>> nondominated([1.0, 2.0, 3.0], [3.0, 1.0, 2.0])
    array([ True,  True, False])
    """
    points = np.column_stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    no_higher = (points[:, None] <= points[None]).all(axis=2)
    lower = (points[:, None] < points[None]).any(axis=2)
    return np.asarray(~(no_higher & lower).any(axis=0))


def recommended(table: pd.DataFrame) -> str:
    """The lowest coordinate error among the settings whose reconstruction is within 1 % of the lowest."""
    lowest = table["reconstruction"].min()
    near = table[table["reconstruction"] <= lowest + WITHIN * abs(lowest)]
    return str(near.sort_values(["coordinate_error", "reconstruction"]).index[0])
