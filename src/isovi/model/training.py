"""Callbacks of a training: dual ascent, the best epoch, a check for collapse. The record of its outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from isovi.errors import IsoviWarning
from isovi.graph import PairWeights
from isovi.interrupts import Handlers, Interrupted
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

    The first is set when the warm-up ends: ``LIMIT_SHARE`` times the balance
    (``weigh``). The second is validation distortion: if it has not
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
    stalled_at, limited_at
        Epoch, counted from 0, in which the multiplier was frozen, and in which it first reached its limit;
        ``None`` if it never was or did.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.best = math.inf
        self.waited = 0
        self.stalled_at: int | None = None
        self.limited_at: int | None = None
        self.log_ceiling = math.inf
        self._limited: torch.Tensor | None = None  # whether the multiplier was at its limit, on the device

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        kept = ("best", "waited", "stalled_at", "limited_at", "log_ceiling")
        return {name: getattr(self, name) for name in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.__dict__.update(state_dict)

    def on_fit_start(self, *_: Any) -> None:
        """Forget what was evaluated before."""
        self.objective.noted(training=False)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take a step once the warm-up is over; log at the last minibatch of an epoch."""
        if trainer.current_epoch >= WARM_UP_EPOCHS or trainer.global_step >= WARM_UP_STEPS:
            self.objective.ascend()
            self.objective.log_multiplier.clamp_(max=self.log_ceiling)
            if self._limited is None:  # the first step, of this training or after an interruption
                self.objective.settle()
            reached = self.objective.reaches_limit
            self._limited = reached if self._limited is None else self._limited | reached
        if trainer.is_last_batch:
            self._end_epoch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the rest of an epoch that was cut short."""
        self._end_epoch(trainer, pl_module)

    def _end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read what the steps left on the device."""
        self._log(trainer, pl_module, "train")
        if self._limited is not None:
            self.objective.settle()
            if self.limited_at is None and bool(self._limited):
                self.limited_at = trainer.current_epoch

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule, part: str) -> dict[str, float]:
        found = self.objective.noted(
            part == "train", lambda sums: trainer.strategy.reduce(sums, reduce_op="sum")
        )
        for name, value in found.items():
            pl_module.log(f"{name}_{part}", value, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        return found

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the multiplier if validation distortion no longer falls."""
        current = self._log(trainer, pl_module, "validation").get("relative_distortion")
        if current is None or math.isinf(float(self.objective.log_multiplier)):
            return
        if current < (1 - NOTICEABLE) * self.best:
            self.best, self.waited = current, 0
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
        """Warn about each collapse that was found."""
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


def n_epochs(history: dict[str, pd.DataFrame]) -> int:
    """Epochs of a history; their ELBO has another name if that of each step is logged as well."""
    return len(history["elbo_train" if "elbo_train" in history else "elbo_train_epoch"])


Reason = Literal["met", "limit", "stalled", "selection", "epochs"]


@dataclass(frozen=True)
class TrainingOutcome:
    """What a training reached, and why a constraint was or was not met.

    All fields are plain values, so that ``dataclasses.asdict`` can be stored as JSON; ``str`` gives the
    summary. Epochs are counted from 1 within this training.

    Attributes
    ----------
    n_epochs, kept_epoch
        Number of epochs trained, and the epoch whose state the model has.
    train_distortion, validation_distortion
        Relative distortion in that epoch; ``None`` if it was not measured.
    target
        Of the constraint; ``None`` without one, as for the fields below.
    reason
        ``"met"``: training distortion is at most 5 % above the target. Otherwise what prevented that:
        ``"limit"``, the multiplier was at its limit; ``"stalled"``, it was frozen because validation
        distortion no longer fell; ``"selection"``, other epochs met the target, but not the one that is
        kept; ``"epochs"``, the multiplier was still rising, or the warm-up was not over.
    multiplier, limit
        The multiplier in the kept epoch, and its limit; ``None`` for the limit during the warm-up.
    limited_epoch, stalled_epoch
        Epoch in which the multiplier first reached its limit, and in which it was frozen; ``None`` if it
        never was.
    lowest_validation_distortion
        Lowest relative distortion of validation spots since the constraint acted, of any epoch.
    """

    n_epochs: int
    kept_epoch: int
    train_distortion: float | None = None
    validation_distortion: float | None = None
    target: float | None = None
    reason: Reason | None = None
    multiplier: float | None = None
    limit: float | None = None
    limited_epoch: int | None = None
    stalled_epoch: int | None = None
    lowest_validation_distortion: float | None = None

    def __str__(self) -> str:
        said = [f"Trained {self.n_epochs} epochs; the state of epoch {self.kept_epoch} is kept."]
        parts = (("training", self.train_distortion), ("validation", self.validation_distortion))
        reached = [f"{value:.3f} on {part} spots" for part, value in parts if value is not None]
        if reached:
            said.append(f"Relative distortion: {', '.join(reached)}.")
        if self.reason is not None:
            said.append(self._verdict())
        if self.stalled_epoch is not None and self.reason != "stalled":
            said.append(f"From epoch {self.stalled_epoch} on the multiplier was frozen, {self._stall()}.")
        return " ".join(said)

    def _verdict(self) -> str:
        if self.reason == "met":
            return f"The constraint of {self.target:g} holds on training spots."
        return f"The constraint of {self.target:g} was not met: {self.why}"

    @property
    def why(self) -> str:
        """What prevented the constraint, and what to do; empty if it was met or there was none."""
        if self.reason in (None, "met"):
            return ""
        if self.reason == "limit":
            return (
                f"the multiplier was at its limit of {self.limit or 0:.3g}, first reached in epoch "
                f"{self.limited_epoch}, which keeps distances from outweighing the likelihood. Loosen the "
                "target, or use a Penalty with a larger weight, which has no limit and may cost likelihood."
            )
        if self.reason == "stalled":
            frozen = f"the multiplier was frozen in epoch {self.stalled_epoch}"
            return f"{frozen}, {self._stall()}. Loosen the target."
        if self.reason == "selection":
            return "it held in other epochs, but not in the kept one. Loosen the target."
        if self.multiplier:
            return (
                "the multiplier was still rising in that epoch. Train for more epochs or loosen the target."
            )
        return (
            "the warm-up was not over. Train for more epochs: it takes "
            f"{WARM_UP_EPOCHS} epochs, or {WARM_UP_STEPS:,} steps if these are fewer."
        )

    def _stall(self) -> str:
        return (
            "because distortion of validation spots no longer fell "
            f"(lowest {self.lowest_validation_distortion:.3f}) and a larger multiplier would only memorise "
            "training positions"
        )


def outcome(
    callbacks: list[Callback],
    distortion: Distortion | None,
    history: dict[str, pd.DataFrame],
    trained: int = 0,
) -> TrainingOutcome:
    """Record what a training reached.

    Parameters
    ----------
    callbacks
        The callbacks of the training, after its end: the objective is that of the kept epoch.
    distortion
        The model's objective on distances.
    history
        The model's history, one table for each metric.
    trained
        Number of its epochs that belong to earlier trainings.
    """
    count = n_epochs(history) - trained
    last = count - 1
    kept = next((c.epoch for c in callbacks if isinstance(c, BestEpoch) and c.epoch is not None), last)

    def distortions(part: str) -> pd.Series:
        table = history.get(f"relative_distortion_{part}", pd.DataFrame({"": [math.nan]}))
        return table.iloc[:, 0].reindex(range(trained, trained + count)).astype(float)

    train, validation = distortions("train"), distortions("validation")
    found = TrainingOutcome(count, kept + 1, _plain(train.iloc[kept]), _plain(validation.iloc[kept]))
    ascent = next((c for c in callbacks if isinstance(c, DualAscent)), None)
    if ascent is None or not isinstance(distortion, Constraint) or found.train_distortion is None:
        return found
    objective, tolerated = ascent.objective, distortion.target * (1 + TOLERANCE)
    reason: Reason = "epochs"
    if found.train_distortion <= tolerated:
        reason = "met"
    elif ascent.stalled_at is not None and ascent.stalled_at <= kept and not objective.at_limit:
        reason = "stalled"
    elif bool((train <= tolerated).any()):
        reason = "selection"
    elif objective.at_limit:
        reason = "limit"
    return replace(
        found,
        target=distortion.target,
        reason=reason,
        multiplier=float(objective.multiplier),
        limit=_plain(objective.log_limit.exp()),
        limited_epoch=None if ascent.limited_at is None else ascent.limited_at + 1,
        stalled_epoch=None if ascent.stalled_at is None else ascent.stalled_at + 1,
        lowest_validation_distortion=_plain(ascent.best),
    )


def _plain(value: Any) -> float | None:
    """A number for JSON; None instead of NaN and infinity."""
    return float(value) if math.isfinite(float(value)) else None


class PairBinding(Callback):
    """Binds the pairs that count to the training data, once it is known how the data is split.

    Parameters
    ----------
    weights
        Makes the pair weights, given the rows of the held-out and of the training spots.
    objective
        The module's objective, which takes them.
    """

    def __init__(
        self, weights: Callable[[np.ndarray, np.ndarray], PairWeights], objective: Objective
    ) -> None:
        self.weights, self.objective = weights, objective

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Bind them; the data splitter has split by now."""
        splitter: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        parts = (getattr(splitter, name, None) for name in ("test_idx", "train_idx"))
        rows = (np.asarray([] if part is None else part, dtype=np.int64) for part in parts)
        self.objective.weights = self.weights(*rows)


class Interruptible(Callback):
    """Lets signals stop a training as they stop the rest of the program.

    Lightning turns SIGTERM into a quiet end of the program with status 0, and waits for all processes first,
    which may wait for each other. Handlers are those of the time when this is made.
    """

    def __init__(self) -> None:
        self.handlers = Handlers()

    def on_train_start(self, *_: Any) -> None:
        """Put back the handlers that Lightning has replaced by now."""
        self.handlers.restore()

    def on_exception(self, trainer: pl.Trainer, _: pl.LightningModule, exception: BaseException) -> None:
        """Stop the processes that were launched by this one as well."""
        launcher = trainer.strategy.launcher
        if launcher is not None and isinstance(exception, Interrupted):
            launcher.kill(exception.signal)
