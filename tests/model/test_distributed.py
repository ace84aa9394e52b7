from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from anndata import AnnData
from lightning.pytorch.strategies import DDPStrategy
from scvi.train import LoudEarlyStopping, Trainer, TrainingPlan

from isovi import Constraint, IsoSCVI
from isovi.data.pack import pack
from isovi.errors import IsoviError
from isovi.model import distributed
from isovi.model.distributed import (
    STRATEGY,
    as_in_one_process,
    average,
    is_distributed,
    is_first_process,
    stop_together,
)
from isovi.model.objective import Objective
from isovi.simulate import simulate

# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ({}, False),
        ({"devices": 1}, False),
        ({"devices": "auto"}, False),
        ({"devices": [3]}, False),
        ({"devices": 2}, True),
        ({"devices": "2"}, True),
        ({"devices": [0, 1]}, True),
        ({"num_nodes": 2}, True),
        ({"strategy": "ddp"}, True),
        ({"strategy": DDPStrategy()}, True),
        ({"strategy": "auto"}, False),
    ],
)
def test_several_processes_are_recognised(arguments: dict[str, Any], asked: bool) -> None:
    given = arguments.get("strategy")
    assert is_distributed(arguments) is asked
    assert arguments.get("strategy", given) == (given or (STRATEGY if asked else given))


def test_early_stopping_is_put_back() -> None:
    arguments = {"early_stopping": True, "early_stopping_patience": 7, "callbacks": ["a"], "lr": 1}
    found = stop_together(arguments, True)
    assert found.pop("callbacks")[0] == "a"
    assert found == {"early_stopping": False, "check_val_every_n_epoch": 1, "lr": 1}
    stopping = stop_together({"early_stopping_patience": 7, "early_stopping_mode": "max"}, True)["callbacks"][
        0
    ]
    assert isinstance(stopping, LoudEarlyStopping)
    assert (stopping.patience, stopping.mode, stopping.monitor) == (7, "max", "elbo_validation")
    assert stop_together({"lr": 1}, False) == {"lr": 1}


@pytest.mark.parametrize(("rank", "node", "first"), [(0, None, True), (0, "1", False), (1, None, False)])
def test_the_first_process_is_on_the_first_machine(
    monkeypatch: pytest.MonkeyPatch, rank: int, node: str | None, first: bool
) -> None:
    monkeypatch.setattr(distributed.rank_zero_only, "rank", rank)
    monkeypatch.delenv("NODE_RANK", raising=False)
    if node is not None:
        monkeypatch.setenv("NODE_RANK", node)
    assert is_first_process() is first


def test_nothing_is_said_or_written_that_one_process_would_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"strategy": "ddp", "log_save_dir": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with as_in_one_process(arguments):
            trainer = Trainer(accelerator="cpu", devices=1, **arguments)
            trainer.logger.finalize("success")
            folder = Path(arguments["log_save_dir"])
            assert list(folder.rglob("*.pkl"))
    assert not folder.exists() and not list(tmp_path.iterdir())
    given = {"log_save_dir": str(tmp_path)}
    with as_in_one_process(given):
        assert given == {"log_save_dir": str(tmp_path)}


# ------------------------------------------------------------------ one state


def trainer_beside(*others: torch.Tensor) -> Any:
    """A trainer whose other processes have these states."""
    known = [torch.stack([torch.nan_to_num(one), torch.isfinite(one).float()]) for one in others]
    trainer = Mock(spec=pl.Trainer)
    trainer.strategy.reduce = lambda sums, **_: sum(known, sums)
    return trainer


def test_states_are_averaged_where_they_are_known() -> None:
    first, second = torch.tensor([1.0, math.nan, math.nan]), torch.tensor([[2.0]])
    average([first, second], trainer_beside(torch.tensor([3.0, 5.0, math.nan, 6.0])))
    assert first[:2].tolist() == [2.0, 5.0] and math.isnan(first[2])
    assert second.tolist() == [[4.0]]


@pytest.mark.parametrize(("scale", "n"), [("profiled", 2), ("learned", 3)])
def test_what_follows_minibatches_is_averaged(scale: Any, n: int) -> None:
    objective = Objective(Constraint(0.2, scale=scale, per_section=True), 4)
    states = objective.averages()
    assert len(states) == n
    states[0].fill_(7.0)
    assert objective.scale.tolist() == [7.0] * 4, "they are the state, not a copy"


def test_what_a_process_without_pairs_reports_is_that_of_the_others() -> None:
    """Every process logs the same names, or they would wait for each other."""
    objective = Objective(Constraint(0.2), 1)
    points = torch.arange(12.0).reshape(6, 2)
    alone = objective(points, points + 1, points, points, torch.arange(6), torch.arange(6))
    objective.note(alone, 6)
    found = objective.noted(reduce=lambda sums: sums + torch.tensor([0.3 * 20, 0.0, 20.0]))
    assert found["relative_distortion"] == pytest.approx(0.3)
    assert set(found) == {"relative_distortion", "distance_scale", "multiplier"}


