"""Progress of long work, by one small protocol: what the command line, notebooks and scripts show of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

logger = logging.getLogger("isovi")

_LINES = 10  # lines in all, where there is no terminal
_SILENCE = 300.0  # seconds after which there is one more
_NOTICEABLE = 5.0  # seconds left that are worth a word
_SHOWN = {"ELBO loss": "elbo_train", "distortion": "relative_distortion_train"}


class Progress:
    """Receives what long work reports; this one logs the sentences, at level INFO of the logger ``isovi``."""

    def say(self, text: str) -> None:
        """Take a sentence on what was done."""
        logger.info(text)

    def epoch(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Take note of an epoch of training.

        Parameters
        ----------
        done, total
            Epochs trained, and epochs at most.
        metrics
            What the trainer logged last, by the names of ``history_``.
        """

    def close(self) -> None:
        """Training has ended, or failed."""


class Silent(Progress):
    """Shows nothing: for processes but the first, and for trials of a search."""

    def say(self, text: str) -> None:
        """Ignore it."""


class ConsoleProgress(Progress):
    """A bar with the time left on a terminal, and in a notebook that has ipywidgets; a few lines elsewhere.

    Parameters
    ----------
    console
        Console of rich to print to; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bar: Bar | None = None
        self.first: tuple[int, float] | None = None  # epoch that was reported first, and when
        self.said_at = -float("inf")

    def say(self, text: str) -> None:
        """Print one line as it is: names and paths may hold what rich takes for markup."""
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def epoch(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or print a line every tenth of the epochs and at least every five minutes."""
        shown = ", ".join(f"{name} {metrics[key]:.4g}" for name, key in _SHOWN.items() if key in metrics)
        moves = self.console.is_terminal and not self.console.is_dumb_terminal
        widgets = self.console.is_jupyter and find_spec("ipywidgets")  # without them rich warns at each move
        if not (moves or widgets):
            self._line(done, total, shown)
            return
        if self.bar is None:
            columns = (TextColumn("Training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.description}"), console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=total)
        self.bar.update(self.task, completed=done, description=shown)

    def _line(self, done: int, total: int, shown: str) -> None:
        now = monotonic()
        if self.first is None:
            self.first, self.said_at = (done, now), now
        if done % max(total // _LINES, 1) and now - self.said_at < _SILENCE:
            return
        self.said_at = now
        before, since = self.first
        left = (now - since) / (done - before) * (total - done) if done > before else 0.0
        remaining = [f"about {duration(left)} left"] if left > _NOTICEABLE else []
        self.say(f"  epoch {done}/{total}  {', '.join(filter(None, [shown, *remaining]))}")

    def close(self) -> None:
        """Remove the bar."""
        self.first = None
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    Examples
    --------
    >>> duration(40.0), duration(250.0), duration(9000.0)
    ('40 s', '4 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_of(given: Progress | bool) -> Progress:
    """A progress as :func:`isovi.fit` takes it: ``True`` shows it, ``False`` only logs."""
    if isinstance(given, Progress):
        return given
    return ConsoleProgress() if given else Progress()
