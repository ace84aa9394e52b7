"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINES = 10  # plain lines in all, where there is no terminal


class EpochProgress(Callback):
    """Shows the epochs of a training.

    Parameters
    ----------
    console
        Where to; its kind decides between a bar and lines.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Open the bar."""
        self.every = max((trainer.max_epochs or 1) // LINES, 1)
        if self.console.is_terminal:
            columns = (TextColumn("Training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(
                *columns, TextColumn("{task.description}"), console=self.console, transient=True
            )
            self.bar.start()
            self.task = self.bar.add_task("", total=trainer.max_epochs)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move on by one epoch."""
        epoch = trainer.current_epoch + 1
        if self.bar is not None:
            self.bar.update(self.task, completed=epoch, description=self._figures(trainer))
        elif epoch % self.every == 0:
            self.console.print(
                f"  epoch {epoch}/{trainer.max_epochs}  {self._figures(trainer)}", highlight=False
            )

    def on_train_end(self, *_: Any) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @staticmethod
    def _figures(trainer: pl.Trainer) -> str:
        shown = {"ELBO loss": "elbo_train", "distortion": "relative_distortion_train"}
        found = trainer.callback_metrics
        return ", ".join(f"{name} {float(found[key]):.4g}" for name, key in shown.items() if key in found)