def test_the_restored_epoch_is_what_the_processes_share_at_the_end(tissue: AnnData) -> None:
    """Each process keeps its own buffers, such as the means of batch normalisation, with its best epoch."""
    IsoSCVI.setup_anndata(tissue)
    model = IsoSCVI(tissue, n_hidden=8, n_latent=3)
    callbacks = model._callbacks(model.module.objective, {"early_stopping": True}, shared=True)
    plan = TrainingPlan(model.module)
    trainer = Mock(spec=pl.Trainer)
    trainer.callback_metrics, trainer.current_epoch = {"elbo_validation": torch.tensor(1.0)}, 0
    trainer.strategy.broadcast = lambda mine: torch.full_like(mine, 7)  # the first process has other buffers
    weight = model.module.z_encoder.mean_encoder.weight
    best = weight.detach().clone()
    for callback in callbacks:
        callback.on_validation_end(trainer, plan)
    weight.data.fill_(0.0)
    for callback in callbacks:
        callback.on_train_end(trainer, plan)
    assert torch.equal(weight, best)
    assert all(bool((buffer == 7).all()) for buffer in plan.buffers())


# ------------------------------------------------------------------ two processes


@pytest.mark.parametrize(
    ("end", "said"), [("os.kill(os.getpid(), 9)", True), ("exit(143)", False), ("exit()", False)]
)
def test_a_process_that_is_lost_is_named(end: str, said: bool, caplog: pytest.LogCaptureFixture) -> None:
    with subprocess.Popen([sys.executable, "-c", f"import os; {end}"]) as process:
        process.wait()
    over = threading.Event()
    threading.Timer(0.2, over.set).start()
    distributed.say_if_one_is_lost([process], over, every=0.01)
    assert [f"Process {process.pid} of the training ended with status -9" in caplog.text] == [said]
    assert bool(caplog.records) == said


def test_only_what_comes_of_a_lost_process_is_said_to() -> None:
    with (
        pytest.raises(IsoviError, match=r"ended, or cannot be reached: .*10.0.0.2\]\. All .* resume=True"),
        distributed.as_in_one_process({}),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]. This is")
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), distributed.as_in_one_process({}):
        raise RuntimeError("size mismatch")


SCRIPT = """
import sys
from pathlib import Path
import scvi, torch
from lightning.pytorch.callbacks import Callback
from isovi import Constraint, EpochCheckpoint, IsoSCVI
from isovi.data.fields import CELL
from isovi.data.pack import open_packed
from isovi.graph import parse_pairs
from isovi.model import training
from isovi.simulate import simulate

training.WARM_UP_EPOCHS = 1

class Seen(Callback):
    def __init__(self):
        self.train, self.validation = [], []
    def on_train_epoch_start(self, *_):
        self.train.append([]), self.validation.append([])
    def on_train_batch_start(self, trainer, plan, batch, index):
        self.train[-1] += batch[CELL].ravel().long().tolist()
    def on_validation_batch_start(self, trainer, plan, batch, index, *_):
        self.validation[-1] += batch[CELL].ravel().long().tolist()

out, pairs, scale = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = out / "store.zarr"
made = simulate("layers", n_obs=201, n_genes=30, n_sections=2, seed=0)
adata = open_packed(store) if store.exists() else made
scvi.settings.seed = 1
IsoSCVI.setup_anndata(adata, section_key="section")
asked = {"pairs": parse_pairs(pairs), "distortion": Constraint(0.2, scale=scale)}
model = IsoSCVI(adata, n_latent=3, n_hidden=16, **asked)
seen, file = Seen(), out / "x.ckpt"
again = {"ckpt_path": file} if file.exists() else {}
asked = {"accelerator": "cpu", "devices": 2, "enable_progress_bar": False, **again}
model.train(3, batch_size=32, callbacks=[seen, EpochCheckpoint(file)], **asked)
found = {
    "state": model.module.state_dict(),
    "train": seen.train,
    "validation": seen.validation,
    "split": {"train": model.train_indices.tolist(), "validation": model.validation_indices.tolist()},
    "reported": sorted(model.history_),
}
torch.save(found, out / f"{torch.distributed.get_rank()}.pt")
"""


def in_two_processes(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What each of two processes that train together has seen and ended with."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_same_state(first: dict[str, Any], second: dict[str, Any]) -> None:
    for name, value in first["state"].items():
        torch.testing.assert_close(value, second["state"][name], rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(("pairs", "scale"), [("all", "profiled"), ("knn:4", "learned")])
def test_two_processes_share_the_cells_and_end_with_one_state(
    pairs: str, scale: str, on_disk: bool, tmp_path: Path
) -> None:
    if on_disk:
        simulate("layers", n_obs=201, n_genes=30, n_sections=2, seed=0).write_h5ad(tmp_path / "tissue.h5ad")
        pack(tmp_path / "tissue.h5ad", tmp_path / "store.zarr", section_key="section")
    before = {path.name for path in tmp_path.iterdir()}
    first, second = in_two_processes(tmp_path, pairs, scale)
    assert_same_state(first, second)
    assert float(first["state"]["objective.log_multiplier"]) > -math.inf
    for part in ("train", "validation"):
        assert len(first[part]) == 3
        for of_first, of_second in zip(first[part], second[part], strict=True):
            assert sorted(of_first + of_second) == sorted(first["split"][part])
    assert {"elbo_train", "relative_distortion_train"} < set(first["reported"])
    assert second["reported"] == []
    left = {path.name for path in tmp_path.iterdir()} - before
    assert left == {"script.py", "x.ckpt", "0.pt", "1.pt"}
    assert_same_state(first, in_two_processes(tmp_path, pairs, scale)[1])  # goes on from its end
