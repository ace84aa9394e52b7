"""Trials on Ray Tune: each in a process of its own; an interrupted search is resumed.

Imported only when a search begins, since it needs the extra ``tune``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune as ray_tune

from isovi.data import io
from isovi.errors import IsoviWarning
from isovi.progress import Progress
from isovi.run import Settings
from isovi.spots import HELDOUT, VALIDATION
from isovi.tune.cluster import cluster
from isovi.tune.trial import run_trial

FOLDER = ".ray"  # hidden: nothing of it is read
_PARTS = (VALIDATION, HELDOUT)
_PROGRESS: ContextVar[Progress] = ContextVar("progress")  # of the search that is running


def run_trials(
    tried: dict[str, Settings],
    source: io.Source,
    min_counts: int,
    folder: Path,
    *,
    jobs: int,
    progress: Progress,
    gpus_per_trial: float = 0.0,
    ray_address: str | None = None,
) -> dict[str, dict[str, Any] | str]:
    """Run every trial, or those that an unfinished search left.

    Parameters
    ----------
    tried
        Settings by name.
    source, min_counts
        As for :func:`isovi.files.fit`.
    folder
        Where trainings are kept, and what trials that have ended returned; an unfinished search in it is
        resumed. Ray's own state, which is pickled, is not read.
    jobs
        Number of trials at once.
    progress
        Receives a line for each trial that ends.
    gpus_per_trial, ray_address
        As for :func:`isovi.tune.tune`.

    Returns
    -------
    What :func:`isovi.tune.trial.run_trial` returned, or what went wrong, by name.

    Raises
    ------
    InputError
        If Ray cannot be started, or does not have such a GPU.
    KeyboardInterrupt
        If it was stopped before all trials had ended.

    Warns
    -----
    IsoviWarning
        If what is kept of a trial is damaged, so that it is run again.
    """
    done: dict[str, dict[str, Any] | str] = {}
    for name in tried:
        if (result := kept_result(name, folder)) is not None:
            done[name] = result
    left = [name for name in tried if name not in done]
    if not left:
        return done
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    paths = {"path": source.path, "coordinates": source.coordinates}  # as they hold in other processes
    paths = {name: path and path.expanduser().resolve() for name, path in paths.items()}
    source = replace(source, **paths)  # type: ignore[arg-type]
    _quiet()
    token = _PROGRESS.set(progress)
    given = {"tried": tried, "source": source, "min_counts": min_counts, "folder": folder.resolve()}
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(_work, **given), {"cpu": 1, "gpu": gpus_per_trial}
    )
    try:
        with cluster(ray_address, jobs, gpus=gpus_per_trial):
            found = done | outcomes(list(_tuner(trainable, left, folder, jobs, len(done)).fit()))
            if len(found) < len(tried):
                raise KeyboardInterrupt  # Ray stops at Ctrl-C, and returns what there is
    finally:
        _PROGRESS.reset(token)
    return {name: found[name] for name in tried}


def _quiet() -> None:
    """Ray writes no logs for other programs, and stays in the working folder."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its older output can be silent
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


def _tuner(trainable: Any, names: list[str], folder: Path, jobs: int, n_done: int) -> Any:
    """Ray's tuner of these trials."""
    return ray_tune.Tuner(
        trainable,
        param_space={"name": ray_tune.grid_search(names)},
        tune_config=ray_tune.TuneConfig(max_concurrent_trials=jobs),
        run_config=ray_tune.RunConfig(
            name=FOLDER, storage_path=str(folder), verbose=0, callbacks=[_Said(n_done, n_done + len(names))]
        ),
    )


def _work(
    config: dict[str, Any], tried: dict[str, Settings], source: io.Source, min_counts: int, folder: Path
) -> dict[str, Any]:
    """What a worker does."""
    name = config["name"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the input was checked
        found = run_trial(source, tried[name], min_counts, folder_of(name, folder))
    keep_result(found, name, folder)
    return found


def keep_result(found: dict[str, Any], name: str, folder: Path) -> None:
    """Write what a trial returned."""
    io.write_json(_result_file(name, folder), {"result": found})
    written = json.loads(_result_file(name, folder).read_text(encoding="utf-8"))["result"]
    io.write_json(_result_file(name, folder), {"result": written, "checksum": _digest(written)})


def kept_result(name: str, folder: Path) -> dict[str, Any] | None:
    """What a trial that has ended returned; ``None`` if it has not, or the file is damaged."""
    file = _result_file(name, folder)
    if not os.path.lexists(file):
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record["result"]
        if record["checksum"] != _digest(found):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        warnings.warn(f'"{file}" is damaged: this trial is run again.', IsoviWarning, stacklevel=3)
        io.remove(file)
        return None
    numbers = {part: {n: np.nan if v is None else v for n, v in found[part].items()} for part in _PARTS}
    return {"epochs": found["epochs"], **numbers}


def _result_file(name: str, folder: Path) -> Path:
    return folder_of(name, folder).with_name(f"{folder_of(name, folder).name}.json")


def _digest(found: Any) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


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
            found[result.config["name"]] = {name: result.metrics[name] for name in ("epochs", *_PARTS)}
    return found


class _Said(ray_tune.Callback):
    """Reports each trial that ends. Ray copies it to disk: so the progress is not part of it."""

    def __init__(self, n_done: int, n_trials: int) -> None:
        self.n_done, self.n_trials = n_done, n_trials

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Say which one."""
        done = {one.trial_id for one in trials if one.is_finished()} | {trial.trial_id}
        _PROGRESS.get().say(f"  trial {self.n_done + len(done)}/{self.n_trials}: {trial.config['name']}")
