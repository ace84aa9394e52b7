"""Lightning callbacks: dual ascent with its limits, the best epoch, and a watch over collapse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from isovi.errors import IsoviWarning
from isovi.graph import PairWeights
from isovi.model.objective import Constraint, Distortion, Objective, Penalty

WARM_UP = 0.025  # share of all steps before the constraint acts, so that a latent exists
PATIENCE = 30  # validated epochs without a lower held-out distortion before the multiplier is frozen
NOTICEABLE = 0.01  # relative change of held-out distortion that counts as one
TOLERANCE = 0.05  # by which training distortion may exceed its target and still be called met
COLLAPSED_SPREAD = 0.1
COLLAPSED_SCALE = 1e-3


class DualAscent(Callback):
    """Raises the multiplier while the constraint is broken, and knows when to stop.

    Held-out distortion decides: where it has not fallen for ``PATIENCE`` validated epochs while
    the target is still missed, a larger multiplier buys memorised training geometry only, and the
    multiplier may rise no more. It never outweighs the backbone's own loss.

    Parameters
    ----------
    objective
        The module's objective, shared.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.best = math.inf
        self.waited = 0
        self.stalled_at: int | None = None
        self._warm_up: float | None = None  # steps

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {"best": self.best, "waited": self.waited, "stalled_at": self.stalled_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.__dict__.update(state_dict)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take a step once the warm-up is over; report at the last minibatch of an epoch."""
        if self._warm_up is None:
            self._warm_up = WARM_UP * trainer.estimated_stepping_batches
        if trainer.global_step >= self._warm_up:
            self.objective.ascend()
        if trainer.is_last_batch:
            self._report(pl_module)

    def on_train_epoch_end(self, _: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report what an epoch that was cut short has left."""
        self._report(pl_module)

    def _report(self, pl_module: pl.LightningModule) -> None:
        for name, value in self.objective.noted().items():
            pl_module.log(f"{name}_train", value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Freeze the multiplier where held-out distortion no longer falls."""
        current = trainer.callback_metrics.get("relative_distortion_validation")
        if current is None or math.isinf(float(self.objective.log_multiplier)):
            return
        if float(current) < (1 - NOTICEABLE) * self.best:
            self.best, self.waited = float(current), 0
            return
        self.waited += 1
        asked = self.objective.distortion
        if self.waited >= PATIENCE and isinstance(asked, Constraint) and self.best > asked.target:
            self.stalled_at = self.stalled_at or trainer.current_epoch
            self.objective.log_limit.copy_(self.objective.log_multiplier)


class BestEpoch(Callback):
    """Keeps the state of the epoch with the best monitored value and puts it back at the end.

    Parameters
    ----------
    monitor
        Name of the validation metric, such as ``"elbo_validation"``.
    mode
        Whether the best value is the lowest (``"min"``) or the highest (``"max"``).
    """

    def __init__(self, monitor: str, mode: str = "min") -> None:
        self.monitor = monitor
        self.sign = -1.0 if mode == "max" else 1.0
        self.best = math.inf
        self.epoch: int | None = None
        self._state: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep: the best state as well."""
        return {"best": self.best, "epoch": self.epoch, "_state": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.__dict__.update(state_dict)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the state if this epoch is the best so far."""
        current = trainer.callback_metrics.get(self.monitor)
        if current is not None and self.sign * float(current) < self.best:
            self.best, self.epoch = self.sign * float(current), trainer.current_epoch
            module: Any = pl_module.module
            state = module.state_dict()
            self._state = {key: value.detach().clone() for key, value in state.items()}

    def on_train_end(self, _: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the best state back."""
        if self._state:
            module: Any = pl_module.module
            module.load_state_dict(self._state)
            self._state = {}


class CollapseWatch(Callback):
    """Warns, naming which, when λ shrinks to nothing or the latent loses its spread."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.first_scale: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {"first_scale": self.first_scale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.first_scale = state_dict["first_scale"]

    def on_train_epoch_end(self, *_: Any) -> None:
        """Remember the first scale."""
        if self.first_scale is None and bool(torch.isfinite(self.objective.scale).all()):
            self.first_scale = self.objective.scale.clone()

    def on_train_end(self, *_: Any) -> None:
        """Tell what collapsed, if anything."""
        for message in self.findings():
            rank_zero_warn(message, category=IsoviWarning, stacklevel=3)

    def findings(self) -> list[str]:
        """Plain sentences, one for each collapse found."""
        found = []
        spread, scale = self.objective.running_spread, self.objective.scale
        if spread < COLLAPSED_SPREAD:
            found.append(
                f"The latent has collapsed: its posterior means spread over {spread:.2g} posterior standard "
                f"deviations (below {COLLAPSED_SPREAD}), so it says nothing about the spots. {self._remedy()}"
            )
        if self.first_scale is not None and bool(
            (scale < COLLAPSED_SCALE * self.first_scale.to(scale)).any()
        ):
            found.append(
                f"The scale λ has collapsed from {float(self.first_scale.min()):.2g} to "
                f"{float(scale.min()):.2g}: the distortion was lowered by shrinking the latent. "
                f"{self._remedy()}"
            )
        return found

    def _remedy(self) -> str:
        asked = self.objective.distortion
        if isinstance(asked, Constraint):
            return f"Use a looser target than {asked.target}."
        if isinstance(asked, Penalty) and not asked.relative:
            return "Use the relative distortion, Penalty(weight, relative=True), or a Constraint."
        return "Use a smaller weight, or a Constraint."


def n_epochs(history: dict[str, pd.DataFrame]) -> int:
    """Epochs of a history; their ELBO has another name if that of each step is logged as well."""
    return len(history["elbo_train" if "elbo_train" in history else "elbo_train_epoch"])


def summarise(
    callbacks: list[Callback],
    distortion: Distortion | None,
    history: dict[str, pd.DataFrame],
    trained: int = 0,
) -> str:
    """What training reached, in plain words.

    Parameters
    ----------
    callbacks
        The callbacks of the training.
    distortion
        What was asked.
    history
        Of the training, one table for each figure.
    trained
        How many of its epochs are of an earlier training.
    """
    last = n_epochs(history)
    kept = next((c.epoch for c in callbacks if isinstance(c, BestEpoch) and c.epoch is not None), None)
    best = last - 1 if kept is None else trained + kept
    said = [f"Trained {last - trained} epochs; the state of epoch {best - trained + 1} is kept."]
    reached = {
        part: float(history[f"relative_distortion_{part}"].iloc[:, 0].get(best, math.nan))
        for part in ("train", "validation")
        if f"relative_distortion_{part}" in history
    }
    if reached:
        said.append(
            "Relative distortion: "
            + ", ".join(
                f"{value:.3f} on {part.replace('train', 'training')} spots" for part, value in reached.items()
            )
            + "."
        )
    stalled = next((c for c in callbacks if isinstance(c, DualAscent) and c.stalled_at is not None), None)
    if isinstance(distortion, Constraint) and reached:
        said.append(_verdict(distortion.target, reached["train"], stalled is not None))
    if stalled is not None and stalled.stalled_at is not None:
        said.append(
            f"From epoch {stalled.stalled_at + 1} on the multiplier rose no more: distortion of validation "
            f"spots no longer fell (lowest {stalled.best:.3f}), and pressing harder would buy memorised "
            "geometry."
        )
    return " ".join(said)


def _verdict(target: float, reached: float, stalled: bool) -> str:
    if reached <= target * (1 + TOLERANCE):
        return f"The constraint of {target:g} holds on training spots."
    if stalled:
        return f"The constraint of {target:g} was not reached: these genes do not tell positions that well."
    return (
        f"The constraint of {target:g} was not reached in so many epochs: train longer, or loosen the target."
    )


class PairBinding(Callback):
    """Binds the pairs that count to the training data, once it is known which spots are held out.

    Parameters
    ----------
    weights
        Makes the pair weights, given the rows of the held-out spots.
    objective
        The module's objective, which takes them.
    """

    def __init__(self, weights: Callable[[np.ndarray], PairWeights], objective: Objective) -> None:
        self.weights, self.objective = weights, objective

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Bind them; the data splitter has split by now."""
        heldout = getattr(trainer.datamodule, "test_idx", None)  # type: ignore[attr-defined]  # Lightning sets it
        self.objective.weights = self.weights(np.asarray([] if heldout is None else heldout, dtype=np.int64))
