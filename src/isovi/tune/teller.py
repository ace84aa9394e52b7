"""Says which trial of a search ended; apart from the search, since it cannot be imported without Ray."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback
from rich.console import Console

from isovi.workflow.fit import say
from isovi.workflow.trial import Setting


class Teller(Callback):
    """A callback of Ray Tune, which copies it to disk: so it holds no console.

    Parameters
    ----------
    n_trials
        Trials in all.
    quiet
        Whether to say nothing.
    """

    def __init__(self, n_trials: int, quiet: bool) -> None:
        self.n_trials, self.quiet, self.done = n_trials, quiet, 0

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Say which one."""
        self.done += 1
        setting = Setting(**trial.config["setting"])
        say(Console(quiet=self.quiet), f"  trial {self.done}/{self.n_trials}: {setting}")
