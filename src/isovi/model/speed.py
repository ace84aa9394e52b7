"""A cheaper training step with the same outcome: Adam in one pass, averages over epochs logged once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.data import extract_batch_size

from isovi.errors import InputError
from isovi.model.hooks import unchecked_distributions

LOSS = "train_loss"  # as training plans log it


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
    """Mixin over a training plan: what is averaged over an epoch reaches Lightning once, at its last step.

    Lightning inspects signatures and collections at every call of ``log``, which takes longer than much of
    what a small network computes in a step. What comes out is the same. Distributions do not look at their
    parameters in each step, for which a device would have to be waited for: the loss of an epoch tells.
    """

    _batch: Any = None  # of the step in progress

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._averages: dict[bool, dict[str, _Average]] = {True: {}, False: {}}  # of training, of validation

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The plan's own step."""
        with self._in_step(batch):
            return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """The plan's own step."""
        with self._in_step(batch if self._n_validated() < math.inf else None):
            return super().validation_step(batch, batch_idx)

    @contextmanager
    def _in_step(self, batch: Any) -> Iterator[None]:
        self._batch = batch
        try:
            with unchecked_distributions():
                yield
        finally:
            self._batch = None

    def _n_validated(self) -> float | int:
        """Minibatches of the one validation loader; infinite where that is not known."""
        numbers = self.trainer.num_val_batches
        return numbers[0] if len(numbers) == 1 else math.inf

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as the plan would, but take averages over the epoch together first."""
        if kwargs.get("on_step") and kwargs.get("on_epoch") is False and not self._is_written():
            return
        options = {key: kept for key, kept in kwargs.items() if key != "batch_size"}
        mean = not args and options.get("reduce_fx", "mean") == "mean"
        if (
            self._batch is None
            or not mean
            or options.get("on_step") is not False
            or not options.get("on_epoch")
        ):
            self._log_now(name, value, *args, **kwargs)
            return
        size = kwargs.get("batch_size") or extract_batch_size(self._batch)
        self._averages[self.trainer.training].setdefault(name, _Average(options)).add(value, size)

    def _is_written(self) -> bool:
        """Whether the loggers get the values of this step, as far as is known."""
        trainer = self.trainer
        countable = self._batch is not None and trainer.training and self.automatic_optimization
        if not countable or trainer.accumulate_grad_batches != 1 or not trainer.log_every_n_steps:
            return True
        return (trainer.global_step + 1) % trainer.log_every_n_steps == 0

    def on_train_batch_end(self, *args: Any) -> None:
        """Hand the averages over after the last step."""
        super().on_train_batch_end(*args)
        if self.trainer.is_last_batch:
            self._hand_over()

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hand the averages over after the last step."""
        super().on_validation_batch_end(outputs, batch, batch_idx, dataloader_idx)
        if batch_idx + 1 >= self._n_validated():
            self._hand_over()

    def on_train_epoch_end(self) -> None:
        """Hand over what an epoch that was cut short has left."""
        super().on_train_epoch_end()
        self._hand_over()

    def _hand_over(self) -> None:
        averages = self._averages[self.trainer.training]
        if LOSS in averages:
            _require_finite(float(averages[LOSS].value), self.trainer.current_epoch + 1)
        while averages:
            name, average = averages.popitem()
            self._log_now(name, average.value, batch_size=average.size, **average.options)

    def _log_now(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log outside of inference mode: Lightning averages what it keeps over processes, in place.

        A number, such as the weight of the KL term, stays on the host: Lightning would send it to the device,
        and wait for it to come back.
        """
        if isinstance(value, int | float) and not kwargs.get("sync_dist"):
            value = torch.tensor(float(value))
        with torch.inference_mode(False), torch.no_grad():
            super().log(name, value, *args, **kwargs)


@dataclass
class _Average:
    """Weighted sum of the numbers logged under one name; a metric of torchmetrics takes its own."""

    options: dict[str, Any]
    total: Any = 0.0
    size: int = 0
    metric: Any = None

    def add(self, value: Any, size: int) -> None:
        self.size += size
        if isinstance(value, torch.Tensor):
            self.total = self.total + value.detach() * size
        elif isinstance(value, int | float):
            self.total = self.total + value * size
        else:
            self.metric = value

    @property
    def value(self) -> Any:
        return self.total / self.size if self.metric is None else self.metric


def _require_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise InputError(
            f"The loss of epoch {epoch} is {loss}.",
            "Training needs a finite one: the network has lost its way, or expression has extreme values.",
            'Train with a lower learning rate, plan_kwargs={"lr": 1e-4}, or look at the largest counts.',
        )


@functools.cache
def logging_by_epoch(plan: type) -> type:
    """The training plan's class with :class:`EpochLog` mixed in, under its own name."""
    return type(plan.__name__, (EpochLog, plan), {"__module__": __name__})
