"""A search on Ray Tune: one trial for each setting, going on where an interrupted search left off."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from isovi.spots import HELDOUT, VALIDATION
from isovi.workflow.fit import FitOptions
from isovi.workflow.trial import Setting, try_setting

FOLDER = "ray"


def search(
    settings: list[Setting], options: FitOptions, trials: Path, *, jobs: int, console: Console
) -> dict[Setting, dict[str, Any] | str]:
    """Try every setting, or those that an unfinished search left.

    Parameters
    ----------
    settings
        What is tried.
    options
        All else of a fit; with ``resume`` a search that is in ``trials`` goes on.
    trials
        Where trainings and Ray's own state are kept.
    jobs
        Trials at once.
    console
        Is told of each trial that ends, unless it is quiet.

    Returns
    -------
    What :func:`isovi.workflow.trial.try_setting` returned, or what went wrong, by setting.

    Raises
    ------
    KeyboardInterrupt
        If it was stopped before all trials had ended.
    """
    quieten()
    import ray
    from ray import tune as ray_tune

    from isovi.workflow.teller import Teller

    ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        trainable = ray_tune.with_parameters(one_trial, options=elsewhere(options), trials=trials)
        trainable = ray_tune.with_resources(trainable, {"cpu": 1})
        tuner = going_on(trainable, settings, trials) if options.resume else None
        tuner = tuner or new(trainable, settings, trials, jobs, Teller(len(settings), console.quiet))
        found = {Setting(**one.config["setting"]): outcome(one) for one in tuner.fit()}
    finally:
        ray.shutdown()
    if any(result is None for result in found.values()):
        raise KeyboardInterrupt  # Ray stops at Ctrl-C, and returns what there is
    return {setting: result for setting, result in found.items() if result is not None}


def elsewhere(options: FitOptions) -> FitOptions:
    """The same options with paths that hold in other processes."""
    paths = {"input": options.input, "coordinates": options.coordinates}
    whole = {name: path and path.expanduser().resolve() for name, path in paths.items()}
    return replace(options, **whole)  # type: ignore[arg-type]


def quieten() -> None:
    """Ray reports nothing home, writes no logs for other programs, and stays in the working folder."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its older output can be silent
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


def new(trainable: Any, settings: list[Setting], trials: Path, jobs: int, callback: Any) -> Any:
    """Ray's tuner of all settings."""
    from ray import tune as ray_tune

    return ray_tune.Tuner(
        trainable,
        param_space=space(settings),
        tune_config=ray_tune.TuneConfig(max_concurrent_trials=jobs),
        run_config=ray_tune.RunConfig(name=FOLDER, storage_path=str(trials), verbose=0, callbacks=[callback]),
    )


def going_on(trainable: Any, settings: list[Setting], trials: Path) -> Any:
    """Ray's tuner of a search that was interrupted, or nothing if none had begun."""
    from ray import tune as ray_tune

    where = str(trials / FOLDER)
    if not ray_tune.Tuner.can_restore(where):
        return None
    return ray_tune.Tuner.restore(where, trainable, resume_errored=True, param_space=space(settings))


def space(settings: list[Setting]) -> dict[str, Any]:
    """Ray's space of parameters: these settings, each once."""
    from ray import tune as ray_tune

    return {"setting": ray_tune.grid_search([asdict(setting) for setting in settings])}


def one_trial(config: dict[str, Any], options: FitOptions, trials: Path) -> dict[str, Any]:
    """What a worker of Ray does."""
    setting = Setting(**config["setting"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth knowing was said when the input was checked
        return try_setting(setting, options, trials / name_of(setting))


def name_of(setting: Setting) -> str:
    """Folder of a setting's training."""
    return "".join(letter if letter.isalnum() else "_" for letter in str(setting))


def outcome(result: Any) -> dict[str, Any] | str | None:
    """Figures of a trial, or what went wrong; nothing if it did not end."""
    if result.error is not None:
        return str(result.error).strip().splitlines()[-1]
    if "epochs" not in (result.metrics or {}):
        return None
    return {name: result.metrics[name] for name in ("epochs", VALIDATION, HELDOUT)}
