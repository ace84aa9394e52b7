"""Which of the settings that were tried: chosen on validation spots, told on held-out ones."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from isovi.errors import InputError, IsoviWarning
from isovi.spots import HELDOUT, VALIDATION
from isovi.workflow.fit import FitOptions
from isovi.workflow.trial import Setting

WITHIN = 0.01  # of the lowest reconstruction loss: what a better position may cost
PASSED_ON = (
    *("holdout", "backbone", "spatial_key", "section_key", "batch_key", "layer", "n_top_genes"),
    *("max_epochs", "seed", "table", "coordinate_system", "coordinates", "min_counts"),
)
FIGURES = ("reconstruction", "coordinate_error", "spearman_distance")


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes
    ----------
    table
        A row for each setting: ``target``, ``n_latent``, ``pairs``, ``epochs``, its figures on validation
        spots (``reconstruction``, ``coordinate_error``, ``spearman_distance``), whether it is ``pareto``
        optimal in the first two, and ``recommended``; for Pareto-optimal settings the figures on held-out
        spots (``heldout_*``), which took no part in any choice.
    failed
        What went wrong, by setting.
    command
        The fit that is recommended.
    """

    table: pd.DataFrame
    failed: dict[str, str] = field(default_factory=dict)
    command: str = ""


def summarise(found: dict[Setting, dict[str, Any] | str], options: FitOptions) -> Tuned:
    """Table, choice and command.

    Raises
    ------
    InputError
        If every trial failed.
    """
    failed = {str(setting): result for setting, result in found.items() if isinstance(result, str)}
    ended = {setting: result for setting, result in found.items() if not isinstance(result, str)}
    if not ended:
        raise InputError(
            f"All {len(failed)} trials failed, the first with: {next(iter(failed.values()), 'nothing')}",
            "At least one must end.",
            "Try one of the settings with isovi fit --debug.",
        )
    for setting, reason in failed.items():
        warnings.warn(f"The trial of {setting} failed: {reason}", IsoviWarning, stacklevel=3)
    table = pd.DataFrame(
        [{**asdict(one), "epochs": got["epochs"], **got[VALIDATION]} for one, got in ended.items()],
        index=pd.Index(map(str, ended), name="setting"),
    )
    table["pareto"] = nondominated(table["reconstruction"], table["coordinate_error"])
    table["recommended"] = table.index == recommended(table)
    for name in FIGURES:  # those of other settings are not looked at
        held_out = [got[HELDOUT][name] for got in ended.values()]
        table[f"heldout_{name}"] = np.where(table["pareto"], held_out, np.nan)
    chosen = table.loc[recommended(table)]
    return Tuned(table, failed, command(options, chosen))


def nondominated(first: ArrayLike, second: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other is at least as low as in both figures, and lower in one.

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


def command(options: FitOptions, chosen: pd.Series) -> str:
    """The fit of a setting, as it is typed; its held-out spots are those of the search."""
    words = ["isovi", "fit", str(options.input), "--out", "RUN"]
    words += ["--distortion-target", f"{chosen['target']:g}"]
    words += ["--n-latent", str(chosen["n_latent"]), "--pairs", str(chosen["pairs"])]
    defaults = FitOptions(options.input, options.out)
    for name in PASSED_ON:
        value = getattr(options, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def table(tuned: Tuned) -> Table:
    """Settings that nothing beats, on validation spots and, in brackets, on held-out ones."""
    shown = Table(title="Pareto-optimal settings: on validation spots (on held-out spots)")
    for name in ("", "target", "latent", "pairs"):
        shown.add_column(name)
    for name in ("reconstruction, nats", "coordinate error, spacings", "Spearman", "epochs"):
        shown.add_column(name, justify="right")
    best = tuned.table[tuned.table["pareto"]].sort_values("reconstruction")
    for _, row in best.iterrows():
        setting = (f"{row['target']:g}", str(row["n_latent"]), str(row["pairs"]))
        shown.add_row("*" if row["recommended"] else "", *setting, *_both(row), str(row["epochs"]))
    return shown


def _both(row: pd.Series) -> list[str]:
    forms = zip(FIGURES, (".2f", ".2f", ".3f"), strict=True)
    return [f"{row[name]:{form}} ({row[f'heldout_{name}']:{form}})" for name, form in forms]


def words(tuned: Tuned) -> list[str]:
    """What is said at the end."""
    n_best = int(tuned.table["pareto"].sum())
    return [
        f"{len(tuned.table)} settings tried; {n_best} are beaten by none in both figures. "
        "Held-out figures took no part in any choice.",
        f"* lowest coordinate error within {WITHIN:.0%} of the lowest reconstruction loss:",
        tuned.command,
    ]
