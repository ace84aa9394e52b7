"""A training that can be gone on with: all of its state in one file, written as epochs end."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from scvi.train import LoudEarlyStopping

from isovi.errors import InputError, IsoviError, OutputError
from isovi.model.hooks import go_on_between_epochs

SHARE = 0.02  # of the time of training that may go into writing; epochs shorter than that are passed over
KEY = "isovi"


class EpochCheckpoint(Callback):
    """Writes all of a training's state at the end of each epoch, and resumes from there.

    The file is Lightning's checkpoint (weights, optimizers, schedulers, callbacks, progress) with what
    it leaves out: random states, the loader's state, history. On a CPU the resumed training equals
    the one that was never interrupted to the last bit. The file is whole at any moment; epochs that
    take less than fifty times as long as writing it may be passed over.

    Parameters
    ----------
    path
        File to write.
    about
        Texts to keep in the file that tell which training it is of;
        :func:`~isovi.model.checkpoint.read_about` returns them.

    Examples
    --------
    Killed at any moment, this resumes when it is run again with the same ``scvi.settings.seed``:

    >>> path = Path("training.ckpt")
    >>> again = {"ckpt_path": path} if path.exists() else {}
    >>> model.train(callbacks=[EpochCheckpoint(path)], **again)  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], about: dict[str, str] | None = None) -> None:
        self.path = Path(path)
        self.about = dict(about or {})
        self.first_epoch = 0
        self._found: dict[str, Any] | None = None
        self._written_at = -np.inf
        self._cost = 0.0

    def on_save_checkpoint(self, trainer: pl.Trainer, _: pl.LightningModule, checkpoint: dict) -> None:
        """Add what Lightning leaves out."""
        loader: Any = trainer.train_dataloader
        checkpoint[KEY] = {
            "about": self.about,
            "split": _split_of(trainer),
            "random": _of_all_processes(trainer, _random_state()),
            "loader": loader.state_dict() if hasattr(loader, "state_dict") else None,
            "history": _history_of(trainer),
            "should_stop": trainer.should_stop,
        }

    def on_load_checkpoint(self, _: pl.Trainer, __: pl.LightningModule, checkpoint: dict) -> None:
        """Take over the progress: Lightning would end the finished epoch a second time."""
        if not isinstance(checkpoint.get(KEY), dict):
            raise InputError(
                "The checkpoint was not written by EpochCheckpoint.",
                "Only such a one holds what is needed to resume.",
                "Leave ckpt_path out to start from the beginning.",
            )
        self._found = {**checkpoint[KEY], "loops": checkpoint.pop("loops")}

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Put everything back, last of all the random states."""
        found, self._found = self._found, None
        if found is not None:
            _require_same_split(trainer, found["split"])
            _restore_progress(trainer, found)
            _restore_history(trainer, found["history"])
            if found["loader"] is not None:
                loader: Any = trainer.train_dataloader
                loader.load_state_dict(found["loader"])
            _restore_random_state(_of_this_process(trainer, found["random"]))
        self.first_epoch = trainer.current_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Write the epoch that has ended: its figures are in the history only now."""
        worthwhile = self._cost <= SHARE * (time.perf_counter() - self._written_at)
        due = trainer.current_epoch > self.first_epoch and worthwhile
        if trainer.strategy.broadcast(due):
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Write the last epoch."""
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        started = time.perf_counter()
        temporary = temporary_of(self.path)
        try:
            trainer.save_checkpoint(temporary)  # by all processes; the first writes
            if trainer.is_global_zero:
                os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            kept = f'resume from the earlier one, "{self.path}"' if self.path.exists() else "start again"
            raise OutputError(
                f'The checkpoint "{self.path}" cannot be written: {error.strerror or error}.',
                "Its folder must be writable and have room.",
                f"Free space, and {kept}.",
            ) from error
        self._written_at = time.perf_counter()
        self._cost = self._written_at - started


def temporary_of(path: Path) -> Path:
    """Where a checkpoint is written before it takes its place."""
    return path.with_name(f".{path.name}.tmp")


def read_about(path: Path) -> dict[str, str]:
    """What :class:`EpochCheckpoint` knows about the training.

    Raises
    ------
    InputError
        If the file is no such checkpoint, or would execute code; the cause is chained.
    """
    kept = _content(path).get(KEY)
    about = kept.get("about") if isinstance(kept, dict) else None
    if not isinstance(about, dict) or not all(isinstance(one, str) for item in about.items() for one in item):
        raise _unreadable(path, "it was not written by EpochCheckpoint")
    return about


def _content(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint holds; nothing in it is executed, and its checksums hold."""
    try:
        _require_checksums(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(path, "it may execute code as it is read, or is damaged") from error
    except Exception as error:  # damaged files make torch raise anything
        raise _unreadable(path, type(error).__name__) from error
    if not isinstance(found, dict):
        raise _unreadable(path, f"it holds a {type(found).__name__}")
    return found


def _require_checksums(path: str | os.PathLike[str]) -> None:
    """Refuse a file whose parts differ from their checksums, which torch does not look at."""
    with zipfile.ZipFile(path) as file:
        whole = not any(part.compress_type for part in file.infolist()) and file.testzip() is None
    if not whole:
        raise zipfile.BadZipFile


def _unreadable(path: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(
        f'"{path}" could not be read ({reason}).',
        "It must be the checkpoint of a training.",
        "Remove it to start from the beginning.",
    )


@contextmanager
def restoring(path: str | os.PathLike[str] | None) -> Iterator[list[Callback]]:
    """Around a training that may resume from a checkpoint: what is wrong with it is an :class:`InputError`.

    Parameters
    ----------
    path
        The checkpoint, if there is one.

    Yields
    ------
    Callbacks for the training, to be its last.
    """
    if path is None or not os.path.isfile(path):  # Lightning has words for some, such as "last"
        yield []
        return
    _content(path)
    watch = _Restoring()
    try:
        yield [watch]
    except IsoviError:
        raise
    except Exception as error:
        if not watch.active:
            raise
        raise InputError(
            f'The training cannot resume from "{path}" ({type(error).__name__}: {error}).',
            "It must be the checkpoint of this training, and complete.",
            "Remove it to start from the beginning.",
        ) from error


class _Restoring(Callback):
    """Knows whether a training is being restored: from its setup until it starts."""

    active = False

    def setup(self, *_: Any, **__: Any) -> None:
        """Begin: what follows is put in place from the checkpoint."""
        self.active = True

    def on_train_start(self, *_: Any) -> None:
        """End."""
        self.active = False


def _restore_progress(trainer: pl.Trainer, found: dict[str, Any]) -> None:
    go_on_between_epochs(trainer, found["loops"])
    trainer.should_stop = found["should_stop"]
    stopping: Any = trainer.early_stopping_callback
    if isinstance(stopping, LoudEarlyStopping):  # which counts its warm-up from here, and not in its state
        n_checks = trainer.current_epoch // (trainer.check_val_every_n_epoch or 1)
        stopping.warmup_epochs = max(stopping.warmup_epochs - n_checks, 0)


def _history_of(trainer: pl.Trainer) -> dict[str, Any]:
    """The history that scvi-tools' logger gathers in the first process, as plain lists."""
    tables = (getattr(trainer.logger, "history", None) or {}) if trainer.is_global_zero else {}
    return {
        name: {
            "index": table.index.tolist(),
            "by": table.index.name,
            "values": table[name].tolist(),
            "dtype": str(table[name].dtype),
        }
        for name, table in tables.items()
    }


def _restore_history(trainer: pl.Trainer, history: dict[str, Any]) -> None:
    if not history or not trainer.is_global_zero:
        return
    logger: Any = trainer.logger
    for name, kept in history.items():
        index = pd.Index(kept["index"], name=kept["by"])
        logger.history[name] = pd.DataFrame({name: kept["values"]}, index=index, dtype=kept["dtype"])


def _split_of(trainer: pl.Trainer) -> str:
    """A digest of which cells are trained on and which are for validation."""
    digest, splitter = hashlib.sha256(), getattr(trainer, "datamodule", None)
    for part in ("train_idx", "val_idx"):
        cells = np.asarray(getattr(splitter, part, []), dtype=np.int64)
        digest.update(f"{part} {len(cells)} ".encode() + cells.tobytes())
    return digest.hexdigest()


def _require_same_split(trainer: pl.Trainer, split: str) -> None:
    if _split_of(trainer) != split:
        raise InputError(
            "The cells are split into training and validation otherwise than in the checkpoint.",
            "A resumed training needs the cells that it began with.",
            "Use the same data, train_size and scvi.settings.seed, or start from the beginning.",
        )


def _random_state() -> dict[str, Any]:
    """States of all global generators, as tensors and plain values."""
    mersenne = np.random.get_state(legacy=False)  # noqa: NPY002  # other libraries' state, put back as it was
    mersenne["state"]["key"] = torch.as_tensor(mersenne["state"]["key"].astype(np.int64))
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate(), "numpy": mersenne}


def _restore_random_state(state: dict[str, Any]) -> None:
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    mersenne = {**state["numpy"], "state": {**state["numpy"]["state"], "key": key}}
    np.random.set_state(mersenne)  # noqa: NPY002  # likewise
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def _of_all_processes(trainer: pl.Trainer, value: Any) -> list[Any]:
    if trainer.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def _of_this_process(trainer: pl.Trainer, values: list[Any]) -> Any:
    if len(values) != trainer.world_size:
        raise InputError(
            f"The checkpoint is of {len(values)} processes, and these are {trainer.world_size}.",
            "A resumed training needs as many as it began with.",
            "Give the same number of devices and nodes.",
        )
    return values[trainer.global_rank]
