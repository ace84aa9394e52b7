from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from isovi import AllPairs, Constraint, EpochCheckpoint, InputError, IsoSCVI, Neighbors
from isovi.model import checkpoint
from isovi.model.checkpoint import read_about

EPOCHS = 5


class Kill(Callback):
    """Ends the training in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("killed")


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is written, however short."""
    monkeypatch.setattr(checkpoint, "SHARE", np.inf)


@pytest.fixture
def trained(make_tissue: Callable, quickly: Callable) -> Callable[..., Any]:
    """A model trained with callbacks; always the same but for these."""

    def train(*callbacks: Callback, seed: int = 0, model: dict | None = None, **kwargs: Any) -> Any:
        scvi.settings.seed = seed
        adata = make_tissue()
        IsoSCVI.setup_anndata(adata, section_key="section")
        made = IsoSCVI(adata, n_latent=3, n_hidden=16, **(model or {}))
        return quickly(made, max_epochs=EPOCHS, callbacks=list(callbacks), **kwargs)

    return train


def assert_same(first: Any, second: Any) -> None:
    """Weights, state of the objective, history, summary and latent, to the last bit."""
    states = first.module.state_dict(), second.module.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        np.testing.assert_array_equal(value.numpy(), states[1][name].numpy(), name)
    assert first.history_.keys() == second.history_.keys()
    for name, table in first.history_.items():
        pd.testing.assert_frame_equal(table, second.history_[name], check_exact=True)
    assert first.training_summary_ == second.training_summary_
    np.testing.assert_array_equal(first.get_latent_representation(), second.get_latent_representation())


LEARNED = {"pairs": Neighbors(4), "distortion": Constraint(0.3, scale="learned", per_section=True)}


@pytest.mark.parametrize(
    ("model", "kwargs"),
    [
        ({"pairs": AllPairs()}, {}),
        ({"pairs": Neighbors(6)}, {}),
        (LEARNED, {"early_stopping": False}),
        ({}, {"plan_kwargs": {"reduce_lr_on_plateau": True, "lr_patience": 0}, "early_stopping_patience": 2}),
    ],
    ids=["all", "knn", "learned", "schedule"],
)
def test_going_on_equals_never_having_stopped(
    trained: Callable, tmp_path: Path, model: dict, kwargs: dict
) -> None:
    file = tmp_path / "x.ckpt"
    whole = trained(model=model, **kwargs)
    with pytest.raises(RuntimeError, match="killed"):
        trained(EpochCheckpoint(file), Kill(3), model=model, **kwargs)
    watched = EpochCheckpoint(file)
    assert_same(whole, trained(watched, ckpt_path=file, model=model, **kwargs))
    assert watched.first_epoch == 3


def test_writing_changes_nothing_and_a_finished_training_is_not_repeated(
    trained: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "x.ckpt"
    whole = trained()
    assert_same(whole, trained(EpochCheckpoint(file)))
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]
    watched = EpochCheckpoint(file)
    assert_same(whole, trained(watched, Kill(EPOCHS), ckpt_path=file))
    assert watched.first_epoch == EPOCHS


