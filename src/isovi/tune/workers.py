"""Trials on Ray Tune: each in a process of its own; an interrupted search is resumed.

Imported only when a search begins, since it needs the extra ``tune``.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune

from isovi.data import io
from isovi.interrupts import Handlers
from isovi.progress import Progress
from isovi.run import Settings
from isovi.spots import HELDOUT, VALIDATION
from isovi.tune.trial import run_trial

FOLDER = "ray"
_PROGRESS: ContextVar[Progress] = ContextVar("progress")  # of the search that is running


def run_trials(
    tried: dict[str, Settings],
    source: io.Source,
    min_counts: int,
    folder: Path,
    *,
    jobs: int,
    progress: Progress,
) -> dict[str, dict[str, Any] | str]:
    """Run every trial, or those that an unfinished search left.

    Parameters
    ----------
    tried
        Settings by name.
    source, min_counts
        As for :func:`isovi.files.fit`.
    folder
        Where trainings and Ray's own state are kept; an unfinished search in it is resumed.
    jobs
        Number of trials at once.
    progress
        Receives a line for each trial that ends.

    Returns
    -------
    What :func:`isovi.tune.trial.run_trial` returned, or what went wrong, by name.

    Raises
    ------
    KeyboardInterrupt
        If it was stopped before all trials had ended.
    """
    paths = {"path": source.path, "coordinates": source.coordinates}  # as they hold in other processes
    paths = {name: path and path.expanduser().resolve() for name, path in paths.items()}
    source = replace(source, **paths)  # type: ignore[arg-type]
    _quiet()
    token = _PROGRESS.set(progress)
    handlers = Handlers()
    ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    handlers.restore()  # Ray takes SIGTERM for a quiet end
    try:
        given = {"tried": tried, "source": source, "min_counts": min_counts, "folder": folder}
        trainable = ray_tune.with_resources(ray_tune.with_parameters(_work, **given), {"cpu": 1})
        found = outcomes(list(_tuner(trainable, list(tried), folder, jobs).fit()))
    finally:
        ray.shutdown()
        _PROGRESS.reset(token)
    if len(found) < len(tried):
        raise KeyboardInterrupt  # Ray stops at Ctrl-C, and returns what there is
    return {name: found[name] for name in tried}


def _quiet() -> None:
    """Ray reports nothing home, writes no logs for other programs, and stays in the working folder."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its older output can be silent
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


def _tuner(trainable: Any, names: list[str], folder: Path, jobs: int) -> Any:
    """Ray's tuner of these trials: that of the unfinished search if there is one."""
    space = {"name": ray_tune.grid_search(names)}
    if ray_tune.Tuner.can_restore(str(folder / FOLDER)):
        where = str(folder / FOLDER)
        return ray_tune.Tuner.restore(where, trainable, resume_errored=True, param_space=space)
    return ray_tune.Tuner(
        trainable,
        param_space=space,
        tune_config=ray_tune.TuneConfig(max_concurrent_trials=jobs),
        run_config=ray_tune.RunConfig(
            name=FOLDER, storage_path=str(folder), verbose=0, callbacks=[_Said(len(names))]
        ),
    )


def _work(
    config: dict[str, Any], tried: dict[str, Settings], source: io.Source, min_counts: int, folder: Path
) -> dict[str, Any]:
    """What a worker does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the input was checked
        return run_trial(source, tried[config["name"]], min_counts, folder_of(config["name"], folder))


def folder_of(name: str, folder: Path) -> Path:
    """Folder of a trial's training."""
    return folder / "".join(letter if letter.isalnum() else "_" for letter in name)


def outcomes(results: Iterable[Any]) -> dict[str, dict[str, Any] | str]:
    """Metrics of the trials that ended, or what went wrong, by name.

    Of a trial that never began Ray does not know the name.
    """
    found: dict[str, dict[str, Any] | str] = {}
    for result in results:
        if result.config is None and result.error is not None:
            raise result.error
        if result.error is not None:
            found[result.config["name"]] = str(result.error).strip().splitlines()[-1]
        elif "epochs" in (result.metrics or {}):
            parts = ("epochs", VALIDATION, HELDOUT)
            found[result.config["name"]] = {name: result.metrics[name] for name in parts}
    return found


class _Said(ray_tune.Callback):
    """Reports each trial that ends. Ray copies it to disk: so the progress is not part of it."""

    def __init__(self, n_trials: int) -> None:
        self.n_trials = n_trials

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Say which one."""
        done = {one.trial_id for one in trials if one.is_finished()} | {trial.trial_id}
        _PROGRESS.get().say(f"  trial {len(done)}/{self.n_trials}: {trial.config['name']}")
