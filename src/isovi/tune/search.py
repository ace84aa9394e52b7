"""The search: settings to try, trials, and what is written of them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from isovi import files, pipeline, pl
from isovi._records import as_data, is_of
from isovi.data import io
from isovi.errors import InputError
from isovi.graph import AllPairs, Neighbors, PairKind
from isovi.model.objective import Constraint
from isovi.progress import Progress
from isovi.run import Provenance, Settings
from isovi.spots import HELDOUT
from isovi.tune.result import Tuned, name_of, summarise

TARGETS = (0.1, 0.2, 0.3)
N_LATENTS = (10, 20)
PAIRS = (AllPairs(), AllPairs() | Neighbors(6))
SCHEMA = 1  # version of run.json
ABOUT = "about.json"  # what an unfinished search is about


def tune(
    source: io.Source | str | Path,
    out: str | Path,
    settings: Settings,
    *,
    targets: Sequence[float] = TARGETS,
    n_latents: Sequence[int] = N_LATENTS,
    pairs: Sequence[PairKind] = PAIRS,
    n_trials: int | None = None,
    jobs: int = 1,
    gpus_per_trial: float = 0.0,
    ray_address: str | None = None,
    min_counts: int = 0,
    force: bool = False,
    resume: bool = False,
    call: str = "",
    progress: Progress | None = None,
) -> Tuned:
    """Search target, number of latent dimensions and pairs, and write a table and a plot of the trade-off.

    Parameters
    ----------
    source, min_counts
        As for :func:`isovi.files.fit`.
    out
        Folder to write: ``tune.csv``, ``pareto.png`` and ``run.json``; it appears whole or not at all.
    settings
        Settings that all trials share; some spots must be held out. Their distortion, number of latent
        dimensions and pairs are replaced.
    targets, n_latents, pairs
        Values that are tried, in all combinations.
    n_trials
        Number of combinations to try, drawn at random; all by default.
    jobs
        Number of trials at once, each a process of its own.
    gpus_per_trial
        Share of a GPU that a trial takes: 0.5 for two at once on each, which share its memory. With 0 trials
        run on processors.
    ray_address
        Of a running Ray cluster, on whose machines the input and ``out`` have the same paths; trials run on
        this machine by default.
    force
        Replace an earlier search in ``out``.
    resume
        Resume an unfinished search.
    call
        How it was called, for the record.
    progress
        Receives progress; nothing is shown by default.

    Returns
    -------
    Table of the trials, and the settings that are recommended.

    Raises
    ------
    InputError
        If Ray, its cluster or the GPUs are missing, or the input or a parameter cannot be used, before any
        training; or if every trial failed.
    OutputError
        If the folder cannot be written, or there is an unfinished search and neither ``resume`` nor
        ``force`` was given.
    """
    source, out, progress = io.Source.of(source), Path(out), progress or Progress()
    tried = to_try(settings, targets, n_latents, pairs, n_trials)
    if jobs < 1:
        raise InputError(f"jobs={jobs} was given.", "It must be at least 1.", "Give another number.")
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "Ray is not installed.", "The trials run on it.", 'Install it: pip install "isovi[tune]".'
        )
    from isovi.tune.workers import run_trials  # needs Ray

    with io.exclusive(out, [source.path, source.coordinates]):
        attempt, sha256 = SearchAttempt.of(out), io.digest(source)
        asked = {"min_counts": min_counts, "tried": "; ".join(tried), **source.options}
        about = files.describe(settings, sha256, **asked)
        if resume and not force and (earlier := attempt.finished(tried, sha256)) is not None:
            if attempt.before() == about:
                attempt.remove()  # which is still there if the search was killed as it ended
            with suppress(OSError):
                attempt.checkpoint.rmdir()  # or as it was removed: empty then
            progress.say(f"{out} is finished: there is nothing to resume")
            return earlier
        attempt.begin(about, resume=resume, force=force, progress=progress)
        with attempt.kept(progress), io.output_directory(out, force) as folder:
            check_input(source, settings, min_counts, progress)
            attempt.checkpoint.mkdir(parents=True, exist_ok=True)
            io.write_json(attempt.checkpoint / ABOUT, about)
            where: dict[str, Any] = {"gpus_per_trial": gpus_per_trial, "ray_address": ray_address}
            found = run_trials(
                tried, source, min_counts, attempt.checkpoint, jobs=jobs, progress=progress, **where
            )
            tuned = summarise(tried, found)
            made = Provenance(sha256=sha256, source=files.source_of(source, min_counts), call=call)
            _write(folder, tuned, tried, made)
        attempt.remove()
    progress.say(f"Wrote {out}")
    return tuned


def _write(folder: Path, tuned: Tuned, tried: dict[str, Settings], made: Provenance) -> None:
    tuned.table.to_csv(folder / "tune.csv")
    pl.pareto(tuned.table, save=folder / "pareto.png")
    record = {
        "schema": SCHEMA,
        "tried": as_json(tried),
        "recommended": tuned.recommended.as_data(),
        "failed": tuned.failed,
        "provenance": as_data(made),
    }
    io.write_json(folder / io.RUN_FILE, record)


def to_try(
    settings: Settings,
    targets: Sequence[float],
    n_latents: Sequence[int],
    pairs: Sequence[PairKind],
    n_trials: int | None,
) -> dict[str, Settings]:
    """Settings to try, by name.

    Raises
    ------
    InputError
        If a value is out of range or there is none.
    """
    for name, values in {"targets": targets, "n_latents": n_latents, "pairs": pairs}.items():
        if not values:
            raise InputError(f"{name}=() was given.", "There must be a value to try.", "Give at least one.")
    if n_trials is not None and n_trials < 1:
        raise InputError(f"n_trials={n_trials} was given.", "It must be at least 1.", "Give another number.")
    combined = [
        replace(settings, distortion=Constraint(target), n_latent=n_latent, pairs=kind)
        for target, n_latent, kind in itertools.product(targets, n_latents, pairs)
    ]
    named = {name_of(one): one for one in combined}
    if n_trials is None or n_trials >= len(named):
        return named
    drawn = np.random.default_rng(settings.seed).choice(len(named), n_trials, replace=False)
    return {name: one for row, (name, one) in enumerate(named.items()) if row in drawn}


@dataclass(frozen=True)
class SearchAttempt(files.Attempt):
    """One attempt at a search: its trials are kept in a folder beside its output."""

    what: ClassVar[str] = "search"
    suffix: ClassVar[str] = ".partial.trials"

    def before(self) -> dict[str, str] | None:
        """What the unfinished search was about; ``None`` if it had not begun to say so."""
        file = self.checkpoint / ABOUT
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not found or not is_of(found, Mapping[str, str]):
            raise InputError(
                f'"{file}" is damaged.',
                "It says which search is unfinished.",
                "Start anew by force=True without resume=True.",
            )
        return found

    def finished(self, tried: dict[str, Settings], sha256: str) -> Tuned | None:
        """The search in the output folder, if it is the one that this attempt would make."""
        try:
            record = json.loads((self.out / io.RUN_FILE).read_text(encoding="utf-8"))
            known = (record["tried"], record["provenance"]["sha256"])
            if known != (as_json(tried), sha256):
                return None
            table = pd.read_csv(self.out / "tune.csv", index_col=0)
            return Tuned(table, Settings.from_data(record["recommended"]), dict(record["failed"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another folder, or damaged
            return None

    def remove(self) -> None:
        """Remove the folder of the trials, and last what says which search they are of."""
        for path in self.checkpoint.glob("*"):
            if path.name != ABOUT:
                io.remove(path)
        shutil.rmtree(self.checkpoint, ignore_errors=True)


def as_json(tried: dict[str, Settings]) -> list[Any]:
    """Settings as JSON holds them."""
    found: list[Any] = json.loads(json.dumps([one.as_data() for one in tried.values()]))
    return found


def check_input(source: io.Source, settings: Settings, min_counts: int, progress: Progress) -> None:
    """Read and check the input once.

    Raises
    ------
    InputError
        If it cannot be used, or no spot is held out.
    """
    adata = files.read(source, settings, min_counts, progress)
    pipeline.check_data(adata, settings)
    if not len(pipeline.split(adata, settings).rows(HELDOUT)):
        raise InputError(
            f"holdout={settings.holdout} was given, which leaves no held-out spots.",
            "Settings are chosen on validation spots, and reported on others.",
            "Hold out a share of spots: holdout=0.2.",
        )