def test_a_training_that_stopped_early_stays_stopped(trained: Callable, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    asked = {"early_stopping_patience": 1, "early_stopping_min_delta": 1e9}
    whole = trained(EpochCheckpoint(file), **asked)
    assert len(whole.history_["elbo_train"]) < EPOCHS
    assert_same(whole, trained(EpochCheckpoint(file), ckpt_path=file, **asked))


@pytest.mark.parametrize(("killed", "warm_up", "n_epochs"), [(1, 2, 4), (3, 2, 4), (2, 1, 3)])
def test_the_warm_up_of_early_stopping_does_not_begin_anew(
    trained: Callable, tmp_path: Path, killed: int, warm_up: int, n_epochs: int
) -> None:
    file = tmp_path / "x.ckpt"
    asked = {"early_stopping_patience": 1, "early_stopping_min_delta": 1e9}
    asked["early_stopping_warmup_epochs"] = warm_up
    whole = trained(**asked)
    assert len(whole.history_["elbo_train"]) == n_epochs, "one after the warm-up, and one of patience"
    with pytest.raises(RuntimeError, match="killed"):
        trained(EpochCheckpoint(file), Kill(killed), **asked)
    assert_same(whole, trained(EpochCheckpoint(file), ckpt_path=file, **asked))


@pytest.mark.parametrize(("cost", "epochs"), [(0.0, [1, 2, 3, 4, EPOCHS]), (1e6, [EPOCHS])])
def test_epochs_much_shorter_than_writing_are_passed_over(
    trained: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, epochs: list[int]
) -> None:
    written: list[int] = []
    monkeypatch.setattr(checkpoint, "SHARE", 0.02)
    monkeypatch.setattr(EpochCheckpoint, "_write", lambda _, trainer: written.append(trainer.current_epoch))
    asked = EpochCheckpoint(tmp_path / "x.ckpt")
    asked._written_at, asked._cost = time.perf_counter(), cost
    trained(asked)
    assert written == epochs


# ------------------------------------------------------------------ what is refused


def test_another_split_is_refused(trained: Callable, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    trained(EpochCheckpoint(file))
    with pytest.raises(InputError, match=r"otherwise than in the checkpoint.*scvi.settings.seed"):
        trained(EpochCheckpoint(file), ckpt_path=file, seed=1)


def test_another_number_of_processes_is_refused() -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(InputError, match="of 2 processes, and these are 1"):
        checkpoint._of_this_process(trainer, ["a", "b"])


def test_checkpoints_of_others_are_refused(trained: Callable, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    model = trained()
    model.trainer.save_checkpoint(file)
    with pytest.raises(InputError, match="not written by EpochCheckpoint"):
        trained(EpochCheckpoint(file), ckpt_path=file)
    with pytest.raises(InputError, match="not written by EpochCheckpoint"):
        read_about(file)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.ckpt"
    file.write_bytes(content)
    with pytest.raises(InputError, match="could not be read"):
        read_about(file)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_in_a_checkpoint_is_not_executed(trained: Callable, tmp_path: Path) -> None:
    file, mark = tmp_path / "x.ckpt", tmp_path / "executed"
    trained(EpochCheckpoint(file))
    content = torch.load(file, weights_only=True)
    torch.save({**content, "payload": Payload(mark)}, file)
    for use in (lambda: read_about(file), lambda: trained(EpochCheckpoint(file), ckpt_path=file)):
        with pytest.raises(InputError, match="may execute code"):
            use()
        assert not mark.exists()
    with pytest.raises(InputError, match="may execute code"):
        trained(ckpt_path=str(file), model={"distortion": None})
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists(), "the payload works"


@pytest.fixture(scope="module")
def written(make_tissue: Callable, quickly: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an epoch."""
    file = tmp_path_factory.mktemp("checkpoint") / "x.ckpt"
    scvi.settings.seed = 0
    adata = make_tissue()
    IsoSCVI.setup_anndata(adata, section_key="section")
    quickly(IsoSCVI(adata, n_latent=3, n_hidden=16), max_epochs=1, callbacks=[EpochCheckpoint(file)])
    return file


OTHERS = {
    "a list": lambda _: [1, 2],
    "a number": lambda _: 3,
    "nothing": lambda _: {},
    "ours is a list": lambda found: {**found, "isovi": [1]},
    "about is a list": lambda found: {**found, "isovi": {**found["isovi"], "about": [1]}},
    "about holds numbers": lambda found: {**found, "isovi": {**found["isovi"], "about": {"a": 1}}},
}
WITHIN = {
    "loops": lambda found: {**found, "loops": 3},
    "no loops": lambda found: {name: part for name, part in found.items() if name != "loops"},
    "weights": lambda found: {**found, "state_dict": {"a": torch.zeros(3)}},
    "weights of text": lambda found: {**found, "state_dict": dict.fromkeys(found["state_dict"], "a")},
    "optimizers": lambda found: {**found, "optimizer_states": "none"},
    "callbacks": lambda found: {**found, "callbacks": 1.5},
    **{
        part: lambda found, part=part: {**found, "isovi": {**found["isovi"], part: 3}}
        for part in ("split", "random", "history")
    },
    "no random": lambda found: {**found, "isovi": {n: v for n, v in found["isovi"].items() if n != "random"}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_checkpoint_is_refused(written: Path, tmp_path: Path, name: str) -> None:
    torch.save(OTHERS[name](torch.load(written, weights_only=True)), tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="could not be read"):
        read_about(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", WITHIN)
def test_parts_of_other_types_are_refused(
    trained: Callable, written: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "x.ckpt"
    torch.save(WITHIN[name](torch.load(written, weights_only=True)), file)
    with pytest.raises(InputError):
        trained(EpochCheckpoint(file), ckpt_path=file)


def test_other_errors_of_a_resumed_training_stay_what_they_are(trained: Callable, written: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        trained(Kill(2), EpochCheckpoint(written), ckpt_path=written)
    with pytest.raises(TypeError, match="nonsense"):
        trained(EpochCheckpoint(written), ckpt_path=written, nonsense=1)


def test_what_it_was_told_can_be_read(trained: Callable, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    trained(EpochCheckpoint(file, {"seed": "0"}))
    assert read_about(file) == {"seed": "0"}


# ------------------------------------------------------------------ random states


def test_random_states_are_put_back() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.normal()), float(torch.rand(()))  # noqa: NPY002

    draw()  # an odd number of normal draws leaves one in store
    state = checkpoint._random_state()
    first = [draw() for _ in range(3)]
    checkpoint._restore_random_state(state)
    assert [draw() for _ in range(3)] == first
