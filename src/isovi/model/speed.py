"""What makes a training step cheaper and changes nothing else: Adam in one pass, epoch averages logged once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.data import extract_batch_size
from torchmetrics import Metric


class FusedAdam(Callback):
    """Has Adam update each parameter in one pass over memory (torch's ``fused``), as scvi-tools 1.5 does.

    An optimizer for which an implementation was chosen keeps it.
    """

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Set ``fused`` where nothing was chosen."""
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, torch.optim.Adam):
                for group in optimizer.param_groups:
                    group["fused"] = group["fused"] or (_is_open(group) or None)


def _is_open(group: dict[str, Any]) -> bool:
    chosen = group["fused"] is not None or group["foreach"] is not None
    other = group["capturable"] or group["differentiable"]
    fit = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in group["params"])
    return fit and not chosen and not other


class EpochLog:
    """Mixin over a training plan: what is averaged over the epoch reaches Lightning once, at its last step.

    Lightning inspects signatures and collections at every call of ``log``, which takes longer than what a
    small network computes in a step. The averages are the same.
    """

    _batch: Any = None  # of the step in progress

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._averages: dict[str, _Average] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The plan's own step."""
        self._batch = batch
        try:
            return super().training_step(batch, batch_idx)
        finally:
            self._batch = None

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as the plan would, but take averages over the epoch together first."""
        options = {key: kept for key, kept in kwargs.items() if key != "batch_size"}
        mean = not args and options.get("reduce_fx", "mean") == "mean"
        if self._batch is None or not mean or options.get("on_step") is not False or not options.get("on_epoch"):
            super().log(name, value, *args, **kwargs)
            return
        size = kwargs.get("batch_size") or extract_batch_size(self._batch)
        self._averages.setdefault(name, _Average(options)).add(value, size)

    def on_train_batch_end(self, *args: Any) -> None:
        """Hand the averages over after the last step."""
        super().on_train_batch_end(*args)
        if self.trainer.is_last_batch:
            self._hand_over()

    def on_train_epoch_end(self) -> None:
        """Hand over what an epoch that was cut short has left."""
        super().on_train_epoch_end()
        self._hand_over()

    def _hand_over(self) -> None:
        averages, self._averages = self._averages, {}
        for name, average in averages.items():
            super().log(name, average.value, batch_size=average.size, **average.options)


@dataclass
class _Average:
    """Weighted sum of what was logged under one name; a metric keeps its own."""

    options: dict[str, Any]
    total: Any = 0.0
    size: int = 0

    def add(self, value: Any, size: int) -> None:
        self.size += size
        if isinstance(value, Metric):
            self.total = value
        else:
            self.total = self.total + (value.detach() if isinstance(value, torch.Tensor) else value) * size

    @property
    def value(self) -> Any:
        return self.total if isinstance(self.total, Metric) else self.total / self.size


@functools.cache
def logging_by_epoch(plan: type) -> type:
    """The training plan's class with :class:`EpochLog` mixed in, under its own name."""
    return type(plan.__name__, (EpochLog, plan), {"__module__": __name__})
