"""Settings searched on a tissue's own spots: chosen on validation spots, told on held-out ones.

Ray Tune runs the trials. ``scvi.autotune``, which stands on it as well, optimises one figure that the trainer
logs; here two figures that need the trained model are traded against each other, on splits that are the same
for all trials, and a search that was interrupted goes on.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from isovi import pl
from isovi.data import io
from isovi.errors import InputError, OutputError
from isovi.graph import parse_pairs
from isovi.model.objective import Constraint
from isovi.spots import HELDOUT
from isovi.workflow import fit
from isovi.workflow.choice import Tuned, summarise
from isovi.workflow.fit import FitOptions
from isovi.workflow.resume import describe_attempt
from isovi.workflow.search import search
from isovi.workflow.trial import Setting

TARGETS = (0.1, 0.2, 0.3)
N_LATENTS = (10, 20)
PAIRS = ("all", "all+knn:6")
ASKED = "asked.json"


@dataclass(frozen=True)
class TuneOptions:
    """What ``isovi tune`` was asked to do.

    Attributes
    ----------
    fit
        Input, output, keys, split, genes, epochs and seed, as for a fit; target, latent size and pairs are
        those of the settings.
    targets, n_latents, pairs
        Values that are tried, in all combinations.
    n_trials
        Try so many of the combinations, drawn at random; ``None`` tries all.
    jobs
        Trials at once, each a process of its own.
    """

    fit: FitOptions
    targets: tuple[float, ...] = TARGETS
    n_latents: tuple[int, ...] = N_LATENTS
    pairs: tuple[str, ...] = PAIRS
    n_trials: int | None = None
    jobs: int = 1


def tune(options: TuneOptions, console: Console | None = None) -> Tuned:
    """Search target, latent size and pairs, and write a table and a picture of what can be had.

    Parameters
    ----------
    options
        What to do.
    console
        Where progress goes; nowhere by default.

    Returns
    -------
    What was found; ``tune.csv``, ``pareto.png`` and ``run.json`` in the output folder say the same.

    Raises
    ------
    InputError
        If Ray is missing, or the input or an option cannot be used, before any training; or if every trial
        failed.
    OutputError
        If the folder cannot be written, or holds an unfinished search that nothing was said about.
    """
    console = console or Console(quiet=True)
    settings = settings_of(options)
    require_ray()
    fit.check_options(options.fit)
    trials = folder_of(options.fit.out)
    with io.output_directory(options.fit.out, options.fit.force) as folder:
        describe_split(options.fit, console)
        begin(trials, options, settings)
        found = searched(settings, options, trials, console)
        tuned = summarise(found, options.fit)
        write(folder, tuned, options)
        shutil.rmtree(trials)
    fit.say(console, f"Wrote {options.fit.out}")
    return tuned


def searched(
    settings: list[Setting], options: TuneOptions, trials: Path, console: Console
) -> dict[Setting, dict[str, Any] | str]:
    """What the trials found; if they are interrupted, it is said how to go on."""
    try:
        return search(settings, options.fit, trials, jobs=options.jobs, console=console)
    except KeyboardInterrupt:
        fit.say(console, f"Stopped. The same command with --resume goes on from {trials}")
        raise


def settings_of(options: TuneOptions) -> list[Setting]:
    """Settings to try.

    Raises
    ------
    InputError
        If a value is out of range or there is none.
    """
    for name in ("targets", "n_latents", "pairs"):
        if not getattr(options, name):
            raise InputError(f"No {name} were given.", "There must be a value to try.", "Give one at least.")
    for least, value, flag in ((1, options.n_trials, "trials"), (1, options.jobs, "jobs")):
        if value is not None and value < least:
            raise InputError(f"--{flag} {value} was asked for.", f"It is at least {least}.", "Give more.")
    all_of_them = itertools.product(options.targets, options.n_latents, options.pairs)
    settings = [Setting(*values) for values in dict.fromkeys(all_of_them)]
    for setting in settings:
        parse_pairs(setting.pairs), Constraint(setting.target)
        if setting.n_latent < 1:
            raise InputError("A latent of no dimension was asked for.", "It has one at least.", "Give 10.")
    if options.n_trials is None or options.n_trials >= len(settings):
        return settings
    rng = np.random.default_rng(options.fit.seed)
    return [settings[row] for row in np.sort(rng.choice(len(settings), options.n_trials, replace=False))]


def require_ray() -> None:
    """Refuse before anything is read if Ray is not there."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "Ray is not installed.",
            "isovi tune runs its trials on it.",
            'Install it: pip install "isovi[tune]".',
        )


def folder_of(out: Path) -> Path:
    """Where an unfinished search is kept: beside its output, since that appears whole or not at all."""
    final = out.expanduser().resolve()
    return final.with_name(f"{final.name}.partial.trials")


def describe_split(options: FitOptions, console: Console) -> None:
    """Read and check the input once, and refuse a search that holds nothing out."""
    placement = fit.place(fit.read(options, console), options)
    if not (placement.split == HELDOUT).any():
        raise InputError(
            f"--holdout {options.holdout} leaves no spot to tell the result on.",
            "What is chosen on validation spots is told on others.",
            "Hold out a share of spots: --holdout 0.2.",
        )


def begin(trials: Path, options: TuneOptions, settings: list[Setting]) -> None:
    """Make the folder of the trials, or see that an unfinished search is the same one."""
    asked = {
        **describe_attempt(fit.plain(options.fit), io.digest(options.fit.source)),
        "settings": "; ".join(map(str, settings)),
    }
    file = trials / ASKED
    if trials.exists() and not options.fit.resume:
        if not options.fit.force:
            raise OutputError(
                f'An unfinished search is kept in "{trials}".',
                "It is not thrown away unasked.",
                "Go on with it by --resume, or start anew by --force.",
            )
        shutil.rmtree(trials)
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != asked:
        raise InputError(
            f'The unfinished search in "{trials}" is another one.',
            "Only the same search of the same input with the same packages goes on.",
            "Give the options that it was begun with, or start anew by --force.",
        )
    trials.mkdir(parents=True, exist_ok=True)
    io.write_json(file, asked)


def write(folder: Path, tuned: Tuned, options: TuneOptions) -> None:
    """Write table, picture and the record of the search."""
    tuned.table.to_csv(folder / "tune.csv")
    pl.pareto(tuned.table, save=folder / "pareto.png")
    record = {
        "arguments": fit.plain(options.fit),
        "targets": list(options.targets),
        "n_latents": list(options.n_latents),
        "pairs": list(options.pairs),
        "failed": tuned.failed,
        "recommended": tuned.command,
        "input_sha256": io.digest(options.fit.source),
    }
    io.write_json(folder / io.RUN_FILE, record)


def values_of(text: str, kind: Callable[[str], Any], flag: str) -> tuple[Any, ...]:
    """Read values that are given with commas between.

    Parameters
    ----------
    text
        For example ``"0.1,0.2"``.
    kind
        Makes a value of a word.
    flag
        Option that is named if it cannot.

    Raises
    ------
    InputError
        If a word is no such value.

    Examples
    --------
    >>> values_of("5,10", int, "--n-latents")
    (5, 10)
    """
    try:
        return tuple(kind(word.strip()) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise InputError(
            f"{flag} {text} was given.",
            f"It takes values of type {kind.__name__} with commas between.",
            "Write for example 5,10." if kind is int else "Write for example 0.1,0.2.",
        ) from error
