"""Callbacks of a training: dual ascent, the best epoch, a check for collapse."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from isovi.errors import IsoviWarning
from isovi.model.objective import Constraint, Distortion, Objective, Penalty

WARM_UP_EPOCHS = 10  # before the constraint acts, so that there is a latent space to constrain
WARM_UP_STEPS = 1_400  # at most: more than some 20,000 cells take fewer epochs
PATIENCE = 30  # validated epochs without a lower validation distortion before the multiplier is frozen
NOTICEABLE = 0.01  # relative change of validation distortion that counts as one
TOLERANCE = 0.05  # by which training distortion may exceed its target and still count as met
COLLAPSED_SPREAD = 0.1
COLLAPSED_SCALE = 1e-3


class DualAscent(Callback):
    """Raises the multiplier while the constraint is violated, within two limits.

    The first is set when the warm-up ends: :data:`~isovi.model.objective.LIMIT_SHARE` times the balance
    (:meth:`~isovi.model.objective.Objective.weigh`). The second is validation distortion: if it has not
    fallen for ``PATIENCE`` validated epochs and is above the target, a larger multiplier only memorises
    positions of training cells, and the multiplier is frozen: it may still fall. The warm-up does not
    depend on ``max_epochs``.

    Parameters
    ----------
    objective
        The module's objective, shared.

    Attributes
    ----------
    best
        Lowest validation distortion since the constraint acts.
    stalled_at
        Epoch, counted from 0, in which the multiplier was frozen; ``None`` if it never was.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.best = math.inf
        self.waited = 0
        self.stalled_at: int | None = None
        self.log_ceiling = math.inf

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        kept = ("best", "waited", "stalled_at", "log_ceiling")
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.__dict__.update(state_dict)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take a step once the warm-up is over; log at the last minibatch of an epoch."""
        if trainer.current_epoch >= WARM_UP_EPOCHS or trainer.global_step >= WARM_UP_STEPS:
            self.objective.ascend()
            self.objective.log_multiplier.clamp_(max=self.log_ceiling)
        if trainer.is_last_batch:
            self._log(pl_module)

    def on_train_epoch_end(self, _: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the rest of an epoch that was cut short."""
        self._log(pl_module)

    def _log(self, pl_module: pl.LightningModule) -> None:
        for name, value in self.objective.noted().items():
            pl_module.log(f"{name}_train", value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_validation_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Freeze the multiplier if validation distortion no longer falls."""
        current = trainer.callback_metrics.get("relative_distortion_validation")
        if current is None or math.isinf(float(self.objective.log_multiplier)):
            return
        if float(current) < (1 - NOTICEABLE) * self.best:
            self.best, self.waited = float(current), 0
            return
        self.waited += 1
        asked = self.objective.distortion
        if self.waited >= PATIENCE and isinstance(asked, Constraint) and self.best > asked.target:
            self.stalled_at = trainer.current_epoch if self.stalled_at is None else self.stalled_at
            self.log_ceiling = float(self.objective.log_multiplier)


class BestEpoch(Callback):
    """Keeps the state of the epoch with the best monitored value and restores it at the end.

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
        """State for a checkpoint, the best state of the module included."""
        return {"best": self.best, "epoch": self.epoch, "_state": self._state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
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
        """Restore the best state."""
        if self._state:
            module: Any = pl_module.module
            module.load_state_dict(self._state)
            self._state = {}


class CollapseWatch(Callback):
    """Warns at the end if λ has shrunk to almost nothing or the latent has lost its spread."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.first_scale: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"first_scale": self.first_scale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.first_scale = state_dict["first_scale"]

    def on_train_epoch_end(self, *_: Any) -> None:
        """Remember the first scale."""
        if self.first_scale is None and bool(torch.isfinite(self.objective.scale).all()):
            self.first_scale = self.objective.scale.clone()

    def on_train_end(self, *_: Any) -> None:
        """Warn of each collapse found."""
        for message in self.findings():
            rank_zero_warn(message, category=IsoviWarning, stacklevel=3)

    def findings(self) -> list[str]:
        """One sentence for each collapse found."""
        found = []
        spread, scale = self.objective.running_spread, self.objective.scale
        if spread < COLLAPSED_SPREAD:
            found.append(
                f"The latent has collapsed: its posterior means spread over {spread:.2g} posterior standard "
                f"deviations (below {COLLAPSED_SPREAD}), so it carries no information about the spots. "
                f"{self._remedy()}"
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
    n_epochs = len(history["elbo_train"])
    kept = next((c.epoch for c in callbacks if isinstance(c, BestEpoch) and c.epoch is not None), None)
    best = n_epochs - 1 if kept is None else trained + kept
    said = [f"Trained {n_epochs - trained} epochs; the state of epoch {best - trained + 1} is kept."]
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
