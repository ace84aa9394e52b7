"""Training in several processes: one state of the objective for all of them."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from scvi.train import LoudEarlyStopping

from isovi.errors import IsoviError
from isovi.model.hooks import STOPPING_DISABLED
from isovi.model.objective import Objective

logger = logging.getLogger(__name__)

STOPPED = {-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM}  # by the user
_UNREACHED = re.compile(
    r"gloo/transport|ncclRemoteError|ncclSystemError|NCCL communicator was aborted|by peer"
)
STRATEGY = "ddp_find_unused_parameters_true"  # scVI has parameters that its loss does not use


def is_distributed(arguments: dict[str, Any]) -> bool:
    """Whether arguments of a training ask for several processes.

    Parameters
    ----------
    arguments
        Of ``train``. Several devices or nodes without a strategy get :data:`STRATEGY`, in place.
    """
    if n_devices(arguments) * arguments.get("num_nodes", 1) > 1:
        arguments.setdefault("strategy", STRATEGY)
    strategy = arguments.get("strategy")
    return isinstance(strategy, DDPStrategy) or (isinstance(strategy, str) and "ddp" in strategy)


def is_first_process() -> bool:
    """Whether this is the first of several processes, as their launcher tells in the environment."""
    rank = getattr(rank_zero_only, "rank", 0)  # Lightning reads it from the launcher's variables
    return rank == 0 and int(os.environ.get("NODE_RANK", "0")) == 0


def n_devices(arguments: dict[str, Any]) -> int:
    """Devices on this machine that are asked for by number or as a list; one otherwise."""
    asked = arguments.get("devices", 1)
    if isinstance(asked, list | tuple):
        return len(asked)
    return int(asked) if isinstance(asked, int) or str(asked).isdecimal() else 1


def stop_together(arguments: dict[str, Any], stops_early: bool) -> dict[str, Any]:
    """Arguments of a training with early stopping that works in several processes.

    scvi-tools turns its own off there. The monitored figures are summed over all processes, so each
    of them comes to the same decision.

    Parameters
    ----------
    arguments
        Of ``train``.
    stops_early
        Whether early stopping is asked for.
    """
    given = {
        name: arguments.pop(f"early_stopping_{name}", default)
        for name, default in (
            ("monitor", "elbo_validation"),
            ("min_delta", 0.0),
            ("patience", 45),
            ("warmup_epochs", 0),
            ("mode", "min"),
        )
    }
    if not stops_early:
        return arguments
    callbacks = [*(arguments.get("callbacks") or []), LoudEarlyStopping(**given)]
    return {"check_val_every_n_epoch": 1, **arguments, "early_stopping": False, "callbacks": callbacks}


@contextmanager
def as_in_one_process(arguments: dict[str, Any]) -> Iterator[None]:
    """Without two habits of scvi-tools with several processes, and with an error that says what was lost.

    It says that early stopping was turned off, which :func:`stop_together` has put back, and writes the
    history to the working directory.

    Parameters
    ----------
    arguments
        Of ``train``; changed in place.

    Raises
    ------
    IsoviError
        If the other processes cannot be reached any more.
    """
    with tempfile.TemporaryDirectory(prefix="isovi-") as folder, warnings.catch_warnings():
        arguments["log_save_dir"] = arguments.get("log_save_dir") or folder
        warnings.filterwarnings("ignore", message=STOPPING_DISABLED)
        try:
            yield
        except RuntimeError as error:
            if not _UNREACHED.search(str(error)):
                raise
            first_sentence = str(error).partition(". ")[0]
            raise IsoviError(
                f"Another process of the training has ended, or cannot be reached: {first_sentence}.",
                "All of them take part in every step.",
                "See what the other said. Run it again with resume=True, which resumes after the last "
                "finished epoch.",
            ) from error


class Processes(Callback):
    """Keeps the objective's state, and at last every buffer, the same in all processes.

    Each process fits λ to its own minibatch, as one process does to each of its minibatches; the
    running averages of λ and of the distortion, which decide about the multiplier, are averaged.

    Parameters
    ----------
    objective
        The module's objective, shared.
    """

    def __init__(self, objective: Objective | None) -> None:
        self.objective = objective
        self._over = threading.Event()

    def on_fit_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Draw other random numbers in each process, and watch those that this one started."""
        torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        if started := getattr(trainer.strategy.launcher, "procs", None):
            threading.Thread(target=say_if_one_is_lost, args=(started, self._over), daemon=True).start()

    def on_exception(self, _: pl.Trainer, __: pl.LightningModule, exception: BaseException) -> None:
        """Stop watching, unless it may come of a process that is lost, which others notice when they meet."""
        if not isinstance(exception, RuntimeError):
            self._over.set()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Average the state over the processes that know it."""
        if self.objective is not None:
            average(self.objective.averages(), trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take buffers, such as the means of batch normalisation, from the first process."""
        self._over.set()
        for buffer in pl_module.buffers():
            buffer.copy_(trainer.strategy.broadcast(buffer))


def say_if_one_is_lost(
    started: Sequence[subprocess.Popen], over: threading.Event, every: float = 0.1
) -> None:
    """Say which process ended before the training did; Lightning then kills the others without a word.

    Parameters
    ----------
    started
        The processes.
    over
        Set when the training has ended.
    every
        Seconds between two looks.
    """
    while not over.wait(every):
        for process in started:
            status = process.poll()
            if status and status not in STOPPED:
                logger.error(
                    "Process %d of the training ended with status %d, so the others are stopped. Run it "
                    "again with resume=True, which resumes after the last finished epoch.",
                    process.pid,
                    status,
                )
                return


@torch.no_grad()
def average(states: list[torch.Tensor], trainer: pl.Trainer) -> None:
    """Replace each number by its mean over the processes where it is finite."""
    flat = torch.cat([state.reshape(-1) for state in states])
    known = torch.isfinite(flat)
    sums = torch.stack([torch.where(known, flat, 0.0), known.to(flat)])
    total, count = trainer.strategy.reduce(sums, reduce_op="sum")
    mean = torch.where(count > 0, total / count, flat)
    for state, values in zip(states, mean.split([state.numel() for state in states]), strict=True):
        state.copy_(values.view_as(state))
